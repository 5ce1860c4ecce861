"""Costs, computed by hand. What is not known costs None, never 0."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from runner.prices import Tariff
from runner.records import Usage


@dataclass
class Rates:
    """USD per million tokens."""

    input: float
    output: float
    cached_input: float | None = None


LUNA = Rates(0.10, 0.50, 0.01)
TIERS = {"flex": 0.5, "batch": 0.5, "priority": 2.0}
LONG = Tariff(Rates(2.00, 10.00, 0.20), TIERS, long_over=272_000, long_input_factor=2.0, long_output_factor=1.5)


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
    ("tier", "factor"),
    [(None, 1), ("default", 1), ("standard", 1), ("auto", 1), ("flex", 0.5), ("priority", 2), ("", 1)],
)
def test_service_tiers(tier: str | None, factor: float) -> None:
    assert Tariff(LUNA, TIERS).cost_usd(Usage(1000, 400, 100), tier) == pytest.approx(0.000_114 * factor)


@pytest.mark.parametrize(
    ("usage", "tier", "expected"),
    [
        (Usage(272_000, 0, 1000), None, 0.554),  # 0.544 + 0.010: not over it yet
        (Usage(272_001, 0, 1000), None, 1.103_004),  # 272,001 x 4 + 1,000 x 15
        (Usage(300_000, 100_000, 1000), None, 0.855),  # 200,000 x 4 + 100,000 x 0.4 + 1,000 x 15
        (Usage(300_000, 100_000, 1000), "flex", 0.4275),
        (Usage(10, 0, 300_000), None, 3.000_02),  # only the input counts
    ],
)
def test_long_context(usage: Usage, tier: str | None, expected: float) -> None:
    assert LONG.cost_usd(usage, tier) == pytest.approx(expected, rel=1e-12)


def test_an_unknown_model_has_no_cost() -> None:
    assert Tariff(None, TIERS).cost_usd(Usage(1000, 0, 100)) is None
    assert Tariff(None, TIERS).cost_usd(Usage(0, 0, 0)) is None


@pytest.mark.parametrize("usage", [Usage(), Usage(1000), Usage(None, None, 100), Usage(None, 5, 100, 5)])
def test_unknown_usage_has_no_cost(usage: Usage) -> None:
    assert Tariff(LUNA, TIERS).cost_usd(usage) is None
