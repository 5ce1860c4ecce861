"""The service: begins what is queued and what schedules say, a few jobs side by side, until it is stopped.

It keeps nothing in memory that matters. What is to be done is in the book, what is done in the folders of the runs, and
both are looked at again when it starts: killed at any moment, it goes on where it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from runner import runs
from runner.clock import Clock, us_of
from runner.errors import Exit, FatalError, RunnerError, SpecError
from runner.history import outcome as outcome_of
from runner.load import load_job
from runner.lock import is_locked
from runner.manifest import Manifest, utc_text
from runner.notify import watch
from runner.problems import display
from runner.schedule.moments import next_start
from runner.service import agenda
from runner.service.agenda import Called, Prepare, Scheduled
from runner.service.book import Book, NewTask, Task
from runner.service.folder import ScheduledJobs
from runner.service.inbox import REFUSED, TAKEN, Inbox
from runner.service.processes import Launcher, Process
from runner.service.submission import prepared
from runner.service.work import LOG, home_of, is_waiting, job_of

MOST_KILLS = 3
"""How often a task's process may be killed before the task is given up."""

POLL_S = 0.25
"""How often the service looks at what it has to do."""

TROUBLED_S = 5.0
"""The same while its disk is full, or it may not write."""

_AGAIN_S = 60
_LOCKED_S = 5
_LATE_EVERY_US = 300_000_000
_NEVER_US = 1 << 55
_NAMED = 10


@dataclass
class _Going:
    task: Task
    process: Process
    told: bool = False


class Service:
    """Works through the queue of one `outputs/`. The holder of its lock (`serve`) has it to itself.

    Args:
        book: its queue.
        jobs: where schedules are.
        inbox: where job files are dropped.
        workers: how many tasks at a time.
        launch: begins a task.
        environ: usually `os.environ`.
        say: takes an event, one line.
    """

    def __init__(
        self,
        outputs: Path,
        book: Book,
        jobs: ScheduledJobs,
        inbox: Inbox,
        *,
        workers: int,
        launch: Launcher,
        clock: Clock,
        environ: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        self._outputs = outputs
        self._book = book
        self._jobs = jobs
        self._inbox = inbox
        self._workers = workers
        self._launch = launch
        self._clock = clock
        self._environ = environ
        self._say = say
        self._going: dict[int, _Going] = {}
        self._stuck: set[str] = set()  # files of the inbox, by their tokens, that could not be moved away
        self._held: set[int] = set()  # tasks that wait for another run of their job, and were said to
        self._late: set[str] = set()  # jobs that were said to be late
        self._looked_us = self._looked_for_late_us = clock.now_us()
        self._scheduled: list[Scheduled] = []
        self._next: dict[Scheduled, int] = {}  # when to ask again, so that waiting costs next to nothing
        self.stopping = False

    def run(self, wake: threading.Event, *, until_idle: bool = False) -> None:
        """Work until stopped. A full disk tonight is no reason to be gone tomorrow.

        Args:
            wake: set by who changes `stopping`.
            until_idle: or until nothing is queued or going on.

        Raises:
            SpecError: the queue is damaged.
        """
        trouble = None
        while True:
            try:
                self.turn()
                idle = until_idle and self.idle
                trouble = None
            except (FatalError, OSError) as error:
                idle = False
                if str(error) != trouble:
                    self._say(f"error: {error}")
                trouble = str(error)
            # What cannot be written down now is found out again at the next start.
            working = self.working if trouble is None else self.alive
            if idle or (self.stopping and not working):
                return
            wake.wait(POLL_S if trouble is None else TROUBLED_S)
            wake.clear()

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or going on."""
        return not self._going and not self._book.has_open_tasks

    @property
    def working(self) -> bool:
        """Whether a task is going on, or what came of it is not written down yet."""
        return bool(self._going)

    @property
    def alive(self) -> bool:
        """Whether the process of a task is there."""
        return any(going.process.poll() is None for going in self._going.values())

    def turn(self) -> None:
        """Do what there is to do now.

        Raises:
            FatalError, OSError: it cannot be written down; what was not done is done the next time.
        """
        for going in self._going.values():
            if not going.told and (self.stopping or self._book.task(going.task.id).cancelled):
                going.told = True
                going.process.stop()
        for going in list(self._going.values()):
            code = going.process.poll()
            if code is not None:
                self._ended(going.task, code)
                del self._going[going.task.id]
        if self.stopping:
            return
        self._recover()
        self._look_at_schedules()
        self._look_into_inbox()
        self._begin()
        if abs(self._clock.now_us() - self._looked_for_late_us) >= _LATE_EVERY_US:
            self._looked_for_late_us = self._clock.now_us()
            self.look_for_late()

    def kill(self) -> None:
        """End what is going on at once; its runs can be continued."""
        for going in self._going.values():
            going.process.kill()

    # Tasks ------------------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Queue again what is said to go on and does not: the service was killed, or could not note what came of it."""
        for task in self._book.tasks("running"):
            if task.id in self._going:
                continue
            if task.cancelled:
                self._close(task, "cancelled", None, runs.of_task(self._outputs / task.job, task.id))
                continue
            self._book.put_back(task, task.begins_us)
            self._note(task, "was cut off, and will be continued")

    def _begin(self) -> None:
        now_us = self._clock.now_us()
        for task in self._book.next_of_jobs(now_us):
            if sum(not is_waiting(self._outputs, number) for number in self._going) >= self._workers:
                return
            if task.cancelled:  # just when its process had ended
                self._close(task, "cancelled", None, runs.of_task(self._outputs / task.job, task.id))
                continue
            if any(going.task.job == task.job for going in self._going.values()):
                continue
            if is_locked(self._outputs / task.job):
                if task.id not in self._held:
                    self._held.add(task.id)
                    self._note(task, "waits: another run of this job is going on")
                continue
            self._held.discard(task.id)
            if not self._book.begin(task, now_us):  # it was cancelled just now
                continue
            try:
                process = self._launch(task)
            except OSError as error:
                why = f"its process cannot be started: {error.strerror or error}"
                self._try_later(task, why, "failed", why)
                continue
            self._going[task.id] = _Going(task, process)
            self._note(task, "began" if task.started_us is None else "goes on")

    def _ended(self, task: Task, code: int) -> None:
        task = self._book.task(task.id)
        now_us = self._clock.now_us()
        run = runs.of_task(self._outputs / task.job, task.id)
        ended_well = code in (Exit.OK, Exit.SOME_FAILED)
        if task.cancelled and not ended_well:
            self._close(task, "cancelled", None, run)
        elif code == Exit.LOCKED:
            self._book.put_back(task, now_us + _LOCKED_S * 1_000_000)
            self._note(task, "waits: another run of this job is going on")
        elif self.stopping and (code == Exit.INTERRUPTED or code < 0):
            self._book.put_back(task, task.begins_us)
            self._note(task, "was interrupted, and will be continued")
        elif code < 0:
            last = f"its process was killed {MOST_KILLS} times, the last by signal {-code}"
            self._try_later(task, f"was killed by signal {-code}", "killed", last, run)
        else:
            outcome = "cancelled" if code == Exit.INTERRUPTED else None
            self._close(task, outcome, None if ended_well else self._last_error(task), run)

    def _try_later(self, task: Task, why: str, outcome: str, last: str, run: Path | None = None) -> None:
        """Queue a task again whose process died, or was not there at all; the third time it is given up.

        Args:
            outcome: how it ended where it is given up, `last` being the reason.
        """
        if task.kills + 1 < MOST_KILLS:
            self._book.put_back(task, self._clock.now_us() + _AGAIN_S * 1_000_000, killed=True)
            self._note(task, f"{why}; it goes on in {_AGAIN_S} s")
            return
        file = job_of(self._outputs, task)  # what it was made from may have gone: into `inbox/taken/`
        self._close(task, outcome, last, run)
        hint = "is there enough memory? `runner resume` goes on with the run"
        error = FatalError(last, kind="killed", hint=hint)
        self._tell_of(file, error)

    def _close(self, task: Task, outcome: str | None, why: str | None = None, run: Path | None = None) -> None:
        """Note how a task ended: as its run did, unless that is known better, or the run has not ended."""
        rows = ""
        manifest = None
        if run is not None:
            with suppress(SpecError):  # which `runner runs` shows
                manifest = Manifest.load(run)
        if run is not None and manifest is not None:
            if manifest.status in ("finished", "stopped", "waiting"):
                outcome = outcome or outcome_of(manifest, run)
            if manifest.summary:
                rows = f": {manifest.summary.get('ok', 0):,} of {manifest.results:,} rows ok"
        outcome = outcome or "failed"
        self._book.end(task, self._clock.now_us(), outcome, why, None if run is None else run.name)
        self._note(task, outcome + rows + (f" ({why})" if why else ""))

    def _last_error(self, task: Task) -> str | None:
        """Return the last message in a task's log."""
        try:
            lines = (home_of(self._outputs, task.id) / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
        said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return said[-1] if said else None

    # Schedules --------------------------------------------------------------------------------------------------------

    def _look_at_schedules(self) -> None:
        self._scheduled, problems, doubles = self._jobs.look()
        for path, error in problems:
            self._event(f"{display(path)} cannot be read: {error.message}")
            self._tell_of(path, error)
        for path, other in doubles:
            self._event(f"{display(path)} is left out: its job has the name of that in {display(other)}")
        # A file that is as it was before last has another line in the book meanwhile.
        self._next = {scheduled: self._next[scheduled] for scheduled in self._scheduled if scheduled in self._next}
        before_us, self._looked_us = self._looked_us, self._clock.now_us()
        if self._looked_us < before_us:  # the clock was set back
            self._next.clear()
        for scheduled in self._scheduled:
            now_us = self._clock.now_us()
            if now_us < self._next.get(scheduled, 0):
                continue
            known = self._book.plan(scheduled.job)
            self._say_called(scheduled, agenda.call(self._book, scheduled, self._outputs, now_us, _preparing()))
            plan = agenda.first_seen(self._book, scheduled, now_us)
            upcoming = next_start(scheduled.schedule, scheduled.job, agenda.at(plan.last_us))
            self._next[scheduled] = now_us + _NEVER_US if upcoming is None else us_of(upcoming.begins)
            if known is None or known.line != scheduled.line:
                when = f"{upcoming.local:%Y-%m-%d %H:%M %Z}" if upcoming else "never"
                self._event(f"{scheduled.job} is scheduled ({scheduled.line}): next {when}")

    def _say_called(self, scheduled: Scheduled, called: Sequence[Called]) -> None:
        passed = [each for each in called if each.task is None and each.error is None]
        if len(passed) > _NAMED:
            first, last = (_when(scheduled, each) for each in (passed[0], passed[-1]))
            self._event(
                f"{scheduled.job}  {len(passed):,} moments are not run, {first} to {last}: `runner runs` has each"
            )
        for each in called:
            if each.task is not None or each.error is not None or len(passed) <= _NAMED:
                self._say_one(scheduled, each)

    def _say_one(self, scheduled: Scheduled, called: Called) -> None:
        when = _when(scheduled, called)
        for task in called.cancelled:
            self._note(task, "is cancelled: the next run of its job begins, and `overlap: cancel`")
        if called.task is not None:
            why = f" ({called.record.why})" if called.record.why else ""
            self._note(called.task, f"is due: {when}{why}")
        else:
            self._event(f"{scheduled.job}  {called.record.verdict}: {when} ({called.record.why})")
        if called.error is not None:
            self._tell_of(scheduled.job_file, called.error)

    def look_for_late(self) -> None:
        """Tell those who asked for it of jobs whose last success is too old."""
        for scheduled in self._scheduled:
            if not (scheduled.tells_late and scheduled.schedule.enabled):
                continue
            plan = self._book.plan(scheduled.job)
            try:
                job = load_job(scheduled.job_file)
            except RunnerError:
                continue  # which was said when it was due
            base = self._outputs / scheduled.job
            since_us = plan.since_us if plan else None
            if not watch.tell_if_late(job, base, self._clock, self._environ, self._event, since_us=since_us):
                self._late.discard(scheduled.job)
            elif scheduled.job not in self._late:
                self._late.add(scheduled.job)
                self._event(f"{scheduled.job} is late: its last success is too long ago")

    def _tell_of(self, job_file: Path, error: RunnerError) -> None:
        watch.tell_of_broken_file(job_file, error, self._outputs, self._clock, self._environ, self._event)

    # The inbox --------------------------------------------------------------------------------------------------------

    def _look_into_inbox(self) -> None:
        for path, token in self._inbox.ready():
            if token in self._stuck:
                continue
            try:
                self._take(path, token)
            except OSError as error:
                self._stuck.add(token)
                self._event(f"{display(path)} cannot be moved away: {error.strerror or error}")

    def _take(self, path: Path, token: str) -> None:
        """Submit a file of the inbox, or refuse it.

        Raises:
            OSError: it cannot be moved away.
        """
        now_us = self._clock.now_us()
        try:
            new = prepared(path, now_us, "inbox", token=token)
        except SpecError as error:
            name = f"{utc_text(now_us)[:19].replace(':', '')}-{path.name}"
            self._event(f"{display(path)} is refused: {error.message} (see {display(self._inbox.folder / REFUSED)}/)")
            put = self._inbox.put_away(path, REFUSED, name)
            put.with_suffix(".error.txt").write_text(f"{error}\n", encoding="utf-8")
            return
        task = self._book.submit(new, now_us)
        known = task or self._book.with_token(token)  # it was queued just before the service ended
        if task is not None:
            self._note(task, f"was found in {display(self._inbox.folder)}/")
        number = f"{known.id:05d}-" if known is not None else ""
        self._inbox.put_away(path, TAKEN, number + path.name)

    # What is said -----------------------------------------------------------------------------------------------------

    def _note(self, task: Task, text: str) -> None:
        self._event(f"{task.job} #{task.id}  {text}")

    def _event(self, text: str) -> None:
        self._say(f"{utc_text(self._clock.now_us())[:19]}Z  {text}")


def _when(scheduled: Scheduled, called: Called) -> str:
    return f"{agenda.at(called.record.at_us).astimezone(scheduled.schedule.zone):%Y-%m-%d %H:%M %Z}"


def _preparing() -> Prepare:
    """Return what makes the tasks of moments that have come. Those of one date are alike, and loaded once."""
    known: dict[date, NewTask] = {}

    def prepare(scheduled: Scheduled, at_us: int) -> NewTask:
        run_date = agenda.at(at_us).astimezone(scheduled.schedule.zone).date()
        if run_date not in known:
            known[run_date] = prepared(scheduled.job_file, at_us, "schedule", run_date=run_date)
        return replace(known[run_date], begins_us=at_us, moment_us=at_us)

    return prepare
