"""Temporary files, and what to say where there is no room for them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from runner.errors import InputError


@contextmanager
def room_for_files(what: str) -> Iterator[None]:
    """Turn a failure to use a temporary file into one message.

    Args:
        what: what cannot be done, for that message.

    Raises:
        InputError: there is no room.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{what}: {error.strerror}",
            where=tempfile.gettempdir(),
            hint="make room there, or name another folder in the environment variable TMPDIR",
        ) from error
