"""Enforces requests and tokens per minute, second by second, as the real API does.

A limit is a bucket that holds one second's worth: a burst of a whole minute's requests is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil


class Bucket:
    """A token bucket that holds one second's worth of a per-minute rate, and at least 1. It starts full.

    Args:
        per_minute: how much flows in per minute.
        now: the time, in seconds.
    """

    def __init__(self, per_minute: int, now: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._rate = per_minute / 60
        self._capacity = max(self._rate, 1.0)
        self._now = now
        self._level = self._capacity
        self._updated = now()

    def wait_s(self, amount: int) -> float:
        """Seconds until `amount` can be taken; 0 when it can be taken now.

        More than the bucket holds can be taken when it is full; the level then goes below zero.
        """
        self._refill()
        # The slack forgives what adding up thousandths of a second costs in binary.
        missing = min(amount, self._capacity) - self._level
        return missing / self._rate if missing > 1e-6 * self._capacity else 0.0

    def take(self, amount: int) -> None:
        """Take what `wait_s` allowed."""
        self._level -= amount

    @property
    def remaining(self) -> int:
        """How much can be taken now. It counts the bucket, not the minute, so that 0 means refused."""
        self._refill()
        return max(0, int(self._level + 1e-6))

    @property
    def reset_s(self) -> float:
        """Seconds until the bucket is full again."""
        self._refill()
        return (self._capacity - self._level) / self._rate

    def _refill(self) -> None:
        now = self._now()
        self._level = min(self._capacity, self._level + (now - self._updated) * self._rate)
        self._updated = now


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A request came too early.

    Attributes:
        limit: `requests` or `tokens`.
        per_minute: that limit.
        retry_after_s: seconds until the same request would be let through, if nothing else came.
    """

    limit: str
    per_minute: int
    retry_after_s: float


class Limits:
    """The limits of one account.

    Args:
        requests_per_minute: None for no limit.
        tokens_per_minute: None for no limit.
        now: the time, in seconds.
    """

    def __init__(
        self, requests_per_minute: int | None, tokens_per_minute: int | None, now: Callable[[], float]
    ) -> None:
        self._buckets: dict[str, Bucket] = {}
        if requests_per_minute is not None:
            self._buckets["requests"] = Bucket(requests_per_minute, now)
        if tokens_per_minute is not None:
            self._buckets["tokens"] = Bucket(tokens_per_minute, now)

    def admit(self, tokens: int) -> Exceeded | None:
        """Let one request through, or say why not. A refused request uses up nothing.

        Args:
            tokens: what the request may use: its input and the most output it asks for.
        """
        amounts = {"requests": 1, "tokens": tokens}
        for limit, bucket in self._buckets.items():
            if wait_s := bucket.wait_s(amounts[limit]):
                return Exceeded(limit, bucket.per_minute, wait_s)
        for limit, bucket in self._buckets.items():
            bucket.take(amounts[limit])
        return None

    def headers(self) -> dict[str, str]:
        """The `x-ratelimit-*` headers; none for a limit that is not set."""
        headers = {}
        for limit, bucket in self._buckets.items():
            headers[f"x-ratelimit-limit-{limit}"] = str(bucket.per_minute)
            headers[f"x-ratelimit-remaining-{limit}"] = str(bucket.remaining)
            headers[f"x-ratelimit-reset-{limit}"] = duration(bucket.reset_s)
        return headers


def duration(seconds: float) -> str:
    """A duration as the API writes it: `0s`, `120ms`, `1s`, `8.64s`, `6m0s`, `1h0m0s`. Rounded up to milliseconds."""
    milliseconds = ceil(round(seconds * 1000, 6))
    if milliseconds <= 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{milliseconds / 1000:g}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def retry_headers(seconds: float) -> dict[str, str]:
    """`Retry-After` in seconds and `retry-after-ms`, rounded up, so that obeying them is enough."""
    milliseconds = ceil(round(seconds * 1000, 6))
    return {"retry-after": f"{milliseconds / 1000:g}", "retry-after-ms": str(milliseconds)}
