"""Two jobs of the service and a run by hand at one endpoint: how much of its limit they use, in real time."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import project
from runner.simulator import SimulatorProcess, SimulatorSettings

RPM = 1_800
ROWS = 900
"""Of each: together a minute and a half of the limit."""


def main() -> None:
    settings = SimulatorSettings(latency_s=0.2, requests_per_minute=RPM)
    with tempfile.TemporaryDirectory() as name, SimulatorProcess(settings) as simulator:
        job = project.make(Path(name), ROWS, simulator.base_url)
        endpoint = {"base_url": simulator.base_url, "limits": {"requests_per_minute": RPM, "concurrency": 32}}
        (Path(name) / "configs" / "endpoints.yaml").write_text(json.dumps({"bench": endpoint}))
        command = [sys.executable, "-m", "runner"]
        for number in range(2):
            words = ["submit", str(job), "--set", f"name=queued{number}"]
            subprocess.run([*command, *words], cwd=name, check=True, capture_output=True)
        words = ["serve", "--until-idle", "--workers", "2"]
        with subprocess.Popen([*command, *words], cwd=name, stderr=subprocess.DEVNULL):
            project.runner(job)
        stats = simulator.stats()
    seconds = stats["last_request_at"] - stats["first_request_at"]
    used = (stats["requests"] - 1) / seconds * 60 / RPM
    print(
        f"two jobs under `serve` and a `run`: {stats['requests']} requests in {seconds:.1f} s: {used:.1%} of the limit "
        f"used, {stats['statuses'].get('429', 0)} refused"
    )
