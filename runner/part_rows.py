"""Single rows of sealed parts. What was read last is kept for a while, so that rows in order are read once."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runner import parts

_KEPT_BYTES = 64 << 20
_OPEN_PARTS = 16


@dataclass(frozen=True, slots=True)
class _Part:
    """An open part.

    Attributes:
        starts: the number of the first result of each row group, and last how many there are.
    """

    path: Path
    file: pq.ParquetFile
    starts: tuple[int, ...]


class PartRows:
    """Reads rows by their number.

    Args:
        columns: which to read; one that a part lacks is null.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = tuple(columns)
        self._parts: OrderedDict[Path, _Part] = OrderedDict()
        self._groups: OrderedDict[tuple[Path, int], pa.Table] = OrderedDict()
        self._bytes = 0

    def close(self) -> None:
        while self._parts:
            self._close_oldest()
        self._groups.clear()

    def read(self, path: Path, rows: Sequence[int]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yield the place in `rows`, and the columns, of each of these rows that is there; times in microseconds.

        Raises:
            FatalError, OSError: the part is not there, or cannot be read.
        """
        part = self._part(path)
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            groups[bisect_right(part.starts, row) - 1].append(place)
        groups.pop(len(part.starts) - 1, None)  # beyond the end
        for group, places in groups.items():
            start = part.starts[group]
            chosen = self._group(part, group).take(pa.array([rows[place] - start for place in places], pa.int64()))
            values = zip(*(column.to_pylist() for column in chosen.columns), strict=True)
            yield from zip(places, values, strict=True)

    def _part(self, path: Path) -> _Part:
        part = self._parts.get(path)
        if part is None:
            file = parts.open_part(path)
            part = self._parts[path] = _Part(path, file, tuple(accumulate(parts.results_by_group(file), initial=0)))
            if len(self._parts) > _OPEN_PARTS:
                self._close_oldest()
        self._parts.move_to_end(path)
        return part

    def _close_oldest(self) -> None:
        _, part = self._parts.popitem(last=False)
        part.file.close()

    def _group(self, part: _Part, number: int) -> pa.Table:
        at = part.path, number
        table = self._groups.get(at)
        if table is None:
            table = self._groups[at] = self._read_group(part, number)
            self._bytes += table.nbytes
            while self._bytes > _KEPT_BYTES and len(self._groups) > 1:
                _, oldest = self._groups.popitem(last=False)
                self._bytes -= oldest.nbytes
        self._groups.move_to_end(at)
        return table

    def _read_group(self, part: _Part, number: int) -> pa.Table:
        there = parts.runner_fields(part.file, self._columns)
        table = parts.row_group(part.path, part.file, number, there)
        columns = {name: table.column(name) if name in there.names else pa.nulls(len(table)) for name in self._columns}
        times = {
            name: column.cast(pa.int64()) for name, column in columns.items() if pa.types.is_timestamp(column.type)
        }
        return pa.table(columns | times)
