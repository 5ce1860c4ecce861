"""The flex tier: half the price, rows that wait while it has no room, and the way out to the standard tier."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import Project, simulator, until
from virtual_time import VirtualClock, run

from runner.answer import OneLabel
from runner.budget import Amount, Budget
from runner.call import Call, Destination, Estimate
from runner.client import FakeClient
from runner.dialects import dialect
from runner.dry_run import dry_run
from runner.errors import CallError, FatalError, TransientError
from runner.flex import Flex
from runner.gate import Gate, Lane
from runner.limits import Limiter
from runner.load import Job, load_job
from runner.prices import Tariff
from runner.problems import SpecErrors
from runner.records import Item, Reply, Request, Result
from runner.requests import RequestBuilder
from runner.sections import BudgetSpec, RetrySpec
from runner.snapshot import snapshot
from runner.stop import Stop
from runner.strategies import NoOptions
from runner.strategies.asyncio import AsyncioStrategy
from runner.tally import Tally
from runner.template import PromptTemplate

Make = Callable[..., Project]

HALF = 0.000_057  # half of 600 x 0.10 + 400 x 0.01 + 100 x 0.50 millionths
WHOLE = 0.000_114
BROKEN = TransientError("HTTP 500: oops", kind="server_error")


@dataclass
class Luna:
    """USD per million tokens."""

    input: float = 0.10
    output: float = 0.50
    cached_input: float | None = 0.01
    cache_write: float | None = None


def no_room(retry_after_s: float | None = None) -> TransientError:
    return TransientError("HTTP 429: full", kind="no_capacity", rate_limited=True, retry_after_s=retry_after_s)


BUILDER = RequestBuilder(
    PromptTemplate([("user", "{{ text }}")], Path()), dialect("chat"), ["gpt-6-luna"], {"service_tier": "flex"}, None
)


def request(index: int) -> Request:
    return BUILDER.build(Item(index, str(index), {"text": f"row {index}"}, "rows.csv", index + 1))


@dataclass(frozen=True)
class Sent:
    """A request as the server saw it."""

    at_s: float
    tier: str
    text: str


class Server(FakeClient):
    """Has no room at flex until a time, and answers in `latency_s`.

    Args:
        before: what it says while there is no room.
        first: what it says first to every row at the standard tier.
    """

    def __init__(
        self, until_s: float, before: CallError | None = None, first: CallError | None = None, latency_s: float = 0.0
    ) -> None:
        super().__init__(self._say)
        self.until_s = until_s
        self.sent: list[Sent] = []
        self._before = before
        self._first = first
        self._latency_s = latency_s

    def _say(self, body: bytes, seen: int) -> Reply | Exception:
        said = json.loads(body)
        tier, text = said["service_tier"], said["messages"][0]["content"]
        now_s = asyncio.get_running_loop().time()
        self.sent.append(Sent(now_s, tier, text))
        if tier == "flex" and now_s < self.until_s:
            return self._before or no_room()
        if tier == "default" and self._first is not None and not seen:
            return self._first
        usage = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 400}}
        choice = {"message": {"content": '{"label": "yes"}'}, "finish_reason": "stop"}
        return Reply(json.dumps({"choices": [choice], "usage": usage, "service_tier": tier}).encode())

    async def send(self, body: bytes, timeout_s: float) -> Reply:
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        return await super().send(body, timeout_s)

    def times(self, tier: str) -> list[float]:
        return [sent.at_s for sent in self.sent if sent.tier == tier]


class Scene:
    """A call of a job that asks for flex, with everything it needs; made inside the event loop.

    Args:
        after_s: when it falls back to the standard tier; None: never.
        flex: whether the job asks for flex at all.
    """

    def __init__(
        self,
        *servers: FakeClient,
        after_s: float | None = None,
        flex: bool = True,
        budget: BudgetSpec | None = None,
        **retry: Any,
    ) -> None:
        clock = VirtualClock()
        self.stop = Stop()
        self.tally = Tally()
        self.flex = Flex(after_s, BUILDER.at_standard) if flex else None
        tariff = Tariff(Luna(), {"flex": 0.5}, asked_tier="flex" if flex else None)
        self.budget = None if budget is None else Budget(budget, clock, waiting=self.stop.waiting)
        names = "abc"[: len(servers)]
        lanes = [Lane(name, Limiter(waiting=self.stop.waiting), 100) for name in names]
        gate = Gate(lanes, budget=self.budget, waiting=self.stop.waiting)

        def most(input_tokens: int, output_tokens: int) -> Amount:
            return Amount(tariff.most_usd(1000, 100) or 0.0, 1100)

        self.call = Call(
            [Destination(name, server) for name, server in zip(names, servers, strict=True)], gate, dialect("chat"),
            OneLabel(["yes", "no"], "label"), [tariff], RetrySpec(**retry), self.stop, self.tally, clock,
            estimates=[Estimate(100, None if budget is None else most)], flex=self.flex,
        )  # fmt: skip

    @asynccontextmanager
    async def open(self, concurrency: int) -> AsyncIterator[Call]:
        """Be the `Calls` of a strategy."""
        yield self.call

    async def ask(self, rows: int = 1, concurrency: int = 100) -> list[Result]:
        """Carry out so many rows, and return the results of those that were finished, in order."""
        results: list[Result] = []
        await AsyncioStrategy(concurrency, NoOptions()).run(_Source(rows), self, results.append)
        return sorted(results, key=lambda result: result.item.index)


class _Source:
    """Be the `Requests` of a strategy."""

    def __init__(self, rows: int) -> None:
        self._requests = iter([request(index) for index in range(rows)])

    def __iter__(self) -> _Source:
        return self

    def __next__(self) -> Request:
        return next(self._requests)

    def next_item(self) -> Item:
        return next(self._requests).item


# Waiting for room -----------------------------------------------------------------------------------------------------


def test_no_room_for_an_hour_then_room_every_row_is_answered_at_half_the_price() -> None:
    async def main() -> tuple[Server, list[Result], Tally]:
        server = Server(3600)
        scene = Scene(server, max_attempts=1, deadline_s=60, timeout_s=30)
        return server, await scene.ask(20), scene.tally

    server, results, tally = run(main())
    assert [result.status for result in results] == ["ok"] * 20
    for result in results:
        assert result.attempts == len([sent for sent in server.sent if sent.text == f"row {result.item.index}"]) > 60
        assert result.cost_usd == pytest.approx(HALF, rel=1e-12)
        assert result.saved_usd == pytest.approx(0.000_018, rel=1e-12)  # 400 x (0.10 - 0.01), halved
        assert 3600 <= (result.backoff_s or 0) <= 3661
        assert result.total_s == pytest.approx(result.backoff_s, abs=0.1)
    assert set(server.times("flex")) == {sent.at_s for sent in server.sent}
    assert (tally.backing_off, tally.no_room, tally.in_flight) == (0, 0, 0)


def test_the_counters_tell_what_the_rows_wait_for() -> None:
    async def main() -> list[tuple[int, int]]:
        scene = Scene(Server(1000))
        looks: list[tuple[int, int]] = []
        loop = asyncio.get_running_loop()
        loop.call_later(500, lambda: looks.append((scene.tally.no_room, scene.tally.backing_off)))
        await scene.ask(3)
        return looks

    assert run(main()) == [(3, 3)]


def test_only_what_is_no_wait_for_room_uses_the_deadline_and_the_attempts() -> None:
    async def main(**retry: Any) -> tuple[Result, float]:
        class Broken(Server):
            """Fails now and then between the refusals, three times in all."""

            def _say(self, body: bytes, seen: int) -> Reply | Exception:
                answer = super()._say(body, seen)
                return BROKEN if len(self.sent) in (10, 20, 30) else answer

        [result] = await Scene(Broken(3600), **retry).ask()
        return result, asyncio.get_running_loop().time()

    result, _ = run(main(max_attempts=4, deadline_s=600))
    assert result.status == "ok"
    result, ended_s = run(main(max_attempts=3))
    assert (result.status, result.error_type, result.attempts) == ("error", "server_error", 30)
    assert ended_s > 100


def test_a_stop_ends_the_wait_at_once_and_the_row_is_left_for_the_next_session() -> None:
    async def main() -> tuple[list[Result], float]:
        loop = asyncio.get_running_loop()
        scene = Scene(Server(3600))
        loop.call_later(100, scene.stop.request)
        return await scene.ask(5), loop.time()

    results, ended_s = run(main())
    assert results == []
    assert ended_s == pytest.approx(100, abs=0.1)


def test_nobody_else_waits_unless_the_server_says_for_how_long() -> None:
    async def main(asked_s: float | None) -> list[float]:
        class FullForOne(Server):
            def _say(self, body: bytes, seen: int) -> Reply | Exception:
                answer = super()._say(body, seen)
                return no_room(asked_s) if b"row 0" in body and len(self.sent) == 1 else answer

        server = FullForOne(0)
        await Scene(server).ask(5, concurrency=2)
        return [sent.at_s for sent in server.sent if sent.text != "row 0"][1:]  # one was in flight already

    assert max(run(main(None))) < 0.1
    assert min(run(main(30))) > 29.9


def test_a_long_pause_is_waited_for_where_a_rate_limit_would_end_the_run() -> None:
    async def main() -> Result:
        [result] = await Scene(Server(7000, no_room(7200)), deadline_s=600).ask()
        return result

    result = run(main())
    assert (result.status, result.attempts) == ("ok", 2)
    assert result.backoff_s == pytest.approx(7200, abs=0.1)


def test_of_several_endpoints_the_one_with_room_takes_the_row() -> None:
    async def main(after_s: float | None, asked_s: float | None) -> list[Result]:
        full, free = Server(1e6, no_room(asked_s)), Server(0)
        return await Scene(full, free, after_s=after_s).ask(10)

    for after_s, asked_s in ((None, None), (None, 3000), (600, None), (600, 3000)):
        results = run(main(after_s, asked_s))
        assert {(result.status, result.endpoint) for result in results} == {("ok", "b")}
        assert [result.cost_usd for result in results] == [pytest.approx(HALF)] * 10


def test_a_job_that_does_not_ask_for_flex_takes_the_same_refusal_for_any_429() -> None:
    async def main() -> Result:
        [result] = await Scene(Server(1e6), flex=False, deadline_s=300).ask()
        return result

    result = run(main())
    assert (result.status, result.error_type) == ("error", "deadline")
    assert (result.total_s or 0) < 301


def test_an_attempt_takes_no_longer_than_a_row_may() -> None:
    async def main() -> list[float]:
        given: list[float] = []

        class Timed(Server):
            async def send(self, body: bytes, timeout_s: float) -> Reply:
                given.append(timeout_s)
                return await super().send(body, timeout_s)

        await Scene(Timed(0), timeout_s=900, deadline_s=600).ask()
        return given

    assert run(main()) == [600]


# Falling back ---------------------------------------------------------------------------------------------------------


def test_with_no_room_for_five_minutes_a_row_goes_to_the_standard_tier_for_its_price() -> None:
    async def main() -> tuple[Server, list[Result]]:
        server = Server(1e6)
        return server, await Scene(server, after_s=300, max_attempts=1).ask(10)

    server, results = run(main())
    assert server.times("default") == [pytest.approx(300, abs=0.1)] * 10
    assert max(server.times("flex")) < 300
    for result in results:
        assert result.status == "ok"
        assert result.cost_usd == pytest.approx(WHOLE, rel=1e-12)
        assert result.attempts == len([sent for sent in server.sent if sent.text == f"row {result.item.index}"])
        assert result.fingerprint == request(result.item.index).fingerprint


def test_rows_that_come_when_it_has_been_full_for_that_long_ask_once_and_go_on_at_once() -> None:
    async def main() -> tuple[Server, list[Result], float]:
        server = Server(1e6, latency_s=1)
        results = await Scene(server, after_s=300).ask(100, concurrency=10)
        return server, results, asyncio.get_running_loop().time()

    server, results, ended_s = run(main())
    assert [result.attempts for result in results[10:]] == [2] * 90
    assert [result.cost_usd for result in results] == [pytest.approx(WHOLE)] * 100
    assert ended_s < 330, "the first ten wait for five minutes, and the others for none"
    assert len(server.times("default")) == 100


def test_rows_go_back_to_flex_when_it_has_room_again() -> None:
    async def main() -> list[Result]:
        server = Server(400, latency_s=10)
        return await Scene(server, after_s=300).ask(100, concurrency=10)

    results = run(main())
    assert results[0].cost_usd == pytest.approx(WHOLE)
    assert [result.cost_usd for result in results[60:]] == [pytest.approx(HALF)] * 40
    assert [result.attempts for result in results[60:]] == [1] * 40


def test_when_it_is_full_for_a_second_time_rows_wait_all_over_again() -> None:
    async def main() -> tuple[Server, list[Result]]:
        class Twice(Server):
            def _say(self, body: bytes, seen: int) -> Reply | Exception:
                if 2000 < asyncio.get_running_loop().time() < 2100:
                    self.until_s = 2100
                return super()._say(body, seen)

        server = Twice(400, latency_s=10)
        return server, await Scene(server, after_s=300).ask(2000, concurrency=10)

    server, results = run(main())
    assert [result.status for result in results] == ["ok"] * 2000
    assert any(2000 < at_s < 2100 for at_s in server.times("flex"))
    assert max(server.times("default")) < 500


def test_an_answer_to_what_was_sent_before_it_was_full_does_not_mean_that_there_is_room() -> None:
    flex = Flex(300, BUILDER.at_standard)
    assert flex.left_s(0, 50) == 300
    flex.refused(100)
    flex.refused(150)
    flex.answered(sent_s=90)
    assert flex.left_s(0, 200) == 200
    assert flex.left_s(250, 200) == 50
    assert flex.left_s(0, 400) == 0
    flex.answered(sent_s=110)
    assert flex.left_s(20, 400) == 280


def test_a_row_that_finds_room_in_time_pays_half() -> None:
    async def main() -> tuple[Server, list[Result]]:
        server = Server(100)
        return server, await Scene(server, after_s=300).ask(5)

    server, results = run(main())
    assert server.times("default") == []
    assert [result.cost_usd for result in results] == [pytest.approx(HALF)] * 5


def test_who_waits_for_no_time_at_all_asks_for_flex_once() -> None:
    async def main() -> tuple[Server, list[Result]]:
        server = Server(1e6)
        return server, await Scene(server, after_s=0).ask(5)

    server, results = run(main())
    assert [result.attempts for result in results] == [2] * 5
    assert max(server.times("default")) < 0.1


def test_what_the_server_asks_of_flex_does_not_hold_up_the_standard_tier() -> None:
    async def main() -> Server:
        server = Server(1e6, no_room(3000))
        await Scene(server, after_s=300, deadline_s=600).ask(5)
        return server

    server = run(main())
    assert server.times("default") == [pytest.approx(300, abs=0.1)] * 5
    assert len(server.times("flex")) == 5, "nobody asks again before the time that was asked for"


def test_after_falling_back_a_failure_is_one_like_any_other() -> None:
    async def main(first: CallError, **retry: Any) -> tuple[Server, Result]:
        server = Server(1e6, first=first)
        [result] = await Scene(server, after_s=60, **retry).ask()
        return server, result

    server, result = run(main(BROKEN))
    assert result.status == "ok"
    assert [sent.tier for sent in server.sent][-2:] == ["default", "default"]
    _, result = run(main(BROKEN, max_attempts=1))
    assert (result.status, result.error_type) == ("error", "server_error")


def test_no_room_at_the_standard_tier_is_a_429_and_bounded_by_the_deadline() -> None:
    async def main() -> Result:
        class Full(Server):
            def _say(self, body: bytes, seen: int) -> Reply | Exception:
                super()._say(body, seen)
                return no_room()

        [result] = await Scene(Full(1e6), after_s=100, deadline_s=200).ask()
        return result

    result = run(main())
    assert (result.status, result.error_type) == ("error", "deadline")
    assert 150 < (result.total_s or 0) < 301


def test_the_request_at_the_standard_tier_is_the_one_of_a_job_that_asks_for_it() -> None:
    template = PromptTemplate([("user", "Title: {{ text }}")], Path())
    for name in ("chat", "responses"):
        parameters = {"top_p": 1.0, "service_tier": "flex", "text": {"verbosity": "low"}, "user": "me"}
        flex, standard = (
            RequestBuilder(
                template,
                dialect(name),
                ["gpt-6-luna", "gpt-6-sol"],
                {**parameters, "service_tier": tier},
                {"type": "x"},
            )
            for tier in ("flex", "default")
        )
        for model in (0, 1):
            item = Item(3, "3", {"text": 'a "quoted" \ud800 Straße'}, "rows.csv", 4, model)
            assert flex.at_standard(flex.build(item)) == standard.build(item)


# Budgets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("until_s", "after_s", "price"), [(3600, None, HALF), (1e6, 300, WHOLE), (200, 300, HALF)])
def test_a_budget_is_never_exceeded_and_refusals_take_nothing_of_it(
    until_s: float, after_s: float | None, price: float
) -> None:
    cap = 0.001

    async def main() -> tuple[Scene, list[Result], list[float]]:
        scene = Scene(Server(until_s, latency_s=1), after_s=after_s, budget=BudgetSpec(max_usd=cap))
        assert scene.budget is not None
        held: list[float] = []
        watching = asyncio.create_task(watch(scene.budget, held))
        results = await scene.ask(50, concurrency=4)
        watching.cancel()
        return scene, results, held

    async def watch(budget: Budget, held: list[float]) -> None:
        while True:
            await asyncio.sleep(0.5)
            held.append(budget.spent_now.usd)

    scene, results, held = run(main())
    assert isinstance(scene.stop.reason, FatalError)
    assert scene.stop.reason.kind == "budget"
    # 1,000 x 0.10 + 100 x 0.50 millionths is set aside for each, the standard price without a cache
    assert len(results) == int((cap - 0.000_15) / price + 1e-9) + 1
    assert max(held) <= cap
    assert scene.budget is not None
    assert scene.budget.spent.usd == pytest.approx(len(results) * price)
    assert [result.cost_usd for result in results] == [pytest.approx(price)] * len(results)


# The job file ---------------------------------------------------------------------------------------------------------


def job(here: Project, **changes: Any) -> Job:
    here.change(**changes)
    return load_job(here.job_file)


def complaints(here: Project, **changes: Any) -> list[str]:
    with pytest.raises(SpecErrors) as caught:
        job(here, **changes)
    return [f"{problem.message} | {problem.hint}" for problem in caught.value.problems]


FLEX = {"service_tier": "flex"}


@pytest.mark.parametrize(
    ("parameters", "retry", "times"),
    [
        ({}, {}, (60, 600)),
        ({"service_tier": "priority"}, {}, (60, 600)),
        (FLEX, {}, (900, 9000)),
        (FLEX, {"max_attempts": 2}, (900, 9000)),
        (FLEX, {"timeout_s": 60}, (60, 9000)),
        (FLEX, {"deadline_s": 600}, (900, 600)),
        (FLEX, {"timeout_s": 20, "deadline_s": 30}, (20, 30)),
    ],
)
def test_the_times_are_long_at_flex_unless_the_job_says_otherwise(
    project: Make, parameters: dict[str, Any], retry: dict[str, Any], times: tuple[float, float]
) -> None:
    found = job(project(), parameters=parameters, retry=retry).spec.retry
    assert (found.timeout_s, found.deadline_s) == times
    assert found.max_attempts == retry.get("max_attempts", 6)


@pytest.mark.parametrize(
    ("written", "after_s"),
    [("standard", 300), ({"to": "standard"}, 300), ({"after_s": 5}, 5), ({"to": "standard", "after_s": 0.5}, 0.5)],
)
def test_the_fallback_is_a_word_or_a_mapping(project: Make, written: object, after_s: float) -> None:
    here = project(parameters=FLEX, retry={"flex_fallback": written})
    fallback = job(here).spec.retry.flex_fallback
    assert fallback is not None
    assert (fallback.to, fallback.after_s) == ("standard", after_s)


def test_a_run_keeps_the_times_and_the_fallback_that_held(project: Make) -> None:
    made = job(project(), parameters=FLEX, retry={"flex_fallback": "standard"})
    kept = yaml.safe_load(snapshot(made))["retry"]
    assert kept["flex_fallback"] == {"to": "standard", "after_s": 300}
    assert (kept["timeout_s"], kept["deadline_s"]) == (900, 9000)
    again = made.path.with_name("again.yaml")
    again.write_text(snapshot(made), encoding="utf-8")
    assert load_job(again).spec.retry == made.spec.retry


NEEDS_FLEX = (
    "`retry.flex_fallback` has no meaning without `parameters: {service_tier: flex}` | leave it out, or ask for flex"
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"retry": {"flex_fallback": "standard"}}, [NEEDS_FLEX]),
        ({"retry": {"flex_fallback": "standard"}, "parameters": {"service_tier": "default"}}, [NEEDS_FLEX]),
        (
            {"retry": {"flex_fallback": "batch"}, "parameters": FLEX},
            ['`retry.flex_fallback` must be `standard`, got "batch" | None'],
        ),
        (
            {"retry": {"flex_fallback": {"to": "priority"}}, "parameters": FLEX},
            ['`retry.flex_fallback.to` must be `standard`, got "priority" | None'],
        ),
        (
            {"retry": {"flex_fallback": 300}, "parameters": FLEX},
            ["`retry.flex_fallback` must be `standard` or `{to: standard, after_s: 300}`, got 300 | None"],
        ),
        (
            {"retry": {"flex_fallback": {"after_s": -1}}, "parameters": FLEX},
            ["`retry.flex_fallback.after_s` must be at least 0, got -1 | 0 does not wait"],
        ),
        (
            {"retry": {"flex_fallback": {"wait": 60}}, "parameters": FLEX},
            ["`retry.flex_fallback.wait` is not a known key | the keys here are `to` and `after_s`"],
        ),
        ({"flex_fallback": "standard"}, ["`flex_fallback` is not a known key | did you mean `retry.flex_fallback`?"]),
        (
            {"retry": {"flex_fallback": "standard"}, "parameters": FLEX, "api": "decisions"},
            [
                "`parameters.service_tier` is not a parameter of the Decisions API | leave it out; all it takes is "
                "`prompt_cache_key`, `prompt_cache_options` and `safety_identifier`"
            ],
        ),
        (
            {"retry": {"flex_fallback": "standard"}, "parameters": FLEX, "model": "gpt-0"},
            ["`parameters.service_tier` is `flex`, at which `gpt-0` is not offered | leave it out"],
        ),
    ],
)
def test_what_cannot_be_meant_is_said_before_the_run(project: Make, changes: dict[str, Any], said: list[str]) -> None:
    here = project()
    here.prices(
        **{
            "gpt-6-luna": {"input": 0.1, "output": 0.5, "apis": ["responses", "chat", "decisions"]},
            "gpt-0": {"input": 1.0, "output": 1.0, "flex": False},
        }
    )
    assert complaints(here, **changes) == said


def test_the_place_of_a_fallback_without_flex_is_shown(project: Make) -> None:
    here = project()
    here.job_file.write_text(here.job_file.read_text() + "retry:\n  flex_fallback: standard\n", encoding="utf-8")
    with pytest.raises(SpecErrors) as caught:
        load_job(here.job_file)
    lines = len(here.job_file.read_text().splitlines())
    assert f"job.yaml:{lines}:3" in str(caught.value)


def test_a_dry_run_tells_the_price_at_flex_and_what_the_fallback_may_make_of_it(project: Make) -> None:
    here = project(parameters={"max_output_tokens": 50})
    here.prices()
    standard = dry_run(here.job_file, {})
    here.change(parameters=FLEX)
    flex = dry_run(here.job_file, {})
    assert flex.cost_usd == pytest.approx([(usd or 0) / 2 for usd in standard.cost_usd], abs=1e-6)
    assert flex.notes == ()
    here.change(retry={"flex_fallback": "standard"})
    [note] = dry_run(here.job_file, {}).notes
    most = standard.cost_usd[1]
    assert note == f"rows that flex has no room for cost the standard price: at most about ${most:,.4f} for all of them"


# Whole runs -----------------------------------------------------------------------------------------------------------

FULL = {"faults": {"resource_unavailable": 1}, "retry_after_s": None}


@pytest.mark.parametrize("strategy", ["sequential", "threads", "to_thread", "asyncio", "processes"])
@pytest.mark.parametrize("fallback", [None, {"after_s": 0}])
def test_every_strategy_waits_for_room_or_falls_back(project: Make, strategy: str, fallback: object) -> None:
    end = {"max_faults_per_body": 1} if fallback is None else {}
    with simulator(**FULL, **end) as server:
        here = project(
            server.base_url,
            rows=4,
            strategy=strategy,
            parameters={"service_tier": "flex", "max_output_tokens": 50},
            budget={"max_usd": 1.0},
            retry={"max_attempts": 1, "flex_fallback": fallback},
        )
        here.prices()
        here.work()
        stats = server.stats()
    here.assert_whole(4)
    rows = here.table().to_pylist()
    assert [row["_attempts"] for row in rows] == [2] * 4
    assert (stats["faults"], stats["statuses"]) == ({"resource_unavailable": 4}, {"200": 4, "429": 4})
    factor = 0.5 if fallback is None else 1.0
    for row in rows:
        plain = (row["_input_tokens"] * 0.1 + row["_output_tokens"] * 0.5) / 1e6
        assert row["_cost_usd"] == pytest.approx(plain * factor)
    [session] = here.manifest()["sessions"]
    assert session["spent_usd"] == pytest.approx(sum(row["_cost_usd"] for row in rows), abs=1e-8)


def test_a_run_killed_while_it_waits_for_room_buys_nothing_twice(project: Make) -> None:
    with simulator(faults={"resource_unavailable": 0.7}, retry_after_s=None) as server:
        here = project(server.base_url, rows=60, parameters=FLEX)
        here.prices()
        working = here.start("run", here.job_file, "--quiet")
        until(lambda: server.stats()["statuses"].get("200", 0) >= 10)
        here.kill(working)
        before = server.stats()
    with simulator(port=int(server.base_url.split(":")[2].split("/")[0])) as server:
        here.work_on()
        after = server.stats()
    here.assert_whole(60)
    answered = before["statuses"]["200"] + after["statuses"]["200"]
    assert 60 <= answered <= 60 + 8, "only what was in flight is sent again"
    for row in here.table().to_pylist():
        plain = (row["_input_tokens"] * 0.1 + row["_output_tokens"] * 0.5) / 1e6
        assert row["_cost_usd"] == pytest.approx(plain / 2)


def test_an_answer_from_the_standard_tier_is_reused_at_flex(project: Make) -> None:
    with simulator(**FULL) as server:
        here = project(server.base_url, rows=5, reuse=True, parameters=FLEX, retry={"flex_fallback": {"after_s": 0}})
        here.work()
        here.change(retry={"flex_fallback": None})
        here.work()
        assert server.stats()["statuses"] == {"200": 5, "429": 5}
    here.assert_whole(5)


# The simulator --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "served"), [("flex", "flex"), ("priority", "priority"), ("default", "default"), ("auto", "default")]
)
@pytest.mark.parametrize("api", ["responses", "chat"])
def test_the_simulator_says_which_tier_it_served(project: Make, api: str, asked: str, served: str) -> None:
    tariffs = {"flex": 0.5, "priority": 2.0, "default": 1.0}
    with simulator() as server:
        here = project(server.base_url, rows=1, api=api, parameters={"service_tier": asked})
        here.prices()
        table = yaml.safe_load((here.folder / "configs" / "models.yaml").read_text())
        (here.folder / "configs" / "models.yaml").write_text(yaml.safe_dump({**table, "tiers": tariffs}))
        here.work()
    [row] = here.table().to_pylist()
    plain = (row["_input_tokens"] * 0.1 + row["_output_tokens"] * 0.5) / 1e6
    assert row["_cost_usd"] == pytest.approx(plain * tariffs[served])


def test_the_simulator_has_room_for_whoever_does_not_ask_for_flex(project: Make) -> None:
    with simulator(**FULL) as server:
        here = project(server.base_url, rows=5)
        here.work()
        assert server.stats()["statuses"] == {"200": 5}
