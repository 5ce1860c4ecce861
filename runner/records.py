"""The values that flow through a run: an `Item` becomes a `Request`, and ends as a `Result`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Item:
    """One row of the input.

    Attributes:
        index: 0-based position in the whole input, over all files and before `offset` and `limit`.
        id: the id column as text, or the index as text where the job names no id column.
        fields: column name to value; CSV values are text as written, JSON values keep their types.
        file: the file it came from, as the user would write it.
        line: 1-based line in that file (for Parquet: 1-based row).
    """

    index: int
    id: str
    fields: dict[str, Any]
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class BadRow:
    """An input row that cannot be used, and why. It has an index like any other row.

    Attributes:
        reason: one sentence without the place, such as ``expected 3 fields, found 5``.
        fields: what could be read of it (may be empty).
    """

    index: int
    file: str
    line: int
    reason: str
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"
