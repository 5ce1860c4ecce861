"""JSON that gives back exactly what was written: integers of any size, NaN, lone surrogates.

pydantic's reader and writer take a third of the time of the standard library's, and refuse what they cannot keep, which
then takes the long way. (orjson would make null of NaN.)
"""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import from_json, to_json

_spelled_out = json.JSONEncoder(separators=(",", ":")).encode  # ASCII only: any text survives, lone surrogates too


def encode(value: Any) -> bytes:
    """Return a value as JSON on one line, without its end."""
    try:
        return to_json(value, inf_nan_mode="constants")
    except ValueError:  # a lone surrogate has no UTF-8
        return _spelled_out(value).encode("ascii")


def decode(line: bytes) -> Any:
    """Return the value of a line.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return from_json(line)
    except ValueError:  # a lone surrogate, or no JSON
        return json.loads(line)
