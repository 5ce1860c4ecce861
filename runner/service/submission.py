"""A job becomes a task: what is queued is the job as it is now, with all the files that it refers to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path

from runner.deadline import at_us
from runner.errors import SpecError
from runner.load import Job, load_job
from runner.service.book import NewTask, Source, Task
from runner.snapshot import snapshot


def unattended(
    job_file: Path,
    overrides: Mapping[str, str],
    run_date: date | None = None,
    environ: Mapping[str, str] | None = None,
) -> Job:
    """Return a job for a run that nobody looks at: with `reuse: true`, where nobody has said anything about it.

    Args:
        run_date: the date that it is for; None: today.
        environ: as for `load_job`.

    Raises:
        SpecErrors: the job file is wrong.
    """
    job = load_job(job_file, overrides=overrides, run_date=run_date, environ=environ)
    if "reuse" in job.spec.model_fields_set:
        return job
    return load_job(job_file, overrides={**overrides, "reuse": "true"}, run_date=run_date, environ=environ)


def prepared(
    job_file: Path,
    begins_us: int,
    source: Source,
    *,
    overrides: Mapping[str, str] | None = None,
    moment_us: int | None = None,
    run_date: date | None = None,
    priority: int = 0,
    token: str | None = None,
) -> NewTask:
    """Return a job as it is to be queued.

    Args:
        begins_us: when it may begin, in microseconds since 1970.
        overrides: dotted key to YAML text, as for `load_job`.
        moment_us: the moment of its schedule that it is for.
        run_date: the date that it is for; None: today.

    Raises:
        SpecErrors: the job file is wrong, or a file it refers to.
    """
    overrides = overrides or {}
    if source == "schedule":
        job = unattended(job_file, overrides, run_date)
    else:
        job = load_job(job_file, overrides=overrides, run_date=run_date)
    return NewTask(
        job=job.spec.name,
        job_file=str(job_file.resolve()),
        root=str(job.root.resolve()),
        spec=snapshot(job),
        run_date=job.run_date.isoformat(),
        source=source,
        begins_us=begins_us,
        overrides=job.overrides,
        moment_us=moment_us,
        priority=priority,
        token=token,
    )


def loaded(snapshot_file: Path, task: Task, environ: Mapping[str, str]) -> Job:
    """Return the job of a task.

    Raises:
        SpecErrors: something that it needs has gone since.
    """
    run_date = date.fromisoformat(task.run_date)
    job = load_job(snapshot_file, overrides=task.overrides, environ=environ, root=Path(task.root), run_date=run_date)
    return replace(job, path=Path(task.job_file))


def begins(at: str | None, now_us: int) -> int:
    """Return when a job may begin that is submitted now, in microseconds since 1970.

    Args:
        at: a time of day, a date with a time, or a span; None: now.

    Raises:
        SpecError: it is none of these.
    """
    if at is None:
        return now_us
    try:
        return at_us(at, now_us)
    except ValueError as error:
        raise SpecError(f"--at {error}", hint="for instance --at 02:00, or --at 2h") from None
