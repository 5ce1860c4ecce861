"""An event loop on which waiting takes no time, so that a minute of rate limiting is tested in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Moves the loop's time forward instead of waiting."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._loop.in_threads and timeout:  # time stands still while a thread works
            return super().select(0.001)
        # A turn of the loop takes a microsecond, as in life: waits shorter than a float can add would never end.
        self._loop.now_s += max(timeout or 0.0, 1e-6)
        return super().select(0 if timeout is not None else None)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while anything is ready to run."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.in_threads = 0
        super().__init__(_Selector(self))

    def run_in_executor(self, *arguments: Any) -> asyncio.Future[Any]:
        future = super().run_in_executor(*arguments)
        self.in_threads += 1
        future.add_done_callback(self._from_thread)
        return future

    def _from_thread(self, future: asyncio.Future[Any]) -> None:
        self.in_threads -= 1

    def time(self) -> float:
        return self.now_s


class VirtualClock:
    """A `Clock` that reads the loop's time; its wall time starts at 2026-01-01."""

    def now_us(self) -> int:
        return 1_767_225_600_000_000 + round(self.steady_s() * 1e6)

    def steady_s(self) -> float:
        return asyncio.get_running_loop().time()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
