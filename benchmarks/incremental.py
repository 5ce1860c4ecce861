"""How soon a run begins to send when 1,000,000 rows are known and 1,000 at the end of the input are new."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks import project
from benchmarks.reuse import PART, SCHEMA, part_table
from runner.load import Job, load_job
from runner.manifest import Manifest, Session, encode_schema
from runner.plan import make_plan
from runner.records import Item
from runner.simulator import SimulatorProcess, SimulatorSettings
from runner.snapshot import as_run

KNOWN, NEW, RUNS = 1_000_000, 1_000, 20
ROUNDS = 3


def main() -> None:
    """Seconds from the command's start to the first request at the server; wanted: 20 s, peak under 400 MB."""
    with (
        tempfile.TemporaryDirectory() as name,
        SimulatorProcess(SimulatorSettings.model_validate({"latency_s": 0.05})) as server,
    ):
        folder = Path(name)
        job = project.make(folder, KNOWN + NEW, server.base_url)
        began = time.perf_counter()
        write_runs(folder, load_job(job))
        print(f"{RUNS} runs with {KNOWN:,} answers made in {time.perf_counter() - began:.0f} s", flush=True)
        runs = set(_base(folder).iterdir())
        for by in ("id", "content"):
            for _ in range(ROUNDS):
                print(f"by {by}: {_measure(job, by, server)}", flush=True)
                for made in set(_base(folder).iterdir()) - runs:
                    if made.is_dir() and not made.is_symlink():
                        shutil.rmtree(made)
            print(f"reading the input alone: {_reading(job):.1f} s", flush=True)


def _base(folder: Path) -> Path:
    return folder / "outputs" / "bench"


def write_runs(folder: Path, job: Job) -> None:
    """Write what runs over the first rows would have left: as many rows each."""
    plan = make_plan(job)
    rows = iter(plan.rows())
    for run in range(RUNS):
        where = _base(folder) / f"202601{run + 1:02d}T000000Z"
        where.mkdir(parents=True)
        began = f"2026-01-{run + 1:02d}T00:00:00.000Z"
        for part in range(KNOWN // RUNS // PART):
            requests = [plan.builder.build(row) for row in islice(rows, PART) if isinstance(row, Item)]
            path = where / f"part-{part:05d}.parquet"
            pq.write_table(part_table(requests, SCHEMA, run), path, compression="zstd")
        Manifest(
            run=where.name, job="bench", status="finished", rehearsal=False, root=str(folder), job_file=str(job.path),
            overrides={}, spec=as_run(job), input={"rows": KNOWN // RUNS, "files": []}, columns={},
            arrow_schema=encode_schema(SCHEMA), copied_columns=["id", "author", "text"],
            summary={"rows": KNOWN // RUNS, "failed": 0},
            sessions=[Session(began, finished_at=began, ended="finished")],
        ).save(where)  # fmt: skip


def _measure(job: Path, by: str, server: SimulatorProcess) -> str:
    """Run the job as a process of its own."""
    server.reset_stats()
    command = [sys.executable, "-m", "runner", "run", str(job), "--quiet", "--set", f"incremental={by}"]
    began = time.perf_counter()
    process = subprocess.Popen(command)
    first_s = None
    while first_s is None:
        if server.stats()["requests"]:
            first_s = time.perf_counter() - began
        elif process.poll() is not None:
            sys.exit(f"error: the run ended with {process.returncode} before it sent anything")
        time.sleep(0.05)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    whole_s = time.perf_counter() - began
    requests = server.stats()["requests"]
    assert (process.returncode, requests) == (0, NEW), f"exit code {process.returncode}, {requests} requests"
    return (
        f"first request after {first_s:.1f} s, all {NEW:,} done after {whole_s:.1f} s, "
        f"{used.ru_utime + used.ru_stime:.1f} s of processor time, peak {used.ru_maxrss / 1024:.0f} MB"
    )


def _reading(job: Path) -> float:
    plan = make_plan(load_job(job))
    began = time.perf_counter()
    for _ in plan.rows():
        pass
    return time.perf_counter() - began
