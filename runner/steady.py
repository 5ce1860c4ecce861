"""Sees to it that the input of a run stays what it was when the run began.

A file that is cut, replaced or deleted while it is read would give rows of another input, or fewer of them. Then the
rows end in an error instead, and no part is sealed without all its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from runner.clock import Clock
from runner.dataset.fingerprint import FileStamp, unchanged
from runner.errors import InputError
from runner.records import BadRow, Item

_LOOK_EVERY_S = 0.5
_ROWS_BETWEEN = 100  # looks at the clock


def steady(
    rows: Iterator[Item | BadRow | None], expected: int, stamps: Sequence[FileStamp], root: Path, clock: Clock
) -> Iterator[Item | BadRow | None]:
    """Yield `rows` as long as the files are the same; the pauses between them, which are None, as well.

    Args:
        expected: how many rows there were when the run began.
        stamps: what the files were then.

    Raises:
        InputError: the files changed, or gave another number of rows.
    """
    known = list(stamps)
    looked_s = clock.steady_s()
    count = 0
    for row in rows:
        if row is None:
            yield None
            continue
        look = isinstance(row, BadRow) or (count % _ROWS_BETWEEN == 0 and clock.steady_s() - looked_s > _LOOK_EVERY_S)
        if look:
            known = _refuse_changed(known, root)
            looked_s = clock.steady_s()
        count += 1
        yield row
    _refuse_changed(known, root)
    if count != expected:
        raise InputError(
            f"the input gave {count:,} rows, and {expected:,} when this run began",
            where=str(root),
            hint="put the old files back to continue, or start afresh with `runner run`",
        )


def _refuse_changed(known: Sequence[FileStamp], root: Path) -> list[FileStamp]:
    """Return the stamps with the files' present times, so that one that was only touched is read but once."""
    different = unchanged(known, root)
    if different:
        raise InputError(
            f"the input changed while it was read: {', '.join(different)}",
            where=str(root),
            hint="put the old file back to continue, or start afresh with `runner run`",
        )
    return [FileStamp(stamp.path, stamp.size, (root / stamp.path).stat().st_mtime_ns, stamp.sha256) for stamp in known]
