"""Runs the same rows with several contestants, in turn, so that a server that drifts is fair to all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runner import strategies
from runner.calls import Calls, open_gate
from runner.clock import Clock
from runner.dataset.survey import Survey
from runner.errors import SpecError
from runner.openai_client import Connection
from runner.pipeline import first_error
from runner.plan import Plan
from runner.progress import Console, Progress, duration
from runner.records import Item, Request, Result
from runner.requests import RequestBuilder
from runner.stop import Stop
from runner.strategies import Strategy
from runner.tally import Tally

_TICK_S = 0.25


@dataclass(frozen=True)
class Contestant:
    """One way to do the job: a strategy, at one concurrency, with one model."""

    name: str
    plan: Plan

    @property
    def strategy_name(self) -> str:
        return self.plan.job.spec.strategy_name

    def strategy(self) -> Strategy:
        job = self.plan.job
        return strategies.load(self.strategy_name)(job.limits.concurrency or 1, job.options)


@dataclass(frozen=True)
class Trial:
    """One contestant's turn.

    Attributes:
        began_at: microseconds since 1970.
        wall_s: from its beginning to its last answer, connections and processes included.
        in_flight: how many requests it may have had in flight.
        busy_s: seconds that requests spent with the server, all together.
    """

    contestant: Contestant
    round: int
    began_at: int
    wall_s: float
    in_flight: int
    attempts: int
    rate_limited: int
    busy_s: float
    results: Sequence[Result]


class Contest:
    """The trials of all contestants. Belongs to one event loop; all trials share the limits.

    Args:
        items: the rows that each contestant sends in each round.
        found: what the input was found to be.

    Attributes:
        trials: those of all rounds that were completed.
        unmeasured: trials that were paid for and do not count: to warm up, and of a round that was cut short.
    """

    def __init__(
        self,
        contestants: Sequence[Contestant],
        items: Sequence[Item],
        found: Survey,
        connections: Sequence[Connection],
        stop: Stop,
        console: Console,
        clock: Clock,
    ) -> None:
        self._limits = contestants[0].plan.job.limits
        self.trials: list[Trial] = []
        self.unmeasured: list[Trial] = []
        self._contestants = contestants
        self._items = items
        self._found = found
        self._connections = connections
        self._stop = stop
        self._console = console
        self._clock = clock
        self._gate = open_gate(contestants[0].plan.job, stop, connections=connections)

    async def warm_up(self) -> None:
        """Send one row with each contestant: what is loaded or looked up only once is not measured.

        Raises:
            SpecError: the endpoint refuses the key, or a model.
        """
        for contestant in self._contestants:
            self.unmeasured.append(await self._trial(contestant, 0, self._items[:1]))
            if self._stop.reason is not None:
                reason = self._stop.reason
                raise SpecError(f"{contestant.name}: {reason.message}", where=reason.where, hint=reason.hint)
            if self._stop.requested:
                return

    async def run(self, rounds: int) -> None:
        """Run all rounds, or as many as there are before a stop. Each begins with another contestant."""
        before = len(self.unmeasured)
        for number in range(rounds):
            turn = number % len(self._contestants)
            for contestant in (*self._contestants[turn:], *self._contestants[:turn]):
                title = f"round {number + 1} of {rounds} · {contestant.name}"
                self.unmeasured.append(await self._shown(title, contestant, number + 1))
                if self._stop.requested:
                    return
            self.trials += self.unmeasured[before:]
            del self.unmeasured[before:]

    async def _shown(self, title: str, contestant: Contestant, number: int) -> Trial:
        display = self._console.open(title, self._clock)
        try:
            in_flight = contestant.strategy().in_flight
            progress = Progress(display, self._clock, len(self._items), 0, 0, in_flight, self._limits)
            trial = await self._trial(contestant, number, self._items, progress)
            display.note(f"{title}: {len(trial.results)} rows in {duration(trial.wall_s)}")
            return trial
        finally:
            display.close()

    async def _trial(
        self, contestant: Contestant, number: int, items: Sequence[Item], progress: Progress | None = None
    ) -> Trial:
        tally = Tally()
        results: list[Result] = []
        turn = threading.Lock()  # strategies emit from any thread

        def emit(result: Result) -> None:
            with turn:
                results.append(result)
                tally.count(result)

        async def show() -> None:
            while progress is not None:
                await asyncio.sleep(_TICK_S)
                progress.show(tally, self._gate.paused_s())

        calls = Calls(
            contestant.plan, self._connections, self._gate, self._stop, tally, self._clock,
            self._found.rows, self._found.files,
        )  # fmt: skip
        strategy = contestant.strategy()
        showing = asyncio.create_task(show())
        began_at, began = self._clock.now_us(), self._clock.steady_s()
        try:
            await strategy.run(_Rows(items, contestant.plan.builder, self._stop), calls, emit)
        except BaseExceptionGroup as group:
            raise first_error(group) from group
        finally:
            showing.cancel()
        wall_s = self._clock.steady_s() - began
        results.sort(key=lambda result: result.item.index)
        return Trial(
            contestant, number, began_at, wall_s, strategy.in_flight, tally.attempts, tally.rate_limited, tally.busy_s,
            results,
        )  # fmt: skip


class _Rows:
    """Some rows as the `Requests` of a strategy."""

    def __init__(self, items: Sequence[Item], builder: RequestBuilder, stop: Stop) -> None:
        self._items: Iterator[Item] = iter(items)
        self._builder = builder
        self._stop = stop
        self._turn = threading.Lock()  # strategies pull from any thread

    def __iter__(self) -> _Rows:
        return self

    def __next__(self) -> Request:
        return self.build(self.next_item())

    def build(self, item: Item) -> Request:
        return self._builder.build(item)

    def next_item(self) -> Item:
        with self._turn:
            if self._stop.requested:
                raise StopIteration
            return next(self._items)
