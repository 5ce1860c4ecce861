"""Tell whether input files are still what they were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runner.dataset.files import display_name
from runner.errors import InputError


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What identifies a file's content.

    Attributes:
        path: relative to the project root where the file lies below it.
        size: in bytes, as stored.
        mtime_ns: time of the last change, in nanoseconds since 1970.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str


def fingerprint(files: Iterable[Path], root: Path | None = None) -> tuple[FileStamp, ...]:
    """Stamps of all files. Reads each of them once.

    Raises:
        InputError: a file is gone or cannot be read.
    """
    stamps = []
    for path in files:
        name = display_name(path, root) if root else str(path)
        try:
            status = path.stat()
            stamps.append(FileStamp(name, status.st_size, status.st_mtime_ns, _sha256(path)))
        except OSError as error:
            raise InputError(f"`{name}` cannot be read: {error.strerror}", where=name) from error
    return tuple(stamps)


def unchanged(stamps: Iterable[FileStamp], root: Path) -> list[str]:
    """The paths of the files that changed or are gone. Reads only files whose time of change differs."""
    return [stamp.path for stamp in stamps if not _same(stamp, root / stamp.path)]


def _same(stamp: FileStamp, path: Path) -> bool:
    try:
        status = path.stat()
        if status.st_size != stamp.size:
            return False
        return status.st_mtime_ns == stamp.mtime_ns or _sha256(path) == stamp.sha256
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
