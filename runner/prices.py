"""What a request costs, from the tokens the server counted and the dated price table. Unknown stays unknown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runner.records import Usage

STANDARD = "standard"
_STANDARD_NAMES = (None, "", "auto", "default", STANDARD)


class Price(Protocol):
    """USD per million tokens."""

    @property
    def input(self) -> float: ...
    @property
    def output(self) -> float: ...
    @property
    def cached_input(self) -> float | None:
        """None: as `input`."""

    @property
    def cache_write(self) -> float | None:
        """None: as `input`."""


@dataclass(frozen=True)
class Tariff:
    """How one job's tokens turn into money.

    Attributes:
        price: of the job's model, on the job's API; None: unknown, and so is every cost.
        tiers: factor per service tier (`flex`: 0.5); a tier that is not named costs the standard price.
        long_over: above so many input tokens a request is priced at the two `long_` factors.
        asked_tier: the service tier that the job's requests ask for; None: they ask for none.
    """

    price: Price | None
    tiers: dict[str, float]
    long_over: int | None = None
    long_input_factor: float = 1.0
    long_output_factor: float = 1.0
    asked_tier: str | None = None

    def cost_usd(self, usage: Usage, service_tier: str | None = None) -> float | None:
        """Return the price of one attempt in USD, or None where price or usage is unknown.

        An input token is read from the cache, or written to it, or neither:

            into = (input - cached - written) * input price + cached * cached price + written * write price
            cost = (into * long input factor + output * output price * long output factor) * tier factor / 1e6

        Args:
            service_tier: the tier that answered, which the server names; it may be another than was asked for.
        """
        price = self.price
        if price is None or usage.input is None or usage.output is None:
            return None
        cached = min(usage.cached or 0, usage.input)
        written = min(usage.cache_write or 0, usage.input - cached)
        cached_price = price.input if price.cached_input is None else price.cached_input
        write_price = price.input if price.cache_write is None else price.cache_write
        into = (usage.input - cached - written) * price.input + cached * cached_price + written * write_price
        return self._usd(into, usage.output * price.output, usage.input, self._factor(service_tier))

    def saved_by_cache_usd(self, usage: Usage, service_tier: str | None = None) -> float | None:
        """Return what caching took off the price of one attempt in USD; None where price or usage is unknown.

        It is less than nothing where more was paid for writing to the cache than was saved by reading from it.
        """
        plain = self.cost_usd(Usage(usage.input, 0, usage.output), service_tier)
        cost = self.cost_usd(usage, service_tier)
        return None if plain is None or cost is None else plain - cost

    def most_usd(self, input_tokens: int, output_tokens: int, service_tier: str | None = None) -> float | None:
        """Return the most that one attempt of so many tokens can cost in USD; None where the price is unknown.

        That is with no token read from the cache, all of them written to it where that is dearer, and at the tier
        asked for or the standard one, whichever is dearer, because a server may answer in the standard tier.

        Args:
            service_tier: the tier where that is certain.
        """
        price = self.price
        if price is None:
            return None
        dearest = max(price.input, price.cached_input or 0.0, price.cache_write or 0.0)
        tier = max(self._factor(self.asked_tier), self._factor(None))
        if service_tier is not None:
            tier = self._factor(service_tier)
        return self._usd(input_tokens * dearest, output_tokens * price.output, input_tokens, tier)

    @property
    def output_is_free(self) -> bool:
        """Whether the length of an answer makes no difference."""
        return self.price is not None and self.price.output == 0

    def _factor(self, service_tier: str | None) -> float:
        return self.tiers.get(service_tier or "", 1.0)

    def _usd(self, into: float, out: float, input_tokens: int, tier_factor: float) -> float:
        """Return USD from input and output, each already tokens times price."""
        if self.long_over is not None and input_tokens > self.long_over:
            into, out = into * self.long_input_factor, out * self.long_output_factor
        return (into + out) * tier_factor / 1e6


def tier_of(service_tier: str | None) -> str:
    """Return the tier that a job's `service_tier` asks for, by the one name it has in a price table."""
    return STANDARD if service_tier in _STANDARD_NAMES else str(service_tier)
