"""Brings batches to the server and follows them there: every step is in the ledger before it is taken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_all,
    stop_before_delay,
    wait_random_exponential,
)

from runner.batches.ledger import Entry, Ledger, new_key
from runner.errors import FatalError, PermanentError, TransientError
from runner.openai_batches import BatchClient, BatchState, RemoteFile, open_batch_client
from runner.openai_client import Connection
from runner.stop import Stop

T = TypeVar("T")

PATIENCE_S = 6 * 3600.0  # for a server that does not answer: batches take hours, and so may we
_PATIENCE_OF_DOWNLOADS_S = 900.0
_PATIENCE_OF_DELETIONS_S = 60.0  # nothing depends on them
_FEWEST_ATTEMPTS = 5
_TELL_AFTER = 3  # failures in a row; a single one is nothing to worry about
_LONGEST_WAIT_S = 120.0
_LOOK_BACK_US = 2 * 86_400_000_000  # before a batch was packed, because clocks differ
_LOOKS = 3  # for a batch whose creation was not confirmed, before it is created again
_LOOK_S = 5.0
_METADATA_KEY = "runner_batch"


class TooLarge(Exception):  # noqa: N818 - an outcome, not a mistake
    """The server takes no file of this size."""


class Gone(Exception):  # noqa: N818
    """The server knows nothing of a batch, or nothing any more of the file that it would be made from."""


@dataclass(frozen=True)
class BatchEndpoint:
    """An endpoint that batches go to.

    Attributes:
        enqueued_tokens: how many tokens of one model its unfinished batches may hold; None: not limited.
        embedded: it is a simulator that lives no longer than this session.
    """

    name: str
    client: BatchClient
    enqueued_tokens: int | None = None
    embedded: bool = False


class Desk:
    """The batches of one run and the servers they are at.

    Args:
        ledger: where each step is written down before it is taken.
        url: the path that the requests go to, such as `/v1/responses`.
        about: what the metadata of each batch says besides our id of it.
    """

    def __init__(
        self,
        ledger: Ledger,
        endpoints: Sequence[BatchEndpoint],
        url: str,
        about: Mapping[str, str],
        stop: Stop,
        note: Callable[[str], None],
        *,
        keep_files: bool = False,
    ) -> None:
        self.ledger = ledger
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self.url = url
        self._about = dict(about)
        self._stop = stop
        self._note = note
        self._keep_files = keep_files
        self._failures = 0  # in a row

    @property
    def haste(self) -> float:
        """How many times faster than life the servers are, as simulators can be; waits are shorter by that."""
        return max(endpoint.client.speed for endpoint in self._endpoints.values())

    # Room -------------------------------------------------------------------------------------------------------------

    @property
    def most_tokens(self) -> int | None:
        """How many tokens a batch may hold: half of what may be enqueued, so that one waits while another is done."""
        limits = [
            endpoint.enqueued_tokens for endpoint in self._endpoints.values() if endpoint.enqueued_tokens is not None
        ]
        return max(1, min(limits) // 2) if limits else None

    def endpoint_for(self, entry: Entry) -> BatchEndpoint | None:
        """Return the endpoint that has room for a batch, of several the one with the fewest; None: it has to wait."""
        if entry.endpoint and entry.file_id is not None:  # the file is there
            endpoint = self._endpoint(entry)
            return endpoint if self._has_room(endpoint, entry) else None
        free = [endpoint for endpoint in self._endpoints.values() if self._has_room(endpoint, entry)]
        return min(free, key=lambda endpoint: len(self._at(endpoint, entry.model)), default=None)

    def _has_room(self, endpoint: BatchEndpoint, entry: Entry) -> bool:
        here = self._at(endpoint, entry.model)
        if endpoint.enqueued_tokens is None or not here:
            return True
        return sum(other.tokens for other in here) + entry.tokens <= endpoint.enqueued_tokens

    def _at(self, endpoint: BatchEndpoint, model: int) -> list[Entry]:
        entries = (entry for entry in self.ledger.open if entry.at_server)
        return [entry for entry in entries if entry.endpoint == endpoint.name and entry.model == model]

    def _endpoint(self, entry: Entry) -> BatchEndpoint:
        try:
            return self._endpoints[entry.endpoint]
        except KeyError:
            raise FatalError(
                f"batch {entry.number} is at endpoint `{entry.endpoint}`, which the job does not name any more",
                kind="endpoint_gone",
                hint=f"put `{entry.endpoint}` back into `endpoint` of the job, and resume",
            ) from None

    # Submitting -------------------------------------------------------------------------------------------------------

    async def submit(self, entry: Entry, endpoint: BatchEndpoint) -> None:
        """Upload a packed batch and have it created, once.

        Raises:
            TooLarge: the server takes no file of this size.
            Gone: it does not take the file that it has been given before.
            FatalError: it takes none from us at all, or did not answer for hours.
        """
        entry.state, entry.endpoint, entry.key = "submitting", endpoint.name, new_key()
        self.ledger.save(entry)
        await self._complete(entry, endpoint)

    async def take_up(self, entry: Entry) -> None:
        """Finish what an earlier session began: find the batch if it exists, else have it created now.

        Raises:
            TooLarge, Gone, FatalError: as `submit`.
        """
        endpoint = self._endpoint(entry)
        if not await self._found(entry, endpoint):
            await self._complete(entry, endpoint)

    async def take_back(self, entry: Entry) -> None:
        """Find the batch that an earlier session began to submit; if it does not exist, it is one that was packed.

        Raises:
            FatalError: the server refuses to tell, or did not answer for hours.
        """
        if not await self._found(entry, self._endpoint(entry)):
            self._not_submitted(entry)

    async def _found(self, entry: Entry, endpoint: BatchEndpoint) -> bool:
        """Look for what a killed session may have made: the batch, or only its file."""
        if entry.file_id is None:  # it is written down before the batch is asked for
            if (file := await self._uploaded(entry, endpoint)) is not None:
                entry.file_id = file.id
            return False
        state = await self._find(entry, endpoint)
        if state is not None:
            self._submitted(entry, state)
        return state is not None

    def _not_submitted(self, entry: Entry) -> None:
        entry.state = "packed"
        self.ledger.save(entry)

    async def _complete(self, entry: Entry, endpoint: BatchEndpoint) -> None:
        path = self.ledger.path(entry.number, "requests")
        doubtful = False

        async def upload() -> RemoteFile:
            nonlocal doubtful
            if doubtful and (file := await self._uploaded(entry, endpoint)) is not None:
                return file
            doubtful = True
            try:
                return await endpoint.client.upload(path, self._file_name(entry))
            except FatalError:
                self._not_submitted(entry)
                raise

        known = entry.file_id is not None
        if entry.file_id is None:
            with self._stop.waiting():  # an upload takes minutes; one that is cut off leaves no file
                try:
                    file = await self._patiently(upload)
                except PermanentError as error:
                    if error.kind == "too_large":
                        raise TooLarge from error
                    raise FatalError(
                        error.message, kind="batch_refused", where=f"endpoint `{endpoint.name}`"
                    ) from error
            entry.file_id = file.id
            self.ledger.save(entry)
        try:
            state = await self._create(entry, endpoint, entry.file_id)
        except FatalError as error:
            if known and entry.state == "packed" and error.kind in ("batch_refused", "not_found"):
                raise Gone(error.message) from error  # with a new file it may be taken
            raise
        self._submitted(entry, state)
        path.unlink(missing_ok=True)

    def _file_name(self, entry: Entry) -> str:
        return f"{self._about['runner_run']}-{entry.number:05d}-{entry.key}.jsonl"

    async def _uploaded(self, entry: Entry, endpoint: BatchEndpoint) -> RemoteFile | None:
        """Return the file that was uploaded for a batch although nobody heard so; others of its name are deleted."""
        size, name = self.ledger.path(entry.number, "requests").stat().st_size, self._file_name(entry)

        async def look() -> list[RemoteFile]:
            found = []
            async for file in endpoint.client.files():
                if file.name == name:
                    found.append(file)
                if file.created_at < entry.packed_at - _LOOK_BACK_US:
                    break
            return found

        whole = None
        for file in await self._patiently(look):
            if file.bytes == size and whole is None:
                whole = file
            else:
                await self._patiently(lambda file=file: endpoint.client.delete_file(file.id))  # type: ignore[misc]
        return whole

    async def _create(self, entry: Entry, endpoint: BatchEndpoint, file_id: str) -> BatchState:
        """Create a batch; where no answer says whether it exists, look for it before trying again."""
        metadata = {**self._about, _METADATA_KEY: entry.key}
        doubtful = False

        async def create() -> BatchState:
            nonlocal doubtful
            if doubtful and (state := await self._find(entry, endpoint)) is not None:
                return state
            doubtful = True
            try:
                return await endpoint.client.create(file_id, self.url, metadata)
            except FatalError:  # there is none
                self._not_submitted(entry)
                raise

        return await self._patiently(create)

    async def _find(self, entry: Entry, endpoint: BatchEndpoint) -> BatchState | None:
        """Return the batch that has our id in its metadata; should there be two, cancel the younger."""

        async def look() -> list[BatchState]:
            found = []
            async for state in endpoint.client.batches():
                if state.metadata.get(_METADATA_KEY) == entry.key:
                    found.append(state)
                if state.created_at < entry.packed_at - _LOOK_BACK_US:
                    break
            return found

        for turn in range(_LOOKS):
            if turn:
                await self._sleep(_LOOK_S)
            if found := sorted(await self._patiently(look), key=lambda state: state.created_at):
                for double in found[1:]:
                    await self._patiently(lambda double=double: endpoint.client.cancel(double.id))  # type: ignore[misc]
                return found[0]
        return None

    def _submitted(self, entry: Entry, state: BatchState) -> None:
        entry.state, entry.batch_id = "submitted", state.id
        _heard(entry, state)
        self.ledger.save(entry)

    # Following --------------------------------------------------------------------------------------------------------

    async def look(self, entry: Entry) -> BatchState | None:
        """Ask how a batch is; write down when it has ended.

        Returns:
            What the server says; None: nothing just now.

        Raises:
            Gone: the simulator that had it is gone.
            FatalError: the server knows nothing of it, or refuses us.
        """
        assert entry.batch_id is not None
        endpoint = self._endpoint(entry)
        try:
            state = await endpoint.client.retrieve(entry.batch_id)
        except TransientError as error:
            self._failed(error)
            return None
        except FatalError as error:
            if endpoint.embedded and error.kind == "not_found":
                raise Gone from error
            raise self._with_way_out(entry, error) from error
        self._failures = 0
        before = entry.status
        _heard(entry, state)
        if state.ended:
            entry.state = "ended"
        if entry.status != before:
            self.ledger.save(entry)
        return state

    async def cancel(self, entry: Entry) -> None:
        """Have a batch cancelled; what it has finished by then will be there."""
        assert entry.batch_id is not None
        endpoint, batch_id = self._endpoint(entry), entry.batch_id
        try:
            _heard(entry, await self._patiently(lambda: endpoint.client.cancel(batch_id)))
        except FatalError as error:
            if not endpoint.embedded:  # else it is gone, which the next look tells
                raise self._with_way_out(entry, error) from error
        self.ledger.save(entry)

    def _with_way_out(self, entry: Entry, error: FatalError) -> FatalError:
        """Return an error that says what can be done about a batch that the server does not know."""
        if error.kind != "not_found":
            return error
        path = self.ledger.entry_path(entry.number)
        hint = f"{error.hint}; if it is gone for good, delete {path} to have its rows sent, and paid, again"
        return FatalError(
            f"the server does not know batch {entry.batch_id}: {error.message}",
            kind=error.kind, where=error.where, hint=hint,
        )  # fmt: skip

    async def download(self, entry: Entry, file_id: str, kind: str, lines: int) -> None:
        """Have the `output` or `errors` of a batch on this disk.

        Args:
            lines: how many it should have; a file that stays shorter is taken as it is.

        Raises:
            FatalError: it cannot be had; it is asked for again when the run is resumed.
        """
        path, endpoint = self.ledger.path(entry.number, kind), self._endpoint(entry)
        for _ in range(_LOOKS):
            if path.exists() and await asyncio.to_thread(_whole_lines, path) >= lines:
                return
            with self._stop.waiting():
                await self._patiently(lambda: endpoint.client.download(file_id, path), _PATIENCE_OF_DOWNLOADS_S)
        if (found := await asyncio.to_thread(_whole_lines, path)) < lines:
            self._note(f"the {kind} file of batch {entry.batch_id} has {found:,} lines, and not {lines:,}")

    async def forget(self, entry: Entry) -> None:
        """Delete the input file of a batch that is through, or else in a later session."""
        if entry.file_id is None or self._keep_files:
            return
        try:
            client, file_id = self._endpoint(entry).client, entry.file_id
            await self._patiently(lambda: client.delete_file(file_id), _PATIENCE_OF_DELETIONS_S)
        except FatalError as error:
            self._note(f"file {entry.file_id} of batch {entry.number} was not deleted: {error.message}")
            return
        entry.file_id = None
        self.ledger.save(entry)

    async def _patiently(self, action: Callable[[], Awaitable[T]], patience_s: float = PATIENCE_S) -> T:
        """Try until it succeeds.

        Raises:
            FatalError: it did not for `patience_s`.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(TransientError),
            wait=wait_random_exponential(multiplier=2, max=_LONGEST_WAIT_S),
            stop=stop_all(stop_before_delay(patience_s / self.haste), stop_after_attempt(_FEWEST_ATTEMPTS)),
            sleep=self._sleep,
            reraise=True,
        )

        async def attempt() -> T:  # tenacity would take a lambda for something that is not awaited
            try:
                done = await action()
            except TransientError as error:
                self._failed(error)
                raise
            self._failures = 0
            return done

        try:
            return await retrying(attempt)
        except TransientError as error:
            raise FatalError(
                f"the server could not be reached, or did not do its part: {error.message}",
                kind="server",
                hint="resume the run when it works again: the batches go on without it",
            ) from error

    def _failed(self, error: TransientError) -> None:
        """Say that a server does not do its part, once until it does."""
        self._failures += 1
        if self._failures == _TELL_AFTER:
            self._note(f"the server fails, and is asked again until it answers: {error.message}")

    async def _sleep(self, seconds: float) -> None:
        await self._stop.sleep(seconds / self.haste)


async def look_up(entries: Sequence[Entry], connections: Sequence[Connection]) -> None:
    """Ask after batches, for somebody who wants to know; what cannot be learned now stays as it was written down.

    Raises:
        FatalError: a server refuses, or knows nothing of a batch.
    """
    for connection in connections:
        async with open_batch_client(connection) as client:
            for entry in entries:
                if entry.endpoint == connection.name and entry.batch_id is not None:
                    with suppress(TransientError):
                        _heard(entry, await client.retrieve(entry.batch_id))


def _heard(entry: Entry, state: BatchState) -> None:
    entry.status, entry.done, entry.failed = state.status, state.done, state.failed
    entry.submitted_at, entry.started_at = state.created_at, state.in_progress_at
    entry.ended_at, entry.expires_at = state.ended_at, state.expires_at


def _whole_lines(path: Path) -> int:
    """Return how many lines a file has; a last one without its end counts when it is JSON."""
    count, last = 0, b""
    with open(path, "rb") as file:
        for line in file:
            count, last = count + 1, line
    if last.endswith(b"\n") or not last:
        return count
    try:
        json.loads(last)
    except (ValueError, RecursionError):
        return count - 1
    return count
