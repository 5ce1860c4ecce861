"""The numbers of a comparison, and the one sentence that follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from runner.compare.contest import Trial
from runner.progress import duration

BASELINE = "sequential"
_SAME = 1.05  # a smaller difference is said to be none
_USED = 0.9  # of a limit: then it is what held the contestant back
_ENOUGH = 5  # rows for each request in flight: with fewer the last answers count for much


@dataclass(frozen=True)
class Metrics:
    """What the trials of one contestant came to. Times in seconds.

    Attributes:
        concurrency: how many requests it may have had in flight.
        walls_s: the total time of each round.
        total_s: the median of those.
        mean_s: mean response time over all rounds, failed requests that were answered included; None: no answer.
        speedup: the baseline's total time by this one's.
        saved: share of the baseline's total time that it saved; negative: it took longer.
        ideal_share: rows x mean response time / concurrency, by the total time: 1 is as fast as the server lets it be.
        rate_used: share of `requests_per_minute` that it used; None without a limit.
        cost_usd: of one round, on average; None: unknown.
    """

    name: str
    strategy: str
    concurrency: int
    model: str
    rows: int
    walls_s: tuple[float, ...]
    total_s: float
    mean_s: float | None
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    rows_per_s: float
    speedup: float
    saved: float
    ideal_share: float | None
    rate_used: float | None
    failed: int
    attempts: int
    rate_limited: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None


def measure(trials: Sequence[Trial]) -> list[Metrics]:
    """Return the metrics of each contestant, in the order of their first turns.

    The baseline is `sequential` with the same model, else the slowest of all.
    """
    by_name: dict[str, list[Trial]] = {}
    for trial in trials:
        by_name.setdefault(trial.contestant.name, []).append(trial)
    totals = {name: median(trial.wall_s for trial in mine) for name, mine in by_name.items()}
    return [_measure(name, mine, totals[name], _baseline(mine[0], by_name, totals)) for name, mine in by_name.items()]


def _baseline(trial: Trial, by_name: Mapping[str, Sequence[Trial]], totals: Mapping[str, float]) -> float:
    model = trial.contestant.plan.job.spec.models[0]
    for name, (other, *_) in by_name.items():
        if other.contestant.strategy_name == BASELINE and other.contestant.plan.job.spec.models[0] == model:
            return totals[name]
    return max(totals.values())


def _measure(name: str, trials: Sequence[Trial], total_s: float, baseline_s: float) -> Metrics:
    results = [result for trial in trials for result in trial.results]
    latencies = sorted(result.latency_s for result in results if result.latency_s is not None)
    mean_s = fmean(latencies) if latencies else None
    costs = [result.cost_usd for result in results if result.attempts]
    job = trials[0].contestant.plan.job
    rows, in_flight = len(trials[0].results), trials[0].in_flight
    limit = job.limits.requests_per_minute
    attempts = sum(trial.attempts for trial in trials)
    return Metrics(
        name=name,
        strategy=job.spec.strategy_name,
        concurrency=in_flight,
        model=job.spec.models[0],
        rows=rows,
        walls_s=tuple(trial.wall_s for trial in trials),
        total_s=total_s,
        mean_s=mean_s,
        p50_s=percentile(latencies, 0.50) if latencies else None,
        p95_s=percentile(latencies, 0.95) if latencies else None,
        p99_s=percentile(latencies, 0.99) if latencies else None,
        rows_per_s=rows / total_s,
        speedup=baseline_s / total_s,
        saved=1 - total_s / baseline_s,
        ideal_share=None if mean_s is None else rows * mean_s / min(in_flight, rows) / total_s,
        rate_used=None if limit is None else attempts / sum(trial.wall_s for trial in trials) * 60 / limit,
        failed=sum(result.status != "ok" for result in results),
        attempts=attempts,
        rate_limited=sum(trial.rate_limited for trial in trials),
        input_tokens=round(sum(result.input_tokens or 0 for result in results) / len(trials)),
        output_tokens=round(sum(result.output_tokens or 0 for result in results) / len(trials)),
        cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None) / len(trials),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of sorted numbers: the smallest that `share` of them stay within."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


# In words -------------------------------------------------------------------------------------------------------------


def conclude(metrics: Sequence[Metrics]) -> str:
    """Say what the numbers show, and no more.

    A contestant with failures wins nothing: rows that fail are quick.
    """
    sound = [each for each in metrics if not each.failed]
    if not sound:
        return "Every contestant had failures, so none can be called faster."
    best = min(sound, key=lambda each: each.total_s)
    against = next((each for each in metrics if each.strategy == BASELINE and each.model == best.model), None)
    against = against or max(metrics, key=lambda each: each.total_s)
    if len(metrics) == 1:
        return f"{best.name} took {duration(best.total_s)} for {best.rows} rows; {_held_back(best)}."
    if best is against or against.total_s / best.total_s < _SAME:
        slower = [each for each in metrics if each is not best]
        return f"Nothing was faster than {against.name} here: {_each(slower, best)}."
    others = [each for each in metrics if each not in (best, against)]
    not_faster = [each.name for each in others if against.total_s / each.total_s < _SAME]
    sentence = (
        f"{best.name} is {_times(against.total_s / best.total_s)} faster than {against.name} here; {_held_back(best)}"
    )
    if not_faster:
        verb = "is" if len(not_faster) == 1 else "are"
        sentence += f"; {_listed(not_faster)} {verb} not faster than {against.name}"
    failing = [each.name for each in metrics if each.failed]
    if failing:
        sentence += f"; {_listed(failing)} had failures"
    return sentence + "."


def _held_back(best: Metrics) -> str:
    """Say what set the pace of a contestant."""
    if best.rate_limited:
        return f"the limit was the key: {best.rate_limited} requests were refused with 429"
    if best.rate_used is not None and best.rate_used > _USED:
        return f"the limit was requests_per_minute, of which it used {min(best.rate_used, 1):.0%}"
    if best.rows <= best.concurrency:
        return "all rows were in flight at once, so the slowest answer set the time"
    if best.ideal_share is not None and best.ideal_share > _USED:
        return f"the limit was concurrency ({best.concurrency} in flight), not the key"
    if best.rows < _ENOUGH * best.concurrency:
        return f"{best.rows} rows are few for {best.concurrency} in flight, so the slowest answers set the time"
    share = "" if best.ideal_share is None else f" ({best.ideal_share:.0%} of what {best.concurrency} in flight allow)"
    return f"the limit was the work of this machine{share}"


def _each(metrics: Sequence[Metrics], best: Metrics) -> str:
    return _listed([f"{each.name} took {_times(each.total_s / best.total_s)} as long" for each in metrics])


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio < 100 else f"{ratio:.0f}x"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


# Models ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """How often several models gave the same answer to a row, in their first rounds.

    Attributes:
        rows: rows that all of them answered.
        same: those with one answer.
        different: the others: id, and answer by model.
    """

    rows: int
    same: int
    different: tuple[tuple[str, dict[str, Any]], ...]


def agreement(trials: Sequence[Trial]) -> Agreement | None:
    """Compare the answers of the models; None for a single model, or for free text, which never agrees."""
    answers: dict[str, dict[int, Any]] = {}
    ids: dict[int, str] = {}
    for trial in trials:
        plan = trial.contestant.plan
        if plan.answer.asked is None or plan.job.spec.models[0] in answers:
            continue
        ok = [result for result in trial.results if result.status == "ok"]
        answers[plan.job.spec.models[0]] = {
            result.item.index: plan.answer.verdict(result.answer or {}) for result in ok
        }
        ids |= {result.item.index: result.item.id for result in ok}
    if len(answers) < 2:
        return None
    common = sorted(set.intersection(*(set(of_model) for of_model in answers.values())))
    different = [index for index in common if len({repr(of_model[index]) for of_model in answers.values()}) > 1]
    return Agreement(
        len(common),
        len(common) - len(different),
        tuple((ids[index], {model: of_model[index] for model, of_model in answers.items()}) for index in different),
    )
