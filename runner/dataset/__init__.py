"""Read the input of a job as a stream of rows, whatever the format and however large.

    dataset = open_dataset(spec.input, root)
    for row in dataset.rows():      # Item or BadRow

`runner.dataset.survey` looks at the whole input before a run; `runner.dataset.columns` turns values into Arrow arrays.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from runner.dataset.csv_rows import check_dialect, column_names, read_csv
from runner.dataset.files import Source, find_sources
from runner.dataset.json_rows import read_json
from runner.dataset.jsonl_rows import read_jsonl
from runner.dataset.nearest import nearest
from runner.dataset.rows import Row, Skip
from runner.dataset.settings import InputSettings, WrongSetting
from runner.dataset.streams import check_encoding
from runner.errors import InputError
from runner.records import BadRow, Item

__all__ = ["Dataset", "open_dataset"]

_PAUSE_EVERY = 2_000


def open_dataset(spec: InputSettings, root: Path) -> Dataset:
    """Find the input's files and see that their settings make sense. Reads no rows.

    Args:
        spec: the `input:` block of the job file.
        root: the project root, which paths are relative to.

    Raises:
        InputError: a file is missing or unreadable, or a setting does not fit the files.
    """
    root = Path(root).absolute()
    check_encoding(spec.encoding)
    check_dialect(spec)
    sources = find_sources(spec, root)
    _check_csv_settings(spec, sources)
    return Dataset(spec, root, sources)


class Dataset:
    """The rows of one or more files."""

    def __init__(self, spec: InputSettings, root: Path, sources: tuple[Source, ...]) -> None:
        self.spec = spec
        self.root = root
        self.sources = sources

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in the order in which they are read."""
        return tuple(source.path for source in self.sources)

    def rows(self) -> Generator[Item | BadRow, None, None]:
        """Every row from `offset` on, at most `limit`, in order. Reads as it goes, and holds no more than it must.

        Raises:
            InputError: a file cannot be read (on).
        """
        id_column = self.spec.id
        start = self.spec.offset
        stop = None if self.spec.limit is None else start + self.spec.limit
        index = 0
        if stop == start:
            return
        for source in self.sources:
            name = source.name
            with closing(self._read(source, Skip())) as rows:
                for line, fields, reason in rows:
                    if index >= start:
                        if reason is not None:
                            yield BadRow(index, name, line, reason, fields)
                        elif id_column is None:
                            yield Item(index, str(index), fields, name, line)
                        else:
                            row_id = fields.get(id_column)
                            if type(row_id) is not str:
                                row_id = _as_text(row_id)
                            if row_id:
                                yield Item(index, row_id, fields, name, line)
                            else:
                                yield BadRow(index, name, line, f"the id column `{id_column}` is empty", fields)
                    index += 1
                    if index == stop:
                        return

    def picked(self, positions: Iterator[int]) -> Generator[Item | BadRow | None, None, None]:
        """The rows at these positions in the whole input, in order, and their index is their place among them.

        None stands for a pause after many that are passed over. Nothing is read after the last.

        Raises:
            InputError: a file cannot be read (on).
        """
        skip = Skip()
        position = next(positions, None)
        place = index = paused = 0
        for source in self.sources:
            if position is None:
                return
            with closing(self._read(source, skip)) as rows:
                while True:
                    ahead = skip.rows = min(position - index, _PAUSE_EVERY)
                    row = next(rows, None)
                    index += ahead - skip.rows  # some readers pass over none
                    if row is None:
                        break
                    if index == position:
                        yield self._picked(place, index, source.name, *row)
                        place += 1
                        position = next(positions, None)
                        if position is None:
                            return
                    elif index - paused >= _PAUSE_EVERY:
                        paused = index
                        yield None
                    index += 1

    def _picked(
        self, place: int, position: int, name: str, line: int, fields: dict[str, Any], reason: str | None
    ) -> Item | BadRow:
        if reason is not None:
            return BadRow(place, name, line, reason, fields)
        row_id = str(position) if self.spec.id is None else _as_text(fields.get(self.spec.id))
        if not row_id:
            return BadRow(place, name, line, f"the id column `{self.spec.id}` is empty", fields)
        return Item(place, row_id, fields, name, line)

    def _read(self, source: Source, skip: Skip) -> Generator[Row, None, None]:
        if source.format in ("csv", "tsv"):
            names = column_names(source, self.spec)
            if names:
                self.check_id(names, source.name)
            yield from read_csv(source, self.spec, skip)
        elif source.format == "json":
            yield from read_json(source, self.spec)
        elif source.format == "parquet":
            from runner.dataset.parquet_rows import parquet_fields, read_parquet  # pyarrow takes a while to import

            self.check_id([field.name for field in parquet_fields(source)], source.name)
            yield from read_parquet(source, skip)
        else:
            yield from read_jsonl(source, self.spec, skip)

    def check_id(self, columns: Iterable[str], where: str) -> None:
        """Raises InputError where the id column is not among a file's columns."""
        wanted = self.spec.id
        if wanted is not None and wanted not in columns:
            raise InputError(
                f"there is no column `{wanted}` to take the ids from", where=where, hint=nearest(wanted, columns)
            )


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if type(value) is str:
        return value
    return str(value) if type(value) is int else json.dumps(value, ensure_ascii=False)


def _check_csv_settings(spec: InputSettings, sources: tuple[Source, ...]) -> None:
    """Settings for CSV files are a mistake where there are none."""
    if any(source.format in ("csv", "tsv") for source in sources):
        return
    for key in ("columns", "header", "delimiter", "quote"):
        if getattr(spec, key) is not None:
            raise WrongSetting(
                key,
                f"`{key}` is for CSV files, and `{sources[0].name}` is read as {sources[0].format}",
                hint=f"leave `{key}` out, or add `format: csv`",
            )
