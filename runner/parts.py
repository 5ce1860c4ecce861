"""Sealed parts: Parquet files that each cover a fixed, contiguous range of input rows."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runner import journal
from runner.atomic import replacing
from runner.errors import FatalError
from runner.json_table import LineReader
from runner.layout import Layout
from runner.output import RUNNER_FIELDS, to_table
from runner.records import Key
from runner.stats import Stats

_PART = re.compile(r"part-(\d{5,})\.parquet")
_OUTCOME = pa.schema([field for field in RUNNER_FIELDS if field.name in ("_index", "_model", "_status", "_error_type")])
_SUMMED = ["_index", "_finished_at", "_attempts", "_cost_usd", "_saved_usd"]
_SUMMED += [f"_{kind}_tokens" for kind in ("input", "cached", "cache_write", "output", "reasoning")]
_GROUP_BYTES = 4 << 20
# Sealing shares the interpreter with the event loop, which must not wait long for its turn.
_BREATH_BYTES = 256 << 10  # about two milliseconds of work
_BREATH_S = 0.0005
_ARROW_BYTES = 1 << 20  # Arrow lets others go on meanwhile


def part_path(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.parquet"


def journal_path(folder: Path, number: int) -> Path:
    return folder / f"journal-{number:05d}.jsonl"


def retry_path(folder: Path, number: int) -> Path:
    """Return where new results for rows of a sealed part wait until they are merged into it."""
    return folder / f"retry-{number:05d}.jsonl"


def sealed(folder: Path) -> list[Path]:
    """Return the sealed parts of a run in order."""
    return sorted(
        (path for path in folder.glob("part-*.parquet") if _PART.fullmatch(path.name)),
        key=lambda path: int(path.stem.split("-")[1]),
    )


def sources(folder: Path) -> list[Path]:
    """Return what holds the rows of a run, in order: each part, or its journal while it is open."""
    found = {number_of(path): path for path in folder.glob("journal-*.jsonl")}  # first: one may be sealed meanwhile
    found |= {number_of(path): path for path in sealed(folder)}
    return [found[number] for number in sorted(found)]


def number_of(path: Path) -> int:
    """Return the number in a part's or journal's name."""
    return int(path.stem.split("-")[1])


def seal(folder: Path, number: int, schema: pa.Schema, metadata: Mapping[str, Any]) -> None:
    """Turn a complete journal into a Parquet file, then delete it. May be repeated after a crash at any point.

    Raises:
        OSError: the disk is full; the journal is still there.
    """
    source = journal_path(folder, number)
    _write(part_path(folder, number), schema, _row_groups(source, schema), metadata)
    source.unlink()


def seal_nothing(folder: Path, schema: pa.Schema, metadata: Mapping[str, Any]) -> None:
    """Make the only part of a run without rows: it tells the columns.

    Raises:
        OSError: the disk is full.
    """
    _write(part_path(folder, 0), schema, iter(()), metadata)


def _row_groups(source: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield a journal's rows in tables of about `_GROUP_BYTES`, with a breath after every few rows."""
    reader = LineReader(schema)
    group: list[pa.Table] = []
    size = 0
    for lines in journal.batches(source, _ARROW_BYTES if reader.able else _BREATH_BYTES):
        table = reader.table(lines)
        group.append(to_table(journal.decoded(source, lines), schema) if table is None else table)
        size += group[-1].nbytes
        if size >= _GROUP_BYTES:
            yield pa.concat_tables(group)
            group, size = [], 0
        time.sleep(_BREATH_S)
    if group:
        yield pa.concat_tables(group)


def merge(folder: Path, number: int, schema: pa.Schema, metadata: Mapping[str, Any]) -> None:
    """Replace rows of a sealed part by their new results, then delete the file that held those."""
    source = retry_path(folder, number)
    newer = {journal.key_of(row): row for rows in journal.read(source) for row in rows}
    _write(part_path(folder, number), schema, _merged(part_path(folder, number), schema, newer), metadata)
    source.unlink()


def _merged(path: Path, schema: pa.Schema, newer: dict[Key, dict[str, Any]]) -> Iterator[pa.Table]:
    with open_part(path) as part:
        layout = _layout(part)
        for group in range(part.num_row_groups):
            with _reading(path):
                table = layout.unpack(part.read_row_group(group), schema)
            keys = layout.keys(table)
            again = pa.array([key in newer for key in keys], pa.bool_())
            before = table.filter(again).select(_SUMMED).to_pylist()
            replaced = [_summed(newer[key], old) for key, old in zip(filter(newer.get, keys), before, strict=True)]
            if replaced:
                old = table.filter(pc.invert(again))
                table = layout.sorted(pa.concat_tables([old.cast(schema), to_table(replaced, schema)]))
            yield table


def _summed(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """Add what the earlier attempts of a row took to its new result, once: a merge may be repeated after a crash."""
    if old["_finished_at"] == datetime.fromtimestamp(0, UTC) + timedelta(microseconds=new["_finished_at"]):
        return {**new, **{name: old[name] for name in _SUMMED[2:]}}
    sums = {name: (new.get(name) or 0) + old[name] for name in _SUMMED[2:] if old[name] is not None}
    return {**new, **sums}


def _write(path: Path, schema: pa.Schema, tables: Iterator[pa.Table], metadata: Mapping[str, Any]) -> None:
    stats = Stats()
    layout = Layout.of(metadata)
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(temporary, layout.file_schema(schema), compression="zstd", compression_level=3) as writer,
    ):
        for table in tables:
            writer.write_table(layout.pack(table))
            stats.add(table)
        about = {**metadata, "rows": stats.rows, "failed": stats.failed, "timing": stats.timing()}
        writer.add_key_value_metadata({"runner": json.dumps(about)})
    pa.default_memory_pool().release_unused()


def open_part(path: Path) -> pq.ParquetFile:
    """Open a sealed part.

    Raises:
        FatalError: it is not a readable Parquet file.
    """
    with _reading(path):
        return pq.ParquetFile(path)


def tables(path: Path, batch_rows: int, schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield these columns of a part's results, those of about `batch_rows` rows at a time.

    Raises:
        FatalError: it is damaged.
    """
    with open_part(path) as part:
        layout = _layout(part)
        batch_rows += -batch_rows % max(1, len(layout.models))  # the results of one row stay together
        batches = part.iter_batches(batch_rows, columns=layout.file_columns(schema))
        while True:
            with _reading(path):
                batch = next(batches, None)
            if batch is None:
                return
            yield layout.unpack(pa.Table.from_batches([batch]), schema)


def runner_fields(part: pq.ParquetFile, names: Collection[str]) -> pa.Schema:
    """Return those of the runner's own columns that a part has, of those named."""
    layout, there = _layout(part), set(part.schema_arrow.names)
    fields = (pa.schema([field]) for field in RUNNER_FIELDS if field.name in names)
    return pa.unify_schemas([pa.schema([]), *(each for each in fields if there.issuperset(layout.file_columns(each)))])


def row_group(path: Path, part: pq.ParquetFile, number: int, schema: pa.Schema) -> pa.Table:
    """Return some columns of the results in one row group of an open part.

    Raises:
        FatalError: it is damaged.
    """
    layout = _layout(part)
    with _reading(path):
        return layout.unpack(part.read_row_group(number, columns=layout.file_columns(schema)), schema)


def results_by_group(part: pq.ParquetFile) -> list[int]:
    """Return how many results each row group of an open part holds."""
    groups = range(part.num_row_groups)
    return [_layout(part).results(part.metadata.row_group(group).num_rows) for group in groups]


def stored(folder: Path, schema: pa.Schema, batch_rows: int) -> Iterator[pa.Table]:
    """Yield the rows of a run in order; parts that are still open give what they have so far.

    Args:
        schema: the columns wanted.
        batch_rows: about so many rows of a part at a time; all results of an input row are in one table.

    Raises:
        FatalError: a part or journal is damaged.
    """
    for path in sources(folder):
        if path.suffix == ".jsonl":
            try:
                for rows in journal.read(path):
                    yield to_table(rows, schema)
                continue
            except FileNotFoundError:  # sealed meanwhile
                path = part_path(folder, number_of(path))
        yield from tables(path, batch_rows, schema)


def stored_results(folder: Path) -> int:
    """Return how many results a run has so far."""
    return sum(table.num_rows for table in stored(folder, pa.schema([pa.field("_index", pa.int64())]), 100_000))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise  # there is nothing wrong with the part
    except (pa.ArrowException, OSError) as error:
        raise FatalError(
            f"this part cannot be read: {error}",
            kind="damaged_part",
            where=str(path),
            hint="restore it from a copy; or delete it and resume, and its rows are sent again",
        ) from None


def about(path: Path) -> dict[str, Any]:
    """Return what a part says of itself: rows (its results), failed, timing and the run it belongs to."""
    with open_part(path) as part:
        return {"failed": 0, **_metadata(part), "rows": _layout(part).results(part.metadata.num_rows)}


def _metadata(part: pq.ParquetFile) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((part.metadata.metadata or {}).get(b"runner", b"{}"))
    return found


def _layout(part: pq.ParquetFile) -> Layout:
    return Layout.of(_metadata(part))


def results(folder: Path) -> int:
    """Return how many results the sealed parts of a run hold."""
    return sum(about(path)["rows"] for path in sealed(folder))


def failed(path: Path) -> set[Key]:
    """Return the results of a part that failed and that another attempt could change: bad input stays bad."""
    with open_part(path) as part, _reading(path):
        layout = _layout(part)
        table = layout.unpack(part.read(columns=layout.file_columns(_OUTCOME)), _OUTCOME)
    again = pc.and_(
        pc.equal(table.column("_status"), "error"),
        pc.invert(pc.equal(pc.coalesce(table.column("_error_type"), pa.scalar("")), "bad_row")),
    )
    return set(layout.keys(table.filter(again)))
