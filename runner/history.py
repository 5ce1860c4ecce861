"""What a run is in the history of its job: when it began, and in one word how it came out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from runner.clock import us_of
from runner.errors import SpecError
from runner.lock import is_locked
from runner.manifest import Manifest
from runner.notify_section import MAX_ERROR_RATE
from runner.run_date import date_of_us
from runner.runs import is_rehearsal
from runner.timespan import read_span

OUTCOMES = ("success", "partial", "stopped", "failed", "cancelled", "missed", "skipped")
"""How a planned run can end. `missed` and `skipped` are for moments at which none began: no folder tells of them."""

UNFINISHED = ("running", "waiting", "killed")
"""What a run is that has no outcome yet; with `stopped` and `cancelled` those that can be resumed."""

_STAMP = re.compile(r"(\d{8}T\d{6})Z")


@dataclass(frozen=True)
class Past:
    """One run of a job.

    Attributes:
        began_us: when, in microseconds since 1970.
    """

    folder: Path
    manifest: Manifest
    began_us: int

    @classmethod
    def load(cls, folder: Path) -> Past:
        """Read what a run's folder says.

        Raises:
            SpecError: it is no run, or its record cannot be read.
        """
        manifest = Manifest.load(folder)
        return cls(folder, manifest, _began_us(manifest, folder))

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def run_date(self) -> str:
        """The date that it is for (ISO 8601); of a run that is older than such dates, the one on which it began."""
        return self.manifest.run_date or date_of_us(self.began_us)

    @property
    def turn(self) -> tuple[str, int, str]:
        """What the runs of a job are ordered by: a run for an old date is no newer for being made today."""
        return self.run_date, self.began_us, self.name

    @property
    def outcome(self) -> str:
        return outcome(self.manifest, self.folder)

    @property
    def is_rehearsal(self) -> bool:
        return self.manifest.rehearsal or is_rehearsal(self.folder)

    @property
    def took_s(self) -> float:
        """Seconds of work, over all sessions that have ended."""
        return sum(session.wall_s for session in self.manifest.sessions)


def status(manifest: Manifest, folder: Path) -> str:
    """Return the status as it is now: a run that says it works, but that nobody holds, was killed."""
    if manifest.status == "running" and not is_locked(folder.parent):
        return "killed"
    return manifest.status


def outcome(manifest: Manifest, folder: Path) -> str:
    """Return how a run came out: one of `OUTCOMES`, or of `UNFINISHED` where that is still open.

    `success` is an answer for every row, also for none; `partial` lacks some, `failed` all of them. One that ended
    early is `stopped(REASON)`, the reason being the kind of what stopped it, or `cancelled` where a person or a signal
    did.

    Args:
        manifest: with a status of its own words; `killed` is one too.
        folder: the run's.
    """
    now = status(manifest, folder)
    if now == "finished":
        failed, rows = _counts(manifest)
        return "success" if not failed else "failed" if failed == rows else "partial"
    if now == "stopped":
        return f"stopped({manifest.stopped_by['kind']})" if manifest.stopped_by else "stopped"
    return "cancelled" if now == "interrupted" else now


def is_success(manifest: Manifest) -> bool:
    """Whether a run is a success of its job: it has finished, with no more failed rows than the job allows.

    `outcome` is about the rows, this about whether somebody has to look: a `partial` run may well be one, up to
    `notify.max_error_rate`.
    """
    failed, rows = _counts(manifest)
    # An old record knows no `notify`.
    allowed = (manifest.spec.get("notify") or {}).get("max_error_rate", MAX_ERROR_RATE)
    return manifest.status == "finished" and (failed / rows if rows else 0.0) <= allowed


def _counts(manifest: Manifest) -> tuple[int, int]:
    """Return how many rows failed, of how many with a result."""
    return manifest.summary.get("failed", 0), manifest.summary.get("rows", 0)


def is_one_of(found: str, wanted: Iterable[str]) -> bool:
    """Whether an outcome is one of those wanted: `stopped` stands for all its reasons."""
    return any(found == word or found.startswith(f"{word}(") for word in wanted)


def in_order(folders: Iterable[Path]) -> tuple[list[Past], dict[Path, str]]:
    """Return the runs in these folders, in the order of their dates, and of a date in that in which they began.

    Also returns why others could not be read.
    """
    found, unreadable = [], {}
    for folder in folders:
        try:
            found.append(Past.load(folder))
        except SpecError as error:
            unreadable[folder] = error.message
    return sorted(found, key=lambda run: run.turn), unreadable


def since_us(text: str, now_us: int) -> int:
    """Read what `--since` takes: a time span until now, or a date, with or without a time; without an offset UTC.

    Raises:
        SpecError: it is neither.
    """
    if ago := read_span(text.strip()):
        return now_us - ago // timedelta(microseconds=1)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise SpecError(
            f"--since takes a time span or a date, got `{text}`", hint="for instance --since 7d or --since 2026-11-01"
        ) from None
    return us_of(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _began_us(manifest: Manifest, folder: Path) -> int:
    if manifest.sessions:
        return us_of(datetime.fromisoformat(manifest.sessions[0].started_at))
    if stamp := _STAMP.match(folder.name):  # it was killed before it began to work
        return us_of(datetime.strptime(stamp[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC))
    return folder.stat().st_mtime_ns // 1000
