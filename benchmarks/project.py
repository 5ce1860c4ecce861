"""A small project to run: data of any size, a job, and an endpoint at a given address."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JOB = """\
name: bench
input: {path: rows.csv, id: id}
prompt: {system: You sort messages., user: "Sort this message: {{ text }}"}
output: {labels: [machine learning, physics, other]}
model: gpt-6-luna
parameters: {max_output_tokens: 50}
endpoint: bench
"""
WORDS = ("the", "of", "model", "data", "energy", "field", "learning", "proof", "galaxy", "market", "cell", "number")


@dataclass(frozen=True)
class Cost:
    """What a process took: seconds of wall time and processor time, and megabytes at its peak."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def make(folder: Path, rows: int, base_url: str) -> Path:
    """Write a project with `rows` rows and return its job file."""
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / "configs" / "endpoints.yaml").write_text(f"bench: {{base_url: '{base_url}'}}\n")
    (folder / "job.yaml").write_text(JOB)
    with open(folder / "rows.csv", "w", encoding="utf-8") as file:
        file.write("id,author,text\n")
        for number in range(rows):
            text = " ".join(WORDS[(number * 7 + step * step) % len(WORDS)] for step in range(20))
            file.write(f"{number:09d},someone{number % 97},message {number}: {text}\n")
    return folder / "job.yaml"


def runner(job: Path, *options: str) -> tuple[Cost, dict[str, Any]]:
    """Run a job as a process of its own; return what it cost, and its record."""
    cost, record = measured([sys.executable, "-m", "runner", "run", str(job), "--json", "--quiet", *options])
    return cost, json.loads(record)


def measured(command: list[str]) -> tuple[Cost, str]:
    """Run a command and return what it cost, and what it printed. Its own children are not counted."""
    began = time.perf_counter()
    launcher = (
        "import json, resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "sys.stderr.write(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))\n"
        "sys.stdout.buffer.write(done.stdout)\n"
        "sys.exit(done.returncode)\n"
    )
    process = subprocess.run([sys.executable, "-c", launcher, *command], capture_output=True, check=False)
    if process.returncode != 0:
        sys.exit(f"error: {' '.join(command)} ended with {process.returncode}: {process.stderr.decode()[-2000:]}")
    cpu_s, peak_mb = json.loads(process.stderr.decode().splitlines()[-1])
    return Cost(time.perf_counter() - began, cpu_s, peak_mb), process.stdout.decode()


def open_files(wanted: int) -> None:
    """Allow this process and its children `wanted` open files, where the system lets them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
