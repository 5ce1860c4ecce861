"""Hybrid runs in virtual time: the batches of a simulator on the same event loop take simulated hours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from project import Project
from virtual_time import VirtualClock, run

from runner.batches.office import Errand, Home
from runner.calls import Calls, open_gate
from runner.connect import connected
from runner.load import load_job
from runner.plan import Plan, make_plan
from runner.records import Item, Key, Request, Result
from runner.requests import RequestBuilder
from runner.simulator import Simulator, SimulatorSettings
from runner.stop import Stop
from runner.strategies.batch_api import BatchApiStrategy
from runner.tally import Tally

Make = Callable[..., Project]
HOUR_S = 3600.0


@dataclass
class Night:
    """How a run went.

    Attributes:
        took_h: hours until its end.
    """

    took_h: float = 0.0
    results: dict[int, Result] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def in_batches(self) -> int:
        return sum(result.batch is not None for result in self.results.values())


class Rows:
    """Be the `Requests` of a strategy."""

    def __init__(self, items: Iterable[Item], builder: RequestBuilder) -> None:
        self._items: Iterator[Item] = iter(items)
        self._builder = builder

    def __iter__(self) -> Rows:
        return self

    def __next__(self) -> Request:
        return self.build(self.next_item())

    def next_item(self) -> Item:
        return next(self._items)

    def build(self, item: Item) -> Request:
        return self._builder.build(item)


class Kept:
    """Be the store."""

    def __init__(self, night: Night) -> None:
        self._night = night

    def lacking(self, keys: Iterable[Key]) -> set[Key]:
        return {key for key in keys if key[0] not in self._night.results}

    async def secure(self) -> bool:
        return True

    def hurry(self) -> AbstractContextManager[None]:
        return nullcontext()


def night(project: Make, rows: int = 120, *, strategy: dict[str, Any], server: dict[str, Any], **job: Any) -> Night:
    """Run a job to its end, from midnight on."""
    found = Night()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        batches = {"speed": 1, "cancelling_s": 120, **server}
        settings = SimulatorSettings.model_validate({"latency_s": 1.0, "batches": batches})
        async with Simulator(settings, now=loop.time) as simulator:
            here = project(simulator.base_url, rows=rows, strategy={"name": "batch_api", **strategy}, **job)
            plan = make_plan(load_job(here.job_file, environ=here.environ))
            began = loop.time()
            await _work(plan, here.folder, found, here.environ)
            found.took_h = (loop.time() - began) / HOUR_S
            found.stats = simulator.stats()

    run(main())
    assert sorted(found.results) == list(range(rows))
    assert {result.status for result in found.results.values()} == {"ok"}
    assert found.stats["answered_more_than_once"] == 0, "no row is paid twice"
    return found


async def _work(plan: Plan, folder: Path, found: Night, environ: dict[str, str]) -> None:
    def emit(result: Result) -> None:
        assert result.item.index not in found.results
        found.results[result.item.index] = result

    clock, stop, rows = VirtualClock(), Stop(), plan.survey().rows
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        with connected(plan.job) as connections:
            home = Home(
                folder, {"runner_run": "run"}, Kept(found), Errand(), clock.now_us(),
                lambda: rows - len(found.results), found.said.append, found.said.append,
            )  # fmt: skip
            calls = Calls(
                plan, connections, open_gate(plan.job, stop), stop, Tally(), clock, rows, [], home=home,
            )  # fmt: skip
            chosen = BatchApiStrategy(plan.job.limits.concurrency or 1, plan.job.options)
            items = (item for item in plan.rows() if isinstance(item, Item))
            await chosen.run(Rows(items, plan.builder), calls, emit)
    assert stop.reason is None, stop.reason


SLOW = {"duration_s": 20 * HOUR_S}


def test_a_deadline_is_met_that_batches_alone_would_miss(project: Make, tmp_path_factory: Any) -> None:
    pure = night(project, strategy={}, server=SLOW)
    assert pure.took_h > 20
    assert pure.in_batches == 120


def test_what_batches_do_not_bring_in_time_goes_live(project: Make) -> None:
    found = night(project, strategy={"deadline": "8h"}, server=SLOW)
    assert 7.5 < found.took_h < 8, "it waits as long as it may, and is done in time"
    assert 40 < found.in_batches < 60, "what was done by then is kept: 8 of 20 hours' worth"
    assert found.stats["batches"]["states"] == {"cancelled": 1}
    assert found.stats["batches"]["answered"] == found.in_batches
    assert any(text.startswith("going live with what is unfinished: ") for text in found.said)


def test_a_tight_limit_makes_it_go_live_earlier(project: Make) -> None:
    limits = {"concurrency": 8, "requests_per_minute": 1.0}
    found = night(project, strategy={"deadline": "8h"}, server=SLOW, limits=limits)
    assert 6 < found.took_h < 8
    assert 25 < found.in_batches < 42, "about 80 rows take 80 minutes live, and a quarter more is left for mishaps"


def test_batches_that_come_in_time_are_all_there_is(project: Make) -> None:
    found = night(project, strategy={"deadline": "8h"}, server={"duration_s": 2 * HOUR_S})
    assert found.took_h < 2.2
    assert found.in_batches == 120
    assert found.stats["tokens"]["input"] == 0, "nothing went live"


def test_a_batch_that_expires_is_finished_live(project: Make) -> None:
    found = night(project, strategy={"finish_with": "asyncio"}, server={"script": [{"expire_at": 0.75}]})
    assert 24 < found.took_h < 24.2
    assert found.in_batches == 90


def test_a_deadline_that_cannot_be_met_is_said_at_the_start(project: Make) -> None:
    limits = {"concurrency": 8, "requests_per_minute": 1.0}
    found = night(project, strategy={"deadline": "1h"}, server=SLOW, limits=limits)
    assert found.said[0] == "the deadline cannot be met: sent live, the rows take about 1 h 0 min longer than that"
    assert found.in_batches == 0
    assert found.took_h < 2.1
