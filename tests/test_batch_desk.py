"""The desk: what it asks a server, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from virtual_time import run

from runner.batches.desk import BatchEndpoint, Desk
from runner.batches.ledger import Entry, Ledger
from runner.errors import TransientError
from runner.openai_batches import BatchState
from runner.stop import Stop

T = TypeVar("T")


def state(key: str) -> BatchState:
    never: list[Any] = [None] * 8
    return BatchState(
        "batch_1", "validating", "file-1", None, None, (), 0, 0, 0, 0, *never, metadata={"runner_batch": key}
    )


@dataclass
class Server:
    """Be the client of an endpoint.

    Attributes:
        shows_at_s: when a batch that was asked for is listed, in seconds.
        answers: whether it says how a batch is.
    """

    shows_at_s: float = 0.0
    answers: bool = True
    speed = 1.0
    created: list[str] = field(default_factory=list)

    async def batches(self) -> AsyncIterator[BatchState]:
        if asyncio.get_running_loop().time() >= self.shows_at_s:
            yield state("a key")

    async def create(self, file_id: str, url: str, metadata: Mapping[str, str]) -> BatchState:
        self.created.append(metadata["runner_batch"])
        return state(metadata["runner_batch"])

    async def retrieve(self, batch_id: str) -> BatchState:
        if not self.answers:
            raise TransientError("HTTP 503: overloaded", kind="server_error")
        return state("a key")


def at_desk(folder: Path, server: Any, work: Callable[[Desk, Entry], Any]) -> list[str]:
    """Work with a desk, and an entry of whose batch no more is known than its file; return what is said."""
    said: list[str] = []

    async def main() -> None:
        ledger = Ledger(folder)
        entry = Entry(1, "there", 0, 1, 10, [[0, 0]], state="submitting", key="a key", file_id="file-1", packed_at=0)
        ledger.entries.append(entry)
        desk = Desk(ledger, [BatchEndpoint("there", server)], "/v1/responses", {}, Stop(), said.append)
        await work(desk, entry)

    run(main())
    return said


def test_a_batch_that_is_listed_late_is_not_created_again(tmp_path: Path) -> None:
    async def take_up(desk: Desk, entry: Entry) -> None:
        await desk.take_up(entry)
        assert (entry.state, entry.batch_id) == ("submitted", "batch_1")

    server = Server(shows_at_s=8)
    at_desk(tmp_path, server, take_up)
    assert server.created == []


def test_a_server_that_says_nothing_for_long_is_told_of_once(tmp_path: Path) -> None:
    server = Server(answers=False)

    async def look(desk: Desk, entry: Entry) -> None:
        await desk.take_up(entry)
        for answers in (False, True, False):
            server.answers = answers
            for _ in range(6):
                await desk.look(entry)

    text = "the server fails, and is asked again until it answers: HTTP 503: overloaded"
    assert at_desk(tmp_path, server, look) == [text, text]
