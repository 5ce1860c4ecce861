"""Lets threads make calls. What `Call` awaits there is over when it returns, so a call runs to its end in one step.

Waits (limits, pauses, backoff) happen on the event loop, which knows who came first and whom a stop interrupts; the
thread waits there for its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from runner.budget import Amount
from runner.errors import FatalError, RunnerError
from runner.gate import Need

T = TypeVar("T")


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return what it returns."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError("a blocking call tried to suspend")


class _Gate(Protocol):
    @property
    def free(self) -> bool: ...
    @property
    def counts(self) -> bool: ...
    async def acquire(self, need: Need) -> int: ...
    def release(self, endpoint: int, need: Need, spent: Amount, *, failed: bool) -> None: ...
    def pause(self, endpoint: int, seconds: float) -> None: ...
    async def leave(self, endpoint: int, error: FatalError) -> None: ...


class _Stop(Protocol):
    def request(self, reason: RunnerError | None = None) -> None: ...
    async def sleep(self, seconds: float) -> None: ...


class ThreadGate:
    """The run's gate, for threads."""

    def __init__(self, gate: _Gate, loop: asyncio.AbstractEventLoop) -> None:
        self._gate = gate
        self._loop = loop

    async def acquire(self, need: Need) -> int:
        return 0 if self._gate.free else _wait(self._gate.acquire(need), self._loop)

    def release(self, endpoint: int, need: Need, spent: Amount, *, failed: bool) -> None:
        if self._gate.counts:
            with suppress(RuntimeError):  # the loop is closed: the run is over
                self._loop.call_soon_threadsafe(partial(self._gate.release, endpoint, need, spent, failed=failed))

    def pause(self, endpoint: int, seconds: float) -> None:
        self._loop.call_soon_threadsafe(self._gate.pause, endpoint, seconds)

    async def leave(self, endpoint: int, error: FatalError) -> None:
        _wait(self._gate.leave(endpoint, error), self._loop)


class ThreadStop:
    """The run's stop, for threads."""

    def __init__(self, stop: _Stop, loop: asyncio.AbstractEventLoop) -> None:
        self._stop = stop
        self._loop = loop

    def request(self, reason: RunnerError | None = None) -> None:
        self._stop.request(reason)

    async def sleep(self, seconds: float) -> None:
        _wait(self._stop.sleep(seconds), self._loop)


def _wait(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """Let the event loop carry out a coroutine while this thread waits.

    Raises:
        CancelledError: the run stops, or has stopped.
    """
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()
    except CancelledError:
        raise asyncio.CancelledError from None
    except RuntimeError:
        if not loop.is_closed():
            raise
        coroutine.close()
        raise asyncio.CancelledError from None
