"""The simulator's limits on a clock that the test turns by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest

from runner.simulator.limits import Limits, duration, retry_headers


class HandClock:
    """Exact time, so that a minute of ticks is a minute."""

    def __init__(self) -> None:
        self.time = Fraction(0)

    def __call__(self) -> float:
        return float(self.time)


def test_600_rpm_lets_exactly_600_through_in_a_minute_of_overload():
    clock = HandClock()
    limits = Limits(600, None, clock)
    while limits.admit(0) is None:  # spend the second's worth that a full bucket holds
        pass
    passed = []
    for _ in range(60 * 1000):
        clock.time += Fraction(1, 1000)
        while limits.admit(0) is None:
            passed.append(clock.time)
    assert len(passed) == 600
    assert max(sum(start < t <= start + 1 for t in passed) for start in range(60)) == 10


def test_an_even_stream_at_the_limit_is_never_refused():
    clock = HandClock()
    limits = Limits(600, 60_000, clock)
    for tick in range(6_000):
        clock.time = Fraction(tick, 10)
        assert limits.admit(100) is None


def test_a_burst_of_a_whole_minute_is_refused():
    limits = Limits(600, None, HandClock())
    assert [limits.admit(0) is None for _ in range(600)].count(True) == 10


def test_a_slow_limit_still_lets_one_request_through():
    clock = HandClock()
    limits = Limits(6, None, clock)
    assert limits.admit(0) is None
    refused = limits.admit(0)
    assert refused is not None
    assert (refused.limit, refused.per_minute, refused.retry_after_s) == ("requests", 6, pytest.approx(10))
    clock.time += 10
    assert limits.admit(0) is None


def test_obeying_retry_after_is_enough():
    clock = HandClock()
    limits = Limits(None, 700, clock)
    for tokens in (3, 9, 50, 7, 11, 1, 11):
        while (refused := limits.admit(tokens)) is not None:
            clock.time += Fraction(int(retry_headers(refused.retry_after_s)["retry-after-ms"]), 1000)
            assert limits.admit(tokens) is None
            break


def test_a_request_larger_than_the_bucket_passes_when_the_bucket_is_full_and_is_paid_off_after():
    clock = HandClock()
    limits = Limits(None, 6_000, clock)  # 100 a second
    assert limits.admit(1_000) is None
    refused = limits.admit(1)
    assert refused is not None
    assert refused.limit == "tokens"
    assert refused.retry_after_s == pytest.approx(9.01)
    clock.time += Fraction(901, 100)
    assert limits.admit(1) is None
    refused = limits.admit(1_000)
    assert refused is not None
    assert refused.retry_after_s == pytest.approx(1)


def test_a_refused_request_uses_up_nothing():
    clock = HandClock()
    limits = Limits(60, 6_000, clock)
    assert limits.admit(10) is None
    assert limits.admit(10) is not None
    assert limits.headers()["x-ratelimit-remaining-tokens"] == "90"


def test_headers():
    assert Limits(None, None, HandClock()).headers() == {}
    limits = Limits(600, 6_000, HandClock())
    limits.admit(20)
    assert limits.headers() == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "80",
        "x-ratelimit-reset-tokens": "200ms",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.12, "120ms"), (0.0001, "1ms"), (1, "1s"), (8.64, "8.64s"), (360, "6m0s"), (3661.5, "1h1m1.5s")],
)
def test_durations_look_like_the_real_ones(seconds: float, text: str):
    assert duration(seconds) == text


def test_retry_after_is_rounded_up():
    assert retry_headers(0.0121) == {"retry-after": "0.013", "retry-after-ms": "13"}
    assert retry_headers(2) == {"retry-after": "2", "retry-after-ms": "2000"}
