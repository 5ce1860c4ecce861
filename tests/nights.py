"""The service on a clock that a test sets: days pass in no time, and runs are carried out in this process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import yaml
from project import Project

from runner.errors import RunnerError
from runner.progress import Console
from runner.service.book import Book, Task
from runner.service.folder import ScheduledJobs
from runner.service.inbox import Inbox
from runner.service.processes import Launcher, Process
from runner.service.serve import Service
from runner.service.submission import prepared
from runner.service.work import LOG, home_of, work
from runner.stop import Stop


class Wall:
    """A wall clock that is set by hand; what is measured goes on in real time."""

    def __init__(self, at: str) -> None:
        self.now = datetime.fromisoformat(at)

    @classmethod
    def at_us(cls, now_us: int) -> Wall:
        return cls(datetime.fromtimestamp(now_us / 1e6, UTC).isoformat())

    def now_us(self) -> int:
        return round(self.now.timestamp() * 1e6)

    def steady_s(self) -> float:
        return time.perf_counter()


class InProcess:
    """A task carried out in this process when it begins, which ends some time later."""

    def __init__(self, here: Nights, task: Task, lasts: timedelta) -> None:
        self.task = task
        self._here = here
        self._ends = here.wall.now + lasts
        self._code: int | None = None
        self.stopped = False
        if not lasts:
            self._carry_out()

    def _carry_out(self) -> None:
        with patch.dict(os.environ, self._here.project.environ):
            stop = Stop()
            if self.stopped:
                stop.request()
            try:
                outcome = work(self.task, self._here.outputs, os.environ, stop=stop, clock=self._here.wall,
                               console=Console(quiet=True))  # fmt: skip
                self._code = outcome.exit_code
            except RunnerError as error:
                log = home_of(self._here.outputs, self.task.id) / LOG
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_text(f"error: {error}\n", encoding="utf-8")
                self._code = error.exit_code

    def poll(self) -> int | None:
        if self._code is None and (self.stopped or self._here.wall.now >= self._ends):
            self._carry_out()
        return self._code

    def stop(self) -> None:
        self.stopped = True

    def kill(self) -> None:
        self._code = -9


class Nights:
    """A service in a project.

    Attributes:
        lasts: how long a task takes; at first no time.
        launch: what begins one.
        said: the events so far.
        began: the tasks that were begun or continued, in order.
    """

    def __init__(self, project: Project, at: str, *, workers: int = 2) -> None:
        self.project = project
        self.outputs = project.folder / "outputs"
        self.jobs = project.folder / "jobs"
        self.jobs.mkdir(exist_ok=True)
        self.wall = Wall(at)
        self.said: list[str] = []
        self.began: list[int] = []
        self.lasts: Callable[[Task], timedelta] = lambda task: timedelta(0)
        self.launch: Launcher = lambda task: InProcess(self, task, self.lasts(task))
        self._workers = workers
        self.book = Book(self.outputs)
        self.start()

    def start(self) -> None:
        """Start the service, perhaps after it has been killed."""
        self.book = Book(self.outputs)
        folder = ScheduledJobs(self.jobs)
        self.service = Service(
            self.outputs, self.book, folder, Inbox(self.jobs / "inbox"), workers=self._workers, launch=self._launch,
            clock=self.wall, environ=self.project.environ, say=self.said.append,
        )  # fmt: skip

    def _launch(self, task: Task) -> Process:
        self.began.append(task.id)
        return self.launch(task)

    def job(self, name: str, **changes: object) -> Path:
        """Write a job file, the project's job with changes."""
        path = self.jobs / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**self.project.job, "name": name, **changes}), encoding="utf-8")
        return path

    def submit(self, path: Path, **options: object) -> Task:
        task = self.book.submit(prepared(path, self.wall.now_us(), "submit", **options), self.wall.now_us())  # type: ignore[arg-type]
        assert task is not None
        return task

    def work(self) -> None:
        """Let the service do what there is to do now."""
        still = 0
        for _ in range(100):
            before = len(self.said), len(self.began)
            self.service.turn()
            still = still + 1 if (len(self.said), len(self.began)) == before else 0
            if still == 2:  # the first may have asked for an end
                return
        raise AssertionError("it does not come to rest")

    def until(self, at: str, step: timedelta = timedelta(minutes=30)) -> None:
        """Let time pass, with the service at work."""
        end = datetime.fromisoformat(at)
        while self.wall.now < end:
            self.wall.now = min(self.wall.now + step, end)
            self.work()

    def records(self, job: str = "nightly") -> list[tuple[str, str]]:
        """Return the records of a job's moments: when (UTC), and what became of each."""
        found = []
        for moment in self.book.moments(job):
            outcome = moment.verdict
            if moment.task is not None:
                task = self.book.task(moment.task)
                outcome = task.outcome or task.state
            found.append((datetime.fromtimestamp(moment.at_us / 1e6).astimezone().strftime("%m-%d %H:%M"), outcome))
        return found
