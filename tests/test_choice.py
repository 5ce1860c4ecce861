"""What `strategy: auto` takes and why: each rule, the edges of each margin, and that a run keeps to its choice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from project import Project, simulator

from runner.choice import WAYS, Choice, Way, choose, needs_s, settle
from runner.deadline import parse
from runner.dry_run import dry_run
from runner.load import load_job
from runner.plan import make_plan
from runner.problems import SpecErrors
from runner.snapshot import as_run, changed

SHIPPED = Path(__file__).parent.parent / "configs" / "models.yaml"
NOW_US = 1_795_208_400_000_000  # 2026-11-20 21:00 in UTC
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S

Make = Callable[..., Project]
Zone = Callable[[str], None]


@pytest.fixture(autouse=True)
def at_home(zone: Zone) -> None:
    zone("UTC")


def ways(live_s: float, standard_usd: float = 2.0, **refused: str) -> list[Way]:
    """All ways of a job that costs so much at the standard price, or half of it, and takes so long live."""
    half, full = standard_usd / 2, standard_usd
    costs = {"standard": (full, full), "flex": (half, half), "batch": (half, half), "hybrid": (half, full)}
    return [
        Way(name, costs[name], (costs[name][1], costs[name][0]), needs_s(name, live_s), refused.get(name))
        for name in WAYS
    ]


def chosen(live_s: float, deadline: str | None = None, **refused: str) -> Choice:
    return choose(ways(live_s, **refused), None if deadline is None else parse(deadline), NOW_US)


NO_FLEX = {"flex": "it has none"}
NO_BATCH = {"batch": "it has none", "hybrid": "it has none"}


# The rules ------------------------------------------------------------------------------------------------------------


def test_how_far_away_a_deadline_must_be() -> None:
    """Of 1,000 s of live work: a quarter more; at flex twice; after batches also a quarter of an hour to end them."""
    needs = {name: needs_s(name, 1000) for name in WAYS}
    assert needs == {"standard": 1250, "flex": 2000, "batch": DAY_S, "hybrid": 2150}


@pytest.mark.parametrize(
    ("live_s", "refused", "way"),
    [
        (60, {}, "flex"),  # which costs the same as batch, and is done sooner
        (DAY_S, {}, "batch"),  # which is done sooner than flex
        (60, NO_FLEX, "batch"),
        (60, NO_BATCH, "flex"),
        (60, NO_FLEX | NO_BATCH, "standard"),
    ],
)
def test_without_a_deadline_the_cheapest(live_s: float, refused: dict[str, str], way: str) -> None:
    found = chosen(live_s, **refused)
    assert (found.way, found.warning) == (way, None)


@pytest.mark.parametrize(
    ("deadline", "refused", "way"),
    [
        # an hour of live work
        ("3h", {}, "flex"),
        ("2h", {}, "flex"),
        ("1h59m", {}, "hybrid"),
        ("1h30m", {}, "hybrid"),
        ("1h29m", {}, "standard"),
        ("1h15m", {}, "standard"),
        ("23h", NO_FLEX, "hybrid"),
        ("24h", NO_FLEX, "batch"),
        ("24h", {}, "flex"),
        ("1h59m", NO_BATCH, "standard"),
        ("1h59m", NO_BATCH | NO_FLEX, "standard"),
        ("06:00", NO_FLEX, "hybrid"),
        ("2026-11-21T21:00", NO_FLEX, "batch"),
        ("2026-11-21T21:59+01:00", NO_FLEX, "hybrid"),
    ],
)
def test_the_cheapest_that_meets_the_deadline(deadline: str, refused: dict[str, str], way: str) -> None:
    found = chosen(HOUR_S, deadline, **refused)
    assert (found.way, found.warning) == (way, None)


@pytest.mark.parametrize(
    ("live_s", "deadline", "refused", "way", "warning"),
    [
        (
            HOUR_S, "1h", {}, "standard",
            "the deadline 1h (2026-11-20 22:00, in 1 h 0 min) cannot be met: "
            "standard would finish at about 2026-11-20 22:15",
        ),
        (
            3 * DAY_S, "06:00", {}, "batch",
            "the deadline 06:00 (2026-11-21 06:00, in 9 h 0 min) cannot be met: "
            "batch would finish at about 2026-11-21 21:00",
        ),
        (
            3 * DAY_S, "06:00", NO_BATCH, "standard",
            "the deadline 06:00 (2026-11-21 06:00, in 9 h 0 min) cannot be met: "
            "standard would finish at about 2026-11-24 15:00",
        ),
        (
            60, "2026-11-20T20:00", {}, "standard",
            "the deadline 2026-11-20T20:00 (2026-11-20 20:00, 1 h 0 min ago) cannot be met: "
            "standard would finish at about 2026-11-20 21:01",
        ),
    ],
)  # fmt: skip
def test_where_none_meets_it_the_fastest_and_a_warning(
    live_s: float, deadline: str, refused: dict[str, str], way: str, warning: str
) -> None:
    found = chosen(live_s, deadline, **refused)
    assert (found.way, found.warning, found.reason) == (way, warning, "the fastest way")


def test_what_costs_nothing_is_done_the_fastest_way() -> None:
    assert choose(ways(60, 0.0), None, NOW_US).way == "standard"


def test_without_a_price_it_is_sent_live_and_said_why() -> None:
    unknown = [replace(way, cost_usd=(None, None), rank_usd=(0.0, 0.0)) for way in ways(60)]
    found = choose(unknown, parse("8h"), NOW_US, ["gpt-7"])
    assert (found.way, found.warning) == ("standard", None)
    assert found.reason == "configs/models.yaml has no price for `gpt-7`, so nothing is known to be cheaper"
    late = choose(unknown, parse("10s"), NOW_US, ["gpt-7"])
    assert late.way == "standard"
    assert "cannot be met" in str(late.warning)


def test_what_makes_a_job_go_that_way() -> None:
    flex = {"strategy": '"asyncio"', "parameters.service_tier": "flex"}
    assert chosen(60).overrides == flex
    assert chosen(60, "8h").overrides == flex | {"retry.flex_fallback": "standard"}, "a deadline does not wait for room"
    assert chosen(60, **NO_FLEX).overrides == {"strategy": '"batch_api"'}
    assert chosen(60, **NO_FLEX, **NO_BATCH).overrides == {"strategy": '"asyncio"'}
    hybrid = chosen(60, "06:00", **NO_FLEX).overrides
    assert json.loads(hybrid["strategy"]) == {"name": "batch_api", "deadline": "06:00", "finish_with": "asyncio"}
    assert list(hybrid) == ["strategy"]


# In words -------------------------------------------------------------------------------------------------------------


def test_as_text_with_a_deadline() -> None:
    assert chosen(HOUR_S, "06:00", flex="`m` is not offered at flex").text() == "\n".join(
        [
            "auto takes hybrid: the cheapest way that meets the deadline 06:00 (2026-11-21 06:00, in 9 h 0 min)",
            "  way       cost                done",
            "  batch     $1.0000             within 24 h                   too late",
            "* hybrid    $1.0000 to $2.0000  by the deadline",
            "  standard  $2.0000             within 1 h 15 min",
            "  flex      $1.0000             within 2 h 0 min, no promise  `m` is not offered at flex",
        ]
    )


def test_as_text_without_one() -> None:
    assert chosen(60).text() == "\n".join(
        [
            "auto takes flex: the cheapest way, and the soonest of those that cost the same",
            "  way       cost                done",
            "* flex      $1.0000             within 2 min 0 s, no promise",
            "  batch     $1.0000             within 24 h",
            "  standard  $2.0000             within 1 min 15 s",
            "  hybrid    $1.0000 to $2.0000  by the deadline               takes a deadline",
        ]
    )


def test_as_text_where_it_cannot_be_met() -> None:
    lines = chosen(60, "10s", **NO_BATCH).text().splitlines()
    assert lines[0] == "auto takes standard: the fastest way"
    assert lines[2:4] == [
        "  flex      $1.0000             within 2 min 0 s, no promise  too late",
        "* standard  $2.0000             within 1 min 15 s             too late",
    ]
    assert lines[-1] == (
        "warning: the deadline 10s (2026-11-20 21:00, in 10.0 s) cannot be met: "
        "standard would finish at about 2026-11-20 21:01"
    )


# Of a job -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A job of 600 rows, each of 1,000 tokens of input, that takes ten minutes under its limits."""
    made = Project(
        tmp_path / "project",
        prompt={"user": "{{ text }}"},
        output={"labels": None},
        parameters={"max_output_tokens": 100},
        limits={"requests_per_minute": 60},
        strategy="auto",
    )
    shutil.copy(SHIPPED, made.folder / "configs")
    made.rows({"id": i, "text": "word" * 1000} for i in range(600))
    monkeypatch.chdir(made.folder)
    return made


def settled(here: Project, **overrides: str) -> tuple[Any, Choice]:
    """The job's plan with what `auto` chose in its place, and the choice."""
    plan = make_plan(load_job(here.job_file, overrides=overrides))
    found, choice = settle(plan, plan.survey(), NOW_US)
    assert choice is not None
    return found, choice


def test_costs_and_forecasts_of_a_job(here: Project) -> None:
    _, choice = settled(here)
    found = {way.name: (way.cost_usd, way.needs_s) for way in choice.ways}
    assert found == {
        "flex": ((0.030_15, 0.045), 1200.0),  # 600 x (1,000 x 0.10 + 1 or 100 x 0.50) / 2
        "batch": ((0.030_15, 0.045), DAY_S),
        "standard": ((0.060_3, 0.09), 750.0),
        "hybrid": ((0.030_15, 0.09), 1650.0),
    }
    _, both = settled(here, model="[gpt-6-luna, gpt-4o-mini]")  # the second at 0.15 and 0.60; one limit for both
    found = {way.name: (way.cost_usd, way.needs_s) for way in both.ways}
    assert found["standard"] == ((0.060_3 + 0.090_36, 0.09 + 0.126), 1500.0)
    assert (both.way, {way.name: way.refused for way in both.ways}["flex"]) == (
        "batch",
        "`gpt-4o-mini` is not offered at flex",
    )


def test_batches_that_wait_for_each_other_take_a_window_each(here: Project) -> None:
    """There are 600,000 tokens of input."""
    for enqueued, hours in ((600_000, 24), (599_999, 48), (100_000, 144)):
        _, choice = settled(here, **{"limits.enqueued_tokens": str(enqueued)})
        [batch] = [way for way in choice.ways if way.name == "batch"]
        assert (batch.needs_s, batch.done) == (hours * HOUR_S, f"within {hours} h")
    _, choice = settled(here, strategy="{name: auto, deadline: 30h}", model="gpt-4o-mini")
    assert choice.way == "batch"
    late = {"strategy": "{name: auto, deadline: 30h}", "limits.enqueued_tokens": "500000"}
    _, choice = settled(here, model="gpt-4o-mini", **late)
    assert choice.way == "hybrid"


def test_without_a_longest_answer_the_ways_are_still_told_apart(here: Project) -> None:
    here.change(parameters={"max_output_tokens": None})
    _, choice = settled(here, strategy="{name: auto, deadline: 27m30s}")
    assert choice.way == "flex"
    _, choice = settled(here, strategy="{name: auto, deadline: 27m30s}", model="gpt-4o-mini")
    assert [way.name for way in choice.ways] == ["batch", "hybrid", "standard", "flex"]
    assert choice.way == "hybrid"
    assert choice.ways[0].cost_usd == (0.045_18, None)


@pytest.mark.parametrize(
    ("overrides", "way", "refused"),
    [
        ({}, "flex", {"hybrid": "takes a deadline"}),
        (
            {"model": "gpt-7"},
            "standard",
            dict.fromkeys(("flex",), "`gpt-7` is not known to be offered at flex")
            | dict.fromkeys(("batch", "hybrid"), "`gpt-7` is not known to be offered at batch"),
        ),
        (
            {"model": "gpt-4o-mini"},
            "batch",
            {"flex": "`gpt-4o-mini` is not offered at flex", "hybrid": "takes a deadline"},
        ),
    ],
)
def test_what_cannot_be_taken_is_said_with_the_reason(
    here: Project, overrides: dict[str, str], way: str, refused: dict[str, str]
) -> None:
    _, choice = settled(here, **overrides)
    assert choice.way == way
    assert {way.name: way.refused for way in choice.ways if way.refused is not None} == refused


def test_the_decisions_api_has_no_tiers(here: Project) -> None:
    here.job["parameters"] = {}
    here.change(api="decisions", output={"labels": ["a", "b"]})
    _, choice = settled(here)
    assert (choice.way, choice.reason) == ("standard", "no other way can be taken")
    assert {way.refused for way in choice.ways if way.name != "standard"} == {"not on `api: decisions`"}


def test_the_chosen_job_is_as_if_it_had_been_asked_for(here: Project) -> None:
    plan, _ = settled(here)
    assert (plan.job.spec.strategy, plan.job.spec.parameters) == (
        "asyncio",
        {"max_output_tokens": 100, "service_tier": "flex"},
    )
    assert plan.job.overrides == {"strategy": '"asyncio"', "parameters.service_tier": "flex"}
    assert {tariff.asked_tier for tariff in plan.tariffs} == {"flex"}

    here.change(strategy={"name": "auto", "deadline": "1h"})
    asked = {"strategy.deadline": "8h", "limits.concurrency": "3", "model": "gpt-4o-mini"}
    plan, _ = settled(here, **asked)
    assert plan.job.spec.strategy == {"name": "batch_api", "deadline": "8h", "finish_with": "asyncio"}
    assert str(plan.job.options.deadline) == "8h"
    assert (plan.job.limits.concurrency, plan.job.spec.models) == (3, ("gpt-4o-mini",))
    assert set(plan.job.overrides) == {"limits.concurrency", "model", "strategy"}


def test_any_other_strategy_stays(here: Project) -> None:
    plan = make_plan(load_job(here.job_file, overrides={"strategy": "threads"}))
    assert settle(plan, plan.survey(), NOW_US) == (plan, None)


def test_the_tier_is_for_auto_to_choose(here: Project) -> None:
    here.change(parameters={"service_tier": "priority"})
    with pytest.raises(SpecErrors) as caught:
        settled(here)
    [problem] = caught.value.problems
    assert problem.message == "`parameters.service_tier` and `strategy: auto` exclude each other"
    assert problem.hint == "leave it out: `auto` chooses the tier; or name a strategy, such as `asyncio`"
    assert (problem.place, str(problem.excerpt).strip()) == ("job.yaml", "service_tier: priority")


def test_a_dry_run_shows_what_it_would_take(here: Project) -> None:
    found = dry_run(here.job_file, {"strategy": "{name: auto, deadline: 06:00}", "model": "gpt-4o-mini"}, now_us=NOW_US)
    lines = found.text().splitlines()
    assert "  cost      about $0.0452 to $0.1260" in lines
    assert "  time      by the deadline: as batches, and live what is left of them" in lines
    at = "(2026-11-21 06:00, in 9 h 0 min)"
    assert f"  auto takes hybrid: the cheapest way that meets the deadline 06:00 {at}" in lines
    assert json.loads(json.dumps(found.as_json()))["auto"]["way"] == "hybrid"
    batch = dry_run(here.job_file, {"strategy": "batch_api"}).text().splitlines()
    assert "  cost      about $0.0301 to $0.0450" in batch
    assert "  time      up to 24 h, as batches" in batch


# Of a run -------------------------------------------------------------------------------------------------------------


def test_a_run_keeps_to_its_choice_when_it_is_resumed(project: Make) -> None:
    with simulator(quota_after=60) as broke:
        here = project(broke.base_url, strategy={"name": "auto", "deadline": "8h"})
        shutil.copy(SHIPPED, here.folder / "configs")
        done = here.run(exits=4)
    assert "auto takes flex: the cheapest way that meets the deadline 8h (" in done.stderr
    assert "  auto      flex: the cheapest way that meets the deadline 8h (" in done.stdout
    record = here.manifest()
    assert (record["sessions"][0]["strategy"], record["spec"]["strategy"]) == ("asyncio", "asyncio")
    assert record["spec"]["parameters"] == {"service_tier": "flex"}
    tier = {"parameters.service_tier": "flex", "retry.flex_fallback": "standard"}
    assert record["overrides"] == {"strategy": '"asyncio"', **tier}
    assert record["spec"]["retry"]["timeout_s"] == 900
    assert record["choice"]["way"] == "flex"
    assert {way["name"] for way in record["choice"]["ways"]} == set(WAYS)
    with simulator(port=int(broke.base_url.split(":")[2].split("/")[0])) as server:
        refused = here.runner("resume", "--strategy", "auto", exits=2)
        assert refused.error.startswith("error: `auto` chooses when a run begins, and this one has begun\n")
        assert "hint: name what continues it, such as `--strategy asyncio`" in refused.error
        assert server.stats()["requests"] == 0
        here.change(strategy={"name": "auto", "deadline": "2026-01-01T00:00"})  # would be a choice of `standard`
        resumed = here.runner("resume")
        assert server.stats()["requests"] == 40
    assert "auto takes" not in resumed.stderr
    here.assert_whole(100)
    record = here.manifest()
    assert record["spec"]["parameters"] == {"service_tier": "flex"}
    assert record["sessions"][1]["strategy"] == "asyncio"


def test_a_deadline_that_cannot_be_met_is_said_at_the_start_and_in_the_report(project: Make) -> None:
    here = project(strategy={"name": "auto", "deadline": "2026-01-01T00:00"}, rows=5)
    shutil.copy(SHIPPED, here.folder / "configs")
    done = here.run()
    assert "\nwarning: the deadline 2026-01-01T00:00 (2026-01-01 00:00, " in done.stderr
    assert "  auto      standard: the fastest way\n  warning   the deadline 2026-01-01T00:00 (" in done.stdout
    assert here.manifest()["choice"]["warning"].startswith("the deadline 2026-01-01T00:00 (")


def test_a_rehearsal_chooses_by_the_prices_of_the_model(project: Make) -> None:
    here = project("http://localhost:9/v1", strategy="auto", rows=5)
    here.prices()
    done = here.run("--rehearse")
    assert "auto takes standard: no other way can be taken" in done.stderr  # no traits in that table
    shutil.copy(SHIPPED, here.folder / "configs")
    done = here.run("--rehearse")
    assert "auto takes flex: the cheapest way" in done.stderr
    assert here.manifest()["spec"]["parameters"] == {"service_tier": "flex"}


@pytest.mark.parametrize(("deadline", "way"), [(None, "batch"), ("2h", "hybrid")])
def test_where_batches_are_the_cheapest_the_run_is_made_in_batches(
    project: Make, deadline: str | None, way: str
) -> None:
    here = project(rows=20, model="gpt-4o-mini", strategy={"name": "auto", "deadline": deadline})
    here.endpoint = {"simulator": {"latency_s": 0, "batches": {"speed": 20_000, "duration_s": 1800}}}
    here.change()
    shutil.copy(SHIPPED, here.folder / "configs")
    assert here.work().status == "finished"
    record = here.manifest()
    assert (record["choice"]["way"], record["sessions"][0]["strategy"]) == (way, "batch_api")
    assert set(here.table().column("_status").to_pylist()) == {"ok"}
    tokens = record["summary"]["tokens"]
    half = (tokens["input"] * 0.15 + tokens["output"] * 0.60) / 1e6 / 2
    assert record["summary"]["cost_usd"] == pytest.approx(half, rel=0.01)


def test_a_run_without_a_price_is_sent_live(project: Make) -> None:
    here = project(strategy="auto", rows=5)
    assert here.work().status == "finished"
    choice = here.manifest()["choice"]
    assert choice["reason"].startswith("configs/models.yaml has no price for `gpt-6-luna`")
    assert here.manifest()["sessions"][0]["strategy"] == "asyncio"


def test_explain_takes_a_job_with_auto(project: Make) -> None:
    here = project(strategy="auto", rows=5)
    here.work()
    done = here.runner("explain", here.job_file, "--row", "r00003")
    assert "would be reused from run" in done.stdout


def test_a_run_may_go_on_at_another_tier(here: Project) -> None:
    old = as_run(load_job(here.job_file, overrides={"parameters.service_tier": "flex"}, environ=os.environ))
    assert changed(old, as_run(load_job(here.job_file, environ=os.environ))) == []
    other = {"parameters.service_tier": "flex", "parameters.max_output_tokens": "50"}
    assert changed(old, as_run(load_job(here.job_file, overrides=other, environ=os.environ))) == [
        "parameters.max_output_tokens"
    ]
