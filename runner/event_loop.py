"""The event loop of a run, and the signals that end one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from runner.signals import endings
from runner.stop import Stop


def run_loop(work: Callable[[], Coroutine[Any, Any, None]], *, spawns_beside_others: bool = False) -> None:
    """Run a coroutine on the fastest event loop there is.

    Args:
        spawns_beside_others: it starts processes, and loops in other threads may too. Two of uvloop's cannot do that at
            once ("Racing with another loop to spawn a process"), asyncio's own can.
    """
    gc.freeze()  # the SDK's half a million objects stay: not looking at them again saves about 15 % of the time
    try:
        with asyncio.Runner(loop_factory=None if spawns_beside_others else _loop_factory()) as loop:
            loop.run(work())
    except RuntimeError as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from None  # it came just as uvloop started or ended, and left it half open
    finally:
        gc.unfreeze()  # a notebook lives on


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not made for this system
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@contextmanager
def stop_on_signals(stop: Stop, note: Callable[[str], None], work: asyncio.Task[Any] | None) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP lets what is in flight finish; the second ends at once."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.requested and work is not None:
            work.cancel()
            return
        stop.request()
        note("stopping: waiting for the answers that are on their way (again to stop at once)")

    wanted = endings()
    try:
        for number in wanted:
            loop.add_signal_handler(number, on_signal)
    except (NotImplementedError, RuntimeError, ValueError):
        yield  # not the main thread: its owner handles signals
        return
    try:
        yield
    finally:
        for number in wanted:
            loop.remove_signal_handler(number)
