"""Run folders: where they are, how one is named, and how a person refers to one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from runner import manifest
from runner.errors import SpecError
from runner.problems import display, suggest
from runner.yaml_source import read

OUTPUTS = "outputs"
"""The folder of a project that holds a folder for each job, with a folder for each of its runs."""

LIMITS = ".limits"
"""The folder in it through which runs share the limits of endpoints."""


_POINTING = threading.Lock()  # of several runs in this process one at a time compares dates and moves `latest`


def create(base: Path, now_us: int, rehearsal: bool) -> Path:
    """Create a new run's folder under a job's folder, named by the time (UTC).

    Raises:
        OSError: the folder cannot be written to.
    """
    name = datetime.fromtimestamp(now_us / 1e6, UTC).strftime("%Y%m%dT%H%M%SZ") + ("-rehearsal" if rehearsal else "")
    for number in range(1, 1000):
        folder = base / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not base.is_dir():
                raise
            continue
        return folder
    raise FileExistsError(f"too many runs at one moment in {base}")


def is_rehearsal(folder: Path) -> bool:
    """Whether a run's folder is that of a rehearsal."""
    return "-rehearsal" in folder.name


def point_latest(folder: Path) -> None:
    """Let `latest` beside a run's folder point at it.

    A rehearsal does not take it from a real run, nor does a run for an older date from one of its kind.
    """
    link = folder.parent / "latest"
    with _POINTING:
        if link.exists():
            there = link.resolve()
            if is_rehearsal(folder) and not is_rehearsal(there):
                return
            if is_rehearsal(folder) == is_rehearsal(there) and date_of(folder) < date_of(there):
                return
        temporary = folder.parent / ".latest.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.name)
        temporary.replace(link)


def date_of(folder: Path) -> str:
    """Return the date that a run is for (ISO 8601): what its record says, else the day that its folder is named by."""
    with suppress(OSError, ValueError, AttributeError):
        if found := json.loads((folder / manifest.NAME).read_text(encoding="utf-8")).get("run_date"):
            return str(found)
    return f"{folder.name[:4]}-{folder.name[4:6]}-{folder.name[6:8]}"


def turn_of(folder: Path) -> tuple[str, str]:
    """Return what the runs of a job are ordered by: a run for an old date is no newer for being made today."""
    return date_of(folder), folder.name


def all_runs(outputs: Path) -> Iterator[Path]:
    """Yield the run folders of every job, oldest first within each job."""
    for folder in sorted(outputs.glob("*")):
        yield from runs_in(folder)


def runs_in(folder: Path) -> list[Path]:
    """Return the runs of a job's folder, oldest first."""
    return sorted(path.parent for path in folder.glob(f"*/{manifest.NAME}") if not path.parent.is_symlink())


def of_task(folder: Path, task: int) -> Path | None:
    """Return the run of a job's folder that a task of the queue became; None: it has none."""
    return _newest_with(folder, "task", task)


def of_moment(folder: Path, moment: str) -> Path | None:
    """Return the newest run of a job's folder that is for a moment of its schedule; None: it has none."""
    return _newest_with(folder, "moment", moment)


def _newest_with(folder: Path, key: str, value: object) -> Path | None:
    said = f'"{key}": {json.dumps(value)}'.encode()
    for found in reversed(runs_in(folder)):
        with suppress(OSError, SpecError):  # reading a record takes a thirtieth of understanding it
            if said in (found / manifest.NAME).read_bytes() and getattr(manifest.Manifest.load(found), key) == value:
                return found
    return None


def outputs_here() -> Path:
    """Return `outputs/` of the project that the current folder is in, or else of the current folder."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / OUTPUTS).is_dir() or (folder / "configs").is_dir():
            return folder / OUTPUTS
    return here / OUTPUTS


def find(name: str | None, outputs: Path | None) -> Path:
    """Return the run that a person means.

    Args:
        name: a run's folder, `JOB/RUN`, or what `of_job` takes: its newest run, by date; None: the last that was made
            of any job.
        outputs: where runs are; None: in the project of the job file that is named, or of the current folder.

    Raises:
        SpecError: there is no such run.
    """
    here = outputs or outputs_here()
    if name is not None:
        for folder in (Path(name), here / name):
            if (folder / manifest.NAME).is_file():
                return folder.resolve()
        return max(of_job(name, outputs), key=turn_of).resolve()
    found = list(all_runs(here))
    if not found:
        raise SpecError("there are no runs yet", where=str(here), hint="start one with `runner run JOB`")
    return max(found, key=lambda folder: folder.name).resolve()


def of_job(name: str, outputs: Path | None) -> list[Path]:
    """Return the runs of a job, oldest first.

    Args:
        name: the job's name, its file, or its folder under `outputs/`.
        outputs: where runs are; None: in the project of the job file, or of the current folder.

    Raises:
        SpecError: there are none.
    """
    path = Path(name)
    if path.is_file():
        return _of_file(path, outputs)
    outputs = outputs or outputs_here()
    job = path.stem if name.endswith((".yaml", ".yml")) else name
    found = runs_in(path) or runs_in(outputs / job)
    if not found:
        jobs = sorted({folder.parent.name for folder in all_runs(outputs)})
        near = suggest(name, jobs)
        known = f"jobs with runs: {', '.join(jobs)}" if jobs else "there are no runs yet"
        raise SpecError(
            f"there is no run or job `{name}`", where=str(outputs), hint=f"{near} {known}" if near else known
        )
    return found


def run_of(name: str, of: Path) -> Path:
    """Return the run of a job's folder that a person means: its name alone, or whatever `find` takes.

    Raises:
        SpecError: there is no such run, or it is one of another job.
    """
    found = of / name if (of / name / manifest.NAME).is_file() else find(name, None)
    if found.resolve().parent != of.resolve():
        raise SpecError(f"`{name}` is no run of the job `{of.name}`", where=str(found))
    return found.resolve()


def _of_file(job_file: Path, outputs: Path | None) -> list[Path]:
    from runner.load import find_root  # here, because it takes a tenth of a second

    outputs = outputs or find_root(job_file) / OUTPUTS
    found = runs_in(outputs / _job_name(job_file)) or [run for run in all_runs(outputs) if _made_from(run, job_file)]
    if not found:
        raise SpecError(
            f"there is no run of {display(job_file)} yet",
            where=str(outputs),
            hint=f"start one with `runner run {display(job_file)}`",
        )
    return found


def _job_name(job_file: Path) -> str:
    """Return the name that a job file gives its job; one that cannot be read now may have runs all the same."""
    from runner.spec import name_of

    with suppress(SpecError):
        return name_of(read(job_file).data, job_file)
    return name_of({}, job_file)


def _made_from(folder: Path, job_file: Path) -> bool:
    try:
        return Path(manifest.Manifest.load(folder).job_file) == job_file.resolve()
    except SpecError:
        return False
