"""The job of a run that is continued: loaded again, and refused where it or its input is not the same any more."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from runner import strategies
from runner.dataset.fingerprint import FileStamp, unchanged
from runner.errors import InputError, SpecError
from runner.history import Past
from runner.load import Job, load_job
from runner.manifest import Manifest
from runner.plan import Plan
from runner.problems import typed
from runner.run_date import date_of_us
from runner.snapshot import as_run, changed

SNAPSHOT = "job.yaml"
"""The job as run, in the run's folder."""


def same_job(manifest: Manifest, folder: Path, overrides: Mapping[str, str], *, as_begun: bool = False) -> Job:
    """Load the job of a run again; from the run's own copy when that is wanted, or the job file is gone.

    Args:
        as_begun: from the run's own copy.

    Raises:
        SpecError: it cannot be loaded, or has changed in what its answers depend on.
    """
    path, past = Path(manifest.job_file), Past.load(folder)
    run_date = date.fromisoformat(past.run_date)
    if path.is_file() and not as_begun:
        job = load_job(path, overrides=overrides, environ=os.environ, run_date=run_date)
    else:
        root = Path(manifest.root)
        job = load_job(folder / SNAPSHOT, overrides=overrides, environ=os.environ, root=root, run_date=run_date)
    different = changed(manifest.spec, as_run(job))
    if different:
        names = ", ".join(f"`{name}`" for name in different)
        raise SpecError(
            f"the job has changed since this run began: {names}",
            where=str(path),
            hint=f"undo the change to continue, or start afresh with `runner run {typed(path)}{_of_date(past)}`",
        )
    if job.spec.strategy_name == strategies.AUTO:
        raise SpecError(
            "`auto` chooses when a run begins, and this one has begun",
            where=str(path),
            hint="name what continues it, such as `--strategy asyncio`",
        )
    return job


def refuse_changed_input(manifest: Manifest, plan: Plan) -> None:
    """Refuse to continue a run over an input that is another one now.

    Raises:
        InputError: it is.
    """
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


def _of_date(run: Past) -> str:
    """Return what makes another run of the date of one that was not made on that day."""
    return "" if run.run_date == date_of_us(run.began_us) else f" --date {run.run_date} --force"
