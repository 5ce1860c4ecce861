"""How long requests take live: each limit by hand, the tightest of them, and the server's own time."""

from __future__ import annotations

import pytest

from runner.forecast import LATENCY_S, limits_s, live_s
from runner.sections import LimitsSpec


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, None),
        ({"concurrency": 1}, None),
        ({"requests_per_minute": 600}, 120.0),  # 1,200 / 600 minutes
        ({"tokens_per_minute": 100_000}, 360.0),  # 1,200 x 500 / 100,000 minutes
        ({"requests_per_minute": 600, "tokens_per_minute": 100_000}, 360.0),
        ({"requests_per_minute": 100, "tokens_per_minute": 100_000}, 720.0),
    ],
)
def test_what_the_rate_limits_alone_make_it_take(limits: dict[str, int], expected: float | None) -> None:
    assert limits_s(1200, 500, LimitsSpec.model_validate(limits)) == expected


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 1200 * 2 / 64),  # the default concurrency
        ({"concurrency": 8}, 300.0),  # 1,200 x 2 s, 8 at a time
        ({"concurrency": 8, "requests_per_minute": 600}, 300.0),
        ({"concurrency": 32, "requests_per_minute": 600}, 120.0),
        ({"concurrency": 32, "requests_per_minute": 600, "tokens_per_minute": 100_000}, 360.0),
    ],
)
def test_live_it_takes_as_long_as_the_tightest_limit_makes_it(limits: dict[str, int], expected: float) -> None:
    assert live_s(1200, 500, LimitsSpec.model_validate(limits), latency_s=2) == expected


def test_without_a_measurement_an_answer_is_taken_to_take_three_seconds() -> None:
    assert LATENCY_S == 3.0
    assert live_s(100, 500, LimitsSpec(concurrency=10)) == 30.0
    assert live_s(0, 0, LimitsSpec(requests_per_minute=60)) == 0.0
