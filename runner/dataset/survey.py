"""Look at the whole input once, before anything is sent."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from runner.dataset import Dataset
from runner.dataset.columns import ColumnTypes
from runner.dataset.csv_rows import column_names
from runner.dataset.files import Source
from runner.dataset.fingerprint import FileStamp, fingerprint, unchanged
from runner.dataset.parquet_rows import parquet_fields
from runner.dataset.repeats import Repeats
from runner.errors import InputError
from runner.records import BadRow, Item

__all__ = ["FileStamp", "Survey", "fingerprint", "survey", "unchanged"]

_EXAMPLES = 5
_SAMPLE = 200
_PROGRESS_EVERY = 10_000


@dataclass(frozen=True, slots=True)
class Survey:
    """What a look at the whole input tells.

    Attributes:
        rows: rows that `offset` and `limit` leave, bad ones included.
        bad: how many of them cannot be used.
        bad_examples: the first few of those.
        columns: all columns, in the order in which they were first seen.
        schema: the columns with their types in the output.
        repeated_ids: rows whose id was there before.
        sample: good rows, chosen evenly over the whole input, in input order; the same ones every time.
        files: what identifies the files' content.
    """

    rows: int
    bad: int
    bad_examples: tuple[BadRow, ...]
    columns: tuple[str, ...]
    schema: pa.Schema
    repeated_ids: int
    sample: tuple[Item, ...]
    files: tuple[FileStamp, ...]


def survey(
    dataset: Dataset,
    check: Callable[[Item], str | None] | None = None,
    check_columns: Callable[[Sequence[str]], None] = lambda columns: None,
    progress: Callable[[int], None] | None = None,
) -> Survey:
    """Read every row once.

    Args:
        check: says why a row cannot be used, or None where it can; the row counts as bad then.
        check_columns: looks at the columns as soon as all are known, if there are any, and raises what it likes.
        progress: called with the number of rows so far, about every 10,000 rows.

    Raises:
        InputError: the input cannot be read.
    """
    before = _times(dataset)
    types = ColumnTypes()
    typed = {source.name for source in dataset.sources if _declare(source, dataset, types)}
    see_all = len(typed) < len(dataset.sources)
    if not see_all and (declared := types.schema().names):
        check_columns(declared)
    sample = _Reservoir(_SAMPLE)
    examples: list[BadRow] = []
    rows = bad = 0
    ids = dataset.spec.id is not None
    with closing(dataset.rows()) as stream, Repeats() as repeats:
        for row in stream:
            rows += 1
            if see_all and row.file not in typed:
                _see(types, row)
            if type(row) is Item:
                if ids:
                    repeats.add(row.id)
                reason = check(row) if check else None
                if reason is None:
                    sample.offer(row)
                else:
                    bad += 1
                    if bad <= _EXAMPLES:
                        examples.append(BadRow(row.index, row.file, row.line, reason, row.fields))
            elif type(row) is BadRow:
                bad += 1
                if bad <= _EXAMPLES:
                    examples.append(row)
            if progress and rows % _PROGRESS_EVERY == 0:
                progress(rows)
        repeated = repeats.count()
    schema = types.schema()
    if see_all and schema.names:
        check_columns(schema.names)
    files = fingerprint(dataset.files, dataset.root)
    _check_still_there(dataset, before)
    return Survey(rows, bad, tuple(examples), tuple(schema.names), schema, repeated, sample.in_order(), files)


def _see(types: ColumnTypes, row: Item | BadRow) -> None:
    try:
        types.see(row.fields)
    except InputError as error:
        raise InputError(error.message, where=f"{row.file}:{row.line}", hint=error.hint) from error


def _declare(source: Source, dataset: Dataset, types: ColumnTypes) -> bool:
    """Take the columns from the file's own header; False where only its rows tell them."""
    if source.format in ("csv", "tsv"):
        types.declare(pa.field(name, pa.string()) for name in column_names(source, dataset.spec))
    elif source.format == "parquet":
        types.declare(parquet_fields(source))
    else:
        return False
    return True


def _times(dataset: Dataset) -> list[tuple[Path, int, int]]:
    try:
        return [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in dataset.files]
    except OSError as error:
        raise InputError(f"`{error.filename}` cannot be read: {error.strerror}", where=str(error.filename)) from error


def _check_still_there(dataset: Dataset, before: list[tuple[Path, int, int]]) -> None:
    for source, then, now in zip(dataset.sources, before, _times(dataset), strict=True):
        if then != now:
            raise InputError(
                f"`{source.name}` changed while it was read", where=source.name, hint="wait until it is complete"
            )


def even_sample(rows: Iterable[Item]) -> tuple[Item, ...]:
    """Return rows chosen as `Survey.sample` is."""
    sample = _Reservoir(_SAMPLE)
    for row in rows:
        sample.offer(row)
    return sample.in_order()


class _Reservoir:
    """An even sample of a stream of unknown length, the same every time.

    Li's Algorithm L (1994), whose cost per row is one comparison.
    """

    def __init__(self, size: int) -> None:
        self._random = random.Random(0)
        self._size = size
        self._kept: list[Item] = []
        self._seen = 0
        self._next = size
        self._weight = 1.0

    def offer(self, item: Item) -> None:
        self._seen += 1
        if self._seen < self._next:
            if self._seen < self._size:
                self._kept.append(item)
            return
        if self._seen == self._size:
            self._kept.append(item)
        else:
            self._kept[self._random.randrange(self._size)] = item
        self._weight *= math.exp(math.log(1.0 - self._random.random()) / self._size)
        self._next += 1 + math.floor(math.log(1.0 - self._random.random()) / math.log1p(-self._weight))

    def in_order(self) -> tuple[Item, ...]:
        return tuple(sorted(self._kept, key=lambda item: item.index))
