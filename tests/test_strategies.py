"""One contract for every strategy: they differ in speed only. Whole runs, against a server in its own process."""

from __future__ import annotations

import itertools
import json
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from project import Project, simulator, until

from runner import journal
from runner.errors import SpecError
from runner.load import load_job

Make = Callable[..., Project]

STRATEGIES: dict[str, Any] = {
    "sequential": "sequential",
    "threads": "threads",
    "to_thread": "to_thread",
    "asyncio": "asyncio",
    "processes": {"name": "processes", "processes": 2},
}
EACH = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
TIMES = ("_queued_at", "_started_at", "_finished_at", "_throttle_s", "_backoff_s", "_latency_s", "_total_s")


def answers(here: Project) -> list[dict[str, Any]]:
    """Every column but the timings and what the server makes up anew for each request."""
    table = here.table().drop_columns([*TIMES, "_server_ms", "_request_id", "_attempts"])
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def workers(pid: int) -> list[psutil.Process]:
    """Return the worker processes of a run; none of one that has ended."""
    found = []
    children: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(pid).children(recursive=True)
    for child in children:
        with suppress(psutil.Error):  # it is gone, or going
            if any("runner.workers.child" in part for part in child.cmdline()):
                found.append(child)
    return found


def test_all_give_the_same_rows_in_the_same_order_byte_for_byte(project: Make) -> None:
    odd = ["plain", "", 'quote " and \\', "{{ text }} %s", "é 日本 🎈", "\x00\u2028", "\ud800 lone"]
    rows = [{"id": f"r{number:05d}", "text": odd[number % len(odd)], "n": number} for number in range(120)]
    found = {}
    with simulator(latency_s={"median": 0.004, "p95": 0.02}) as server:
        here = project(server.base_url, rows=rows)
        for name, strategy in STRATEGIES.items():
            here.change(strategy=strategy)
            assert here.work(fresh=True).status == "finished"
            here.assert_whole(120)
            found[name] = answers(here)
            assert here.manifest()["sessions"][0]["strategy"] == name
    for name in STRATEGIES:
        assert found[name] == found["asyncio"], name


@EACH
def test_a_row_that_cannot_be_sent_is_a_row_like_any_other(project: Make, strategy: Any) -> None:
    rows: list[dict[str, Any]] = [{"id": str(number), "text": f"message {number}"} for number in range(30)]
    rows[7] = {"id": "7", "other": "no text"}
    with simulator() as server:
        here = project(
            server.base_url, rows=rows, strategy=strategy, input={"path": "rows.jsonl", "on_bad_row": "error_row"}
        )
        assert here.work().failed == 1
        assert server.stats()["requests"] == 29
    table = here.table()
    assert table.column("_index").to_pylist() == list(range(30))
    bad = table.slice(7, 1).to_pylist()[0]
    assert (bad["_status"], bad["_error_type"], bad["_attempts"]) == ("error", "bad_row", 0)
    assert "the row has no field `text`" in bad["_error"]


@EACH
def test_never_more_in_flight_than_allowed(project: Make, strategy: Any) -> None:
    with simulator(latency_s=0.05) as server:
        rows = 120 if isinstance(strategy, dict) else 20  # one process may start a second after another
        here = project(server.base_url, rows=rows, strategy=strategy, limits={"concurrency": 5})
        assert here.work().status == "finished"
        most = server.stats()["max_in_flight"]
    assert most == (1 if strategy == "sequential" else 5)
    counted = here.manifest()["sessions"][0]["max_in_flight"]
    assert 0 < counted <= most, "several processes are counted now and then only"
    assert counted == most or isinstance(strategy, dict)


@EACH
def test_the_rate_limit_holds_at_the_server_retries_included(project: Make, strategy: Any) -> None:
    """The server refuses what comes above 600 a minute, finely; every tenth request fails once."""
    with simulator(requests_per_minute=600, faults={"server_error": 0.1}, max_faults_per_body=1) as server:
        here = project(server.base_url, rows=30, strategy=strategy, limits={"requests_per_minute": 590})
        began = time.monotonic()
        assert here.work().status == "finished"
        took_s = time.monotonic() - began
        stats = server.stats()
    here.assert_whole(30)
    assert stats["statuses"].get("429", 0) == 0
    assert stats["requests"] > 30
    assert took_s > (stats["requests"] - 3) * 60 / 590
    session = here.manifest()["sessions"][0]
    assert session["use"]["requests_per_minute"] > (0.2 if isinstance(strategy, dict) else 0.5), "starting included"


@EACH
def test_faults_are_tried_again(project: Make, strategy: Any) -> None:
    faults = {"rate_limit": 0.1, "server_error": 0.1, "cut": 0.05, "invalid_json": 0.05}
    with simulator(faults=faults, retry_after_s=0.05) as server:
        here = project(server.base_url, rows=60, strategy=strategy)
        assert here.work().status == "finished"
        stats = server.stats()
    here.assert_whole(60)
    assert sum(here.table().column("_attempts").to_pylist()) == stats["requests"] > 65
    assert here.manifest()["sessions"][0]["attempts"] == stats["requests"]
    assert here.manifest()["sessions"][0]["rate_limited"] == stats["statuses"]["429"]


@EACH
def test_a_429_pauses_everyone_for_what_the_server_asked(project: Make, strategy: Any) -> None:
    """Each new body is refused at the second second; the log of the server's seconds shows a gap."""
    with simulator(faults={"rate_limit": 0.02}, retry_after_s=1.0, seed=3) as server:
        here = project(server.base_url, rows=60, strategy=strategy)
        assert here.work().status == "finished"
        refused = server.stats()["statuses"].get("429", 0)
    assert refused
    starts = sorted(value.timestamp() for value in here.table().column("_finished_at").to_pylist())
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert max(gaps) > 0.9, "nobody was answered during the pause"


@EACH
def test_a_hang_ends_with_the_timeout(project: Make, strategy: Any) -> None:
    with simulator(faults={"hang": 0.2}, max_faults_per_body=1, hang_s=30) as server:
        here = project(server.base_url, rows=10, strategy=strategy, retry={"timeout_s": 0.5})
        assert here.work().status == "finished"
        assert server.stats()["faults"]["hang"] >= 1
    here.assert_whole(10)


@EACH
def test_a_fatal_error_stops_at_once_and_the_run_goes_on_later(project: Make, strategy: Any) -> None:
    with simulator(quota_after=20) as server:
        here = project(server.base_url, strategy=strategy)
        began = time.monotonic()
        done = here.run("--quiet", exits=4)
        assert time.monotonic() - began < 12
        assert server.stats()["requests"] <= 20 + 8
    assert done.error.startswith("error: HTTP 429: You exceeded your current quota")
    assert here.manifest()["summary"]["rows"] == 20
    port = int(server.base_url.split(":")[2].split("/")[0])
    with simulator(port=port) as healthy:
        here.runner("resume", "--strategy", "asyncio", "--quiet")
        assert healthy.stats()["requests"] == 80
    here.assert_whole(100)


@EACH
def test_a_signal_lets_what_is_in_flight_finish(project: Make, strategy: Any) -> None:
    with simulator(latency_s=0.25) as server:
        here = project(server.base_url, strategy=strategy)
        working = here.start("run", here.job_file)
        until(lambda: server.stats()["statuses"].get("200", 0) >= 3)
        helpers = workers(working.pid)
        working.send_signal(signal.SIGINT)
        here.end(working, exits=130)
        stats = server.stats()
        assert stats["abandoned"] == 0
        assert here.manifest()["summary"]["ok"] == stats["statuses"]["200"] < 100
        assert not any(helper.is_running() for helper in helpers)
        here.runner("resume", "--set", "limits.concurrency=50", "--strategy", "asyncio", "--quiet")
        assert server.stats()["requests"] == 100
    here.assert_whole(100)


@EACH
def test_a_second_signal_stops_at_once(project: Make, strategy: Any) -> None:
    with simulator(faults={"hang": 1}) as server:
        here = project(server.base_url, strategy=strategy)
        working = here.start("run", here.job_file)
        until(lambda: server.stats()["in_flight"] == (1 if strategy == "sequential" else 8))
        helpers = workers(working.pid)
        working.send_signal(signal.SIGINT)
        assert working.stderr is not None
        assert working.stderr.readline().startswith("stopping")
        working.send_signal(signal.SIGINT)
        began = time.monotonic()
        here.end(working, exits=130)
        assert time.monotonic() - began < 3
    assert here.manifest()["status"] == "interrupted"
    until(lambda: not any(helper.is_running() for helper in helpers))


@EACH
def test_a_killed_run_is_continued_and_only_what_was_in_flight_is_sent_again(project: Make, strategy: Any) -> None:
    with simulator(latency_s=0.03) as server:
        here = project(server.base_url, rows=120, strategy=strategy)
        working = here.start("run", here.job_file, "--quiet")
        until(lambda: server.stats()["statuses"].get("200", 0) >= 40)
        helpers = workers(working.pid)
        here.kill(working)
        until(lambda: not any(helper.is_running() for helper in helpers))
        here.runner("resume", "--quiet")
        # What worker processes finish while their run is being killed is on its way to it, and lost with it.
        assert server.stats()["answered_more_than_once"] <= (16 if isinstance(strategy, dict) else 8)
    here.assert_whole(120)


def test_a_run_may_change_its_strategy_again_and_again(project: Make) -> None:
    with simulator(latency_s=0.02) as server:
        here = project(server.base_url, rows=300, strategy="asyncio")
        working = here.start("run", here.job_file, "--quiet")
        for number, strategy in enumerate(["threads", "processes", "to_thread", "sequential"], 1):
            until(lambda number=number: server.stats()["statuses"].get("200", 0) >= 50 * number)  # type: ignore[misc]
            working.send_signal(signal.SIGINT)
            here.end(working, exits=130)
            working = here.start("resume", "--strategy", strategy, "--quiet")
        here.end(working)
        assert server.stats()["requests"] == 300
    here.assert_whole(300)
    sessions = [session["strategy"] for session in here.manifest()["sessions"]]
    assert sessions == ["asyncio", "threads", "processes", "to_thread", "sequential"]


# Options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ({"name": "threads", "workers": 0}, "`strategy.workers` must be at least 1, got 0"),
        ({"name": "processes", "processes": 0}, "`strategy.processes` must be at least 1, got 0"),
        ({"name": "threads", "workers": "8"}, '`strategy.workers` must be a whole number, got "8"'),
        ({"name": "processes", "processes": 1.5}, "`strategy.processes` must be a whole number, got 1.5"),
        ({"name": "threads", "wrokers": 2}, "`strategy.wrokers` is not a known key"),
        ({"name": "processes", "workers": 2}, "`strategy.workers` is not a known key"),
        *[
            ({"name": name, "workers": 2}, "`strategy.workers` is not a known key")
            for name in ("sequential", "to_thread", "asyncio")
        ],
        (
            {"name": "threads", "workers": 9},
            "`strategy.workers` must be at most 8, which is `limits.concurrency`, got 9",
        ),
        (
            {"name": "processes", "processes": 9},
            "`strategy.processes` must be at most 8, which is `limits.concurrency`, got 9",
        ),
    ],
)
def test_bad_options_are_refused_alike(project: Make, strategy: Any, said: str) -> None:
    here = project("http://127.0.0.1:9/v1", strategy=strategy)
    with pytest.raises(SpecError) as caught:
        load_job(here.job_file)
    assert str(caught.value).startswith(f"{said}\n  --> {here.job_file}:")


def test_an_unknown_strategy_on_the_command_line_is_suggested(project: Make) -> None:
    here = project("http://127.0.0.1:9/v1")
    done = here.run("--strategy", "asynio", exits=2)
    assert "`strategy` must be one of `sequential`, `threads`, `to_thread`, `asyncio`, `processes`, " in done.error
    assert "hint: did you mean `asyncio`?" in done.error


def test_fewer_threads_than_may_be_in_flight(project: Make) -> None:
    with simulator(latency_s=0.03) as server:
        here = project(server.base_url, rows=30, strategy={"name": "threads", "workers": 3})
        assert here.work().status == "finished"
        assert server.stats()["max_in_flight"] == 3
    here.assert_whole(30)


# Worker processes -----------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_only_its_unfinished_rows_are_sent_again(project: Make) -> None:
    with simulator(latency_s=0.1) as server:
        here = project(server.base_url, rows=200, strategy={"name": "processes", "processes": 2})
        working = here.start("run", here.job_file, "--quiet")
        until(lambda: server.stats()["statuses"].get("200", 0) >= 40)
        victim = workers(working.pid)[0]
        victim.kill()
        until(lambda: len(workers(working.pid)) == 2 and victim not in workers(working.pid))
        here.end(working)
        stats = server.stats()
    here.assert_whole(200)
    assert stats["distinct_bodies"] == 200
    assert 200 <= stats["requests"] <= 200 + 4
    assert stats["answered_more_than_once"] <= 4


def test_workers_that_keep_dying_end_the_run(project: Make) -> None:
    with simulator(latency_s=5) as server:
        here = project(server.base_url, strategy={"name": "processes", "processes": 1})
        working = here.start("run", here.job_file)
        seen: set[int] = set()
        while working.poll() is None:
            for worker in workers(working.pid) if working.poll() is None else []:
                if worker.pid not in seen:
                    seen.add(worker.pid)
                    worker.kill()
            time.sleep(0.02)
        done = here.end(working, exits=4)
    assert "3 worker processes in a row ended (signal 9) before they had finished a row" in done.error
    assert len(seen) == 3


def test_more_processes_than_rows(project: Make) -> None:
    with simulator() as server:
        here = project(server.base_url, rows=1, strategy={"name": "processes", "processes": 2})
        assert here.work().status == "finished"
    here.assert_whole(1)


def test_input_that_changes_while_workers_read_it_stops_the_run(project: Make) -> None:
    with simulator(latency_s=0.05) as server:
        here = project(server.base_url, rows=3000, strategy={"name": "processes", "processes": 2})
        working = here.start("run", here.job_file)
        until(lambda: server.stats()["statuses"].get("200", 0) >= 20)
        text = here.rows_file.read_text()
        with open(here.rows_file, "r+") as file:
            file.truncate(len(text) // 2)
        done = here.end(working, exits=4)
        assert "the input" in done.error
        here.rows_file.write_text(text)
        here.runner("resume", "--quiet", "--strategy", "asyncio", "--set", "limits.concurrency=200")
    here.assert_whole(3000)


def test_the_workers_share_of_the_rate_is_not_lost_on_slow_rows(project: Make) -> None:
    """Some rows take fifty times as long as others: the limit is used all the same."""
    with simulator(latency_s={"median": 0.02, "p95": 0.4}) as server:
        here = project(
            server.base_url,
            rows=180,
            strategy={"name": "processes", "processes": 2},
            limits={"concurrency": 64, "requests_per_minute": 1800},
        )
        assert here.work().status == "finished"
    here.assert_whole(180)
    started = sorted(value.timestamp() for value in here.table().column("_started_at").to_pylist())
    span_s = started[-1] - started[0]
    assert 179 / span_s * 60 == pytest.approx(1800, rel=0.03)


# Other people's strategies --------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[1] / "docs" / "strategies.md"


def install(here: Project, entry: str) -> None:
    """Make a package with a strategy importable in the project's processes, as an installed one is."""
    site = here.folder / "site"
    info = site / "pairs-1.0.dist-info"
    info.mkdir(parents=True)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (site / "pairs.py").write_text(example)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pairs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[runner.strategies]\npairs = {entry}\n")
    here.environ["PYTHONPATH"] = str(site)


def test_a_package_may_bring_a_strategy(project: Make) -> None:
    with simulator(latency_s=0.02) as server:
        here = project(server.base_url, rows=21, strategy={"name": "pairs", "pause_s": 0.001})
        install(here, "pairs:PairsStrategy")
        here.run("--quiet")
        assert server.stats()["max_in_flight"] == 2
    here.assert_whole(21)
    here.change(strategy={"name": "pairs", "pauses": 1})
    done = here.run(exits=2)
    assert "`strategy.pauses` is not a known key" in done.error
    assert "hint: did you mean `pause_s`?" in done.error


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("pairs:Nothing", "strategy `pairs` cannot be loaded: "),
        ("nowhere:Nothing", "strategy `pairs` cannot be loaded: No module named 'nowhere'"),
        ("pairs:Pairs", "strategy `pairs` has no `Options`"),
    ],
)
def test_a_package_that_brings_something_else_is_one_clear_error(
    project: Make, monkeypatch: pytest.MonkeyPatch, entry: str, said: str
) -> None:
    here = project("http://127.0.0.1:9/v1", strategy="pairs")
    install(here, entry)
    monkeypatch.syspath_prepend(here.environ["PYTHONPATH"])
    monkeypatch.delitem(sys.modules, "pairs", raising=False)
    with pytest.raises(SpecError) as caught:
        load_job(here.job_file)
    assert str(caught.value).startswith(said)


def test_the_journal_holds_what_threads_have_finished(project: Make) -> None:
    """A result is on disk before anything reports it done, whichever thread it came from."""
    with simulator(latency_s=0.05) as server:
        here = project(server.base_url, rows=100, strategy="threads", output={"rows_per_part": 1000})
        working = here.start("run", here.job_file, "--quiet")
        until(lambda: server.stats()["statuses"].get("200", 0) >= 30)
        here.kill(working)
        kept = sum(len(rows) for rows in journal.read(next(here.latest.glob("journal-*.jsonl"))))
        assert kept >= server.stats()["statuses"]["200"] - 8
    assert json.loads((here.latest / "run.json").read_text())["status"] == "running"


@EACH
def test_failed_rows_are_sent_again_in_place(project: Make, strategy: Any) -> None:
    with simulator(faults={"bad_request": 0.3}) as server:
        here = project(server.base_url, strategy=strategy, input={"path": "rows.jsonl", "id": "id", "offset": 5})
        failed = here.work().failed
    assert failed > 10
    port = int(server.base_url.split(":")[2].split("/")[0])
    with simulator(port=port) as healthy:
        here.runner("retry", "--quiet")
        assert healthy.stats()["requests"] == failed
    table = here.table()
    assert table.column("_index").to_pylist() == list(range(5, 100))
    assert set(table.column("_status").to_pylist()) == {"ok"}
