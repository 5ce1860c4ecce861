"""Read CSV and TSV files. Every value stays text, exactly as written."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from runner.dataset.files import Source
from runner.dataset.rows import Row, Skip
from runner.dataset.settings import InputSettings, WrongSetting
from runner.dataset.streams import open_text
from runner.errors import InputError

_FIELD_CHARACTERS = 1 << 26
"""No field of a sensible file is longer; a quote that is never closed swallows the rest of its file, however large."""


def read_csv(source: Source, spec: InputSettings, skip: Skip) -> Iterator[Row]:
    """Every row but the header's and those to skip; blank lines are no rows."""
    names = column_names(source, spec)
    width = len(names)
    with _open(source, spec) as table:
        reader, ended = table.reader, table.ended
        for _ in range(header_rows(spec)):
            table.next_row()
        line = reader.line_num + 1
        for row in reader:
            if ended and row:
                raise table.unclosed(line)
            if skip.rows:
                skip.rows -= len(row) == width or not _blank(row)
            elif len(row) == width:
                yield line, dict(zip(names, row, strict=True)), None
            elif not _blank(row):
                plural = "" if width == 1 else "s"
                yield line, dict(zip(names, row, strict=False)), f"expected {width} field{plural}, found {len(row)}"
            line = reader.line_num + 1


def column_names(source: Source, spec: InputSettings) -> tuple[str, ...]:
    """The names of a file's columns, from `columns:` or its header; none where the file is empty.

    Raises:
        InputError: names are missing, empty or doubled, or do not fit the file.
    """
    header = header_rows(spec)
    with _open(source, spec) as table:
        heads = [table.next_row() for _ in range(header)]
        first = table.next_row() if header == 0 else heads[-1]
        line = table.reader.line_num
    if spec.columns is None:
        if header == 0:
            raise InputError(
                f"the columns of `{source.name}` have no names",
                where=source.name,
                hint="name them with `columns:`, or leave out `header: 0` if its first row holds the names",
            )
        _check_header(source, first, line, header)
        return tuple(first)
    _check_distinct(spec.columns)
    if first and len(first) != len(spec.columns):
        raise InputError(
            f"`columns` has {len(spec.columns)} names, but `{source.name}` has {len(first)} columns",
            where=f"{source.name}:{line}",
            hint=f"its first row is {_excerpt(first)}",
        )
    if header == 0 and first == list(spec.columns):
        raise InputError(
            f"the first row of `{source.name}` repeats the names in `columns`",
            where=f"{source.name}:{line}",
            hint="it seems to be a header: leave out `columns`, or add `header: 1`",
        )
    return spec.columns


def header_rows(spec: InputSettings) -> int:
    """How many rows at the start of a file are no data."""
    return spec.header if spec.header is not None else int(spec.columns is None)


class _Table:
    """A `csv.reader` that knows when it has read past the end of its file.

    After the last line the reader gets one blank line more. If a quoted field is still open, that line goes into the
    field, and a row comes back although `ended` is set; otherwise it is just a blank line. (Strict mode would tell too,
    but it also refuses quotes that real files have, such as ``"x"y``.)
    """

    def __init__(self, source: Source, text: Iterator[str], spec: InputSettings) -> None:
        self.ended: list[bool] = []
        self._source = source
        plain = spec.quote == "none"
        self.reader = csv.reader(
            chain(text, self._end()),
            delimiter=delimiter(source, spec),
            quotechar=None if plain else spec.quote or '"',
            quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
        )

    def _end(self) -> Iterator[str]:
        self.ended.append(True)
        yield "\n"

    def next_row(self) -> list[str]:
        """The next row that is not blank; an empty list at the end of the file."""
        line = self.reader.line_num + 1
        for row in self.reader:
            if self.ended and row:
                raise self.unclosed(line)
            if row:
                return row
            line = self.reader.line_num + 1
        return []

    def unclosed(self, line: int) -> InputError:
        return InputError(
            "a quoted field is never closed, so the rest of the file is inside it",
            where=f"{self._source.name}:{line}",
            hint="close the quote, or add `quote: none` if quotes are plain text in this file",
        )


@contextmanager
def _open(source: Source, spec: InputSettings) -> Iterator[_Table]:
    csv.field_size_limit(_FIELD_CHARACTERS)
    with open_text(source, spec.encoding, newline="") as text:
        table = _Table(source, text, spec)
        try:
            yield table
        except csv.Error as error:
            raise InputError(
                f"not a CSV file as `input` describes it: {error}",
                where=f"{source.name}:{table.reader.line_num}",
                hint="a field this long often starts with a quote that is never closed; "
                "add `quote: none` if quotes are plain text in this file",
            ) from error


def delimiter(source: Source, spec: InputSettings) -> str:
    """What separates the fields of a file."""
    return spec.delimiter or ("\t" if source.format == "tsv" else ",")


def check_dialect(spec: InputSettings) -> None:
    """Raises InputError where `delimiter` or `quote` cannot work, whatever the file."""
    quote = None if spec.quote == "none" else spec.quote or '"'
    for key, value in (("delimiter", spec.delimiter), ("quote", quote)):
        if value is not None and (len(value) != 1 or value in "\r\n"):
            raise WrongSetting(
                key,
                f"`{key}` must be one character, got {value!r}",
                hint='a tab is written "\\t", in double quotes'
                if key == "delimiter"
                else "`none` means that quotes are plain text",
            )
    if spec.delimiter is not None and spec.delimiter == quote:
        raise WrongSetting("delimiter", f"`delimiter` and `quote` are both {quote!r}")
    if spec.header is not None and spec.header < 0:
        raise WrongSetting("header", f"`header` must be at least 0, got {spec.header}")


def _blank(row: list[str]) -> bool:
    return not row or (len(row) == 1 and row[0].isspace())


def _check_header(source: Source, names: list[str], line: int, header: int) -> None:
    problems = _problems(names)
    if problems:
        more = f", and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise InputError(
            f"{len(problems)} column name{'s are' if len(problems) > 1 else ' is'} empty or doubled "
            f"in `{source.name}`: "
            f"{', '.join(problems[:12])}{more}",
            where=f"{source.name}:{line}",
            hint=f"name all {len(names)} columns with `columns:`, and add `header: {header}` to skip the file's own",
        )


def _check_distinct(columns: tuple[str, ...]) -> None:
    problems = _problems(columns)
    if problems:
        raise WrongSetting("columns", f"`columns` has names that are empty or doubled: {', '.join(problems)}")


def _problems(names: list[str] | tuple[str, ...]) -> list[str]:
    seen: dict[str, int] = {}
    problems = []
    for position, name in enumerate(names, 1):
        if not name.strip():
            problems.append(f"column {position} is empty")
        elif name in seen:
            problems.append(f"column {position} is `{name}` like column {seen[name]}")
        seen.setdefault(name, position)
    return problems


def _excerpt(row: list[Any]) -> str:
    text = ", ".join(row[:6]) + (", ..." if len(row) > 6 else "")
    return text if len(text) <= 200 else text[:200] + "..."
