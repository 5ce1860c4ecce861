"""What of a job need not be paid for: requests that earlier runs answered, and requests that are the same."""

from __future__ import annotations

from collections.abc import Iterator
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
    """What there is to save, whether or not the job asks for it.

    Attributes:
        requests: that the job makes, one for each row and model.
        answered: of them, by earlier runs.
        identical: of the others (of all, where the job does not reuse answers), to another one before them.
    """

    requests: int
    answered: int
    identical: int

    def sent(self, *, reuse: bool, dedupe: bool) -> int:
        """Return how many requests are sent."""
        return self.requests - (self.answered if reuse else 0) - (self.identical if dedupe else 0)


def look_for_savings(plan: Plan, base: Path) -> Savings:
    """Make all requests of a job, and look each up.

    Args:
        base: the job's folder under `outputs/`; it need not exist.

    Raises:
        InputError: the input cannot be read, or there is no room for temporary files.
    """
    requests = answered = 0
    fingerprints = _fingerprints(plan)
    with Repeats() as repeats, Earlier(base, shared=False) as earlier:
        earlier.update()
        while batch := list(islice(fingerprints, _BATCH)):
            requests += len(batch)
            for fingerprint, place in zip(batch, earlier.find(batch), strict=True):
                if place is not None:
                    answered += 1
                if place is None or not plan.job.spec.reuse:
                    repeats.add(fingerprint)
        return Savings(requests, answered, repeats.count())


def _fingerprints(plan: Plan) -> Iterator[str]:
    models = range(len(plan.job.spec.models))
    for row in plan.rows():
        if isinstance(row, Item):
            try:
                for model in models:
                    yield plan.builder.build(replace(row, model=model) if model else row).fingerprint
            except MissingField:
                continue
