"""Draws the fault that one attempt meets, and how long its answer takes."""

from __future__ import annotations

from math import exp, log
from statistics import NormalDist

from runner.simulator.draws import Draws
from runner.simulator.settings import BY_BODY, Faults, Latency

_NORMAL = NormalDist()
_Z95 = _NORMAL.inv_cdf(0.95)


class FaultTable:
    """The probabilities of `Faults`, laid end to end."""

    def __init__(self, faults: Faults) -> None:
        self._bad_request = faults.bad_request
        self._steps: list[tuple[float, str]] = []
        end = 0.0
        for kind, probability in faults:
            if probability and kind not in BY_BODY:
                end += probability
                self._steps.append((end, kind))

    def permanent(self, digest: bytes) -> bool:
        """Whether the body is refused for good: the same for every attempt."""
        return self._bad_request > 0 and Draws(digest, "bad_request").unit() < self._bad_request

    def draw(self, draws: Draws) -> str | None:
        """The kind of fault this attempt meets, or None. Takes one number, whatever the outcome."""
        drawn = draws.unit()
        for end, kind in self._steps:
            if drawn < end:
                return kind
        return None


def latency_of(latency: float | Latency, draws: Draws) -> float:
    """Seconds until the answer. Takes one number, whatever the settings."""
    drawn = draws.unit()
    if not isinstance(latency, Latency):
        return latency
    if not latency.median:
        return 0.0
    spread = log(latency.p95 / latency.median) / _Z95
    return latency.median * exp(spread * _NORMAL.inv_cdf(max(drawn, 1e-12)))
