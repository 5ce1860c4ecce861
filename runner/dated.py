"""The run of a job for a date: which one that is, and making it unless it is there. Asked again, it does nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from runner import app, runs
from runner.batches.office import WAIT, Errand
from runner.errors import SpecError
from runner.execution import Outcome
from runner.history import Past
from runner.load import Job
from runner.problems import listed, typed
from runner.progress import Console
from runner.snapshot import as_run, changed

_PART_OF_INPUT = ("limit", "offset")


def run_for_date(
    job: Job,
    *,
    force: bool = False,
    outputs: Path | None = None,
    console: Console | None = None,
    errand: Errand = WAIT,
) -> Outcome:
    """Make the run of a job for its date: begin it, or go on with it, or leave it as it is when it is finished.

    Args:
        force: make another one, whatever there is.
        outputs: where run folders go; default: `outputs/` in the project root.
        errand: what to do about batches, where the strategy makes some.

    Raises:
        SpecError, InputError: the job cannot be run as it is, or has changed since its run began.
        LockedError: another run of this job is going on.
        FatalError: the run's folder cannot be written to any more.
    """
    base = folder_of(job, outputs)
    with app.holding(base, f"runner run {typed(job.path)} --date {job.run_date}"):
        there = None if force else newest_for(job, pasts_in(base))
        if there is not None:
            return app.resume(there.folder, job.overrides, console=console, errand=errand, held=app.Held())
        return app.start(job, outputs=outputs, console=console, errand=errand, held=app.Held())


def nothing_to_do(job: Job, outcome: Outcome) -> str:
    """Return what to say of a run that was finished already."""
    lines = [
        f"nothing to do: the run for {job.run_date} is finished ({outcome.folder.name}); `--force` makes another one"
    ]
    if outcome.exit_code:
        lines.append(f"{outcome.manifest.summary['failed']:,} of its rows failed: `runner retry` sends them again")
    if since := changed(outcome.manifest.spec, as_run(job)):
        lines.append(f"note: the job has changed since: {listed(since)}")
    return "\n".join(lines)


def folder_of(job: Job, outputs: Path | None) -> Path:
    """Return the folder that holds the runs of a job."""
    return (outputs or job.root / runs.OUTPUTS) / job.spec.name


def pasts_in(base: Path) -> Iterator[Past]:
    """Yield the runs of a job's folder; those whose record cannot be read are passed over."""
    for folder in runs.runs_in(base):
        with suppress(SpecError):
            yield Past.load(folder)


def newest_for(job: Job, pasts: Iterable[Past]) -> Past | None:
    """Return the run that is the job's for its date: the newest where there are several.

    Rehearsals are told apart from real runs, and a trial with another `limit` or `offset` is no run of that date.
    """
    alike = [past for past in pasts if past.run_date == job.run_date.isoformat() and is_like(job, past)]
    return max(alike, key=lambda past: past.turn, default=None)


def is_like(job: Job, past: Past) -> bool:
    """Whether a run is what a run of the job would be, but for its date."""
    then, now = past.manifest.spec["input"], job.spec.input
    part = all((then.get(key) or None) == (getattr(now, key) or None) for key in _PART_OF_INPUT)
    return part and past.is_rehearsal == job.rehearsal
