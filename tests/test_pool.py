"""Several endpoints and a budget against a real server: what it saw, and what it was paid."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from project import Project, simulator, until

from runner import load_job
from runner.errors import SpecError
from runner.manifest import Manifest
from runner.report import report

Make = Callable[..., Project]


def pool(make: Make, base_url: str, accounts: dict[str, dict[str, Any]], **job: Any) -> Project:
    """Make a project whose endpoints have a key and an organization each, at one server."""
    here = make(base_url, endpoint=list(accounts), **job)
    here.endpoints = {
        name: {"base_url": base_url, "api_key_env": f"KEY_{name}", "organization": f"org-{name}", **settings}
        for name, settings in accounts.items()
    }
    here.environ |= {f"KEY_{name}": f"key-{name}" for name in accounts}
    here.change()
    return here


def accounts(**settings: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": f"key-{name}", "organization": f"org-{name}", **more} for name, more in settings.items()]


def answered_by(here: Project) -> Counter[str]:
    return Counter(here.table().column("_endpoint").to_pylist())


def test_two_organizations_share_the_work_each_within_its_limits(project: Make) -> None:
    limits = {"a": {"requests_per_minute": 1200}, "b": {"requests_per_minute": 2400}}
    with simulator(accounts=accounts(**limits), latency_s=0.02) as server:
        here = pool(project, server.base_url, {name: {"limits": each} for name, each in limits.items()}, rows=240)
        began = time.monotonic()
        here.work()
        took_s = time.monotonic() - began
        stats = server.stats()
    here.assert_whole(240)
    assert stats["statuses"] == {"200": 240}, "no 429"
    shares = answered_by(here)
    assert shares["b"] == pytest.approx(2 * shares["a"], rel=0.15)
    assert took_s > 3.5, "60 a second in all"


@pytest.mark.parametrize("strategy", ["asyncio", "threads", {"name": "processes", "processes": 2}])
def test_an_endpoint_whose_quota_is_spent_leaves_and_nothing_is_lost(project: Make, strategy: Any) -> None:
    with simulator(accounts=accounts(a={"quota_after": 20}, b={}), latency_s=0.005) as server:
        here = pool(project, server.base_url, {"a": {}, "b": {}}, rows=120, strategy=strategy)
        summary = here.work()
        stats = server.stats()
    assert (summary.ok, summary.failed) == (120, 0)
    here.assert_whole(120)
    assert stats["statuses"]["200"] == 120, "no row was answered twice"
    assert answered_by(here) == {"a": 20, "b": 100}
    [warning] = here.manifest()["sessions"][0]["warnings"]
    assert warning.startswith("endpoint `a` left the pool: HTTP 429: You exceeded your current quota")
    assert warning.endswith("; going on with b")


def test_a_bad_key_leaves_too_and_none_left_is_fatal_and_can_be_resumed(project: Make) -> None:
    with simulator(accounts=accounts(a={"disabled": True}, b={"quota_after": 10})) as server:
        here = pool(project, server.base_url, {"a": {}, "b": {}}, rows=30)
        done = here.run(exits=4)
        assert "warning: endpoint `a` left the pool: HTTP 401" in done.stderr
        assert "stopped early (insufficient_quota)" in done.stdout
    with simulator(accounts=accounts(a={}, b={})) as server:
        here.endpoints = {name: {**each, "base_url": server.base_url} for name, each in here.endpoints.items()}
        here.change()
        assert here.work_on().ok == 30
    here.assert_whole(30)


def test_an_endpoint_that_is_down_is_left_alone_while_the_others_work(project: Make) -> None:
    with simulator(accounts=accounts(b={}), latency_s=0.05) as server:
        here = pool(project, server.base_url, {"a": {"base_url": "http://127.0.0.1:9/v1"}, "b": {}}, rows=100)
        assert here.work().ok == 100
    assert answered_by(here) == {"b": 100}


@pytest.mark.parametrize("strategy", ["asyncio", "threads"])
def test_an_endpoint_that_asks_for_a_long_wait_leaves_and_the_last_one_ends_the_run(
    project: Make, strategy: Any
) -> None:
    with simulator(faults={"rate_limit": 1}, retry_after_s=3000) as server:
        here = pool(project, server.base_url, {"a": {}, "b": {}}, rows=10, strategy=strategy)
        summary = here.work()
    assert (summary.status, summary.failed) == ("stopped", 0)
    manifest = here.manifest()
    assert manifest["stopped_by"]["kind"] == "server_pause"
    [warning] = manifest["sessions"][0]["warnings"]
    assert "left the pool: the server asks to wait 3000 s, longer than a row may take: HTTP 429" in warning


def test_a_rehearsal_of_a_pool_has_a_simulator_for_each_endpoint(project: Make) -> None:
    here = project(rows=60)
    here.endpoints = {
        name: {"base_url": "https://api.openai.com/v1", "api_key_env": "NOT_SET", "limits": {"concurrency": 4}}
        for name in ("a", "b")
    } | {"simulator": {"simulator": {"latency_s": 0.01}}}
    limits = {"concurrency": 4, "requests_per_minute": 1200.5, "enqueued_tokens": 5000}
    here.endpoints["b"] = {**here.endpoints["b"], "limits": limits}
    here.change(endpoint=["a", "b"])
    job = load_job(here.job_file, rehearse=True)
    assert [each.simulator and each.simulator.requests_per_minute for each in job.pool] == [None, 1201]
    assert [each.simulator and each.simulator.batches.enqueued_tokens for each in job.pool] == [None, 5000]
    here.run("--rehearse", "--quiet")
    assert set(answered_by(here)) == {"a", "b"}
    assert here.manifest()["rehearsal"] is True


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        (["there", "nowhere"], "there is no endpoint `nowhere` in "),
        (["there", "openai"], "a simulator and real endpoints cannot share a job"),
        ([], "`endpoint` must name at least one"),
    ],
)
def test_what_a_pool_may_be(project: Make, endpoint: Any, said: str) -> None:
    here = project(endpoint=endpoint)
    with pytest.raises(SpecError) as caught:
        load_job(here.job_file)
    assert said in str(caught.value)


# The budget -----------------------------------------------------------------------------------------------------------

PRICE = {"gpt-6-luna": {"input": 10.0, "cached_input": 1.0, "output": 50.0}}


def paid_usd(stats: dict[str, Any], share: float = 1.0) -> float:
    return (stats["tokens"]["input"] * 10 + stats["tokens"]["output"] * 50) * share / 1e6


@pytest.mark.parametrize(
    ("strategy", "rows", "share"),
    [("asyncio", 10_000, 0.25), ("threads", 2500, 1), ({"name": "processes", "processes": 2}, 2500, 1)],
)
def test_a_budget_of_half_a_dollar_for_a_job_of_two_is_never_exceeded(
    project: Make, strategy: Any, rows: int, share: float
) -> None:
    faults = {"server_error": 0.05, "invalid_reply": 0.05}
    with simulator(latency_s=0.1 if share < 1 else 0.05, faults=faults) as server:
        here = project(
            server.base_url, rows=rows, strategy=strategy, budget={"max_usd": 0.5},
            parameters={"max_output_tokens": 20}, limits={"concurrency": 256},
        )  # fmt: skip
        here.prices(**{model: {kind: usd * share for kind, usd in price.items()} for model, price in PRICE.items()})
        summary = here.work()
        stats = server.stats()
        assert summary.status == "stopped"
        paid = paid_usd(stats, share)
        assert 0.48 <= paid <= 0.5
        assert stats["max_in_flight"] > (150 if share < 1 else 30), "many are in flight when the cap comes near"
        assert here.manifest()["stopped_by"]["kind"] == "budget"
        [session] = here.manifest()["sessions"]
        assert session["spent_usd"] == pytest.approx(paid, abs=1e-6)
        assert summary.cost_usd is not None
        assert summary.cost_usd <= paid + 1e-6, "what was paid for unfit answers of rows without a result is not in it"
        done = summary.ok
        assert 0 < done < rows / 3

        here.change(budget={"max_usd": 0.6})  # not a change of the answers
        assert here.work_on().ok > done
        assert 0.58 <= paid_usd(server.stats(), share) <= 0.6


def test_a_budget_of_tokens_needs_no_price(project: Make) -> None:
    with simulator() as server:
        here = project(server.base_url, rows=50, budget={"max_tokens": 100_000}, parameters={"max_output_tokens": 20})
        here.prices(other=PRICE["gpt-6-luna"])
        assert here.work().ok == 50
        tokens = server.stats()["tokens"]
    [session] = here.manifest()["sessions"]
    assert session["spent_tokens"] == tokens["input"] + tokens["output"], "what was used, not what was set aside"


def test_what_a_worker_never_sent_because_the_run_stops_is_not_spent(project: Make) -> None:
    with simulator(latency_s=0.02) as server:
        here = project(
            server.base_url, rows=5000, budget={"max_tokens": 10_000_000}, parameters={"max_output_tokens": 20},
            strategy={"name": "processes", "processes": 2}, limits={"concurrency": 64},
        )  # fmt: skip
        process = here.start("run", here.job_file, "--quiet")
        until(lambda: server.stats()["statuses"].get("200", 0) >= 200)
        process.send_signal(signal.SIGINT)
        here.end(process, exits=130)
        tokens = server.stats()["tokens"]
    assert here.manifest()["sessions"][0]["spent_tokens"] == tokens["input"] + tokens["output"]


def test_a_budget_holds_over_kills(project: Make) -> None:
    with simulator(latency_s=0.05, faults={"invalid_reply": 0.3}) as server:
        here = project(
            server.base_url, rows=3000, budget={"max_usd": 0.5}, parameters={"max_output_tokens": 20},
            limits={"concurrency": 16},
        )  # fmt: skip
        here.prices(**PRICE)
        process = here.start("run", here.job_file, "--quiet")
        for answers in (60, 120, 180):
            while server.stats()["statuses"].get("200", 0) < answers:
                assert process.poll() is None
            here.kill(process)
            process = here.start("resume", here.latest, "--quiet")
        here.end(process, exits=4)
        assert 0.2 < paid_usd(server.stats()) <= 0.5
        manifest = here.manifest()
        assert manifest["stopped_by"]["kind"] == "budget"
        counted = sum(session["spent_usd"] for session in manifest["sessions"])
        assert paid_usd(server.stats()) <= counted <= 0.5, "what was in flight at a kill counts in full"


def test_a_budget_a_day_counts_the_jobs_other_runs(project: Make) -> None:
    with simulator() as server:
        here = project(server.base_url, rows=20, budget={"daily_usd": 0.03}, parameters={"max_output_tokens": 20})
        here.prices(**PRICE)
        first = here.work()
        assert first.status == "finished"
        second = here.work()
        assert second.status == "stopped"
        assert first.cost_usd is not None
        assert paid_usd(server.stats()) <= 0.03
    assert "a day is reached" in here.manifest()["stopped_by"]["message"]
    assert report(Manifest.load(second.folder), second.folder).endswith(" --set budget.KEY=VALUE")


def test_what_no_row_tells_counts_in_the_budget_of_a_day(project: Make) -> None:
    with simulator(faults={"no_usage": 1}) as server:
        here = project(server.base_url, rows=60, budget={"daily_usd": 0.02}, parameters={"max_output_tokens": 20})
        here.prices(**PRICE)
        answered = here.work().ok
        assert answered > 0
        assert here.work().ok == 0, "another run of the day"
        assert server.stats()["statuses"] == {"200": answered}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "unheard-of"}, "`budget.max_usd` cannot be kept: the price of `unheard-of` is not known"),
        ({"parameters": {}}, "`budget` cannot be kept: nothing bounds the length of an answer"),
        (
            {"parameters": {"max_output_tokens": None}},
            "`budget` cannot be kept: nothing bounds the length of an answer",
        ),
        ({"budget": {"max_usd": 0}}, "`budget.max_usd` must be more than 0, got 0"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(project: Make, change: dict[str, Any], said: str) -> None:
    here = project(**{"budget": {"max_usd": 5}, "parameters": {"max_output_tokens": 20}} | change)
    here.prices(**PRICE)
    with pytest.raises(SpecError) as caught:
        load_job(here.job_file)
    assert said in str(caught.value)
