"""Ends a run early without losing anything: the source dries up, waits end, and what is in flight finishes."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Any

from runner.errors import RunnerError


class Stop:
    """Whether the run should end, and why. Any thread may ask for it.

    A worker that only waits (for a limit, a pause or a backoff) is cancelled at once: its row was not answered and
    is sent again when the run is resumed. A worker whose request is with the server goes on until the answer is
    in, because that answer is paid for.
    """

    def __init__(self) -> None:
        self.requested = False
        self.reason: RunnerError | None = None
        self._first = threading.Lock()  # one request counts, however many threads make one
        self._loop: asyncio.AbstractEventLoop | None = None  # where tasks wait, once there are any
        self._home: int | None = None  # the thread of that loop
        self._waiting: set[asyncio.Task[Any]] = set()
        self._event = asyncio.Event()
        self._asked = threading.Event()

    def request(self, reason: RunnerError | None = None) -> None:
        """Stop. The first reason counts."""
        with self._first:
            if self.requested:
                return
            self.reason = reason
            self.requested = True
        self._asked.set()
        if self._loop is None or threading.get_ident() == self._home:
            self._wake()
        else:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._event.set()
        for task in list(self._waiting):
            task.cancel()

    async def wait(self) -> None:
        """Return when a stop is requested."""
        self._settle()
        await self._event.wait()

    def waiting(self) -> Stop:
        """Return the context in which the current task may be cancelled by a stop."""
        return self

    def pause(self, seconds: float) -> None:
        """Block this thread for so long, or until a stop is requested. For what happens before there is a loop."""
        self._asked.wait(seconds)

    async def sleep(self, seconds: float) -> None:
        with self:
            await asyncio.sleep(seconds)

    def _settle(self) -> None:
        if self._loop is None:
            self._home = threading.get_ident()
            self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        self._settle()  # before looking, or a request of another thread could be missed
        if self.requested:
            raise asyncio.CancelledError
        task = asyncio.current_task()
        if task is not None:
            self._waiting.add(task)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._waiting.discard(task)
