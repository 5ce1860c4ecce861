"""What becomes of the moments of schedules: each gets a record, and those that run a task.

A schedule is known by the name of its job. From when it was first seen, or its line or time zone changed, every moment
is judged once (`schedule.moments.due`); verdict, task and how far that has come are written together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from runner.clock import us_of
from runner.errors import RunnerError
from runner.lock import is_locked
from runner.schedule import moments
from runner.schedule.moments import Judged, Verdict
from runner.schedule.section import ScheduleSpec
from runner.service.book import NOT_BEGUN, Book, Moment, NewTask, Plan, Task

_SET_BACK_US = 3_600_000_000
"""By how much the clock must have been set back to judge moments again: by less, the next one is waited for."""

Prepare = Callable[["Scheduled", int], NewTask]
"""Makes the task of a job for a moment (microseconds since 1970)."""


@dataclass(frozen=True)
class Scheduled:
    """A job with a schedule, as its file says now.

    Attributes:
        job: its name.
        tells_late: whether somebody wants to hear when it is late.
    """

    job: str
    job_file: Path
    schedule: ScheduleSpec
    tells_late: bool = False

    @property
    def line(self) -> str:
        return f"{self.schedule.cron} {self.schedule.zone_name}"


@dataclass(frozen=True)
class Called:
    """A moment that has come, and what was made of it.

    Attributes:
        record: what was written down.
        task: the task that it became, if any.
        cancelled: tasks that were asked to end for it.
        error: why no task could be made of it.
    """

    record: Moment
    task: Task | None = None
    cancelled: Sequence[Task] = ()
    error: RunnerError | None = None


def first_seen(book: Book, scheduled: Scheduled, now_us: int, from_us: int | None = None) -> Plan:
    """Return how far a schedule has been judged: one that is new, or has another line, begins now.

    Args:
        from_us: or it begins then, in microseconds since 1970.
    """
    plan = book.plan(scheduled.job)
    if plan is None or _says_nothing(plan, scheduled, now_us):
        since_us = now_us if plan is None else min(plan.since_us, now_us)
        begins_us = now_us if from_us is None else from_us
        plan = Plan(scheduled.job, str(scheduled.job_file), scheduled.line, since_us, begins_us)
        book.keep(plan)
    return plan


def _says_nothing(plan: Plan, scheduled: Scheduled, now_us: int) -> bool:
    """Whether how far a schedule was judged is of no use: for another line, or by a clock that was far ahead."""
    return plan.line != scheduled.line or plan.last_us > now_us + _SET_BACK_US


def call(book: Book, scheduled: Scheduled, outputs: Path, now_us: int, prepare: Prepare) -> list[Called]:
    """Judge the moments of a job that have come, and queue those that run.

    Args:
        outputs: where the job's folder is.
        prepare: may raise a `RunnerError`: the moment's record then says why nothing ran.
    """
    with book.changing():
        plan = first_seen(book, scheduled, now_us)
        judged = moments.due(scheduled.schedule, scheduled.job, at(plan.last_us), at(now_us))
        if not judged:
            return []
        ahead = [
            task
            for task in book.tasks("queued", "running")
            if task.job == scheduled.job and (task.state == "running" or task.source == "schedule")
        ]
        busy = bool(ahead) or is_locked(outputs / scheduled.job)
        called = []
        for each in judged:
            known = book.moment(scheduled.job, us_of(each.moment.at))
            if known is not None and known.task is not None:
                continue  # it came before, while the clock was ahead
            made = _called(book, scheduled, each, now_us, prepare, busy=busy, ahead=ahead)
            if made.task is not None:  # what is caught up goes one after the other, and does not overlap
                busy, ahead = False, []
            called.append(made)
        book.note(each.record for each in called)
        book.keep(replace(plan, last_us=us_of(judged[-1].moment.at)))
        return called


def _called(
    book: Book,
    scheduled: Scheduled,
    judged: Judged,
    now_us: int,
    prepare: Prepare,
    *,
    busy: bool,
    ahead: Sequence[Task],
) -> Called:
    at_us = us_of(judged.moment.at)
    record = Moment(scheduled.job, at_us, str(judged.verdict), judged.why, now_us, None)
    if judged.verdict is not Verdict.RUN:
        return Called(record)
    overlap = scheduled.schedule.overlap
    if busy and overlap == "skip":
        why = "the run before is still going on, and `overlap: skip`"
        return Called(replace(record, verdict="skipped", why=why))
    try:
        new = prepare(scheduled, at_us)
    except RunnerError as error:
        return Called(replace(record, verdict="failed", why=error.message), error=error)
    cancelled = [book.cancel(task.id, now_us) for task in ahead] if overlap == "cancel" else []
    task = book.submit(replace(new, token=f"{scheduled.job}@{at_us}"), now_us)
    return Called(replace(record, task=None if task is None else task.id), task, cancelled)


# Without a service ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnTurn:
    """What a run that another scheduler starts now is for.

    Attributes:
        moment: the moment of the job's schedule; None: it has had none lately.
        record: what is known of that moment already, if anything.
    """

    moment: moments.Moment | None
    record: Moment | None = None


def take_turn(book: Book, scheduled: Scheduled, now_us: int) -> OwnTurn:
    """Find the moment that a run is for which another scheduler starts now, and note those before that were missed.

    A moment that has no record by now had no run: the machine was off, or that scheduler.
    """
    now = at(now_us)
    newest = moments.latest(scheduled.schedule, scheduled.job, now)
    if newest is None:
        return OwnTurn(None)
    at_us = us_of(newest.at)
    with book.changing():
        plan = first_seen(book, scheduled, now_us, at_us - 1)
        known = book.moment(scheduled.job, at_us)
        if plan.last_us < at_us and known is None:
            between = list(moments.moments(scheduled.schedule, scheduled.job, at(plan.last_us), newest.at))[:-1]
            book.note(Moment(scheduled.job, us_of(each.at), "missed", "nothing started it", now_us, None)
                      for each in between)  # fmt: skip
            book.note([Moment(scheduled.job, at_us, "run", NOT_BEGUN, now_us, None)])
            book.keep(replace(plan, last_us=at_us))
            return OwnTurn(newest)
        return OwnTurn(newest, known)


def at(at_us: int) -> datetime:
    """Return a time in microseconds since 1970 as a datetime in UTC."""
    return datetime.fromtimestamp(at_us / 1e6, UTC)
