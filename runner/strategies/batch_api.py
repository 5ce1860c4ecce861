"""A stand-in with the options of the strategy `batch_api`; it sends nothing."""

from __future__ import annotations

from pydantic import Field

from runner.deadline import Deadline
from runner.sections import Section
from runner.strategies import Calls, Emit, Requests


class BatchApi(Section):
    """How batches are submitted."""

    deadline: Deadline | None = Field(default=None, description="When the job has to be done.")
    finish_with: str | None = Field(default=None, description="What sends the rest live.")
    keep_files: bool = Field(default=False, description="Leave uploaded files.")


class BatchApiStrategy:
    """Takes the options."""

    Options = BatchApi

    def __init__(self, concurrency: int, options: BatchApi) -> None:
        self.in_flight = concurrency

    async def run(self, requests: Requests, calls: Calls, emit: Emit) -> None:
        raise NotImplementedError
