"""One session of work on one run: everything it needs is made here, and how it went is written down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner import parts, runs, strategies
from runner.budget import NOTHING, Amount, Budget, midnight_us
from runner.calls import Calls, open_gate
from runner.clock import Clock
from runner.connect import connected
from runner.dataset.fingerprint import FileStamp
from runner.earlier import Earlier
from runner.errors import Exit, FatalError, RunnerError
from runner.evaluate import PICTURE
from runner.event_loop import run_loop, stop_on_signals
from runner.known import COLUMNS, Known
from runner.manifest import Manifest, Session, utc_text
from runner.openai_client import Connection
from runner.output import Output
from runner.pipeline import Pipeline
from runner.plan import Plan
from runner.progress import Console, Progress
from runner.records import BadRow, Item
from runner.steady import steady
from runner.stop import Stop
from runner.store import ResultStore
from runner.summary import spent_in, summary_of
from runner.tally import Tally

_BATCH_ROWS = 5_000


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


class Execution:
    """One session of work on one run."""

    def __init__(
        self,
        plan: Plan,
        output: Output,
        manifest: Manifest,
        folder: Path,
        console: Console,
        clock: Clock,
        stop: Stop,
        *,
        retry: bool = False,
    ) -> None:
        self._plan = plan
        self._output = output
        self._manifest = manifest
        self._folder = folder
        self._console = console
        self._clock = clock
        self._stop = stop
        self._retry = retry
        self._tally = Tally()
        self._strategy = strategies.load(plan.job.spec.strategy_name)(
            plan.job.limits.concurrency or 1, plan.job.options
        )
        self._session = Session(utc_text(clock.now_us()), strategy=plan.job.spec.strategy_name, retry=retry)
        self._budget: Budget | None = None
        self._spent_before = NOTHING
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
            with self._known() as known, connected(self._plan.job) as connections:
                began = self._clock.steady_s()
                try:
                    run_loop(lambda: self._work(connections, known))
                finally:
                    self._close_session(self._clock.steady_s() - began)
        except RunnerError as error:
            self._stopped_by = error
        return self._finish()

    @contextmanager
    def _known(self) -> Iterator[Known | None]:
        """Yield the answers that need not be paid for, where the job asks for them."""
        spec = self._plan.job.spec
        if not (spec.reuse or spec.dedupe):
            yield None
            return
        display = self._console.open("looking through earlier answers", self._clock)
        with closing(display), ExitStack() as opened:
            earlier = None
            if spec.reuse:
                earlier = opened.enter_context(Earlier(self._folder.parent, but=self._folder.name))
                for problem in earlier.update():
                    self._session.warnings.append(problem)
                    display.note(f"warning: {problem}")
            known = opened.enter_context(
                closing(Known(self._folder.name, earlier, self._plan.answer, self._clock, dedupe=spec.dedupe))
            )
            if spec.dedupe:
                schema = pa.schema([self._manifest.schema.field(name) for name in COLUMNS])
                known.remember(parts.stored(self._folder, schema, _BATCH_ROWS))
            display.close()
            yield known

    async def _work(self, connections: Sequence[Connection], known: Known | None) -> None:
        plan, job, tally, clock = self._plan, self._plan.job, self._tally, self._clock
        limits = job.limits
        stop = self._stop
        metadata = {"run": self._manifest.run, "job": self._manifest.job, "rehearsal": self._manifest.rehearsal}
        metadata |= self._output.layout.as_metadata()
        display = self._console.open(self._title(), clock)

        def warn(text: str) -> None:
            self._session.warnings.append(text)
            display.note(f"warning: {text}")

        gate = open_gate(job, stop, self._open_budget(), warn)
        calls = Calls(plan, connections, gate, stop, tally, clock, self._manifest.input["rows"], self._stamps())
        try:
            with ResultStore(
                self._folder,
                self._output,
                job.spec.output.rows_per_part,
                metadata,
                retry=self._retry,
                models=len(job.spec.models),
                soon=_soon(),
            ) as store:
                total = store.found_failed if self._retry else self._manifest.results
                found = (0, 0) if self._retry else (store.found, store.found_failed)
                progress = Progress(display, clock, total, *found, self._strategy.in_flight, limits)
                pipeline = Pipeline(
                    self._rows(), plan.builder, store, self._strategy, calls, stop, tally, clock,
                    rule=None if self._retry else job.spec.stop, known=known,
                    show=lambda tally: progress.show(tally, gate.paused_s()),
                )  # fmt: skip
                with stop_on_signals(stop, display.note, asyncio.current_task()):
                    await pipeline.run()
            done = store.found + tally.done
            self._complete = not stop.requested if self._retry else done >= self._manifest.results
            self._complete = self._complete and store.failure is None
            self._stopped_by = store.failure or stop.reason
            self._interrupted = stop.requested and self._stopped_by is None
        finally:
            display.close()

    def _open_budget(self) -> Budget | None:
        """Return the run's budget, less what it and its job have taken so far; None without caps."""
        job = self._plan.job
        caps = job.spec.budget
        if caps.unlimited:
            return None
        # Answers that were thrown away just before the run stopped stand in no row.
        told = (Amount(session.spent_usd, session.spent_tokens) for session in self._manifest.sessions)
        self._spent_before = spent_in(self._folder).or_more(sum(told, NOTHING))
        today_usd = 0.0
        if caps.daily_usd is not None:
            since_us = midnight_us(self._clock)
            alike = [run for run in runs.runs_in(self._folder.parent) if runs.is_rehearsal(run) == job.rehearsal]
            today_usd = sum(spent_in(run, since_us).usd for run in alike)
        self._budget = Budget(caps, self._clock, self._spent_before, today_usd, self._stop.waiting)
        return self._budget

    def _stamps(self) -> list[FileStamp]:
        return [FileStamp(**stamp) for stamp in self._manifest.input["files"]]

    def _rows(self) -> Iterator[Item | BadRow]:
        rows = self._manifest.input["rows"]
        return steady(self._plan.rows(), rows, self._stamps(), self._plan.job.root, self._clock)

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
        if self._budget is not None:
            spent = self._budget.spent - self._spent_before
            session.spent_usd, session.spent_tokens = round(spent.usd, 9), spent.tokens
        minutes = wall_s / 60
        session.use["concurrency"] = round(tally.busy_s / (wall_s * self._strategy.in_flight), 4)
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
        manifest.summary = summary_of(self._folder, manifest)
        with suppress(OSError):  # on a full disk the rows matter; the summary can be made again
            manifest.save(self._folder)
            _illustrate(manifest.summary.get("evaluation", {}), self._folder)
        return Outcome(self._folder, manifest, self._exit_code(), None if self._complete else self._stopped_by)

    def _exit_code(self) -> Exit:
        if self._interrupted and not self._complete:
            return Exit.INTERRUPTED
        if not self._complete:
            return Exit.STOPPED  # whatever the reason: what is done is kept
        return finished_code(self._manifest)


def _soon() -> Callable[[Callable[[], None]], None]:
    """Return how the store defers a write: to the end of the loop's turn; in a thread, which has none, not at all."""
    loop, home = asyncio.get_running_loop(), threading.get_ident()

    def soon(write: Callable[[], None]) -> None:
        if threading.get_ident() == home:
            loop.call_soon(write)
        else:
            write()

    return soon


def _illustrate(evaluation: dict[str, Any], folder: Path) -> None:
    """Draw how good the answers are, or take away the drawing of what is not evaluated any more."""
    drawing = None
    if evaluation:
        from runner.drawing import save_svg  # here, because they take most of a second
        from runner.evaluate.figure import figure

        drawing = figure(evaluation)
    if drawing is None:
        (folder / PICTURE).unlink(missing_ok=True)
    else:
        save_svg(drawing, folder / PICTURE)


def finished_code(manifest: Manifest) -> Exit:
    """Return the exit code of a run that has a result for every row."""
    return Exit.SOME_FAILED if manifest.summary["failed"] else Exit.OK
