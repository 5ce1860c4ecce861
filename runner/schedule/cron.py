"""A cron line: what is wrong with it, and the moments that it means in a time zone, over changes of the clock.

cronsim does the arithmetic of the five fields. What happens when the clock changes is decided here:

- a line whose hour field takes in every hour runs by elapsed time: an hour that the clock shows twice has its runs
  twice, one that it skips has none;
- any other line runs by the clock's face: a time that the clock skips runs at the moment of the jump, one that it
  shows twice runs the first time. Times that meet at the jump are one;
- only where the minute field begins with `*` do the runs go on through an hour that is shown twice.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import ClassVar

from cronsim import CronSim, CronSimError

from runner.problems import Finding, complain, say
from runner.written import Written

FIELDS = ("minute", "hour", "day of the month", "month", "day of the week")
_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_FORMS = (
    "a minute is 0 to 59",
    "an hour is 0 to 23",
    "a day of the month is 1 to 31, or L for the last",
    "a month is 1 to 12, or JAN to DEC",
    "a day of the week is 0 (Sunday) to 7 (Sunday), or SUN to SAT",
)
_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_SOME_DAY = datetime(2000, 1, 1)

LAST = CronSim.LAST
"""Stands among the days of the month for the last one, and behind a day of the week for its last in the month."""
LAST_WEEKDAY = CronSim.LAST_WEEKDAY
"""Stands among the days of the month for the last that is no Saturday or Sunday."""

Day = int | tuple[int, int]


@dataclass(frozen=True, slots=True)
class Cron(Written):
    """A cron line.

    Attributes:
        text: the line, with single spaces.
        minutes, hours, months: the values that its fields take in.
        days: of the month; `LAST` and `LAST_WEEKDAY` among them.
        weekdays: 0 is Sunday; `(1, 2)` is the second Monday of the month, `(1, LAST)` the last.
        both_days: day of the month and day of the week must both fit, because one of them begins with `*`; else either.
    """

    shortest: ClassVar[int] = 9

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[Day]
    both_days: bool

    @property
    def fields(self) -> tuple[str, ...]:
        """The five fields as written."""
        return tuple(self.text.split(" "))

    @property
    def every_hour(self) -> bool:
        """Whether it takes in every hour, and so runs by elapsed time."""
        return len(self.hours) == 24

    def after(self, moment: datetime, zone: tzinfo) -> Iterator[datetime]:
        """Yield the moments after this one, in UTC, in order.

        Args:
            moment: with a time zone.
            zone: whose clock the line is about.
        """
        last = moment.astimezone(UTC)
        begin = last.astimezone(zone)
        for found in heapq.merge(*(map(_utc, CronSim(line, begin)) for line in self._lines())):
            if found > last:  # several times may meet at a jump, and cronsim begins an hour shown twice at its first
                yield found
                last = found

    def by_face(self) -> str:
        """Return the line as one whose times all run by the clock's face."""
        minute, hour = (",".join(map(str, sorted(values))) for values in (self.minutes, self.hours))
        return " ".join((minute, hour, *self.fields[2:]))

    def _lines(self) -> tuple[str, ...]:
        """Return the lines to be given to cronsim, which tells one kind from the other by where a `*` stands."""
        minute, _, *days = self.fields
        if self.every_hour:
            return (" ".join((minute, "*", *days)),)
        if not minute.startswith("*"):
            return (self.by_face(),)
        hours = ",".join(map(str, sorted(self.hours)))
        return " ".join((minute, hours, *days)), self.by_face()

    @classmethod
    def read(cls, value: object) -> Cron:
        if not isinstance(value, str):
            hint = 'for example "0 2 * * *": every night at two'
            complain([Finding(f"must be a cron line, got {say(value)}", hint=hint)])
        return read_cron(str(value))


def read_cron(text: str) -> Cron:
    """Read a cron line.

    Raises:
        PydanticCustomError: what is wrong with it, as a finding.
    """
    fields = text.upper().split()
    complain(_findings(text, fields))
    line = " ".join(fields)
    try:
        found = CronSim(line, _SOME_DAY)
        comes = next(found, None) is not None
    except CronSimError:  # each field is good, but no month has that day
        comes = False
    if not comes:
        hint = "the months that it names have no such day"
        complain([Finding(f"never comes: {say(text)}", hint=hint)])
    return Cron(
        line,
        frozenset(found.minutes),
        frozenset(found.hours),
        frozenset(found.days),
        frozenset(found.months),
        frozenset(_from_sunday(day) for day in found.weekdays),
        found.day_and,
    )


def _findings(text: str, fields: list[str]) -> list[Finding]:
    """Return what is wrong with single fields."""
    macro = _MACROS.get(text.strip().lower())
    if macro is not None:
        return [Finding(f"must be a cron line of five fields, got {say(text)}", hint=f'write "{macro}"')]
    if len(fields) != len(FIELDS):
        names = f"{', '.join(FIELDS[:-1])} and {FIELDS[-1]}"
        hint = "there are no seconds: leave the first field out" if len(fields) == 6 else 'for example "0 2 * * *"'
        return [Finding(f"must have five fields ({names}), got {len(fields)}: {say(text)}", hint=hint)]
    found = []
    for number, field in enumerate(fields):
        name, (lowest, highest) = FIELDS[number], _BOUNDS[number]
        step = _wide_step(field, highest - lowest + 1)
        if step is not None:
            message = f"has a wrong {name}: {say(field)} steps over all of its values"
            hint = f"a {name} field counts within {_WITHIN[number]}; a step of {step} never comes around"
            found.append(Finding(message, hint=hint))
        elif not _is_good(number, field):
            hint = f"{_FORMS[number]}; also a list such as 1,3, a range such as 1-5, or a step such as */2"
            found.append(Finding(f"has a wrong {name}: {say(field)}", hint=hint))
    return found


_WITHIN = ("the hour", "the day", "the month", "the year", "the week")


def _wide_step(field: str, count: int) -> int | None:
    """Return a step that is wider than the field: `*/90` is no "every 90 minutes", it is once an hour."""
    for term in field.split(","):
        _, slash, step = term.partition("/")
        if slash and step.isdecimal() and int(step) >= count:
            return int(step)
    return None


def _is_good(number: int, field: str) -> bool:
    alone = ["0", "0", "*", "*", "*"]
    alone[number] = field
    try:
        CronSim(" ".join(alone), _SOME_DAY)
    except (CronSimError, AssertionError):
        # No month alone is too short for a day of the month; it says so of the whole line.
        return False
    return True


def _from_sunday(day: Day) -> Day:
    """Return a day of the week with 0 for Sunday, which cron calls 7 as well."""
    return day % 7 if isinstance(day, int) else (day[0] % 7, day[1])


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)
