"""Nothing is paid for twice: answers of earlier runs, and identical requests of one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from project import LABELS, Project, simulator

from runner.dry_run import dry_run
from runner.manifest import Manifest
from runner.report import report

Make = Callable[..., Project]


def origins(here: Project) -> Counter[str | None]:
    return Counter(here.long_table().column("_reused_from").to_pylist())


def test_a_second_run_takes_the_answers_of_the_first(project: Make) -> None:
    with simulator() as server:
        here = project(server.base_url, rows=120, reuse=True)
        here.work()
        first, before = here.latest, here.table()
        rows = [dict(row) for row in before.select(["id", "text", "number"]).to_pylist()]
        here.rows(
            [*rows[:50], {**rows[50], "text": "another text"}, *rows[51:], {"id": "new", "text": "n", "number": 0}]
        )
        server.reset_stats()
        done = here.work()
        assert server.stats()["requests"] == 2, "the row that changed, and the new one"
    after = here.table()
    assert origins(here) == {None: 2, first.name: 119}
    assert done.ok == 121
    same = [i for i in range(120) if i != 50]
    for column in ("label", "_raw", "_request_id", "_fingerprint", "_endpoint"):
        assert after.column(column).take(same).equals(before.column(column).take(same)), column
    reused = after.take(same)
    assert set(reused.column("_cost_usd").to_pylist()) == {0.0}
    assert set(reused.column("_attempts").to_pylist()) == {0}
    saved = here.manifest()["summary"]["saved"]
    assert (saved["reused_rows"], saved["deduped_rows"]) == (119, 0)


def test_a_third_run_names_the_run_that_paid(project: Make) -> None:
    here = project(rows=10, reuse=True)
    here.work()
    first = here.latest.name
    here.work()
    here.work()
    assert origins(here) == {first: 10}


def test_without_reuse_everything_is_asked_again(project: Make) -> None:
    here = project(rows=10)
    here.work()
    here.work()
    assert origins(here) == {None: 10}


CHANGES: dict[str, dict[str, Any]] = {
    "the model": {"model": "gpt-6-sol"},
    "the instructions": {"prompt": {"system": "Be brief."}},
    "the question": {"prompt": {"user": "Sort that: {{ text }}"}},
    "a parameter": {"parameters": {"max_output_tokens": 40}},
    "the labels": {"output": {"labels": [*LABELS, "one more"]}},
    "strictness": {"output": {"strict": False}},
    "the API": {"api": "chat"},
}
NO_CHANGES: dict[str, dict[str, Any]] = {
    "limits": {"limits": {"concurrency": 3, "requests_per_minute": 100_000}},
    "the strategy": {"strategy": "sequential"},
    "timeouts": {"retry": {"timeout_s": 7, "max_attempts": 2}},
    "the transport": {"transport": "sdk"},
    "the tier": {"parameters": {"service_tier": "flex"}},
    "the name of the column": {"output": {"column": "topic"}},
    "the size of parts": {"output": {"rows_per_part": 7}},
    "the columns that are copied": {"input": {"keep": ["id"]}},
    "the budget": {"budget": {"max_tokens": 100_000}, "parameters": {"metadata": {"a": "b"}}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_request_that_changed_is_sent(project: Make, change: str) -> None:
    here = project(rows=3, reuse=True)
    here.work()
    here.change(**CHANGES[change])
    here.work()
    assert origins(here) == {None: 3}


@pytest.mark.parametrize("change", NO_CHANGES)
def test_what_does_not_change_the_answer_does_not_matter(project: Make, change: str) -> None:
    here = project(rows=3, reuse=True, parameters={"max_output_tokens": 20})
    here.work()
    first = here.latest.name
    here.change(**NO_CHANGES[change])
    here.work()
    assert origins(here) == {first: 3}


def test_a_rehearsals_answers_are_never_taken_for_real_ones(project: Make) -> None:
    here = project(rows=3, reuse=True)
    here.work()
    with simulator() as server:
        here.endpoint = {"base_url": server.base_url}
        here.change()
        here.work()
        assert server.stats()["requests"] == 3
    assert origins(here) == {None: 3}


def test_failed_rows_are_asked_again(project: Make) -> None:
    with simulator(faults={"bad_request": 0.3}) as server:
        here = project(server.base_url, rows=30, reuse=True)
        failed = here.work().failed
        assert 0 < failed < 30
        server.reset_stats()
        here.work()
        assert server.stats()["requests"] == failed


def test_the_answers_of_a_killed_run_are_taken_too(project: Make) -> None:
    with simulator(latency_s=0.02) as server:
        here = project(server.base_url, rows=100, reuse=True, output={"rows_per_part": 1000})
        process = here.start("run", here.job_file, "--quiet")
        while server.stats()["statuses"].get("200", 0) < 30:
            assert process.poll() is None
        here.kill(process)
        here.work()
        assert server.stats()["statuses"]["200"] <= 100 + 8
    assert origins(here)[None] <= 80


def doubled(rows: int, texts: int) -> list[dict[str, Any]]:
    return [{"id": f"r{i:05d}", "text": f"text {i % texts}", "number": i} for i in range(rows)]


@pytest.mark.parametrize("strategy", ["asyncio", "threads", {"name": "processes", "processes": 2}])
def test_identical_requests_are_sent_once_also_while_one_is_in_flight(project: Make, strategy: Any) -> None:
    with simulator(latency_s=0.05) as server:
        here = project(server.base_url, rows=doubled(200, 7), dedupe=True, strategy=strategy)
        here.prices()
        here.work()
        assert server.stats()["requests"] == 7
        assert server.stats()["extra_answers"] == 0
    here.assert_whole(200)
    assert origins(here) == {None: 7, here.latest.name: 193}
    by_text: dict[str, set[str]] = {}
    for row in here.table().select(["text", "label"]).to_pylist():
        by_text.setdefault(row["text"], set()).add(row["label"])
    assert all(len(labels) == 1 for labels in by_text.values())
    summary = here.manifest()["summary"]
    asked = [row["_cost_usd"] for row in here.table().to_pylist() if row["_reused_from"] is None]
    assert summary["cost_usd"] == pytest.approx(sum(asked), abs=1e-6)
    assert summary["saved"]["dedupe_usd"] == pytest.approx(193 / 7 * sum(asked), rel=0.2)


@pytest.mark.parametrize("strategy", ["asyncio", {"name": "processes", "processes": 2}])
def test_more_rows_of_one_text_than_wait_in_memory(project: Make, strategy: Any) -> None:
    with simulator(latency_s=0.2) as server:
        here = project(
            server.base_url, rows=doubled(2500, 1), dedupe=True, strategy=strategy, output={"rows_per_part": 1000}
        )
        here.work()
        assert server.stats()["requests"] == 1
    here.assert_whole(2500)


def test_a_hundred_samples_of_one_prompt_are_a_hundred_requests(project: Make) -> None:
    with simulator() as server:
        here = project(server.base_url, rows=doubled(100, 1))
        here.work()
        assert server.stats()["requests"] == 100
    assert here.manifest()["summary"]["saved"]["identical_rows"] == 99, "and the summary says what dedupe would save"


def test_the_failure_of_a_request_is_that_of_all_its_rows_and_a_retry_asks_once(project: Make) -> None:
    with simulator(faults={"server_error": 1.0}, max_faults_per_body=1) as server:
        here = project(server.base_url, rows=doubled(20, 1), dedupe=True, retry={"max_attempts": 1})
        assert here.work().failed == 20
        manifest = Manifest.load(here.latest)
        manifest.summary["saved"]["identical_rows"] = 1
        assert "`dedupe: true` would not" not in report(manifest, here.latest), "the job says so"
        assert server.stats()["requests"] == 1
        assert here.work_on(retry=True).failed == 0
        assert server.stats()["requests"] == 2


def test_a_resumed_run_remembers_what_it_had_asked(project: Make, tmp_path: Path) -> None:
    with simulator(latency_s=0.01) as server:
        here = project(
            server.base_url,
            rows=doubled(400, 200),
            dedupe=True,
            limits={"concurrency": 2},
            output={"rows_per_part": 30},
        )
        process = here.start("run", here.job_file, "--quiet")
        while server.stats()["statuses"].get("200", 0) < 60:
            assert process.poll() is None
        here.kill(process)
        here.work_on()
        assert server.stats()["statuses"]["200"] <= 200 + 2
    here.assert_whole(400)


def test_a_dry_run_says_what_would_be_saved(project: Make) -> None:
    here = project(rows=[*doubled(30, 10), {"id": "new", "text": "new", "number": 1}])
    assert not dry_run(here.job_file, {}).savings[:-1]
    here.work()
    with here.rows_file.open("a", encoding="utf-8") as file:
        file.write('{"id": "newer", "text": "newer", "number": 1}\n')
    found = dry_run(here.job_file, {})
    assert found.savings == (
        "31 of 32 requests were answered by earlier runs: with `reuse: true` they would cost nothing",
        "20 of 32 requests are the same as another one: with `dedupe: true` they would cost nothing",
    )
    less = dry_run(here.job_file, {"reuse": "true"})
    assert less.savings == ("31 of 32 requests were answered by earlier runs: they cost nothing",)
    assert less.input_tokens == pytest.approx(found.input_tokens / 32, rel=0.2)
    once = dry_run(here.job_file, {"dedupe": "true"})
    assert once.input_tokens == pytest.approx(found.input_tokens * 12 / 32, rel=0.1)


def test_a_dry_run_of_several_models_knows_which_of_them_was_asked(project: Make) -> None:
    here = project(rows=doubled(30, 10), model="gpt-6-luna", parameters={"max_output_tokens": 20})
    here.prices(**{"gpt-6-luna": {"input": 0.1, "output": 0.5}, "gpt-6-sol": {"input": 2.0, "output": 10.0}})
    here.work()
    both = dry_run(here.job_file, {"model": "[gpt-6-luna, gpt-6-sol]", "reuse": "true"})
    alone = dry_run(here.job_file, {"model": "gpt-6-sol"})
    assert both.cost_usd == alone.cost_usd
    assert both.input_tokens == alone.input_tokens
    assert both.output_tokens == alone.output_tokens
    assert both.savings[0] == "30 of 60 requests were answered by earlier runs: they cost nothing"


def test_a_dry_run_names_the_cap_that_does_not_reach(project: Make) -> None:
    here = project(rows=30, parameters={"max_output_tokens": 20}, budget={"max_usd": 0.0001, "max_tokens": 1_000_000})
    here.prices()
    assert dry_run(here.job_file, {}).notes == (
        "`budget.max_usd` of 0.0001 is less than it takes: the run would end early, and can be resumed",
    )
    assert dry_run(here.job_file, {"budget.max_usd": "1"}).notes == ()


def test_a_paid_failure_is_shared_after_a_resume_too(project: Make) -> None:
    with simulator(faults={"refusal": 1.0}, quota_after=1) as server:
        here = project(server.base_url, rows=doubled(10, 1), dedupe=True, output={"rows_per_part": 5})
        here.change(limits={"concurrency": 1}, stop={"max_error_rate": None})
        here.rows([*doubled(5, 1), {"id": "other", "text": "other", "number": 0}, *doubled(4, 1)])
        here.work()
        before = server.stats()["statuses"]["200"]
    with simulator(faults={"refusal": 1.0}) as server:
        here.endpoint["base_url"] = server.base_url
        here.change()
        here.work_on()
        assert before == 1
        assert server.stats()["statuses"] == {"200": 1}, "only the other row: its twins know what came of the first"
    assert set(here.table().column("_error_type").to_pylist()) == {"refusal"}
