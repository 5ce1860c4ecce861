"""How a job is, over its runs: kept beside them, so that people are told of changes and not of every night."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from runner.atomic import write_text
from runner.notify_section import Event, Target

State = Literal["ok", "partial", "budget", "failing", "late"]
"""`partial`: finished, with too many failed rows. `budget`: stopped by it. `failing`: did not finish, or not begin."""

_EVENT: dict[State, Event] = {"partial": "failure", "budget": "budget", "failing": "failure", "late": "late"}


@dataclass
class JobState:
    """How a job is, and what each target has been told since it was last well.

    Attributes:
        since: when it came to be so (UTC, ISO 8601); None: it has had no run.
        run: the run that showed it; None: a run that could not begin, or none at all.
        told: by the address as it is written in the job file, the troubles told, or passed over as not asked for.
    """

    state: State = "ok"
    since: str | None = None
    run: str | None = None
    told: dict[str, list[str]] = field(default_factory=dict)

    def turn(self, state: State, now: str, run: str | None) -> None:
        """Note how the job is now."""
        if state != self.state or self.since is None:
            self.since = now
        self.state, self.run = state, run

    def event_for(self, target: Target) -> Event | None:
        """Return what a target is to be told of the job as it is; None: nothing, or nothing new.

        Of each kind of trouble it is told once, until the job is well again. Who does not ask for `budget` hears of
        that as of any other failure: the rows are missing all the same.
        """
        told = self.told.get(target.written, [])
        if self.state == "ok":
            if told and "recovered" in target.on:
                return "recovered"
            return "success" if "success" in target.on else None
        event = _EVENT[self.state]
        if event == "budget" and "budget" not in target.on:
            event = "failure"
        return event if event in target.on and self.state not in told else None

    def settle(self, target: Target, *, delivered: bool) -> None:
        """Note that a target knows; what could not be delivered is tried again at the end of the next run."""
        if not delivered:
            return
        if self.state == "ok":
            self.told.pop(target.written, None)
        elif self.state not in (told := self.told.setdefault(target.written, [])):
            told.append(self.state)


@contextmanager
def held(base: Path, *, rehearsal: bool) -> Iterator[JobState]:
    """Give a job's state, alone, and write it back at the end, if nothing goes wrong.

    Args:
        base: the job's folder under `outputs/`.
        rehearsal: that of its rehearsals, which is another one.

    Raises:
        OSError: the folder cannot be written to.
    """
    base.mkdir(parents=True, exist_ok=True)
    path = _path(base, rehearsal)
    with open(base / ".alerts.lock", "a", encoding="utf-8") as lock:
        # A service that looks for late jobs and a run that ends would tell the same thing twice.
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = _read(path)
        before = asdict(state)
        yield state
        if asdict(state) != before:
            write_text(path, json.dumps(asdict(state), indent=2) + "\n")


def look(base: Path, *, rehearsal: bool) -> JobState:
    """Return a job's state as it was written last."""
    return _read(_path(base, rehearsal))


def _path(base: Path, rehearsal: bool) -> Path:
    return base / ("alerts-rehearsal.json" if rehearsal else "alerts.json")


def _read(path: Path) -> JobState:
    """Return what a file says. One that says nothing costs at most a message that was sent already."""
    try:
        found = JobState(**json.loads(path.read_text(encoding="utf-8")))
        return found if found.state in ("ok", *_EVENT) and isinstance(found.told, dict) else JobState()
    except (OSError, ValueError, TypeError):
        return JobState()
