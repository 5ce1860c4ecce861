"""The seam between the runner and the network: what a client is, and a fake one for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from runner.records import Reply


class Client(Protocol):
    """Sends request bodies to one path of one endpoint."""

    async def send(self, body: bytes, timeout_s: float) -> Reply:
        """Make one HTTP exchange and return the answer, whose status was 200.

        Raises:
            TransientError: it may work if sent again.
            PermanentError: this body would be refused again.
            FatalError: no request can succeed (bad key, quota spent, unknown model).
        """

    async def close(self) -> None:
        """Close all connections."""


class FakeClient:
    """Answers from a function instead of a server.

    Args:
        answer: called with the body and how often that body was sent before; returns a reply or an error to raise.
    """

    def __init__(self, answer: Callable[[bytes, int], Reply | Exception]) -> None:
        self._answer = answer
        self.bodies: list[bytes] = []
        self.closed = False

    async def send(self, body: bytes, timeout_s: float) -> Reply:
        seen = self.bodies.count(body)
        self.bodies.append(body)
        answer = self._answer(body, seen)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        self.closed = True
