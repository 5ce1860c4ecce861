"""Whether jobs have succeeded lately, for any monitoring."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from runner import runs
from runner.clock import Clock
from runner.errors import Exit, SpecError
from runner.freshness import last_success
from runner.history import status
from runner.manifest import Manifest
from runner.notify_section import LATE_AFTER
from runner.problems import say
from runner.progress import duration
from runner.timespan import read_span


@dataclass(frozen=True)
class Checked:
    """How long ago a job succeeded.

    Attributes:
        ok: not too long ago.
        age_s: how long ago, in seconds; None: never.
        max_age: how long that may be, as it was written.
        run: the run that succeeded; None: there is none.
        latest: how its newest run is, whatever came of it; None: it has none.
        job_file: what its newest run was made from; None: that is not known.
        base: its folder under `outputs/`; None: it has none.
    """

    job: str
    ok: bool
    age_s: float | None
    max_age: str
    run: str | None
    latest: str | None
    job_file: Path | None = None
    base: Path | None = None

    def text(self) -> str:
        """Return one line."""
        if self.age_s is None:
            said = "no success yet"
        else:
            older = "" if self.ok else f", more than {self.max_age}"
            said = f"last success {duration(self.age_s)} ago{older} ({self.run})"
        newest = f"; the newest run: {self.latest}" if self.latest and not self.ok else ""
        return f"{'ok  ' if self.ok else 'LATE'}  {self.job}: {said}{newest}"


def check_jobs(
    names: Sequence[str], max_age: str | None, outputs: Path | None, now_us: int
) -> tuple[list[Checked], Exit]:
    """Return how long ago jobs succeeded, and the exit code.

    It is 3, as that of a run in which some rows failed: all were looked at, and some are not well. A name that does
    not exist is 2, as any other mistake.

    Args:
        names: jobs as `runs.of_job` takes them; none: all that have runs which are no rehearsals.
        max_age: how old the last success may be, such as `26h`; None: what each job says (`notify.late_after`).

    Raises:
        SpecError: there is no such job, or `max_age` is no time span.
    """
    if max_age is not None and read_span(max_age.strip()) is None:
        raise SpecError(f"--max-age must be a time span such as 26h or 8d, got {say(max_age)}")
    folders = [_of(name, outputs) for name in names] if names else _all(outputs or runs.outputs_here())
    checked = [_check(job, found, max_age, now_us) for job, found in folders]
    if not checked:
        raise SpecError("there are no runs yet", where=str(outputs or runs.outputs_here()))
    return checked, Exit.OK if all(each.ok for each in checked) else Exit.SOME_FAILED


def text(checked: Sequence[Checked]) -> str:
    """Return a line for each job."""
    return "\n".join(each.text() for each in checked)


def as_json(checked: Sequence[Checked]) -> str:
    """Return the same for programs."""
    shown = ("job", "ok", "age_s", "max_age", "run", "latest")
    return json.dumps([{key: getattr(each, key) for key in shown} for each in checked], indent=2, ensure_ascii=False)


def tell(checked: Sequence[Checked], clock: Clock, environ: Mapping[str, str], warn: Callable[[str], None]) -> None:
    """Tell those who asked for `late`, in the job files as they are now, once until the job is well again."""
    from runner.load import load_job  # here, because they take a second, and monitoring asks often
    from runner.notify.watch import tell_if_late

    for each in checked:
        if each.ok or each.job_file is None or each.base is None:
            continue
        try:
            job = load_job(each.job_file)
        except SpecError as error:
            warn(f"nobody was told of {each.job}: {error.message}")
            continue
        tell_if_late(job, each.base, clock, environ, warn, allowed=read_span(each.max_age.strip()), since_us=0)


def _of(name: str, outputs: Path | None) -> tuple[str, list[Path]]:
    """Return the name of a job, and its runs; of a job file that has not run yet, none."""
    try:
        found = runs.of_job(name, outputs)
    except SpecError:
        if not Path(name).is_file():
            raise
        return Path(name).stem, []
    return found[-1].parent.name, found


def _all(outputs: Path) -> list[tuple[str, list[Path]]]:
    jobs = [(folder.name, runs.runs_in(folder)) for folder in sorted(outputs.glob("*")) if folder.is_dir()]
    return [(job, found) for job, found in jobs if any(not runs.is_rehearsal(folder) for folder in found)]


def _check(job: str, folders: Sequence[Path], max_age: str | None, now_us: int) -> Checked:
    real = [folder for folder in folders if not runs.is_rehearsal(folder)]
    last, allowed, latest, job_file = last_success(real), max_age, None, None
    if real:
        folder = max(real, key=runs.turn_of)
        try:
            newest = Manifest.load(folder)
        except SpecError:
            latest = "unreadable"
        else:
            job_file = Path(newest.job_file)
            allowed = allowed or (newest.spec.get("notify") or {}).get("late_after")
            kind = (newest.stopped_by or {}).get("kind")
            latest = f"{status(newest, folder)} ({kind})" if kind else status(newest, folder)
    allowed = allowed or LATE_AFTER
    age_s = None if last is None else (now_us - last.at_us) / 1e6
    most = read_span(allowed.strip()) or timedelta()
    ok = age_s is not None and age_s <= most.total_seconds()
    base = real[-1].parent if real else None
    return Checked(job, ok, age_s, allowed, None if last is None else last.run, latest, job_file, base)
