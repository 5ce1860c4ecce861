"""`runner schedule export`: a job's schedule as files of another scheduler, which starts `runner run`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from runner.atomic import write_text
from runner.clock import Clock
from runner.errors import SpecError
from runner.load import Job, load_job
from runner.problems import SpecErrors, display
from runner.schedule import crontab, github_actions, kubernetes, systemd
from runner.schedule.section import ScheduleSpec
from runner.schedule.target import PACKAGE, Exported, Target

FORMATS: dict[str, Callable[[Target], Exported]] = {
    "systemd": systemd.export,
    "cron": crontab.export,
    "github-actions": github_actions.export,
    "kubernetes": kubernetes.export,
}
IMAGE = f"{PACKAGE}:latest"


def export(path: Path, name: str, clock: Clock, image: str = IMAGE) -> Exported:
    """Return the files for a job's schedule.

    Args:
        name: one of `FORMATS`.
        image: the container image, where the format starts one.

    Raises:
        SpecErrors: the job cannot be loaded, has no schedule, or the format cannot express it.
    """
    job = load_job(path)
    now = datetime.fromtimestamp(clock.now_us() / 1e6, UTC)
    return FORMATS[name](Target(job, schedule_of(job), program(), image, now))


def schedule_of(job: Job) -> ScheduleSpec:
    """Return the schedule of a job.

    Raises:
        SpecErrors: it has none.
    """
    if job.spec.schedule is None:
        problem = job.source.problem((), "the job has no schedule", 'add one, such as `schedule: "0 2 * * *"`')
        raise SpecErrors([problem])
    return job.spec.schedule


def program() -> tuple[str, ...]:
    """Return the command of this very installation: other schedulers know no PATH."""
    beside = Path(sys.executable).parent / "runner"
    return (str(beside),) if beside.is_file() else (sys.executable, "-m", "runner")


def write(exported: Exported, folder: Path) -> list[Path]:
    """Write the files, and return where they are.

    Raises:
        SpecError: the folder cannot be written to.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in exported.files.items():
            write_text(folder / name, text)
            written.append(folder / name)
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise SpecError(what, where=display(folder), hint="name another folder with `--output DIR`") from error
    return written
