"""What a task's own process does: begins its run, or continues it, and cleans up behind it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from runner import app, retention, runs
from runner.atomic import write_text
from runner.clock import Clock, SystemClock
from runner.errors import RunnerError
from runner.execution import Outcome
from runner.manifest import Origin, utc_text
from runner.notify import watch
from runner.progress import Console
from runner.service.book import FOLDER, HOME, Task
from runner.service.submission import loaded
from runner.stop import Stop

JOB = "job.yaml"
LOG = "log.txt"
_WAITING = "waiting"


def is_waiting(outputs: Path, task: int) -> bool:
    """Whether the process of a task that is going on waits for its input: then it takes nobody's place."""
    return (home_of(outputs, task) / _WAITING).exists()


@contextmanager
def _marked(outputs: Path, task: int) -> Iterator[None]:
    mark = home_of(outputs, task) / _WAITING
    mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def home_of(outputs: Path, task: int) -> Path:
    """Return the folder of a task, where its job and its log are."""
    return outputs / HOME / f"{FOLDER}{task:05d}"


def job_of(outputs: Path, task: Task) -> Path:
    """Write the job of a task into its folder, and return the file."""
    file = home_of(outputs, task.id) / JOB
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, task.spec)
    return file


def work(
    task: Task,
    outputs: Path,
    environ: Mapping[str, str],
    *,
    stop: Stop,
    console: Console | None = None,
    clock: Clock | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Carry a task out.

    Its run is found by the task's number, so that it is begun once, however often this is called.

    Args:
        stop: ends the run early.
        warn: told of what goes wrong behind the run.

    Raises:
        RunnerError: as `app.start` and `app.resume` do.
    """
    clock = clock or SystemClock()
    base = outputs / task.job
    file = job_of(outputs, task)
    (file.parent / _WAITING).unlink(missing_ok=True)  # of a process that was killed
    try:
        job = loaded(file, task, environ)
    except RunnerError as error:  # a key that is not set, a schema file that is gone: nobody watches yet
        watch.tell_of_broken_file(file, error, outputs, clock, environ, warn, made_from=Path(task.job_file))
        raise
    run = runs.of_task(base, task.id)
    if run is not None:
        outcome = app.resume(run, {}, console=console, stop=stop, as_begun=True, clock=clock)
    else:
        moment = None if task.moment_us is None else utc_text(task.moment_us)
        origin = Origin(scheduled=task.source == "schedule", moment=moment, task=task.id)
        outcome = app.start(
            job, outputs=outputs, console=console, stop=stop, origin=origin, clock=clock,
            while_waiting=partial(_marked, outputs, task.id),
        )  # fmt: skip
    if task.source == "schedule" and outcome.manifest.status == "finished":
        _prune(base, outcome, clock, warn)
    return outcome


def _prune(base: Path, outcome: Outcome, clock: Clock, warn: Callable[[str], None]) -> None:
    from runner.sections import KeepSpec

    told = outcome.manifest.spec.get("keep")
    if told is None:
        return
    try:
        retention.prune(base, KeepSpec.model_validate(told), clock.now_us())
    except RunnerError as error:  # the run is done, and old ones only take room
        warn(f"old runs were not deleted: {error.message}")


def stop_with_parent(stop: Stop) -> None:
    """Stop when stdin ends: the service has closed it, or it is gone."""

    def wait() -> None:
        while os.read(0, 1 << 10):  # not `sys.stdin`: its lock would be held when Python ends
            pass
        stop.request()

    threading.Thread(target=wait, daemon=True, name="end of stdin").start()
