"""What a job would do: rows, the first request, tokens, cost and the earliest finish. Nothing is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.load import load_job
from runner.plan import Plan, make_plan
from runner.progress import duration
from runner.records import Usage

_SHOWN_CHARACTERS = 3000


@dataclass(frozen=True)
class Estimate:
    """What a run would take, from a sample of the whole input.

    Attributes:
        bad_example: where the first bad row is, and why it is bad.
        output_tokens: (fewest, most) that all answers together may have; most is None without a maximum.
        cost_usd: (lowest, highest); None where price or maximum is unknown.
        earliest_finish_s: how long the limits alone make it take, in seconds.
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
    input_tokens: int
    output_tokens: tuple[int, int | None]
    cost_usd: tuple[float | None, float | None]
    earliest_finish_s: float | None

    def as_json(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def text(self) -> str:
        """Return the estimate for a terminal."""
        out = [f"{self.job}: a dry run, nothing was sent", ""]
        repeated = f", {self.repeated_ids:,} repeat an earlier id" if self.repeated_ids else ""
        out.append(f"  rows      {self.rows:,}{repeated}")
        if self.bad_rows:
            out.append(f"  bad       {self.bad_rows:,} of them, for instance {self.bad_example}")
        out.append(f"  model     {self.model} at {self.endpoint}")
        fewest, most = self.output_tokens
        answers = f"at least {fewest:,} out, no maximum set" if most is None else f"{fewest:,} to {most:,} out"
        out.append(f"  tokens    about {self.input_tokens:,} in, {answers} (from a sample of {self.sample:,} rows)")
        out.append(f"  cost      {self._cost()}")
        if self.earliest_finish_s is not None:
            out.append(f"  time      at least {duration(self.earliest_finish_s)} under the limits")
        else:
            out.append("  time      as fast as the server answers: no rate limit is set")
        if self.first_request is not None:
            body = json.dumps(self.first_request, indent=2, ensure_ascii=False)
            if len(body) > _SHOWN_CHARACTERS:
                body = body[:_SHOWN_CHARACTERS] + f"\n… ({len(body):,} characters)"
            out += ["", "the first request:", body.encode(errors="backslashreplace").decode()]
        return "\n".join(out)

    def _cost(self) -> str:
        low, high = self.cost_usd
        if low is None:
            return f"unknown: `{self.model}` is not in configs/models.yaml"
        if high is None:
            return f"at least about ${low:,.4f}; no maximum, because the job sets no longest answer"
        return f"about ${low:,.4f} to ${high:,.4f}"


def dry_run(job_file: Path, overrides: Mapping[str, str]) -> Estimate:
    """Estimate a job.

    Raises:
        SpecError, InputError: the job could not be run as it is.
    """
    job = load_job(job_file, overrides=overrides)
    plan = make_plan(job)
    found = plan.survey()
    plan.output(found)
    requests = [plan.builder.build(item) for item in found.sample]
    rows = found.rows - found.bad
    inputs = [request.input_tokens for request in requests]
    mean_input = sum(inputs) / len(inputs) if inputs else 0.0
    most = plan.builder.max_output_tokens
    shortest = plan.answer.shortest_tokens
    fewest = shortest if most is None else min(most, shortest)
    limits = job.limits
    minutes = []
    if limits.requests_per_minute:
        minutes.append(rows / limits.requests_per_minute)
    if limits.tokens_per_minute:
        minutes.append(rows * (mean_input + (fewest if most is None else most)) / limits.tokens_per_minute)
    return Estimate(
        job.spec.name,
        job.spec.model,
        job.endpoint.name,
        found.rows,
        found.bad,
        f"{found.bad_examples[0].where}: {found.bad_examples[0].reason}" if found.bad else None,
        found.repeated_ids,
        len(requests),
        json.loads(requests[0].body) if requests else None,
        round(rows * mean_input),
        (rows * fewest, None if most is None else rows * most),
        (_cost(plan, rows, inputs, fewest), None if most is None else _cost(plan, rows, inputs, most)),
        max(minutes) * 60 if minutes else None,
    )


def _cost(plan: Plan, rows: int, inputs: Sequence[int], output_tokens: int) -> float | None:
    """Return what the rows cost when they are like a sample: its tokens of input, and as many of output each."""
    tier = plan.job.spec.parameters.get("service_tier")
    total = 0.0
    for tokens in inputs:
        cost = plan.tariff.cost_usd(Usage(tokens, 0, output_tokens, 0), tier)
        if cost is None:
            return None
        total += cost
    return round(total / len(inputs) * rows, 6) if inputs else 0.0
