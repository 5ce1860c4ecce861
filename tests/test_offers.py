"""What a job could be run with: which models and tiers fit, what they cost, when they are done, how it is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import Project

from runner.dry_run import dry_run
from runner.offers import Comparison, compare_offers

SHIPPED = Path(__file__).parent.parent / "configs" / "models.yaml"
TODAY = date(2026, 11, 20)
ROWS = 10


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A job of 10 rows, each of 1,000 tokens of input and 1 to 100 of output."""
    made = Project(
        tmp_path / "project",
        prompt={"user": "{{ text }}"},
        output={"labels": None},
        parameters={"max_output_tokens": 100},
        limits={"requests_per_minute": 60},
    )
    shutil.copy(SHIPPED, made.folder / "configs")
    made.rows({"id": i, "text": "word" * 1000} for i in range(ROWS))
    monkeypatch.chdir(made.folder)
    return made


def compared(here: Project, today: date = TODAY, **overrides: str) -> Comparison:
    return compare_offers(here.job_file, overrides, today)


def table(found: Comparison) -> dict[tuple[str, str], tuple[float | None, float | None]]:
    return {(offer.model, offer.tier): offer.cost_usd for offer in found.offers}


def test_costs_computed_by_hand(here: Project) -> None:
    costs = table(compared(here))
    assert costs["gpt-6-luna", "standard"] == (0.001_005, 0.001_5)  # 10 x (1,000 x 0.10 + 1 or 100 x 0.50)
    assert costs["gpt-6-luna", "flex"] == (0.000_503, 0.000_75)  # half
    assert costs["gpt-6-luna", "batch"] == (0.000_503, 0.000_75)
    assert costs["gpt-6-luna", "hybrid"] == (0.000_503, 0.001_5)  # between half and full
    assert costs["gpt-6-sol", "standard"] == (0.020_1, 0.03)  # 10 x (1,000 x 2.00 + 1 or 100 x 10.00)
    assert costs["gpt-4o-mini", "standard"] == (0.001_506, 0.002_1)  # 10 x (1,000 x 0.15 + 1 or 100 x 0.60)


def test_models_and_tiers_the_cheapest_first_and_the_jobs_own_marked(here: Project) -> None:
    found = compared(here)
    assert [offer.tier for offer in found.offers if offer.model == "gpt-4o-mini"] == ["batch", "hybrid", "standard"]
    assert len(found.offers) == 7 * 4 - 1  # one of them is not offered at flex
    highest = [offer.cost_usd[1] for offer in found.offers]
    assert highest == sorted(highest, key=float)  # type: ignore[arg-type]
    assert [(offer.model, offer.tier) for offer in found.offers if offer.chosen] == [("gpt-6-luna", "standard")]
    assert found.unfit == {}


def test_the_earliest_finish(here: Project) -> None:
    finish = {offer.tier: (offer.finish, offer.earliest_finish_s) for offer in compared(here).offers}
    assert finish == {
        "standard": ("10.0 s or more", 10.0),
        "flex": ("10.0 s or more, no promise", 10.0),
        "batch": ("up to 24 h", None),
        "hybrid": ("by its deadline", None),
    }
    unlimited = compared(here, **{"limits.requests_per_minute": "null"})
    finishes = {"no limit set", "no limit set, no promise", "up to 24 h", "by its deadline"}
    assert {offer.finish for offer in unlimited.offers} == finishes


def test_models_that_do_not_take_the_jobs_parameters_are_left_out_and_it_is_said_why(here: Project) -> None:
    found = compared(here, parameters="{reasoning: {effort: none}, temperature: 0, max_output_tokens: 100}")
    refused = '`parameters.reasoning.effort` must be `low`, `medium`, `high`, `xhigh` or `max` for `{}`, got "none"'
    assert found.unfit == {
        "gpt-6-astra": refused.format("gpt-6-astra"),
        "gpt-6.1-sol": refused.format("gpt-6.1-sol"),
        "gpt-4o-mini": "`parameters.reasoning` is refused by `gpt-4o-mini`, which does not reason",
    }
    assert {offer.model for offer in found.offers} == {"gpt-6-luna", "gpt-6-sol", "gpt-5.6-luna", "gpt-5.6-terra"}


def test_a_tier_that_a_model_is_not_offered_at_does_not_rule_the_model_out(here: Project) -> None:
    found = compared(here, **{"parameters.service_tier": "flex"})
    assert [(o.model, o.tier) for o in found.offers if o.chosen] == [("gpt-6-luna", "flex")]
    assert ("gpt-4o-mini", "standard") in table(found)
    batches = [offer.notes for offer in found.offers if offer.tier == "batch" and offer.model == "gpt-6-luna"]
    assert batches == [("leave out `service_tier`",)]


def test_the_jobs_own_tier_is_there_whatever_it_is(here: Project) -> None:
    costs = table(compared(here, **{"parameters.service_tier": "priority"}))
    assert costs["gpt-6-luna", "priority"] == (0.002_01, 0.003)  # twice
    assert [tier for _, tier in costs if tier not in ("standard", "flex", "batch", "hybrid")] == ["priority"]


def test_a_model_that_ends_soon_says_so_and_one_that_has_ended_is_left_out(here: Project) -> None:
    notes = {offer.notes for offer in compared(here).offers if offer.model == "gpt-4o-mini"}
    assert notes == {("ends on 2027-01-14",)}
    later = compared(here, date(2027, 1, 14))
    assert later.unfit == {"gpt-4o-mini": "it ended on 2027-01-14"}
    own = compared(here, date(2027, 1, 14), model="gpt-4o-mini")
    assert [o.notes for o in own.offers if o.chosen] == [("this job", "ended on 2027-01-14")]


def test_a_model_without_a_price_comes_last(here: Project) -> None:
    last = compared(here, model="gpt-7").offers[-1]
    assert (last.model, last.tier, last.cost_usd, last.chosen) == ("gpt-7", "standard", (None, None), True)


def test_a_dated_name_stands_for_its_model(here: Project) -> None:
    models = {offer.model for offer in compared(here, model="gpt-6-luna-2026-10-06").offers}
    assert "gpt-6-luna-2026-10-06" in models
    assert "gpt-6-luna" not in models


def remark(found: Comparison) -> list[str]:
    return [sentence for sentence in found.remarks if "decisions" in sentence]


def test_what_the_decisions_api_would_save_where_the_answer_is_a_label(here: Project) -> None:
    assert remark(compared(here)) == []  # plain text
    here.change(output={"labels": ["physics", "mathematics"]}, parameters={"max_output_tokens": 2000})
    # 10 x 0.10 x (1,000 and the schema's tokens) either way; answers of 5 to 2,000 tokens at 0.50 are saved
    [line] = remark(compared(here))
    assert line.endswith("gpt-6-luna for $0.0010: that saves $0.000025 to $0.0100.")
    [line] = remark(compared(here, **{"parameters.service_tier": "flex"}))  # which costs half
    assert line.endswith("gpt-6-luna for $0.0010: that saves up to $0.0045.")
    assert remark(compared(here, model="gpt-6-sol")) == []  # it is not on that API


def test_as_text_it_fits_100_columns(here: Project) -> None:
    here.change(parameters={"max_output_tokens": None, "reasoning": {"effort": "none"}})
    long_name = "organization/" + "a-model-with-a-very-long-name" * 3
    for overrides in ({}, {"model": long_name}, {"parameters.service_tier": "priority"}):
        text = compared(here, **overrides).text()
        assert max(map(len, text.splitlines())) <= 100


def test_as_text(here: Project) -> None:
    prices: dict[str, Any] = {"input": 0.1, "output": 0.5, "reasoning": True, "batch": True, "shutdown": "2026-12-11"}
    models = {"tiers": {"batch": 0.5}, "models": {"gpt-6-luna": prices, "other": {"input": 2.0, "output": 10.0}}}
    (here.folder / "configs" / "models.yaml").write_text(yaml.safe_dump(models))
    assert compared(here).text() == "\n".join(
        [
            "job: what it would take, nothing was sent",
            "",
            "  10 rows, about 10,000 tokens in, 10 to 1,000 out, with `api: responses`",
            "",
            "  model       tier      cost                 earliest finish",
            "  gpt-6-luna  batch     $0.0005 to $0.00075  up to 24 h       ends on 2026-12-11",
            "  gpt-6-luna  hybrid    $0.0005 to $0.0015   by its deadline  ends on 2026-12-11",
            "* gpt-6-luna  standard  $0.0010 to $0.0015   10.0 s or more   this job; ends on 2026-12-11",
            "  other       standard  $0.0201 to $0.0300   10.0 s or more",
            "",
            "  cost: from the shortest answers that fit to the longest allowed. 4 characters count as a token,",
            "    nothing is cached, no row is sent twice.",
            "  `strategy: auto` would take batch: the cheapest way.",
            "  earliest finish: what the job's limits allow, the same for every model; the server's own time",
            "    comes on top.",
            "  Caching may make it cheaper, or with a price for writing dearer; it cannot be promised, so it is",
            "    left out.",
            "  batch is `strategy: batch_api`; hybrid is that with `deadline` and `finish_with: asyncio`: what is",
            "    not done in time is sent live, at the standard price. Its deadline must be 15 min 12 s away or",
            "    more.",
        ]
    )


# 2026-11-20 21:00 in UTC
NOW_US = 1_795_208_400_000_000


def test_which_of_them_auto_would_take_with_the_deadline_of_the_job(here: Project, zone: Callable[[str], None]) -> None:
    zone("UTC")

    def auto(**overrides: str) -> tuple[str, list[str], list[str]]:
        found = compare_offers(here.job_file, overrides, TODAY, now_us=NOW_US)
        own = [offer.tier for offer in found.offers if offer.chosen]
        return found.auto.way, own, [line for line in found.remarks if "auto" in line or "warning" in line]

    cheapest = "the cheapest way, and the soonest of those that cost the same."
    assert auto() == ("flex", ["standard"], [f"`strategy: auto` would take flex: {cheapest}"])
    assert auto(strategy="auto") == ("flex", ["flex"], [f"`auto` takes flex: {cheapest}"])
    way, own, said = auto(strategy="{name: auto, deadline: 06:00}", model="gpt-4o-mini")
    assert (way, own) == ("hybrid", ["hybrid"])
    meets = "the cheapest way that meets the deadline 06:00 (2026-11-21 06:00, in 9 h 0 min)."
    assert said == [f"`auto` takes hybrid: {meets}"]
    way, own, said = auto(strategy="{name: auto, deadline: 5s}", model="gpt-4o-mini")
    assert (way, own) == ("standard", ["standard"])
    assert said == [
        "`auto` takes standard: the fastest way.",
        "warning: the deadline 5s (2026-11-20 21:00, in 5.0 s) cannot be met: "
        "standard would finish at about 2026-11-20 21:00.",
    ]
    batches = "{name: batch_api, deadline: 2h, finish_with: asyncio}"
    assert auto(strategy=batches)[:2] == ("flex", ["hybrid"])
    assert auto(strategy="batch_api")[:2] == ("flex", ["batch"])


def test_the_command(here: Project) -> None:
    done = here.runner("plan", here.job_file, "--set", "model=gpt-6-sol", "--json")
    found = json.loads(done.stdout)
    [own] = [offer for offer in found["offers"] if offer["chosen"]]
    assert (own["model"], own["tier"], own["cost_usd"]) == ("gpt-6-sol", "standard", [0.0201, 0.03])
    assert (found["rows"], found["input_tokens"], found["input_tokens_range"]) == (10, 10_000, [10_000, 10_000])


# The dry run tells the same of the job as it is -----------------------------------------------------------------------


def test_a_dry_run_agrees_with_the_offer_that_the_job_has_chosen(here: Project) -> None:
    hybrid = "{name: batch_api, deadline: 8h, finish_with: asyncio}"
    strategies = [{"strategy": strategy} for strategy in ("batch_api", hybrid, "auto", "{name: auto, deadline: 1m}")]
    for overrides in ({}, {"parameters.service_tier": "flex"}, {"model": "gpt-4o-mini"}, *strategies):
        [own] = [offer for offer in compared(here, **overrides).offers if offer.chosen]
        found = dry_run(here.job_file, overrides, TODAY)
        assert (found.cost_usd, found.earliest_finish_s) == (own.cost_usd, own.earliest_finish_s)


def test_a_dry_run_of_a_sample_gives_a_range_and_says_what_it_is(here: Project) -> None:
    here.rows({"id": i, "text": "word" * (500 if i % 2 else 1500)} for i in range(400))
    found = dry_run(here.job_file, {"model": "gpt-4o-mini"}, TODAY)
    assert (found.rows, found.sample, found.sampled_all) == (400, 200, False)
    low, high = found.input_tokens_range
    # the error of the mean is about 1.97 x 500 x sqrt((1 - 200 / 400) / 200) = 49.25
    assert (high - low) / 2 == pytest.approx(400 * 49.25, rel=0.02)
    assert low < found.input_tokens < high
    assert (found.input_tokens - low, high - found.input_tokens) == pytest.approx((19_700, 19_700), rel=0.02)
    lines = found.text().splitlines()
    assert lines[4].startswith(f"  tokens    about {found.input_tokens:,} in ({low:,} to {high:,}), 400 to 40,000 out")
    assert (
        lines[6] == "  range     from the low end of the input's 95 % interval (by the spread of the sample) with the"
    )
    assert "  note      gpt-4o-mini ends on 2027-01-14" in lines
    assert max(map(len, lines[:11])) <= 100
    assert found.as_json()["notes"] == ("gpt-4o-mini ends on 2027-01-14",)


def test_a_dry_run_that_counted_every_row_gives_no_interval(here: Project) -> None:
    found = dry_run(here.job_file, {}, TODAY)
    assert "  tokens    about 10,000 in, 10 to 1,000 out (from all rows)" in found.text().splitlines()
    assert (found.input_tokens_range, found.notes) == ((10_000, 10_000), ())
