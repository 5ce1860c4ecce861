"""What runs have spent so far, and what a budget leaves of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from runner import parts, runs
from runner.budget import NOTHING, Amount, Budget, midnight_us
from runner.clock import Clock
from runner.errors import SpecError
from runner.load import Job
from runner.manifest import Manifest, Session, utc_text
from runner.output import RUNNER_FIELDS

_BATCH_ROWS = 20_000
_SPENT = ("_finished_at", "_cost_usd", "_input_tokens", "_output_tokens")


def open_budget(
    job: Job,
    folder: Path,
    manifest: Manifest,
    clock: Clock,
    waiting: Callable[[], AbstractContextManager[None]],
    note: Callable[[Amount], None],
) -> Budget | None:
    """Return the budget of a run, less what it and its job have spent; None without caps.

    Args:
        folder: the run's; beside it are the job's other runs.
        waiting: entered around every wait, so that a stopping run can end it.
        note: keeps, whatever happens, the most that this session may have taken.
    """
    caps = job.spec.budget
    if caps.unlimited:
        return None
    today_usd = 0.0
    if caps.daily_usd is not None:
        alike = [run for run in runs.runs_in(folder.parent) if runs.is_rehearsal(run) == job.rehearsal]
        today_usd = sum(_usd_since(run, midnight_us(clock)) for run in alike)
    return Budget(caps, clock, spent_in(folder).or_more(_told(manifest.sessions)), today_usd, waiting, note)


def _usd_since(run: Path, since_us: int) -> float:
    """Return what a run has cost since a time (microseconds since 1970); of a session before it only its rows tell."""
    try:
        sessions = Manifest.load(run).sessions
    except SpecError:
        sessions = []
    later = [session for session in sessions if session.started_at >= utc_text(since_us)]
    return spent_in(run, since_us).or_more(_told(later)).usd


def _told(sessions: Sequence[Session]) -> Amount:
    """Return what sessions say they spent: what was thrown away, or has no usage, stands in no row."""
    return sum((Amount(session.spent_usd, session.spent_tokens) for session in sessions), NOTHING)


def spent_in(folder: Path, since_us: int = 0) -> Amount:
    """Return what the requests of a run took that were finished at `since_us` (microseconds since 1970) or later.

    Raises:
        FatalError: a part or journal is damaged.
    """
    if max((path.stat().st_mtime_ns for path in folder.iterdir()), default=0) < since_us * 1000:
        return NOTHING
    since = pa.scalar(since_us, pa.int64())
    spent = NOTHING
    for table in parts.stored(folder, pa.schema([f for f in RUNNER_FIELDS if f.name in _SPENT]), _BATCH_ROWS):
        table = table.filter(pc.greater_equal(table.column("_finished_at").cast(pa.int64()), since))
        usd, *tokens = (pc.sum(table.column(name)).as_py() or 0 for name in _SPENT[1:])
        spent += Amount(usd, sum(tokens))
    return spent
