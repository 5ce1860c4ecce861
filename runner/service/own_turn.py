"""A run that another scheduler starts, such as cron: with the same records of moments as the service keeps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

from runner import app, detached, runs
from runner.batches.office import Errand
from runner.clock import Clock, SystemClock, us_of
from runner.errors import LockedError, RunnerError, SpecError
from runner.execution import Outcome, finished_code
from runner.load import find_root
from runner.manifest import Manifest, Origin, utc_text
from runner.notify import watch
from runner.progress import Console
from runner.schedule.moments import Moment
from runner.service import agenda
from runner.service.agenda import Scheduled
from runner.service.book import Book
from runner.service.folder import read_schedule
from runner.service.submission import unattended
from runner.stdio import complain


def run_scheduled(
    job_file: Path,
    overrides: Mapping[str, str],
    outputs: Path | None,
    console: Console,
    *,
    detach: bool = False,
    clock: Clock | None = None,
    environ: Mapping[str, str] | None = None,
) -> Outcome:
    """Run a job for the newest moment of its schedule: begin that run, go on with it, or leave it as it is.

    Moments since the last one with a record are missed. A job without a schedule is simply run.

    Args:
        detach: leave batches alone once they are submitted.

    Raises:
        RunnerError: no run came of it; the moment's record says why.
    """
    clock, environ = clock or SystemClock(), os.environ if environ is None else environ
    errand = Errand(wait=not detach)
    scheduled = _schedule(job_file)
    if scheduled is None:
        return _start(job_file, overrides, outputs, console, errand, Origin(scheduled=True), clock, environ)
    folder = outputs or find_root(job_file) / runs.OUTPUTS
    with ExitStack() as opened:
        try:
            book = opened.enter_context(Book(folder))
            turn = agenda.take_turn(book, scheduled, clock.now_us())
        except RunnerError as error:  # a full disk, before anybody watches
            _tell(job_file, error, outputs, clock, environ)
            raise
        if turn.moment is None:
            return _start(job_file, overrides, outputs, console, errand, Origin(scheduled=True), clock, environ)
        moment = utc_text(us_of(turn.moment.at))
        run = runs.of_moment(folder / scheduled.job, moment)
        if turn.record is not None and turn.record.task is not None:
            raise _taken(turn.moment, f"a service has it, as task {turn.record.task}")
        note = partial(_note, book, scheduled, turn.moment, clock)
        if run is not None:
            note("run", "")  # what was killed has not
            return _go_on(run, turn.moment, console, errand, clock)
        try:
            origin = Origin(scheduled=True, moment=moment)
            run_date = turn.moment.local.date()
            outcome = _start(job_file, overrides, outputs, console, errand, origin, clock, environ, run_date)
        except LockedError as error:
            if runs.of_moment(folder / scheduled.job, moment) is None:  # it may be just that which is going on
                note("skipped", error.message)
            raise
        except RunnerError as error:
            note("failed", error.message)
            raise
        except KeyboardInterrupt:
            note("cancelled", "it was interrupted before it began")
            raise
        note("run", "")
        return outcome


def _schedule(job_file: Path) -> Scheduled | None:
    try:
        return read_schedule(job_file)
    except RunnerError:
        return None  # which loading the job says with everything else that is wrong


def _start(
    job_file: Path,
    overrides: Mapping[str, str],
    outputs: Path | None,
    console: Console,
    errand: Errand,
    origin: Origin,
    clock: Clock,
    environ: Mapping[str, str],
    run_date: date | None = None,
) -> Outcome:
    try:
        job = unattended(job_file, overrides, run_date, environ)
        if not errand.wait:
            detached.refuse_to_detach(job)
    except RunnerError as error:  # before anybody watches
        _tell(job_file, error, outputs, clock, environ)
        raise
    return app.start(job, outputs=outputs, console=console, errand=errand, origin=origin, clock=clock)


def _tell(job_file: Path, error: RunnerError, outputs: Path | None, clock: Clock, environ: Mapping[str, str]) -> None:
    watch.tell_of_broken_file(job_file, error, outputs, clock, environ, lambda text: complain(f"warning: {text}"))


def _go_on(run: Path, moment: Moment, console: Console, errand: Errand, clock: Clock) -> Outcome:
    manifest = Manifest.load(run)
    if manifest.status == "finished":
        display = console.open("", clock)  # which says nothing to cron, that would mail it
        display.note(
            f"nothing to do: {moment.local:%Y-%m-%d %H:%M %Z} had its run; `runner run` begins one all the same"
        )
        display.close()
        return Outcome(run, manifest, finished_code(manifest), idle=True)
    return app.resume(run, {}, console=console, errand=errand, as_begun=True, clock=clock)


def _taken(moment: Moment, why: str) -> SpecError:
    hint = "let either the service or the other scheduler start this job"
    return SpecError(f"{moment.local:%Y-%m-%d %H:%M %Z} is not run: {why}", hint=hint)


def _note(book: Book, scheduled: Scheduled, moment: Moment, clock: Clock, verdict: str, why: str) -> None:
    known = book.moment(scheduled.job, us_of(moment.at))
    if known is not None:
        book.note([replace(known, verdict=verdict, why=why, noted_us=clock.now_us())])
