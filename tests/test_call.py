"""One request's life, told in virtual time with a client that answers from a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from virtual_time import VirtualClock, run

from runner.answer import OneLabel
from runner.call import Call, Destination, Estimate
from runner.client import FakeClient
from runner.dialects import dialect
from runner.errors import FatalError, PermanentError, TransientError
from runner.gate import Gate, Lane
from runner.limits import Limiter
from runner.prices import Tariff
from runner.records import Item, Reply, Request, Result
from runner.sections import RetrySpec
from runner.stop import Stop
from runner.strategies import NoOptions
from runner.strategies.asyncio import AsyncioStrategy
from runner.tally import Tally

SLOW_DOWN = TransientError("HTTP 429: slow down", kind="rate_limit", retry_after_s=30, rate_limited=True)
BUSY = TransientError("HTTP 429: slow down", kind="rate_limit", rate_limited=True)
BROKEN = TransientError("HTTP 500: oops", kind="server_error")
REFUSED = PermanentError("HTTP 400: no", kind="bad_request")


def reply(text: str = '{"label": "yes"}', **usage: Any) -> Reply:
    body = {
        "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, **usage},
    }
    return Reply(json.dumps(body).encode(), request_id="r-1", server_ms=12.0)


def script(*answers: Reply | Exception) -> Callable[[bytes, int], Reply | Exception]:
    """Answer with each in turn, and with the last for ever."""
    return lambda body, seen: answers[min(seen, len(answers) - 1)]


class Scene:
    """A call with everything it needs; made inside the event loop."""

    def __init__(self, answer: Callable[[bytes, int], Reply | Exception] | FakeClient, **retry: Any) -> None:
        self.client = answer if isinstance(answer, FakeClient) else FakeClient(answer)
        self.stop = Stop()
        self.limiter = Limiter(waiting=self.stop.waiting)
        gate = Gate([Lane("fake", self.limiter)])
        self.tally = Tally()
        self.call = Call(
            [Destination("fake", self.client)], gate, dialect("chat"), OneLabel(["yes", "no"], "label"),
            [Tariff(None, {})], RetrySpec(**retry), self.stop, self.tally, VirtualClock(), estimates=[Estimate(None)],
        )  # fmt: skip

    @asynccontextmanager
    async def open(self, concurrency: int) -> AsyncIterator[Call]:
        """Be the `Calls` of a strategy."""
        yield self.call

    async def ask(self, index: int = 0) -> Result:
        return await self.call(request(index))


class Source:
    """Be the `Requests` of a strategy."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._requests = iter(requests)

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> Request:
        return next(self._requests)

    def next_item(self) -> Item:
        return next(self._requests).item


def request(index: int) -> Request:
    return Request(Item(index, str(index), {}, "rows.csv", index + 1), b"%d" % index, f"{index:032x}", 10)


def test_the_server_says_wait_30_seconds_twice_then_answers() -> None:
    async def main() -> Result:
        return await Scene(script(SLOW_DOWN, SLOW_DOWN, reply())).ask()

    result = run(main())
    assert (result.status, result.attempts, result.answer) == ("ok", 3, {"label": "yes"})
    assert result.backoff_s == pytest.approx(60, abs=0.1)
    assert result.total_s == pytest.approx(60, abs=0.1)
    assert result.input_tokens == 10


def test_a_429_pauses_every_worker_for_what_the_server_asked() -> None:
    async def main() -> list[tuple[float, bytes]]:
        loop = asyncio.get_running_loop()
        sent: list[tuple[float, bytes]] = []

        def answer(body: bytes, seen: int) -> Reply | Exception:
            sent.append((loop.time(), body))
            return SLOW_DOWN if len(sent) == 1 else reply()

        scene = Scene(answer)
        results: list[Result] = []
        await AsyncioStrategy(4, NoOptions()).run(Source([request(i) for i in range(20)]), scene, results.append)
        assert sorted(result.item.index for result in results) == list(range(20))
        return sent

    sent = run(main())
    assert len(sent) == 21
    assert [body for time, body in sent if time < 29.9] == [b"0"], "nobody sends during the pause"


def test_a_429_without_retry_after_pauses_nobody_else() -> None:
    async def main() -> float:
        scene = Scene(script(reply()))
        scene.client._answer = lambda body, seen: BUSY if body == b"0" and not seen else reply()
        first, second = await asyncio.gather(scene.ask(0), scene.ask(1))
        assert first.attempts == 2
        return second.total_s or 0.0

    assert run(main()) < 0.01


def test_a_permanent_error_gets_exactly_one_attempt() -> None:
    async def main() -> tuple[Result, int]:
        scene = Scene(script(REFUSED, reply()))
        return await scene.ask(), len(scene.client.bodies)

    result, sent = run(main())
    assert (result.status, result.error_type, result.error, sent) == ("error", "bad_request", "HTTP 400: no", 1)


def test_transient_errors_end_after_max_attempts() -> None:
    async def main() -> Result:
        return await Scene(script(BROKEN), max_attempts=4).ask()

    result = run(main())
    assert (result.status, result.error_type, result.attempts) == ("error", "server_error", 4)


def test_rate_limits_are_bounded_by_the_deadline_and_not_by_max_attempts() -> None:
    async def main() -> Result:
        return await Scene(script(BUSY), max_attempts=3, deadline_s=300).ask()

    result = run(main())
    assert (result.status, result.error_type) == ("error", "deadline")
    assert result.attempts > 3
    assert 200 < (result.total_s or 0) <= 300.1
    assert "slow down" in (result.error or "")


def test_an_answer_that_does_not_fit_is_asked_for_again_with_its_own_count_and_every_one_is_paid_for() -> None:
    async def main() -> list[Result]:
        return [
            await Scene(script(reply("maybe"), reply('{"label": "maybe"}'), reply())).ask(),
            await Scene(script(reply("maybe")), invalid_attempts=2, max_attempts=9).ask(),
        ]

    mended, failed = run(main())
    assert (mended.status, mended.attempts, mended.input_tokens, mended.output_tokens) == ("ok", 3, 30, 6)
    assert (failed.status, failed.error_type, failed.attempts, failed.raw) == ("error", "invalid_reply", 2, "maybe")


def test_what_was_read_from_the_cache_and_written_to_it_is_summed_over_all_attempts() -> None:
    async def main() -> Result:
        wrote = reply("maybe", prompt_tokens_details={"cached_tokens": 0, "cache_write_tokens": 8})
        read = reply(prompt_tokens_details={"cached_tokens": 8, "cache_write_tokens": 1})
        return await Scene(script(wrote, read)).ask()

    result = run(main())
    assert (result.attempts, result.cached_tokens, result.cache_write_tokens) == (2, 8, 9)


def test_a_fatal_error_stops_the_run_and_leaves_the_row_undone() -> None:
    async def main() -> Scene:
        scene = Scene(script(FatalError("quota spent", kind="insufficient_quota")))
        with pytest.raises(asyncio.CancelledError):
            await scene.ask()
        return scene

    scene = run(main())
    assert isinstance(scene.stop.reason, FatalError)
    assert scene.stop.reason.kind == "insufficient_quota"


def test_a_pause_longer_than_a_row_may_take_stops_the_run_instead_of_failing_all_rows() -> None:
    async def main() -> Stop:
        hours = TransientError("HTTP 429", kind="rate_limit", retry_after_s=7200, rate_limited=True)
        scene = Scene(script(hours))
        with pytest.raises(asyncio.CancelledError):
            await scene.ask()
        return scene.stop

    reason = run(main()).reason
    assert isinstance(reason, FatalError)
    assert reason.kind == "server_pause"


def test_a_stop_ends_backoff_at_once_and_lets_an_attempt_finish() -> None:
    async def main() -> tuple[list[Result], float]:
        loop = asyncio.get_running_loop()

        class SlowClient(FakeClient):
            async def send(self, body: bytes, timeout_s: float) -> Reply:
                if body == b"1":
                    await asyncio.sleep(5)
                    return reply()
                return await super().send(body, timeout_s)

        scene = Scene(SlowClient(script(BROKEN)))
        results: list[Result] = []
        loop.call_later(2, scene.stop.request)
        await AsyncioStrategy(2, NoOptions()).run(Source([request(0), request(1)]), scene, results.append)
        return results, loop.time()

    results, ended = run(main())
    assert [result.item.index for result in results] == [1]
    assert ended == pytest.approx(5, abs=0.1)


def test_no_more_than_the_workers_are_in_flight_and_each_request_is_sent_once() -> None:
    async def main() -> tuple[Tally, list[int]]:
        class SlowClient(FakeClient):
            async def send(self, body: bytes, timeout_s: float) -> Reply:
                await asyncio.sleep(0.2)
                return await super().send(body, timeout_s)

        scene = Scene(SlowClient(script(reply())))
        results: list[Result] = []
        await AsyncioStrategy(7, NoOptions()).run(Source(request(i) for i in range(500)), scene, results.append)
        return scene.tally, [result.item.index for result in results]

    tally, order = run(main())
    assert tally.max_in_flight == 7
    assert sorted(order) == list(range(500))


def test_backoff_waits_and_counts_against_the_deadline_while_waiting_for_limits_does_not() -> None:
    async def main() -> Result:
        scene = Scene(script(reply()), deadline_s=5, timeout_s=5)
        scene.limiter.pause(100)
        return await scene.ask()

    result = run(main())
    assert result.status == "ok"
    assert result.throttle_s == pytest.approx(100, abs=0.1)
    assert result.backoff_s == 0
