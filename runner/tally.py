"""Live counters of a run: what the progress line shows while the truth grows on disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from runner.records import Result


@dataclass(slots=True)
class Tally:
    """Counts since this process started working on the run.

    Attributes:
        done: results stored, failed ones included.
        attempts: HTTP exchanges begun.
        busy_s: seconds that requests spent with the server, summed over all of them.
        throttled: requests waiting for a limit now.
        backing_off: requests waiting before another attempt now.
    """

    done: int = 0
    failed: int = 0
    attempts: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    throttled: int = 0
    backing_off: int = 0
    rate_limited: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    cost_known: bool = True
    busy_s: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)

    def count(self, result: Result) -> None:
        """Count a stored result."""
        self.done += 1
        if result.status != "ok":
            self.failed += 1
            kind = result.error_type or "unknown"
            self.errors[kind] = self.errors.get(kind, 0) + 1
        self.input_tokens += result.input_tokens or 0
        self.output_tokens += result.output_tokens or 0
        if result.cost_usd is not None:
            self.cost_usd += result.cost_usd
        elif result.attempts:
            self.cost_known = False
