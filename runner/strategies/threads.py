"""A pool of threads: each pulls a request, waits for its answer, and pulls the next."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from pydantic import Field

from runner.errors import FatalError
from runner.sections import Section
from runner.strategies import Calls, Emit, Requests


class ThreadsOptions(Section):
    """What the job file may say beside `name: threads`."""

    workers: int | None = Field(default=None, ge=1, description="How many threads. Default: limits.concurrency.")


class ThreadsStrategy:
    """Runs threads that share a blocking client; each keeps a connection of its own."""

    Options: type[Section] = ThreadsOptions

    def __init__(self, concurrency: int, options: ThreadsOptions) -> None:
        self.in_flight = options.workers or concurrency

    async def run(self, requests: Requests, calls: Calls, emit: Emit) -> None:
        with calls.blocking() as call:

            def worker() -> None:
                for request in requests:
                    if request is None:
                        time.sleep(0)
                        continue
                    try:
                        result = call(request)
                    except asyncio.CancelledError:
                        return
                    emit(result)

            await _in_threads(worker, self.in_flight)


async def _in_threads(work: Callable[[], None], count: int) -> None:
    """Run `work` in `count` threads; raise the first error that one ends with.

    The threads are daemons: one that waits for a server does not hold up a run that was told to stop at once.
    """
    loop = asyncio.get_running_loop()

    def run(ended: asyncio.Future[None]) -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # noqa: BLE001 - it is raised where someone waits
            error = raised
        with suppress(RuntimeError):  # nobody waits any more: the loop is closed
            loop.call_soon_threadsafe(_settle, ended, error)

    ends: list[asyncio.Future[None]] = []
    for _ in range(count):
        ended = loop.create_future()
        try:
            threading.Thread(target=run, args=(ended,), name="call", daemon=True).start()
        except RuntimeError:
            raise FatalError(
                f"this system allows no more than {len(ends)} threads",
                kind="threads",
                hint="lower `limits.concurrency`, or use `strategy: asyncio`, which needs no threads",
            ) from None
        ends.append(ended)
    await asyncio.gather(*ends)


def _settle(ended: asyncio.Future[None], error: BaseException | None) -> None:
    if ended.done():
        return  # cancelled
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
