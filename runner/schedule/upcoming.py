"""`runner schedule next`: the moments of jobs that are still to come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from runner.clock import Clock
from runner.load import Job, load_job
from runner.problems import Problem, SpecErrors, display
from runner.schedule.export import schedule_of
from runner.schedule.moments import Moment, moments, said

_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Upcoming:
    """The next moments of a job."""

    job: Job
    now: datetime
    moments: tuple[Moment, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data; times are ISO 8601."""
        schedule = schedule_of(self.job)
        return {
            "job": self.job.spec.name,
            "file": str(self.job.path),
            "cron": str(schedule.cron),
            "timezone": schedule.zone_name,
            "enabled": schedule.enabled,
            "next": [
                {
                    "moment": _iso(moment.at),
                    "local": moment.local.isoformat(),
                    "begins": _iso(moment.begins),
                    "in_s": round((moment.begins - self.now).total_seconds(), 3),
                }
                for moment in self.moments
            ],
        }

    def text(self) -> str:
        """Return a line for the job, and one for each moment."""
        schedule = schedule_of(self.job)
        head = f"{self.job.spec.name} ({display(self.job.path)}): {schedule.cron}, {schedule.zone_name}"
        if not schedule.enabled:
            head += "; disabled, nothing will run"
        return "\n".join([head, *(f"  {self._line(moment)}" for moment in self.moments)])

    def _line(self, moment: Moment) -> str:
        local = f"{moment.local:%a %Y-%m-%d %H:%M %Z}"
        begins = (
            "" if moment.begins == moment.at else f", begins {moment.begins.astimezone(moment.local.tzinfo):%H:%M:%S}"
        )
        return f"{local:<26}  {moment.at:%Y-%m-%d %H:%M} UTC  in {said(moment.begins - self.now)}{begins}"


def upcoming(paths: Iterable[Path], count: int, clock: Clock) -> tuple[list[Upcoming], list[Problem]]:
    """Return the next moments of some jobs, or of all in `jobs/` that have a schedule.

    Args:
        paths: job files, which must have a schedule; none: all.
        count: how many moments of each.

    Returns:
        The jobs, and what is wrong with those that could not be loaded.
    """
    now = datetime.fromtimestamp(clock.now_us() / 1e6, UTC)
    found: list[Upcoming] = []
    problems: list[Problem] = []
    named = tuple(paths)
    for path in named or _job_files():
        try:
            job = load_job(path)
            if not named and job.spec.schedule is None:
                continue
            schedule = schedule_of(job)
        except SpecErrors as error:
            problems += error.problems
            continue
        coming = moments(schedule, job.spec.name, now)
        found.append(Upcoming(job, now, tuple(islice(coming, count))))
    return found, problems


def _job_files() -> Iterator[Path]:
    """Yield the job files in `jobs/` of the project that the current folder is in."""
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / "configs").is_dir()), here)
    yield from sorted(path for path in (root / "jobs").glob("*") if path.suffix in _SUFFIXES)


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
