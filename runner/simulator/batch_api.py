"""Decides the answers to requests about files and batches, and keeps the simulated time that these go by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from runner.simulator.accounts import Account
from runner.simulator.batch_output import LineAnswer
from runner.simulator.batches import Batch, Batches
from runner.simulator.draws import Draws
from runner.simulator.files import Files, FormPart, StoredFile
from runner.simulator.questions import Refused
from runner.simulator.settings import SimulatorSettings


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request about files or batches.

    Attributes:
        body: reads the body.
        form: reads it as a multipart form; raises `ValueError` where it is none.
    """

    method: str
    path: str
    query: Mapping[str, str]
    authorization: str | None
    organization: str | None
    body: Callable[[], Awaitable[bytes]]
    form: Callable[[], AsyncIterator[FormPart]]


@dataclass(slots=True)
class Kept:
    """The answer to such a request.

    Attributes:
        value: the answer as JSON; not for a download.
        simulated_now: seconds since 1970, in simulated time; None where that is nobody's concern.
        file: what is downloaded.
        cut: how many bytes of it, before the connection is closed; None: all.
        lost: the answer never arrives.
    """

    value: dict[str, Any] | None = None
    simulated_now: float | None = None
    file: StoredFile | None = None
    cut: int | None = None
    lost: bool = False


class BatchApi:
    """`/v1/files` and `/v1/batches`.

    Args:
        now: the time that limits go by, in seconds.
        started_at: when the simulated time starts, in seconds since 1970.
        answer: carries out one request of a batch.
        known_model: whether there is a model of this name.
    """

    def __init__(
        self,
        settings: SimulatorSettings,
        now: Callable[[], float],
        started_at: float,
        answer: Callable[[str, dict[str, Any], Account], LineAnswer],
        known_model: Callable[[str], bool],
    ) -> None:
        self._settings = settings.batches
        self._seed = settings.seed
        self._real_now = now
        self._real_start = now()
        self._started_at = started_at
        self._stopped_at: float | None = None
        self._calls = 0
        self._files = Files(self._settings.max_file_bytes, self.now)
        self._batches = Batches(self._settings, settings.seed, self._files, answer, known_model)

    def now(self) -> float:
        """Seconds since 1970, in simulated time."""
        if self._stopped_at is not None:
            return self._stopped_at
        return self._started_at + (self._real_now() - self._real_start) * self._settings.speed

    def reset(self) -> None:
        """Forget the counters; files and batches stay."""
        self._files.reset()
        self._batches.reset()

    def close(self) -> None:
        """Stop the time, and remove all files from the disk."""
        self._stopped_at = self.now()
        self._files.close()

    async def answer(self, asked: Incoming, account: Account) -> Kept:
        """Answer one request.

        Raises:
            Refused: with the reason.
        """
        self._calls += 1
        if Draws(f"{self._seed}".encode(), f"call{self._calls}").unit() < self._settings.faults.unavailable:
            message = "The server is overloaded or not ready yet."
            raise Refused(503, message, kind="server_error", code="server_overloaded")
        match asked.path.removeprefix("/v1/").split("/"):
            case ["files", *rest]:
                return await self._about_files(asked, account, rest)
            case ["batches", *rest]:
                return await self._about_batches(asked, account, rest)
        raise _no_such_url(asked)

    async def _about_files(self, asked: Incoming, account: Account, rest: list[str]) -> Kept:
        files = self._files
        match asked.method, rest:
            case "POST", []:
                try:
                    return Kept((await files.upload(account, asked.form())).shown())
                except ValueError as error:
                    message = f"The body is not a multipart form: {error}"
                    raise Refused(400, message, code="invalid_form") from None
            case "GET", []:
                return Kept(files.page(account, asked.query))
            case "GET", [name]:
                return Kept(files.get(account, name).shown())
            case "DELETE", [name]:
                return Kept(files.delete(account, name))
            case "GET", [name, "content"]:
                stored = files.get(account, name)
                cut = stored.size // 2 if stored.to_cut else None
                stored.to_cut = max(0, stored.to_cut - 1)
                return Kept(file=stored, cut=cut)
        raise _no_such_url(asked)

    async def _about_batches(self, asked: Incoming, account: Account, rest: list[str]) -> Kept:
        batches = self._batches
        match asked.method, rest:
            case "POST", []:
                body = await asked.body()
                now = self.now()
                batch = batches.create(account, body, now)
                # Nothing has happened to it yet, not even where nothing takes time.
                return Kept(batch.shown(-inf), now, lost=bool(batch.script.lose_create_answer))
            case "GET", []:
                now = self.now()
                await self._work(now, batches.of(account, asked.query))
                return Kept(batches.page(account, asked.query, lambda batch: batch.shown(now)), now)
            case "GET", [name]:
                batch = batches.get(account, name)
                now = self.now()
                await self._work(now, [batch])
                return Kept(batch.shown(now), now)
            case "POST", [name, "cancel"]:
                batch = batches.get(account, name)
                now = self.now()
                await self._work(now, [batch])
                batches.cancel(batch, now)
                return Kept(batch.shown(now), now)
        raise _no_such_url(asked)

    async def _work(self, now: float, wanted: Collection[Batch]) -> None:
        """Do all that is due, letting others in between: what another request does meanwhile is done for this one."""
        while self._batches.work(now, wanted):  # noqa: ASYNC110 - this is the work, not waiting for it
            await asyncio.sleep(0)

    async def catch_up(self) -> None:
        """Do all that is due."""
        await self._work(self.now(), self._batches.all())

    def snapshot(self) -> dict[str, Any]:
        """The counters as `GET /stats` shows them."""
        return {"files": self._files.snapshot(), "batches": self._batches.snapshot(self.now())}


def _no_such_url(asked: Incoming) -> Refused:
    return Refused(404, f"Invalid URL ({asked.method} {asked.path})")
