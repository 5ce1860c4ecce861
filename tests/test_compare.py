"""`runner compare`: what it says, what it writes, and what it refuses."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from project import Project, simulator, until

from runner.compare.metrics import Metrics, conclude

Make = Callable[..., Project]


def comparison(here: Project) -> Path:
    (found,) = (here.folder / "outputs" / "compare").iterdir()
    return found


def test_all_strategies_on_the_same_rows(project: Make) -> None:
    with simulator(latency_s=0.02) as server:
        here = project(server.base_url)
        done = here.runner("compare", here.job_file, "--n", "8", "--rounds", "1")
        stats = server.stats()
    assert stats["distinct_bodies"] == 8
    assert stats["requests"] == 5 * (8 + 1), "one row each to warm up"
    folder = comparison(here)
    assert {path.name for path in folder.iterdir()} == {
        "comparison.json", "comparison.html", "comparison.svg", "comparison.png", "requests.parquet",
    }  # fmt: skip
    found = json.loads((folder / "comparison.json").read_text())
    names = ["sequential", "threads", "to_thread", "asyncio", "processes"]
    assert [each["name"] for each in found["contestants"]] == names
    for each in found["contestants"]:
        assert (each["rows"], len(each["walls_s"]), each["failed"]) == (8, 1, 0)
        assert each["concurrency"] == (1 if each["name"] == "sequential" else 8)
        assert each["p50_s"] >= 0.02
        assert each["total_s"] >= (8 * 0.02 if each["name"] == "sequential" else 0.02)
    assert found["contestants"][0]["speedup"] == 1
    assert len(found["requests"]) == 40
    for request in found["requests"]:
        assert 0 <= request["queued_s"] <= request["started_s"] < request["finished_s"]
        assert json.loads(request["reply"])["label"]
    table = pq.read_table(folder / "requests.parquet")
    assert table.num_rows == 40 + 5, "the replies of the warm-up are paid for as well"
    assert table.column("_round").to_pylist().count(0) == 5
    assert table.column_names[:4] == ["_contestant", "_strategy", "_concurrency", "_round"]
    assert found["conclusion"] in done.stdout
    assert found["conclusion"] in (folder / "comparison.html").read_text().replace("&#x27;", "'")
    for name in names:
        assert name in done.stdout
        assert f"round 1 of 1 · {name}: 8 rows in " in done.stderr


def test_concurrencies_and_models(project: Make) -> None:
    with simulator(latency_s=0.01) as server:
        here = project(server.base_url)
        here.runner(
            "compare", here.job_file, "--concurrency", "1,4", "--models", "gpt-6-luna,gpt-6-sol", "--rounds", "1", "-q"
        )
        assert server.stats()["max_in_flight"] == 4
    found = json.loads((comparison(here) / "comparison.json").read_text())
    assert [each["name"] for each in found["contestants"]] == [
        "1 at once · gpt-6-luna", "4 at once · gpt-6-luna", "1 at once · gpt-6-sol", "4 at once · gpt-6-sol",
    ]  # fmt: skip
    assert found["agreement"]["rows"] == 10
    assert found["agreement"]["same"] + len(found["agreement"]["different"]) == 10


def test_an_interruption_in_the_first_round_keeps_the_replies(project: Make) -> None:
    with simulator(latency_s=0.2) as server:
        here = project(server.base_url)
        working = here.start("compare", here.job_file, "--strategies", "sequential,asyncio")
        until(lambda: server.stats()["statuses"].get("200", 0) >= 5)
        working.send_signal(signal.SIGINT)
        here.end(working, exits=130)
        paid = server.stats()["statuses"]["200"]
    assert pq.read_table(comparison(here) / "requests.parquet").num_rows == paid


def test_a_second_signal_stops_at_once_and_keeps_what_was_completed(project: Make) -> None:
    with simulator(latency_s={"median": 0.05, "p95": 0.06}, faults={"hang": 0.02}, hang_s=60, seed=5) as server:
        here = project(server.base_url)
        working = here.start("compare", here.job_file, "--strategies", "threads,asyncio", "--rounds", "100")
        until(lambda: server.stats()["faults"].get("hang"))
        working.send_signal(signal.SIGINT)
        assert working.stderr is not None
        until(lambda: "stopping" in working.stderr.readline())
        working.send_signal(signal.SIGINT)
        here.end(working, exits=130, timeout_s=10)
    assert pq.read_table(comparison(here) / "requests.parquet").num_rows >= 1


def test_the_limits_hold_over_the_whole_comparison(project: Make) -> None:
    with simulator(requests_per_minute=600) as server:
        here = project(server.base_url, limits={"concurrency": 8, "requests_per_minute": 580})
        done = here.runner("compare", here.job_file, "--strategies", "threads,asyncio", "--rounds", "2")
        stats = server.stats()
    assert stats["statuses"].get("429", 0) == 0
    assert stats["requests"] == 2 * (2 * 10 + 1), "two rounds, and one row each to warm up"
    found = json.loads((comparison(here) / "comparison.json").read_text())
    for each in found["contestants"]:
        assert (each["rows"], len(each["walls_s"]), each["failed"]) == (10, 2, 0)
        assert f"round 2 of 2 · {each['name']}: 10 rows in " in done.stderr
    assert len(found["requests"]) == 40
    assert pq.read_table(comparison(here) / "requests.parquet").num_rows == 40 + 2


def test_failures_are_shown_and_win_nothing(project: Make) -> None:
    with simulator(faults={"bad_request": 0.5}) as server:
        here = project(server.base_url)
        done = here.runner("compare", here.job_file, "--strategies", "sequential,asyncio", exits=3, fresh=True)
    assert "Every contestant had failures, so none can be called faster." in done.stdout


def test_a_signal_keeps_the_rounds_that_were_completed(project: Make) -> None:
    with simulator(latency_s=0.05) as server:
        here = project(server.base_url)
        working = here.start("compare", here.job_file, "--strategies", "threads,asyncio", "--rounds", "50")
        until(lambda: server.stats()["requests"] >= 70)
        working.send_signal(signal.SIGINT)
        done = here.end(working, exits=130)
        assert server.stats()["abandoned"] == 0
    assert "It was stopped early: only the " in done.stdout
    assert json.loads((comparison(here) / "comparison.json").read_text())["rounds"] >= 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--strategies", "threds"], "`strategy` must be one of `sequential`, `threads`"),
        (["--strategies", "asyncio,auto"], "`auto` cannot be compared: it does not send requests one by one"),
        (["--n", "101"], "--n asks for 101 rows, and the input has 100\nhint: `--n 100` takes them all"),
        (["--concurrency", "4,x"], "--concurrency takes whole numbers from 1 up, got `4,x`"),
        (["--strategies", "asyncio"], "there is nothing to compare asyncio with"),
        (["--output", "configs"], "this output folder exists already"),
        (["--models", "gpt-6-luna,gpt-7"], "gpt-7: HTTP 404: The model `gpt-7` does not exist"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_message(project: Make, options: list[str], said: str) -> None:
    with simulator(models=["gpt-6-luna"]) as server:
        here = project(server.base_url)
        done = here.runner("compare", here.job_file, *options, exits=2)
    assert done.error.startswith(f"error: {said}")
    assert not (here.folder / "outputs").exists()


def test_an_endpoint_that_charges_is_not_used_without_a_yes(project: Make) -> None:
    here = project("http://llm.invalid/v1")
    done = here.runner("compare", here.job_file, "--strategies", "threads,asyncio", "--rounds", "2", exits=2)
    assert done.error.startswith(
        "error: nobody is here to confirm that 42 requests to endpoint `there` cost an unknown amount (no price"
    )


# The sentence ---------------------------------------------------------------------------------------------------------


def metrics(name: str, total_s: float, **change: Any) -> Metrics:
    plain = Metrics(
        name=name, strategy=name, concurrency=1 if name == "sequential" else 10, model="m", rows=100,
        walls_s=(total_s,), total_s=total_s, mean_s=0.2, p50_s=0.2, p95_s=0.3, p99_s=0.4, rows_per_s=100 / total_s,
        speedup=1.0, saved=0.0, ideal_share=0.95, rate_used=None, failed=0, attempts=100, rate_limited=0,
        input_tokens=1, output_tokens=1, cost_usd=0.0,
    )  # fmt: skip
    return replace(plain, **change)


SLOW = metrics("sequential", 20.5)


@pytest.mark.parametrize(
    ("contestants", "said"),
    [
        (
            [SLOW, metrics("asyncio", 2.5)],
            "asyncio is 8.2x faster than sequential here; the limit was concurrency (10 in flight), not the key.",
        ),
        (
            [SLOW, metrics("asyncio", 2.5, rate_limited=4), metrics("processes", 30.0)],
            "asyncio is 8.2x faster than sequential here; the limit was the key: 4 requests were refused with 429; "
            "processes is not faster than sequential.",
        ),
        (
            [SLOW, metrics("threads", 5.0, rate_used=0.98), metrics("to_thread", 20.4), metrics("processes", 21.0)],
            "threads is 4.1x faster than sequential here; the limit was requests_per_minute, of which it used 98%; "
            "to_thread and processes are not faster than sequential.",
        ),
        ([SLOW, metrics("asyncio", 41.0)], "Nothing was faster than sequential here: asyncio took 2.0x as long."),
        (
            [SLOW, metrics("threads", 1.0, failed=3), metrics("asyncio", 2.0, ideal_share=0.4)],
            "asyncio is 10.2x faster than sequential here; the limit was the work of this machine (40% of what 10 in "
            "flight allow); threads had failures.",
        ),
        (
            [metrics("asyncio", 2.0, rows=8), metrics("threads", 4.0, rows=8)],
            "asyncio is 2.0x faster than threads here; all rows were in flight at once, so the slowest answer set the "
            "time.",
        ),
        ([metrics("a", 1.0, failed=1)], "Every contestant had failures, so none can be called faster."),
    ],
)
def test_the_conclusion_says_what_the_numbers_show(contestants: Sequence[Metrics], said: str) -> None:
    assert conclude(contestants) == said
