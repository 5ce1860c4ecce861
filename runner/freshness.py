"""How long ago a job last succeeded, as its run folders say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from runner import runs
from runner.clock import us_of
from runner.errors import SpecError
from runner.history import is_success
from runner.manifest import Manifest
from runner.overrides import is_trial


@dataclass(frozen=True, slots=True)
class Success:
    """A run that was one.

    Attributes:
        at_us: when it first had a result for every row, in microseconds since 1970: what it knows is from then. Of a
            run that was made later for an old date, the end of the day after that date.
    """

    run: str
    at_us: int


def last_success(folders: Sequence[Path]) -> Success | None:
    """Return the latest success among the runs of a job; None: there is none. Rehearsals and trials are none.

    Which runs are one, `history.is_success` says.
    """
    found = None
    for folder in folders:
        if runs.is_rehearsal(folder):
            continue
        try:
            manifest = Manifest.load(folder)
        except SpecError:
            continue  # what cannot be read is no success
        counts = is_success(manifest) and not is_trial(manifest.overrides)
        at_us = _known_at_us(manifest) if counts else None
        if at_us is not None and (found is None or at_us > found.at_us):
            found = Success(manifest.run, at_us)
    return found


def _known_at_us(manifest: Manifest) -> int | None:
    """Return when a success was one: an old date that is made today says nothing of how the job is today.

    The day after a run's date (UTC) it is still on time: that leaves room for all time zones, and for nights that work
    on the day before.
    """
    at_us = finished_at_us(manifest)
    if at_us is None or not manifest.run_date:
        return at_us
    day = datetime.combine(date.fromisoformat(manifest.run_date), datetime.min.time(), UTC)
    on_time = day + timedelta(days=2)
    began = datetime.fromisoformat(manifest.sessions[0].started_at)
    return at_us if began <= on_time else min(at_us, us_of(on_time))


def finished_at_us(manifest: Manifest) -> int | None:
    """Return when a run first had a result for every row; a retry does not make it younger."""
    for session in manifest.sessions:
        if session.ended == "finished" and session.finished_at is not None:
            return us_of(datetime.fromisoformat(session.finished_at))
    return None
