"""Makes what strategies send requests with: on the event loop, in threads, or in another process."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from runner.blocking import ThreadLimiter, ThreadStop, finish
from runner.call import Call, Interrupter, Permits, TokenEstimate
from runner.client import Client
from runner.clock import Clock
from runner.dataset.fingerprint import FileStamp
from runner.limits import Limiter
from runner.load import Job
from runner.openai_client import Connection, open_blocking_client, open_client
from runner.plan import Plan
from runner.records import Request, Result
from runner.stop import Stop
from runner.strategies import SendNow, SendOne
from runner.tally import Tally


@dataclass(frozen=True)
class Recipe:
    """What another process needs to read the same rows and make the same calls. Its keys come from the environment.

    Attributes:
        base_url: where the endpoint is; the embedded simulator's address is known only once it runs.
        metered: there are limits to ask before each request.
        rows: how many rows the input had when the run began.
        stamps: what its files were then.
    """

    job: Job
    base_url: str = field(repr=False)
    metered: bool
    rows: int
    stamps: Sequence[FileStamp]


class Calls:
    """The calls of one run. All of them share its limits, its counters and its stop.

    Args:
        rows: how many rows the input has.
        stamps: what its files are.
        permits: whom to ask before each request, where it is not the limiter itself.
    """

    def __init__(
        self,
        plan: Plan,
        connection: Connection,
        limiter: Limiter,
        stop: Stop,
        tally: Tally,
        clock: Clock,
        rows: int,
        stamps: Sequence[FileStamp],
        *,
        permits: Permits | None = None,
    ) -> None:
        self.limiter = limiter
        self.stop = stop
        self.tally = tally
        self._plan = plan
        self._connection = connection
        self._clock = clock
        self._rows = rows
        self._stamps = stamps
        self._permits = permits or limiter
        self._estimate = TokenEstimate(plan.builder.max_output_tokens)

    @asynccontextmanager
    async def open(self, concurrency: int) -> AsyncIterator[SendOne]:
        """Yield a call for the current event loop, with as many connections as may be in flight."""
        client = open_client(
            self._connection,
            self._plan.dialect.path,
            concurrency=concurrency,
            transport=self._plan.job.spec.transport,
            clock=self._clock,
        )
        try:
            yield self._call(client, self._permits, self.stop)
        finally:
            await client.close()

    @contextmanager
    def blocking(self) -> Iterator[SendNow]:
        """Yield a call for threads: it returns when the answer is there. To be entered on the event loop."""
        loop = asyncio.get_running_loop()
        client = open_blocking_client(self._connection, self._plan.dialect.path, clock=self._clock)
        call = self._call(client, ThreadLimiter(self.limiter, loop), ThreadStop(self.stop, loop))

        def send(request: Request) -> Result:
            return finish(call(request))

        try:
            yield send
        finally:
            finish(client.close())

    def _call(self, client: Client, permits: Permits, stop: Interrupter) -> Call:
        plan = self._plan
        return Call(
            client, permits, plan.dialect, plan.answer, plan.tariff, plan.job.spec.retry, stop, self.tally, self._clock,
            endpoint=plan.job.endpoint.name, estimate=self._estimate,
        )  # fmt: skip

    def recipe(self) -> bytes:
        """Return a `Recipe` for another process, pickled."""
        limits = self._plan.job.limits
        metered = limits.requests_per_minute is not None or limits.tokens_per_minute is not None
        return pickle.dumps(Recipe(self._plan.job, self._connection.base_url, metered, self._rows, self._stamps))
