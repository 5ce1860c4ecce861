"""The gate, in virtual time: endpoints with limits and health of their own, and a budget that is never exceeded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from virtual_time import VirtualClock, run

from runner.budget import NOTHING, Amount, Budget
from runner.errors import FatalError
from runner.gate import Gate, Lane, Need
from runner.limits import Limiter
from runner.sections import BudgetSpec


def lane(name: str, rpm: float | None = None, concurrency: int = 1000) -> Lane:
    return Lane(name, Limiter(rpm), concurrency)


async def work(gate: Gate, seconds: float, *, workers: int, latency_s: float = 0.2, tokens: int = 10) -> Counter[str]:
    """Send as fast as the gate allows; return how many requests each endpoint got."""
    sent: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def worker() -> None:
        while loop.time() < end:
            endpoint = await gate.acquire(Need(tokens))
            if loop.time() < end:
                sent[gate.lanes[endpoint].name] += 1
            await asyncio.sleep(latency_s)
            gate.release(endpoint, Need(tokens), NOTHING, failed=False)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())
    return sent


def test_two_endpoints_give_the_sum_of_their_limits_each_within_its_own() -> None:
    sent = run(work_on(lambda: [lane("a", 300), lane("b", 600)], 120, workers=50))
    assert 0.97 * 1800 <= sum(sent.values()) <= 1800
    assert sent["a"] <= 600
    assert sent["b"] <= 1200


def test_requests_that_take_seconds_of_an_endpoints_tokens_leave_the_other_its_own() -> None:
    async def main() -> tuple[Counter[str], list[int]]:
        both = [Lane("a", Limiter(None, 30_000), 1000), Lane("b", Limiter(None, 60_000), 1000)]
        sent = await work(Gate(both), 120, workers=50, tokens=1000)
        return sent, [each.in_flight for each in both]

    sent, in_flight = run(main())
    assert sent["a"] == pytest.approx(60, abs=1.5)
    assert sent["b"] == pytest.approx(120, abs=1.5)
    assert in_flight == [0, 0]


async def work_on(lanes: Callable[[], list[Lane]], seconds: float, **options: Any) -> Counter[str]:
    return await work(Gate(lanes()), seconds, **options)


def test_work_goes_where_there_is_room() -> None:
    sent = run(work_on(lambda: [lane("small", concurrency=2), lane("large", concurrency=18)], 10, workers=20))
    assert sent["large"] == pytest.approx(9 * sent["small"], rel=0.1)


def test_no_endpoint_has_more_in_flight_than_it_allows() -> None:
    async def main() -> tuple[int, int]:
        lanes = [lane("a", concurrency=3), lane("b", concurrency=5)]
        gate = Gate(lanes)
        most = Counter[str]()

        async def worker() -> None:
            for _ in range(20):
                endpoint = await gate.acquire(Need(1))
                for each in lanes:
                    most[each.name] = max(most[each.name], each.in_flight)
                await asyncio.sleep(0.01)
                gate.release(endpoint, Need(1), NOTHING, failed=False)

        async with asyncio.TaskGroup() as group:
            for _ in range(30):
                group.create_task(worker())
        return most["a"], most["b"]

    assert run(main()) == (3, 5)


def test_a_pause_is_for_one_endpoint_and_the_other_takes_the_work() -> None:
    async def main() -> Counter[str]:
        gate = Gate([lane("a"), lane("b")])
        gate.pause(0, 30)
        assert gate.paused_s() == 0
        return await work(gate, 29, workers=4)

    assert set(run(main())) == {"b"}


def test_an_endpoint_that_keeps_failing_rests_and_comes_back() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        gate = Gate([lane("bad"), lane("good", concurrency=1)])
        rests = []
        for _ in range(6):
            gate.release(await held(gate, "bad"), Need(1), NOTHING, failed=True)
            rests.append(gate.lanes[0].limiter.paused_s())
            await asyncio.sleep(rests[-1])
        gate.release(await held(gate, "bad"), Need(1), NOTHING, failed=False)
        assert gate.lanes[0].failures == 0
        assert loop.time() < 60
        return rests

    async def held(gate: Gate, name: str) -> int:
        while gate.lanes[endpoint := await gate.acquire(Need(1))].name != name:
            gate.release(endpoint, Need(1), NOTHING, failed=False)
            gate.lanes[endpoint].limiter.pause(0.001)
        return endpoint

    assert [round(rest) for rest in run(main())] == [0, 0, 1, 2, 4, 8]


def test_an_endpoint_that_leaves_gets_nothing_more_and_the_last_one_is_fatal() -> None:
    async def main() -> tuple[list[str], Counter[str]]:
        warnings: list[str] = []
        gate = Gate([lane("a"), lane("b"), lane("c")], warn=warnings.append)
        bad_key = FatalError("HTTP 401: no", kind="bad_key")
        await gate.leave(0, bad_key)
        await gate.leave(0, bad_key)
        sent = await work(gate, 5, workers=4)
        await gate.leave(1, FatalError("HTTP 429: spent", kind="insufficient_quota"))
        with pytest.raises(FatalError, match="no more"):
            await gate.leave(2, FatalError("no more", kind="insufficient_quota"))
        with pytest.raises(FatalError):
            await gate.acquire(Need(1))
        return warnings, sent

    warnings, sent = run(main())
    assert warnings == [
        "endpoint `a` left the pool: HTTP 401: no; going on with b, c",
        "endpoint `b` left the pool: HTTP 429: spent; going on with c",
    ]
    assert set(sent) == {"b", "c"}


# The budget -----------------------------------------------------------------------------------------------------------


def budget(spent: Amount = NOTHING, today_usd: float = 0.0, **caps: Any) -> Budget:
    return Budget(BudgetSpec(**caps), VirtualClock(), spent, today_usd)


@pytest.mark.parametrize(
    ("caps", "most"), [({"max_usd": 1.0}, Amount(0.125, 5)), ({"max_tokens": 80}, Amount(0.1, 10))]
)
def test_what_is_in_flight_counts_at_its_worst(caps: dict[str, Any], most: Amount) -> None:
    async def main() -> tuple[int, int]:
        gate = Gate([lane("a")], budget=budget(**caps))
        in_flight = highest = answered = 0

        async def worker() -> None:
            nonlocal in_flight, highest, answered
            for _ in range(10):
                endpoint = await gate.acquire(Need(1, most))
                in_flight += 1
                highest = max(highest, in_flight)
                await asyncio.sleep(1)
                in_flight -= 1
                answered += 1
                gate.release(endpoint, Need(1, most), Amount(most.usd / 2, most.tokens // 2), failed=False)

        ends = await asyncio.gather(*(worker() for _ in range(40)), return_exceptions=True)
        assert all(isinstance(end, FatalError) for end in ends)
        return highest, answered

    highest, answered = run(main())
    assert highest == 8
    assert answered == 15, "half of what is set aside comes back, until the next one does not fit"


def test_what_may_be_taken_is_noted_before_it_is_and_not_for_every_request() -> None:
    noted: list[Amount] = []

    async def main() -> None:
        money = Budget(BudgetSpec(max_usd=100.0), VirtualClock(), Amount(7.0), note=noted.append)

        async def worker() -> None:
            for _ in range(25):
                await money.reserve(Amount(0.1))
                assert money.spent_now.usd <= noted[-1].usd
                await asyncio.sleep(1)
                money.settle(Amount(0.1), Amount(0.02))

        await asyncio.gather(*(worker() for _ in range(8)))
        assert money.spent_now.usd == pytest.approx(4.0), "what came before this session is not of it"

    run(main())
    assert len(noted) < 20, "of 200 requests"


def test_what_was_spent_before_counts_and_so_does_today() -> None:
    async def refused(of: Budget, usd: float) -> str:
        with pytest.raises(FatalError) as caught:
            await of.reserve(Amount(usd, 10))
        assert caught.value.kind == "budget"
        return f"{caught.value.message}\n{caught.value.hint}"

    async def main() -> list[str]:
        return [
            await refused(budget(Amount(0.95, 0), max_usd=1.0), 0.06),
            await refused(budget(Amount(0, 95), max_tokens=100), 0.01),
            await refused(budget(today_usd=19.99, daily_usd=20.0), 0.02),
        ]

    assert run(main()) == [
        "the budget of $1 is reached: $0.9500 spent, and the next request may cost $0.0600\n"
        "raise it to go on: `runner resume --set budget.max_usd=VALUE`",
        "the budget of 100 tokens is reached: 95 used, and the next request may take 10\n"
        "raise it to go on: `runner resume --set budget.max_tokens=VALUE`",
        "the budget of $20 a day is reached: this job has spent $19.9900 since midnight (UTC), "
        "and the next request may cost $0.0200\n"
        "raise it to go on: `runner resume --set budget.daily_usd=VALUE`",
    ]


def test_what_is_left_in_flight_counts_as_spent() -> None:
    async def main() -> Amount:
        of_run = budget(Amount(1.0, 100), max_usd=2.0)
        await of_run.reserve(Amount(0.5, 10))
        await of_run.reserve(Amount(0.25, 20))
        of_run.settle(Amount(0.5, 10), Amount(0.125, 5))
        return of_run.spent_now

    assert run(main()) == Amount(0.375, 25), "whoever holds the rest may have been answered"


def test_a_new_day_has_a_new_budget() -> None:
    async def main() -> None:
        of_today = budget(today_usd=20.0, daily_usd=20.0)
        with pytest.raises(FatalError):
            await of_today.reserve(Amount(0.01))
        await asyncio.sleep(86_400)
        await of_today.reserve(Amount(0.01))

    run(main())
