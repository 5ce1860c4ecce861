"""A worker process, seen from the run that it works for."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Protocol

from runner.budget import NOTHING, Amount
from runner.errors import FatalError
from runner.gate import Gate, Need
from runner.records import Item
from runner.stop import Stop
from runner.tally import Exchanges, Tally
from runner.workers.messages import Order, Outbox, Report, receive, send

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from runner.workers.child import main; main()"
_LARGE = 1 << 20  # bytes that are read ahead


class RunState(Protocol):
    """What workers share of a run."""

    gate: Gate
    models: int
    stop: Stop
    tally: Tally


class Worker:
    """One process.

    Args:
        recipe: a pickled `Recipe`.
        share: how many requests it may have in flight.

    Attributes:
        rows: what it was given and has not finished, by its number in messages.
        orders: what it is told.
        hungry: set while it could do with more rows.
        over: it has finished, and said so.
        exit_code: how the process ended; negative: the signal that killed it.
    """

    def __init__(self, run: RunState, recipe: bytes, share: int) -> None:
        self.rows: dict[int, Item] = {}
        self.orders = Outbox(Order, self._send)
        self.hungry = asyncio.Event()
        self.over = False
        self.exit_code: int | None = None
        self._run = run
        self._recipe = recipe
        self._share = share
        self._wants = 0
        self._process: Process | None = None
        self._exchanges: Exchanges = (0, 0, 0, 0, 0, 0, 0.0)
        self._asking: set[asyncio.Task[None]] = set()
        self._held: list[tuple[int, Need]] = []

    async def reports(self) -> AsyncGenerator[Report, None]:
        """Start the process, and yield what it says until it is gone."""
        command = [sys.executable, "-P", "-c", _START, json.dumps(sys.path)]
        self._process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=_LARGE)
        assert self._process.stdout is not None
        self._send((self._recipe, self._share))
        stopping = asyncio.create_task(self._pass_on_stop())
        try:
            async for report in receive(self._process.stdout):
                self._count(report.exchanges)
                for endpoint, need, spent, failed in report.released:
                    self._release(endpoint, need, spent, failed=failed)
                for endpoint, error in report.left:
                    await self._leave(endpoint, error)
                for number, need in report.asks:
                    task = asyncio.create_task(self._ask(number, need))
                    self._asking.add(task)
                    task.add_done_callback(self._asking.discard)
                self.over = report.over
                yield report
        finally:
            stopping.cancel()
            await self._dismiss()

    async def _dismiss(self) -> None:
        """See the process off, whatever state it is in: none is left behind."""
        assert self._process is not None
        for task in list(self._asking):
            task.cancel()
        if not self.over:
            with suppress(ProcessLookupError):
                self._process.kill()
        for endpoint, need in list(self._held):
            # What was allowed and never begun, because the run stops; of a process that died it may have been answered.
            self._release(endpoint, need, NOTHING if self.over else need.most, failed=False)
        self._count((*self._exchanges[:1], 0, 0, 0, 0, *self._exchanges[5:]))
        self.exit_code = await self._process.wait()

    def want(self, rows: int) -> None:
        """Note that it could do with so many more rows."""
        self._wants += rows
        if self._wants:
            self.hungry.set()

    def give(self, item: Item) -> None:
        """Hand out a row."""
        number = item.index * self._run.models + item.model
        self.rows[number] = item
        rows = self.orders.open().rows
        if rows and rows[-1][1] == number:
            rows[-1] = (rows[-1][0], number + 1)
        else:
            rows.append((number, number + 1))
        self._wants -= 1
        if not self._wants:
            self.hungry.clear()

    def end(self) -> None:
        """Say that there are no more rows."""
        self.orders.open().end = True

    async def _ask(self, number: int, need: Need) -> None:
        try:
            endpoint = await self._run.gate.acquire(need)
        except FatalError as error:
            self._run.stop.request(error)
        else:
            if self._run.gate.counts:
                self._held.append((endpoint, need))
            self.orders.open().granted.append((number, endpoint))

    def _release(self, endpoint: int, need: Need, spent: Amount, *, failed: bool) -> None:
        self._held.remove((endpoint, need))
        self._run.gate.release(endpoint, need, spent, failed=failed)

    async def _leave(self, endpoint: int, error: FatalError) -> None:
        try:
            await self._run.gate.leave(endpoint, error)
        except FatalError as last:
            self._run.stop.request(last)

    async def _pass_on_stop(self) -> None:
        await self._run.stop.wait()
        self.orders.open().stop = True

    def _count(self, exchanges: Exchanges) -> None:
        self._run.tally.add(self._exchanges, exchanges)
        self._exchanges = exchanges

    def _send(self, message: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            send(self._process.stdin, message)
