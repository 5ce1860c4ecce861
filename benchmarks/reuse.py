"""Finding out which of 1,000,000 rows earlier runs have answered: 990,000 of them.

`python -m benchmarks.reuse WHAT FOLDER` does one thing in a process of its own, so that its memory can be told.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import project
from runner.earlier import NAME, Earlier
from runner.load import load_job
from runner.output import RUNNER_FIELDS
from runner.plan import Plan, make_plan
from runner.records import Item, Request

T = TypeVar("T")

ROWS, ANSWERED, RUNS, PART = 1_000_000, 990_000, 3, 5_000
BATCH = 1_000
SHUFFLED = 20_000
SCHEMA = pa.schema([*(pa.field(name, pa.string()) for name in ("id", "author", "text", "label")), *RUNNER_FIELDS])


def main() -> None:
    """Rows per second of reading the input, making the requests and looking them up; wanted: 50,000, under 400 MB."""
    with tempfile.TemporaryDirectory() as name:
        job = project.make(Path(name), ROWS, "http://localhost:1")
        began = time.perf_counter()
        write_runs(Path(name), make_plan(load_job(job)))
        print(f"{RUNS} runs with {ANSWERED:,} answers made in {time.perf_counter() - began:.0f} s")
        for what in ("index", "requests", "find", "find", "find", "answers", "shuffled"):
            cost, said = project.measured([sys.executable, "-m", "benchmarks.reuse", what, name])
            print(f"{said.strip()}, peak {cost.peak_mb:.0f} MB")
        print(f"the index has {(base(Path(name)) / NAME).stat().st_size / 1e6:.0f} MB")


def base(folder: Path) -> Path:
    return folder / "outputs" / "bench"


def write_runs(folder: Path, plan: Plan) -> None:
    """Write what runs over the first rows would have left."""
    for number, items in enumerate(_batches(plan.rows(), PART)):
        if number * PART >= ANSWERED:
            return
        run, part = divmod(number, ANSWERED // RUNS // PART)
        where = base(folder) / f"2026010{run + 1}T000000Z"
        if part == 0:
            where.mkdir(parents=True)
            (where / "run.json").write_text("{}")
        requests = [plan.builder.build(item) for item in items if isinstance(item, Item)]
        pq.write_table(part_table(requests, SCHEMA, run), where / f"part-{number:05d}.parquet", compression="zstd")


def part_table(requests: list[Request], schema: pa.Schema, run: int) -> pa.Table:
    rows = len(requests)
    now = 1_767_225_600_000_000 + run * 86_400_000_000
    columns = {name: [request.item.fields[name] for request in requests] for name in ("id", "author", "text")}
    columns |= {
        "label": ["other"] * rows,
        "_index": [request.item.index for request in requests],
        "_id": columns["id"],
        "_model": ["gpt-6-luna"] * rows,
        "_status": ["ok"] * rows,
        "_finish_reason": ["stop"] * rows,
        "_raw": ['{"label": "other"}'] * rows,
        "_attempts": [1] * rows,
        "_finished_at": [now + request.item.index for request in requests],
        "_input_tokens": [40] * rows,
        "_output_tokens": [5] * rows,
        "_cost_usd": [6.5e-6] * rows,
        "_request_id": [f"req_{request.fingerprint[:24]}" for request in requests],
        "_endpoint": ["bench"] * rows,
        "_fingerprint": [request.fingerprint for request in requests],
    }  # fmt: skip
    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(rows, f.type) for f in schema]
    return pa.table(arrays, schema=schema)


def _requests(folder: Path) -> Iterator[Request]:
    plan = make_plan(load_job(folder / "job.yaml"))
    return (plan.builder.build(item) for item in plan.rows() if isinstance(item, Item))


def _batches(stream: Iterable[T], size: int) -> Iterator[list[T]]:
    stream = iter(stream)
    while batch := list(islice(stream, size)):
        yield batch


def _one(what: str, folder: Path) -> str:
    """Do one thing; return what to say of it."""
    began = time.perf_counter()
    with Earlier(base(folder)) as earlier:
        earlier.update()
        updating = time.perf_counter() - began
        if what == "index":
            return f"index of {ANSWERED:,} answers made in {updating:.1f} s"
        requests: Iterable[Request] = _requests(folder)
        if what == "shuffled":
            draws = random.Random(1)
            chosen = set(draws.sample(range(ROWS), SHUFFLED))
            requests = [request for number, request in enumerate(requests) if number in chosen]
            draws.shuffle(requests)
        began, used = time.perf_counter(), time.process_time()
        rows = found = 0
        for batch in _batches(requests, BATCH):
            fingerprints = [request.fingerprint for request in batch]
            rows += len(batch)
            if what == "requests":
                continue
            look_up = earlier.find if what == "find" else earlier.answers
            found += sum(place is not None for place in look_up(fingerprints))
        seconds, used = time.perf_counter() - began, time.process_time() - used
    expected = {"requests": 0, "shuffled": found}.get(what, ANSWERED)
    assert found == expected, f"{found} of {expected}"
    name = {
        "requests": "requests made, nothing looked up",
        "find": "found out",
        "answers": "found out, and the answers read",
        "shuffled": "found out in random order, and the answers read",
    }[what]
    speed = f"{rows / seconds:,.0f} rows/s ({used / rows * 1e6:.1f} µs of processor time each)"
    return f"{name}: {speed}, after {updating:.2f} s to see that the index is up to date"


if __name__ == "__main__":
    print(_one(sys.argv[1], Path(sys.argv[2])))
