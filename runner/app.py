"""Begins, continues and retries runs: checks that they may, finds or makes their folder, and holds its lock."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from runner import open_files, parts, runs, strategies
from runner.arrival import Arrival
from runner.atomic import write_text
from runner.batches.office import WAIT, Errand
from runner.choice import settle
from runner.clock import Clock, SystemClock
from runner.dataset.survey import Survey
from runner.errors import LockedError, SpecError
from runner.execution import Execution, Outcome, finished_code
from runner.incremental import Asked, NewRows, asking, narrowed
from runner.load import Job
from runner.lock import Hold, locked
from runner.manifest import BY_HAND, EMBEDDED, Manifest, Origin, encode_schema, versions
from runner.notify.watch import watched
from runner.output import Output
from runner.plan import Plan, make_plan, question
from runner.problems import display, typed
from runner.progress import Console
from runner.report import news
from runner.same_job import SNAPSHOT, refuse_changed_input, same_job
from runner.sessions import close_killed
from runner.snapshot import as_run, snapshot
from runner.stop import Stop
from runner.store import disk_error


@dataclass(frozen=True)
class Held:
    """For who holds the lock of the job's folder already, and begins or continues runs under it.

    Attributes:
        alone: no other run of the job goes on meanwhile.
        told: those hear of it who asked for that (`notify`).
    """

    alone: bool = True
    told: bool = True


_NOT_HELD = Held()


@contextmanager
def holding(base: Path, what: str) -> Iterator[None]:
    """Hold the lock of a job's folder, which is made where it is not there.

    Args:
        what: what is being done, for the message that another one gets.

    Raises:
        SpecError: the folder cannot be made.
        LockedError: another run of this job is going on.
    """
    with ExitStack() as held:
        with _beginning(base):
            base.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(base, what))
        yield


def start(
    job: Job,
    *,
    outputs: Path | None = None,
    console: Console | None = None,
    stop: Stop | None = None,
    errand: Errand = WAIT,
    origin: Origin = BY_HAND,
    clock: Clock | None = None,
    held: Held | None = None,
    while_waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Outcome:
    """Run a job from its first row.

    Args:
        outputs: where run folders go; default: `outputs/` in the project root.
        errand: what to do about batches, where the strategy makes some.
        stop: for who wants to end the run from outside.
        origin: what started it. A task of the queue has one run, and so has a moment, whoever asks how often.
        held: how the lock of the job's folder is held; None: it is taken here.
        while_waiting: entered while the run waits for its input, if it has to.

    Raises:
        SpecError, InputError: the job cannot be run as it is, or its input has not come; nothing was sent.
        KeyboardInterrupt: `stop` or a signal came while it waited for its input.
        LockedError: another run of this job is going on, or the task or the moment has a run by now.
        FatalError: the run's folder cannot be written to any more.
    """
    clock = clock or SystemClock()
    console = console or Console()
    base = (outputs or job.root / runs.OUTPUTS) / job.spec.name
    stop = stop or Stop()
    silent = held is not None and not held.told
    with watched(job, base, clock, os.environ, partial(_warn, console, clock), silent=silent) as watch:
        hold = nullcontext() if held else Hold(base, f"runner run {typed(job.path)}")
        around = _Around(base, hold, console, clock, stop, errand, origin, (held or _NOT_HELD).alone, while_waiting)
        with nullcontext() if held else _arrived(job, around):
            outcome = _start(job, around)
        return watch.ended(outcome)


@dataclass(frozen=True)
class _Around:
    """What a run begins with besides its job.

    Attributes:
        base: the job's folder.
        hold: takes its lock.
        alone: no other run of the job goes on meanwhile.
        while_waiting: entered while it waits for its input.
    """

    base: Path
    hold: AbstractContextManager[None]
    console: Console
    clock: Clock
    stop: Stop
    errand: Errand
    origin: Origin
    alone: bool
    while_waiting: Callable[[], AbstractContextManager[None]]


def _start(job: Job, around: _Around) -> Outcome:
    plan = make_plan(job)
    open_files.allow(job.limits.concurrency or 1, display(job.path))
    with asking(plan) as asked:
        found = _survey(plan, around.console, around.clock, asked)
        return _begin(plan, found, asked, around)


def _begin(plan: Plan, found: Survey, asked: Asked | None, around: _Around) -> Outcome:
    base, console, clock, origin = around.base, around.console, around.clock, around.origin
    output, whole, job = plan.output(found), found, plan.job
    with _beginning(base):
        base.mkdir(parents=True, exist_ok=True)
        with around.hold:
            if origin.task is not None and runs.of_task(base, origin.task) is not None:
                raise LockedError(f"another process has begun task {origin.task}", where=str(base))
            if origin.moment is not None and origin.task is None and runs.of_moment(base, origin.moment) is not None:
                raise LockedError(f"another process has begun the run of {origin.moment}", where=str(base))
            new = None if asked is None else _new_rows(asked, base, found, console, clock)
            if new is not None:
                plan, found = narrowed(plan, found, new, sample=job.spec.strategy_name == strategies.AUTO)
            plan, choice = settle(plan, found, clock.now_us(), os.environ)
            job = plan.job
            if choice is not None:
                _say(choice.text(), console, clock)
            folder = runs.create(base, clock.now_us(), job.rehearsal)
            manifest = _new_manifest(job, folder, found, output)
            if new is not None:
                manifest.input["all_rows"] = manifest.input["rows"] + whole.rows - found.rows
                if text := news(manifest):
                    _say(text, console, clock)
            manifest.choice = None if choice is None else choice.as_json()
            manifest.scheduled, manifest.moment, manifest.task = origin.scheduled, origin.moment, origin.task
            try:
                write_text(folder / SNAPSHOT, snapshot(job))
                if new is not None:
                    plan = replace(plan, selection=new.save(folder))
                manifest.save(folder)
                runs.point_latest(folder)
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)  # without its record it is no run
                raise
            with _writing(folder):
                reusable = new is None or new.reusable
                return Execution(
                    plan, output, manifest, folder, console, clock, around.stop, errand=around.errand,
                    alone=around.alone, reusable=reusable,
                ).run()  # fmt: skip


def resume(
    folder: Path,
    overrides: Mapping[str, str],
    *,
    retry: bool = False,
    console: Console | None = None,
    stop: Stop | None = None,
    errand: Errand = WAIT,
    as_begun: bool = False,
    clock: Clock | None = None,
    held: Held | None = None,
) -> Outcome:
    """Continue a run, or (with `retry`) send its failed rows again.

    Args:
        errand: what to do about the run's batches.
        as_begun: with the job as the run has it, whatever has become of the job file.
        held: how the lock of the job's folder is held; None: it is taken here.

    Raises:
        SpecError, InputError: job or input changed since, or there is nothing to do.
        LockedError: another run of this job is going on.
    """
    clock = clock or SystemClock()
    found = _to_continue(folder, retry)
    if isinstance(found, Outcome):
        return found
    what = f"runner {'retry' if retry else 'resume'} {typed(folder)}"
    with _writing(folder), nullcontext() if held else locked(folder.parent, what):
        found = _to_continue(folder, retry)  # again: its last holder may have finished it just now
        if isinstance(found, Outcome):
            return found
        manifest, retry = found
        if retry:
            _refuse_unfinished(manifest, folder)
        job = same_job(manifest, folder, {**manifest.overrides, **overrides}, as_begun=as_begun)
        console = console or Console()
        silent = held is not None and not held.told
        with watched(job, folder.parent, clock, os.environ, partial(_warn, console, clock), silent=silent) as watch:
            plan = replace(make_plan(job), selection=manifest.selection(folder))
            open_files.allow(job.limits.concurrency or 1, display(job.path))
            refuse_changed_input(manifest, plan)
            close_killed(manifest, folder)
            manifest.overrides.update(overrides)
            manifest.spec["evaluate"] = as_run(job)["evaluate"]  # what the answers are held against may change
            manifest.spec["notify"] = as_run(job)["notify"]
            output = Output(manifest.schema, manifest.copied_columns, job.spec.models, manifest.layout)
            execution = Execution(
                plan, output, manifest, folder, console, clock, stop or Stop(), retry=retry, errand=errand,
                alone=(held or _NOT_HELD).alone,
            )  # fmt: skip
            return watch.ended(execution.run())


def _to_continue(folder: Path, retry: bool) -> tuple[Manifest, bool] | Outcome:
    """Return the run and whether to go on with it as a retry; or how it ended, when there is nothing to do."""
    manifest = Manifest.load(folder)
    whole = parts.results(folder) >= manifest.results
    if manifest.status == "finished" and whole and not (retry and manifest.summary["failed"]):
        return Outcome(folder, manifest, finished_code(manifest), idle=True)
    cut_short = manifest.status != "finished" and bool(manifest.sessions) and manifest.sessions[-1].retry
    return manifest, retry or (cut_short and whole)


def _refuse_unfinished(manifest: Manifest, folder: Path) -> None:
    """Only known once the lock is held: a run that is going on is unfinished as well, and should be told as that."""
    if parts.results(folder) < manifest.results:
        raise SpecError(
            "this run is not finished",
            where=str(folder),
            hint=f"continue it first: runner resume {typed(folder)}",
        )


def _say(text: str, console: Console, clock: Clock) -> None:
    display = console.open("", clock)
    display.note(text)
    display.close()


def _warn(console: Console, clock: Clock, text: str) -> None:
    _say(f"warning: {text}", console, clock)


def _survey(plan: Plan, console: Console, clock: Clock, asked: Asked | None) -> Survey:
    display = console.open("reading the input", clock)
    try:
        noted = clock.steady_s()

        def progress(rows: int) -> None:
            nonlocal noted
            if clock.steady_s() - noted > 2:
                noted = clock.steady_s()
                display.note(f"reading the input: {rows:,} rows so far")

        return plan.survey(progress, None if asked is None else asked.unfit)
    finally:
        display.close()


def _new_rows(asked: Asked, base: Path, found: Survey, console: Console, clock: Clock) -> NewRows:
    display = console.open("looking for what is new", clock)
    try:
        return asked.new_rows(base, found.rows, lambda text: display.note(f"warning: {text}"))
    finally:
        display.close()


def _new_manifest(job: Job, folder: Path, found: Survey, output: Output) -> Manifest:
    skips_bad = job.spec.input.on_bad_row == "skip"
    columns = output.layout.file_schema(output.schema)
    return Manifest(
        run=folder.name,
        job=job.spec.name,
        status="running",
        rehearsal=job.rehearsal,
        root=str(job.root.resolve()),
        job_file=str(job.path.resolve()),
        overrides=dict(job.overrides),
        spec=as_run(job),
        input={
            "rows": found.rows - (found.bad if skips_bad else 0),
            "bad_rows": found.bad,
            "skipped_rows": found.bad if skips_bad else 0,
            "repeated_ids": found.repeated_ids,
            "files": [asdict(stamp) for stamp in found.files],
        },
        columns={field.name: str(field.type) for field in columns},
        arrow_schema=encode_schema(output.schema),
        copied_columns=list(output.copied),
        endpoints=[{"name": endpoint.name, "base_url": endpoint.base_url or EMBEDDED} for endpoint in job.pool],
        versions=versions(),
        run_date=job.run_date.isoformat(),
    )


@contextmanager
def _arrived(job: Job, around: _Around) -> Iterator[None]:
    """Wait for the input, where the job says so. Who waits holds the job, or two would wait for one file, and run."""
    wait = job.spec.input.wait_for
    arrival = None
    if wait is not None:
        moment = None if around.origin.moment is None else datetime.fromisoformat(around.origin.moment)
        arrival = Arrival(job, wait, around.clock, moment)
    if arrival is None or arrival.complete:
        yield
        return
    question(job)  # mistakes in it are told now, and not when the input has come
    with ExitStack() as held:
        with _beginning(around.base):
            around.base.mkdir(parents=True, exist_ok=True)
            held.enter_context(around.hold)
        display = around.console.open("waiting for the input", around.clock)
        try:
            with around.while_waiting():
                arrival.wait(around.stop, display.note)
        finally:
            display.close()
        yield


@contextmanager
def _beginning(base: Path) -> Iterator[None]:
    """Turn a failure to make a run's folder into one message. There is no run yet that could be resumed."""
    try:
        yield
    except OSError as error:
        raise SpecError(
            f"no run can be kept there: {error.strerror or error}",
            where=str(error.filename or base),
            hint="name another folder with `--output DIR`, or mend this one",
        ) from error


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn any failure to write a run's folder into one message."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, folder) from error
