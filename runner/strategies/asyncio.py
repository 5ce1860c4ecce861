"""Native async: as many workers as may be in flight, all pulling from one iterator."""

from __future__ import annotations

import asyncio

from runner.strategies import Calls, Emit, NoOptions, Requests


class AsyncioStrategy:
    """Runs `concurrency` workers on the current event loop.

    A worker that is free pulls the next request, so nothing piles up and no task exists per row.
    """

    Options = NoOptions

    def __init__(self, concurrency: int, options: NoOptions) -> None:
        self.in_flight = concurrency

    async def run(self, requests: Requests, calls: Calls, emit: Emit) -> None:
        async with calls.open(self.in_flight) as call:

            async def worker() -> None:
                for request in requests:
                    if request is None:
                        await asyncio.sleep(0)
                    else:
                        emit(await call(request))

            async with asyncio.TaskGroup() as group:
                for _ in range(self.in_flight):
                    group.create_task(worker())
