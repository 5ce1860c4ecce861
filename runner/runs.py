"""Run folders: where they are, how one is named, and how a person refers to one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from runner import manifest
from runner.errors import SpecError


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


def point_latest(folder: Path) -> None:
    """Let `latest` beside a run's folder point at it."""
    link = folder.parent / "latest"
    temporary = folder.parent / ".latest.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    temporary.replace(link)


def all_runs(outputs: Path) -> Iterator[Path]:
    """Yield the run folders of every job, oldest first within each job."""
    for path in sorted(outputs.glob(f"*/*/{manifest.NAME}")):
        if not path.parent.is_symlink():
            yield path.parent


def find(name: str | None, outputs: Path) -> Path:
    """Return the run that a person means.

    Args:
        name: a run's folder, `JOB/RUN`, a job's name or its file (its newest run), or None for the newest of all.

    Raises:
        SpecError: there is no such run.
    """
    if name is None:
        found = max(all_runs(outputs), key=lambda folder: folder.name, default=None)
        if found is None:
            raise SpecError("there are no runs yet", where=str(outputs), hint="start one with `runner run JOB`")
        return found
    for folder in (Path(name), outputs / name):
        if (folder / manifest.NAME).is_file():
            return folder.resolve()
    job = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    found = max((f for f in all_runs(outputs) if f.parent.name == job), key=lambda folder: folder.name, default=None)
    if found is None and name.endswith((".yaml", ".yml")) and Path(name).is_file():
        found = max((f for f in all_runs(outputs) if _made_from(f, Path(name))), key=lambda f: f.name, default=None)
    if found is None:
        jobs = sorted({folder.parent.name for folder in all_runs(outputs)})
        known = f"jobs with runs: {', '.join(jobs)}" if jobs else "there are no runs yet"
        raise SpecError(f"there is no run `{name}`", where=str(outputs), hint=f"{known}; `runner runs` lists them")
    return found


def _made_from(folder: Path, job_file: Path) -> bool:
    try:
        return Path(manifest.Manifest.load(folder).job_file) == job_file.resolve()
    except SpecError:
        return False
