"""Chooses the cheapest way to carry out a job that meets its deadline: what `strategy: auto` stands for.

How the rules came about, and what they leave out, is told in docs/cost.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from runner.dataset.survey import Survey
from runner.deadline import Deadline
from runner.forecast import FLEX_MARGIN, LIVE_MARGIN, live_s
from runner.load import Job, load_job
from runner.models import MODELS_FILE, Models
from runner.money import usd
from runner.plan import Plan, make_plan
from runner.prices import STANDARD, Tariff, tier_of
from runner.problems import SpecErrors, listed
from runner.progress import duration
from runner.strategies import AUTO
from runner.strategies import BATCH as BATCH_STRATEGY
from runner.workload import Workload

FLEX = "flex"
BATCH = "batch"
HYBRID = "hybrid"

WAYS: Mapping[str, tuple[str, str]] = {
    STANDARD: (STANDARD, STANDARD),
    FLEX: (FLEX, FLEX),
    BATCH: (BATCH, BATCH),
    HYBRID: (BATCH, STANDARD),
}
"""What there is to choose from, each with the cheapest and the dearest tier that its requests may be charged at."""

_BATCH_WINDOW_S = 24 * 3600.0  # the only `completion_window`; https://developers.openai.com/api/docs/guides/batch
# A batch may be `cancelling` for ten minutes, and until it has ended its rows cannot be sent live; the rest is for
# noticing that and collecting it. https://developers.openai.com/api/reference/resources/batches/methods/cancel
_BEFORE_LIVE_S = 900.0
_WITHOUT_TIERS = ("decisions",)  # flex and batch are for Responses and Chat Completions


@dataclass(frozen=True)
class Way:
    """One way to carry out a job.

    Attributes:
        cost_usd: (lowest, highest); None where price or longest answer is unknown.
        rank_usd: what it costs at its dearest and at its cheapest tier, of answers alike; smaller is better.
        needs_s: it counts as meeting a deadline that is so far away.
        refused: why it cannot be taken; None: it can.
    """

    name: str
    cost_usd: tuple[float | None, float | None]
    rank_usd: tuple[float, float]
    needs_s: float
    refused: str | None = None

    @property
    def done(self) -> str:
        """When it is done, in words."""
        if self.name == HYBRID:
            return "by the deadline"
        if self.name == BATCH:
            return f"within {self.needs_s / 3600:,.0f} h"
        return f"within {duration(self.needs_s)}{', no promise' if self.name == FLEX else ''}"


@dataclass(frozen=True)
class Choice:
    """The way that was chosen, and why.

    Attributes:
        reason: why it is this one; follows "it takes this:".
        ways: all ways, the cheapest first; those that cannot be taken come last.
        left_s: how far the deadline is away, in seconds; None without one.
        warning: that the deadline cannot be met; None: it can, or there is none.
    """

    way: str
    reason: str
    ways: tuple[Way, ...]
    deadline: Deadline | None = None
    left_s: float | None = None
    warning: str | None = None

    @property
    def overrides(self) -> dict[str, str]:
        """What makes of a job one that goes this way: dotted key to YAML text."""
        strategy: Any = "asyncio"
        if self.way == BATCH:
            strategy = BATCH_STRATEGY
        elif self.way == HYBRID:
            strategy = {"name": BATCH_STRATEGY, "deadline": str(self.deadline), "finish_with": "asyncio"}
        overrides = {"strategy": json.dumps(strategy)}
        if self.way == FLEX:
            overrides["parameters.service_tier"] = FLEX
            if self.deadline is not None:  # it would wait for room as long as it takes
                overrides["retry.flex_fallback"] = STANDARD
        return overrides

    def as_json(self) -> dict[str, Any]:
        ways = [{**way.__dict__, "done": way.done} for way in self.ways]
        deadline = None if self.deadline is None else str(self.deadline)
        return {**self.__dict__, "deadline": deadline, "ways": ways}

    def text(self) -> str:
        """Return the choice and its alternatives for a terminal."""
        head = ("way", "cost", "done")
        rows = [(way.name, span_usd(way.cost_usd), way.done) for way in self.ways]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

        def line(cells: Sequence[str], mark: str = " ", note: str = "") -> str:
            shown = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            return f"{mark} {shown}  {note}".rstrip()

        out = [f"auto takes {self.way}: {self.reason}", line(head)]
        for way, row in zip(self.ways, rows, strict=True):
            out.append(line(row, "*" if way.name == self.way else " ", self._note(way)))
        return "\n".join([*out, *([f"warning: {self.warning}"] if self.warning else [])])

    def _note(self, way: Way) -> str:
        if way.refused is not None:
            return way.refused
        return "" if self.left_s is None or way.needs_s <= self.left_s else "too late"


def settle(
    plan: Plan, found: Survey, now_us: int, environ: Mapping[str, str] | None = None
) -> tuple[Plan, Choice | None]:
    """Put what `auto` chooses in its place, as if the job had asked for that; any other plan stays as it is.

    Args:
        now_us: when the run begins, in microseconds since 1970.
        environ: as for `load_job`.

    Raises:
        SpecErrors: the job chooses a service tier, which is the choice of `auto`.
    """
    job = plan.job
    if job.spec.strategy_name != AUTO:
        return plan, None
    choice = choice_for(plan, workload(plan, found), now_us)
    kept = {
        key: text
        for key, text in job.overrides.items()
        if key != "parameters.service_tier" and key.split(".")[0] != "strategy"
    }
    chosen = load_job(
        job.path, overrides={**kept, **choice.overrides}, environ=environ, root=job.root, run_date=job.run_date
    )
    return make_plan(chosen), choice


def choice_for(plan: Plan, load: Workload, now_us: int) -> Choice:
    """Return what `auto` takes for a job, whatever strategy the job names.

    Args:
        load: of one of its models, with all rows.

    Raises:
        SpecErrors: the job asks for `auto`, and chooses a service tier.
    """
    job = plan.job
    if job.spec.strategy_name == AUTO and job.spec.parameters.get("service_tier") is not None:
        message = "`parameters.service_tier` and `strategy: auto` exclude each other"
        hint = "leave it out: `auto` chooses the tier; or name a strategy, such as `asyncio`"
        raise SpecErrors([job.source.problem(("parameters", "service_tier"), message, hint)])
    tariffs = {name: job.models.tariff(name, job.spec.api) for name in job.spec.models}
    live = live_s(load.rows * len(tariffs), load.tokens_per_request, job.limits)
    ways = [_way(name, job, load, tariffs, live) for name in WAYS]
    unknown = [name for name, tariff in tariffs.items() if tariff.price is None]
    return choose(ways, deadline_of(job), now_us, unknown)


def choose(ways: Sequence[Way], deadline: Deadline | None, now_us: int, unpriced: Sequence[str] = ()) -> Choice:
    """Choose the cheapest way that meets the deadline, of equally cheap ones the soonest; if none does, the fastest.

    Args:
        ways: all of `WAYS`; `standard` can always be taken.
        now_us: when the run begins, in microseconds since 1970.
        unpriced: models whose price is not known: then there is nothing to choose by.
    """
    left_s = None
    if deadline is None:
        ways = [replace(way, refused=way.refused or "takes a deadline") if way.name == HYBRID else way for way in ways]
    else:
        left_s = (deadline.at_us(now_us) - now_us) / 1e6
    ways = sorted(ways, key=lambda way: (way.refused is not None, way.rank_usd, way.needs_s))
    can = [way for way in ways if way.refused is None]
    meets = [way for way in can if left_s is None or way.needs_s <= left_s]
    if unpriced:
        taken = next(way for way in can if way.name == STANDARD)
        reason = f"{MODELS_FILE.as_posix()} has no price for {listed(unpriced)}, so nothing is known to be cheaper"
    elif meets:
        taken = meets[0]
        reason = "the cheapest way"
        if len(can) == 1:
            reason = "no other way can be taken"
        elif deadline is not None and left_s is not None:
            reason += f" that meets the deadline {_when(deadline, now_us, left_s)}"
        if any(way.rank_usd == taken.rank_usd for way in meets[1:]):
            reason += ", and the soonest of those that cost the same"
    else:
        taken = min((way for way in can if way.name != HYBRID), key=lambda way: way.needs_s)
        reason = "the fastest way"
    warning = None
    if deadline is not None and left_s is not None and taken not in meets:
        end_us = now_us + round(taken.needs_s * 1e6)
        warning = (
            f"the deadline {_when(deadline, now_us, left_s)} cannot be met: "
            f"{taken.name} would finish at about {_local(end_us)}"
        )
    return Choice(taken.name, reason, tuple(ways), deadline, left_s, warning)


def way_of(job: Job) -> str:
    """Return the way that a job goes; what is no way to choose is the tier that it asks for."""
    if job.spec.strategy_name == BATCH_STRATEGY:
        return BATCH if deadline_of(job) is None else HYBRID
    return tier_of(job.spec.parameters.get("service_tier"))


def deadline_of(job: Job) -> Deadline | None:
    """Return the deadline among the options of the job's strategy."""
    deadline = getattr(job.options, "deadline", None)
    return deadline if isinstance(deadline, Deadline) else None


def workload(plan: Plan, found: Survey) -> Workload:
    """Return what all rows of a job ask of one of its models."""
    return Workload.of(plan, found.rows - found.bad, [plan.builder.build(item) for item in found.sample])


def cost_usd(load: Workload, tariff: Tariff, way: str) -> tuple[float | None, float | None]:
    """Return (lowest, highest) that all rows may cost; None where the price or the longest answer is unknown.

    Args:
        way: or a tier.
    """
    cheapest, dearest = WAYS.get(way, (way, way))
    return load.cost_usd(tariff, cheapest)[0], load.cost_usd(tariff, dearest)[1]


def needs_s(way: str, live: float, windows: int = 1) -> float:
    """Return how far away a deadline must be, in seconds, to be met.

    Args:
        live: the forecast of sending all requests live, in seconds.
        windows: of batches, how many follow each other.
    """
    if way == BATCH:
        return _BATCH_WINDOW_S * windows
    if way == HYBRID:  # it may come to sending nearly everything live
        return live * LIVE_MARGIN + _BEFORE_LIVE_S
    return live * (FLEX_MARGIN if way == FLEX else LIVE_MARGIN)


def refusal(way: str, name: str, api: str, models: Models) -> str | None:
    """Return why a model cannot be asked in a way; None: it can."""
    if way == STANDARD:
        return None
    if api in _WITHOUT_TIERS:
        return f"not on `api: {api}`"
    model = models.find(name)
    offered = None if model is None else model.flex if way == FLEX else model.batch
    if offered:
        return None
    tier = FLEX if way == FLEX else BATCH
    return f"`{name}` is not {'known to be ' if offered is None else ''}offered at {tier}"


def _way(name: str, job: Job, load: Workload, tariffs: Mapping[str, Tariff], live: float) -> Way:
    """Return a way for all models of a job together."""
    api = job.spec.api
    low, high = zip(*(cost_usd(load, tariff, name) for tariff in tariffs.values()), strict=True)
    cheapest, dearest = WAYS[name]
    rank = (math.fsum(_probes(load, tariffs, dearest)), math.fsum(_probes(load, tariffs, cheapest)))
    refused = (refusal(name, model, api, job.models) for model in tariffs)
    needs = needs_s(name, live, _windows(job, load))
    return Way(name, (_sum(low), _sum(high)), rank, needs, next((each for each in refused if each), None))


def _windows(job: Job, load: Workload) -> int:
    """Return how many windows batches take one after another, because a server lets only so many tokens wait."""
    room = [limits.enqueued_tokens for limits in job.endpoint_limits]
    known = [tokens for tokens in room if tokens is not None]
    return max(1, math.ceil(load.input_tokens / sum(known))) if len(known) == len(room) else 1


def _probes(load: Workload, tariffs: Mapping[str, Tariff], tier: str) -> Iterator[float]:
    """Yield for each model what all rows cost at a tier: the most, or where that is unknown the least."""
    for tariff in tariffs.values():
        low, high = load.cost_usd(tariff, tier)
        yield (low if high is None else high) or 0.0


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(math.fsum(known), 6) if len(known) == len(values) else None


# In words -------------------------------------------------------------------------------------------------------------


def span_usd(cost_usd: tuple[float | None, float | None]) -> str:
    """Return the two ends of a cost as people write them."""
    low, high = cost_usd
    if low is None:
        return "unknown"
    if high is None:
        return f"at least {usd(low)}"
    return usd(low) if usd(low) == usd(high) else f"{usd(low)} to {usd(high)}"


def _when(deadline: Deadline, now_us: int, left_s: float) -> str:
    far = f"in {duration(left_s)}" if left_s > 0 else f"{duration(-left_s)} ago"
    return f"{deadline} ({_local(now_us + round(left_s * 1e6))}, {far})"


def _local(moment_us: int) -> str:
    return f"{datetime.fromtimestamp(moment_us / 1e6):%Y-%m-%d %H:%M}"
