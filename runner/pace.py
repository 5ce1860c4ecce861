"""How fast a run gets on, and how long it will still take: measured, and never less than its limits allow."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from runner.forecast import RateLimits, limits_s
from runner.tally import Tally

_WINDOW_S = 20.0
_FEW = 10  # results; a rate measured from fewer of them jumps


@dataclass(frozen=True)
class TimeLeft:
    """How long a run will still take.

    Attributes:
        at_least: it is only what the limits alone make it take: too little is done to measure more.
    """

    seconds: float
    at_least: bool = False


class Pace:
    """Measures a session of work.

    Args:
        began_s: when it began, on the clock that is read later.
    """

    def __init__(self, limits: RateLimits, began_s: float) -> None:
        self._limits = limits
        self._seen: deque[tuple[float, int]] = deque([(began_s, 0)])

    def rate_s(self, now_s: float, tally: Tally) -> float:
        """Return rows per second, over the last seconds, or over more where rows are slow."""
        seen, done = self._seen, tally.done
        if done > seen[-1][1]:
            seen.append((now_s, done))
        enough = max(_FEW, tally.max_in_flight)  # answers that were asked for together come together
        while len(seen) > 1 and now_s - seen[1][0] >= _WINDOW_S and done - seen[1][1] >= enough:
            seen.popleft()
        since_s, before = seen[0]
        return (done - before) / (now_s - since_s) if now_s > since_s else 0.0

    def left(self, rate_s: float, tally: Tally, remaining: int) -> TimeLeft | None:
        """Return the time left for so many rows; None: unknown, as it is of batches."""
        if tally.batched:
            return None
        least_s = self._least_s(tally, remaining - tally.in_flight)
        # The first to be answered are the fastest; until a whole round is, the rate tells nothing.
        if rate_s > 0 and tally.done >= tally.max_in_flight:
            return TimeLeft(max(remaining / rate_s, least_s))
        return TimeLeft(least_s, at_least=True) if least_s > 0 else None

    def _least_s(self, tally: Tally, unsent: int) -> float:
        tokens = (tally.input_tokens + tally.output_tokens) / tally.done if tally.done else 0.0
        return max(0.0, limits_s(unsent, tokens, self._limits) or 0.0)
