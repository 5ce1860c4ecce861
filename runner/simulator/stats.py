"""Counts what the server saw, so that a test can judge a client from the server's side."""

from __future__ import annotations

from collections import Counter
from typing import Any

from runner.simulator.bodies import Bodies


class Stats:
    """The counters behind `GET /stats`, which itself is not counted.

    A request ends with a status, or abandoned, or cut (counted among the faults only). An answer is a 200 that a client
    can use: `invalid_json`, `invalid_reply`, `html`, `sse`, `null_content` and `no_choices` are none. Bodies count once
    they pass key, form, quota and limits, so that draws do not depend on the timing of 429s.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.connections = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything but what is in flight, and what was seen of every body: draws begin anew."""
        self.connections = 0
        self.bodies = Bodies()
        self.requests = 0
        self.statuses: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.abandoned = 0
        self.max_in_flight = self.in_flight
        self.input_tokens = 0
        self.output_tokens = 0
        self.first_request_at: float | None = None
        self.last_request_at: float | None = None

    def began(self, now: float) -> None:
        """A request arrived."""
        self.requests += 1
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
            "requests": self.requests,
            "statuses": {str(status): n for status, n in sorted(self.statuses.items())},
            "faults": dict(sorted(self.faults.items())),
            "abandoned": self.abandoned,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "distinct_bodies": len(self.bodies),
            "answered_more_than_once": self.bodies.answered_more_than_once,
            "extra_answers": self.bodies.extra_answers,
            "tokens": {"input": self.input_tokens, "output": self.output_tokens},
            "first_request_at": self.first_request_at,
            "last_request_at": self.last_request_at,
            "connections": self.connections,
        }
