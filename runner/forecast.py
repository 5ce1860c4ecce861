"""How long requests take live under a job's limits: what the rates alone make it, and with the server's own time."""

from __future__ import annotations

from typing import Protocol

from runner.sections import DEFAULT_CONCURRENCY

LATENCY_S = 3.0
"""How long an answer takes where nothing was measured. Short answers of large models take one to two seconds; the
slowest, and those that have to be asked for twice, bring the mean up. Too high a guess makes a run go live too early,
which costs money; too low a one makes it miss its deadline."""

LIVE_MARGIN = 1.25
"""A live run counts as meeting a deadline if this many times its forecast fits before it."""

FLEX_MARGIN = 2.0
"""The same at `service_tier: flex`, which is slower and promises no room: at half of the speed it is still done."""


class RateLimits(Protocol):
    """What the job file says under `limits`, of rates."""

    @property
    def requests_per_minute(self) -> float | None: ...
    @property
    def tokens_per_minute(self) -> float | None: ...


class LiveLimits(RateLimits, Protocol):
    """All of it."""

    @property
    def concurrency(self) -> int | None:
        """None: the default."""


def limits_s(requests: int, tokens_per_request: float, limits: RateLimits) -> float | None:
    """Return how long the rate limits alone make so many requests take, in seconds; None where none is set.

    Args:
        tokens_per_request: what a server counts: input, and the longest answer allowed.
    """
    minutes = []
    if limits.requests_per_minute:
        minutes.append(requests / limits.requests_per_minute)
    if limits.tokens_per_minute:
        minutes.append(requests * tokens_per_request / limits.tokens_per_minute)
    return max(minutes) * 60 if minutes else None


def live_s(requests: int, tokens_per_request: float, limits: LiveLimits, latency_s: float = LATENCY_S) -> float:
    """Return how long so many requests take live, in seconds: as long as the tightest limit makes it.

    Args:
        tokens_per_request: what a server counts: input, and the longest answer allowed.
        latency_s: how long an answer takes; `concurrency` of them are waited for at a time.
    """
    at_once = limits.concurrency or DEFAULT_CONCURRENCY
    return max(limits_s(requests, tokens_per_request, limits) or 0.0, requests * latency_s / at_once)
