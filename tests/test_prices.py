"""Costs, computed by hand. What is not known costs None, never 0."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from runner.money import usd
from runner.prices import Tariff, tier_of
from runner.records import Usage


@dataclass
class Rates:
    """USD per million tokens."""

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None


LUNA = Rates(0.10, 0.50, 0.01, 0.125)
DECISIONS = Rates(0.10, 0.0, 0.0, 0.0)
NO_WRITE_PRICE = Rates(2.00, 10.00, 0.10)
TIERS = {"flex": 0.5, "batch": 0.5, "priority": 2.0}
LONG = Tariff(Rates(2.00, 10.00, 0.20, 2.50), TIERS, long_over=272_000, long_input_factor=2.0, long_output_factor=1.5)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(1_000_000, 0, 0), 0.10),
        (Usage(0, 0, 1_000_000), 0.50),
        (Usage(1000, None, 100), 0.000_15),  # 1000 x 0.10 + 100 x 0.50, in millionths
        (Usage(1000, 400, 100), 0.000_114),  # 600 x 0.10 + 400 x 0.01 + 100 x 0.50
        (Usage(1000, 1000, 0), 0.000_01),
        (Usage(1000, 5000, 0), 0.000_01),  # a server that says more was cached than sent
        (Usage(0, 0, 0), 0.0),
        (Usage(1000, 0, 100, 90), 0.000_15),  # reasoning is part of the output
    ],
)
def test_input_cached_input_and_output(usage: Usage, expected: float) -> None:
    assert Tariff(LUNA, {}).cost_usd(usage) == pytest.approx(expected, rel=1e-12, abs=0)


def test_without_a_price_for_cached_input_it_costs_as_much_as_any() -> None:
    assert Tariff(Rates(2.0, 10.0), {}).cost_usd(Usage(1000, 400, 0)) == pytest.approx(0.002)
    assert Tariff(Rates(2.0, 10.0, 0.0), {}).cost_usd(Usage(1000, 400, 0)) == pytest.approx(0.0012)  # free


@pytest.mark.parametrize(
    ("price", "usage", "expected"),
    [
        (LUNA, Usage(1000, 400, 100, 0, 200), 0.000_119),  # 400 x 0.10 + 400 x 0.01 + 200 x 0.125 + 100 x 0.50
        (LUNA, Usage(1000, 0, 0, 0, 1000), 0.000_125),
        (LUNA, Usage(1000, None, 0, None, 1000), 0.000_125),
        (LUNA, Usage(1000, 400, 0, 0, 900), 0.000_079),  # more written than was left: 400 x 0.01 + 600 x 0.125
        (NO_WRITE_PRICE, Usage(1000, 400, 0, 0, 200), 0.001_24),  # written as plain: 600 x 2.00 + 400 x 0.10
        (DECISIONS, Usage(1000, 400, 100, 0, 200), 0.000_04),  # only what is neither read nor written: 400 x 0.10
    ],
)
def test_writing_to_the_cache(price: Rates, usage: Usage, expected: float) -> None:
    assert Tariff(price, {}).cost_usd(usage) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("tier", "factor"),
    [(None, 1), ("default", 1), ("standard", 1), ("auto", 1), ("flex", 0.5), ("priority", 2), ("", 1)],
)
def test_service_tiers(tier: str | None, factor: float) -> None:
    assert Tariff(LUNA, TIERS).cost_usd(Usage(1000, 400, 100), tier) == pytest.approx(0.000_114 * factor)


def test_flex_halves_every_price_those_of_the_cache_as_well() -> None:
    # (400 x 0.10 + 400 x 0.01 + 200 x 0.125 + 100 x 0.50) / 2, in millionths
    assert Tariff(LUNA, TIERS).cost_usd(Usage(1000, 400, 100, 0, 200), "flex") == pytest.approx(0.000_059_5, rel=1e-12)


@pytest.mark.parametrize(
    ("usage", "tier", "expected"),
    [
        (Usage(272_000, 0, 1000), None, 0.554),  # 0.544 + 0.010: not over it yet
        (Usage(272_001, 0, 1000), None, 1.103_004),  # 272,001 x 4 + 1,000 x 15
        (Usage(300_000, 100_000, 1000), None, 0.855),  # 200,000 x 4 + 100,000 x 0.4 + 1,000 x 15
        (Usage(300_000, 100_000, 1000), "flex", 0.4275),
        (Usage(10, 0, 300_000), None, 3.000_02),  # only the input counts
        (
            Usage(300_000, 100_000, 1000, 0, 50_000),
            None,
            0.905,
        ),  # 150,000 x 4 + 100,000 x 0.4 + 50,000 x 5 + 1,000 x 15
    ],
)
def test_long_context(usage: Usage, tier: str | None, expected: float) -> None:
    assert LONG.cost_usd(usage, tier) == pytest.approx(expected, rel=1e-12)


def _tariff(price: Rates, asked_tier: str | None = None) -> Tariff:
    return Tariff(price, TIERS, 272_000, 2.0, 1.5, asked_tier)


@pytest.mark.parametrize(
    ("tariff", "input_tokens", "expected"),
    [
        (_tariff(LUNA), 1000, 0.000_175),  # 1,000 x 0.125, for it may all be written to the cache, + 100 x 0.50
        (_tariff(NO_WRITE_PRICE), 1000, 0.003),  # 1,000 x 2.00 + 100 x 10.00
        (_tariff(DECISIONS), 1000, 0.000_1),  # 1,000 x 0.10
        (_tariff(LUNA, "flex"), 1000, 0.000_175),  # it may be answered at the standard tier
        (_tariff(LUNA, "priority"), 1000, 0.000_35),  # twice 0.000_175
        (LONG, 272_000, 0.681),  # 272,000 x 2.50 + 100 x 10.00
        (LONG, 272_001, 1.361_505),  # 272,001 x 5.00 + 100 x 15.00
    ],
)
def test_the_most_that_an_attempt_can_cost(tariff: Tariff, input_tokens: int, expected: float) -> None:
    assert tariff.most_usd(input_tokens, 100) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("price", [LUNA, DECISIONS, NO_WRITE_PRICE, Rates(2.0, 10.0), Rates(1.0, 1.0, 3.0)])
@pytest.mark.parametrize("input_tokens", [1000, 300_000])
@pytest.mark.parametrize("asked", [None, "flex", "priority"])
def test_nothing_costs_more_than_the_most(price: Rates, input_tokens: int, asked: str | None) -> None:
    tariff = _tariff(price, asked)
    most = tariff.most_usd(input_tokens, 50)
    assert most is not None
    for cached, written in [(0, 0), (input_tokens, 0), (0, input_tokens), (400, 500)]:
        for answered in (asked, "default"):
            cost = tariff.cost_usd(Usage(input_tokens, cached, 50, 0, written), answered)
            assert cost is not None
            assert cost <= most


@pytest.mark.parametrize(
    ("tariff", "usage", "tier", "expected"),
    [
        (_tariff(LUNA), Usage(1000, 0, 100), None, 0.0),
        (_tariff(LUNA), Usage(1000, 400, 100), None, 0.000_036),  # 400 x (0.10 - 0.01)
        (_tariff(LUNA), Usage(1000, 400, 100), "flex", 0.000_018),
        (_tariff(LUNA), Usage(1000, 400, 100, 0, 200), None, 0.000_031),  # 400 x 0.09 - 200 x 0.025
        (_tariff(LUNA), Usage(1000, 0, 100, 0, 1000), None, -0.000_025),  # 1,000 x -0.025
        (_tariff(DECISIONS), Usage(1000, 400, 100), None, 0.000_04),  # 400 x 0.10
        (LONG, Usage(300_000, 100_000, 0), None, 0.36),  # 100,000 x 1.80, twice
    ],
)
def test_what_caching_saved(tariff: Tariff, usage: Usage, tier: str | None, expected: float) -> None:
    assert tariff.saved_by_cache_usd(usage, tier) == pytest.approx(expected, rel=1e-9)


def test_an_unknown_model_has_no_cost() -> None:
    assert Tariff(None, TIERS).most_usd(1000, 100) is None
    assert Tariff(None, TIERS).saved_by_cache_usd(Usage(1000, 0, 100)) is None
    assert Tariff(None, TIERS).cost_usd(Usage(1000, 0, 100)) is None
    assert Tariff(None, TIERS).cost_usd(Usage(0, 0, 0)) is None


@pytest.mark.parametrize("usage", [Usage(), Usage(1000), Usage(None, None, 100), Usage(None, 5, 100, 5)])
def test_unknown_usage_has_no_cost(usage: Usage) -> None:
    assert Tariff(LUNA, TIERS).cost_usd(usage) is None
    assert Tariff(LUNA, TIERS).saved_by_cache_usd(usage) is None


def test_the_names_of_the_standard_tier() -> None:
    assert {tier_of(name) for name in (None, "", "auto", "default", "standard")} == {"standard"}
    assert [tier_of(name) for name in ("flex", "priority")] == ["flex", "priority"]


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "$0.0000"),
        (0.00000013, "$0.00000013"),
        (0.00004, "$0.00004"),
        (0.00011, "$0.00011"),
        (0.0005, "$0.0005"),
        (0.00099999, "$0.0010"),
        (0.0062, "$0.0062"),
        (12.3456, "$12.3456"),
        (1234.5, "$1,234.50"),
        (-0.01, "$-0.0100"),
    ],
)
def test_money_as_people_write_it(amount: float, shown: str) -> None:
    assert usd(amount) == shown
