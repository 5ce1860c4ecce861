"""One session of work on one run: everything it needs is made here, and how it went is written down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from runner import strategies
from runner.batches import ledger
from runner.batches.office import WAIT, Errand, Home
from runner.budget import Amount, Budget
from runner.calls import Calls, open_gate
from runner.clock import Clock, us_of
from runner.connect import connected
from runner.dataset.fingerprint import FileStamp
from runner.errors import Exit, FatalError, RunnerError, SpecError
from runner.evaluate import PICTURE
from runner.event_loop import run_loop, stop_on_signals
from runner.known import Known, open_known
from runner.manifest import Manifest, Session, utc_text
from runner.openai_client import Connection
from runner.output import Output
from runner.pipeline import Pipeline
from runner.plan import Plan
from runner.progress import Console, Display, NoDisplay, Progress
from runner.records import BadRow, Item
from runner.spending import open_budget
from runner.steady import steady
from runner.stop import Stop
from runner.store import ResultStore
from runner.strategies.batch_api import LIVE, BatchApiOptions, BatchApiStrategy
from runner.summary import summary_of
from runner.tally import Tally


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        stopped_by: why it ended early; None when it finished or was interrupted.
        idle: there was nothing to do.
        open_batches: how many batches of the run have not been collected.
    """

    folder: Path
    manifest: Manifest
    exit_code: Exit
    stopped_by: RunnerError | None = None
    idle: bool = False
    open_batches: int = 0


class Execution:
    """One session of work on one run.

    Args:
        reusable: whether earlier runs may have an answer that the job can take; where not, none is looked for.
    """

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
        errand: Errand = WAIT,
        alone: bool = True,
        reusable: bool = True,
    ) -> None:
        self._plan = plan
        self._output = output
        self._manifest = manifest
        self._folder = folder
        self._console = console
        self._clock = clock
        self._stop = stop
        self._retry = retry
        self._errand = errand
        self._alone = alone  # no other run of the job goes on meanwhile
        self._reuse = plan.job.spec.reuse and reusable
        self._tally = Tally()
        self._strategy = _strategy(plan, folder, errand)
        self._session = Session(utc_text(clock.now_us()), strategy=plan.job.spec.strategy_name, retry=retry)
        self._budget: Budget | None = None
        self._stopped_by: RunnerError | None = None
        self._interrupted = False
        self._complete = False
        self._open_batches = 0

    def run(self) -> Outcome:
        """Work, and write down how it went, whatever happens."""
        limits = self._plan.job.limits
        self._session.limits = limits.model_dump(exclude_none=True)
        self._manifest.status = "running"
        self._manifest.sessions.append(self._session)
        self._manifest.save(self._folder)
        try:
            with self._opened_known() as known, connected(self._plan.job) as connections:
                began = self._clock.steady_s()
                try:
                    spawns = self._session.strategy == "processes" and not self._alone
                    run_loop(lambda: self._work(connections, known), spawns_beside_others=spawns)
                finally:
                    self._close_session(self._clock.steady_s() - began)
        except RunnerError as error:
            self._stopped_by = error
        return self._finish()

    async def _work(self, connections: Sequence[Connection], known: Known | None) -> None:
        plan, job, tally, clock = self._plan, self._plan.job, self._tally, self._clock
        limits = job.limits
        stop = self._stop
        metadata = {"run": self._manifest.run, "job": self._manifest.job, "rehearsal": self._manifest.rehearsal}
        metadata |= {"run_date": self._manifest.run_date}
        metadata |= self._output.layout.as_metadata()
        display = self._console.open(self._title(), clock)
        self._budget = open_budget(job, self._folder, self._manifest, clock, stop.waiting, self._note_spending)
        gate = open_gate(job, stop, self._budget, partial(self._warn, display), connections)
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
                home = Home(
                    self._folder, self._about(), store, self._errand, _began_us(self._manifest.sessions),
                    left=lambda: total - found[0] - tally.done, note=display.note, warn=partial(self._warn, display),
                )  # fmt: skip
                calls = Calls(
                    plan, connections, gate, stop, tally, clock, self._manifest.input["rows"], self._stamps(), home=home
                )
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
            self._open_batches = sum(entry.open for entry in ledger.read(self._folder))
            self._stopped_by = store.failure or stop.reason
            self._interrupted = stop.requested and self._stopped_by is None
        finally:
            display.close()

    def _about(self) -> dict[str, str]:
        """What the metadata of this run's batches says; a value has at most 512 characters."""
        return {"runner_job": self._manifest.job, "runner_run": self._manifest.run}

    @contextmanager
    def _opened_known(self) -> Iterator[Known | None]:
        spec = self._plan.job.spec
        display: Display = NoDisplay()
        if self._reuse or spec.dedupe:
            display = self._console.open("looking through earlier answers", self._clock)
        with ExitStack() as shown:
            shown.callback(display.close)
            known = open_known(
                self._folder, self._manifest.schema, self._plan.answer, self._clock, partial(self._warn, display),
                reuse=self._reuse, dedupe=spec.dedupe, retry=self._retry, alone=self._alone,
            )  # fmt: skip
            with known as found:
                shown.close()
                yield found

    def _warn(self, display: Display, text: str) -> None:
        self._session.warnings.append(text)
        display.note(f"warning: {text}")

    def _stamps(self) -> list[FileStamp]:
        return [FileStamp(**stamp) for stamp in self._manifest.input["files"]]

    def _rows(self) -> Iterator[Item | BadRow | None]:
        rows = self._manifest.input["rows"]
        return steady(self._plan.paced_rows(), rows, self._stamps(), self._plan.job.root, self._clock)

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
            spent = self._budget.spent_now
            session.spent_usd, session.spent_tokens = round(spent.usd, 9), spent.tokens
        minutes = wall_s / 60
        session.use["concurrency"] = round(tally.busy_s / (wall_s * self._strategy.in_flight), 4)
        if limits.requests_per_minute:
            share = (tally.attempts - tally.submitted) / (minutes * limits.requests_per_minute)
            session.use["requests_per_minute"] = round(min(1.0, share), 4)  # the first burst shows in a short run
        if limits.tokens_per_minute:
            tokens = tally.input_tokens + tally.output_tokens - tally.batch_tokens
            session.use["tokens_per_minute"] = round(min(1.0, tokens / (minutes * limits.tokens_per_minute)), 4)

    def _note_spending(self, most: Amount) -> None:
        """Write down what this session may have spent before it can have: a killed run's rows do not tell all of it."""
        self._session.spent_usd, self._session.spent_tokens = round(most.usd, 9), most.tokens
        with suppress(OSError):  # the store meets a full disk too, and ends the run
            self._manifest.save(self._folder)

    def _finish(self) -> Outcome:
        manifest = self._manifest
        manifest.stopped_by = None
        if self._complete:
            manifest.status = self._session.ended = "finished"
        elif self._interrupted:
            manifest.status = self._session.ended = "interrupted"
        elif self._stopped_by is None:
            manifest.status = self._session.ended = "waiting" if self._open_batches else "stopped"
        else:
            manifest.status = "stopped"
            reason = self._stopped_by
            self._session.ended = reason.kind if isinstance(reason, FatalError) else "error"
            if reason is not None:
                manifest.stopped_by = {"kind": self._session.ended, "message": reason.message, "hint": reason.hint}
        manifest.summary = summary_of(self._folder, manifest)
        with suppress(OSError):  # on a full disk the rows matter; the summary can be made again
            manifest.save(self._folder)
            _illustrate(manifest, self._folder)
        stopped_by = None if self._complete else self._stopped_by
        return Outcome(self._folder, manifest, self._exit_code(), stopped_by, open_batches=self._open_batches)

    def _exit_code(self) -> Exit:
        if self._interrupted and not self._complete:
            return Exit.INTERRUPTED
        if not self._complete:
            return Exit.STOPPED  # whatever the reason: what is done is kept
        return finished_code(self._manifest)


def _strategy(plan: Plan, folder: Path, errand: Errand) -> strategies.Strategy:
    """Return the job's strategy; where an earlier session left batches behind, one that brings them home first.

    To cancel batches it takes one that sends nothing else, whatever the job's is.

    Raises:
        SpecError: the strategy cannot do that.
    """
    job, name = plan.job, plan.job.spec.strategy_name
    strategy = strategies.load(name)(job.limits.concurrency or 1, job.options)
    if isinstance(strategy, BatchApiStrategy):
        return strategy
    if errand.cancel:
        return BatchApiStrategy(job.limits.concurrency or 1, BatchApiOptions())
    if not ledger.has_open(folder):
        return strategy
    if name not in LIVE:
        raise SpecError(
            f"rows of this run are in batches, and strategy `{name}` cannot take them over",
            where=str(folder / ledger.FOLDER),
            hint=f"resume with one of {', '.join(LIVE)}, or with `--strategy batch_api`",
        )
    return BatchApiStrategy(job.limits.concurrency or 1, BatchApiOptions(), strategy)


def _began_us(sessions: Sequence[Session]) -> int:
    """Return when what the last of these sessions continues began: the run, or a retry of its failed rows."""
    first = sessions[-1]
    for session in reversed(sessions[:-1]):
        if session.ended == "finished" or session.retry != first.retry:
            break
        first = session
    return us_of(datetime.fromisoformat(first.started_at))


def _soon() -> Callable[[Callable[[], None]], None]:
    """Return how the store defers a write: to the end of the loop's turn; in a thread, which has none, not at all."""
    loop, home = asyncio.get_running_loop(), threading.get_ident()

    def soon(write: Callable[[], None]) -> None:
        if threading.get_ident() == home:
            loop.call_soon(write)
        else:
            write()

    return soon


def _illustrate(manifest: Manifest, folder: Path) -> None:
    """Draw how good the answers are, or take away the drawing of what is not evaluated any more."""
    drawing = None
    if evaluation := manifest.summary.get("evaluation"):
        from runner.drawing import save_svg  # here, because they take most of a second
        from runner.evaluate.figure import figure

        drawing = figure(evaluation, rehearsal=manifest.rehearsal)
    if drawing is None:
        (folder / PICTURE).unlink(missing_ok=True)
    else:
        save_svg(drawing, folder / PICTURE)


def finished_code(manifest: Manifest) -> Exit:
    """Return the exit code of a run that has a result for every row."""
    return Exit.SOME_FAILED if manifest.summary["failed"] else Exit.OK
