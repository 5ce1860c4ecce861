"""What every reader of a file format yields."""

from __future__ import annotations

from typing import Any

Row = tuple[int, dict[str, Any], str | None]
"""The line (1-based), the fields by column, and why the row cannot be used (None where it can)."""


class Skip:
    """How many of the next rows a reader may pass over, counting them down: making a row costs more than reading it."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows = 0
