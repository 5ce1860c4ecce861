"""Packing 1,000,000 rows into batches, and collecting their answers; files are moved, and no server is asked.

`python -m benchmarks.batches WHAT FOLDER` does one thing in a process of its own, so that its memory can be told.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import accumulate
from pathlib import Path

from benchmarks import project
from runner.batches import ledger, rows
from runner.batches.collecting import Collector
from runner.batches.desk import BatchEndpoint, Desk
from runner.batches.ledger import Ledger
from runner.batches.office import Errand, Home, Office
from runner.batches.reading import Reader
from runner.budget import NOTHING
from runner.call import Estimate
from runner.clock import SystemClock
from runner.errors import PermanentError
from runner.event_loop import run_loop
from runner.load import load_job
from runner.openai_batches import BatchState, RemoteFile
from runner.parts import results
from runner.pipeline import Pipeline
from runner.plan import Plan, make_plan
from runner.records import Result
from runner.stop import Stop
from runner.store import ResultStore
from runner.strategies.batch_api import BatchApiOptions, BatchApiStrategy
from runner.tally import Tally

ROWS = 1_000_000
LABELS = ("machine learning", "physics", "other")
JOB = f"""\
name: bench
input: {{path: papers.csv, id: id}}
prompt:
  system: You sort papers by their field.
  user: |-
    Title: {{{{ title }}}}
    Abstract: {{{{ abstract }}}}
output: {{labels: [{", ".join(LABELS)}]}}
model: gpt-6-luna
parameters: {{max_output_tokens: 50}}
endpoint: bench
strategy: batch_api
"""


def main() -> None:
    """Rows per second and peak memory; wanted: 20,000 rows/s for each, under 300 MB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, ROWS)
        for what in ("pack", "answer", "collect"):
            cost, said = project.measured([sys.executable, "-m", "benchmarks.batches", what, name])
            if said:
                print(f"{said.strip()}, peak {cost.peak_mb:.0f} MB")


def make(folder: Path, count: int) -> None:
    """Write a project with `count` rows like papers of arXiv, with abstracts of about 1,000 characters."""
    project.make(folder, 0, "http://localhost:1")
    (folder / "job.yaml").write_text(JOB)
    draws = random.Random(1)
    letters = "eeeeaaiioottnnsshhrrdlcumwfgypb"
    words = ["".join(draws.choices(letters, k=draws.randint(2, 11))) for _ in range(5_000)]
    frequencies = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
    with open(folder / "papers.csv", "w", encoding="utf-8") as file:
        file.write("id,title,abstract\n")
        for number in range(count):
            drawn = draws.choices(words, cum_weights=frequencies, k=150)
            file.write(f'{number // 10_000:04d}.{number % 10_000:05d},{" ".join(drawn[:8])},"{" ".join(drawn[8:])}"\n')


# The server ----------------------------------------------------------------------------------------------------------


class Files:
    """A `BatchClient` whose server is a folder: a batch is done as soon as `<id>.jsonl` lies there."""

    speed = 1.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.asked: tuple[float, float] | None = None  # when first asked how a batch is; wall and processor time

    async def upload(self, path: Path, name: str) -> RemoteFile:
        return RemoteFile(name, name, path.stat().st_size, time.time_ns() // 1000)

    async def create(self, input_file_id: str, url: str, metadata: Mapping[str, str]) -> BatchState:
        return await self.retrieve(f"batch_{metadata['runner_batch']}")

    async def retrieve(self, batch_id: str) -> BatchState:
        self.asked = self.asked or (time.perf_counter(), time.process_time())
        now = time.time_ns() // 1000
        done = (self._folder / f"{batch_id}.jsonl").exists()
        status, output = ("completed", batch_id) if done else ("in_progress", None)
        return BatchState(
            batch_id, status, "", output, None, (), 0, 0, 0, now, now, None, now if done else None, None, None, None,
            None, None, {},
        )  # fmt: skip

    async def download(self, file_id: str, path: Path) -> None:
        os.link(self._folder / f"{file_id}.jsonl", path)

    async def delete_file(self, file_id: str) -> None:
        pass


# A line of an output file (https://platform.openai.com/docs/guides/batch#5-retrieve-the-results).
_BODY = {
    "id": "resp_UNIQUE",
    "object": "response",
    "created_at": 1_767_225_600,
    "status": "completed",
    "background": False,
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": 50,
    "model": "gpt-6-luna",
    "output": [
        {
            "id": "msg_UNIQUE",
            "type": "message",
            "status": "completed",
            "content": [
                {"type": "output_text", "annotations": [], "logprobs": [], "text": json.dumps({"label": "LABEL"})}
            ],
            "role": "assistant",
        }
    ],
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": "none", "summary": None},
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "json_schema", "name": "answer", "strict": True}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "usage": {
        "input_tokens": "TOKENS",
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 6,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 316,
    },
    "user": None,
    "metadata": {},
}
_LINE = json.dumps(
    {
        "id": "batch_req_UNIQUE",
        "custom_id": "CUSTOM_ID",
        "response": {"status_code": 200, "request_id": "req_UNIQUE", "body": _BODY},
        "error": None,
    }
)
_WRITTEN_AS = {"UNIQUE": "%(unique)s", "CUSTOM_ID": "%(custom_id)s", "LABEL": "%(label)s", '"TOKENS"': "%(tokens)d"}


def answer(folder: Path) -> None:
    """Write what the API would have answered to each batch: a line for each row, in any order."""
    draws, form = random.Random(2), _LINE + "\n"
    for word, place in _WRITTEN_AS.items():
        form = form.replace(word, place)
    written = Ledger(folder)
    for entry in written.entries:
        lines = [
            form
            % {
                "unique": f"{draws.getrandbits(200):050x}",
                "custom_id": row.custom_id,
                "label": draws.choice(LABELS),
                "tokens": 300 + draws.randrange(20),
            }
            for row in rows.read(written.path(entry.number, "rows"))
        ]
        draws.shuffle(lines)
        (folder / f"{entry.batch_id}.jsonl").write_text("".join(lines))


# The run -------------------------------------------------------------------------------------------------------------


class Calls:
    """What `batch_api` asks of a run's calls, with files for a server."""

    def __init__(self, plan: Plan, home: Home, stop: Stop, tally: Tally) -> None:
        self._plan = plan
        self._home = home
        self._stop = stop
        self._tally = tally
        self.files = Files(home.folder)

    @asynccontextmanager
    async def batches(self, emit: Callable[[Result], None], *, keep_files: bool) -> AsyncIterator[Office]:
        plan, home, clock = self._plan, self._home, SystemClock()
        estimates = [Estimate(plan.builder.max_output_tokens)]
        written = Ledger(home.folder)
        endpoints = [BatchEndpoint("bench", self.files)]
        desk = Desk(written, endpoints, f"/v1{plan.dialect.path}", home.about, self._stop, home.note)
        reader = Reader(plan.dialect, plan.answer, plan.tariffs, plan.job.spec.retry, estimates)
        collector = Collector(written, reader, emit, home.kept, clock, home.note)
        yield Office(
            home, desk, collector, {"bench": lambda status, body: PermanentError("refused")}, estimates,
            [lambda size: NOTHING], None, plan.job.limits, self._tally, self._stop, clock,
        )  # fmt: skip


def run(folder: Path, what: str) -> str:
    """Work as one session of a run does, whose command waits for no batch; return what to say of it."""
    plan = make_plan(load_job(folder / "job.yaml"))
    found = plan.survey()
    output = plan.output(found)
    cost = [0.0, 0.0]
    kept_s = 0.0

    async def work() -> None:
        nonlocal kept_s
        stop, tally = Stop(), Tally()
        began, used = time.perf_counter(), time.process_time()
        loop = asyncio.get_running_loop()
        with ResultStore(folder, output, plan.job.spec.output.rows_per_part, {}, soon=loop.call_soon) as store:
            home = Home(folder, {"runner_run": "bench"}, store, Errand(wait=False), 0, lambda: 0, _note, _note)
            calls = Calls(plan, home, stop, tally)
            strategy = BatchApiStrategy(1, BatchApiOptions())
            await Pipeline(plan.rows(), plan.builder, store, strategy, calls, stop, tally, SystemClock()).run()
            kept_at = time.perf_counter()  # every answer is in a journal, and synced
        if what == "collect" and calls.files.asked is not None:
            began, used = calls.files.asked  # a run that waits has passed over the dataset when it packed
        kept_s = kept_at - began
        cost[:] = time.perf_counter() - began, time.process_time() - used
        assert stop.reason is None, stop.reason

    run_loop(work)
    states = {entry.state for entry in ledger.read(folder)}
    assert states == {"submitted" if what == "pack" else "collected"}, states
    assert results(folder) == (0 if what == "pack" else found.rows)
    name = "packed" if what == "pack" else "collected"
    seconds, processor_s = cost
    each = processor_s / found.rows * 1e6
    said = f"{name}: {found.rows / kept_s:,.0f} rows/s"
    if what == "collect":
        said += f", {found.rows / seconds:,.0f} until the last part is sealed"
    return f"{said} ({each:.1f} µs of processor time each)"


def _note(text: str) -> None:
    if "submitted" not in text:
        print(text, file=sys.stderr)


if __name__ == "__main__":
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # as the command does
    _what, _folder = sys.argv[1], Path(sys.argv[2])
    if _what == "answer":
        answer(_folder)
    else:
        print(run(_folder, _what))
