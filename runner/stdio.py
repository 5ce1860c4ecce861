"""Stdout holds data, stderr all else. Both are UTF-8, and where nobody listens the run goes on and ends as it would."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from runner.errors import SpecError


def use_utf8() -> None:
    """Write UTF-8 whatever the locale says, as Python itself does from 3.15 on; what is no Unicode is escaped."""
    if sys.stderr is None:  # it was closed by whoever started us
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - open as long as the process is there
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


@contextmanager
def stdout() -> Iterator[TextIO]:
    """Give stdout to write to. A reader that has gone, as in `| head`, ends the writing, and that is fine.

    Raises:
        SpecError: it cannot be written to.
    """
    if sys.stdout is None:
        raise SpecError("cannot write to stdout: it is closed")
    try:
        yield sys.stdout
        sys.stdout.flush()
    except PermissionError:
        raise  # of what is read meanwhile: nobody is asked for permission to write to an open file
    except OSError as error:
        _drop(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            raise SpecError(f"cannot write to stdout: {error.strerror}") from None


def say(text: str) -> None:
    """Write a text and a newline to stdout.

    Raises:
        SpecError: it cannot be written to.
    """
    with stdout() as file:
        file.write(text + "\n")


def complain(text: str) -> None:
    """Write a text and a newline to stderr, if that is possible."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)


def finish() -> None:
    """Write what is left, or drop it. Python would try again at its end, and make exit code 120 of a failure."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            _drop(stream)


def _drop(stream: TextIO) -> None:
    """Let what a stream has in its buffer, and whatever follows, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
