"""What a session did that left no word of its end: it is at work or was killed, and the run's folder tells."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from runner import parts
from runner.manifest import Manifest, Session, utc_text


def close_killed(manifest: Manifest, folder: Path) -> None:
    """Give a session that was killed its rows, and the time until its last sign of life: the newest file it left."""
    for session in _without_end(manifest):
        last_us = int(max(path.stat().st_mtime for path in folder.iterdir()) * 1e6)
        _measure(session, manifest, folder, last_us)
        session.ended = "killed"
        session.finished_at = utc_text(last_us)


def measure_running(manifest: Manifest, folder: Path, now_us: int) -> None:
    """Give the session that is at work its rows and time so far."""
    for session in _without_end(manifest):
        _measure(session, manifest, folder, now_us)


def _without_end(manifest: Manifest) -> list[Session]:
    return [session for session in manifest.sessions if session.finished_at is None]


def _measure(session: Session, manifest: Manifest, folder: Path, until_us: int) -> None:
    began_us = datetime.fromisoformat(session.started_at).timestamp() * 1e6
    session.wall_s = round(max(0.0, until_us - began_us) / 1e6, 3)
    earlier = sum(each.rows or 0 for each in manifest.sessions if each is not session and not each.retry)
    # A retry puts new rows in the place of old ones, so their number does not tell what it did.
    session.rows = None if session.retry else max(0, parts.stored_results(folder) - earlier)
    session.attempts = None  # requests leave no trace but their results
