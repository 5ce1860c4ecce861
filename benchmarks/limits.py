"""How much of a rate limit is used, and how many requests are refused, as the server counts them, in real time."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import project
from runner.simulator import SimulatorProcess, SimulatorSettings

RPM = 600
MINUTES = 1.5


def main() -> None:
    """600 requests per minute, enforced by the server in slices of a second."""
    rows = int(RPM * MINUTES)
    settings = SimulatorSettings(latency_s=0.2, requests_per_minute=RPM)
    with tempfile.TemporaryDirectory() as name, SimulatorProcess(settings) as simulator:
        job = project.make(Path(name), rows, simulator.base_url)
        project.runner(job, "--set", f"limits={{concurrency: 32, requests_per_minute: {RPM}}}")
        stats = simulator.stats()
    seconds = stats["last_request_at"] - stats["first_request_at"]
    refused = stats["statuses"].get("429", 0)
    used = (stats["requests"] - 1) / seconds * 60 / RPM
    print(f"{stats['requests']} requests in {seconds:.1f} s: {used:.1%} of the limit used, {refused} refused with 429")
