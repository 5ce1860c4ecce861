"""The files and batches of an endpoint: what is sent is what the SDK documents, and nothing that comes back is trusted.

A small server records all that arrives and answers as each test says; a raw one cuts connections short.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from runner.clock import SystemClock
from runner.errors import FatalError, PermanentError, RunnerError, SpecError, TransientError
from runner.openai_batches import BatchClient, BatchState, LineError, RemoteFile, open_batch_client, row_error
from runner.openai_client import Connection

KEY = "sk-test-0123456789abcdef"
LINES = b'{"custom_id":"a"}\n{"custom_id":"b"}\n'
S = 1_000_000
FILE = {
    "id": "file-1",
    "object": "file",
    "bytes": len(LINES),
    "created_at": 1_790_000_000,
    "filename": "rows.jsonl",
    "purpose": "batch",
    "status": "processed",
}
BATCH = {
    "id": "batch_1",
    "object": "batch",
    "endpoint": "/v1/responses",
    "errors": None,
    "input_file_id": "file-1",
    "completion_window": "24h",
    "status": "in_progress",
    "output_file_id": None,
    "error_file_id": None,
    "created_at": 1_790_000_000,
    "in_progress_at": 1_790_000_060,
    "expires_at": 1_790_086_400,
    "finalizing_at": None,
    "completed_at": None,
    "failed_at": None,
    "expired_at": None,
    "cancelling_at": None,
    "cancelled_at": None,
    "request_counts": {"total": 100, "completed": 40, "failed": 2},
    "metadata": {"run": "r-1", "pack": "3"},
}
STATE = BatchState(
    id="batch_1",
    status="in_progress",
    input_file_id="file-1",
    output_file_id=None,
    error_file_id=None,
    errors=(),
    total=100,
    done=40,
    failed=2,
    created_at=1_790_000_000 * S,
    in_progress_at=1_790_000_060 * S,
    finalizing_at=None,
    completed_at=None,
    failed_at=None,
    expired_at=None,
    cancelling_at=None,
    cancelled_at=None,
    expires_at=1_790_086_400 * S,
    metadata={"run": "r-1", "pack": "3"},
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("OPENAI_", "AZURE_")):
            monkeypatch.delenv(name)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINES)
    return path


# The servers ----------------------------------------------------------------------------------------------------------

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; `headers` has lower-case names and leaves out what is set per message."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """Answers every request with `answer`, and remembers them all."""

    answer: Answer
    seen: list[Seen] = field(default_factory=list)
    root: str = ""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {k.lower(): v for k, v in request.headers.items()}
        for name in ("content-length", "host", "connection", "accept-encoding", "transfer-encoding"):
            headers.pop(name, None)
        body = await request.content.read()
        if boundary := re.search("boundary=([0-9a-f]+)", headers.get("content-type", "")):
            body = body.replace(boundary[1].encode(), b"BOUNDARY")
            headers["content-type"] = headers["content-type"].replace(boundary[1], "BOUNDARY")
        self.seen.append(Seen(request.method, request.raw_path, headers, body))
        return await self.answer(request)

    @property
    def calls(self) -> list[str]:
        return [f"{seen.method} {seen.path}" for seen in self.seen]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Server]:
    server = Server(answer)
    app_runner = web.ServerRunner(web.Server(server.handle, handler_cancellation=True), shutdown_timeout=0)
    await app_runner.setup()
    site = web.TCPSite(app_runner, "127.0.0.1", 0)
    await site.start()
    host, port = app_runner.addresses[0][:2]
    server.root = f"http://{host}:{port}"
    try:
        yield server
    finally:
        await app_runner.cleanup()


def saying(body: object, status: int = 200, **headers: str) -> Answer:
    """Answer with JSON; a text is sent as it is."""
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()

    async def answer(_: web.BaseRequest) -> web.Response:
        heads = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return web.Response(status=status, body=content, headers=heads)

    return answer


def refusing(status: int, code: str | None = None, message: str = "No.") -> Answer:
    return saying({"error": {"message": message, "type": "invalid_request_error", "code": code}}, status)


async def hang(_: web.BaseRequest) -> web.Response:
    """Never answer; the server gives up with the connection."""
    await asyncio.Event().wait()
    raise AssertionError


@asynccontextmanager
async def raw_server(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
) -> AsyncIterator[str]:
    """Let `talk` speak with whoever has sent a head; then close the connection."""
    talks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk_of_this = asyncio.current_task()
        assert talk_of_this is not None
        talks.add(talk_of_this)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await talk(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks)


def unused_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


# The client -----------------------------------------------------------------------------------------------------------

Do = Callable[[BatchClient], Awaitable[Any]]


def connection_to(root: str, **options: Any) -> Connection:
    return Connection(**{"name": "e", "base_url": f"{root}/v1", "api_key": KEY, **options})


async def doing(root: str, do: Do, timeout_s: float = 5, silence_s: float = 5, **options: Any) -> Any:
    async with open_batch_client(connection_to(root, **options), timeout_s=timeout_s, silence_s=silence_s) as client:
        return await do(client)


async def failing(root: str, do: Do, **options: Any) -> Any:
    with pytest.raises(RunnerError) as caught:
        await doing(root, do, **options)
    return caught.value


def result(answer: Answer, do: Do, **options: Any) -> tuple[Any, Server]:
    """Return what `do` returns when the server answers so, and the server with what it saw."""

    async def story() -> tuple[Any, Server]:
        async with serving(answer) as server:
            return await doing(server.root, do, **options), server

    return asyncio.run(story())


def error(answer: Answer, do: Do, **options: Any) -> Any:
    """Return the runner's error that `do` ends in."""

    async def story() -> Any:
        async with serving(answer) as server:
            return await failing(server.root, do, **options)

    return asyncio.run(story())


async def listed(found: AsyncIterator[Any]) -> list[Any]:
    return [one async for one in found]


def creating(client: BatchClient) -> Awaitable[BatchState]:
    return client.create("file-1", "/v1/responses", {"run": "r-1", "pack": "3"})


def all_verbs(folder: Path) -> dict[str, Do]:
    path = folder / "rows.jsonl"
    path.write_bytes(LINES)
    return {
        "upload": lambda client: client.upload(path, "pack-3.jsonl"),
        "files": lambda client: listed(client.files()),
        "delete_file": lambda client: client.delete_file("file-1"),
        "create": creating,
        "retrieve": lambda client: client.retrieve("batch_1"),
        "batches": lambda client: listed(client.batches()),
        "cancel": lambda client: client.cancel("batch_1"),
        "download": lambda client: client.download("file-1", folder / "got.jsonl"),
    }


VERBS = ["upload", "files", "delete_file", "create", "retrieve", "batches", "cancel", "download"]

# What is sent ---------------------------------------------------------------------------------------------------------


async def plausible(request: web.BaseRequest) -> web.StreamResponse:
    """Answer each call with an object of the right kind."""
    kind = "batch" if "/batches" in request.path else "file"
    found: object = BATCH if kind == "batch" else FILE
    if request.method == "GET" and request.path.endswith(("/files", "/batches")):
        found = {"object": "list", "data": [found], "has_more": False}
    return await saying(found)(request)


CONNECTIONS: dict[str, dict[str, Any]] = {
    "key alone": {},
    "organization and project": {"organization": "org-1", "project": "proj_1"},
    "extra headers": {"headers": {"x-team": "research", "User-Agent": "mine/1"}},
}


@pytest.mark.parametrize("options", CONNECTIONS.values(), ids=CONNECTIONS)
def test_it_sends_what_the_documented_calls_of_the_sdk_send(options: dict[str, Any], tmp_path: Path) -> None:
    async def story() -> tuple[list[Seen], list[Seen]]:
        async with serving(plausible) as server:
            for do in all_verbs(tmp_path).values():
                await doing(server.root, do, **options)
            ours, server.seen = server.seen, []
            sdk = {**options, "default_headers": options.get("headers")}
            sdk.pop("headers", None)
            async with openai.AsyncOpenAI(
                base_url=f"{server.root}/v1", api_key=KEY, max_retries=0, timeout=None, **sdk
            ) as client:
                await client.files.create(file=("pack-3.jsonl", tmp_path / "rows.jsonl"), purpose="batch")
                await client.files.list(purpose="batch", order="desc", limit=1000)
                await client.files.delete("file-1")
                await client.batches.create(
                    input_file_id="file-1",
                    endpoint="/v1/responses",
                    completion_window="24h",
                    metadata={"run": "r-1", "pack": "3"},
                )
                await client.batches.retrieve("batch_1")
                await client.batches.list(limit=100)
                await client.batches.cancel("batch_1")
                await client.files.content("file-1")
            return ours, server.seen

    ours, plain = asyncio.run(story())
    added = {"x-stainless-raw-response", "x-stainless-read-timeout", "x-stainless-timeout"}
    for one, other in zip(ours, plain, strict=True):
        for name in added:
            one.headers.pop(name, None)
            other.headers.pop(name, None)
        assert one == other
    assert b'name="purpose"\r\n\r\nbatch\r\n' in ours[0].body
    assert b'filename="pack-3.jsonl"' in ours[0].body
    assert LINES in ours[0].body


def test_a_key_that_rotates_is_asked_for_before_each_call() -> None:
    keys = iter(["key-number-one", "key-number-two"])

    async def current() -> str:
        return next(keys)

    async def twice(client: BatchClient) -> None:
        await client.retrieve("batch_1")
        await client.retrieve("batch_1")

    _, server = result(plausible, twice, api_key=current)
    assert [seen.headers["authorization"] for seen in server.seen] == ["Bearer key-number-one", "Bearer key-number-two"]


def test_a_key_that_rotates_to_one_that_cannot_be_sent() -> None:
    async def current() -> str:
        return "geheim-schlüssel"

    for do in (creating, lambda client: client.download("file-1", Path("nowhere"))):
        found = error(plausible, do, api_key=current)
        assert isinstance(found, FatalError)
        assert str(found) == "the current key of endpoint `e` holds a character that cannot be sent; only ASCII can"
        assert found.__cause__ is None


def test_azure_has_its_own_address(tmp_path: Path) -> None:
    async def story() -> Server:
        async with serving(plausible) as server:
            for do in all_verbs(tmp_path).values():
                await doing(server.root, do, base_url=server.root, azure_api_version="2026-10-01")
            return server

    server = asyncio.run(story())
    version = "api-version=2026-10-01"
    assert server.calls == [
        f"POST /openai/files?{version}",
        f"GET /openai/files?{version}&limit=1000&order=desc&purpose=batch",
        f"DELETE /openai/files/file-1?{version}",
        f"POST /openai/batches?{version}",
        f"GET /openai/batches/batch_1?{version}",
        f"GET /openai/batches?{version}&limit=100",
        f"POST /openai/batches/batch_1/cancel?{version}",
        f"GET /openai/files/file-1/content?{version}",
    ]
    assert {seen.headers["api-key"] for seen in server.seen} == {KEY}


def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> Server:
        async with serving(plausible) as server:
            monkeypatch.setenv("http_proxy", server.root)
            await doing("http://api.example.test", lambda client: client.retrieve("batch_1"))
            return server

    assert asyncio.run(story()).calls == ["GET http://api.example.test/v1/batches/batch_1"]


def test_an_address_that_cannot_be_used_is_said_at_once() -> None:
    with pytest.raises(SpecError, match="the `base_url` of endpoint `e` is not an address"):
        open_batch_client(Connection("e", "nonsense", KEY))


# What comes back ------------------------------------------------------------------------------------------------------


def test_what_each_call_returns(tmp_path: Path) -> None:
    async def story() -> dict[str, Any]:
        async with serving(plausible) as server:
            return {name: await doing(server.root, do) for name, do in all_verbs(tmp_path).items()}

    file = RemoteFile("file-1", "rows.jsonl", len(LINES), 1_790_000_000 * S)
    assert asyncio.run(story()) == {
        "upload": file,
        "files": [file],
        "delete_file": None,
        "create": STATE,
        "retrieve": STATE,
        "batches": [STATE],
        "cancel": STATE,
        "download": None,
    }


@pytest.mark.parametrize(
    ("status", "ended_at"),
    [
        ("validating", None),
        ("in_progress", None),
        ("finalizing", None),
        ("completed", 3 * S),
        ("failed", 4 * S),
        ("expired", 5 * S),
        ("cancelling", None),
        ("cancelled", 7 * S),
        ("a new one", None),
    ],
)
def test_when_a_batch_has_ended(status: str, ended_at: int | None) -> None:
    moments = ("finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")
    batch = {**BATCH, "status": status, **{name: second for second, name in enumerate(moments, start=2)}}
    state, _ = result(saying(batch), lambda client: client.retrieve("batch_1"))
    assert state.status == status
    assert state.ended_at == ended_at
    assert state.ended is (ended_at is not None)


def test_why_a_batch_failed() -> None:
    said = [
        {"code": "invalid_json_line", "message": "This line is no JSON.", "param": None, "line": 7},
        {"code": "token_limit_exceeded", "message": "Enqueued token limit reached.", "param": None, "line": None},
        {"code": "empty_file", "message": None},
        {},
    ]
    batch = {**BATCH, "status": "failed", "errors": {"object": "list", "data": said}}
    state, _ = result(saying(batch), lambda client: client.retrieve("batch_1"))
    assert state.errors == (
        LineError("invalid_json_line", "This line is no JSON.", 7),
        LineError("token_limit_exceeded", "Enqueued token limit reached.", None),
        LineError("empty_file", "empty_file", None),
        LineError("unknown", "unknown", None),
    )


def test_a_server_that_says_little() -> None:
    little = {"id": "b", "status": "validating", "input_file_id": "f", "created_at": 5}
    empty = {"output_file_id": "", "error_file_id": "", "errors": {"data": None}, "metadata": None, "expired_at": 0}
    expected = replace(
        STATE,
        id="b",
        status="validating",
        input_file_id="f",
        created_at=5 * S,
        in_progress_at=None,
        expires_at=None,
        metadata={},
        total=0,
        done=0,
        failed=0,
    )
    for batch in (little, {**little, **empty}, {**little, "request_counts": None, "errors": None}):
        state, _ = result(saying(batch), lambda client: client.retrieve("b"))
        assert state == expected


NOT_A_BATCH: list[tuple[object, str]] = [
    ("<html>Please log in</html>", "it is not JSON"),
    ("", "it is not JSON"),
    ("{" * 3, "it is not JSON"),
    ("[" * 100_000, "it is not JSON"),
    ('{"id": 1' + "0" * 5000 + "}", "it is not JSON"),
    ([BATCH], "it is not an object"),
    (None, "it is not an object"),
    ({}, "`id`: Input should be a valid string"),
    ({**BATCH, "id": ""}, "`id`: Input should be a valid string"),
    ({**BATCH, "status": None}, "`status`: Input should be a valid string"),
    (
        {**BATCH, "created_at": "now"},
        "`created_at`: Input should be a valid integer, unable to parse string as an integer",
    ),
    ({**BATCH, "metadata": {"a": 1}}, "`metadata.a`: Input should be a valid string"),
]


@pytest.mark.parametrize(("body", "why"), NOT_A_BATCH, ids=str)
def test_an_answer_that_is_no_batch(body: object, why: str) -> None:
    found = error(saying(body), lambda client: client.retrieve("batch_1"))
    assert isinstance(found, TransientError)
    assert (found.kind, str(found)) == ("garbled_answer", f"the server did not answer with a batch: {why}")


@pytest.mark.parametrize("verb", ["upload", "files", "create", "retrieve", "batches", "cancel"])
@pytest.mark.parametrize("content_type", ["application/json", "text/html"])
def test_a_page_of_a_proxy_with_status_200(verb: str, content_type: str, tmp_path: Path) -> None:
    found = error(saying("<html>", Content_Type=content_type), all_verbs(tmp_path)[verb])
    assert isinstance(found, TransientError)
    assert found.kind == "garbled_answer"
    assert found.perhaps_paid is (verb == "create")


def test_a_file_object_that_is_none(rows: Path) -> None:
    found = error(saying({**FILE, "filename": None}), lambda client: client.upload(rows, "x"))
    assert str(found) == "the server did not answer with a file: `name`: Input should be a valid string"


# Listings -------------------------------------------------------------------------------------------------------------


def paged(objects: list[dict[str, Any]], size: int, last: Mapping[str, object]) -> Answer:
    """Answer as OpenAI does: `after` names the last object seen; `last` is what the last page says of more."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        ids = [one["id"] for one in objects]
        start = ids.index(request.query["after"]) + 1 if "after" in request.query else 0
        more = {"has_more": True} if start + size < len(objects) else last
        return await saying({"object": "list", "data": objects[start : start + size], **more})(request)

    return answer


@pytest.mark.parametrize("last", [{"has_more": False}, {"has_more": None}, {}])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_listings_go_through_all_pages(last: dict[str, object], count: int) -> None:
    batches = [{**BATCH, "id": f"batch_{number}"} for number in range(count)]
    files = [{**FILE, "id": f"file-{number}"} for number in range(count)]
    found, _ = result(paged(batches, 2, last), lambda client: listed(client.batches()))
    assert [batch.id for batch in found] == [batch["id"] for batch in batches]
    found, _ = result(paged(files, 2, last), lambda client: listed(client.files()))
    assert [file.id for file in found] == [file["id"] for file in files]


@pytest.mark.parametrize("more", [{}, {"has_more": True}])
def test_a_server_that_knows_no_pages_does_not_keep_us_for_ever(more: dict[str, object]) -> None:
    everything = {"data": [{**FILE, "id": "file-2"}, FILE], **more}
    found, server = result(saying(everything), lambda client: listed(client.files()))
    assert [file.id for file in found] == ["file-2", "file-1"]
    assert len(server.seen) == 2


def test_a_listing_asks_for_no_more_pages_than_are_read() -> None:
    async def first(client: BatchClient) -> str:
        async for batch in client.batches():
            return batch.id
        raise AssertionError

    batches = [{**BATCH, "id": f"batch_{number}"} for number in range(9)]
    found, server = result(paged(batches, 2, {}), first)
    assert (found, server.calls) == ("batch_0", ["GET /v1/batches?limit=100"])


def test_only_files_for_batches_are_listed_whatever_the_server_gives() -> None:
    other = {**FILE, "id": "file-2", "purpose": "fine-tune", "filename": None}
    found, _ = result(saying({"data": [other, FILE], "has_more": False}), lambda client: listed(client.files()))
    assert [file.id for file in found] == ["file-1"]


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ({}, "`data` is not a list of objects"),
        ({"data": {"id": 1}}, "`data` is not a list of objects"),
        ({"data": ["file-1"]}, "`data` is not a list of objects"),
        ({"data": [{"id": 1}], "has_more": True}, "`id` is not a text"),
    ],
)
def test_a_listing_that_is_none(page: object, why: str) -> None:
    found = error(saying(page), lambda client: listed(client.files()))
    assert str(found) == f"the server did not answer with a list of files: {why}"


# Deleting and cancelling ----------------------------------------------------------------------------------------------


def test_deleting_a_file_that_is_gone_is_fine() -> None:
    result(refusing(404), lambda client: client.delete_file("file-1"))
    result(saying(""), lambda client: client.delete_file("file-1"))


@pytest.mark.parametrize("refusal", [400, 409])
@pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled", "cancelling", "in_progress"])
def test_cancelling_a_batch_that_has_ended(refusal: int, status: str) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST":
            return await refusing(refusal)(request)
        return await saying({**BATCH, "status": status})(request)

    if status == "in_progress":
        found = error(answer, lambda client: client.cancel("batch_1"))
        assert found.message == f"HTTP {refusal}: No."
    else:
        state, server = result(answer, lambda client: client.cancel("batch_1"))
        assert state.status == status
        assert server.calls == ["POST /v1/batches/batch_1/cancel", "GET /v1/batches/batch_1"]


# Downloads ------------------------------------------------------------------------------------------------------------

BIG = b"".join(b'{"custom_id":"%d"}\n' % number for number in range(100_000))


def downloaded(answer: Answer, path: Path) -> bytes:
    result(answer, lambda client: client.download("file-1", path))
    return path.read_bytes()


def test_a_download_is_what_the_server_has(tmp_path: Path) -> None:
    async def plain(_: web.BaseRequest) -> web.Response:
        return web.Response(body=BIG, content_type="application/octet-stream")

    async def zipped(_: web.BaseRequest) -> web.Response:
        return web.Response(body=gzip.compress(BIG), headers={"Content-Encoding": "gzip"})

    async def in_chunks(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(BIG), 77_777):
            await response.write(BIG[start : start + 77_777])
        return response

    async def empty(_: web.BaseRequest) -> web.Response:
        return web.Response(body=b"")

    path = tmp_path / "got.jsonl"
    path.write_text("an older one")
    assert downloaded(plain, path) == BIG
    assert downloaded(zipped, path) == BIG
    assert downloaded(in_chunks, path) == BIG
    assert downloaded(empty, path) == b""
    assert list(tmp_path.iterdir()) == [path]


CUT = {
    "before the head": b"",
    "in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "before the body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
    "in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{}\n",
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "between chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
    "no gzip": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Encoding: gzip\r\n\r\nabcd",
}


@pytest.mark.parametrize("reply", CUT.values(), ids=CUT)
def test_a_download_that_is_cut_leaves_no_file(reply: bytes, tmp_path: Path) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await writer.drain()

    async def story() -> Any:
        async with raw_server(talk) as root:
            return await failing(root, lambda client: client.download("file-1", tmp_path / "got.jsonl"))

    found = asyncio.run(story())
    assert isinstance(found, TransientError)
    assert found.kind == "connection"
    assert found.message.startswith("connection failed: ")
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_stands_still(tmp_path: Path) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"{}\n")
        return await hang(request)

    found = error(answer, lambda client: client.download("file-1", tmp_path / "got.jsonl"), silence_s=0.2)
    assert isinstance(found, TransientError)
    assert (found.kind, found.message) == ("timeout", "no answer in time")
    assert list(tmp_path.iterdir()) == []


def test_a_slow_download_takes_as_long_as_it_takes(tmp_path: Path) -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "8"})
        await response.prepare(request)
        for _ in range(8):
            await response.write(b"x")
            await asyncio.sleep(0.05)
        return response

    path = tmp_path / "got.jsonl"
    result(answer, lambda client: client.download("file-1", path), silence_s=0.3, timeout_s=0.1)
    assert path.read_bytes() == b"xxxxxxxx"


def test_a_folder_that_cannot_be_written_to_is_not_the_servers_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        result(plausible, lambda client: client.download("file-1", tmp_path / "missing" / "got.jsonl"))


# Uploads --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A file larger than all buffers between two sockets."""
    path = tmp_path / "big.jsonl"
    with open(path, "wb") as file:
        file.truncate(40_000_000)
    return path


REFUSAL = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (
    len(b"<h1>413 Too Large</h1>"),
    b"<h1>413 Too Large</h1>",
)


def test_an_upload_that_is_too_large(rows: Path) -> None:
    found = error(refusing(413, message="At most 200 MB."), lambda client: client.upload(rows, "x"))
    assert isinstance(found, PermanentError)
    assert (found.kind, found.message) == ("too_large", "HTTP 413: At most 200 MB.")


def test_a_server_that_refuses_a_large_upload_before_it_has_it(big: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(REFUSAL)
        writer.write_eof()
        await writer.drain()
        while await reader.read(1 << 20):  # as nginx does for some seconds, so that the answer is not lost
            pass

    async def story() -> Any:
        async with raw_server(talk) as root:
            return await failing(root, lambda client: client.upload(big, "x"))

    found = asyncio.run(story())
    assert isinstance(found, PermanentError)
    assert (found.kind, found.message) == ("too_large", "HTTP 413: <h1>413 Too Large</h1>")


def test_a_server_that_hangs_up_on_a_large_upload(big: Path) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(REFUSAL)
        await writer.drain()

    async def story() -> Any:
        async with raw_server(talk) as root:
            return await failing(root, lambda client: client.upload(big, "x"))

    # The answer is lost with the connection.
    found = asyncio.run(story())
    assert isinstance(found, TransientError)
    assert found.kind == "connection"
    assert re.fullmatch(
        r"connection failed: \[Errno \d+\] [\w ]+; perhaps a file of 40\.0 MB is too large for this server",
        found.message,
    )


def test_an_upload_that_stands_still(big: Path) -> None:
    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readexactly(100)
        await asyncio.sleep(60)

    async def story() -> Any:
        async with raw_server(talk) as root:
            return await failing(root, lambda client: client.upload(big, "x"), silence_s=0.2)

    found = asyncio.run(story())
    assert isinstance(found, TransientError)
    assert (found.kind, found.perhaps_paid) == ("timeout", True)


def test_an_upload_of_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        result(plausible, lambda client: client.upload(tmp_path / "missing.jsonl", "x"))


MEASURED = """
import asyncio, resource, sys
from pathlib import Path
from runner.openai_batches import open_batch_client
from runner.openai_client import Connection

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

async def main(root, small, large, got):
    async with open_batch_client(Connection("e", root, "k")) as client:
        await client.upload(small, "small")
        await client.download("small", got)
        before = peak_mb()
        await client.upload(large, "large")
        uploaded = peak_mb()
        await client.download("large", got)
        print(uploaded - before, peak_mb() - uploaded)

asyncio.run(main(sys.argv[1], *map(Path, sys.argv[2:])))
"""


def test_the_memory_does_not_grow_with_the_file(rows: Path, tmp_path: Path) -> None:
    size = 150_000_000
    large = tmp_path / "large.jsonl"
    with open(large, "wb") as file:
        file.truncate(size)
    taken: list[int] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST":
            taken.append(0)
            async for chunk in request.content.iter_any():
                taken[-1] += len(chunk)
            return await saying(FILE)(request)
        return web.FileResponse(rows if "small" in request.path else large)

    async def story() -> str:
        app_runner = web.ServerRunner(web.Server(answer))
        await app_runner.setup()
        await web.TCPSite(app_runner, "127.0.0.1", 0).start()
        root = "http://{}:{}/v1".format(*app_runner.addresses[0])
        arguments = ("-c", MEASURED, root, str(rows), str(large), str(tmp_path / "got"))
        child = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=subprocess.PIPE)
        out, _ = await asyncio.wait_for(child.communicate(), 60)
        assert child.returncode == 0
        await app_runner.cleanup()
        return out.decode()

    up_mb, down_mb = map(float, asyncio.run(story()).split())
    assert taken[1] > size
    assert (tmp_path / "got").stat().st_size == size
    assert up_mb < 20
    assert down_mb < 20


# Errors ---------------------------------------------------------------------------------------------------------------


def said_of(code: str | None) -> dict[str, Any]:
    return {"error": {"message": "No.", "type": "invalid_request_error", "code": code}}


OUTCOMES: list[tuple[int, str | None, type[RunnerError], str]] = [
    (400, None, FatalError, "batch_refused"),
    (400, "billing_hard_limit_reached", FatalError, "insufficient_quota"),
    (401, "invalid_api_key", FatalError, "bad_key"),
    (403, None, FatalError, "permission"),
    (404, None, FatalError, "not_found"),
    (409, None, TransientError, "server_error"),
    (422, None, FatalError, "batch_refused"),
    (429, "rate_limit_exceeded", TransientError, "rate_limit"),
    (429, "insufficient_quota", FatalError, "insufficient_quota"),
    (500, None, TransientError, "server_error"),
    (503, None, TransientError, "server_error"),
]


@pytest.mark.parametrize("verb", VERBS)
def test_statuses_become_the_runners_errors(verb: str, tmp_path: Path) -> None:
    async def story() -> list[Any]:
        do = all_verbs(tmp_path)[verb]
        async with serving(plausible) as server:
            errors = []
            for status, code, _, _ in OUTCOMES:

                async def answer(request: web.BaseRequest, status: int = status, code: str | None = code) -> Any:
                    asked_again = verb == "cancel" and request.method == "GET"
                    return await (plausible if asked_again else refusing(status, code))(request)

                server.answer = answer
                if (verb, status) != ("delete_file", 404):
                    errors.append((status, code, await failing(server.root, do)))
            return errors

    expected = {(status, code): (cls, kind) for status, code, cls, kind in OUTCOMES}
    for status, code, found in asyncio.run(story()):
        assert (type(found), found.kind) == expected[status, code], status
        assert found.message == f"HTTP {status}: No."
        assert isinstance(found, TransientError) or found.where == "endpoint `e`"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


NO_BATCH_API = "check `base_url` in configs/endpoints.yaml; perhaps this server has no Batch API"
HINTS = {
    "upload": NO_BATCH_API,
    "files": NO_BATCH_API,
    "create": NO_BATCH_API,
    "batches": NO_BATCH_API,
    "retrieve": "it may belong to another project: check the key and `base_url` in configs/endpoints.yaml",
    "cancel": "it may belong to another project: check the key and `base_url` in configs/endpoints.yaml",
    "download": "it was deleted or has expired, or it belongs to another project: check the key and `base_url`",
}


@pytest.mark.parametrize("verb", HINTS)
def test_what_to_try_where_nothing_is_found(verb: str, tmp_path: Path) -> None:
    found = error(refusing(404, message="No such batch."), all_verbs(tmp_path)[verb])
    assert str(found) == f"HTTP 404: No such batch.\n  --> endpoint `e`\nhint: {HINTS[verb]}"


def test_how_long_the_server_asks_to_wait() -> None:
    found = error(saying(said_of(None), 429, Retry_After="30"), creating)
    assert (found.retry_after_s, found.rate_limited, found.perhaps_paid) == (30, True, False)


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"upload", "download"}))
def test_a_call_that_takes_too_long(verb: str, tmp_path: Path) -> None:
    found = error(hang, all_verbs(tmp_path)[verb], timeout_s=0.2)
    assert isinstance(found, TransientError)
    assert (found.kind, found.message) == ("timeout", "no answer in time")


def test_whether_a_batch_may_exist_after_an_error() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pass

    async def story() -> list[Any]:
        async with raw_server(hang_up) as root:
            lost = await failing(root, creating)
        refused = await failing(f"http://127.0.0.1:{unused_port()}", creating)
        return [lost, refused]

    lost, refused = asyncio.run(story())
    assert (type(lost), lost.kind, lost.perhaps_paid) == (TransientError, "connection", True)
    assert (type(refused), refused.kind, refused.perhaps_paid) == (TransientError, "connection", False)
    assert error(refusing(502), creating).perhaps_paid
    assert error(hang, creating, timeout_s=0.2).perhaps_paid
    assert not error(refusing(429), creating).perhaps_paid


def test_no_secret_is_shown(tmp_path: Path) -> None:
    async def echo(request: web.BaseRequest) -> web.StreamResponse:
        return await refusing(401, message=f"Not {request.headers['authorization']}.")(request)

    async def current() -> str:
        return KEY

    for do in all_verbs(tmp_path).values():
        for key in (KEY, current):
            found = error(echo, do, api_key=key)
            assert found.message == "HTTP 401: Not ***."


# Lines of an error file -----------------------------------------------------------------------------------------------

ROWS: list[tuple[int, object, type[RunnerError], str, str]] = [
    (400, said_of("invalid_value"), PermanentError, "bad_request", "HTTP 400: No."),
    (401, said_of(None), FatalError, "bad_key", "HTTP 401: No."),
    (404, said_of("model_not_found"), FatalError, "not_found", "HTTP 404: No."),
    (429, said_of("rate_limit_exceeded"), TransientError, "rate_limit", "HTTP 429: No."),
    (429, said_of("insufficient_quota"), FatalError, "insufficient_quota", "HTTP 429: No."),
    (500, said_of(None), TransientError, "server_error", "HTTP 500: No."),
    (503, "upstream\nfailed \udc80", TransientError, "server_error", "HTTP 503: upstream failed ?"),
    (500, None, TransientError, "server_error", "HTTP 500: null"),
    (500, "", TransientError, "server_error", "HTTP 500: no message"),
    (400, {"error": None, "n": float("nan")}, PermanentError, "bad_request", 'HTTP 400: {"error": null, "n": NaN}'),
    (400, said_of(None) | {"key": KEY}, PermanentError, "bad_request", "HTTP 400: No."),
    (400, f"bad key {KEY}", PermanentError, "bad_request", "HTTP 400: bad key ***"),
]


@pytest.mark.parametrize(("status", "body", "cls", "kind", "message"), ROWS)
def test_a_line_of_an_error_file_becomes_the_error_of_a_live_request(
    status: int, body: object, cls: type[RunnerError], kind: str, message: str
) -> None:
    found = row_error(connection_to("http://localhost"), status, body, SystemClock())
    assert (type(found), found.kind, found.message) == (cls, kind, message)
