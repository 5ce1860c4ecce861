"""Writes rows out, a batch at a time: those of a run in input order, or the current dataset of a job."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runner import parts
from runner.answer_stats import says_what_needs_review
from runner.atomic import replacing
from runner.dataset.columns import is_json_text
from runner.errors import SpecError
from runner.latest import LatestAnswers
from runner.manifest import Manifest
from runner.output_section import NEEDS_REVIEW
from runner.stdio import stdout

_BATCH_ROWS = 2000


FORMATS = ("csv", "jsonl", "parquet")


def export_run(folder: Path, format_: str, target: Path | None, *, needs_review: bool = False) -> None:
    """Write a run's rows as CSV or JSONL; of an unfinished run what there is so far.

    Args:
        format_: `csv` or `jsonl`.
        target: a file, which is replaced when all is written; None: stdout.
        needs_review: only the rows that someone should look at: those less sure than the job accepts, and failed ones.

    Raises:
        FatalError: a part or journal is damaged.
        SpecError: the target or stdout cannot be written to, or the job does not say which rows need review.
    """
    manifest = Manifest.load(folder)
    layout, results = manifest.layout, manifest.schema
    schema = layout.file_schema(results)
    tables = parts.stored(folder, results, _BATCH_ROWS)
    if needs_review:
        if not says_what_needs_review(results):
            raise SpecError(
                f"the rows of this run do not say whether they need review: it has no column `{NEEDS_REVIEW}`",
                where=str(folder),
                hint="set `accept_at` in the `output` of the job, such as `accept_at: 0.8`, and run it again",
            )
        tables = map(_to_review, tables)
    write_rows(map(layout.pack, tables), schema, format_, target)


def export_dataset(latest: LatestAnswers, format_: str | None, target: Path | None) -> int:
    """Write the current dataset of a job, and return how many rows it has.

    Args:
        format_: one of `FORMATS`; None: what the target's name says, or CSV.
        target: a file, which is replaced when all is written; None: stdout.

    Raises:
        FatalError: a part or journal is damaged.
        SpecError: the target or stdout cannot be written to, or Parquet is to go to stdout.
    """
    if format_ is None:
        ending = "" if target is None else target.suffix.removeprefix(".").lower()
        format_ = ending if ending in FORMATS else "csv"
    if format_ == "parquet" and target is None:
        raise SpecError("Parquet goes to a file, not to stdout", hint="name one: `--to FILE.parquet`")
    counted = _Counted(latest.tables())
    write_rows(counted, latest.schema, format_, target)
    return counted.rows


class _Counted:
    """Counts the rows that pass."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self.rows = 0

    def __iter__(self) -> Iterator[pa.Table]:
        for table in self._tables:
            self.rows += len(table)
            yield table


def write_rows(tables: Iterable[pa.Table], schema: pa.Schema, format_: str, target: Path | None) -> None:
    """Write tables to a file, which is replaced when all is written, or (CSV and JSONL) to stdout.

    Raises:
        SpecError: it cannot be written to.
    """
    write = _write_csv if format_ == "csv" else _write_jsonl
    if target is None:
        with stdout() as file:
            write(tables, schema, file)
        return
    try:
        with replacing(target) as temporary:
            if format_ == "parquet":
                _write_parquet(tables, schema, temporary)
                return
            # A lone surrogate has no UTF-8; its escape is what JSON writes for it, and no cell of a CSV can hold one.
            with open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                write(tables, schema, file)
    except OSError as error:
        where = str(error.filename or target)  # it may be a part that cannot be read
        raise SpecError(f"cannot write the rows out: {error.strerror or error}", where=where) from error


def _write_parquet(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
    with pq.ParquetWriter(path, schema, compression="zstd", compression_level=3) as writer:
        for table in tables:
            writer.write_table(table)


def _to_review(table: pa.Table) -> pa.Table:
    unsure = pc.fill_null(table.column(NEEDS_REVIEW), False)
    return table.filter(pc.or_(unsure, pc.equal(table.column("_status"), "error")))


class _UnixLines:
    """What `csv` writes, with a newline at the end of each row.

    The `csv` of Python 3.11 quotes only what its own line end is made of: with "\\n" it leaves a lone "\\r" bare.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix("\r\n") + "\n")


def _write_csv(tables: Iterable[pa.Table], schema: pa.Schema, file: TextIO) -> None:
    writer = csv.writer(_UnixLines(file), lineterminator="\r\n")
    writer.writerow(schema.names)
    for table in tables:
        for row in table.to_pylist():
            writer.writerow([_cell(value) for value in row.values()])


def _write_jsonl(tables: Iterable[pa.Table], schema: pa.Schema, file: TextIO) -> None:
    encoded = {field.name for field in schema if is_json_text(field)}
    for table in tables:
        for row in table.to_pylist():
            for name in encoded:
                if row[name] is not None:
                    row[name] = json.loads(row[name])
            file.write(json.dumps(row, ensure_ascii=False, default=_text) + "\n")


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict | bool):
        return json.dumps(value, ensure_ascii=False, default=_text)
    return _text(value) if isinstance(value, datetime) else value


def _text(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
