"""The pipeline: how it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from stored import store
from virtual_time import VirtualClock, run

from runner.dialects import dialect
from runner.pipeline import Pipeline
from runner.requests import RequestBuilder
from runner.stop import Stop
from runner.strategies import NoOptions
from runner.tally import Tally
from runner.template import PromptTemplate


class Hurried:
    """A strategy that ends because it is asked to, and whose user asks once more just then."""

    Options = NoOptions
    in_flight = 1

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self.pipeline: asyncio.Task[None]

    async def run(self, *_: Any) -> None:
        loop = asyncio.get_running_loop()
        self._stop.request()
        loop.call_soon(lambda: loop.call_soon(self.pipeline.cancel))  # when the pipeline has begun to end


def test_a_second_signal_at_the_very_end_is_no_bug(tmp_path: Path) -> None:
    async def main() -> None:
        stop = Stop()
        strategy = Hurried(stop)
        builder = RequestBuilder(PromptTemplate([("user", "{{ text }}")]), dialect("responses"), ["m"], {}, None)
        calls: Any = None  # nothing is sent
        with store(tmp_path) as opened:
            pipeline = Pipeline([], builder, opened, strategy, calls, stop, Tally(), VirtualClock())
            strategy.pipeline = asyncio.create_task(pipeline.run())
            await strategy.pipeline

    run(main())
