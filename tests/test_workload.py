"""What all rows take, from a sample: tokens, costs and times computed by hand, and how often the interval holds."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from runner.models import Prices
from runner.prices import Tariff
from runner.sections import LimitsSpec
from runner.workload import Workload

LUNA = Tariff(Prices(input=0.10, cached_input=0.01, cache_write=0.125, output=0.50), {"flex": 0.5})
DECISIONS = Tariff(Prices(input=0.10, cached_input=0.0, cache_write=0.0, output=0.0), {})
SOL = Tariff(Prices(input=2.0, output=10.0), {}, long_over=272_000, long_input_factor=2.0, long_output_factor=1.5)

# 3 of 12 rows: the mean is 200 and the standard deviation 100, so the error of the mean is
# 1.97 * 100 * sqrt((1 - 3 / 12) / 3) = 98.5.
SAMPLED = Workload(12, (100, 200, 300), 2, 50)
COUNTED = Workload(3, (100, 200, 300), 2, 50)


def test_tokens_have_the_spread_of_the_sample() -> None:
    assert not SAMPLED.complete
    assert SAMPLED.input_tokens == 2400
    assert SAMPLED.input_tokens_range == (1218, 3582)  # 12 x 101.5, 12 x 298.5
    assert SAMPLED.output_tokens == (24, 600)


def test_where_all_rows_were_counted_there_is_no_spread() -> None:
    assert COUNTED.complete
    assert COUNTED.input_tokens == 600
    assert COUNTED.input_tokens_range == (600, 600)
    assert COUNTED.cost_usd(LUNA) == (0.000_063, 0.000_135)  # 600 x 0.10 + 6 x 0.50, 600 x 0.10 + 150 x 0.50


def test_all_rows_have_at_least_the_tokens_of_those_that_were_sampled() -> None:
    low, high = Workload(4, (1, 1, 1000), 1, 1).input_tokens_range
    assert low == 1002
    assert high > 1336


def test_costs_go_from_the_low_end_with_the_shortest_answers_to_the_high_end_with_the_longest() -> None:
    # a row costs 0.10 a token of input and 0.50 of output, in millionths
    low, high = 12 * (101.5 * 0.10 + 2 * 0.50), 12 * (298.5 * 0.10 + 50 * 0.50)
    assert (low, high) == pytest.approx((133.8, 658.2))
    assert SAMPLED.cost_usd(LUNA) == (0.000_134, 0.000_658)
    assert SAMPLED.cost_usd(LUNA, "flex") == (0.000_067, 0.000_329)


def test_each_row_of_the_sample_has_the_price_of_its_own_length() -> None:
    load = Workload(2, (272_000, 272_001), 1000, 1000)
    assert load.cost_usd(SOL) == (1.657_004, 1.657_004)  # 272,000 x 2 + 1,000 x 10, 272,001 x 4 + 1,000 x 15


def test_without_a_longest_answer_there_is_no_highest_cost_unless_answers_are_free() -> None:
    load = Workload(12, (100, 200, 300), 2, None)
    assert load.output_tokens == (24, None)
    assert load.cost_usd(LUNA) == (0.000_134, None)
    assert load.cost_usd(DECISIONS) == (0.000_122, 0.000_358)  # 12 x 10.15, 12 x 29.85


def test_an_unknown_price_makes_an_unknown_cost_also_of_no_rows() -> None:
    for load in (SAMPLED, Workload(0, (), 1, 1)):
        assert load.cost_usd(Tariff(None, {})) == (None, None)
    assert Workload(0, (), 1, 1).cost_usd(LUNA) == (0, 0)


@pytest.mark.parametrize(
    ("limits", "most", "seconds"),
    [
        ({}, 50, None),
        ({"requests_per_minute": 6}, 50, 120),
        ({"tokens_per_minute": 1000}, 50, 180),  # 12 x (200 + 50) tokens
        ({"tokens_per_minute": 1000}, None, 145.44),  # 12 x (200 + 2)
        ({"requests_per_minute": 6, "tokens_per_minute": 1000}, 50, 180),
    ],
)
def test_the_slower_limit_tells_the_earliest_finish(
    limits: dict[str, float], most: int | None, seconds: float | None
) -> None:
    found = Workload(12, (100, 200, 300), 2, most).earliest_finish_s(LimitsSpec.model_validate(limits))
    assert found == (None if seconds is None else pytest.approx(seconds))


def test_the_interval_holds_about_95_times_in_100() -> None:
    chance = random.Random(7)
    lengths = [round(chance.lognormvariate(5, 0.8)) for _ in range(2000)]
    total, held = sum(lengths), 0
    for _ in range(400):
        low, high = Workload(2000, tuple(chance.sample(lengths, 200)), 1, 1).input_tokens_range
        held += low <= total <= high
    assert 0.91 <= held / 400 <= 0.99


@dataclass(frozen=True)
class Said:
    load: Workload
    tariff: Tariff
    words: str


TAKEN = ". 4 characters count as a token, nothing is cached, no row is sent twice"
LOW_END = (
    "from the low end of the input's 95 % interval (by the spread of the sample) with the shortest answers that fit"
)


@pytest.mark.parametrize(
    "said",
    [
        Said(COUNTED, LUNA, "from the shortest answers that fit to the longest allowed"),
        Said(SAMPLED, LUNA, f"{LOW_END}, to its high end with the longest"),
        Said(Workload(3, (1, 2, 3), 1, None), LUNA, "from the shortest answers that fit; the job sets no longest"),
        Said(Workload(4, (1, 2, 3), 1, None), LUNA, f"{LOW_END}; the job sets no longest"),
        Said(COUNTED, DECISIONS, "the input alone; answers are free"),
        Said(
            SAMPLED, DECISIONS, "the 95 % interval of the input, by the spread of the sample; answers are free"
        ),
    ],
)  # fmt: skip
def test_the_range_is_explained(said: Said) -> None:
    assert said.load.range_in_words(said.tariff) == said.words + TAKEN
