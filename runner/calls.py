"""Makes what strategies send requests with: on the event loop, in threads, or in another process."""

from __future__ import annotations

import asyncio
import hashlib
import pickle
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from runner.batches.collecting import Collector
from runner.batches.desk import BatchEndpoint, Desk
from runner.batches.ledger import Ledger
from runner.batches.office import Home, Office
from runner.batches.reading import TIER, Reader, RowError
from runner.blocking import ThreadGate, ThreadStop, finish
from runner.budget import Amount, Budget
from runner.call import Call, Destination, Estimate, Interrupter, Permits
from runner.client import Client
from runner.clock import Clock
from runner.dataset.fingerprint import FileStamp
from runner.flex import Flex
from runner.gate import Gate, Lane
from runner.limits import Limiter
from runner.load import Job
from runner.openai_batches import open_batch_client, row_error
from runner.openai_client import Connection, open_blocking_client, open_client
from runner.plan import Plan
from runner.prices import Tariff
from runner.records import Request, Result
from runner.runs import LIMITS, OUTPUTS
from runner.selection import Positions
from runner.shared_limits import SharedLimits
from runner.stop import Stop
from runner.strategies import SendNow, SendOne
from runner.tally import Tally


@dataclass(frozen=True)
class Recipe:
    """What another process needs to read the same rows and make the same calls. Its keys come from the environment.

    Attributes:
        base_urls: where the endpoints are; an embedded simulator's address is known only once it runs.
        metered: each request has to be asked for.
        counts: the run wants to know how each attempt ended.
        rows: how many rows the input had when the run began.
        stamps: what its files were then.
        selection: the rows that the run takes in; None: all.
    """

    job: Job
    base_urls: Sequence[str] = field(repr=False)
    metered: bool
    counts: bool
    rows: int
    stamps: Sequence[FileStamp]
    selection: Positions | None


class Calls:
    """The calls of one run. All of them share its limits, its counters and its stop.

    Args:
        rows: how many rows the input has.
        stamps: what its files are.
        permits: whom to ask before each request, where it is not the gate itself.
        home: the run itself, for a strategy that carries its requests out in batches.
    """

    def __init__(
        self,
        plan: Plan,
        connections: Sequence[Connection],
        gate: Gate,
        stop: Stop,
        tally: Tally,
        clock: Clock,
        rows: int,
        stamps: Sequence[FileStamp],
        *,
        permits: Permits | None = None,
        home: Home | None = None,
    ) -> None:
        self.gate = gate
        self.models = len(plan.job.spec.models)
        self.stop = stop
        self.tally = tally
        self._plan = plan
        self._connections = connections
        self._clock = clock
        self._rows = rows
        self._stamps = stamps
        self._permits = permits or gate
        self._home = home
        self._estimates = [Estimate(plan.builder.max_output_tokens, most) for most in _bounds(plan)]

    @asynccontextmanager
    async def open(self, concurrency: int) -> AsyncIterator[SendOne]:
        """Yield a call for the current event loop, with as many connections as may be in flight."""
        clients = [
            open_client(
                connection,
                self._plan.dialect.path,
                concurrency=concurrency,
                transport=self._plan.job.spec.transport,
                clock=self._clock,
            )
            for connection in self._connections
        ]
        try:
            yield self._call(clients, self._permits, self.stop)
        finally:
            for client in clients:
                await client.close()

    @contextmanager
    def blocking(self) -> Iterator[SendNow]:
        """Yield a call for threads: it returns when the answer is there. To be entered on the event loop."""
        loop = asyncio.get_running_loop()
        path, clock = self._plan.dialect.path, self._clock
        clients = [open_blocking_client(connection, path, clock=clock) for connection in self._connections]
        call = self._call(clients, ThreadGate(self.gate, loop), ThreadStop(self.stop, loop))

        def send(request: Request) -> Result:
            return finish(call(request))

        try:
            yield send
        finally:
            for client in clients:
                finish(client.close())

    @asynccontextmanager
    async def batches(self, emit: Callable[[Result], None], *, keep_files: bool) -> AsyncIterator[Office]:
        """Yield what a strategy needs that carries requests out in batches.

        Args:
            emit: takes each result.
            keep_files: leave the uploaded files of batches that are through.
        """
        home, plan, pool = self._home, self._plan, self._plan.job.pool
        assert home is not None, "worker processes have no batches"
        ledger = Ledger(home.folder)
        reader = Reader(plan.dialect, plan.answer, plan.tariffs, plan.job.spec.retry, self._estimates)
        async with AsyncExitStack() as opened:
            endpoints = [
                BatchEndpoint(
                    connection.name,
                    await opened.enter_async_context(open_batch_client(connection, clock=self._clock)),
                    limits.enqueued_tokens,
                    embedded=endpoint.is_simulator,
                )
                for connection, endpoint, limits in zip(self._connections, pool, plan.job.endpoint_limits, strict=True)
            ]
            url = f"/v1{plan.dialect.path}"
            desk = Desk(ledger, endpoints, url, home.about, self.stop, home.warn, keep_files=keep_files)
            yield Office(
                home, desk, Collector(ledger, reader, emit, home.kept, self._clock, home.warn),
                {connection.name: self._row_error(connection) for connection in self._connections},
                self._estimates, self._batch_bounds(), self.gate.budget, plan.job.limits, self.tally, self.stop,
                self._clock,
            )  # fmt: skip

    def _row_error(self, connection: Connection) -> RowError:
        return lambda status, body: row_error(connection, status, body, self._clock)

    def _batch_bounds(self) -> list[Callable[[int], Amount]]:
        output = self._plan.builder.max_output_tokens or 0

        def bound(tariff: Tariff) -> Callable[[int], Amount]:
            return lambda size: Amount(tariff.most_usd(size, output, TIER) or 0.0, size + output)

        return [bound(tariff) for tariff in self._plan.tariffs]

    def _call(self, clients: Sequence[Client], permits: Permits, stop: Interrupter) -> Call:
        plan = self._plan
        destinations = [
            Destination(connection.name, client) for connection, client in zip(self._connections, clients, strict=True)
        ]
        return Call(
            destinations, permits, plan.dialect, plan.answer, plan.tariffs, plan.job.spec.retry, stop, self.tally,
            self._clock, estimates=self._estimates, flex=_flex(plan),
        )  # fmt: skip

    def recipe(self) -> bytes:
        """Return a `Recipe` for another process, pickled."""
        limits = self._plan.job.limits
        metered = limits.requests_per_minute is not None or limits.tokens_per_minute is not None or self.gate.counts
        urls = [connection.base_url for connection in self._connections]
        plan = self._plan
        return pickle.dumps(Recipe(plan.job, urls, metered, self.gate.counts, self._rows, self._stamps, plan.selection))


def _flex(plan: Plan) -> Flex | None:
    """Return the flex tier, where the job asks for it."""
    fallback = plan.job.spec.retry.flex_fallback
    if not plan.job.spec.asks_flex:
        return None
    return Flex(None if fallback is None else fallback.after_s, plan.builder.at_standard)


def _bounds(plan: Plan) -> list[Callable[[int, int], Amount] | None]:
    """Return, for each model, what a request takes at most by its tokens; None where no budget asks."""
    if plan.job.spec.budget.unlimited:
        return [None] * len(plan.tariffs)

    def bound(tariff: Tariff) -> Callable[[int, int], Amount]:
        def most(input_tokens: int, output_tokens: int) -> Amount:
            return Amount(tariff.most_usd(input_tokens, output_tokens) or 0.0, input_tokens + output_tokens)

        return most

    return [bound(tariff) for tariff in plan.tariffs]


def open_gate(
    job: Job,
    stop: Stop,
    budget: Budget | None = None,
    warn: Callable[[str], None] = lambda text: None,
    connections: Sequence[Connection] = (),
) -> Gate:
    """Return the gate of a job. Belongs to the current event loop.

    Args:
        connections: the endpoints; the limits that they have for themselves hold for all processes that send to them.
    """
    pool, mine = job.pool, job.spec.limits
    own = [job.limits] if len(pool) == 1 else list(job.endpoint_limits)
    overall = None if len(pool) == 1 else Limiter(mine.requests_per_minute, mine.tokens_per_minute, stop.waiting)
    # Of a single endpoint the job's own limits come before its, and they are the job's alone.
    share = [kind for kind in ("requests", "tokens") if overall or getattr(mine, f"{kind}_per_minute") is None]
    shared = {connection.name: _shared_limits(job, connection, warn) for connection in connections}
    lanes = [
        Lane(
            endpoint.name,
            Limiter(
                limits.requests_per_minute,
                limits.tokens_per_minute,
                stop.waiting,
                shared.get(endpoint.name) if endpoint.is_limited else None,
                share,
            ),
            limits.concurrency or 1,
        )
        for endpoint, limits in zip(pool, own, strict=True)
    ]
    return Gate(lanes, overall=overall, budget=budget, waiting=stop.waiting, warn=warn)


def _shared_limits(job: Job, connection: Connection, warn: Callable[[str], None]) -> SharedLimits | None:
    """Return what the processes share that send to an endpoint; None where that cannot be kept, or nobody else does."""
    if connection.name not in {endpoint.name for endpoint in job.pool if endpoint.is_limited}:
        return None
    where = "\n".join((connection.base_url, connection.organization or "", connection.project or ""))
    name = f"{connection.name}-{hashlib.sha256(where.encode()).hexdigest()[:12]}"
    path = job.root / OUTPUTS / LIMITS / name
    try:
        return SharedLimits(path)
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        warn(f"the limits of endpoint `{connection.name}` are not shared with other runs: {path}: {reason}")
        return None
