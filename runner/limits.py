"""Keeps a run within the limits of an endpoint, as the server counts them.

`aiolimiter` meters requests and tokens. What it leaves to its user is added here: tokens in order of arrival,
amounts larger than its bucket, a rate that no window of 60 seconds exceeds, and a pause for everyone when the
server asks for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext

from aiolimiter import AsyncLimiter

from runner.shared_limits import SharedBucket, SharedLimits

_REQUEST_BURST_S = 0.1  # so that a timer that wakes late loses nothing
_TOKEN_BURST_S = 0.5


class Limiter:
    """Requests per minute, tokens per minute, and pauses of one endpoint. Belongs to one event loop.

    Concurrency is not its business: a strategy has as many workers as the job allows in flight.

    Args:
        waiting: entered around every wait, so that a stopping run can end it.
        shared: where limits and pauses hold for other processes too; `share` says which of the limits do.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
        shared: SharedLimits | None = None,
        share: Collection[str] = ("requests", "tokens"),
    ) -> None:
        self._requests: AsyncLimiter | SharedBucket | None = None
        self._tokens: AsyncLimiter | SharedBucket | None = None
        if requests_per_minute is not None:
            size = _size(requests_per_minute, _REQUEST_BURST_S)
            others = shared if "requests" in share else None
            self._requests = _bucket(*size) if others is None else others.requests(*size)
        if tokens_per_minute is not None:
            size = _size(tokens_per_minute, _TOKEN_BURST_S)
            others = shared if "tokens" in share else None
            self._tokens = _bucket(*size) if others is None else others.tokens(*size)
        self._shared = shared
        self._in_order = asyncio.Lock()  # aiolimiter serves small amounts first; large requests would starve
        self._waiting = waiting
        self._resume_at = 0.0

    @property
    def free(self) -> bool:
        """Whether nobody has to ask: there is no limit, and there has been no pause."""
        return self._requests is None and self._tokens is None and not self._resume_at and self._shared is None

    def pause(self, seconds: float) -> None:
        """Let nobody start a request for so long; a longer pause that is on already stays."""
        if self._shared is not None:
            self._shared.pause(seconds)
        self._resume_at = max(self._resume_at, asyncio.get_running_loop().time() + seconds)

    def paused_s(self) -> float:
        """Return how long the pause that is on still lasts, in seconds."""
        others_s = 0.0 if self._shared is None else self._shared.paused_s()
        return max(others_s, self._resume_at - asyncio.get_running_loop().time())

    def ready(self, tokens: int) -> bool:
        """Whether a request of `tokens` could be sent at once, or (one larger than the bucket) begin to be counted."""
        if self.paused_s() > 0 or self._in_order.locked():
            return False
        requests, tokens_ = self._requests, self._tokens
        if requests is not None and not requests.has_capacity():
            return False
        return tokens_ is None or tokens_.has_capacity(min(tokens, tokens_.max_rate))

    async def acquire(self, tokens: int) -> None:
        """Wait until a request of `tokens` (input and output) may be sent."""
        if self.free:
            return
        with self._waiting():
            await self._pass_pause()
            if self._tokens is not None:
                async with self._in_order:
                    await _acquire_all(self._tokens, tokens)
            if self._requests is not None:
                await self._requests.acquire()
            await self._pass_pause()  # one may have begun while we waited

    async def _pass_pause(self) -> None:
        while (delay := self.paused_s()) > 0:  # noqa: ASYNC110 - it may be prolonged meanwhile
            await asyncio.sleep(delay)


def _size(per_minute: float, burst_s: float) -> tuple[float, float]:
    """Return capacity and rate (a second) of a bucket that never lets more than `per_minute` through in 60 seconds.

    A leaky bucket of capacity c lets c at once and then its rate: c - 1 + 60 * rate in the worst minute. So the
    rate is lowered by what the burst adds, 1/600 for a burst of 0.1 s.
    """
    capacity = 1 + per_minute / 60 * burst_s
    return capacity, (per_minute - (capacity - 1)) / 60


def _bucket(capacity: float, rate: float) -> AsyncLimiter:
    return AsyncLimiter(capacity, capacity / rate)


async def _acquire_all(limiter: AsyncLimiter | SharedBucket, amount: float) -> None:
    """Acquire any amount, also more than the bucket holds at once."""
    while amount > 0:
        portion = min(amount, limiter.max_rate)
        await limiter.acquire(portion)
        amount -= portion
