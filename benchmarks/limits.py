"""How much of a rate limit is used, and how many requests are refused, as the server counts them, in real time."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from benchmarks import project
from runner.simulator import SimulatorProcess, SimulatorSettings

RPM = 600
POOL = {"a": 300, "b": 600}
MINUTES = 1.5


def main() -> None:
    """600 requests per minute, enforced by the server in slices of a second; then two endpoints of 300 and 600."""
    rows = int(RPM * MINUTES)
    settings = SimulatorSettings(latency_s=0.2, requests_per_minute=RPM)
    with tempfile.TemporaryDirectory() as name, SimulatorProcess(settings) as simulator:
        job = project.make(Path(name), rows, simulator.base_url)
        project.runner(job, "--set", f"limits={{concurrency: 32, requests_per_minute: {RPM}}}")
        _say("one endpoint", simulator, RPM)
    pool()


def pool() -> None:
    """Two endpoints share the work, each with a key and limits of its own that the server enforces."""
    both = sum(POOL.values())
    accounts = [{"key": f"key-{name}", "requests_per_minute": rpm} for name, rpm in POOL.items()]
    settings = SimulatorSettings.model_validate({"latency_s": 0.2, "accounts": accounts})
    with tempfile.TemporaryDirectory() as name, SimulatorProcess(settings) as simulator:
        job = project.make(Path(name), int(both * MINUTES), simulator.base_url)
        endpoints = {
            each: {"base_url": simulator.base_url, "api_key_env": f"KEY_{each}", "limits": {"requests_per_minute": rpm}}
            for each, rpm in POOL.items()
        }
        (Path(name) / "configs" / "endpoints.yaml").write_text(json.dumps(endpoints))
        os.environ |= {f"KEY_{each}": f"key-{each}" for each in POOL}
        project.runner(job, "--set", f"endpoint={list(POOL)}")
        _say("endpoints of 300 and 600", simulator, both)


def _say(what: str, simulator: SimulatorProcess, rpm: int) -> None:
    stats = simulator.stats()
    seconds = stats["last_request_at"] - stats["first_request_at"]
    refused = stats["statuses"].get("429", 0)
    used = (stats["requests"] - 1) / seconds * 60 / rpm
    print(f"{what}: {stats['requests']} requests in {seconds:.1f} s: {used:.1%} of the limit used, {refused} refused")
