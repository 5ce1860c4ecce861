"""The ways to carry out requests. A strategy decides when and where each is sent, and nothing else.

Third parties add one through an entry point in the group `runner.strategies`: see docs/strategies.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar, Protocol

from runner.errors import SpecError
from runner.records import Item, Request, Result
from runner.sections import Section

GROUP = "runner.strategies"
AUTO = "auto"
BATCH = "batch_api"

SendOne = Callable[[Request], Awaitable[Result]]
SendNow = Callable[[Request], Result]
Emit = Callable[[Result], None]


class Requests(Protocol):
    """The rows that need an answer. Any thread may pull; None: nothing to send just now, let others have a turn."""

    def __iter__(self) -> Requests: ...

    def __next__(self) -> Request | None:
        """Return the next row as a request."""

    def next_item(self) -> Item | None:
        """Return the next row as it is, for a strategy whose requests are built elsewhere; raises StopIteration."""

    def build(self, item: Item) -> Request | None:
        """Return a row as a request; None: it cannot be made into one, and has its result."""


class Calls(Protocol):
    """What requests are sent with. Every call waits for the limits, tries again, and returns a `Result`.

    A call that raises CancelledError has no outcome, because the run stops: its row is sent when the run is resumed.
    """

    def open(self, concurrency: int) -> AbstractAsyncContextManager[SendOne]:
        """A call for the current event loop."""

    def blocking(self) -> AbstractContextManager[SendNow]:
        """A call for threads, which returns when the answer is there. To be entered on the event loop."""

    def batches(self, emit: Emit, *, keep_files: bool) -> AbstractAsyncContextManager[Any]:
        """What a strategy needs that carries requests out in batches: an `Office`."""


class Strategy(Protocol):
    """Carries out all requests and emits each result once, from any thread.

    Args:
        concurrency: how many requests may be in flight, all together.
        options: what the job file says beside the strategy's name.

    Attributes:
        Options: what may stand there: a `Section`, pydantic's model that refuses unknown keys.
        in_flight: how many requests it has in flight at most.
    """

    Options: ClassVar[type[Section]]
    in_flight: int

    def __init__(self, concurrency: int, options: Any) -> None: ...

    async def run(self, requests: Requests, calls: Any, emit: Emit) -> None:
        """Return when every request has its result, or when there are no more because the run stops.

        Args:
            calls: a `Calls`.
        """


class NoOptions(Section):
    """The options of a strategy that has none."""


_OWN = {
    "sequential": "runner.strategies.sequential:SequentialStrategy",
    "threads": "runner.strategies.threads:ThreadsStrategy",
    "to_thread": "runner.strategies.to_thread:ToThreadStrategy",
    "asyncio": "runner.strategies.asyncio:AsyncioStrategy",
    "processes": "runner.strategies.processes:ProcessesStrategy",
    BATCH: "runner.strategies.batch_api:BatchApiStrategy",
    AUTO: "runner.strategies.auto:AutoStrategy",
}
OWN = tuple(_OWN)
TIMED = tuple(name for name in OWN if name not in (BATCH, AUTO))
"""Those that send requests one by one, and so can be timed."""


def names() -> list[str]:
    """Return the strategies there are: the runner's own, and those of other installed packages."""
    return [*_OWN, *sorted(point.name for point in entry_points(group=GROUP) if point.name not in _OWN)]


def load(name: str) -> type[Strategy]:
    """Return a strategy's class, importing only that one.

    Raises:
        SpecError: the package that brings it cannot be used.
        KeyError: there is none of that name.
    """
    if name in _OWN:
        module, _, attribute = _OWN[name].partition(":")
        own: type[Strategy] = getattr(import_module(module), attribute)
        return own
    for point in entry_points(group=GROUP, name=name):
        return _foreign(point)
    raise KeyError(name)


def _foreign(point: EntryPoint) -> type[Strategy]:
    package = point.dist.name if point.dist else point.value
    try:
        found: type[Strategy] = point.load()
    except Exception as error:
        raise SpecError(
            f"strategy `{point.name}` cannot be loaded: {error}",
            hint=f"it comes from the package `{package}`: mend that",
        ) from error
    if not (isinstance(getattr(found, "Options", None), type) and issubclass(found.Options, Section)):
        raise SpecError(
            f"strategy `{point.name}` has no `Options`",
            where=point.value,
            hint="`Options = NoOptions` where it takes none; docs/strategies.md shows how",
        )
    return found
