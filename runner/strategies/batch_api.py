"""The Batch API: half the price, answers within a day. What is left before a deadline can be sent live."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from runner import strategies
from runner.deadline import EXAMPLES, Deadline
from runner.sections import Section
from runner.strategies import Calls, Emit, Requests, Strategy

if TYPE_CHECKING:  # with them comes the SDK, which takes half a second, and none of it is needed to read a job file
    from runner.batches.course import Finish
    from runner.batches.office import Office

LIVE = ("asyncio", "to_thread", "threads", "sequential")
"""The strategies that can end a run in batches."""


class BatchApiOptions(Section):
    """The options of `batch_api`."""

    deadline: Deadline | None = Field(
        default=None,
        description=(
            "When every row must have its answer: what the batches do not bring in time is sent live. "
            "A time of day, a date with a time, or a time span."
        ),
        examples=list(EXAMPLES),
    )
    finish_with: Literal["asyncio", "to_thread", "threads", "sequential"] | None = Field(
        default=None,
        description=(
            "The strategy for rows that the batches leave over: those of batches that expire, and those that "
            "would miss the deadline. Default: `asyncio` where there is a deadline, else they go into new batches."
        ),
        examples=["asyncio"],
    )
    keep_files: bool = Field(
        default=False, description="Leave the uploaded files with the server once their answers are collected."
    )


class BatchApiStrategy:
    """Packs requests into files, has them carried out as batches, and collects the answers.

    Args:
        concurrency: how many live requests may be in flight, where the run ends live.
        live: bring all batches home now, and send the rest with this.
    """

    Options: ClassVar[type[Section]] = BatchApiOptions

    def __init__(self, concurrency: int, options: BatchApiOptions, live: Strategy | None = None) -> None:
        self.in_flight = concurrency
        self._options = options
        self._live = live

    async def run(self, requests: Requests, calls: Calls, emit: Emit) -> None:
        from runner.batches.course import Course

        async with calls.batches(emit, keep_files=self._options.keep_files) as office:
            await Course(office, requests, calls, emit, self._finish(office)).run()

    def _finish(self, office: Office) -> Finish | None:
        from runner.batches.course import Finish

        if self._live is not None:
            return Finish(self._live, at_once=True)
        deadline, name = self._options.deadline, self._options.finish_with
        if deadline is None and name is None:
            return None
        kind = strategies.load(name or "asyncio")
        live = kind(self.in_flight, kind.Options())
        return Finish(live, None if deadline is None else deadline.at_us(office.home.began_us))
