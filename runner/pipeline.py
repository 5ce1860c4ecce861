"""Conducts a run: every row that has no result yet becomes a request, every request a stored result."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol

from runner.clock import Clock
from runner.errors import FatalError, RunnerError
from runner.known import BATCH, Known
from runner.records import BadRow, Item, Request, Result
from runner.requests import RequestBuilder, bad_result
from runner.stop import Stop
from runner.store import ResultStore
from runner.strategies import Calls, Strategy
from runner.tally import Tally
from runner.template import MissingField

DRAIN_S = 10.0  # how long answers may still come in after the run cannot go on
_TICK_S = 0.25
_SYNC_S = 1.0
_AT_ONCE = 50  # rows that get the answer to another one before others have their turn: 3 ms


class StopRule(Protocol):
    """What the job file says under `stop`."""

    max_error_rate: float | None
    after: int


class Pipeline:
    """One execution of a job.

    Args:
        rows: the input, already without rows that the job leaves out; None is a pause.
        rule: when too many failures end the run; None: never.
        known: answers that need not be asked for; None: everything is asked.
        show: called a few times a second with the live counters.
    """

    def __init__(
        self,
        rows: Iterable[Item | BadRow | None],
        builder: RequestBuilder,
        store: ResultStore,
        strategy: Strategy,
        calls: Calls,
        stop: Stop,
        tally: Tally,
        clock: Clock,
        *,
        rule: StopRule | None = None,
        known: Known | None = None,
        show: Callable[[Tally], None] = lambda tally: None,
    ) -> None:
        self._rows = rows
        self._builder = builder
        self._store = store
        self._strategy = strategy
        self._calls = calls
        self._stop = stop
        self._tally = tally
        self._clock = clock
        self._rule = rule
        self._known = known
        self._show = show
        self._sent = 0
        self._sent_failed = 0
        self._items = self._pending() if known is None else self._unknown(known)
        # Strategies pull and emit from any thread; the source, the store and the counters are not made for that.
        self._turn = threading.RLock()
        self._over = False  # a thread that was left behind changes nothing any more

    async def run(self) -> None:
        """Work until every row has a result, or until something asks to stop.

        Why it stopped, if it did, stands in `stop.reason`. Results are stored as they come, so cancelling this
        loses only what is in flight.
        """
        work = asyncio.create_task(self._strategy.run(self, self._calls, self._emit))
        beside = [asyncio.create_task(self._watch(work))]
        if self._known is not None:
            beside.append(asyncio.create_task(self._keep_answering(self._known)))
        try:
            await work
            if self._known is not None:
                await self._answer(self._known)
        except asyncio.CancelledError:
            if not self._stop.requested:
                raise
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        finally:
            with self._turn:
                self._over = True
            await self._ended(work, *beside)
        for task in beside:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error  # a bug, which does not pass unseen

    async def _ended(self, *tasks: asyncio.Task[None]) -> None:
        """Cancel tasks, and return when they have ended, however often somebody asks to stop at once meanwhile."""
        for task in tasks:
            task.cancel()
        while pending := [task for task in tasks if not task.done()]:
            try:
                await asyncio.wait(pending)
            except asyncio.CancelledError:
                if not self._stop.requested:
                    raise
        for task in tasks:
            task.cancelled() or task.exception()  # whoever awaits it is told; nobody has to be told again

    def __iter__(self) -> Pipeline:
        return self

    def __next__(self) -> Request | None:
        """Return a request for the next row without a result; ends early when the run should stop."""
        with self._turn:
            item = self.next_item()
            return None if item is None else self.build(item)

    def build(self, item: Item) -> Request | None:
        """Return the request for a row; None: it cannot be made, and the row has its result."""
        try:
            return self._builder.build(item)
        except MissingField as error:
            bad = BadRow(item.index, item.file, item.line, error.message, item.fields, item.model)
            self._emit(bad_result(bad, self._clock, item.id))
            return None

    def next_item(self) -> Item | None:
        """Return the next row without a result."""
        with self._turn:
            if self._over:
                raise StopIteration
            return next(self._items)

    def _pending(self) -> Iterator[Item | None]:
        try:
            for row in self._store.missing(self._rows):
                if self._stop.requested:
                    return
                if isinstance(row, BadRow):
                    self._emit(bad_result(row, self._clock))
                    row = None
                yield row
        except RunnerError as error:
            self._stop.request(error)

    def _unknown(self, known: Known) -> Iterator[Item | None]:
        """Yield the rows that have to be asked about; the others get the answers that are there."""
        pending = self._pending()
        while batch := list(islice(pending, BATCH)):
            requests = [request for item in batch if item is not None and (request := self.build(item))]
            try:
                results = known.look_up(requests)
            except FatalError as error:
                self._stop.request(error)
                return
            answered = 0
            for request, result in zip(requests, results, strict=True):
                if self._stop.requested:
                    return
                if result is None:
                    try:
                        twin = known.twin(request)
                    except FatalError as error:
                        self._stop.request(error)
                        return
                    if twin is False:
                        yield request.item
                    if isinstance(twin, bool):
                        continue
                    result = twin
                self._emit(result)
                answered += 1
                if answered % _AT_ONCE == 0:
                    yield None  # others get a turn
            yield None

    def _emit(self, result: Result) -> None:
        with self._turn:
            if self._over:
                return
            self._keep(result)
            if self._known is not None:
                self._settle(self._known, result)

    def _settle(self, known: Known, result: Result) -> None:
        try:
            known.settle(result)
        except FatalError as error:
            self._stop.request(error)
        self._answer_some(known)

    def _answer_some(self, known: Known) -> bool:
        """Keep the results of some rows that waited for the answer to another one; return whether there were any."""
        found = False
        with self._turn:
            try:
                for result in known.answered(_AT_ONCE):
                    found = True
                    self._keep(result)
            except FatalError as error:
                self._stop.request(error)
                return False
        return found

    async def _answer(self, known: Known) -> None:
        """Keep the results of all such rows, unless the run should stop: the next session has them too."""
        more = True
        while more and not self._stop.requested:
            more = self._answer_some(known)
            await asyncio.sleep(0)  # others get their turn

    async def _keep_answering(self, known: Known) -> None:
        while True:
            await self._answer(known)
            await asyncio.sleep(_TICK_S)

    def _keep(self, result: Result) -> None:
        """Store a result, then count it."""
        try:
            if not self._store.append(result):
                return
        except FatalError as error:
            self._stop.request(error)
            return
        if self._store.failure is not None:
            self._stop.request(self._store.failure)
        self._tally.count(result)
        if result.attempts:
            self._sent += 1
            self._sent_failed += result.status != "ok"
            self._check_error_rate(result)

    def _check_error_rate(self, result: Result) -> None:
        rule = self._rule
        if rule is None or rule.max_error_rate is None or self._sent < rule.after:
            return
        if self._sent_failed > rule.max_error_rate * self._sent:
            self._stop.request(
                FatalError(
                    f"{self._sent_failed} of {self._sent} rows failed, more than `stop.max_error_rate` "
                    f"({rule.max_error_rate:g}) allows; the last one: {result.error}",
                    kind="error_rate",
                    hint="mend the cause and resume, or allow more with `--set stop.max_error_rate=1`",
                )
            )

    async def _watch(self, work: asyncio.Task[None]) -> None:
        """Show progress and sync the journals; when the run cannot go on, give what is in flight a little time."""
        synced = stopped_at = None
        while True:
            await asyncio.sleep(_TICK_S)
            now = self._clock.steady_s()
            with self._turn:
                self._store.write()  # what is shown as done is kept
            self._show(self._tally)
            if synced is None or now - synced >= _SYNC_S:
                synced = now
                await asyncio.to_thread(self._store.sync)
            if self._store.failure is not None:
                self._stop.request(self._store.failure)
            if self._stop.reason is not None:
                stopped_at = stopped_at or now
                if now - stopped_at > DRAIN_S:
                    work.cancel()


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first real error of a task group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
