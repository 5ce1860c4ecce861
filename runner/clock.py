"""Time, passed in: the wall clock for what is written down, a steady clock for what is measured."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Where the runner reads the time."""

    def now_us(self) -> int:
        """Return the wall time in microseconds since 1970 (UTC)."""

    def steady_s(self) -> float:
        """Return seconds on a clock that never jumps; only differences mean something."""


class SystemClock:
    """The computer's clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def steady_s(self) -> float:
        return time.perf_counter()


def us_of(moment: datetime) -> int:
    """Return a moment in microseconds since 1970; one without an offset is on this machine's clock."""
    return round(moment.timestamp() * 1e6)
