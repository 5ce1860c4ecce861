"""Kill the runner again and again: every answer stays, and none but those in flight are asked for twice.

`KILLS=500 python -m pytest tests/test_run_kill.py` runs it for longer.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from project import Process, Project, simulator, until

from runner.simulator import SimulatorProcess

KILLS = int(os.environ.get("KILLS", "20"))
ROWS = 100 * KILLS
CONCURRENCY = 16


def progress(server: SimulatorProcess, working: Process, requests: int) -> bool:
    """Wait until the runner has sent so many more requests; False when it ended before."""
    goal = server.stats()["requests"] + requests
    until(lambda: server.stats()["requests"] >= goal or working.poll() is not None)
    return working.poll() is None


def test_a_run_survives_being_killed_at_random_moments(project: Callable[..., Project]) -> None:
    draws = random.Random(20)
    with simulator(latency_s={"median": 0.012, "p95": 0.02}) as server:
        here = project(server.base_url, rows=ROWS, output={"rows_per_part": 150}, limits={"concurrency": CONCURRENCY})
        working = here.start("run", here.job_file, "--quiet")
        until(here.has_begun)
        kills = 0
        while kills < KILLS and progress(server, working, draws.randrange(2 * ROWS // KILLS)):
            here.kill(working)
            kills += 1
            working = here.start("resume", here.latest, "--quiet")
        here.end(working)
        here.assert_whole(ROWS)
        stats = server.stats()
    assert kills >= 0.8 * KILLS
    assert stats["distinct_bodies"] == ROWS
    assert stats["max_in_flight"] <= 2 * CONCURRENCY, "those of the killed runner, and of the next"
    assert stats["answered_more_than_once"] <= kills * CONCURRENCY
    assert stats["extra_answers"] <= kills * CONCURRENCY
    manifest = here.manifest()
    assert [session["ended"] for session in manifest["sessions"]].count("killed") <= kills
    assert (manifest["status"], manifest["summary"]["ok"]) == ("finished", ROWS)
