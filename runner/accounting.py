"""What a reply said and what it cost, taken over into the result of its row."""

from __future__ import annotations

from typing import TypeVar

from runner.prices import Tariff
from runner.records import Completion, Result

T = TypeVar("T", int, float)


def account(result: Result, completion: Completion, tariff: Tariff, tier: str | None) -> float | None:
    """Take over a reply, whether or not it is what was asked for: tokens and cost are added to those of earlier ones.

    Args:
        tier: the service tier at which it is charged.

    Returns:
        What this reply cost in USD; None: unknown.
    """
    usage = completion.usage
    result.raw = completion.text
    result.finish_reason = completion.finish_reason
    result.input_tokens = _add(result.input_tokens, usage.input)
    result.cached_tokens = _add(result.cached_tokens, usage.cached)
    result.cache_write_tokens = _add(result.cache_write_tokens, usage.cache_write)
    result.output_tokens = _add(result.output_tokens, usage.output)
    result.reasoning_tokens = _add(result.reasoning_tokens, usage.reasoning)
    cost_usd = tariff.cost_usd(usage, tier)
    result.cost_usd = _add(result.cost_usd, cost_usd)
    if usage.cached or usage.cache_write:
        result.saved_usd = _add(result.saved_usd, tariff.saved_by_cache_usd(usage, tier))
    return cost_usd


def _add(total: T | None, more: T | None) -> T | None:
    return total if more is None else more if total is None else total + more
