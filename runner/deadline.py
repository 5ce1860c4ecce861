"""When a job has to be done, as users write it: a time of day, a date with a time, or a time span."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo

from runner.clock import us_of
from runner.problems import Finding, complain, say
from runner.timespan import read_span
from runner.written import Written

EXAMPLES = ("06:00", "2026-11-22T06:00+01:00", "8h", "1h30m")
_FORMS = 'must be a time such as "06:00", a date with a time such as "2026-11-22T06:00", or a time span such as 8h'

_TIME = re.compile(r"(\d{1,2}):(\d{2})")
_DATE = re.compile(r"2\d{3}-\d{2}-\d{2}")
_MOMENT = re.compile(_DATE.pattern + r"[T ]\d{2}:\d{2}(?::\d{2})?(?:Z|[+-]\d{2}:\d{2})?")


@dataclass(frozen=True, slots=True)
class Deadline(Written):
    """When a job has to be done.

    Attributes:
        text: what was written.
        when: a time of day on some clock; a moment, on that clock where it has no offset; or how long after the run's
            beginning.
    """

    text: str
    when: time | datetime | timedelta

    def at_us(self, began_us: int, zone: tzinfo | None = None) -> int:
        """Return the moment in microseconds since 1970.

        A time of day is the first such moment after the run began. One that the clock skips (in spring) is when it
        does so; a moment without an offset that the clock shows twice (in autumn) is the first of the two.

        Args:
            began_us: when the run began, in microseconds since 1970.
            zone: whose clock it is; None: this machine's.
        """
        if isinstance(self.when, timedelta):
            return began_us + self.when // timedelta(microseconds=1)
        if isinstance(self.when, datetime):
            return us_of(self.when) if self.when.tzinfo else _moments(self.when, zone)[0]
        today = datetime.fromtimestamp(began_us / 1e6, zone).date()
        days = (today, today + timedelta(days=1))
        found = [at for day in days for at in _moments(datetime.combine(day, self.when), zone)]
        return min(at for at in found if at > began_us)

    @classmethod
    def read(cls, value: object) -> Deadline | None:
        found = _read(value) if isinstance(value, str) else None
        complain([] if found else [Finding(f"{_FORMS}, got {say(value)}", hint=_hint(value))])
        return found


def at_us(when: str | Deadline, began_us: int, zone: tzinfo | None = None) -> int:
    """Return the moment that is meant, in microseconds since 1970.

    Args:
        when: as users write it, or read already.
        began_us: from when a time of day or a time span counts, in microseconds since 1970.
        zone: whose clock it is; None: this machine's.

    Raises:
        ValueError: the text says none; the message says what it must be and follows the name of the key or option.
    """
    return (parse(when) if isinstance(when, str) else when).at_us(began_us, zone)


def parse(text: str) -> Deadline:
    """Read a deadline.

    Raises:
        ValueError: it is none; the message says what it must be and follows the name of the key.
    """
    found = _read(text)
    if found is None:
        raise ValueError(f"{_FORMS}, got {say(text)}")
    return found


def _read(text: str) -> Deadline | None:
    text = text.strip()
    when = _time(text) or _moment(text) or read_span(text)
    return None if when is None else Deadline(text, when)


def _hint(value: object) -> str | None:
    """Return what may have been meant."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"with its unit: `{value:g}h`"
    text = value.strip() if isinstance(value, str) else ""
    if _DATE.fullmatch(text):
        return f'with a time: "{text}T06:00"'
    if re.fullmatch(r"\d{4}", text):
        return f'did you mean "{text[:2]}:{text[2:]}"?'
    if text.startswith("24:"):
        return 'midnight is "00:00"'
    return None


def _time(text: str) -> time | None:
    found = _TIME.fullmatch(text)
    if found is None or int(found[1]) > 23 or int(found[2]) > 59:
        return None
    return time(int(found[1]), int(found[2]))


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if _MOMENT.fullmatch(text) else None
    except ValueError:  # there is no such date
        return None


# The clock ------------------------------------------------------------------------------------------------------------


def _moments(shown: datetime, zone: tzinfo | None) -> tuple[int, int]:
    """Return when a clock shows a date and time: the first and the last moment, mostly the same.

    Where the clock jumps over it, that is the moment of the jump.
    """
    first, second = (us_of(shown.replace(fold=fold, tzinfo=zone)) for fold in (0, 1))
    if first <= second:
        return first, second
    # It is skipped: `fold` 0 counts on with the clock before the jump, 1 back with the one after it (PEP 495).
    seconds = range(second // 1_000_000, first // 1_000_000 + 1)
    jump = bisect_left(
        seconds, True, key=lambda moment: datetime.fromtimestamp(moment, zone).replace(tzinfo=None) >= shown
    )
    return seconds[jump] * 1_000_000, seconds[jump] * 1_000_000
