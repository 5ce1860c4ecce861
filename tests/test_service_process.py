"""The service as a process of its own, with those of its tasks, on the real clock.

`KILLS=20 python -m pytest tests/test_service_process.py` kills it more often.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from typing import Any

from project import Process, Project, simulator, until

KILLS = int(os.environ.get("KILLS", "3"))


def queue(here: Project) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(here.runner("queue", "--all", "--json").stdout)
    return found


def serving(here: Project, *arguments: str) -> Process:
    process = here.start("serve", *arguments)
    until(lambda: (here.folder / "outputs" / ".service" / ".lock").exists())
    return process


def test_what_is_submitted_is_run_and_its_log_can_be_followed(project: Callable[..., Project]) -> None:
    with simulator() as server:
        here = project(server.base_url, rows=20)
        submitted = here.runner("submit", here.job_file)
        assert submitted.stdout == "1\n"
        assert submitted.stderr == (
            "job is queued as task 1; no service is running here: `runner serve` works through the queue\n"
        )
        served = here.runner("serve", "--until-idle")
        followed = here.runner("logs", "1", "-f")
    said = served.stderr.splitlines()
    assert said[0] == f"serving {here.folder / 'outputs'} with 4 workers; Ctrl-C stops"
    assert [line[22:] for line in said[1:]] == ["job #1  began", "job #1  success: 20 of 20 rows ok"]
    assert "rows      20: 20 ok, 0 failed" in followed.stdout
    here.assert_whole(20)


def test_a_second_service_says_so_and_ends(project: Callable[..., Project]) -> None:
    here = project()
    first = serving(here)
    second = here.runner("serve", exits=5)
    assert second.error.startswith("error: another service works on this folder: runner serve (process ")
    first.send_signal(signal.SIGTERM)
    assert "stopping: runs finish what is on its way" in here.end(first).stderr


def test_a_service_that_is_stopped_lets_its_runs_stop(project: Callable[..., Project]) -> None:
    with simulator(latency_s=0.05) as server:
        here = project(server.base_url, rows=400, limits={"concurrency": 2})
        here.runner("submit", here.job_file)
        service = serving(here)
        until(lambda: server.stats()["requests"] > 5)
        service.send_signal(signal.SIGINT)
        here.end(service)
        assert [task["state"] for task in queue(here)] == ["queued"]
        assert here.manifest()["status"] == "interrupted"
        stats = server.stats()
    assert stats["answered_more_than_once"] == 0
    assert stats["abandoned"] == 0, "what was on its way was waited for"


def test_what_is_going_on_can_be_cancelled(project: Callable[..., Project]) -> None:
    with simulator(latency_s=0.05) as server:
        here = project(server.base_url, rows=400, limits={"concurrency": 2})
        here.runner("submit", here.job_file)
        service = serving(here, "--until-idle")
        until(lambda: server.stats()["requests"] > 5)
        assert here.runner("cancel", "1").stderr == "task 1 is asked to end\n"
        here.end(service)
    [task] = queue(here)
    assert (task["outcome"], task["run"]) == ("cancelled", here.latest.name)
    assert here.runner("cancel", "1", exits=2).error == "error: task 1 has ended already: cancelled\n"


def test_a_task_that_waits_for_its_input_takes_no_worker(project: Callable[..., Project]) -> None:
    with simulator() as server:
        here = project(server.base_url, rows=5)
        late = [
            "--set",
            "name=late",
            "--set",
            "input.path=late.jsonl",
            "--set",
            "input.wait_for={until: 1h, settle: 1s}",
        ]
        here.runner("submit", here.job_file, *late, "--priority", "1")
        here.runner("submit", here.job_file)
        service = here.start("serve", "--workers", "1", "--until-idle")
        until(here.has_begun)
        assert here.runner("queue").stdout.splitlines()[1].split()[:3] == ["1", "late", "waiting"]
        (here.folder / "late.jsonl").write_bytes(here.rows_file.read_bytes())
        here.end(service)
    assert [task["outcome"] for task in queue(here)] == ["success", "success"]
    assert not (here.folder / "outputs" / ".service" / "task-00001" / "waiting").exists()


def test_a_service_can_be_killed_at_any_moment(project: Callable[..., Project]) -> None:
    draws, rows, tasks = random.Random(KILLS), 40, 1 + KILLS
    with simulator(latency_s={"median": 0.02, "p95": 0.05}) as server:
        here = project(server.base_url, rows=rows, output={"rows_per_part": 20}, limits={"concurrency": 4})
        for number in range(tasks):
            setting = f"prompt.user=Task {number} {{{{ text }}}}"
            here.runner("submit", here.job_file, "--set", setting, "--set", f"name=job{number % 2}")
        for _ in range(KILLS):
            service = here.start("serve")
            time.sleep(draws.uniform(0.1, 1.5))
            here.kill(service)
        here.runner("serve", "--until-idle")
        stats = server.stats()
    assert [task["outcome"] for task in queue(here)] == ["success"] * tasks
    assert stats["distinct_bodies"] == tasks * rows
    assert stats["answered_more_than_once"] == 0, "a run whose service is gone finishes what is on its way, and stops"
    runs = [json.loads(path.read_text()) for path in (here.folder / "outputs").glob("job?/2*/run.json")]
    assert sorted(run["task"] for run in runs) == list(range(1, tasks + 1)), "each task has one run"
