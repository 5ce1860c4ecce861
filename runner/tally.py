"""Live counters of a run: what the progress line shows while the truth grows on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from runner.records import Result


@dataclass(slots=True)
class Tally:
    """Counts since this process started working on the run. Any thread may count.

    Attributes:
        done: results stored, failed ones included.
        attempts: requests sent: HTTP exchanges, and `submitted` in batches, which the limits of rates are not for.
        busy_s: seconds that requests spent with the server, summed over all of them.
        throttled: requests waiting for a limit now.
        backing_off: requests waiting before another attempt now; `no_room` of them because flex is full.
        batched: requests in unfinished batches now.
        table: says how each unfinished batch is, a line for each.
        batch_tokens: those of the input and output tokens that results from batches took.
        cost_usd: what is known of the cost; all of it while `cost_known`.
    """

    done: int = 0
    failed: int = 0
    attempts: int = 0
    submitted: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    throttled: int = 0
    backing_off: int = 0
    no_room: int = 0
    rate_limited: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    batch_tokens: int = 0
    cost_usd: float = 0.0
    cost_known: bool = True
    busy_s: float = 0.0
    batched: int = 0
    table: Callable[[], list[str]] = list
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def asks(self) -> None:
        """A request begins to wait for a limit."""
        with self._lock:
            self.throttled += 1

    def asked(self) -> None:
        """It waits no longer."""
        with self._lock:
            self.throttled -= 1

    def sends(self) -> None:
        """An HTTP exchange begins."""
        with self._lock:
            self.attempts += 1
            self.in_flight += 1
            if self.in_flight > self.max_in_flight:
                self.max_in_flight = self.in_flight

    def sent(self, latency_s: float, *, rate_limited: bool = False) -> None:
        """It is over."""
        with self._lock:
            self.in_flight -= 1
            self.busy_s += latency_s
            self.rate_limited += rate_limited

    def backs_off(self, by: int, *, no_room: bool = False) -> None:
        """A request begins (1) or ends (-1) to wait before another attempt; perhaps because flex has no room."""
        with self._lock:
            self.backing_off += by
            self.no_room += by * no_room

    def count(self, result: Result) -> None:
        """Count a stored result."""
        self.done += 1
        if result.status != "ok":
            self.failed += 1
        self.input_tokens += result.input_tokens or 0
        self.output_tokens += result.output_tokens or 0
        if result.batch is not None:
            self.batch_tokens += (result.input_tokens or 0) + (result.output_tokens or 0)
        if result.cost_usd is not None:
            self.cost_usd += result.cost_usd
        elif result.paid:
            self.cost_known = False

    def exchanges(self) -> Exchanges:
        """Return the counters that grow where requests are sent."""
        return (
            self.attempts, self.in_flight, self.throttled, self.backing_off, self.no_room, self.rate_limited,
            self.busy_s,
        )  # fmt: skip

    def add(self, before: Exchanges, now: Exchanges) -> None:
        """Count what another process has done since it last said so."""
        with self._lock:
            self.attempts += now[0] - before[0]
            self.in_flight += now[1] - before[1]
            self.throttled += now[2] - before[2]
            self.backing_off += now[3] - before[3]
            self.no_room += now[4] - before[4]
            self.rate_limited += now[5] - before[5]
            self.busy_s += now[6] - before[6]
            self.max_in_flight = max(self.max_in_flight, self.in_flight)


Exchanges = tuple[int, int, int, int, int, int, float]
