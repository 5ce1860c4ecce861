"""What the user sees while a run works: a live display on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from runner.clock import Clock
from runner.forecast import RateLimits
from runner.money import usd
from runner.pace import Pace, TimeLeft
from runner.tally import Tally

if TYPE_CHECKING:
    from rich.console import RenderableType

_PLAIN_EVERY_S = 10.0


@dataclass(frozen=True)
class Moment:
    """One look at a running job.

    Attributes:
        done: rows with a result, those from earlier sessions included.
        cost_usd: what is known of it; all of it where `cost_known`.
        batched: requests in unfinished batches.
        batches: how each unfinished batch is, a line for each.
        waiting: what holds the run back, in words.
        left: an estimate of the time left; None: unknown.
    """

    done: int
    total: int
    failed: int
    retrying: int
    in_flight: int
    rate_s: float
    tokens: int
    cost_usd: float
    cost_known: bool
    waiting: str
    left: TimeLeft | None
    batched: int = 0
    batches: Sequence[str] = ()


class Display(Protocol):
    """Shows moments."""

    def show(self, moment: Moment) -> None: ...

    def note(self, text: str) -> None:
        """Say something once, above what moves."""

    def close(self) -> None: ...


class Progress:
    """Turns live counters into moments for a display.

    Args:
        found: rows that had a result before this session; `found_failed` of them failed.
        concurrency: how many requests may be in flight.
    """

    def __init__(
        self,
        display: Display,
        clock: Clock,
        total: int,
        found: int,
        found_failed: int,
        concurrency: int,
        limits: RateLimits,
    ) -> None:
        self._display = display
        self._clock = clock
        self._total = total
        self._found = found
        self._found_failed = found_failed
        self._concurrency = concurrency
        self._pace = Pace(limits, clock.steady_s())

    def show(self, tally: Tally, paused_s: float = 0.0) -> None:
        """Show the counters as they are now.

        Args:
            paused_s: how long a pause that the server asked for still lasts.
        """
        done = self._found + tally.done
        rate_s = self._pace.rate_s(self._clock.steady_s(), tally)
        batches = tally.table()
        self._display.show(
            Moment(
                done,
                self._total,
                self._found_failed + tally.failed,
                tally.backing_off,
                tally.in_flight,
                rate_s,
                tally.input_tokens + tally.output_tokens,
                tally.cost_usd,
                tally.cost_known,
                _waiting(tally, paused_s, self._concurrency),
                None if batches else self._pace.left(rate_s, tally, self._total - done),  # the server's pace, not ours
                tally.batched,
                batches,
            )
        )


def _waiting(tally: Tally, paused_s: float, concurrency: int) -> str:
    if paused_s > 0:
        return f"paused by the server for {paused_s:.0f} s more"
    if tally.throttled > tally.in_flight / 10:  # a few may wait for a moment; a limit that binds keeps many waiting
        return "waiting for the rate limit"
    if tally.no_room > tally.in_flight:
        return "waiting for room at the flex tier"
    if tally.backing_off > tally.in_flight:
        return "waiting to try again"
    if tally.in_flight >= concurrency:
        return "waiting for answers (concurrency is the limit)"
    if tally.in_flight:
        return "waiting for answers"
    if tally.batched:
        return "waiting for batches"
    return "collecting answers" if tally.table() else "reading the input"


class LiveDisplay:
    """Two lines that renew themselves, for a terminal."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._title = title
        self._live = Live(console=Console(stderr=True), refresh_per_second=8, transient=True)
        self._live.start()

    def show(self, moment: Moment) -> None:
        self._live.update(self._render(moment))

    def _render(self, moment: Moment) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        head = Table.grid(padding=(0, 1), expand=True)
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(no_wrap=True, justify="right")
        share = f"{moment.done:,} / {moment.total:,}"
        head.add_row(Text(self._title, style="bold"), ProgressBar(max(moment.total, 1), moment.done), share)
        lines = [describe(moment), *shortened(moment.batches)]
        return Group(head, *(Text(line, overflow="ellipsis", no_wrap=True) for line in lines))

    def note(self, text: str) -> None:
        with suppress(OSError):  # the terminal may be gone, and the run goes on
            self._live.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        with suppress(OSError):
            self._live.stop()


class PlainDisplay:
    """A line now and then, for logs and pipes."""

    def __init__(self, clock: Clock, stream: TextIO | None = None, every_s: float = _PLAIN_EVERY_S) -> None:
        self._clock = clock
        self._stream = stream or sys.stderr
        self._every_s = every_s
        self._last_s = clock.steady_s()

    def show(self, moment: Moment) -> None:
        now = self._clock.steady_s()
        if now - self._last_s >= self._every_s:
            self._last_s = now
            self.note(f"{moment.done:,} / {moment.total:,} rows · {describe(moment)}")

    def note(self, text: str) -> None:
        with suppress(OSError):  # nobody may be reading any more, and the run goes on
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        pass


class NotebookDisplay:
    """One line that renews itself in a cell's output."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._width = 0

    def show(self, moment: Moment) -> None:
        self._write(f"{self._title}: {moment.done:,} / {moment.total:,} rows · {describe(moment)}", end="")

    def note(self, text: str) -> None:
        self._write(text, end="\n")
        self._width = 0

    def close(self) -> None:
        self._write("", end="\r")

    def _write(self, text: str, end: str) -> None:
        print("\r" + text.ljust(self._width), end=end, flush=True)  # noqa: T201 - a cell shows its stderr as an error
        self._width = len(text)


class NoDisplay:
    """Nothing at all."""

    def show(self, moment: Moment) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Console:
    """How much to show.

    Args:
        live: a display that renews itself, for a terminal; otherwise plain lines.
        notebook: the same for the output of a notebook's cell.
    """

    quiet: bool = False
    live: bool = False
    notebook: bool = False

    def open(self, title: str, clock: Clock) -> Display:
        if self.quiet:
            return NoDisplay()
        if self.notebook:
            return NotebookDisplay(title)
        return LiveDisplay(title) if self.live else PlainDisplay(clock)


def is_terminal() -> bool:
    """Whether a display that renews itself makes sense."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def describe(moment: Moment) -> str:
    """Say a moment in one line; what matters most comes first, because a narrow terminal cuts the end off."""
    parts = [
        _left(moment.left),
        f"{moment.rate_s:,.1f} rows/s" if moment.rate_s >= 1 else f"{moment.rate_s * 60:,.1f} rows/min",
        moment.waiting,
        f"{moment.failed:,} failed",
        f"{moment.in_flight} in flight",
        *([f"{moment.batched:,} in batches"] if moment.batched else []),
        f"{moment.retrying} retrying",
        f"{moment.tokens:,} tokens",
        _cost(moment),
    ]
    return " · ".join(parts)


def shortened(lines: Sequence[str], most: int = 12) -> list[str]:
    """Return so many lines at most, the last of which says how many are left out."""
    if len(lines) <= most:
        return list(lines)
    return [*lines[: most - 1], f"… and {len(lines) - most + 1} more"]


def _left(left: TimeLeft | None) -> str:
    if left is None:
        return "time left unknown"
    return f"{'at least ' if left.at_least else ''}{duration(left.seconds)} left"


def _cost(moment: Moment) -> str:
    if moment.cost_known:
        return usd(moment.cost_usd)
    return f"at least {usd(moment.cost_usd)}" if moment.cost_usd else "cost unknown"


def duration(seconds: float) -> str:
    """Return a time span as people write it: `3.2 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
