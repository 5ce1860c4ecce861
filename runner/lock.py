"""One run of a job at a time. The kernel drops the lock with its holder, so a dead one holds nothing."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from runner.errors import LockedError


@contextmanager
def locked(folder: Path, what: str, taken: str = "another run of this job is going on") -> Iterator[None]:
    """Hold a job's folder.

    Args:
        what: what the holder is doing, for the message that another one gets.
        taken: what that message says.

    Raises:
        LockedError: another process holds it; the message names it.
        OSError: the folder cannot be written to, or its file system knows no locks.
    """
    path = folder / ".lock"
    with open(path, "a+", encoding="utf-8") as file:
        if not _take(file):
            file.seek(0)
            raise LockedError(
                f"{taken}: {_holder(file.read())}",
                where=str(folder),
                hint="wait for it, or stop it with Ctrl-C (or `kill`) there",
            )
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "doing": what}))
        file.flush()
        yield
        file.truncate(0)


class Hold:
    """The lock of a job's folder for one who may have it already: it is let go when the outermost `with` ends.

    Args:
        what: what the holder is doing, for the message that another one gets.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self._folder = folder
        self._what = what
        self._depth = 0
        self._lock = ExitStack()

    def __enter__(self) -> None:
        """Take it.

        Raises:
            LockedError, OSError: as `locked` does.
        """
        if not self._depth:
            self._lock.enter_context(locked(self._folder, self._what))
        self._depth += 1

    def __exit__(self, *exception: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._lock.close()


def _take(file: TextIO) -> bool:
    """Take the lock; False when another process holds it, and not only for the moment of `is_locked`."""
    for wait_s in (0.01, 0.03, 0.1, None):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if wait_s is not None:
                time.sleep(wait_s)
        else:
            return True
    return False


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"{holder['doing']} (process {holder['pid']} on {holder['host']})"
    except (ValueError, KeyError, TypeError):
        return "its holder left no name"


def is_locked(folder: Path) -> bool:
    """Whether a run of the job in this folder is going on."""
    try:
        with open(folder / ".lock", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
