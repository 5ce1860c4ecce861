"""What a request costs, from the tokens the server counted and the dated price table. Unknown stays unknown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runner.records import Usage


class Price(Protocol):
    """USD per million tokens."""

    input: float
    output: float
    cached_input: float | None


@dataclass(frozen=True)
class Tariff:
    """How one job's tokens turn into money.

    Attributes:
        price: of the job's model; None: unknown, and so is every cost.
        tiers: factor per service tier (`flex`: 0.5); a tier that is not named costs the standard price.
        long_over: above so many input tokens a request is priced at the two `long_` factors.
    """

    price: Price | None
    tiers: dict[str, float]
    long_over: int | None = None
    long_input_factor: float = 1.0
    long_output_factor: float = 1.0

    def cost_usd(self, usage: Usage, service_tier: str | None = None) -> float | None:
        """Return the price of one attempt in USD, or None where price or usage is unknown.

        cost = ((input - cached) * input price + cached * cached price + output * output price) / 1e6
        """
        price = self.price
        if price is None or usage.input is None or usage.output is None:
            return None
        cached = min(usage.cached or 0, usage.input)
        cached_price = price.input if price.cached_input is None else price.cached_input
        long = self.long_over is not None and usage.input > self.long_over
        into = ((usage.input - cached) * price.input + cached * cached_price) * (self.long_input_factor if long else 1)
        out = usage.output * price.output * (self.long_output_factor if long else 1)
        return (into + out) / 1e6 * self.tiers.get(service_tier or "", 1.0)
