"""Counts what the server saw, so that a test can judge a client from the server's side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from runner.simulator.bodies import Bodies


class Tokens(NamedTuple):
    """What one answer is charged for.

    Attributes:
        input: all that was read.
        output: all that was written.
        cached: the part of the input that was read from the cache.
        cache_write: the part of the input that was written to the cache.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0

    def plus(self, other: Tokens) -> Tokens:
        """Both together."""
        return Tokens(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            self.cache_write + other.cache_write,
        )


NOTHING = Tokens()


class Counts:
    """What all requests, or those of one account, came to."""

    def __init__(self) -> None:
        self.requests = 0
        self.statuses: Counter[int] = Counter()
        self.input_tokens = 0
        self.output_tokens = 0
        self.cached_tokens = 0
        self.cache_write_tokens = 0

    def answered(self, status: int, tokens: Tokens) -> None:
        """A request was answered, whether well or not."""
        self.statuses[status] += 1
        self.input_tokens += tokens.input
        self.output_tokens += tokens.output
        self.cached_tokens += tokens.cached
        self.cache_write_tokens += tokens.cache_write

    def snapshot(self) -> dict[str, Any]:
        """The counters as `GET /stats` shows them."""
        return {
            "requests": self.requests,
            "statuses": {str(status): n for status, n in sorted(self.statuses.items())},
            "tokens": {
                "input": self.input_tokens,
                "output": self.output_tokens,
                "cached": self.cached_tokens,
                "cache_write": self.cache_write_tokens,
            },
        }


class Stats:
    """The counters behind `GET /stats`, which itself is not counted.

    A request ends with a status, or abandoned, or cut (counted among the faults only). An answer is a 200 that a client
    can use: `invalid_json`, `invalid_reply`, `html`, `sse`, `null_content` and `no_choices` are none. Bodies count once
    they pass key, form, quota and limits, so that draws do not depend on the timing of 429s. The tokens of a 200 are
    counted even where a client cannot use it (not those of `invalid_json`, `html` and `sse`); cached ones and those
    written to the cache are part of the input. A request is its account's once its key is known. The
    bodies of batches count among the others, with their answers and faults; see `batches.py` for what else is counted.

    Args:
        accounts: the names of the accounts.
    """

    def __init__(self, accounts: Iterable[str] = ()) -> None:
        self._names = tuple(accounts)
        self.in_flight = 0
        self.connections = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything but what is in flight, and what was seen of every body: draws begin anew."""
        self.connections = 0
        self.bodies = Bodies()
        self.all = Counts()
        self.accounts = {name: Counts() for name in self._names}
        self.faults: Counter[str] = Counter()
        self.abandoned = 0
        self.max_in_flight = self.in_flight
        self.first_request_at: float | None = None
        self.last_request_at: float | None = None

    def began(self, now: float) -> None:
        """A request arrived."""
        self.all.requests += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        if self.first_request_at is None:
            self.first_request_at = now
        self.last_request_at = now

    def ended(self) -> None:
        """A request is over, in whatever way."""
        self.in_flight -= 1

    def snapshot(self) -> dict[str, Any]:
        """The counters as `GET /stats` shows them. Times are the event loop's, in seconds."""
        return {
            **self.all.snapshot(),
            "accounts": {name: counts.snapshot() for name, counts in self.accounts.items()},
            "faults": dict(sorted(self.faults.items())),
            "abandoned": self.abandoned,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "distinct_bodies": len(self.bodies),
            "answered_more_than_once": self.bodies.answered_more_than_once,
            "extra_answers": self.bodies.extra_answers,
            "first_request_at": self.first_request_at,
            "last_request_at": self.last_request_at,
            "connections": self.connections,
        }
