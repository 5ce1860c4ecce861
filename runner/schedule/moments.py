"""The moments of a schedule: when they are, when each may begin, and which of them to run.

Pure functions of the times that they are given. Whoever starts runs keeps the last moment that has a verdict, sleeps
until `next_start`, and asks `due`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import accumulate, pairwise, takewhile

from runner.schedule.section import ScheduleSpec

ON_TIME = timedelta(minutes=1)
"""How late a run may begin and still count as on time: whoever starts it has to wake up and get there."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A time at which a job is to run.

    Attributes:
        at: in UTC; which moment it is, in every record.
        local: the same on the schedule's clock.
        begins: when to begin it, in UTC: `at`, and the jitter of this job and moment.
    """

    at: datetime
    local: datetime
    begins: datetime


class Verdict(StrEnum):
    """What becomes of a moment."""

    RUN = "run"
    MISSED = "missed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Judged:
    """A moment that has come, and what becomes of it.

    Attributes:
        why: the reason, for its record; empty for one that runs on time.
    """

    moment: Moment
    verdict: Verdict
    why: str = ""


def moments(schedule: ScheduleSpec, job: str, after: datetime, until: datetime | None = None) -> Iterator[Moment]:
    """Yield the moments of a schedule, in order.

    Args:
        job: the job's name, which its jitter depends on.
        after: exclusive.
        until: inclusive; None: without end (a schedule that never comes again ends all the same).
    """
    zone = schedule.zone
    found = schedule.cron.after(after, zone)
    for at in found if until is None else takewhile(lambda at: at <= until, found):
        yield Moment(at, at.astimezone(zone), at + jitter(schedule, job, at))


def jitter(schedule: ScheduleSpec, job: str, at: datetime) -> timedelta:
    """Return how much later a job begins than its moment: whole seconds, the same whenever it is asked."""
    if schedule.jitter is None:
        return timedelta(0)
    drawn = hashlib.sha256(f"{job}\0{at.astimezone(UTC):%Y-%m-%dT%H:%MZ}".encode()).digest()
    seconds = int(schedule.jitter.span.total_seconds()) + 1
    return timedelta(seconds=int.from_bytes(drawn[:8], "big") % seconds)


def next_start(schedule: ScheduleSpec, job: str, last: datetime) -> Moment | None:
    """Return the moment after the last one that has a verdict; `begins` tells when to ask `due` again."""
    return next(moments(schedule, job, last), None)


def latest(schedule: ScheduleSpec, job: str, now: datetime) -> Moment | None:
    """Return the newest moment that has come: the one that a run which a scheduler starts now belongs to.

    None: the schedule had no moment in the last hundred years.
    """
    for days in (1 / 24, 1, 40, 366, 36_600):
        *_, newest = None, *moments(schedule, job, now - timedelta(days=days), now)
        if newest is not None:
            return newest
    return None


def due(schedule: ScheduleSpec, job: str, last: datetime, now: datetime) -> list[Judged]:
    """Return the moments that have come since the last one with a verdict, in order, and what becomes of each.

    One that may not begin yet, because of its jitter, is left for later, and so are those after it: moments never
    overtake each other, and one that waits for another is not late by that. A schedule that is disabled skips its
    moments, so that enabling it catches nothing up.

    Args:
        job: the job's name.
        last: the last moment that has a verdict, exclusive; at first, when the schedule was first seen.
        now: the time, inclusive.
    """
    come = list(takewhile(lambda moment: moment.begins <= now, moments(schedule, job, last, now)))
    if not schedule.enabled:
        return [Judged(moment, Verdict.SKIPPED, "the schedule is disabled") for moment in come]
    could_begin = accumulate((moment.begins for moment in come), max)
    judged = [_judged(schedule, moment, now - begins) for moment, begins in zip(come, could_begin, strict=True)]
    return _newest_only(judged) if schedule.catch_up == "latest" else judged


def _judged(schedule: ScheduleSpec, moment: Moment, late: timedelta) -> Judged:
    if late <= ON_TIME:
        return Judged(moment, Verdict.RUN)
    if schedule.catch_up == "none":
        return Judged(moment, Verdict.MISSED, f"{said(late)} late, and `catch_up: none`")
    if schedule.grace is not None and late > schedule.grace.span:
        return Judged(moment, Verdict.MISSED, f"{said(late)} late, which is more than `grace: {schedule.grace}`")
    return Judged(moment, Verdict.RUN, f"{said(late)} late")


def _newest_only(judged: Sequence[Judged]) -> list[Judged]:
    """Let only the newest of those run that would."""
    last = max((number for number, each in enumerate(judged) if each.verdict is Verdict.RUN), default=-1)
    return [
        each
        if each.verdict is not Verdict.RUN or number == last
        else Judged(each.moment, Verdict.MISSED, f"{each.why or 'on time'}, and a later moment runs in its place")
        for number, each in enumerate(judged)
    ]


def said(span: timedelta) -> str:
    """Return a span in its two largest units: `7 h 28 min`."""
    seconds = int(span.total_seconds())
    parts = [(seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    first = next((number for number, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count) or "0 s"


# Changes of the clock -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClockChange:
    """A change of the clock that moments of a schedule fall into.

    Attributes:
        at: when, in UTC.
        skips: the clock jumps over times of the schedule; otherwise it shows times of it twice.
    """

    at: datetime
    skips: bool


def clock_changes(schedule: ScheduleSpec, after: datetime, days: int = 400) -> list[ClockChange]:
    """Return the changes of the clock, in so many days, that times of the schedule fall into."""
    zone, found = schedule.zone, []
    noons = [after + timedelta(days=number) for number in range(days + 1)]
    for before, then in pairwise(noons):
        old, new = before.astimezone(zone).utcoffset(), then.astimezone(zone).utcoffset()
        if old is None or new is None or old == new:
            continue
        lowest, highest = before, then
        while highest - lowest > timedelta(seconds=1):
            middle = lowest + (highest - lowest) / 2
            lowest, highest = (middle, highest) if middle.astimezone(zone).utcoffset() == old else (lowest, middle)
        at = highest.replace(microsecond=0)
        first, last = sorted(((at + old).replace(tzinfo=None), (at + new).replace(tzinfo=None)))
        # As if the clock's face were UTC: there nothing is skipped.
        face = next(schedule.cron.after((first - timedelta(seconds=1)).replace(tzinfo=UTC), UTC), None)
        if face is not None and face.replace(tzinfo=None) < last:
            found.append(ClockChange(at, skips=new > old))
    return found
