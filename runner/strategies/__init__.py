"""The ways to carry out requests. A strategy decides when each is sent, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from typing import Protocol

from runner.records import Request, Result

Requests = Iterator[Request | None]  # None: nothing to send just now, let others have a turn
SendOne = Callable[[Request], Awaitable[Result]]
Emit = Callable[[Result], None]


class Strategy(Protocol):
    """Carries out all requests and emits each result once."""

    def __init__(self, concurrency: int) -> None: ...

    async def run(self, requests: Requests, call: SendOne, emit: Emit) -> None: ...


_KNOWN = {"asyncio": "runner.strategies.asyncio:AsyncioStrategy"}


def load(name: str) -> type[Strategy]:
    """Return a strategy's class, importing only that one."""
    module, _, attribute = _KNOWN[name].partition(":")
    found: type[Strategy] = getattr(import_module(module), attribute)
    return found
