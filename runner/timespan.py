"""Spans of time as users write them: 45s, 90m, 8h, 1h30m, 2d, 2w."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from runner.problems import Finding, complain, say
from runner.written import Written

_NUMBER = r"(\d{1,6}(?:\.\d{1,3})?)"
# A thousand years of weeks are enough: later moments have no date.
_WEEKS = r"(\d{1,5}(?:\.\d{1,3})?)"
_SPAN = re.compile(rf"(?=\d)(?:{_WEEKS}w)? ?(?:{_NUMBER}d)? ?(?:{_NUMBER}h)? ?(?:{_NUMBER}m)? ?(?:{_NUMBER}s)?")


def read_span(text: str) -> timedelta | None:
    """Return the span that a text says; None: it says none, or no time at all."""
    found = _SPAN.fullmatch(text)
    if found is None:
        return None
    weeks, days, hours, minutes, seconds = (float(number or 0) for number in found.groups())
    return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds) or None


@dataclass(frozen=True, slots=True)
class TimeSpan(Written):
    """A span of time in a configuration file.

    Attributes:
        text: what was written.
        span: what it means.
    """

    shortest: ClassVar[int] = 2

    text: str
    span: timedelta

    @classmethod
    def read(cls, value: object) -> TimeSpan | None:
        text = value.strip() if isinstance(value, str) else ""
        span = read_span(text)
        if span is not None:
            return TimeSpan(text, span)
        number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        hint = f"with its unit: `{value:g}m`" if number else None
        complain([Finding(f"must be a time span such as 90s, 5m, 2h or 1h30m, got {say(value)}", hint=hint)])
        return None
