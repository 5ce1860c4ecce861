"""What a job would do: rows, the first request, tokens, cost and the earliest finish. Nothing is sent."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeVar

from runner.budget import Caps
from runner.choice import BATCH, HYBRID, Choice, cost_usd, settle, way_of
from runner.clock import SystemClock
from runner.incremental import asking, narrowed
from runner.load import load_job
from runner.money import usd
from runner.plan import make_plan
from runner.prices import STANDARD, Tariff
from runner.progress import duration
from runner.runs import OUTPUTS
from runner.savings import Savings, look_for_savings
from runner.sections import RetrySpec
from runner.traits import ending
from runner.workload import Workload

_SHOWN_CHARACTERS = 3000
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Estimate:
    """What a run would take, from a sample of the whole input.

    Attributes:
        bad_example: where the first bad row is, and why it is bad.
        sampled_all: the sample is the whole input.
        input_tokens_range: the 95 % interval that the sample leaves for `input_tokens`.
        output_tokens: (fewest, most) that all answers together may have; most is None without a maximum.
        cost_usd: (lowest, highest); None where price or maximum is unknown.
        cost_range: what the two ends of the cost are, in words.
        earliest_finish_s: how long the limits alone make it take, in seconds; None without limits, and for batches.
        savings: what need not be paid for, in words.
        notes: what else to know of the models and the budget.
        tier: at which the requests are made; also `batch` and `hybrid`.
        auto: what `strategy: auto` takes; None: the job names its strategy.
        all_rows: how many rows the input has, of which the run would take in `rows`; None: it takes in all.
    """

    job: str
    model: str
    endpoint: str
    rows: int
    bad_rows: int
    bad_example: str | None
    repeated_ids: int
    sample: int
    first_request: dict[str, Any] | None
    sampled_all: bool
    input_tokens: int
    input_tokens_range: tuple[int, ...]
    output_tokens: tuple[int, int | None]
    cost_usd: tuple[float | None, float | None]
    cost_range: str
    earliest_finish_s: float | None
    savings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tier: str = STANDARD
    auto: Choice | None = None
    all_rows: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "auto": None if self.auto is None else self.auto.as_json()}

    def text(self) -> str:
        """Return the estimate for a terminal."""
        out = [f"{self.job}: a dry run, nothing was sent", ""]
        repeated = f", {self.repeated_ids:,} repeat an earlier id" if self.repeated_ids else ""
        new = "" if self.all_rows is None else f" new, of {self.all_rows:,}"
        out.append(f"  rows      {self.rows:,}{new}{repeated}")
        if self.bad_rows:
            out.append(f"  bad       {self.bad_rows:,} of them, for instance {self.bad_example}")
        out.append(f"  model     {self.model} at {self.endpoint}")
        fewest, most = self.output_tokens
        unbounded = "no maximum set" if self.cost_usd[1] is None else "which are free"
        answers = f"at least {fewest:,} out, {unbounded}" if most is None else f"{fewest:,} to {most:,} out"
        sample = "from all rows" if self.sampled_all else f"from a sample of {self.sample:,} rows"
        spread = "" if self.sampled_all else " ({:,} to {:,})".format(*self.input_tokens_range)
        out.append(f"  tokens    about {self.input_tokens:,} in{spread}, {answers} ({sample})")
        out.append(f"  cost      {self._cost()}")
        if self.cost_usd[0] is not None:
            out += textwrap.wrap(self.cost_range, 100, initial_indent="  range     ", subsequent_indent=" " * 12)
        for saving in self.savings:
            out += textwrap.wrap(saving, 100, initial_indent="  saving    ", subsequent_indent=" " * 12)
        out.append(f"  time      {self._time()}")
        out += [f"  note      {note}" for note in self.notes]
        if self.auto is not None:
            out += ["", *(f"  {line}" for line in self.auto.text().splitlines())]
        if self.first_request is not None:
            body = json.dumps(self.first_request, indent=2, ensure_ascii=False)
            if len(body) > _SHOWN_CHARACTERS:
                body = body[:_SHOWN_CHARACTERS] + f"\n… ({len(body):,} characters)"
            out += ["", "the first request:", body.encode(errors="backslashreplace").decode()]
        return "\n".join(out)

    def _time(self) -> str:
        if self.tier == BATCH:
            return "up to 24 h, as batches"
        if self.tier == HYBRID:
            return "by the deadline: as batches, and live what is left of them"
        if self.earliest_finish_s is None:
            return "as fast as the server answers: no rate limit is set"
        return f"at least {duration(self.earliest_finish_s)} under the limits"

    def _cost(self) -> str:
        low, high = self.cost_usd
        if low is None:
            return f"unknown: `{self.model}` is not in configs/models.yaml"
        if high is None:
            return f"at least about {usd(low)}; no maximum, because the job sets no longest answer"
        ends = dict.fromkeys(usd(end) for end in (low, high))
        return f"about {' to '.join(ends)}"


def dry_run(
    job_file: Path,
    overrides: Mapping[str, str],
    today: date | None = None,
    *,
    outputs: Path | None = None,
    now_us: int | None = None,
    run_date: date | None = None,
) -> Estimate:
    """Estimate a job.

    Args:
        today: the date that models are compared with that end soon; default: today's.
        outputs: where its runs are; default: `outputs/` in the project root.
        now_us: when the run would begin, in microseconds since 1970; default: now.
        run_date: the date that it would be for; default: today's.

    Raises:
        SpecError, InputError: the job could not be run as it is.
    """
    job = load_job(job_file, overrides=overrides, run_date=run_date)
    plan = make_plan(job)
    base = (outputs or job.root / OUTPUTS) / job.spec.name
    warnings: list[str] = []
    with asking(plan) as asked:
        found = whole = plan.survey(unfit=None if asked is None else asked.unfit)
        if asked is not None:
            plan, found = narrowed(plan, found, asked.new_rows(base, found.rows, warnings.append), sample=True)
    taken_in = plan.selection
    plan, auto = settle(plan, found, SystemClock().now_us() if now_us is None else now_us)
    plan = replace(plan, selection=taken_in)
    job, tier = plan.job, way_of(plan.job)
    plan.output(found)
    requests = [plan.builder.build(item) for item in found.sample]
    savings = look_for_savings(plan, base)
    loads = [
        Workload.of(plan, of_model.sent(reuse=job.spec.reuse, dedupe=job.spec.dedupe), requests) for of_model in savings
    ]
    costs = [cost_usd(load, of, tier) for load, of in zip(loads, plan.tariffs, strict=True)]
    low, high = zip(*costs, strict=True)
    least, most = zip(*(load.output_tokens for load in loads), strict=True)
    input_low, input_high = zip(*(load.input_tokens_range for load in loads), strict=True)
    finish_s = [load.earliest_finish_s(job.limits) for load in loads]
    ends = (ending(model, job.models, today or datetime.now(UTC).date()) for model in job.spec.models)
    return Estimate(
        job.spec.name,
        ", ".join(job.spec.models),
        ", ".join(endpoint.name for endpoint in job.pool),
        found.rows,
        found.bad,
        f"{found.bad_examples[0].where}: {found.bad_examples[0].reason}" if found.bad else None,
        found.repeated_ids,
        len(requests),
        json.loads(requests[0].body) if requests else None,
        all(load.complete for load in loads),
        sum(load.input_tokens for load in loads),
        (sum(input_low), sum(input_high)),
        (sum(least), _sum(most)),
        (_rounded(_sum(low)), _rounded(_sum(high))),
        next((load for load in loads if not load.complete), loads[0]).range_in_words(plan.tariffs[0]),
        None if tier in (BATCH, HYBRID) else _sum(finish_s),
        tuple(_savings(savings, job.spec.reuse, job.spec.dedupe)),
        (
            *(end for end in ends if end),
            *_fallback(job.spec.retry, loads, plan.tariffs),
            *_too_small(job.spec.budget, _sum(low), sum(input_low) + sum(least)),
            *warnings,
        ),
        tier,
        auto,
        None if taken_in is None else whole.rows,
    )


def _savings(savings: Sequence[Savings], reuse: bool, dedupe: bool) -> Iterator[str]:
    """Yield what is saved, and what would be if the job asked for it."""
    of_all = f"of {sum(of_model.requests for of_model in savings):,} requests"
    if answered := sum(of_model.answered for of_model in savings):
        costs = "they cost nothing" if reuse else "with `reuse: true` they would cost nothing"
        yield f"{answered:,} {of_all} were answered by earlier runs: {costs}"
    if identical := sum(of_model.identical for of_model in savings):
        costs = "they cost nothing" if dedupe else "with `dedupe: true` they would cost nothing"
        yield f"{identical:,} {of_all} are the same as another one: {costs}"


def _fallback(retry: RetrySpec, loads: Sequence[Workload], tariffs: Sequence[Tariff]) -> Iterator[str]:
    """Yield what it would cost if flex had no room for any row."""
    if retry.flex_fallback is not None:
        most = _sum([load.cost_usd(of)[1] for load, of in zip(loads, tariffs, strict=True)])
        at_most = "" if most is None else f": at most about {usd(most)}"
        yield f"rows that flex has no room for cost the standard price{at_most} for all of them"


def _too_small(caps: Caps, least_usd: float | None, fewest_tokens: int) -> Iterator[str]:
    """Yield the caps that even the cheapest run exceeds, as far as this run alone tells."""
    for key, cap, least in (
        ("max_usd", caps.max_usd, least_usd),
        ("max_tokens", caps.max_tokens, fewest_tokens),
        ("daily_usd", caps.daily_usd, least_usd),
    ):
        if cap is not None and least is not None and least > cap:
            yield f"`budget.{key}` of {cap:,} is less than it takes: the run would end early, and can be resumed"


def _sum(values: Sequence[Number | None]) -> Number | None:
    """Return what all models take together; None where it is unknown of one."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _rounded(usd: float | None) -> float | None:
    return None if usd is None else round(usd, 6)
