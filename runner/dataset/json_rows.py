"""Read a JSON array of objects, one object at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from runner.dataset.files import Source
from runner.dataset.jsonl_rows import not_an_object, why_not_json
from runner.dataset.rows import Row
from runner.dataset.settings import InputSettings
from runner.dataset.streams import open_text
from runner.errors import InputError

_CHUNK_CHARACTERS = 1 << 20
_LOOKAHEAD = 16
"""An error this close to the end of what was read may only mean that a value goes on (the longest is ``-Infinity``)."""

_space = re.compile(r"[ \t\n\r]*")
_number = re.compile(r"[-+.0-9eE]*")


def read_json(source: Source, spec: InputSettings) -> Iterator[Row]:
    """Every element of the array.

    Raises:
        InputError: the file is no array, or broken: where an element cannot be read, the next one cannot be found.
    """
    with open_text(source, spec.encoding, newline="\n") as text:
        array = _Array(text, source)
        if not array.begin():
            return
        while True:
            array.skip_space()
            line, value = array.value()
            yield (line, value, None) if type(value) is dict else (line, {}, not_an_object(value))
            if not array.more():
                return


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where the characters of a kind end that start at a place."""
    match = pattern.match(text, at)
    return match.end() if match else at


class _Array:
    """A cursor in the text of one JSON array."""

    def __init__(self, text: TextIO, source: Source) -> None:
        self._text = text
        self._source = source
        self._buffer = ""
        self._at = 0
        self._line = 1
        self._complete = False
        self._decode = json.JSONDecoder().raw_decode

    def begin(self) -> bool:
        """Step over the opening bracket; False where there is nothing to read."""
        self.skip_space()
        if self._peek() == "":
            return False
        if self._peek() != "[":
            raise self._not_an_array()
        self._move(self._at + 1)
        self.skip_space()
        if self._peek() == "]":
            self._finish()
            return False
        return True

    def value(self) -> tuple[int, Any]:
        """The next value, and the line it starts on."""
        while True:
            try:
                value, end = self._decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if self._complete or not self._may_go_on(error):
                    raise self._broken(error) from error
            except (ValueError, RecursionError) as error:
                raise self._error(why_not_json(error), self._line) from error
            else:
                # What looks complete at the end of the buffer may be the first digits of a longer number.
                if self._complete or _end(_number, self._buffer, end) < len(self._buffer):
                    line = self._line
                    self._move(end)
                    return line, value
            self._read()

    def more(self) -> bool:
        """Step over what follows a value: True after a comma, False at the end of the array."""
        self.skip_space()
        mark = self._peek()
        if mark == ",":
            self._move(self._at + 1)
            return True
        if mark == "]":
            self._finish()
            return False
        if mark == "":
            raise self._error("the array is cut off: its closing bracket is missing", self._line)
        raise self._error(f"expected a comma or a closing bracket, found {mark!r}", self._line)

    def skip_space(self) -> None:
        while True:
            self._move(_end(_space, self._buffer, self._at))
            if self._at < len(self._buffer) or self._complete:
                return
            self._read()

    def _finish(self) -> None:
        self._move(self._at + 1)
        self.skip_space()
        if self._peek():
            raise self._error("there is more text after the end of the array", self._line)

    def _peek(self) -> str:
        return self._buffer[self._at : self._at + 1]

    def _move(self, to: int) -> None:
        self._line += self._buffer.count("\n", self._at, to)
        self._at = to

    def _read(self) -> None:
        """Drop what is done and read on: at least as much as is pending, so that a long value costs only its length."""
        pending = self._buffer[self._at :]
        chunk = self._text.read(max(_CHUNK_CHARACTERS, len(pending)))
        self._complete = not chunk
        self._buffer = pending + chunk
        self._at = 0

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        return error.msg.startswith("Unterminated string") or error.pos + _LOOKAHEAD >= len(self._buffer)

    def _broken(self, error: json.JSONDecodeError) -> InputError:
        line = self._line + self._buffer.count("\n", self._at, error.pos)
        if not self._peek():
            return self._error("the array is cut off: its closing bracket is missing", line)
        return self._error(f"not valid JSON: {error.msg.removesuffix(' starting at')}", line)

    def _error(self, message: str, line: int) -> InputError:
        return InputError(message, where=f"{self._source.name}:{line}", hint="nothing after this place can be read")

    def _not_an_array(self) -> InputError:
        hint = "the file must be one JSON array of objects, `[{...}, {...}]`"
        try:
            first, end = self._decode(self._buffer, self._at)
        except (ValueError, RecursionError):
            first, end = None, self._at
        rest = self._buffer[end:].lstrip(" \t\r")
        if isinstance(first, dict) and rest.startswith("\n") and rest.lstrip().startswith("{"):
            hint = "it looks like JSON Lines: add `format: jsonl`"
        return InputError(
            f"`{self._source.name}` is not a JSON array", where=f"{self._source.name}:{self._line}", hint=hint
        )
