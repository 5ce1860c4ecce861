"""Spans of time as users write them: 45s, 90m, 8h, 1h30m, 2d."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from runner.problems import Finding, complain, say

_NUMBER = r"(\d{1,6}(?:\.\d{1,3})?)"
_SPAN = re.compile(rf"(?=\d)(?:{_NUMBER}d)? ?(?:{_NUMBER}h)? ?(?:{_NUMBER}m)? ?(?:{_NUMBER}s)?")


def read_span(text: str) -> timedelta | None:
    """Return the span that a text says; None: it says none, or no time at all."""
    found = _SPAN.fullmatch(text)
    if found is None:
        return None
    days, hours, minutes, seconds = (float(number or 0) for number in found.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds) or None


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """A span of time in a configuration file.

    Attributes:
        text: what was written.
        span: what it means.
    """

    text: str
    span: timedelta

    def __str__(self) -> str:
        return self.text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        as_text = core_schema.to_string_ser_schema()
        return core_schema.no_info_plain_validator_function(_validated, serialization=as_text)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "minLength": 2}


def _validated(value: object) -> TimeSpan | None:
    if isinstance(value, TimeSpan):
        return value
    text = value.strip() if isinstance(value, str) else ""
    span = read_span(text)
    if span is not None:
        return TimeSpan(text, span)
    number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    hint = f"with its unit: `{value:g}m`" if number else None
    complain([Finding(f"must be a time span such as 90s, 5m, 2h or 1h30m, got {say(value)}", hint=hint)])
    return None
