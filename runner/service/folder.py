"""The job files with a schedule, as they are now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, BeforeValidator

from runner.errors import RunnerError
from runner.notify_section import NotifySpec
from runner.problems import SpecErrors
from runner.schedule.section import ScheduleSpec, short_form
from runner.service.agenda import Scheduled
from runner.spec import name_of
from runner.validation import check
from runner.yaml_source import read

ENDINGS = (".yaml", ".yml")
"""How the names of job files end."""


class Stamp(NamedTuple):
    """What a file was when it was looked at."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int  # of what was moved, or may be read by now

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """Return it; None: there is no such file."""
        try:
            about = path.stat()
        except OSError:
            return None
        return cls(about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


class Look(NamedTuple):
    """What there is to see in the job files.

    Attributes:
        problems: why a file cannot be read that could be before, or was not there: its job stays as it was.
        doubles: files whose schedule is left out from now on, each with the one whose job has the same name.
    """

    jobs: list[Scheduled]
    problems: list[tuple[Path, RunnerError]]
    doubles: list[tuple[Path, Path]]


@dataclass
class ScheduledJobs:
    """The jobs with a schedule.

    Only the name and the section `schedule` are read here, so that a prompt file that is missing is a moment that
    failed, and not one that nobody knows of.

    Args:
        files: the job files to look at; none: all of `folder`.
    """

    folder: Path
    files: Sequence[Path] = ()
    _seen: dict[Path, tuple[Stamp, Scheduled | None]] = field(default_factory=dict)
    _doubles: set[tuple[Path, Path]] = field(default_factory=set)

    def look(self) -> Look:
        """Return the jobs as they are now, and what is newly wrong with files."""
        paths = self.files or sorted(path for path in self.folder.glob("*") if path.suffix in ENDINGS)
        problems = []
        for path in paths:
            stamp = Stamp.of(path)
            stamp_before, before = self._seen.get(path, (None, None))
            if stamp is None:
                self._seen.pop(path, None)
            elif stamp != stamp_before:
                try:
                    before = read_schedule(path)
                except RunnerError as error:
                    problems.append((path, error))
                self._seen[path] = stamp, before
        for path in self._seen.keys() - set(paths):
            del self._seen[path]
        found: dict[str, Scheduled] = {}
        doubles = set()
        for path in sorted(self._seen):
            _, scheduled = self._seen[path]
            if scheduled is not None and found.setdefault(scheduled.job, scheduled) is not scheduled:
                doubles.add((path, found[scheduled.job].job_file))
        new, self._doubles = doubles - self._doubles, doubles
        return Look(list(found.values()), problems, sorted(new))


def read_schedule(path: Path) -> Scheduled | None:
    """Return the schedule of a job file; None: it has none.

    Raises:
        SpecErrors: it cannot be read that far.
    """
    source = read(path)
    written = source.data.get("schedule")
    if written is None:
        return None
    section, problems = check(_Section, source, {"schedule": written})
    if section is None or section.schedule is None or source.problems:
        raise SpecErrors([*source.problems, *problems])
    notify, _ = check(NotifySpec, source, source.data.get("notify") or {}, ("notify",))
    tells_late = notify is not None and any("late" in target.on for target in notify.to)
    return Scheduled(name_of(source.data, path), path, section.schedule, tells_late)


class _Section(BaseModel):
    """What is checked of a job file here."""

    schedule: Annotated[ScheduleSpec | None, BeforeValidator(short_form)]
