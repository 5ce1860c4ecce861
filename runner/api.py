"""The runner for notebooks and other programs; they import it from `runner` itself, as docs/python.md shows."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from runner import app, load, parts
from runner.batches.office import Errand
from runner.execution import Outcome
from runner.latest import latest_of
from runner.load import Job
from runner.manifest import Manifest
from runner.progress import Console, is_terminal
from runner.report import report
from runner.stop import Stop

T = TypeVar("T")
_BATCH_ROWS = 100_000


@dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    Attributes:
        folder: where its results are.
        status: `finished`, `stopped` (see `stopped_by`), `interrupted`, or `waiting` for its batches; all but the first
            can be resumed.
        rows: rows of the input; `ok` and `failed` of them have a result.
        cost_usd: None where a price or a usage is unknown.
        wall_s: seconds of work, over all sessions.
        stopped_by: why it ended early, in words.
        record: the whole of `run.json`.
    """

    folder: Path
    status: str
    rows: int
    ok: int
    failed: int
    cost_usd: float | None
    input_tokens: int
    output_tokens: int
    wall_s: float
    stopped_by: str | None
    record: Manifest

    def __str__(self) -> str:
        return report(self.record, self.folder)


def load_job(
    path: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    rehearse: bool = False,
    root: Path | None = None,
    run_date: date | None = None,
) -> Job:
    """Read and check a job file.

    Args:
        settings: dotted key to value; they replace what the file says: `{"limits.concurrency": 8}`.
        rehearse: send to the embedded simulator instead of the job's endpoint.
        root: the project root; default: the nearest folder above the job file that has `configs/`.
        run_date: the date that a run is for; default: today's, on the clock of the job's schedule.

    Raises:
        SpecError: everything that is wrong with the job, each problem with its place.
    """
    overrides = {key: json.dumps(value) for key, value in (settings or {}).items()}
    if rehearse:
        overrides["endpoint"] = "simulator"
    return load.load_job(Path(path), overrides=overrides, environ=os.environ, root=root, run_date=run_date)


def run_job(
    job: Job | str | Path, *, output: str | Path | None = None, progress: bool = True, wait: bool = True
) -> RunSummary:
    """Run a job from its first row, and return how it went. Works inside a running event loop too, and blocks it.

    Args:
        output: where run folders go; default: `outputs/` in the project root.
        progress: show how it goes, as the place allows: a terminal, a notebook, a log.
        wait: for the batches of the Batch API; otherwise they are submitted, and `resume_run` collects them.

    Raises:
        SpecError, InputError: the job cannot be run as it is; nothing was sent.
        LockedError: another run of this job is going on.
        FatalError: the run's folder cannot be written to.
    """
    return _here(partial(_start, job, output, progress, wait))


async def run_job_async(
    job: Job | str | Path, *, output: str | Path | None = None, progress: bool = True
) -> RunSummary:
    """Like `run_job`, without blocking the event loop: the run has a thread, and a loop, of its own.

    Cancelling it lets what is in flight finish; the run can be resumed.
    """
    return await _elsewhere(partial(_start, job, output, progress, True))


def resume_run(run: str | Path, *, retry: bool = False, progress: bool = True, wait: bool = True) -> RunSummary:
    """Continue a run that stopped, or (with `retry`) send the failed rows of a finished one again.

    Args:
        wait: until all batches of the Batch API have ended; otherwise those that have are collected.

    Raises:
        SpecError, InputError: job or input changed since.
        LockedError: another run of this job is going on.
    """

    def work(stop: Stop) -> RunSummary:
        errand = Errand(wait=wait)
        return _summary(app.resume(Path(run), {}, retry=retry, console=_console(progress), stop=stop, errand=errand))

    return _here(work)


def read_results(run: str | Path) -> pa.Table:
    """Return the rows of a run that have a result, in input order, as a table; of an unfinished run too.

    Raises:
        SpecError: the folder is not a run.
        FatalError: a part of it is damaged.
    """
    folder = Path(run)
    manifest = Manifest.load(folder)
    layout, schema = manifest.layout, manifest.schema
    tables = map(layout.pack, parts.stored(folder, schema, _BATCH_ROWS))
    return pa.concat_tables([layout.file_schema(schema).empty_table(), *tables])


def read_dataset(job: str | Path, *, as_of: str | None = None, output: str | Path | None = None) -> pa.Table:
    """Return the latest answer to each row of a job over all its runs, as a table; rehearsals do not count.

    Args:
        job: its name, its file, or its folder under `outputs/`.
        as_of: the newest run that counts; default: the newest there is.
        output: where run folders are; default: `outputs/` in the project.

    Raises:
        SpecError: there is no such job or run.
        FatalError: a part of a run is damaged.
    """
    with latest_of(str(job), as_of, None if output is None else Path(output)) as latest:
        return pa.concat_tables([latest.schema.empty_table(), *latest.tables()])


def _start(job: Job | str | Path, output: str | Path | None, progress: bool, wait: bool, stop: Stop) -> RunSummary:
    loaded = job if isinstance(job, Job) else load_job(job)
    outputs = None if output is None else Path(output)
    errand = Errand(wait=wait)
    return _summary(app.start(loaded, outputs=outputs, console=_console(progress), stop=stop, errand=errand))


def _here(work: Callable[[Stop], T]) -> T:
    """Run in this thread, or in another one where an event loop is running in this."""
    stop = Stop()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work(stop)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="run") as thread:
        working = thread.submit(work, stop)
        try:
            return working.result()
        except KeyboardInterrupt:  # a notebook's stop button
            stop.request()
            return working.result()


async def _elsewhere(work: Callable[[Stop], T]) -> T:
    stop = Stop()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="run") as thread:
        working = asyncio.get_running_loop().run_in_executor(thread, work, stop)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            stop.request()
            with suppress(KeyboardInterrupt):  # it was still waiting for its input
                await working
            raise


def _summary(outcome: Outcome) -> RunSummary:
    manifest, summary = outcome.manifest, outcome.manifest.summary
    return RunSummary(
        folder=outcome.folder,
        status=manifest.status,
        rows=manifest.input["rows"],
        ok=summary["ok"],
        failed=summary["failed"],
        cost_usd=summary["cost_usd"],
        input_tokens=summary["tokens"]["input"],
        output_tokens=summary["tokens"]["output"],
        wall_s=sum(session.wall_s for session in manifest.sessions),
        stopped_by=str(outcome.stopped_by) if outcome.stopped_by is not None else None,
        record=manifest,
    )


def _console(progress: bool) -> Console:
    notebook = "ipykernel" in sys.modules
    return Console(quiet=not progress, live=is_terminal() and not notebook, notebook=notebook)
