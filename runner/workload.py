"""What a job asks of a model, from a sample of its rows: how many tokens, what they cost, how soon it can be done."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from runner.forecast import RateLimits, limits_s
from runner.plan import Plan
from runner.prices import Tariff
from runner.records import Request, Usage
from runner.requests import CHARACTERS_PER_TOKEN

_T_95 = 1.97  # Student's t, two-sided, for the 199 degrees of freedom of the largest sample


@dataclass(frozen=True)
class Workload:
    """All rows of a job, as far as a sample tells.

    Attributes:
        rows: how many are sent.
        sample: the input tokens of each sampled row, from the length of its text.
        fewest: output tokens of the shortest answer that fits.
        most: output tokens of the longest answer that the job allows; None without a maximum.
    """

    rows: int
    sample: tuple[int, ...]
    fewest: int
    most: int | None

    @classmethod
    def of(cls, plan: Plan, rows: int, requests: Sequence[Request]) -> Workload:
        """Return the workload of `rows` rows of which `requests` are a sample."""
        most, shortest = plan.builder.max_output_tokens, plan.answer.shortest_tokens
        fewest = shortest if most is None else min(most, shortest)
        return cls(rows, tuple(request.input_tokens for request in requests), fewest, most)

    @property
    def complete(self) -> bool:
        """Whether the sample is all there is: then nothing is left to chance."""
        return len(self.sample) == self.rows

    @property
    def input_tokens(self) -> int:
        return round(self.rows * self._mean_input)

    @property
    def input_tokens_range(self) -> tuple[int, int]:
        """The 95 % interval of the input tokens of all rows."""
        low, high = self._interval(self.sample)
        return round(low), round(high)

    @property
    def output_tokens(self) -> tuple[int, int | None]:
        """(fewest, most) that all answers together may have."""
        return self.rows * self.fewest, None if self.most is None else self.rows * self.most

    def cost_usd(self, tariff: Tariff, tier: str | None = None) -> tuple[float | None, float | None]:
        """Return (lowest, highest) that all rows may cost; None where the price or the longest answer is unknown.

        The lowest is the low end of the 95 % interval with the shortest answers, the highest its high end with the
        longest. Nothing is taken to come from the cache, and no row to need a second attempt.

        Args:
            tier: the service tier that answers.
        """
        longest = self.fewest if self.most is None and tariff.output_is_free else self.most
        low = self._costs(tariff, tier, self.fewest)
        high = None if longest is None else self._costs(tariff, tier, longest)
        return (
            None if low is None else round(self._interval(low)[0], 6),
            None if high is None else round(self._interval(high)[1], 6),
        )

    def range_in_words(self, tariff: Tariff) -> str:
        """Return what the two ends of a cost are, and what is taken for granted."""
        if tariff.output_is_free:
            ends = "the input alone" if self.complete else "the 95 % interval of the input, by the spread of the sample"
            ends += "; answers are free"
        else:
            ends = "from the shortest answers that fit" + ("" if self.most is None else " to the longest allowed")
            if not self.complete:
                low = "from the low end of the input's 95 % interval (by the spread of the sample) with the shortest"
                ends = f"{low} answers that fit" + ("" if self.most is None else ", to its high end with the longest")
            ends += "; the job sets no longest" if self.most is None else ""
        return (
            f"{ends}. {CHARACTERS_PER_TOKEN:.0f} characters count as a token, nothing is cached, no row is sent twice"
        )

    def earliest_finish_s(self, limits: RateLimits) -> float | None:
        """Return how long the limits alone make it take, in seconds; None where none is set."""
        return limits_s(self.rows, self.tokens_per_request, limits)

    @property
    def tokens_per_request(self) -> float:
        """What a server counts: the input, and the longest answer allowed, which it reserves."""
        return self._mean_input + (self.fewest if self.most is None else self.most)

    @property
    def _mean_input(self) -> float:
        return statistics.fmean(self.sample) if self.sample else 0.0

    def _costs(self, tariff: Tariff, tier: str | None, output_tokens: int) -> list[float] | None:
        """Return what each row of the sample costs: row by row, because a long input has a price of its own."""
        if tariff.price is None:
            return None
        costs = (tariff.cost_usd(Usage(tokens, 0, output_tokens, 0), tier) for tokens in self.sample)
        return [cost for cost in costs if cost is not None]

    def _interval(self, values: Sequence[float]) -> tuple[float, float]:
        """Return the 95 % interval of the sum over all rows, from the values of the sample.

        rows * (mean ± t * s * sqrt((1 - n / rows) / n)): Cochran, Sampling Techniques (1977), 2.7, for a sample
        without replacement. What was sampled is part of the sum, so the sum is never less.
        """
        n = len(values)
        if self.complete or n < 2:
            return (math.fsum(values) * (self.rows / max(1, n)),) * 2
        partly = n < self.rows  # else the rows that are left to send are fewer than the sample of all
        error = _T_95 * statistics.stdev(values) * math.sqrt((1 - n / self.rows if partly else 1) / n)
        mean = statistics.fmean(values)
        return max(math.fsum(values) if partly else 0.0, self.rows * (mean - error)), self.rows * (mean + error)
