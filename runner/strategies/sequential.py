"""One request after another: what all other strategies are measured against."""

from __future__ import annotations

from runner.strategies import NoOptions
from runner.strategies.threads import ThreadsOptions, ThreadsStrategy


class SequentialStrategy(ThreadsStrategy):
    """A single thread, whatever the concurrency."""

    Options = NoOptions

    def __init__(self, concurrency: int, options: NoOptions) -> None:
        super().__init__(concurrency, ThreadsOptions(workers=1))
