"""Decides when a request may be sent and which endpoint it goes to: limits, budget, and the health of each endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

from runner.budget import NOTHING, Amount, Budget
from runner.errors import FatalError
from runner.limits import Limiter

_LOOK_S = 0.005  # well within the burst that each limit allows, so that looking late loses nothing
_FAILURES = 3  # in a row, before an endpoint is left alone for a while
_LONGEST_REST_S = 60.0


class Need(NamedTuple):
    """What a request needs in order to be sent.

    Attributes:
        tokens: input and output, as the token limit counts them.
        most: what it may take at most; only where there is a budget.
    """

    tokens: int
    most: Amount = NOTHING


@dataclass(slots=True)
class Lane:
    """The way to one endpoint.

    Attributes:
        concurrency: how many requests may be in flight there; counted only where there are several endpoints.
        failures: attempts in a row that the endpoint failed.
        left: why it takes no more requests.
    """

    name: str
    limiter: Limiter
    concurrency: int = 1
    in_flight: int = 0
    failures: int = 0
    left: FatalError | None = None


class Gate:
    """Where the calls of a run ask before each attempt. Belongs to one event loop.

    Args:
        lanes: one for each endpoint.
        overall: what limits all of them together, where they have limits of their own.
        waiting: entered around every wait, so that a stopping run can end it.
        warn: told when an endpoint leaves.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        overall: Limiter | None = None,
        budget: Budget | None = None,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.lanes = tuple(lanes)
        self._overall = overall
        self.budget = budget
        self._waiting = waiting
        self._warn = warn
        self._in_order = asyncio.Lock()
        self._only = self.lanes[0].limiter if len(self.lanes) == 1 and budget is None else None

    @property
    def free(self) -> bool:
        """Whether nobody has to ask just now."""
        return self._only is not None and self._only.free

    @property
    def counts(self) -> bool:
        """Whether it wants to know how each attempt ended."""
        return self._only is None

    async def acquire(self, need: Need) -> int:
        """Wait until a request may be sent; return the number of the endpoint that it goes to.

        Raises:
            FatalError: the budget is spent, or no endpoint is left.
        """
        if self._only is not None:
            await self._only.acquire(need.tokens)
            return 0
        if self.budget is not None:
            await self.budget.reserve(need.most)
        try:
            if self._overall is not None:
                await self._overall.acquire(need.tokens)
            return await self._choose(need.tokens)
        except BaseException:
            self._settle(need, NOTHING)
            raise

    async def _choose(self, tokens: int) -> int:
        """Return the endpoint that has room first; of several the one that is the least busy."""
        if len(self.lanes) == 1:
            await self.lanes[0].limiter.acquire(tokens)
            return 0
        while True:
            with self._waiting():
                async with self._in_order:
                    lane = await self._ready(tokens)
                    lane.in_flight += 1
            try:
                await lane.limiter.acquire(tokens)  # a large request takes its time, in which others go elsewhere
            except BaseException:
                lane.in_flight -= 1
                raise
            if lane.left is None:
                return self.lanes.index(lane)
            lane.in_flight -= 1

    async def _ready(self, tokens: int) -> Lane:
        while True:
            here = [lane for lane in self.lanes if lane.left is None]
            if not here:
                raise self.lanes[0].left or RuntimeError("no endpoint is left, and none says why")
            ready = [lane for lane in here if lane.in_flight < lane.concurrency and lane.limiter.ready(tokens)]
            if ready:
                return min(ready, key=_business)
            await asyncio.sleep(_LOOK_S)

    def release(self, endpoint: int, need: Need, spent: Amount, *, failed: bool) -> None:
        """Take note of how an attempt ended.

        Args:
            failed: the endpoint could not answer, and another one might.
        """
        if self._only is not None:
            return
        self._settle(need, spent)
        if len(self.lanes) == 1:
            return
        lane = self.lanes[endpoint]
        lane.in_flight -= 1
        if not failed:
            lane.failures = 0
        elif lane.limiter.paused_s() == 0:  # what was in flight when it began to rest says nothing new
            lane.failures += 1
            if lane.failures >= _FAILURES:
                lane.limiter.pause(min(_LONGEST_REST_S, 2.0 ** (lane.failures - _FAILURES)))

    def _settle(self, need: Need, spent: Amount) -> None:
        if self.budget is not None:
            self.budget.settle(need.most, spent)

    def pause(self, endpoint: int, seconds: float) -> None:
        """Start no request to an endpoint for so long."""
        self.lanes[endpoint].limiter.pause(seconds)

    async def leave(self, endpoint: int, error: FatalError) -> None:
        """Send nothing more to an endpoint.

        Raises:
            FatalError: it was the last one: `error`.
        """
        lane = self.lanes[endpoint]
        first = lane.left is None
        lane.left = lane.left or error
        others = [other.name for other in self.lanes if other.left is None]
        if not others:
            raise error
        if first:
            self._warn(f"endpoint `{lane.name}` left the pool: {error.message}; going on with {', '.join(others)}")

    def paused_s(self) -> float:
        """Return how long a pause of all endpoints still lasts, in seconds."""
        return min((lane.limiter.paused_s() for lane in self.lanes if lane.left is None), default=0.0)


def _business(lane: Lane) -> float:
    return lane.in_flight / lane.concurrency
