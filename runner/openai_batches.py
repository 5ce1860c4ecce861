"""Uploads files of requests, has them carried out as batches, and downloads the answers, through the SDK.

What to submit when, and what is done with the answers, is the strategy's business. Each method is one exchange (a
listing: one for each page) that is never repeated here: whoever calls owns the retries. It ends well, in a
`TransientError` (worth another try) or in a `FatalError`; only `upload` knows a third end, a file that is too large.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, cast

import httpx2
import openai
from pydantic import TypeAdapter, ValidationError

from runner.atomic import replacing
from runner.clock import Clock, SystemClock
from runner.errors import CallError, FatalError, PermanentError, TransientError
from runner.openai_client import Connection, check, sdk_client, trusted, unsendable_key
from runner.openai_errors import classify, number, status_error

# What a listing asks for at once: the most that the API gives of batches, and a tenth of that of files.
_BATCHES_A_PAGE = 100
_FILES_A_PAGE = 1000
_CHUNK_BYTES = 256 * 1024

_NO_BATCH_API = "check `base_url` in configs/endpoints.yaml; perhaps this server has no Batch API"
_FILE_GONE = "it was deleted or has expired, or it belongs to another project: check the key and `base_url`"
_BATCH_GONE = "it may belong to another project: check the key and `base_url` in configs/endpoints.yaml"


@dataclass(frozen=True, slots=True)
class LineError:
    """What the server found wrong with an input file, for which the whole batch failed.

    Attributes:
        code: such as `invalid_json_line`, `duplicate_custom_id` or `token_limit_exceeded`.
        line: the line of the input file, from 1; None where it is not about one line.
    """

    code: str
    message: str
    line: int | None


@dataclass(frozen=True, slots=True)
class BatchState:
    """What the server says of a batch.

    Times are microseconds since 1970 (UTC), None for what has not happened.

    Attributes:
        status: validating, in_progress, finalizing, completed, failed, expired, cancelling or cancelled.
        output_file_id: the answers; there may be some although the batch expired or was cancelled.
        error_file_id: the requests that failed.
        errors: why the batch failed.
        total: how many requests it holds; `done` of them were answered, `failed` of them not.
    """

    id: str
    status: str
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    errors: tuple[LineError, ...]
    total: int
    done: int
    failed: int
    created_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    expires_at: int | None
    metadata: Mapping[str, str]

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more, and what was finished can be downloaded."""
        return self.status in ("completed", "failed", "expired", "cancelled")

    @property
    def ended_at(self) -> int | None:
        moments = {
            "completed": self.completed_at,
            "failed": self.failed_at,
            "expired": self.expired_at,
            "cancelled": self.cancelled_at,
        }
        return moments.get(self.status)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that the server keeps.

    Attributes:
        created_at: microseconds since 1970 (UTC).
    """

    id: str
    name: str
    bytes: int
    created_at: int


def open_batch_client(
    connection: Connection, *, clock: Clock | None = None, timeout_s: float = 60.0, silence_s: float = 300.0
) -> BatchClient:
    """Return a client for the files and batches of an endpoint; it belongs to the event loop that first uses it.

    Args:
        timeout_s: how long a call may take that moves no file, in seconds.
        silence_s: how long an upload or download, which may take hours, may stand still, in seconds.

    Raises:
        SpecError: the address, the key, a header or the environment's proxy cannot be used.
    """
    check(connection)
    return BatchClient(connection, clock or SystemClock(), timeout_s, silence_s)


class BatchClient:
    """The files and batches of one endpoint.

    Attributes:
        speed: how many times faster than life the server's batches are: the simulator says so of its own.
    """

    def __init__(self, connection: Connection, clock: Clock, timeout_s: float, silence_s: float) -> None:
        self._connection = connection
        self._clock = clock
        self._timeout_s = timeout_s
        self.speed = 1.0
        self._silence = httpx2.Timeout(silence_s)
        # Not over aiohttp: no timeout of it ends an upload to a server that has stopped reading.
        self._client = sdk_client(connection, openai.DefaultAsyncHttpxClient(verify=trusted()))
        self._files = self._client.files.with_raw_response
        self._batches = self._client.batches.with_raw_response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def upload(self, path: Path, name: str) -> RemoteFile:
        """Upload a file of requests under `name`, reading it as it is sent.

        Raises:
            PermanentError: the server takes no file of this size (kind `too_large`).
            TransientError: it may work when tried again; the file may be there nevertheless.
            FatalError: the server refuses this upload, and would refuse any other.
            OSError: the file cannot be opened.
        """
        with open(path, "rb") as file:  # the SDK would read a path's content into memory
            try:
                call = self._files.create(file=(name, file), purpose="batch", timeout=self._silence)
                answer = await self._content(call, _NO_BATCH_API, None)
            except TransientError as error:
                if error.kind != "connection" or not error.perhaps_paid:
                    raise
                megabytes = os.fstat(file.fileno()).st_size / 1e6  # some servers refuse by hanging up
                message = f"{error.message}; perhaps a file of {megabytes:.1f} MB is too large for this server"
                raise TransientError(message, kind=error.kind, perhaps_paid=True) from error.__cause__
            except FatalError as error:
                if isinstance(error.__cause__, openai.APIStatusError) and error.__cause__.status_code == 413:
                    raise PermanentError(error.message, kind="too_large") from error.__cause__
                raise
        return _remote_file(_object(answer, "a file"))

    async def files(self) -> AsyncIterator[RemoteFile]:
        """Yield all files that were uploaded for batches, the newest first.

        Raises:
            TransientError: it may work when tried again.
            FatalError: the server refuses.
        """

        def page(after: str | openai.Omit) -> Awaitable[Any]:
            return self._files.list(purpose="batch", order="desc", limit=_FILES_A_PAGE, after=after)

        async for found in self._listed(page, "a list of files"):
            if found.get("purpose") == "batch":  # not every server looks at what was asked for
                yield _remote_file(found)

    async def delete_file(self, file_id: str) -> None:
        """Delete a file; one that is gone already is fine.

        Raises:
            TransientError: it may work when tried again.
            FatalError: the server refuses.
        """
        try:
            await self._content(self._files.delete(file_id), _FILE_GONE, self._timeout_s)
        except FatalError as error:
            if not isinstance(error.__cause__, openai.NotFoundError):
                raise

    async def create(self, input_file_id: str, url: str, metadata: Mapping[str, str]) -> BatchState:
        """Let the requests of an uploaded file be carried out within 24 hours.

        Args:
            url: the path that every request of the file names, such as `/v1/responses`.
            metadata: at most 16 pairs; a key of at most 64 characters, a value of at most 512.

        Raises:
            TransientError: no batch was made; or, where it is `perhaps_paid`, there may be one: look for its metadata.
            FatalError: the server refuses this batch (kind `batch_refused`), or all that this key asks for.
        """
        call = self._batches.create(
            input_file_id=input_file_id,
            endpoint=cast("Literal['/v1/responses']", url),  # the server knows best which ones it offers
            completion_window="24h",
            metadata=dict(metadata),
        )
        try:
            return _batch_state(_object(await self._content(call, _NO_BATCH_API, self._timeout_s), "a batch"))
        except TransientError as error:
            if error.kind in ("server_error", "garbled_answer"):  # a gateway may fail after the batch was made
                error.perhaps_paid = True
            raise

    async def retrieve(self, batch_id: str) -> BatchState:
        """Return how a batch is doing.

        Raises:
            TransientError: it may work when tried again.
            FatalError: the server refuses, or knows no such batch (kind `not_found`).
        """
        call = self._batches.retrieve(batch_id)
        return _batch_state(_object(await self._content(call, _BATCH_GONE, self._timeout_s), "a batch"))

    async def batches(self) -> AsyncIterator[BatchState]:
        """Yield all batches of the project, the newest first.

        Raises:
            TransientError: it may work when tried again.
            FatalError: the server refuses.
        """

        def page(after: str | openai.Omit) -> Awaitable[Any]:
            return self._batches.list(limit=_BATCHES_A_PAGE, after=after)

        async for found in self._listed(page, "a list of batches"):
            yield _batch_state(found)

    async def cancel(self, batch_id: str) -> BatchState:
        """Let a batch stop, which takes minutes, and return its state; one that has ended stays as it is.

        Raises:
            TransientError: it may work when tried again.
            FatalError: the server refuses, or knows no such batch (kind `not_found`).
        """
        try:
            answer = await self._content(self._batches.cancel(batch_id), _BATCH_GONE, self._timeout_s)
        except (TransientError, FatalError) as error:
            if not isinstance(error.__cause__, openai.BadRequestError | openai.ConflictError):
                raise
            state = await self.retrieve(batch_id)
            if not state.ended and state.status != "cancelling":
                raise
            return state
        return _batch_state(_object(answer, "a batch"))

    async def download(self, file_id: str, path: Path) -> None:
        """Write a file's content to `path`, as it comes; there is all of it or, after an error, no file.

        Raises:
            TransientError: it may work when tried again, from the start.
            FatalError: the server refuses, or knows no such file (kind `not_found`).
            OSError: the content cannot be written.
        """
        try:
            streaming = self._client.files.with_streaming_response
            async with streaming.content(file_id, timeout=self._silence) as response:
                with replacing(path) as temporary, open(temporary, "wb") as file:
                    async for chunk in response.iter_bytes(_CHUNK_BYTES):
                        file.write(chunk)
                    file.flush()
                    await asyncio.to_thread(os.fsync, file.fileno())  # for 200 MB too long for an event loop
        except (openai.OpenAIError, httpx2.HTTPError, UnicodeEncodeError) as error:
            raise self._runner_error(error, _FILE_GONE) from _shown(error)

    async def _listed(
        self, page: Callable[[str | openai.Omit], Awaitable[Any]], what: str
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield what all pages of a listing hold.

        Not the SDK's own paging: it would ask a server that knows no pages, and gives all each time, for ever.
        """
        after: str | openai.Omit = openai.omit
        while True:
            answer = _object(await self._content(page(after), _NO_BATCH_API, self._timeout_s), what)
            found = answer.get("data")
            if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
                raise _garbled(what, "`data` is not a list of objects")
            if not found or found[-1].get("id") == after:
                return
            for one in found:
                yield one
            if answer.get("has_more") is False:
                return
            after = found[-1].get("id")
            if not isinstance(after, str):
                raise _garbled(what, "`id` is not a text")

    async def _content(self, call: Awaitable[Any], missing: str, timeout_s: float | None) -> bytes:
        """Wait for a raw response of the SDK and return its content.

        Raw, because the SDK's own reading checks no types and calls a proxy's page a batch.

        Args:
            missing: what to try when the server finds nothing under the address.
        """
        try:
            async with asyncio.timeout(timeout_s):
                answer = await call
        except TimeoutError as error:
            raise TransientError("no answer in time", kind="timeout", perhaps_paid=True) from error
        except (openai.OpenAIError, UnicodeEncodeError) as error:
            raise self._runner_error(error, missing) from _shown(error)
        self.speed = number(answer.headers.get("x-simulated-speed")) or self.speed
        return cast("bytes", answer.content)

    def _runner_error(
        self, error: openai.OpenAIError | httpx2.HTTPError | UnicodeEncodeError, missing: str
    ) -> TransientError | FatalError:
        if isinstance(error, UnicodeEncodeError):
            return unsendable_key(self._connection)
        found = classify(_as_sdk_error(error), self._connection, self._clock)
        if isinstance(found, TransientError):
            return found
        if isinstance(found, FatalError):
            hint = missing if found.kind == "not_found" else found.hint
            return FatalError(found.message, kind=found.kind, where=found.where, hint=hint)
        # On the live path the error of one row; here it is about all that is sent.
        return FatalError(found.message, kind="batch_refused", where=f"endpoint `{self._connection.name}`")


def row_error(connection: Connection, status: int, body: object, clock: Clock) -> CallError | FatalError:
    """Return the error for a line of an error file, the same that a live request gets for such an answer.

    Args:
        status: `response.status_code` of the line.
        body: `response.body` of the line.
    """
    content = body if isinstance(body, str) else json.dumps(body)
    request = httpx2.Request("POST", connection.base_url)
    response = httpx2.Response(status, content=content.encode(errors="replace"), request=request)
    return classify(status_error(response), connection, clock)


def _as_sdk_error(error: openai.OpenAIError | httpx2.HTTPError) -> openai.OpenAIError:
    """Wrap an error of the connection as the SDK does where it reads all of an answer itself."""
    if isinstance(error, openai.OpenAIError):
        return error
    cls = openai.APITimeoutError if isinstance(error, httpx2.TimeoutException) else openai.APIConnectionError
    wrapped = cls(request=error.request)
    wrapped.__cause__ = error
    return wrapped


def _shown(error: Exception) -> Exception | None:
    """Return the cause that may be shown: an encoding error would show the key."""
    return None if isinstance(error, UnicodeEncodeError) else error


# What the server answered ---------------------------------------------------------------------------------------------

_T = TypeVar("_T")
_BATCH_STATE = TypeAdapter(BatchState)
_REMOTE_FILE = TypeAdapter(RemoteFile)


def _object(content: bytes, what: str) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        raise _garbled(what, "it is not JSON") from None
    if not isinstance(answer, dict):
        raise _garbled(what, "it is not an object")
    return answer


def _batch_state(batch: dict[str, Any]) -> BatchState:
    """Read a batch object (https://platform.openai.com/docs/api-reference/batch/object).

    Some servers write an empty text or 0 where OpenAI writes null.
    """
    counts = _inner(batch, "request_counts")
    moments = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled", "expires")
    facts = {
        "id": batch.get("id") or None,
        "status": batch.get("status"),
        "input_file_id": batch.get("input_file_id"),
        "output_file_id": batch.get("output_file_id") or None,
        "error_file_id": batch.get("error_file_id") or None,
        "errors": [_line_error(error) for error in _inner(batch, "errors").get("data") or ()],
        "total": counts.get("total") or 0,
        "done": counts.get("completed") or 0,
        "failed": counts.get("failed") or 0,
        "created_at": _us(batch.get("created_at")),
        **{f"{moment}_at": _us(batch.get(f"{moment}_at") or None) for moment in moments},
        "metadata": batch.get("metadata") or {},
    }
    return _checked(_BATCH_STATE, facts, "a batch")


def _remote_file(file: dict[str, Any]) -> RemoteFile:
    facts = {
        "id": file.get("id") or None,
        "name": file.get("filename"),
        "bytes": file.get("bytes"),
        "created_at": _us(file.get("created_at")),
    }
    return _checked(_REMOTE_FILE, facts, "a file")


def _line_error(error: object) -> object:
    if not isinstance(error, dict):
        return error
    code = error.get("code") or "unknown"
    return {"code": code, "message": error.get("message") or code, "line": error.get("line")}


def _inner(batch: dict[str, Any], key: str) -> dict[str, Any]:
    found = batch.get(key)
    return found if isinstance(found, dict) else {}


def _us(seconds: object) -> object:
    return round(seconds * 1_000_000) if isinstance(seconds, int | float) else seconds


def _checked(shape: TypeAdapter[_T], facts: dict[str, Any], what: str) -> _T:
    try:
        return shape.validate_python(facts)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in found["loc"])
        raise _garbled(what, f"`{place}`: {found['msg']}") from None


def _garbled(what: str, why: str) -> TransientError:
    """Return the error for an answer that says 200 but not what was asked for, such as a proxy's page."""
    return TransientError(f"the server did not answer with {what}: {why}", kind="garbled_answer")
