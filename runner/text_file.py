"""The text of a small file, such as a configuration or a prompt."""

from __future__ import annotations

import re
from pathlib import Path

from runner.problems import Mark, Problem, SpecErrors, display, listed, suggest

MAX_BYTES = 1_000_000

# What PyYAML's reader counts as the end of a line; line numbers are only right if ours agree.
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


def read_text(path: Path, *, what: str) -> str:
    """The text of a small UTF-8 file.

    Raises:
        SpecErrors: with one clear sentence for a missing file, a folder, other bytes than UTF-8, or too many of them.
    """
    name = display(path)

    def stop(message: str, hint: str | None = None, mark: Mark | None = None) -> SpecErrors:
        line, column = (mark.line, mark.column) if mark else (0, 0)
        return SpecErrors([Problem(message, name, line, column, hint=hint)])

    try:
        if path.is_dir():
            inside = sorted(file.name for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
            raise stop(f"this is a folder, not a {what}", f"it holds {listed(inside[:5])}" if inside else None)
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = path.parent.is_dir() and suggest(path.name, sorted(file.name for file in path.parent.iterdir()))
        raise stop(f"there is no such {what}", near or None) from None
    except PermissionError:
        raise stop(f"the {what} may not be read", "check its permissions") from None
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise stop(f"the {what} cannot be read: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise stop(f"the {what} is larger than {MAX_BYTES / 1e6:g} MB", "is this the dataset?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise stop(
            f"the {what} is not UTF-8 text: the byte 0x{raw[error.start]:02x} cannot stand here",
            "save it as UTF-8",
            end_of(raw[: error.start].decode("utf-8", "replace")),
        ) from None


def lines_of(text: str) -> list[str]:
    return _LINE_END.split(text)


def end_of(text: str) -> Mark:
    """The place right after the text."""
    lines = lines_of(text)
    return Mark(len(lines), len(lines[-1]) + 1)
