"""The composition root: makes the real clock, client, store and display, and runs a job with them."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from runner import parts, runs, strategies
from runner.atomic import write_text
from runner.call import Call
from runner.clock import Clock, SystemClock
from runner.config import ResolvedEndpoint
from runner.dataset.fingerprint import FileStamp, unchanged
from runner.dataset.survey import Survey
from runner.errors import Exit, FatalError, InputError, RunnerError, SpecError
from runner.limits import Limiter
from runner.load import Job, load_job
from runner.lock import locked
from runner.manifest import Manifest, Session, encode_schema, utc_text, versions
from runner.openai_client import Connection, open_client
from runner.output import Output
from runner.pipeline import Pipeline
from runner.plan import Plan, make_plan
from runner.progress import Display, LiveDisplay, NoDisplay, PlainDisplay, Progress
from runner.records import BadRow, Item
from runner.snapshot import as_run, changed, snapshot
from runner.steady import steady
from runner.stop import Stop
from runner.store import ResultStore, disk_error
from runner.summary import summarize
from runner.tally import Tally

OUTPUTS = "outputs"
SNAPSHOT = "job.yaml"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        stopped_by: why it ended early; None when it finished or was interrupted.
        idle: there was nothing to do.
    """

    folder: Path
    manifest: Manifest
    exit_code: Exit
    stopped_by: RunnerError | None = None
    idle: bool = False


@dataclass(frozen=True)
class Console:
    """How much to show.

    Args:
        live: a display that renews itself, for a terminal; otherwise plain lines.
    """

    quiet: bool = False
    live: bool = False

    def open(self, title: str, clock: Clock) -> Display:
        if self.quiet:
            return NoDisplay()
        return LiveDisplay(title) if self.live else PlainDisplay(clock)


def start(
    job_file: Path,
    overrides: Mapping[str, str],
    *,
    rehearse: bool = False,
    outputs: Path | None = None,
    console: Console | None = None,
) -> Outcome:
    """Run a job from its first row.

    Args:
        overrides: dotted key to YAML text, as `--set` gives them.
        rehearse: send nothing to the job's endpoint, but to the embedded simulator.
        outputs: where run folders go; default: `outputs/` in the project root.

    Raises:
        SpecError, InputError: the job cannot be run as it is; nothing was sent.
        LockedError: another run of this job is going on.
        FatalError: the run's folder cannot be written to.
    """
    clock = SystemClock()
    console = console or Console()
    overrides = {**overrides, **({"endpoint": "simulator"} if rehearse else {})}
    job = load_job(job_file, overrides=overrides, environ=os.environ)
    plan = make_plan(job)
    found = _survey(plan, console, clock)
    output = plan.output(found)
    base = (outputs or job.root / OUTPUTS) / job.spec.name
    with _writing(base):
        base.mkdir(parents=True, exist_ok=True)
        with locked(base, f"runner run {job_file.name}"):
            rehearsal = job.endpoint.simulator is not None
            folder = runs.create(base, clock.now_us(), rehearsal)
            manifest = _new_manifest(job, folder, overrides, found, output)
            write_text(folder / SNAPSHOT, snapshot(job))
            manifest.save(folder)
            runs.point_latest(folder)
            return _Execution(plan, output, manifest, folder, console, clock).run()


def resume(
    folder: Path, overrides: Mapping[str, str], *, retry: bool = False, console: Console | None = None
) -> Outcome:
    """Continue a run, or (with `retry`) send its failed rows again.

    Raises:
        SpecError, InputError: job or input changed since, or there is nothing to do.
        LockedError: another run of this job is going on.
    """
    clock = SystemClock()
    found = _to_continue(folder, retry)
    if isinstance(found, Outcome):
        return found
    with _writing(folder), locked(folder.parent, f"runner {'retry' if retry else 'resume'} {folder.name}"):
        found = _to_continue(folder, retry)  # again: its last holder may have finished it just now
        if isinstance(found, Outcome):
            return found
        manifest, retry = found
        job = _same_job(manifest, folder, {**manifest.overrides, **overrides})
        plan = make_plan(job)
        _refuse_changed_input(manifest, plan)
        _close_killed_sessions(manifest, folder)
        output = Output(manifest.schema, manifest.copied_columns, job.spec.model)
        return _Execution(plan, output, manifest, folder, console or Console(), clock, retry=retry).run()


def _to_continue(folder: Path, retry: bool) -> tuple[Manifest, bool] | Outcome:
    """Return the run and whether to go on with it as a retry; or how it ended, when there is nothing to do."""
    manifest = Manifest.load(folder)
    whole = parts.rows(folder) >= manifest.input["rows"]
    if retry and not whole:
        raise SpecError(
            "this run is not finished", where=str(folder), hint=f"continue it first: runner resume {folder}"
        )
    if manifest.status == "finished" and whole and not (retry and manifest.summary["failed"]):
        return Outcome(folder, manifest, _finished_code(manifest), idle=True)
    cut_short = manifest.status != "finished" and bool(manifest.sessions) and manifest.sessions[-1].retry
    return manifest, retry or (cut_short and whole)


def _same_job(manifest: Manifest, folder: Path, overrides: Mapping[str, str]) -> Job:
    """Load the job of a run again; from the run's own copy when the job file is gone."""
    path = Path(manifest.job_file)
    if path.is_file():
        job = load_job(path, overrides=overrides, environ=os.environ)
    else:
        job = load_job(folder / SNAPSHOT, overrides=overrides, environ=os.environ, root=Path(manifest.root))
    different = changed(manifest.spec, as_run(job))
    if different:
        names = ", ".join(f"`{name}`" for name in different)
        raise SpecError(
            f"the job has changed since this run began: {names}",
            where=str(path),
            hint=f"undo the change to continue, or start afresh with `runner run {path.name}`",
        )
    return job


def _refuse_changed_input(manifest: Manifest, plan: Plan) -> None:
    stamps = [FileStamp(**stamp) for stamp in manifest.input["files"]]
    different = unchanged(stamps, plan.job.root)
    known = {stamp.path for stamp in stamps}
    different += [source.name for source in plan.dataset.sources if source.name not in known]
    if different:
        raise InputError(
            f"the input has changed since this run began: {', '.join(different)}",
            where=str(plan.job.root),
            hint="put the old file back to continue, or start afresh with `runner run`",
        )


def _close_killed_sessions(manifest: Manifest, folder: Path) -> None:
    """Give a session that was killed the time until its last sign of life, the newest file it left."""
    for session in manifest.sessions:
        if session.finished_at is None:
            last_s = max(path.stat().st_mtime for path in folder.iterdir())
            began_s = datetime.fromisoformat(session.started_at).timestamp()
            session.ended = "killed"
            session.finished_at = utc_text(int(last_s * 1e6))
            session.wall_s = round(max(0.0, last_s - began_s), 3)


def _survey(plan: Plan, console: Console, clock: Clock) -> Survey:
    display = console.open("reading the input", clock)
    try:
        noted = clock.steady_s()

        def progress(rows: int) -> None:
            nonlocal noted
            if clock.steady_s() - noted > 2:
                noted = clock.steady_s()
                display.note(f"reading the input: {rows:,} rows so far")

        return plan.survey(progress)
    finally:
        display.close()


def _new_manifest(job: Job, folder: Path, overrides: Mapping[str, str], found: Survey, output: Output) -> Manifest:
    skips_bad = job.spec.input.on_bad_row == "skip"
    endpoint = job.endpoint
    return Manifest(
        run=folder.name,
        job=job.spec.name,
        status="running",
        rehearsal=endpoint.simulator is not None,
        root=str(job.root.resolve()),
        job_file=str(job.path.resolve()),
        overrides=dict(overrides),
        spec=as_run(job),
        input={
            "rows": found.rows - (found.bad if skips_bad else 0),
            "bad_rows": found.bad,
            "skipped_rows": found.bad if skips_bad else 0,
            "repeated_ids": found.repeated_ids,
            "files": [asdict(stamp) for stamp in found.files],
        },
        columns={field.name: str(field.type) for field in output.schema},
        arrow_schema=encode_schema(output.schema),
        copied_columns=list(output.copied),
        endpoint={"name": endpoint.name, "base_url": endpoint.base_url or "the embedded simulator"},
        versions=versions(),
    )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn any failure to write a run's folder into one message."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, folder) from error


class _Execution:
    """One session of work on one run."""

    def __init__(
        self,
        plan: Plan,
        output: Output,
        manifest: Manifest,
        folder: Path,
        console: Console,
        clock: Clock,
        *,
        retry: bool = False,
    ) -> None:
        self._plan = plan
        self._output = output
        self._manifest = manifest
        self._folder = folder
        self._console = console
        self._clock = clock
        self._retry = retry
        self._tally = Tally()
        self._session = Session(utc_text(clock.now_us()), strategy=plan.job.spec.strategy, retry=retry)
        self._stopped_by: RunnerError | None = None
        self._interrupted = False
        self._complete = False

    def run(self) -> Outcome:
        """Work, and write down how it went, whatever happens."""
        limits = self._plan.job.limits
        self._session.limits = limits.model_dump(exclude_none=True)
        self._manifest.status = "running"
        self._manifest.sessions.append(self._session)
        self._manifest.save(self._folder)
        try:
            with _connected(self._plan.job) as connection:
                began = self._clock.steady_s()
                try:
                    _run_loop(lambda: self._work(connection))
                finally:
                    self._close_session(self._clock.steady_s() - began)
        except RunnerError as error:
            self._stopped_by = error
        return self._finish()

    async def _work(self, connection: Connection) -> None:
        plan, job, tally, clock = self._plan, self._plan.job, self._tally, self._clock
        limits = job.limits
        concurrency = limits.concurrency or 1
        stop = Stop()
        limiter = Limiter(limits.requests_per_minute, limits.tokens_per_minute, stop.waiting)
        client = open_client(
            connection, plan.dialect.path, concurrency=concurrency, transport=job.spec.transport, clock=clock
        )
        call = Call(
            client, limiter, plan.dialect, plan.answer, plan.tariff, job.spec.retry, stop, tally, clock,
            endpoint=job.endpoint.name, max_output_tokens=plan.builder.max_output_tokens,
        )  # fmt: skip
        metadata = {"run": self._manifest.run, "job": self._manifest.job, "rehearsal": self._manifest.rehearsal}
        display = self._console.open(self._title(), clock)
        try:
            with ResultStore(
                self._folder, self._output, job.spec.output.rows_per_part, metadata, retry=self._retry
            ) as store:
                total = store.found_failed if self._retry else self._manifest.input["rows"]
                found = (0, 0) if self._retry else (store.found, store.found_failed)
                progress = Progress(display, clock, total, *found, concurrency)
                pipeline = Pipeline(
                    self._rows(), plan.builder, store, strategies.load(job.spec.strategy)(concurrency), call, stop,
                    tally, clock, rule=None if self._retry else job.spec.stop,
                    show=lambda tally: progress.show(tally, limiter.paused_s()),
                )  # fmt: skip
                with _signals(stop, display, asyncio.current_task()):
                    await pipeline.run()
            done = store.found + tally.done
            self._complete = not stop.requested if self._retry else done >= self._manifest.input["rows"]
            self._complete = self._complete and store.failure is None
            self._stopped_by = store.failure or stop.reason
            self._interrupted = stop.requested and self._stopped_by is None
        finally:
            display.close()
            await client.close()

    def _rows(self) -> Iterator[Item | BadRow]:
        stamps = [FileStamp(**stamp) for stamp in self._manifest.input["files"]]
        return steady(self._plan.rows(), self._manifest.input["rows"], stamps, self._plan.job.root, self._clock)

    def _title(self) -> str:
        return self._manifest.job + (" (rehearsal)" if self._manifest.rehearsal else "")

    def _close_session(self, wall_s: float) -> None:
        session, tally, limits = self._session, self._tally, self._plan.job.limits
        session.finished_at = utc_text(self._clock.now_us())
        session.wall_s = round(wall_s, 3)
        session.rows = tally.done
        session.attempts = tally.attempts
        session.max_in_flight = tally.max_in_flight
        session.rate_limited = tally.rate_limited
        minutes = wall_s / 60
        if limits.concurrency:
            session.use["concurrency"] = round(tally.busy_s / (wall_s * limits.concurrency), 4)
        if limits.requests_per_minute:
            share = tally.attempts / (minutes * limits.requests_per_minute)
            session.use["requests_per_minute"] = round(min(1.0, share), 4)  # the first burst shows in a short run
        if limits.tokens_per_minute:
            tokens = tally.input_tokens + tally.output_tokens
            session.use["tokens_per_minute"] = round(min(1.0, tokens / (minutes * limits.tokens_per_minute)), 4)

    def _finish(self) -> Outcome:
        manifest = self._manifest
        manifest.stopped_by = None
        if self._complete:
            manifest.status = self._session.ended = "finished"
        elif self._interrupted:
            manifest.status = self._session.ended = "interrupted"
        else:
            manifest.status = "stopped"
            reason = self._stopped_by
            self._session.ended = reason.kind if isinstance(reason, FatalError) else "error"
            if reason is not None:
                manifest.stopped_by = {"kind": self._session.ended, "message": reason.message, "hint": reason.hint}
        wall_s = sum(session.wall_s for session in manifest.sessions)
        manifest.summary = summarize(self._folder, manifest.schema, wall_s, _counted_column(self._plan))
        with suppress(OSError):  # on a full disk the rows matter; the summary can be made again
            manifest.save(self._folder)
        return Outcome(self._folder, manifest, self._exit_code(), None if self._complete else self._stopped_by)

    def _exit_code(self) -> Exit:
        if self._interrupted and not self._complete:
            return Exit.INTERRUPTED
        if not self._complete:
            return Exit.STOPPED  # whatever the reason: what is done is kept
        return _finished_code(self._manifest)


def _finished_code(manifest: Manifest) -> Exit:
    return Exit.SOME_FAILED if manifest.summary["failed"] else Exit.OK


def _counted_column(plan: Plan) -> str | None:
    return plan.answer.fields[0].name if plan.job.spec.output.labels is not None else None


@contextmanager
def _connected(job: Job) -> Iterator[Connection]:
    """Yield where to send requests; starts the embedded simulator when the endpoint is one."""
    endpoint = job.endpoint.resolve(os.environ)
    if endpoint.simulator is None:
        yield connection_to(endpoint, endpoint.base_url or "")
        return
    from runner.simulator import SimulatorProcess, SimulatorSettings

    with SimulatorProcess(SimulatorSettings.model_validate(endpoint.simulator)) as process:
        yield connection_to(endpoint, process.base_url)


def connection_to(endpoint: ResolvedEndpoint, base_url: str) -> Connection:
    """Return how to reach an endpoint."""
    key: str | Callable[[], Awaitable[str]] = endpoint.api_key() or "none"
    if endpoint.rotates:

        async def current_key() -> str:
            return endpoint.api_key() or "none"

        key = current_key
    return Connection(
        endpoint.name,
        base_url,
        key,
        endpoint.organization,
        endpoint.project,
        endpoint.headers,
        endpoint.azure_api_version,
    )


def _run_loop(work: Callable[[], Any]) -> None:
    gc.freeze()  # the SDK's half a million objects stay: not looking at them again saves about 15 % of the time
    try:
        import uvloop
    except ImportError:  # not made for this system
        asyncio.run(work())
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            loop.run(work())


@contextmanager
def _signals(stop: Stop, display: Display, work: asyncio.Task[Any] | None) -> Iterator[None]:
    """The first SIGINT or SIGTERM lets what is in flight finish; the second ends at once."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.requested and work is not None:
            work.cancel()
            return
        display.note("stopping: waiting for the answers that are on their way (again to stop at once)")
        stop.request()

    wanted = (signal.SIGINT, signal.SIGTERM)
    try:
        for number in wanted:
            loop.add_signal_handler(number, on_signal)
    except (NotImplementedError, RuntimeError, ValueError):
        yield  # not the main thread: its owner handles signals
        return
    try:
        yield
    finally:
        for number in wanted:
            loop.remove_signal_handler(number)


def is_terminal() -> bool:
    """Whether a display that renews itself makes sense."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
