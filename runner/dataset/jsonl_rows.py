"""Read JSON Lines: one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from runner.dataset.files import Source
from runner.dataset.rows import Row, Skip
from runner.dataset.settings import InputSettings
from runner.dataset.streams import open_text


def read_jsonl(source: Source, spec: InputSettings, skip: Skip) -> Iterator[Row]:
    """Every line that is not blank or to skip. Lines end at LF alone: other line ends are data inside JSON strings."""
    decode = json.JSONDecoder().decode
    with open_text(source, spec.encoding, newline="\n") as text:
        for number, line in enumerate(text, 1):
            if skip.rows:
                skip.rows -= not line.isspace()
                continue
            try:
                value = decode(line)
            except (ValueError, RecursionError) as error:
                if not line.isspace():
                    yield number, {}, why_not_json(error) + _array_hint(line)
                continue
            if type(value) is dict:
                yield number, value, None
            else:
                yield number, {}, not_an_object(value) + _array_hint(line)


def _array_hint(line: str) -> str:
    return " (if the file is one JSON array, add `format: json`)" if line.lstrip("\ufeff \t").startswith("[") else ""


def why_not_json(error: ValueError | RecursionError) -> str:
    """One sentence for what the JSON decoder did not like."""
    if isinstance(error, json.JSONDecodeError):
        column = min(error.pos, len(error.doc.rstrip())) + 1
        return f"not valid JSON: {error.msg.removesuffix(' at')} at column {column}"
    return f"not usable JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}"


def not_an_object(value: Any) -> str:
    """One sentence for JSON that is not a row."""
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return f"expected a JSON object, found {names.get(type(value), 'a number')}"
