"""Peak memory of `runner run` at 20,000 and at 1,000,000 rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks import project
from benchmarks.fast_server import fast_server

FEW, MANY = 20_000, 1_000_000


def main() -> None:
    """Peak resident memory must not grow with the dataset."""
    peaks = {}
    with tempfile.TemporaryDirectory() as name, fast_server(Path(name) / "nginx") as base_url:
        for rows in (FEW, MANY):
            job = project.make(Path(name), rows, base_url)
            cost, record = project.runner(job, "--set", "limits.concurrency=64")
            assert record["summary"]["ok"] == rows
            peaks[rows] = cost.peak_mb
            print(f"{rows:9,} rows: peak {cost.peak_mb:.0f} MB, {rows / cost.wall_s:,.0f} rows/s")
    print(f"ratio {peaks[MANY] / peaks[FEW]:.3f}")
