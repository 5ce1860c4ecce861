"""Waits for input that is not there yet, or still growing, when a run begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, time, tzinfo
from glob import has_magic
from pathlib import Path
from typing import NoReturn

from runner.clock import Clock, us_of
from runner.dataset.files import display_name, expand, kind_of
from runner.dataset.settings import NoFile
from runner.deadline import at_us
from runner.load import Job
from runner.places import at_its_place
from runner.problems import Problem, SpecErrors
from runner.sections import WaitSpec
from runner.signals import at_an_ending
from runner.stop import Stop

LOOK_S = 2.0
"""How often the files are looked for; more often where they settle sooner."""
SAY_S = 600.0
"""How often it is said what is waited for."""

_NAMED = 3


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A file as it was seen.

    Attributes:
        stamp: its size and time of change.
        since_s: since when it has looked like that, on the steady clock.
    """

    stamp: tuple[int, int]
    since_s: float


class Arrival:
    """The input of a job on its way. The first look is taken when this is made.

    Args:
        wait: the job's `input.wait_for`.
        moment: the moment of the job's schedule that the run is for; None: now.

    Raises:
        SpecErrors: `input.path` names what is no file, or what does not tell its format.
    """

    def __init__(self, job: Job, wait: WaitSpec, clock: Clock, moment: datetime | None = None) -> None:
        self._job = job
        self._clock = clock
        self._settle = wait.settle
        schedule = job.spec.schedule
        self._zone = None if schedule is None or schedule.timezone is None else schedule.zone
        self._began_us = clock.now_us()
        self._until_us = until_us(wait, self._began_us, moment, self._zone)
        self._seen: dict[Path, _Sighting] = {}
        self._missing: list[int] = []  # places in `input.path`
        self._look(first=True)

    @property
    def complete(self) -> bool:
        """Whether, at the last look, every file was there and had stopped growing."""
        return not self._missing and not self._growing()

    def wait(self, stop: Stop, say: Callable[[str], None], pause: Callable[[float], None] | None = None) -> None:
        """Return when every file is there and has stopped growing.

        A file that is there in time has time to settle, also when the run began too late to wait.

        Args:
            say: told at once what is waited for, and again now and then.
            pause: sleeps for so many seconds; default: until `stop` is requested.

        Raises:
            SpecErrors: the time is over; it names what is not there.
            KeyboardInterrupt: a signal or `stop` has ended the waiting.
        """
        pause = pause or stop.pause
        said, said_s = None, 0.0
        with at_an_ending(_interrupt):  # there is no run yet that could be stopped with care
            while not self.complete:
                now_us, now_s = self._clock.now_us(), self._clock.steady_s()
                self._refuse_if_over(now_us)
                here = not self._missing
                if here is not said or now_s - said_s >= SAY_S:
                    said, said_s = here, now_s
                    say(self._waiting())
                left_s = (self._until_us - now_us) / 1e6
                look_s = min(LOOK_S, self._settle.span.total_seconds())
                pause(min(look_s, left_s) if left_s > 0 else look_s)
                if stop.requested:
                    raise stop.reason or KeyboardInterrupt
                self._look()

    def _look(self, *, first: bool = False) -> None:
        root, patterns = self._job.root.absolute(), self._job.spec.input.path
        now_s = self._clock.steady_s()
        self._missing, seen = [], {}
        with at_its_place(self._job):
            for index, pattern in enumerate(patterns):
                if first and not has_magic(pattern):
                    kind_of(Path(pattern), self._job.spec.input.format, pattern)
                try:
                    found = expand(pattern, root)
                except NoFile:
                    self._missing.append(index)
                    continue
                for path in found:
                    seen[path] = self._sighting(path, now_s, first=first)
        self._seen = seen

    def _sighting(self, path: Path, now_s: float, *, first: bool) -> _Sighting:
        try:
            status = path.stat()
        except FileNotFoundError:  # it was renamed just now
            return _Sighting((-1, -1), now_s)
        stamp = (status.st_size, status.st_mtime_ns)
        known = self._seen.get(path)
        if known is not None and known.stamp == stamp:
            return known
        # Of a file that was there before us its time of change tells how long it has been complete.
        age_s = max(0.0, (self._clock.now_us() - status.st_mtime_ns / 1000) / 1e6) if first else 0.0
        return _Sighting(stamp, now_s - age_s)

    def _growing(self) -> list[Path]:
        last_s = self._clock.steady_s() - self._settle.span.total_seconds()
        return [path for path, sighting in self._seen.items() if sighting.since_s > last_s]

    def _waiting(self) -> str:
        if self._missing:
            names = [self._job.spec.input.path[index] for index in self._missing]
            return f"waiting for {_shortened(names)} until {self._shown_until()}"
        growing = [display_name(path, self._job.root.absolute()) for path in self._growing()]
        return f"waiting for {_shortened(growing)} to stay the same for {self._settle}"

    def _refuse_if_over(self, now_us: int) -> None:
        if self._missing:
            if now_us >= self._until_us:
                self._refuse(self._problem(index) for index in self._missing)
            return
        settled_us = self._began_us + round(self._settle.span.total_seconds() * 1e6)
        if now_us >= max(self._until_us, settled_us):
            growing = (display_name(path, self._job.root.absolute()) for path in self._growing())
            hint = "it must be complete by then; or wait longer with `input.wait_for`"
            self._refuse(
                self._job.source.problem(("input", "path"), f"`{name}` still changed at {self._shown_until()}", hint)
                for name in growing
            )

    def _refuse(self, problems: Iterator[Problem]) -> NoReturn:
        raise SpecErrors(problems)

    def _problem(self, index: int) -> Problem:
        pattern, by = self._job.spec.input.path[index], self._shown_until()
        text = (
            f"no file matched `{pattern}` by {by}" if has_magic(pattern) else f"there was no file `{pattern}` by {by}"
        )
        source = self._job.source
        at = ("input", "path", index) if ("input", "path", index) in source.values else ("input", "path")
        return source.problem(at, text, "run the job when it is there; or wait longer with `input.wait_for`")

    def _shown_until(self) -> str:
        """Return until when, on the schedule's clock, with the date where it is not within a day of the beginning."""
        until = datetime.fromtimestamp(self._until_us / 1e6, self._zone)
        text = f"{until:%H:%M:%S}" if until.second else f"{until:%H:%M}"
        return text if abs(self._until_us - self._began_us) < 86_400_000_000 else f"{until:%Y-%m-%d} {text}"


def until_us(wait: WaitSpec, began_us: int, moment: datetime | None, zone: tzinfo | None) -> int:
    """Return until when a run waits, in microseconds since 1970.

    A time of day is the first one after the moment that the run is for: of a run that begins too late it has passed,
    and is not tomorrow's. A time span counts from when the run began, however late.

    Args:
        began_us: when the run began, in microseconds since 1970.
        moment: aware; None: when the run began.
        zone: whose clock it is; None: this machine's.
    """
    if moment is not None and isinstance(wait.until.when, time):
        return at_us(wait.until, us_of(moment), zone)
    return at_us(wait.until, began_us, zone)


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt
