"""The append-only file of finished results of a part that is still open: one JSON object a line."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from runner.errors import FatalError
from runner.exact_json import decode, encode
from runner.records import Key

_READ_BYTES = 1 << 20  # reading lets other threads in, and getting back may take 5 ms: so seldom
_KEY = re.compile(rb'\{"_index":(\d+)(?:,"_model_number":(\d+))?[,}]')


class Journal:
    """Adds rows, and writes all that were added at once, whole lines or none.

    What was written is with the operating system: a killed process does not lose it.

    Args:
        path: created when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        self._lines: list[bytes] = []
        self._dirty = False
        self._closing = threading.Lock()  # a file is never synced while it is being closed

    @property
    def written(self) -> bool:
        """Whether every row that was added is in the file."""
        return not self._lines

    def add(self, row: dict[str, Any]) -> None:
        """Add a row; it is kept by the next `write`."""
        self._lines.append(encode(row))

    def write(self) -> None:
        """Write the rows that were added.

        Raises:
            OSError: they could not be written (the disk is full); the file is as it was, and they can be tried again.
        """
        if not self._lines:
            return
        if self._file is None:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._lines.append(b"")
        content = b"\n".join(self._lines)
        self._lines.pop()
        written = os.write(self._file, content)
        if written != len(content):
            self._finish_or_take_back(content, written)
        self._lines.clear()
        self._dirty = True

    def _finish_or_take_back(self, content: bytes, written: int) -> None:
        assert self._file is not None
        before = os.fstat(self._file).st_size - written
        try:
            while written < len(content):
                written += os.write(self._file, content[written:])
        except OSError:
            os.ftruncate(self._file, before)
            raise

    def sync(self) -> None:
        """Make what was appended survive a power failure."""
        with self._closing:
            self._sync()

    def _sync(self) -> None:
        if not self._dirty:
            return
        self._dirty = False
        file = os.open(self.path, os.O_RDONLY) if self._file is None else self._file
        try:
            os.fsync(file)
        finally:
            if self._file is None:
                os.close(file)

    def release(self) -> None:
        """Have no file open; the next `write` opens it again. What it holds is not synced by that."""
        with self._closing:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def close(self) -> None:
        """Write, sync and close; a later `write` opens it again."""
        self.write()
        self.sync()
        self.release()


class Line(NamedTuple):
    """Where a row stands in a journal: its key, and the bytes that hold it."""

    key: Key
    offset: int
    length: int


def lines(path: Path) -> list[Line]:
    """Return the rows of a journal in order of their keys; where one stands twice, the later counts.

    A last line without its end is no row: it is being written just now, or was when the process was killed.
    """
    found: dict[Key, Line] = {}
    offset = 0
    with open(path, "rb", _READ_BYTES) as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            match = _KEY.match(line)
            if match is None:
                raise _damaged(path, offset)
            key = int(match[1]), int(match[2] or 0)
            found[key] = Line(key, offset, len(line))
            offset += len(line)
    return [found[key] for key in sorted(found)]


def key_of(row: dict[str, Any]) -> Key:
    """Return the key of a row."""
    return row["_index"], row.get("_model_number", 0)


def batches(path: Path, batch_bytes: int = 4 << 20, whole_bytes: int = 32 << 20) -> Iterator[list[bytes]]:
    """Yield the lines of a journal in order of their keys, in batches of about `batch_bytes` that part no input row.

    Args:
        whole_bytes: a larger journal is not read at once, but row by row.
    """
    batch: list[bytes] = []
    size, last = 0, -1
    with open(path, "rb") as file:
        rows: Iterable[tuple[Key, bytes]]
        if path.stat().st_size <= whole_bytes:
            rows = _sorted(path, file.read())
        else:
            rows = ((line.key, os.pread(file.fileno(), line.length, line.offset)) for line in lines(path))
        for (index, _), line in rows:
            if size >= batch_bytes and index != last:
                yield batch
                batch, size = [], 0
            batch.append(line)
            size += len(line)
            last = index
    if batch:
        yield batch


def _sorted(path: Path, content: bytes) -> list[tuple[Key, bytes]]:
    """Return the keys and lines of a journal that is in memory; as `lines`."""
    found: dict[Key, bytes] = {}
    for line in content.splitlines(keepends=True):
        match = _KEY.match(line)
        if match is not None and line.endswith(b"\n"):
            found[int(match[1]), int(match[2] or 0)] = line
        elif line.endswith(b"\n"):
            raise _damaged(path, content.find(line))
    return sorted(found.items())


def decoded(path: Path, batch: Iterable[bytes]) -> list[dict[str, Any]]:
    """Return the rows of lines.

    Raises:
        FatalError: one is damaged.
    """
    rows = []
    for line in batch:
        try:
            rows.append(decode(line))
        except ValueError:
            raise _damaged(path, path.read_bytes().find(line)) from None
    return rows


def read(path: Path, batch_bytes: int = 4 << 20, whole_bytes: int = 32 << 20) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a journal as `batches` does its lines.

    Raises:
        FatalError: a row is damaged.
    """
    for batch in batches(path, batch_bytes, whole_bytes):
        yield decoded(path, batch)


def repair(path: Path) -> set[Key]:
    """Cut off a last line that a crash left unfinished, and return the keys of the rows that are there.

    Raises:
        FatalError: a line in the middle is damaged, which no crash of ours can do.
    """
    keys: set[Key] = set()
    good = 0
    with open(path, "rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                row = decode(line)
                keys.add(key_of(row))
            except (ValueError, KeyError, TypeError):
                if file.read(1):
                    raise _damaged(path, good) from None
                break
            good += len(line)
        file.truncate(good)
    return keys


def _damaged(path: Path, offset: int) -> FatalError:
    with open(path, "rb") as file:
        number = file.read(offset).count(b"\n") + 1
    return FatalError(
        "this line of the journal is damaged, and a crash alone does not do that",
        kind="damaged_journal",
        where=f"{path}:{number}",
        hint="check the disk; then delete the line and resume: its row is sent again, all others are kept",
    )


def standing(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a journal as they stand in it, each with its byte offset; another process may be adding some.

    What cannot be read is passed over, for those who want what there is.
    """
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            row = _row(line)
            if row is not None:
                yield offset, row
            offset += len(line)


def row_at(file: BinaryIO, offset: int) -> dict[str, Any] | None:
    """Return the row that begins at a byte of a journal; None where none does."""
    file.seek(offset)
    return _row(file.readline())


def _row(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = decode(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
