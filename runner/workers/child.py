"""A worker process: reads the rows it is told to, sends them, and gives back what was finished."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

from runner.budget import Amount
from runner.calls import Calls, Recipe
from runner.clock import SystemClock
from runner.connect import connection_to
from runner.errors import FatalError, RunnerError
from runner.event_loop import run_loop
from runner.gate import Gate, Lane, Need
from runner.limits import Limiter
from runner.plan import Plan, make_plan
from runner.records import BadRow, Item
from runner.requests import bad_result
from runner.steady import steady
from runner.stop import Stop
from runner.strategies import SendOne
from runner.tally import Tally
from runner.template import MissingField
from runner.workers.messages import Order, Outbox, Report, receive, send

_TICK_S = 0.25
_AHEAD_S = 0.02
_MOST_AHEAD = 64
_WITH_THE_RUN = Item(-1, "", {}, "", 0)


def main() -> None:
    """Work for the process at the other end of stdin and stdout."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the run is told, and tells its workers
    said = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what anyone prints is not a message
    run_loop(lambda: _serve(said))


async def _serve(said: int) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    pipe = os.fdopen(said, "wb")
    writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, pipe)
    orders = receive(reader)
    recipe, share = await anext(orders)
    worker = _Work(pickle.loads(recipe), share, lambda report: send(writer, report))
    listening = asyncio.create_task(_listen(orders, worker))
    try:
        await worker.run()
    finally:
        listening.cancel()
        writer.close()


async def _listen(orders: AsyncIterator[Order], worker: _Work) -> None:
    async for order in orders:
        worker.obey(order)
    os._exit(1)  # the run is gone, and nobody wants the answers any more


class _Permits:
    """Asks the run before each request, where it has limits; a pause of the only endpoint holds for all its workers.

    Args:
        endpoints: how many there are.
        counts: the run wants to know how each attempt ended.
    """

    def __init__(
        self, reports: Outbox, pauses: Limiter, stop: Stop, endpoints: int, *, metered: bool, counts: bool
    ) -> None:
        self._reports = reports
        self._pauses = pauses
        self._stop = stop
        self._endpoints = endpoints
        self._metered = metered
        self._counts = counts
        self._asked: dict[int, asyncio.Future[int]] = {}
        self._number = 0

    async def acquire(self, need: Need) -> int:
        endpoint = 0
        if self._metered:
            self._number += 1
            number = self._number
            answer = self._asked[number] = asyncio.get_running_loop().create_future()
            self._reports.open().asks.append((number, need))
            try:
                with self._stop.waiting():
                    endpoint = await answer
            finally:
                del self._asked[number]
        if self._endpoints == 1:
            await self._pauses.acquire(need.tokens)
        return endpoint

    def release(self, endpoint: int, need: Need, spent: Amount, *, failed: bool) -> None:
        if self._counts:
            self._reports.open().released.append((endpoint, need, spent, failed))

    def pause(self, endpoint: int, seconds: float) -> None:
        if self._endpoints == 1:
            self._pauses.pause(seconds)
        self._reports.open().pauses.append((endpoint, seconds))

    async def leave(self, endpoint: int, error: FatalError) -> None:
        if self._endpoints == 1:
            raise error
        self._reports.open().left.append((endpoint, error))

    def grant(self, number: int, endpoint: int) -> None:
        answer = self._asked.get(number)
        if answer is not None and not answer.done():
            answer.set_result(endpoint)


class _Work:
    """What one worker has to do.

    Args:
        share: how many requests it may have in flight.
        deliver: tells the run.
    """

    def __init__(self, recipe: Recipe, share: int, deliver: Callable[[Report], None]) -> None:
        self._recipe = recipe
        self._models = len(recipe.job.spec.models)
        self._share = share
        self._deliver = deliver
        self._clock = SystemClock()
        self._tally = Tally()
        self._stop = Stop()
        self._reports = Outbox(Report, self._say)
        self._pauses = Limiter(waiting=self._stop.waiting)
        endpoints = len(recipe.base_urls)
        self._permits = _Permits(
            self._reports, self._pauses, self._stop, endpoints, metered=recipe.metered, counts=recipe.counts
        )
        self._ranges: deque[tuple[int, int]] = deque()
        self._items: deque[Item] = deque()
        self._idle = 0  # workers that wait for a row
        self._asked = 0  # rows that were asked for and are not here yet
        self._ahead = 1  # rows to have ready
        self._finished = 0
        self._ended = False
        self._more = asyncio.Event()

    async def run(self) -> None:
        """Work until there is nothing left to do, and say so; what goes wrong is said too."""
        last = Report(over=True)
        try:
            plan = replace(make_plan(self._recipe.job), selection=self._recipe.selection)
            self._builder = plan.builder
            self._reader = _Reader(plan, self._recipe)
            pool, urls = self._recipe.job.pool, self._recipe.base_urls
            connections = [connection_to(each.resolve(os.environ), url) for each, url in zip(pool, urls, strict=True)]
            calls = Calls(
                plan, connections, Gate([Lane("", self._pauses)]), self._stop, self._tally, self._clock,
                self._recipe.rows, self._recipe.stamps, permits=self._permits,
            )  # fmt: skip
            watching = [asyncio.create_task(self._keep_pace()), asyncio.create_task(self._notice_stop())]
            try:
                async with calls.open(self._share) as call, asyncio.TaskGroup() as group:
                    for _ in range(self._share):
                        group.create_task(self._worker(call))
            finally:
                for task in watching:
                    task.cancel()
        except RunnerError as error:
            last.stopped_by = error
        except Exception:  # noqa: BLE001 - the run raises it
            last.bug = traceback.format_exc()
        self._ended = True
        self._reports.flush()
        last.stopped_by = last.stopped_by or self._stop.reason
        self._say(last)

    async def _worker(self, call: SendOne) -> None:
        while (item := await self._next()) is not None:
            try:
                request = self._builder.build(item)
            except MissingField as error:
                bad = BadRow(item.index, item.file, item.line, error.message, item.fields, item.model)
                result = bad_result(bad, self._clock, item.id)
            else:
                result = await call(request)
            result.item = _WITH_THE_RUN
            self._finished += 1
            self._reports.open().results.append((item.index * self._models + item.model, result))

    async def _next(self) -> Item | None:
        """Return the next row; None when there are no more, or the run stops."""
        self._idle += 1
        try:
            while not self._stop.requested:
                if not self._items and self._ranges:
                    self._read(*self._ranges.popleft())
                if len(self._items) < self._ahead:
                    self._reports.open()
                if self._items:
                    return self._items.popleft()
                if self._ended:
                    return None
                await self._more.wait()
            return None
        finally:
            self._idle -= 1

    def _read(self, first: int, end: int) -> None:
        try:
            self._items.extend(self._reader.read(first, end))
        except RunnerError as error:
            self._stop.request(error)

    def _say(self, report: Report) -> None:
        if not self._ended:
            report.wants = max(0, self._idle + self._ahead - len(self._items) - self._asked)
            self._asked += report.wants
        report.exchanges = self._tally.exchanges()
        self._deliver(report)

    def obey(self, order: Order) -> None:
        """Do what the run says."""
        self._ranges.extend(order.rows)
        self._asked -= sum(end - first for first, end in order.rows)
        self._ended = self._ended or order.end
        for number, endpoint in order.granted:
            self._permits.grant(number, endpoint)
        if order.pause_s:
            self._pauses.pause(order.pause_s)
        if order.stop:
            self._stop.request()
        self._wake()

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()

    async def _keep_pace(self) -> None:
        """Have as many rows ready as are finished in a few milliseconds; and say how it goes."""
        while True:
            before = self._finished
            await asyncio.sleep(_TICK_S)
            rate = (self._finished - before) / _TICK_S
            self._ahead = max(1, min(_MOST_AHEAD, round(rate * _AHEAD_S)))
            self._reports.open()

    async def _notice_stop(self) -> None:
        await self._stop.wait()
        self._wake()
        self._reports.open().stopped_by = self._stop.reason


class _Reader:
    """Reads the rows of this worker out of the whole input: each range lies behind the one before, but for a few."""

    def __init__(self, plan: Plan, recipe: Recipe) -> None:
        self._plan = plan
        self._recipe = recipe
        self._models = len(recipe.job.spec.models)
        self._rows: Iterator[Item | BadRow] = iter(())
        self._row: Item | BadRow | None = None  # the last one that was read

    def read(self, first: int, end: int) -> Iterator[Item]:
        """Yield the requests numbered from `first` to before `end`, as rows and the models they are asked of.

        Raises:
            InputError: the input is not what it was when the run began.
        """
        models = self._models
        row = self._row
        if row is None or first // models < row.index:
            recipe = self._recipe
            rows = steady(self._plan.rows(), recipe.rows, recipe.stamps, recipe.job.root, SystemClock())
            self._rows = (row for row in rows if row is not None)
            row = next(self._rows, None)
        while row is not None:
            self._row = row
            if isinstance(row, Item):
                for model in range(max(0, first - row.index * models), min(models, end - row.index * models)):
                    yield replace(row, model=model) if model else row
            if (row.index + 1) * models >= end:
                return
            row = next(self._rows, None)
