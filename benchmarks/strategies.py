"""The strategies against each other: what waiting in parallel saves, and what each costs in processor time."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks import project
from benchmarks.fast_server import fast_server

WAITING = ("sequential", "threads", "to_thread", "asyncio", "processes")
ROUNDS = 3
# Enough rows for about ten seconds or more, so that starting does not count for much.
BUSY = {"sequential": 8_000, "threads": 10_000, "to_thread": 10_000, "asyncio": 100_000, "processes": 200_000}


def main() -> None:
    """Measure both."""
    waiting()
    busy()


def waiting() -> None:
    """50 rows, 200 ms each, 50 in flight: `runner compare` itself, on the embedded simulator."""
    with tempfile.TemporaryDirectory() as name:
        job = project.make(Path(name), 50, "http://127.0.0.1")
        (Path(name) / "configs" / "endpoints.yaml").write_text("bench: {simulator: {latency_s: 0.2}}\n")
        command = [sys.executable, "-m", "runner", "compare", str(job), "--strategies", ",".join(WAITING), "--quiet"]
        command += ["--n", "50", "--concurrency", "50", "--rounds", str(ROUNDS), "--json"]
        for each in json.loads(project.measured(command)[1])["contestants"]:
            print(f"{each['name']:<11} {each['total_s']:6.2f} s  {each['speedup']:5.1f} times `sequential`")


def busy() -> None:
    """No delay, 64 in flight: rows per second once started, and processor time, of whole runs in turn."""
    speeds: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, fast_server(Path(name) / "nginx") as base_url:
        for _ in range(ROUNDS):
            for strategy, rows in BUSY.items():
                job = project.make(Path(name), rows, base_url)
                cost, record = project.runner(job, "--set", "limits.concurrency=64", "--strategy", strategy)
                assert record["summary"]["ok"] == rows
                speeds.setdefault(strategy, []).append(rows / record["sessions"][-1]["wall_s"])
                costs.setdefault(strategy, []).append(cost.cpu_s / rows * 1000)
    for strategy in BUSY:
        each = ", ".join(f"{speed:,.0f}" for speed in speeds[strategy])
        cpu = statistics.median(costs[strategy])
        print(f"{strategy:<11} {BUSY[strategy]:7,} rows  {each} rows/s  {cpu:.3f} CPU-s per 1,000")
    ratios = [many / one for many, one in zip(speeds["processes"], speeds["asyncio"], strict=True)]
    print(f"processes: {', '.join(f'{ratio:.2f}' for ratio in ratios)} times `asyncio`")
