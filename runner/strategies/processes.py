"""Several processes, each with its own event loop and connections, so that all cores work.

The run hands out rows in small ranges of indexes, and gets finished results back. It alone holds the limits and the
store: a worker asks before each request where there is a limit. A worker that dies is replaced, and what it had not
finished is handed out again. Workers are fresh interpreters; nothing of the caller's `__main__` is imported in them.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from contextlib import aclosing
from typing import Protocol

from pydantic import Field

from runner.errors import FatalError
from runner.records import Item
from runner.sections import Section
from runner.strategies import Emit, Requests
from runner.workers.handle import RunState, Worker
from runner.workers.messages import Report

_DEATHS = 3  # of workers that had finished nothing: the next one would die as well


class ProcessesOptions(Section):
    """What the job file may say beside `name: processes`."""

    processes: int | None = Field(default=None, ge=1, description="How many processes. Default: one per core.")


class ProcessCalls(RunState, Protocol):
    """What this strategy needs of a run, beyond what others do."""

    def recipe(self) -> bytes:
        """What a worker makes its calls from."""


class ProcessesStrategy:
    """Shares the concurrency out among worker processes."""

    Options = ProcessesOptions

    def __init__(self, concurrency: int, options: ProcessesOptions) -> None:
        self.in_flight = concurrency
        count = min(options.processes or cores(), concurrency)
        self._shares = [concurrency // count + (number < concurrency % count) for number in range(count)]

    async def run(self, requests: Requests, calls: ProcessCalls, emit: Emit) -> None:
        desk = _Desk(requests, calls, emit)
        async with asyncio.TaskGroup() as group:
            for share in self._shares:
                group.create_task(desk.employ(share))


class _Desk:
    """Hands out rows, and takes in what was finished."""

    def __init__(self, requests: Requests, calls: ProcessCalls, emit: Emit) -> None:
        self._requests = requests
        self._calls = calls
        self._emit = emit
        self._recipe = calls.recipe()
        self._workers: set[Worker] = set()
        self._given_back: deque[Item] = deque()
        self._deaths = 0

    async def employ(self, share: int) -> None:
        """Keep a worker at work until there is nothing left to do."""
        while True:
            worker = Worker(self._calls, self._recipe, share)
            self._workers.add(worker)
            try:
                async with asyncio.TaskGroup() as group:
                    feeding = group.create_task(self._feed(worker))
                    async with aclosing(worker.reports()) as reports:
                        async for report in reports:
                            self._read(worker, report)
                    feeding.cancel()
            finally:
                self._workers.discard(worker)
            if worker.over or self._calls.stop.requested:
                return
            self._given_back.extend(worker.rows.values())
            self._deaths += 1
            if self._deaths == _DEATHS:
                self._calls.stop.request(_keep_dying(worker.exit_code))
                return

    def _read(self, worker: Worker, report: Report) -> None:
        if report.bug is not None:
            raise RuntimeError(f"a worker process failed:\n{report.bug}")
        for number, result in report.results:
            result.item = worker.rows.pop(number)
            self._emit(result)
            self._deaths = 0
        if report.stopped_by is not None:
            self._calls.stop.request(report.stopped_by)
        for endpoint, pause_s in report.pauses:
            self._calls.gate.pause(endpoint, pause_s)
            if len(self._calls.gate.lanes) == 1:  # of several, each request asks which one has room
                for other in self._workers - {worker}:
                    other.orders.open().pause_s = pause_s
        worker.want(report.wants)

    async def _feed(self, worker: Worker) -> None:
        """Hand out rows. Not between two reports: the source may pass over many before it has one."""
        while True:
            await worker.hungry.wait()
            try:
                item = self._given_back.popleft() if self._given_back else self._requests.next_item()
            except StopIteration:
                worker.end()
                return
            if item is None:
                await asyncio.sleep(0)
            else:
                worker.give(item)


def cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux tells
        return os.cpu_count() or 1


def _keep_dying(exit_code: int | None) -> FatalError:
    how = f"signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"exit code {exit_code}"
    return FatalError(
        f"{_DEATHS} worker processes in a row ended ({how}) before they had finished a row",
        kind="worker",
        hint="what they said stands above; signal 9 often means too little memory: use fewer `processes`, then resume",
    )
