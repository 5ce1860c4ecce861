"""The name that stands for a choice: the cheapest way that meets the deadline, found when a run starts."""

from __future__ import annotations

from pydantic import Field

from runner.deadline import EXAMPLES, Deadline
from runner.sections import Section
from runner.strategies import Calls, Emit, Requests


class Auto(Section):
    """By when the job has to be done."""

    deadline: Deadline | None = Field(
        default=None,
        description=(
            "When the job has to be done: a time of day, a date with a time, or how long after the run's beginning. "
            "Default: it may take as long as the cheapest way does."
        ),
        examples=list(EXAMPLES),
    )


class AutoStrategy:
    """Names the options, and carries out nothing: before a run begins, `runner.choice` puts another in its place."""

    Options = Auto

    def __init__(self, concurrency: int, options: Auto) -> None:
        self.in_flight = concurrency

    async def run(self, requests: Requests, calls: Calls, emit: Emit) -> None:
        raise NotImplementedError("`auto` is a choice among strategies, to be made before the run")
