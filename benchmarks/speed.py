"""How fast the whole command is: against a bare SDK loop without delay, and against the ideal with it."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import project
from benchmarks.fast_server import fast_server
from benchmarks.slow_server import slow_server

ROUNDS = 3
ROWS = 200_000
BARE_ROWS = 3_000
CONCURRENCY = 64


def main() -> None:
    """Rows per second and processor time of `runner run`, in turn with a bare `AsyncOpenAI` loop."""
    with tempfile.TemporaryDirectory() as name, fast_server(Path(name) / "nginx") as base_url:
        job = project.make(Path(name), ROWS, base_url)
        ratios, cpus = [], []
        for _ in range(ROUNDS):
            bare = json.loads(
                project.measured(
                    [sys.executable, "-m", "benchmarks.bare_sdk", base_url, str(BARE_ROWS), str(CONCURRENCY)]
                )[1]
            )
            cost, record = project.runner(job, "--set", f"limits.concurrency={CONCURRENCY}")
            assert record["summary"]["ok"] == ROWS
            whole = ROWS / cost.wall_s
            session = ROWS / record["sessions"][-1]["wall_s"]
            ratios.append(whole / bare["rows_per_s"])
            cpus.append(cost.cpu_s / ROWS * 1000)
            print(
                f"bare SDK {bare['rows_per_s']:6.0f} rows/s, {bare['cpu_s_per_1000']:.2f} CPU-s per 1,000 · "
                f"runner run {whole:6.0f} rows/s ({session:.0f} once started), {cpus[-1]:.3f} CPU-s per 1,000 · "
                f"ratio {ratios[-1]:.1f}"
            )
        print(
            f"median: {statistics.median(ratios):.1f} times the rows/s, {statistics.median(cpus):.3f} CPU-s per 1,000"
        )


def latency() -> None:
    """Wall time against the ideal with replies of 200 ms and 256 in flight."""
    rows, concurrency = 25_600, 256
    project.open_files(4096)
    with tempfile.TemporaryDirectory() as name, slow_server(0.2) as base_url:
        job = project.make(Path(name), rows, base_url)
        for _ in range(ROUNDS):
            _, record = project.runner(job, "--set", f"limits.concurrency={concurrency}")
            wall_s = record["sessions"][-1]["wall_s"]
            ideal_s = rows * 0.2 / concurrency
            share = wall_s / ideal_s
            print(f"{rows} rows, {concurrency} in flight: {wall_s:.2f} s, ideal {ideal_s:.2f} s, {share:.3f} of it")
