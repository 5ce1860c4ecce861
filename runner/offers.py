"""Compares what a job could be run with: each model that fits it, at each service tier, by cost and earliest finish."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from runner.choice import (
    BATCH,
    FLEX,
    HYBRID,
    WAYS,
    Choice,
    choice_for,
    cost_usd,
    needs_s,
    refusal,
    span_usd,
    way_of,
    workload,
)
from runner.clock import SystemClock
from runner.forecast import live_s
from runner.load import Job, load_job
from runner.models import Models
from runner.money import usd
from runner.plan import Plan, make_plan
from runner.prices import STANDARD, tier_of
from runner.problems import dotted
from runner.progress import duration
from runner.strategies import AUTO
from runner.traits import ending, findings
from runner.workload import Workload

_WIDTH = 100
_NAME_WIDTH = 32  # of a model, so that a row stays in that width
_OF_BATCHES = (BATCH, HYBRID)
_BATCH_ROWS = 50_000  # requests in a batch file, at most; https://developers.openai.com/api/docs/guides/batch


@dataclass(frozen=True)
class Offer:
    """A model at a service tier; also `batch`, and `hybrid`: batches as long as there is time, the rest live.

    Attributes:
        cost_usd: (lowest, highest); None where price or longest answer is unknown.
        earliest_finish_s: how long the job's limits alone make it take; None without limits, and for batches.
        chosen: it is what the job asks for.
        notes: what to know of it, in words.
    """

    model: str
    tier: str
    cost_usd: tuple[float | None, float | None]
    earliest_finish_s: float | None
    chosen: bool
    notes: tuple[str, ...] = ()

    @property
    def finish(self) -> str:
        """When it is done, in words."""
        if self.tier in _OF_BATCHES:
            return "up to 24 h" if self.tier == BATCH else "by its deadline"
        least = "no limit set" if self.earliest_finish_s is None else f"{duration(self.earliest_finish_s)} or more"
        return f"{least}, no promise" if self.tier == FLEX else least

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "finish": self.finish}


@dataclass(frozen=True)
class Comparison:
    """All offers for a job, the cheapest first.

    Attributes:
        rows: those that can be sent.
        unfit: models in the price table that do not fit, each with the reason.
        cost_range: what the two ends of a cost are, in words.
        remarks: further sentences.
        auto: what `strategy: auto` would take.
    """

    job: str
    api: str
    rows: int
    bad_rows: int
    sample: int
    input_tokens: int
    input_tokens_range: tuple[int, int]
    output_tokens: tuple[int, int | None]
    offers: tuple[Offer, ...]
    unfit: Mapping[str, str]
    cost_range: str
    remarks: tuple[str, ...]
    auto: Choice

    def as_json(self) -> dict[str, Any]:
        return {**self.__dict__, "offers": [offer.as_json() for offer in self.offers], "auto": self.auto.as_json()}

    def text(self) -> str:
        """Return the comparison for a terminal, in at most 100 columns."""
        fewest, most = self.output_tokens
        answers = f"at least {fewest:,} out" if most is None else f"{fewest:,} to {most:,} out"
        bad = f" ({self.bad_rows:,} bad ones left out)" if self.bad_rows else ""
        out = [
            f"{self.job}: what it would take, nothing was sent",
            "",
            f"  {self.rows:,} rows{bad}, about {self.input_tokens:,} tokens in, {answers}, with `api: {self.api}`",
            "",
            *_table(self.offers),
            "",
        ]
        said = [f"cost: {self.cost_range}.", *self.remarks]
        said += [f"{model} does not fit: {reason}" for model, reason in self.unfit.items()]
        for sentence in said:
            out += textwrap.wrap(sentence, _WIDTH, initial_indent="  ", subsequent_indent="    ")
        return "\n".join(out)


def compare_offers(
    job_file: Path, overrides: Mapping[str, str], today: date | None = None, *, now_us: int | None = None
) -> Comparison:
    """Compare what a job could be run with.

    Args:
        today: the date that models must outlive; default: today's.
        now_us: when a run would begin, in microseconds since 1970; default: now.

    Raises:
        SpecError, InputError: the job could not be run as it is.
    """
    job = load_job(job_file, overrides=overrides)
    plan = make_plan(job)
    found = plan.survey()
    load = workload(plan, found)
    auto = choice_for(plan, load, SystemClock().now_us() if now_us is None else now_us)
    own = auto.way if job.spec.strategy_name == AUTO else way_of(job)
    today = today or datetime.now(UTC).date()
    fit, unfit = _fitting(job, today)
    offers = [offer for model in fit for offer in _of_model(job, model, load, today, own)]
    return Comparison(
        job.spec.name,
        job.spec.api,
        load.rows,
        found.bad,
        len(load.sample),
        load.input_tokens,
        load.input_tokens_range,
        load.output_tokens,
        tuple(sorted(offers, key=_by_cost)),
        unfit,
        load.range_in_words(plan.tariffs[0]),
        tuple(_remarks(plan, load, offers, auto)),
        auto,
    )


def _fitting(job: Job, today: date) -> tuple[list[str], dict[str, str]]:
    """Return the models that fit the job, its own first, and those of the price table that do not, with the reason.

    The job's own is there in any case: it is what the others are compared with.
    """
    spec, models = job.spec, job.models
    own = [models.find(name) for name in spec.models]
    fit, unfit = list(spec.models), {}
    parameters = {key: value for key, value in spec.parameters.items() if key != "service_tier"}
    for name, model in models.models.items():
        if model in own:
            continue
        refused = next(findings(name, spec.api, parameters, models), None)
        if model.shutdown is not None and model.shutdown <= today:
            unfit[name] = f"it ended on {model.shutdown.isoformat()}"
        elif refused is not None:
            unfit[name] = refused.text if refused.whole else f"`{dotted(refused.at)}` {refused.text}"
        else:
            fit.append(name)
    return fit, unfit


def _of_model(job: Job, name: str, load: Workload, today: date, own: str) -> Iterator[Offer]:
    """Yield a model at each tier that it is offered at, and at the one that the job asks for.

    Args:
        own: the tier that the job asks for.
    """
    spec = job.spec
    tariff = job.models.tariff(name, spec.api)
    end = ending(name, job.models, today)
    for tier in _tiers(name, spec.api, job.models, own if name in spec.models else None):
        chosen = name in spec.models and tier == own
        notes = ["this job"] if chosen else []
        notes += [end.removeprefix(f"{name} ")] if end else []
        if tier in _OF_BATCHES:
            notes += list(_batch_notes(load.rows, spec.parameters.get("service_tier")))
        limits = None if tier in _OF_BATCHES else load.earliest_finish_s(job.limits)
        yield Offer(name, tier, cost_usd(load, tariff, tier), limits, chosen, tuple(notes))


def _tiers(name: str, api: str, models: Models, own: str | None) -> list[str]:
    tiers = [way for way in WAYS if refusal(way, name, api, models) is None]
    return tiers if own is None or own in tiers else [*tiers, own]


def _batch_notes(rows: int, asked: str | None) -> Iterator[str]:
    """Yield what stands between a job and a batch."""
    if tier_of(asked) != STANDARD:
        yield "leave out `service_tier`"
    if rows > _BATCH_ROWS:
        yield f"{math.ceil(rows / _BATCH_ROWS):,} files"


def _remarks(plan: Plan, load: Workload, offers: list[Offer], auto: Choice) -> Iterator[str]:
    """Yield what is to be said of all offers."""
    job = plan.job
    asked = job.spec.strategy_name == AUTO
    yield f"{'`auto` takes' if asked else '`strategy: auto` would take'} {auto.way}: {auto.reason}."
    if auto.warning is not None:
        yield f"warning: {auto.warning}."
    yield "earliest finish: what the job's limits allow, the same for every model; the server's own time comes on top."
    yield "Caching may make it cheaper, or with a price for writing dearer; it cannot be promised, so it is left out."
    if any(offer.tier == HYBRID for offer in offers):
        live = live_s(load.rows * len(job.spec.models), load.tokens_per_request, job.limits)
        away = duration(needs_s(HYBRID, live))
        yield (
            "batch is `strategy: batch_api`; hybrid is that with `deadline` and `finish_with: asyncio`: what is not "
            f"done in time is sent live, at the standard price. Its deadline must be {away} away or more."
        )
    if any(offer.tier == FLEX for offer in offers):
        yield "flex is set with `parameters: {service_tier: flex}`; `retry.flex_fallback` bounds its waits."
    api: str = job.spec.api
    if _asks_questions(job) and api != "decisions":
        for own in offers:
            if own.chosen:
                yield from _decisions(own.model, job.models, load, own)


def _decisions(model: str, models: Models, load: Workload, own: Offer) -> Iterator[str]:
    """Yield what the Decisions API would save, where it answers the same with the job's own model."""
    known = models.find(model)
    if known is None or "decisions" not in known.apis:
        return
    cost = load.cost_usd(models.tariff(model, "decisions"))
    (low, high), (own_low, own_high) = cost, own.cost_usd
    if low is None or high is None or own_low is None:
        return
    least, most = own_low - low, None if own_high is None else own_high - high
    said = f"`api: decisions` would ask the same of {model} for {span_usd(cost)}: that saves"
    if least > 0:
        yield f"{said} {span_usd((least, most))}."
    elif most is not None and most > 0:
        yield f"{said} up to {usd(most)}."


def _asks_questions(job: Job) -> bool:
    """Whether the answer is a choice, which is what the Decisions API gives."""
    output = job.spec.output
    return output.labels is not None or getattr(output, "questions", None) is not None


def _by_cost(offer: Offer) -> tuple[bool, float, float, str, str]:
    """Sort by the highest cost, or the lowest where no highest is known; what is unknown comes last."""
    low, high = offer.cost_usd
    return low is None, (low if high is None else high) or 0.0, low or 0.0, offer.model, offer.tier


def _table(offers: tuple[Offer, ...]) -> Iterator[str]:
    """Yield the offers as lines; notes that do not fit beside a row stand below it."""
    head = ("model", "tier", "cost", "earliest finish")
    rows = [(_shortened(offer.model), offer.tier, span_usd(offer.cost_usd), offer.finish) for offer in offers]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: tuple[str, ...], mark: str = " ") -> str:
        return f"{mark} " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))

    yield line(head).rstrip()
    for offer, row in zip(offers, rows, strict=True):
        shown, notes = line(row, "*" if offer.chosen else " "), "; ".join(offer.notes)
        if len(shown) + 2 + len(notes) <= _WIDTH:
            yield f"{shown}  {notes}".rstrip()
        else:
            yield shown.rstrip()
            yield from textwrap.wrap(notes, _WIDTH, initial_indent="      ", subsequent_indent="      ")


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"
