"""What a run says of itself while it works: how long it will take, and what it waits for."""

from __future__ import annotations

from typing import Any

import pytest

from runner.progress import Moment, Progress, describe
from runner.sections import LimitsSpec
from runner.tally import Tally


class HandClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def now_us(self) -> int:
        return round(self.now_s * 1e6)

    def steady_s(self) -> float:
        return self.now_s


class Watch:
    """A display that remembers what it was shown, and the progress that shows it."""

    def __init__(self, total: int, concurrency: int = 64, **limits: float) -> None:
        self.moments: list[Moment] = []
        self.clock = HandClock()
        self.tally = Tally()
        self._progress = Progress(self, self.clock, total, 0, 0, concurrency, LimitsSpec(**limits))

    def after(self, seconds: float, paused_s: float = 0, **counters: Any) -> Moment:
        """Let time pass, change the counters, and look."""
        self.clock.now_s += seconds
        for name, value in counters.items():
            setattr(self.tally, name, value)
        self._progress.show(self.tally, paused_s)
        return self.moments[-1]

    def show(self, moment: Moment) -> None:
        self.moments.append(moment)

    def note(self, text: str) -> None: ...

    def close(self) -> None: ...


def test_the_time_left_is_never_less_than_a_limit_on_requests_allows() -> None:
    """Two requests a minute, and 30 rows: the first is answered at once, and 29 wait for 14.5 minutes."""
    watch = Watch(30, requests_per_minute=2)
    assert describe(watch.after(0.2, in_flight=1, max_in_flight=1, throttled=29)).startswith(
        "at least 14 min 30 s left · 0.0 rows/min · waiting for the rate limit · 0 failed · 1 in flight"
    )
    assert describe(watch.after(0.2, in_flight=0, done=1)).startswith("14 min 30 s left · ")
    for answered in range(2, 16):
        watch.after(29.9, in_flight=1, throttled=30 - answered)
        moment = watch.after(0.1, in_flight=0, done=answered)
        assert moment.left is not None
        assert moment.left.seconds == pytest.approx((30 - answered) * 30, rel=0.02)
        assert moment.waiting == "waiting for the rate limit"
    assert describe(moment).startswith("7 min 30 s left · 2.0 rows/min · waiting for the rate limit · ")


def test_the_time_left_is_never_less_than_a_limit_on_tokens_allows() -> None:
    watch = Watch(1001, tokens_per_minute=10_000)
    assert describe(watch.after(0.1, in_flight=1, max_in_flight=1)).startswith("time left unknown")
    moment = watch.after(0.1, in_flight=0, throttled=63, done=1, input_tokens=80, output_tokens=20)
    assert describe(moment).startswith("10 min 0 s left")


def test_the_first_answers_of_many_requests_tell_nothing_yet() -> None:
    """64 are in flight and take 1 to 4 seconds each, so about 25 rows a second come in the end."""
    watch = Watch(10_000)
    assert watch.after(1.1, in_flight=64, max_in_flight=64, done=1).left is None
    assert watch.after(1.0, done=20).left is None
    moment = watch.after(1.9, done=100)
    assert moment.left is not None
    assert moment.left.seconds == pytest.approx(9900 / 25)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    watch = Watch(100_000)
    for second in range(1, 51):
        watch.after(1, in_flight=64, max_in_flight=64, done=10 * second)
    for second in range(1, 51):
        moment = watch.after(1, done=500 + 50 * second)
    assert moment.rate_s == pytest.approx(50)
    for _ in range(20):
        moment = watch.after(1)
    assert 0 < moment.rate_s < 5, "nothing came any more, and it slows down until it is known how slow"


@pytest.mark.parametrize(
    ("counters", "words"),
    [
        ({"in_flight": 64}, "waiting for answers (concurrency is the limit)"),
        ({"in_flight": 50}, "waiting for answers"),
        ({"in_flight": 50, "throttled": 14}, "waiting for the rate limit"),
        ({"in_flight": 62, "throttled": 2}, "waiting for answers"),
        ({"throttled": 1}, "waiting for the rate limit"),
        ({"in_flight": 5, "backing_off": 40}, "waiting to try again"),
        ({"in_flight": 5, "backing_off": 40, "no_room": 30}, "waiting for room at the flex tier"),
        ({"in_flight": 40, "backing_off": 24, "no_room": 24}, "waiting for answers"),
        ({"throttled": 64, "paused_s": 12.4}, "paused by the server for 12 s more"),
        ({}, "reading the input"),
    ],
)
def test_what_a_run_waits_for(counters: dict[str, Any], words: str) -> None:
    assert Watch(1000).after(1, **counters).waiting == words


def test_how_long_batches_take_is_not_known() -> None:
    moment = Watch(1000, requests_per_minute=60).after(20, done=500, batched=500)
    assert describe(moment).startswith("time left unknown · 25.0 rows/s · waiting for batches · ")


@pytest.mark.parametrize(
    ("counters", "words"),
    [
        ({}, "$0.0000"),
        ({"cost_known": False}, "cost unknown"),
        ({"cost_known": False, "cost_usd": 0.25}, "at least $0.2500"),
    ],
)
def test_what_a_run_has_cost(counters: dict[str, Any], words: str) -> None:
    assert describe(Watch(1000).after(1, **counters)).endswith(f" · {words}")


def test_a_narrow_terminal_shows_what_matters() -> None:
    watch = Watch(2_700_000, requests_per_minute=3000)
    watch.after(10, in_flight=40, max_in_flight=40, throttled=24, done=500, failed=3)
    line = describe(watch.after(10, done=1000, input_tokens=123_456, cost_usd=1.5))
    assert line == (
        "14 h 59 min left · 50.0 rows/s · waiting for the rate limit · 3 failed · 40 in flight · 0 retrying · "
        "123,456 tokens · $1.5000"
    )
    assert "3 failed" in line[:80]
