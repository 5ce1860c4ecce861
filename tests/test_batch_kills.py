"""Runs in batches that are killed at each step, and resumed: nothing is submitted twice, and nothing is left behind."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from forked import Forked
from project import Project
from test_run_batches import assert_paid_once, assert_whole, batching, entries

Make = Callable[..., Project]

# The command line, which kills itself at the n-th call of a function: before it, or after it.
DYING = """
import inspect, os, signal, sys
from importlib import import_module
name, when, number = os.environ["DIES"].split()
module, owner, function = name.rsplit(".", 2)
owner = getattr(import_module(module), owner)
plain, calls = getattr(owner, function), 0

def die(then):
    if when == then and calls == int(number):
        os.kill(os.getpid(), signal.SIGKILL)

def counted(*args, **kwargs):
    global calls
    calls += 1
    die("before")
    result = plain(*args, **kwargs)
    die("after")
    return result

async def awaited(*args, **kwargs):
    global calls
    calls += 1
    die("before")
    result = await plain(*args, **kwargs)
    die("after")
    return result

setattr(owner, function, awaited if inspect.iscoroutinefunction(plain) else counted)
from runner import parts, store
from runner.cli import main
main()
"""

CLIENT = "runner.openai_batches.BatchClient"
LEDGER, STORE = "runner.batches.ledger.Ledger", "runner.store.ResultStore"
POINTS = [
    f"{CLIENT}.upload before 1", f"{CLIENT}.upload after 1", f"{CLIENT}.upload before 2", f"{CLIENT}.upload after 2",
    f"{CLIENT}.create before 1", f"{CLIENT}.create after 1", f"{CLIENT}.create before 2", f"{CLIENT}.create after 2",
    f"{CLIENT}.retrieve after 1",
    f"{CLIENT}.download before 1", f"{CLIENT}.download after 1",
    f"{CLIENT}.delete_file before 1", f"{CLIENT}.delete_file after 1",
    f"{LEDGER}.add after 1",
    f"{LEDGER}.save before 1", f"{LEDGER}.save after 2", f"{LEDGER}.save after 4", f"{LEDGER}.save before 5",
    f"{LEDGER}.collected before 1", f"{LEDGER}.collected after 1",
    "runner.batches.packing.Packing.add after 30",
    f"{STORE}.append after 37", f"{STORE}.append after 60",
    f"{STORE}.secure before 1", f"{STORE}.secure after 1",
    f"{STORE}._seal before 1", f"{STORE}._seal after 2",
]  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_at_a_step(project: Make, point: str) -> None:
    with batching(batches={"script": [{"expire_at": 0.7}, {"missing_lines": 0}]}) as server:
        here = project(
            server.base_url, rows=100, strategy="batch_api", output={"rows_per_part": 20},
            limits={"enqueued_tokens": 6_000},
        )  # fmt: skip
        here.prices()
        (here.folder / "dying.py").write_text(DYING)
        dying = Forked("dying", ["run", str(here.job_file), "--quiet"], here.folder, {**here.environ, "DIES": point})
        dying.stdin.close()
        _, err = dying.communicate(timeout=30)
        assert dying.returncode == -signal.SIGKILL, err
        here.runner("resume", "--quiet")
        assert_whole(here, 100)
        assert_paid_once(server)
        stats = server.stats()
    assert stats["batches"]["created"] == len({entry.batch_id for entry in entries(here)}), "no batch is forgotten"
    assert stats["files"]["uploads_present"] == 0
    assert stats["files"]["results_never_downloaded"] == 0
    assert {"completed", "expired"} >= set(stats["batches"]["states"])
    assert here.manifest()["summary"]["cost_usd"] == pytest.approx(
        (stats["batches"]["tokens"]["input"] * 0.1 + stats["batches"]["tokens"]["output"] * 0.5) / 2e6, abs=2e-6
    )
