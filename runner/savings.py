"""What of a job need not be paid for: requests that earlier runs answered, and requests that are the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from runner.dataset.repeats import Repeats
from runner.earlier import Earlier
from runner.plan import Plan
from runner.records import Item
from runner.template import MissingField

_BATCH = 2_000


@dataclass(frozen=True)
class Savings:
    """What there is to save of the requests to one model, whether or not the job asks for it.

    Attributes:
        requests: that the job makes, one for each row.
        answered: of them, by earlier runs.
        identical: of the others (of all, where the job does not reuse answers), to another one before them.
    """

    requests: int
    answered: int
    identical: int

    def sent(self, *, reuse: bool, dedupe: bool) -> int:
        """Return how many requests are sent."""
        return self.requests - (self.answered if reuse else 0) - (self.identical if dedupe else 0)


def look_for_savings(plan: Plan, base: Path) -> list[Savings]:
    """Make all requests of a job, and look each up. Returns what there is to save of each model, in their order.

    Args:
        base: the job's folder under `outputs/`; it need not exist.

    Raises:
        InputError: the input cannot be read, or there is no room for temporary files.
    """
    models = range(len(plan.job.spec.models))
    requests, answered = [0 for _ in models], [0 for _ in models]
    made = _requests(plan)
    with ExitStack() as stack:
        earlier = stack.enter_context(Earlier(base, shared=False))
        repeats = [stack.enter_context(Repeats()) for _ in models]
        earlier.update()
        while batch := list(islice(made, _BATCH)):
            places = earlier.find([fingerprint for _, fingerprint in batch])
            for (model, fingerprint), place in zip(batch, places, strict=True):
                requests[model] += 1
                if place is not None:
                    answered[model] += 1
                if place is None or not plan.job.spec.reuse:
                    repeats[model].add(fingerprint)
        return [Savings(requests[model], answered[model], repeats[model].count()) for model in models]


def _requests(plan: Plan) -> Iterator[tuple[int, str]]:
    """Yield the number of the model and the fingerprint of each request."""
    models = range(len(plan.job.spec.models))
    for row in plan.rows():
        if isinstance(row, Item):
            try:
                for model in models:
                    yield model, plan.builder.build(replace(row, model=model) if model else row).fingerprint
            except MissingField:
                continue
