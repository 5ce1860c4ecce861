"""Deletes the runs that a job's `keep` does not keep, but none that something still needs.

The rows of a run that holds the latest answer to any row stay where they are: `runner dataset` and `reuse` read them
there, and nothing is moved together, so that no answer is ever lost between two places.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner import atomic, manifest, runs
from runner.batches import ledger
from runner.clock import SystemClock
from runner.errors import FatalError, LockedError, RunnerError, SpecError
from runner.history import Past, in_order
from runner.latest import LatestAnswers
from runner.load import load_job
from runner.lock import locked
from runner.manifest import utc_text
from runner.problems import display
from runner.sections import KeepSpec

GRAVE = ".pruned"
"""Where a run's folder is moved before it is deleted: half deleted it is no run any more. Beside the job's runs."""

_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Fate:
    """What becomes of a run that is older than the job's `keep` asks for.

    Attributes:
        size: of its files, in bytes.
        needed: why it stays all the same; None: it is deleted.
    """

    run: Past
    size: int
    needed: str | None = None


@dataclass(frozen=True)
class Pruned:
    """What was done, or with `dry_run` would be.

    Attributes:
        fates: by job, of the runs that are older than its `keep` asks for, oldest first.
        refused: why some jobs were left alone.
    """

    dry_run: bool
    fates: dict[str, list[Fate]] = field(default_factory=dict)
    refused: list[RunnerError] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "dry_run": self.dry_run,
            "jobs": {
                job: [
                    {"run": fate.run.name, "began_at": utc_text(fate.run.began_us), "outcome": fate.run.outcome,
                     "size": fate.size, "deleted": fate.needed is None and not self.dry_run, "needed": fate.needed}
                    for fate in fates
                ]
                for job, fates in self.fates.items()
            },
        }  # fmt: skip

    def text(self) -> str:
        lines = []
        for job, fates in self.fates.items():
            going = [fate for fate in fates if fate.needed is None]
            what = "would be deleted" if self.dry_run else "deleted"
            size = sum(fate.size for fate in going) / 1e6
            lines.append(f"{job}: {len(going):,} {'run' if len(going) == 1 else 'runs'} {what}, {size:,.1f} MB")
            for fate in fates:
                word = what if fate.needed is None else "kept"
                lines.append(f"  {word}  {fate.run.name}" + (f"  {fate.needed}" if fate.needed else ""))
        return "\n".join(lines or ["nothing was looked at"])


def prune_named(job: str | None, outputs: Path | None, *, dry_run: bool = False) -> Pruned:
    """Prune a job that a person names as for `runs.of_job`; or every job whose file says what to keep.

    Args:
        outputs: where runs are; default: in the project of the job file, or of the current folder.

    Raises:
        SpecError: there is no such job, or nothing says what to keep.
        LockedError: the job that is named is running; of several, those are left alone.
        FatalError: a run cannot be read or deleted.
    """
    now_us = SystemClock().now_us()
    done = Pruned(dry_run)
    if job is not None:
        base = runs.of_job(job, outputs)[0].parent
        keep = _keep(base, Path(job))
        if keep is None:
            raise SpecError(
                "the job does not say which runs to keep",
                where=display(Path(job)) if Path(job).is_file() else str(base),
                hint="for instance `keep: {runs: 90, days: 365}`",
            )
        done.fates[base.name] = prune(base, keep, now_us, dry_run=dry_run)
        return done
    here = outputs or runs.outputs_here()
    for base in sorted({folder.parent for folder in runs.all_runs(here)}):
        try:
            keep = _keep(base)
            if keep is not None:
                done.fates[base.name] = prune(base, keep, now_us, dry_run=dry_run)
        except (LockedError, SpecError) as error:
            done.refused.append(error)
    if not done.fates and not done.refused:
        raise SpecError(
            "no job says which runs to keep", where=str(here), hint="for instance `keep: {runs: 90, days: 365}`"
        )
    return done


def _keep(base: Path, job_file: Path | None = None) -> KeepSpec | None:
    """Return what a job wants to keep: as its file says now; as its newest run was told where that is gone."""
    found, _ = in_order(runs.runs_in(base))
    if job_file is None or not job_file.is_file():
        if not found:
            return None
        job_file = Path(found[-1].manifest.job_file)
    if job_file.is_file():
        return load_job(job_file).spec.keep
    told = found[-1].manifest.spec.get("keep") if found else None
    return None if told is None else KeepSpec.model_validate(told)


def prune(base: Path, keep: KeepSpec, now_us: int, *, dry_run: bool = False) -> list[Fate]:
    """Delete the runs of a job's folder that are older than `keep` asks for and that nothing needs.

    Args:
        now_us: the time, in microseconds since 1970.
        dry_run: only say what would be deleted.

    Returns:
        What becomes of each run that is older, oldest first.

    Raises:
        LockedError: a run of the job is going on.
        FatalError: a run cannot be read or deleted.
    """
    if dry_run:
        return fates(base, keep, now_us)
    before = _stamps(base)
    found = fates(base, keep, now_us)  # which may take long, and should not keep a run from beginning
    with locked(base, f"runner prune {base.name}"):
        try:
            _bury(base)
            if _stamps(base) != before:
                found = fates(base, keep, now_us)
            for fate in found:
                if fate.needed is None:
                    _delete(base, fate.run.folder)
        except OSError as error:
            raise FatalError(
                f"a run cannot be deleted: {error.strerror or error}",
                kind="disk",
                where=str(error.filename or base),
                hint="the others are as they were; prune again when that is mended",
            ) from error
    return found


def _stamps(base: Path) -> dict[Path, int]:
    """Return when each run's record was last written: it is whenever a session begins or ends."""
    return {folder: (folder / manifest.NAME).stat().st_mtime_ns for folder in runs.runs_in(base)}


def fates(base: Path, keep: KeepSpec, now_us: int) -> list[Fate]:
    """Return what becomes of each run that is older than `keep` asks for, oldest first. Deletes nothing.

    Whether a run holds a latest answer is looked for last, and only if some run depends on it: that reads a few columns
    of every part.

    Raises:
        FatalError: a run cannot be read.
    """
    found, _ = in_order(runs.runs_in(base))
    old: dict[Path, tuple[Past, str | None]] = {}
    for rehearsal in (False, True):  # which are counted for themselves
        alike = [run for run in found if run.is_rehearsal == rehearsal]
        best = next((run for run in reversed(alike) if run.outcome == "success"), None)
        for newer, run in enumerate(reversed(alike)):
            if _is_old(run, newer, keep, now_us):
                why = "is the newest success" if run is best else _needed(run, newer, now_us)
                old[run.folder] = run, why
    holders = {}
    if any(why is None and not run.is_rehearsal for run, why in old.values()):
        holders = _holders(base, old)
    in_turn = [old[run.folder] for run in found if run.folder in old]
    return [Fate(run, _size(run.folder), why or holders.get(run.folder)) for run, why in in_turn]


def _is_old(run: Past, newer: int, keep: KeepSpec, now_us: int) -> bool:
    """Whether a run is older than both keys allow, `newer` being how many are newer than it."""
    by_runs = keep.runs is None or newer >= keep.runs
    return by_runs and (keep.days is None or run.began_us < now_us - keep.days * _DAY_US)


def _needed(run: Past, newer: int, now_us: int) -> str | None:
    """Return why a run has to stay, as far as its record tells."""
    if run.manifest.status != "finished":
        return f"is not finished ({run.outcome}): `runner resume` goes on with it"
    if ledger.has_open(run.folder):
        return "has rows in batches: `runner resume` collects them"
    if newer == 0 or run.folder.resolve() == (run.folder.parent / "latest").resolve():
        return "is the newest"
    ended = [session.finished_at or session.started_at for session in run.manifest.sessions]
    if max(ended, default="") > utc_text(now_us - _DAY_US):
        return "worked within a day: `budget.daily_usd` counts what it cost"
    return None


def _holders(base: Path, folders: Collection[Path]) -> dict[Path, str]:
    """Return which of these runs hold answers that no newer run has."""
    try:
        with LatestAnswers(base) as latest:
            held = latest.held()
    except SpecError:  # only rehearsals
        return {}
    needed = {}
    for folder in folders:
        if why := latest.left_out.get(folder):
            needed[folder] = f"may hold answers that no newer run has: {why}"
        elif rows := held.get(folder):
            needed[folder] = f"holds the latest answer of {rows:,} {'row' if rows == 1 else 'rows'}"
    return needed


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# Deleting -------------------------------------------------------------------------------------------------------------


def _delete(base: Path, folder: Path) -> None:
    """Delete a run. Killed at any moment, it leaves the whole run, or none and something for the next to clean up."""
    (base / GRAVE).mkdir(exist_ok=True)
    folder.rename(base / GRAVE / folder.name)
    atomic.sync_folder(base)
    _bury(base)


def _bury(base: Path) -> None:
    """Delete what lies in the grave, also what an earlier prune that was killed has left there."""
    if (base / GRAVE).exists():
        shutil.rmtree(base / GRAVE)
