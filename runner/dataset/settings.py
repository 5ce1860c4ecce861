"""What the readers need to know from the `input:` block of a job file."""

from __future__ import annotations

from typing import Literal, Protocol

from runner.errors import InputError

Format = Literal["csv", "tsv", "jsonl", "json", "parquet"]


class InputSettings(Protocol):
    """The attributes of the `input:` block that are used here; whoever checks job files provides them."""

    @property
    def path(self) -> tuple[str, ...]:
        """Files or globs, relative to the project root."""

    @property
    def format(self) -> Format | None:
        """The format of every file; None: by each file's extension."""

    @property
    def id(self) -> str | None:
        """The column that identifies a row; None: the row's index."""

    @property
    def keep(self) -> tuple[str, ...] | None:
        """Columns copied to the output; None: all."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names for the columns of a CSV."""

    @property
    def header(self) -> int | None:
        """Number of header rows of a CSV. The last one holds the names, unless `columns` does."""

    @property
    def delimiter(self) -> str | None:
        """What separates fields in a CSV; None: a comma, or a tab in a TSV."""

    @property
    def quote(self) -> str | None:
        """The quote character of a CSV; None: ``"``; ``none``: quotes are plain text."""

    @property
    def encoding(self) -> str:
        """The character encoding of text files."""

    @property
    def limit(self) -> int | None:
        """Use at most this many rows."""

    @property
    def offset(self) -> int:
        """Skip this many rows at the start."""


class WrongSetting(InputError):  # noqa: N818 - reads like the others
    """A key of the `input:` block makes no sense, or does not fit the files.

    Args:
        key: which one.
    """

    def __init__(self, key: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, where=f"input.{key}", hint=hint)
        self.key = key


class NoFile(WrongSetting):
    """`input.path` names a file that is not there, or a pattern that nothing matches: it may yet come."""
