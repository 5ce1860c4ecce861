"""Resume and retry: only what is missing is sent, and nothing is mixed that does not belong together."""

from __future__ import annotations

import hashlib
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from project import Project, parts, simulator, until

from runner.simulator import SimulatorProcess

Make = Callable[..., Project]


def sums(run: Path) -> dict[str, str]:
    return {part.name: hashlib.sha256(part.read_bytes()).hexdigest() for part in parts(run)}


@pytest.fixture
def stopped(project: Make) -> Iterator[tuple[Project, SimulatorProcess]]:
    """A run of 100 rows that stopped after 60, and a healthy server."""
    with simulator(quota_after=60) as broke:
        here = project(broke.base_url)
        here.run("-q", exits=4)
    port = int(broke.base_url.split(":")[2].split("/")[0])
    with simulator(port=port) as server:
        yield here, server


def test_what_a_run_may_be_continued_with(stopped: tuple[Project, SimulatorProcess]) -> None:
    """One run, from one refusal to the next, and to its end."""
    here, server = stopped
    before = here.rows_file.read_bytes()
    job = here.job_file.read_text(encoding="utf-8")

    def refused(said: str) -> None:
        done = here.runner("resume", exits=2)
        assert said in done.error
        assert "hint: " in done.error
        assert server.stats()["requests"] == 0
        assert here.manifest()["status"] == "stopped"

    here.change(prompt={"user": "Another question: {{ text }}"}, model="gpt-6-sol")
    refused("error: the job has changed since this run began: `prompt.user`, `model`")
    here.job_file.write_text(job, encoding="utf-8")

    here.rows_file.write_bytes(before.replace(b"cheese", b"bread!"))
    refused("error: the input has changed since this run began: rows.jsonl")
    here.rows_file.unlink()
    refused("rows.jsonl")
    here.rows_file.write_bytes(before)  # another time of change, the same content

    done = here.runner("retry", exits=2)
    assert "error: this run is not finished" in done.error
    assert "hint: continue it first: runner resume" in done.error

    here.job_file.unlink()
    moved = here.folder / "elsewhere" / "run"
    shutil.copytree(here.latest, moved)
    here.runner("resume", moved, "--set", "limits.concurrency=3")
    assert server.stats()["max_in_flight"] <= 3
    assert server.stats()["requests"] == 40
    assert here.table(moved).column("_index").to_pylist() == list(range(100))

    server.reset_stats()
    here.runner("resume", here.latest, "--set", "limits.requests_per_minute=60000")
    assert server.stats()["requests"] == 40
    here.assert_whole(100)
    again = here.runner("resume", here.latest)
    assert "nothing to do" in again.stdout + again.stderr
    retried = here.runner("retry", here.latest)
    assert "nothing to do" in retried.stdout + retried.stderr
    assert server.stats()["requests"] == 40

    parts(here.latest)[1].unlink()  # as the hint about a damaged part says
    assert "not finished" in here.runner("retry", here.latest, exits=2).error
    here.runner("resume", here.latest, "-q")
    assert server.stats()["requests"] == 90
    here.assert_whole(100)


def test_retry_sends_failed_rows_only_and_replaces_their_parts_only(project: Make) -> None:
    rows = [{"id": f"r{i:05d}", "text": f"row {i}"} for i in range(200)]
    del rows[120]["text"]
    # a body meets at most one fault, and 400 forever is left out: what fails once, succeeds when it is retried
    settings = {"faults": {"server_error": 0.04}, "max_faults_per_body": 1, "seed": 5, "latency_s": 0.005}
    with simulator(**settings) as server:
        here = project(server.base_url, rows=rows, input={"on_bad_row": "error_row"}, retry={"max_attempts": 1})
        here.change(output={"rows_per_part": 10})
        here.run("-q", exits=3)
        table = here.table().to_pylist()
        failed = [row["_index"] for row in table if row["_error_type"] == "server_error"]
        assert [row["_index"] for row in table if row["_error_type"] == "bad_row"] == [120]
        before = sums(here.latest)
        assert 2 < len({index // 10 for index in failed}) < 18
        server_before = server.stats()["requests"]
        assert server_before == 199

        done = here.runner("retry", exits=3, fresh=True)
        assert server.stats()["requests"] == 199 + len(failed)
        assert "1 failed" in done.stdout
        after = sums(here.latest)
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {f"part-{number:05d}.parquet" for number in {index // 10 for index in failed}}
        assert before.keys() == after.keys()
        for row, old in zip(here.table().to_pylist(), table, strict=True):
            assert row["_status"] == ("error" if row["_index"] == 120 else "ok")
            assert row["_index"] in failed or row == old
        here.assert_whole(200, status=None)

        here.runner("retry", exits=3)  # bad input stays bad, and is not sent
        assert server.stats()["requests"] == 199 + len(failed)
        assert sums(here.latest) == after


@pytest.mark.parametrize(("how", "then"), [(signal.SIGINT, "retry"), (signal.SIGKILL, "resume")])
def test_a_retry_that_is_cut_short_goes_on(project: Make, how: signal.Signals, then: str) -> None:
    with simulator(faults={"server_error": 1}, max_faults_per_body=1, latency_s=0.05) as server:
        here = project(server.base_url, rows=60, retry={"max_attempts": 1}, stop={"max_error_rate": None})
        here.change(output={"rows_per_part": 20}, limits={"concurrency": 4})
        here.run("-q", exits=3)
        assert here.manifest()["summary"]["failed"] == 60
        working = here.start("retry", "-q")
        until(lambda: server.stats()["statuses"].get("200", 0) >= 25)
        working.send_signal(how)
        working.communicate()
        if how == signal.SIGINT:
            assert working.returncode == 130
        else:
            assert "killed, an unknown number of rows, " in here.runner("show").stdout
        here.runner(then, here.latest, "-q")
        stats = server.stats()
    here.assert_whole(60)
    assert stats["distinct_bodies"] == 60
    assert stats["extra_answers"] <= (4 if how == signal.SIGKILL else 0)
    assert here.manifest()["status"] == "finished"


def test_one_run_of_a_job_at_a_time(project: Make) -> None:
    with simulator(faults={"hang": 1}) as server:
        here = project(server.base_url)
        job_file = here.folder / "job files" / "job.yaml"
        job_file.parent.mkdir()
        shutil.copy(here.job_file, job_file)
        typed = "runner run 'job files/job.yaml'"
        working = here.start("run", job_file, "-q")
        until(lambda: server.stats()["in_flight"] == 8)
        for arguments in (("run", job_file), ("resume", here.latest), ("retry", here.latest)):
            done = here.runner(*arguments, exits=5)
            assert f"another run of this job is going on: {typed} (process {working.pid} on " in done.error
        assert here.runner("runs").stdout.splitlines()[1].split()[1] == "running"
        here.kill(working)
    assert here.runner("runs").stdout.splitlines()[1].split()[1] == "killed"
    assert "error: this run is not finished" in here.runner("retry", exits=2).error
    job_file.write_text(job_file.read_text("utf-8").replace("Sort this", "Sort that"), "utf-8")
    assert f"or start afresh with `{typed}`" in here.runner("resume", exits=2).error
    with simulator() as server:
        here.endpoint["base_url"] = server.base_url
        here.change()
        here.run("-q")
    here.assert_whole(100)
