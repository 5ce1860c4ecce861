"""What a run and its worker processes say to each other: pickled values over pipes, each with its length before it."""

from __future__ import annotations

import asyncio
import pickle
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from runner.budget import Amount
from runner.errors import FatalError, RunnerError
from runner.gate import Need
from runner.records import Result
from runner.tally import Exchanges

_LENGTH = struct.Struct(">I")


@dataclass(slots=True)
class Order:
    """What the run tells a worker.

    Attributes:
        rows: ranges of requests to work on, each from its first to before its last. With m models, the request of row
            i to model j has the number i * m + j.
        granted: questions to the run's gate that were answered: their numbers, and the endpoint each may go to.
        pause_s: start no request for so long, in seconds.
        end: there will be no more rows.
        stop: begin nothing new.
    """

    rows: list[tuple[int, int]] = field(default_factory=list)
    granted: list[tuple[int, int]] = field(default_factory=list)
    pause_s: float = 0.0
    end: bool = False
    stop: bool = False


@dataclass(slots=True)
class Report:
    """What a worker tells the run.

    Attributes:
        results: finished requests, each with its number; they come without their `item`, which the run has.
        wants: how many more requests it could do with.
        asks: questions to the run's gate: their numbers, and what each needs.
        released: how attempts ended that were asked for: endpoint, need, what was spent, whether the endpoint failed.
        left: endpoints that take no more requests, and why.
        pauses: endpoints that asked for a pause, and for how long in seconds.
        exchanges: its counters so far.
        stopped_by: why the run cannot go on.
        bug: the traceback of an error that is the runner's own.
        over: this is the last report.
    """

    results: list[tuple[int, Result]] = field(default_factory=list)
    wants: int = 0
    asks: list[tuple[int, Need]] = field(default_factory=list)
    released: list[tuple[int, Need, Amount, bool]] = field(default_factory=list)
    left: list[tuple[int, FatalError]] = field(default_factory=list)
    pauses: list[tuple[int, float]] = field(default_factory=list)
    exchanges: Exchanges = (0, 0, 0, 0, 0, 0, 0.0)
    stopped_by: RunnerError | None = None
    bug: str | None = None
    over: bool = False


class _Writer(Protocol):
    def write(self, data: bytes) -> Any: ...


def send(writer: _Writer, message: object) -> None:
    """Write a message."""
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    writer.write(_LENGTH.pack(len(content)) + content)


async def receive(reader: asyncio.StreamReader) -> AsyncIterator[Any]:
    """Yield messages until the other side is gone; one that it left unfinished is not there."""
    while True:
        try:
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            content = await reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        yield pickle.loads(content)


class Outbox:
    """Collects what is to be said in one turn of the event loop, and says it at once.

    Args:
        new: makes an empty message.
        deliver: sends one.

    Attributes:
        message: what will be said; change it after a call of `open`.
    """

    def __init__(self, new: Callable[[], Any], deliver: Callable[[Any], None]) -> None:
        self._new = new
        self._deliver = deliver
        self._message: Any = None

    def open(self) -> Any:
        """Return the message of this turn, to be added to."""
        if self._message is None:
            self._message = self._new()
            asyncio.get_running_loop().call_soon(self.flush)
        return self._message

    def flush(self) -> None:
        """Say what there is to say now."""
        message, self._message = self._message, None
        if message is not None:
            self._deliver(message)
