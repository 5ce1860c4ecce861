"""Native async: as many workers as may be in flight, all pulling from one iterator."""

from __future__ import annotations

import asyncio

from runner.strategies import Emit, Requests, SendOne


class AsyncioStrategy:
    """Runs `concurrency` workers on the current event loop.

    A worker that is free pulls the next request, so nothing piles up and no task exists per row.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency

    async def run(self, requests: Requests, call: SendOne, emit: Emit) -> None:
        async def worker() -> None:
            for request in requests:
                if request is None:
                    await asyncio.sleep(0)
                else:
                    emit(await call(request))

        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(worker())
