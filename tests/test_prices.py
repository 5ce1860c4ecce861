"""Costs, against cases worked out by hand."""

from __future__ import annotations

import pytest

from runner.models import ModelSpec
from runner.prices import Tariff
from runner.records import Usage

SOL = ModelSpec(input=2.0, cached_input=0.2, output=10.0)
TARIFF = Tariff(SOL, {"flex": 0.5, "priority": 2.0}, long_over=272_000, long_input_factor=2.0, long_output_factor=1.5)


@pytest.mark.parametrize(
    ("usage", "tier", "usd"),
    [
        (Usage(1_000_000, 0, 0, 0), None, 4.0),  # over 272,000: twice 2.00
        (Usage(100_000, 0, 10_000, 0), None, 0.3),  # 0.20 + 0.10
        (Usage(100_000, 60_000, 10_000, 0), None, 0.192),  # 0.08 + 0.012 + 0.10
        (Usage(100_000, None, 10_000, None), "flex", 0.15),
        (Usage(100_000, 0, 10_000, 0), "priority", 0.6),
        (Usage(300_000, 100_000, 10_000, 0), None, 0.99),  # (0.40 + 0.02) * 2 + 0.10 * 1.5
        (Usage(272_000, 0, 0, 0), None, 0.544),  # exactly the threshold is not over it
    ],
)
def test_a_request_costs_what_it_costs(usage: Usage, tier: str | None, usd: float) -> None:
    assert TARIFF.cost_usd(usage, tier) == pytest.approx(usd)


def test_what_is_not_known_is_not_guessed() -> None:
    assert Tariff(None, {}).cost_usd(Usage(1, 0, 1, 0)) is None
    assert TARIFF.cost_usd(Usage(None, None, 5, None)) is None
    assert TARIFF.cost_usd(Usage(5, None, None, None)) is None


def test_a_model_without_a_cached_price_pays_the_full_one() -> None:
    assert Tariff(ModelSpec(input=2.0, output=10.0), {}).cost_usd(Usage(1000, 1000, 0, 0)) == pytest.approx(0.002)
