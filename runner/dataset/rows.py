"""What every reader of a file format yields."""

from __future__ import annotations

from typing import Any

Row = tuple[int, dict[str, Any], str | None]
"""The line (1-based), the fields by column, and why the row cannot be used (None where it can)."""
