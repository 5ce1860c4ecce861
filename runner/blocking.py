"""Lets threads make calls. What `Call` awaits there is over when it returns, so a call runs to its end in one step.

Waits (limits, pauses, backoff) happen on the event loop, which knows who came first and whom a stop interrupts; the
thread waits there for its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from typing import Any, Protocol, TypeVar

from runner.errors import RunnerError

T = TypeVar("T")


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return what it returns."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError("a blocking call tried to suspend")


class _Limiter(Protocol):
    @property
    def free(self) -> bool: ...
    async def acquire(self, tokens: int) -> None: ...
    def pause(self, seconds: float) -> None: ...


class _Stop(Protocol):
    def request(self, reason: RunnerError | None = None) -> None: ...
    async def sleep(self, seconds: float) -> None: ...


class ThreadLimiter:
    """The run's limiter, for threads."""

    def __init__(self, limiter: _Limiter, loop: asyncio.AbstractEventLoop) -> None:
        self._limiter = limiter
        self._loop = loop

    async def acquire(self, tokens: int) -> None:
        if not self._limiter.free:
            _wait(self._limiter.acquire(tokens), self._loop)

    def pause(self, seconds: float) -> None:
        self._loop.call_soon_threadsafe(self._limiter.pause, seconds)


class ThreadStop:
    """The run's stop, for threads."""

    def __init__(self, stop: _Stop, loop: asyncio.AbstractEventLoop) -> None:
        self._stop = stop
        self._loop = loop

    def request(self, reason: RunnerError | None = None) -> None:
        self._stop.request(reason)

    async def sleep(self, seconds: float) -> None:
        _wait(self._stop.sleep(seconds), self._loop)


def _wait(coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> None:
    """Let the event loop carry out a coroutine while this thread waits.

    Raises:
        CancelledError: the run stops, or has stopped.
    """
    try:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result()
    except CancelledError:
        raise asyncio.CancelledError from None
    except RuntimeError:
        if not loop.is_closed():
            raise
        coroutine.close()
        raise asyncio.CancelledError from None
