"""Writes the rows of a run out, in input order, a batch at a time; of an unfinished run what there is so far."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc

from runner import parts
from runner.answer_stats import says_what_needs_review
from runner.atomic import replacing
from runner.dataset.columns import is_json_text
from runner.errors import SpecError
from runner.manifest import Manifest
from runner.output_section import NEEDS_REVIEW
from runner.stdio import stdout

_BATCH_ROWS = 2000


def export_run(folder: Path, format_: str, target: Path | None, *, needs_review: bool = False) -> None:
    """Write a run's rows as CSV or JSONL.

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
    tables = map(layout.pack, tables)
    write = _write_csv if format_ == "csv" else _write_jsonl
    if target is None:
        with stdout() as file:
            write(tables, schema, file)
        return
    try:
        # A lone surrogate has no UTF-8; its escape is what JSON writes for it, and no cell of a CSV can hold one.
        with (
            replacing(target) as temporary,
            open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            write(tables, schema, file)
    except OSError as error:
        where = str(error.filename or target)  # it may be a part that cannot be read
        raise SpecError(f"cannot write the rows out: {error.strerror or error}", where=where) from error


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


def _write_csv(tables: Iterator[pa.Table], schema: pa.Schema, file: TextIO) -> None:
    writer = csv.writer(_UnixLines(file), lineterminator="\r\n")
    writer.writerow(schema.names)
    for table in tables:
        for row in table.to_pylist():
            writer.writerow([_cell(value) for value in row.values()])


def _write_jsonl(tables: Iterator[pa.Table], schema: pa.Schema, file: TextIO) -> None:
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
