"""`asyncio.to_thread`: the event loop hands each request to a thread and waits for it without blocking."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from runner.strategies import Calls, Emit, NoOptions, Requests

_SPARE_THREADS = 4  # for others who use the loop's threads, such as the sync of the journals


class ToThreadStrategy:
    """Runs `concurrency` async workers over a blocking client."""

    Options = NoOptions

    def __init__(self, concurrency: int, options: NoOptions) -> None:
        self.in_flight = concurrency

    async def run(self, requests: Requests, calls: Calls, emit: Emit) -> None:
        # The loop's own pool has a few threads more than there are cores, and at most 32.
        asyncio.get_running_loop().set_default_executor(_Pool(self.in_flight + _SPARE_THREADS))
        with calls.blocking() as call:

            async def worker() -> None:
                for request in requests:
                    if request is None:
                        await asyncio.sleep(0)
                    else:
                        emit(await asyncio.to_thread(call, request))

            async with asyncio.TaskGroup() as group:
                for _ in range(self.in_flight):
                    group.create_task(worker())


class _Pool(ThreadPoolExecutor):
    """Never waits for threads that wait for a server: a run that is told to stop at once stops at once."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)
