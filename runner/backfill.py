"""Makes the runs of a job for a range of dates: `runner backfill`.

It holds the lock of the job's folder itself, and carries its runs out in threads of this process, each with an event
loop of its own, so that several can go on at once.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from runner import app, open_files
from runner.atomic import write_text
from runner.dated import folder_of, is_like, pasts_in
from runner.errors import Exit, FatalError, RunnerError, SpecError
from runner.execution import Outcome
from runner.history import Past
from runner.load import Job, load_job
from runner.money import usd
from runner.plan import make_plan
from runner.problems import SpecErrors, display, typed
from runner.progress import Console, duration
from runner.schedule.moments import moments
from runner.signals import at_an_ending
from runner.snapshot import as_run, changed
from runner.stdio import complain, finish
from runner.stop import Stop

NOT_BEGUN = ".not-begun.json"
"""Beside a job's runs: the dates whose run could not begin, each with the reason. No folder tells of those."""

Mode = Literal["missing", "failed", "all"]

_FILES_OF_A_RUN = 96


def mode_named(name: str) -> Mode:
    """Return the mode that an option names."""
    return "failed" if name == "failed" else "all" if name == "all" else "missing"


class Doing(StrEnum):
    """What is done for a date."""

    START = "start"
    RESUME = "resume"
    RETRY = "retry"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Step:
    """A date, and what is to be done for it.

    Attributes:
        folder: of the newest run for that date; None: there is none.
        outcome: how that one came out, as `history.outcome` says it; None: there is none.
    """

    day: date
    doing: Doing
    folder: Path | None = None
    outcome: str | None = None

    def text(self) -> str:
        there = f"  {self.folder.name} ({self.outcome})" if self.folder else ""
        return f"{self.day}  {self.doing:<7}{there}".rstrip()


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a date.

    Attributes:
        outcome: how its run came out; `failed` also where none could begin.
        run: the name of the run's folder; None: there is none.
        rows: how many have a result, of `total`.
        took_s: seconds of work, those of earlier sessions left out.
        error: why it could not begin, or ended early.
    """

    day: date
    doing: Doing
    outcome: str
    exit_code: Exit
    run: str | None = None
    rows: int = 0
    total: int = 0
    failed: int | None = None
    cost_usd: float | None = None
    took_s: float = 0.0
    error: str | None = None
    warnings: tuple[str, ...] = ()

    def text(self) -> str:
        """Return a line for people; what is wrong comes last."""
        said = [f"{self.day}  {self.outcome:<9}"]
        if self.run is not None:
            of_all = "" if self.rows == self.total else f" of {self.total:,}"
            said.append(f"{self.rows:,}{of_all} {'row' if self.total == 1 else 'rows'}")
            said += [f"{self.failed:,} failed"] if self.failed else []
            said += ["cost unknown" if self.cost_usd is None else usd(self.cost_usd), duration(self.took_s)]
            said += {Doing.RESUME: ["resumed"], Doing.RETRY: ["retried"]}.get(self.doing, [])
        lines = ["  ".join([*said, *([self.error] if self.error else [])])]
        return "\n".join([*lines, *(f"            warning: {text}" for text in self.warnings)])

    def as_json(self) -> dict[str, Any]:
        shown = asdict(self)
        return {"date": self.day.isoformat(), **{key: shown[key] for key in shown if key != "day"}}


# What is to be done ---------------------------------------------------------------------------------------------------


def days_of(job: Job, first: date, last: date) -> list[date]:
    """Return the dates of a range; of a job with a schedule, those on which it has a moment.

    Args:
        last: inclusive, like `first`.
    """
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    schedule = job.spec.schedule
    if schedule is None:
        return days

    def midnight(day: date) -> datetime:
        return datetime.combine(day, datetime.min.time(), schedule.zone).astimezone(UTC) - timedelta(microseconds=1)

    ends = ((day, midnight(day), midnight(day + timedelta(days=1))) for day in days)
    return [day for day, after, until in ends if next(moments(schedule, job.spec.name, after, until), None) is not None]


def doing_for(outcome: str | None, mode: Mode, *, force: bool = False, could_not_begin: bool = False) -> Doing:
    """Return what to do for a date.

    Args:
        outcome: how the newest run for that date came out; None: there is none.
        could_not_begin: one was tried, and no run came of it.
    """
    if force:
        return Doing.START
    if outcome is None:
        return Doing.START if mode != "failed" or could_not_begin else Doing.NOTHING
    if outcome not in ("success", "partial", "failed"):
        return Doing.RESUME
    return Doing.RETRY if outcome != "success" and mode != "missing" else Doing.NOTHING


def steps_for(job: Job, days: Sequence[date], base: Path, mode: Mode, *, force: bool = False) -> list[Step]:
    """Return what is to be done for each date.

    Args:
        base: the job's folder under `outputs/`.
    """
    newest: dict[str, Past] = {}
    for past in sorted(pasts_in(base), key=lambda past: past.turn):
        if is_like(job, past):
            newest[past.run_date] = past
    unbegun = {} if job.rehearsal else _unbegun(base)
    steps = []
    for day in days:
        there = newest.get(day.isoformat())
        outcome = None if there is None else there.outcome
        doing = doing_for(outcome, mode, force=force, could_not_begin=day.isoformat() in unbegun)
        steps.append(Step(day, doing, None if there is None else there.folder, outcome))
    return steps


# Doing it -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """What a person asks for.

    Attributes:
        first: the first date; `last` is the last, inclusive.
        overrides: as for `load_job`.
        max_active: how many runs go on at once.
        outputs: where run folders go; None: `outputs/` in the project root.
    """

    job_file: Path
    first: date
    last: date
    mode: Mode = "missing"
    force: bool = False
    max_active: int = 1
    overrides: Mapping[str, str] = field(default_factory=dict)
    outputs: Path | None = None

    def load(self, day: date, environ: Mapping[str, str] | None = None) -> Job:
        """Load the job for a date; `environ` as for `load_job`."""
        return load_job(self.job_file, overrides=self.overrides, environ=environ, run_date=day)

    def command(self, mode: Mode) -> str:
        """Return the command that asks for the same dates."""
        return f"runner backfill {typed(self.job_file)} --from {self.first} --to {self.last} --{mode}"


class Backfill:
    """The runs of a job for a range of dates.

    Raises:
        SpecError: the job or the range is wrong.
    """

    def __init__(self, order: Order) -> None:
        if order.first > order.last:
            raise SpecError(f"--from {order.first} is after --to {order.last}", hint="exchange them")
        if order.force and order.mode != "all":
            raise SpecError("--force goes with --all", hint="with it every date gets a new run, whatever there is")
        self.order = order
        self.job = job = order.load(order.first)
        self.days = days_of(job, order.first, order.last)
        self.base = folder_of(job, order.outputs)
        if not self.days:
            at = ("schedule", "cron") if "cron" in (job.source.data.get("schedule") or ()) else ("schedule",)
            message = f"the schedule has no moment from {order.first} to {order.last}"
            raise SpecErrors([job.source.problem(at, message, f"see `runner schedule next {display(order.job_file)}`")])
        if order.max_active > 1 and job.spec.budget.daily_usd is not None:
            message = "`budget.daily_usd` is kept by one run at a time"
            raise SpecErrors([job.source.problem(("budget", "daily_usd"), message, "leave --max-active out")])

    def steps(self) -> list[Step]:
        """Return what is to be done for each date."""
        return steps_for(self.job, self.days, self.base, self.order.mode, force=self.order.force)

    def foreseen(self) -> Iterator[str]:
        """Yield a line for each date: what would be done, as far as can be known. Begins nothing."""
        for step in self.steps():
            trouble = ""
            if step.doing is Doing.START:
                try:
                    make_plan(self.order.load(step.day))
                except RunnerError as error:
                    trouble = f"  would fail: {error.message}"
            yield step.text() + trouble

    def run(self, console: Console, show: Callable[[Done], None]) -> Ended:
        """Carry it out, and show what came of each date.

        Args:
            console: shows how a run goes, where it is the only one.

        Raises:
            LockedError: a run of this job is going on.
            SpecError: no run can be kept there, or a variable is not set that the endpoint needs.
        """
        order = self.order
        began = time.monotonic()
        order.load(order.first, os.environ)
        with app.holding(self.base, order.command(order.mode)):
            open_files.allow(
                order.max_active * (self.job.limits.concurrency or 1) + (order.max_active - 1) * _FILES_OF_A_RUN,
                display(self.job.path),
            )
            steps = self.steps()
            crew = _Crew(self, console if order.max_active == 1 else Console(quiet=True))
            with _stopped_by_signals(crew.stop):
                done = crew.work([step for step in steps if step.doing is not Doing.NOTHING], show)
        stale = self._stale([step.folder for step in steps if step.doing is Doing.NOTHING and step.folder is not None])
        return Ended(order, steps, done, crew.interrupted, stale, time.monotonic() - began)

    def _stale(self, folders: Sequence[Path]) -> int:
        """Return of how many runs the job has changed since, but for what changes with the date."""
        now = as_run(self.job)
        try:
            dated = set(changed(now, as_run(self.order.load(self.days[-1]))))
            return sum(bool({*changed(Past.load(folder).manifest.spec, now)} - dated) for folder in folders)
        except SpecError:  # the work is done, and this is but a note
            return 0


class _Crew:
    """The threads that carry the runs out."""

    def __init__(self, backfill: Backfill, console: Console) -> None:
        self.interrupted = False
        self._backfill = backfill
        self._console = console
        self._ending = False
        self._going: dict[date, Stop] = {}

    def stop(self) -> None:
        """Begin no more runs, and end those that go on as Ctrl-C ends one."""
        self.interrupted = self._ending = True
        for stop in list(self._going.values()):
            with suppress(RuntimeError):  # it has just ended, and its event loop is closed
                stop.request()

    def work(self, steps: Sequence[Step], show: Callable[[Done], None]) -> list[Done]:
        """Carry out steps, the oldest date first; one that ends early is the last to be begun."""
        done: list[Done] = []
        left = iter(steps)
        going: set[Future[Done]] = set()
        threads = ThreadPoolExecutor(self._backfill.order.max_active, thread_name_prefix="backfill")
        try:
            while True:
                while not self._ending and len(going) < self._backfill.order.max_active:
                    if (step := next(left, None)) is None:
                        break
                    going.add(threads.submit(self._do, step))
                if not going:
                    return done
                ended, going = wait(going, return_when=FIRST_COMPLETED)
                for one in sorted((future.result() for future in ended), key=lambda each: each.day):
                    self._ending |= one.exit_code == Exit.STOPPED
                    self._note(one)
                    done.append(one)
                    show(one)
        except BaseException:
            self.stop()
            raise
        finally:
            threads.shutdown()

    def _do(self, step: Step) -> Done:
        order, stop = self._backfill.order, Stop()
        held = app.Held(alone=order.max_active == 1, told=step.day == self._backfill.days[-1])
        self._going[step.day] = stop
        try:
            if self._ending:  # between its being handed out and its beginning
                stop.request()
            if step.folder is None or step.doing is Doing.START:
                job = order.load(step.day, os.environ)
                return _done(step, app.start(job, outputs=order.outputs, console=self._console, stop=stop, held=held))
            return _done(
                step,
                app.resume(
                    step.folder, order.overrides, retry=step.doing is Doing.RETRY, console=self._console, stop=stop,
                    held=held,
                ),
            )  # fmt: skip
        except RunnerError as error:
            code = Exit.STOPPED if isinstance(error, FatalError) else Exit.SOME_FAILED
            return Done(step.day, step.doing, "failed", code, error=error.message)
        finally:
            del self._going[step.day]

    def _note(self, one: Done) -> None:
        """Note that a run could not begin, or that it has."""
        if self._backfill.job.rehearsal:
            return
        unbegun = _unbegun(self._backfill.base)
        before = dict(unbegun)
        unbegun.pop(one.day.isoformat(), None)
        if one.run is None and one.doing is Doing.START:
            unbegun[one.day.isoformat()] = one.error or ""
        if unbegun != before:
            with suppress(OSError):  # a full disk: the date has no run, and counts as missing all the same
                write_text(self._backfill.base / NOT_BEGUN, json.dumps(unbegun, indent=2) + "\n")


def _done(step: Step, outcome: Outcome) -> Done:
    manifest, summary = outcome.manifest, outcome.manifest.summary
    session = manifest.sessions[-1]
    return Done(
        step.day,
        step.doing,
        Past(outcome.folder, manifest, 0).outcome,
        outcome.exit_code,
        outcome.folder.name,
        summary.get("rows", 0),
        manifest.results,
        summary.get("failed"),
        summary.get("cost_usd"),
        session.wall_s,
        outcome.stopped_by.message if outcome.stopped_by is not None else None,
        tuple(session.warnings),
    )


def _unbegun(base: Path) -> dict[str, str]:
    try:
        found = json.loads((base / NOT_BEGUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # there is none; or it is damaged, and those dates count as missing
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """The first such signal lets what is in flight finish; the second ends the process at once.

    That loses nothing but what is in flight: every answer that came is in its journal already.
    """
    asked = False

    def take() -> None:
        nonlocal asked
        if asked:
            complain("interrupted")
            finish()
            os._exit(Exit.INTERRUPTED)
        asked = True
        stop()
        complain("stopping: waiting for the answers that are on their way (again to stop at once)")

    with at_an_ending(take):
        yield


# What came of it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a backfill ended.

    Attributes:
        steps: what was to be done for each date.
        done: what came of the dates that something was done for.
        stale: how many finished runs were left alone that were made with another prompt, model or other such key.
    """

    order: Order
    steps: Sequence[Step]
    done: Sequence[Done]
    interrupted: bool
    stale: int
    took_s: float

    @property
    def exit_code(self) -> Exit:
        """130 when interrupted, 4 when a run ended early, 3 when rows or dates failed, also of runs left alone."""
        if self.interrupted:
            return Exit.INTERRUPTED
        codes = {one.exit_code for one in self.done}
        codes |= {Exit.SOME_FAILED for step in self._left_alone() if step.outcome != "success"}
        return max(codes, default=Exit.OK)

    def _left_alone(self) -> list[Step]:
        return [step for step in self.steps if step.doing is Doing.NOTHING and step.outcome is not None]

    def _not_reached(self) -> int:
        return sum(step.doing is not Doing.NOTHING for step in self.steps) - len(self.done)

    def text(self) -> str:
        """Return the summary for a terminal."""
        counts = Counter(one.outcome for one in self.done)
        counts += Counter(f"{step.outcome} before" for step in self._left_alone())
        if reached := self._not_reached():
            counts["not begun"] = reached
        days = f"{len(self.steps):,} {'date' if len(self.steps) == 1 else 'dates'}"
        said = [f"{days}: {', '.join(f'{count:,} {word}' for word, count in counts.items()) or 'nothing to do'}"]
        if self.done:
            costs = [one.cost_usd for one in self.done if one.run is not None]
            known = [cost for cost in costs if cost is not None]
            said.append(f"{sum(one.rows for one in self.done):,} rows")
            said.append(usd(sum(known)) if len(known) == len(costs) else "cost unknown")
            said.append(duration(self.took_s))
        lines = [" · ".join(said)]
        if self.stale:
            was = "run that was" if self.stale == 1 else "runs that were"
            lines.append(
                f"note: the job has changed since {self.stale:,} {was} left alone: `--all --force` makes new ones"
            )
        if self._not_reached() or self.interrupted or any(one.exit_code == Exit.STOPPED for one in self.done):
            lines.append(f"next: {self.order.command(self.order.mode)} goes on")
        elif self.exit_code:
            lines.append(f"next: {self.order.command('failed')} tries again what failed")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return the same for programs: all dates, those that nothing was done for with how they were before."""
        done = {one.day: one.as_json() for one in self.done}
        return {
            "from": self.order.first.isoformat(), "to": self.order.last.isoformat(), "mode": self.order.mode,
            "exit_code": int(self.exit_code), "took_s": round(self.took_s, 3), "stale": self.stale,
            "dates": [
                done.get(step.day) or {
                    "date": step.day.isoformat(), "outcome": step.outcome,
                    "doing": Doing.NOTHING if step.doing is Doing.NOTHING else "not begun",
                    "run": step.folder and step.folder.name,
                }
                for step in self.steps
            ],
        }  # fmt: skip
