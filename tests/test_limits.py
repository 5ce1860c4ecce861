"""Limits hold as the server sees them, and within them nothing is wasted. A minute here takes milliseconds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
from virtual_time import run

from runner.limits import Limiter


async def _admitted(limiter: Limiter, workers: int, seconds: float, tokens: Iterator[int]) -> list[tuple[float, int]]:
    """Return when each request was let through, with its tokens, while `workers` send without pause."""
    loop = asyncio.get_running_loop()
    admitted: list[tuple[float, int]] = []

    async def worker() -> None:
        while loop.time() < seconds:
            amount = next(tokens)
            await limiter.acquire(amount)
            if loop.time() < seconds:
                admitted.append((loop.time(), amount))
            await asyncio.sleep(0.001)

    await asyncio.gather(*[worker() for _ in range(workers)])
    return admitted


def _most_in_a_minute(admitted: list[tuple[float, int]], of: int) -> float:
    """Return the largest sum over any 60 seconds; `of` 0 counts requests, 1 tokens."""
    most = total = 0.0
    start = 0
    for time, amount in admitted:
        total += amount if of else 1
        while admitted[start][0] <= time - 60 + 1e-9:
            total -= admitted[start][1] if of else 1
            start += 1
        most = max(most, total)
    return most


def _ones() -> Iterator[int]:
    while True:
        yield 1


@pytest.mark.parametrize("rpm", [7, 60, 600, 3000, 30_000])
def test_requests_use_99_percent_of_the_limit_and_no_minute_exceeds_it(rpm: int) -> None:
    minutes = 3 if rpm < 10_000 else 1.5
    admitted = run(_admitted(Limiter(requests_per_minute=rpm), 64, minutes * 60, _ones()))
    assert _most_in_a_minute(admitted, 0) <= rpm
    assert len(admitted) >= 0.99 * rpm * minutes - 1


def test_there_is_no_burst_at_the_start() -> None:
    admitted = run(_admitted(Limiter(requests_per_minute=600), 64, 2, _ones()))
    assert sum(time < 0.05 for time, _ in admitted) <= 2
    assert sum(time < 1 for time, _ in admitted) <= 12


@pytest.mark.parametrize("tpm", [30_000, 1_000_000])
def test_tokens_use_the_limit_and_no_minute_exceeds_it_by_more_than_one_request(tpm: int) -> None:
    sizes = random.Random(1)
    amounts = iter(lambda: sizes.randint(10, 2000), None)
    admitted = run(_admitted(Limiter(tokens_per_minute=tpm), 32, 180, amounts))  # type: ignore[arg-type]
    assert _most_in_a_minute(admitted, 1) <= tpm + 2000
    assert sum(amount for _, amount in admitted) >= 0.985 * tpm * 3


def test_large_requests_do_not_starve_behind_small_ones() -> None:
    async def main() -> list[int]:
        limiter = Limiter(tokens_per_minute=60_000)
        order: list[int] = []

        async def one(amount: int) -> None:
            await limiter.acquire(amount)
            order.append(amount)

        await asyncio.gather(*[one(amount) for amount in (900, 5000, 1, 2, 3, 800, 1)])
        return order

    assert run(main()) == [900, 5000, 1, 2, 3, 800, 1]


def test_a_request_larger_than_a_minute_of_tokens_still_goes_through() -> None:
    async def main() -> float:
        limiter = Limiter(tokens_per_minute=600)
        await limiter.acquire(1500)
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(150, rel=0.02)


def test_a_pause_holds_everyone_and_a_shorter_one_does_not_end_it() -> None:
    async def main() -> list[float]:
        limiter = Limiter()
        limiter.pause(30)
        limiter.pause(5)
        times: list[float] = []

        async def one() -> None:
            await limiter.acquire(1)
            times.append(asyncio.get_running_loop().time())

        await asyncio.gather(*[one() for _ in range(5)])
        return times

    assert run(main()) == pytest.approx([30] * 5)
