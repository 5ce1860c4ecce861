"""Both transports say to a real server what the plain SDK says, and fail as it fails.

The server records all that arrives; a second, raw one cuts connections and breaks the protocol.
"""

from __future__ import annotations

import ast
import asyncio
import gzip
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from aiohttp import web

import runner
from runner.blocking import finish
from runner.clock import Clock
from runner.errors import FatalError, PermanentError, RunnerError, SpecError, TransientError
from runner.openai_client import (
    AiohttpTransport,
    BlockingTransport,
    Connection,
    OpenAIClient,
    SdkTransport,
    open_client,
    prepare_head,
)
from runner.openai_errors import classify
from runner.records import Reply

KEY = "sk-test-0123456789abcdef"
HELLO = b'{"input":[{"role":"user","content":"hello"}],"model":"m"}'
ANSWER = {"id": "resp_1", "object": "response", "output": [], "status": "completed"}


class Threaded:
    """The blocking transport, used as its threads use it, from a test that is async."""

    def __init__(self, connection: Connection, path: str, concurrency: int) -> None:
        self._transport = BlockingTransport(connection, path)
        self._threads = ThreadPoolExecutor(concurrency)

    async def post(self, body: bytes, timeout_s: float) -> Reply:
        def work() -> Reply:
            return finish(self._transport.post(body, timeout_s))

        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def close(self) -> None:
        self._threads.shutdown()
        await self._transport.close()


TRANSPORTS = pytest.mark.parametrize("transport", [AiohttpTransport, SdkTransport, Threaded])
Transport = type[AiohttpTransport] | type[SdkTransport] | type[Threaded]
Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("OPENAI_", "AZURE_")):
            monkeypatch.delenv(name)


# The servers ---------------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """One request as it arrived; `headers` has lower-case names and leaves out what is set per message."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    peer: Any


@dataclass
class Server:
    """Answers every request with `answer`, and remembers them all."""

    answer: Answer
    seen: list[Seen] = field(default_factory=list)
    root: str = ""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def base_url(self) -> str:
        return f"{self.root}/v1"

    async def hang(self, _: web.BaseRequest) -> web.Response:
        """Answer when the test is over."""
        await self.closing.wait()
        return web.Response()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {k.lower(): v for k, v in request.headers.items()}
        for name in ("content-length", "host", "transfer-encoding"):
            headers.pop(name, None)
        assert request.transport is not None
        peer = request.transport.get_extra_info("peername")
        self.seen.append(Seen(request.method, request.raw_path, headers, await request.read(), peer))
        self.reached.set()
        return await self.answer(request)


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Server]:
    server = Server(answer)
    app_runner = web.ServerRunner(web.Server(server.handle), shutdown_timeout=0)
    await app_runner.setup()
    site = web.TCPSite(app_runner, "127.0.0.1", 0)
    await site.start()
    host, port = app_runner.addresses[0][:2]
    server.root = f"http://{host}:{port}"
    try:
        yield server
    finally:
        server.closing.set()
        await app_runner.cleanup()


@asynccontextmanager
async def raw_server(reply: bytes, lines: list[str] | None = None) -> AsyncIterator[str]:
    """Write `reply` to whoever sends a request, and close the connection; `lines` gets the requests' heads."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if lines is not None:
            lines.append(head)
        length = [int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length")]
        await reader.readexactly(sum(length))
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"{host}:{port}"
    finally:
        server.close()


async def ok(_: web.BaseRequest) -> web.Response:
    return web.json_response(ANSWER, headers={"x-request-id": "req_1", "openai-processing-ms": "12.5"})


def saying(status: int, body: str | bytes, content_type: str = "application/json", **headers: str) -> Answer:
    async def answer(_: web.BaseRequest) -> web.Response:
        content = body if isinstance(body, bytes) else body.encode()
        heads = {"Content-Type": content_type, **{k.replace("_", "-"): v for k, v in headers.items()}}
        return web.Response(status=status, body=content, headers=heads)

    return answer


def unused_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


# The three clients ---------------------------------------------------------------------------------------------------


async def post(
    transport: Transport,
    connection: Connection,
    bodies: Sequence[bytes] = (HELLO,),
    path: str = "/responses",
    timeout_s: float = 5,
) -> list[Reply]:
    """Send bodies one after the other."""
    client = transport(connection, path, 4)
    try:
        return [await client.post(body, timeout_s) for body in bodies]
    finally:
        await client.close()


async def failure(transport: Transport, connection: Connection, timeout_s: float = 5) -> openai.APIError:
    with pytest.raises(openai.APIError) as caught:
        await post(transport, connection, timeout_s=timeout_s)
    return caught.value


def plain_sdk(base_url: str, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(**{"base_url": base_url, "api_key": KEY, "max_retries": 0, "timeout": None, **options})


async def plain_failure(base_url: str, timeout_s: float | None = None) -> openai.APIError:
    async with plain_sdk(base_url, timeout=timeout_s) as client:
        with pytest.raises(openai.APIError) as caught:
            await client.responses.create(model="m", input="hello")
    return caught.value


class At(Clock):
    """A clock that stands still."""

    def __init__(self, moment: datetime) -> None:
        self._us = int(moment.timestamp() * 1e6)

    def now_us(self) -> int:
        return self._us

    def steady_s(self) -> float:
        return 0.0


NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


async def outcome(transport: Transport, base_url: str, timeout_s: float = 5, **options: Any) -> RunnerError:
    """Return the runner's error for one request."""
    connection = Connection(**{"name": "e", "base_url": base_url, "api_key": KEY, **options})
    client = OpenAIClient(transport(connection, "/responses", 4), connection, At(NOON))
    try:
        with pytest.raises(RunnerError) as caught:
            await client.send(HELLO, timeout_s)
    finally:
        await client.close()
    return caught.value


def errors_of(transport: Transport, answers: Sequence[Answer]) -> list[Any]:
    """Return the runner's error for each of a server's answers."""

    async def story() -> list[Any]:
        async with serving(ok) as server:
            connection = Connection("e", server.base_url, KEY)
            client = OpenAIClient(transport(connection, "/responses", 1), connection, At(NOON))
            errors = []
            for server.answer in answers:
                with pytest.raises(RunnerError) as caught:
                    await client.send(HELLO, 5)
                errors.append(caught.value)
            await client.close()
            return errors

    return asyncio.run(story())


def replies_to(transport: Transport, answers: Sequence[Answer]) -> list[Reply]:
    """Return the replies that a server's answers become."""

    async def story() -> list[Reply]:
        async with serving(ok) as server:
            client = transport(Connection("e", server.base_url, KEY), "/responses", 1)
            replies = []
            for server.answer in answers:
                replies.append(await client.post(HELLO, 5))
            await client.close()
            return replies

    return asyncio.run(story())


# What is sent --------------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "/responses": {
        "model": "gpt-6-luna",
        "input": [{"role": "user", "content": "¿Où? 日本 {{ x }} %s"}],
        "max_output_tokens": 50,
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}},
    },
    "/chat/completions": {
        "model": "gpt-6-luna",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "temperature": 0.5,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        },
    },
}
CONNECTIONS: dict[str, dict[str, Any]] = {
    "key alone": {},
    "organization and project": {"organization": "org-1", "project": "proj_1"},
    "extra headers": {"headers": {"x-team": "research", "User-Agent": "mine/1", "api-key": "another-secret"}},
}


@pytest.mark.parametrize("options", CONNECTIONS.values(), ids=CONNECTIONS)
@pytest.mark.parametrize("path", ARGUMENTS)
def test_both_transports_send_what_the_plain_sdk_sends(path: str, options: dict[str, Any]) -> None:
    arguments = ARGUMENTS[path]
    body = json.dumps(arguments, ensure_ascii=False).encode()

    async def story() -> list[Seen]:
        async with serving(ok) as server:
            connection = Connection("e", server.base_url, KEY, **options)
            await post(AiohttpTransport, connection, [body, body], path)
            await post(SdkTransport, connection, [body], path)
            sdk = {**options, "default_headers": options.get("headers")}
            sdk.pop("headers", None)
            async with plain_sdk(server.base_url, **sdk) as client:
                if path == "/responses":
                    await client.responses.create(**arguments)
                else:
                    await client.chat.completions.create(**arguments)
            return server.seen

    first, second, sdk, plain = asyncio.run(story())
    assert first.body == second.body == sdk.body == body
    assert json.loads(plain.body) == arguments
    assert {(seen.method, seen.path) for seen in (first, second, sdk, plain)} == {("POST", f"/v1{path}")}
    assert first.headers["accept-encoding"] == sdk.headers["accept-encoding"] == "gzip, deflate"
    for seen in (first, second, sdk, plain):
        del seen.headers["accept-encoding"]
    assert first.headers == second.headers == sdk.headers == plain.headers
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert not [name for name in first.headers if "idempotency" in name]  # one for all bodies would be a disaster


@pytest.mark.parametrize("options", CONNECTIONS.values(), ids=CONNECTIONS)
@pytest.mark.parametrize("path", ARGUMENTS)
def test_threads_send_what_the_plain_blocking_sdk_sends(path: str, options: dict[str, Any]) -> None:
    arguments = ARGUMENTS[path]
    body = json.dumps(arguments, ensure_ascii=False).encode()

    async def story() -> list[Seen]:
        async with serving(ok) as server:
            await post(Threaded, Connection("e", server.base_url, KEY, **options), [body, body], path)
            sdk = {**options, "default_headers": options.get("headers")}
            sdk.pop("headers", None)

            def plain() -> None:
                with openai.OpenAI(base_url=server.base_url, api_key=KEY, max_retries=0, timeout=None, **sdk) as client:
                    create: Any = client.responses if path == "/responses" else client.chat.completions
                    create.create(**arguments)

            await asyncio.to_thread(plain)
            return server.seen

    first, second, plain = asyncio.run(story())
    assert first.body == second.body == body
    for seen in (first, second, plain):
        assert (seen.method, seen.path) == ("POST", f"/v1{path}")
        for name in ("accept-encoding", "x-stainless-read-timeout"):  # ours is set for each attempt
            seen.headers.pop(name, None)
    assert first.headers == second.headers == plain.headers


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        ("/v1", "/v1/responses"),
        ("/v1/", "/v1/responses"),
        ("", "/responses"),
        ("/gateway/openai/v1/", "/gateway/openai/v1/responses"),
        ("/a%2Fb/v1", "/a%2Fb/v1/responses"),
    ],
)
def test_a_base_url_may_have_a_path(suffix: str, expected: str) -> None:
    assert asyncio.run(_paths(suffix)) == [expected] * 3


def test_a_query_in_the_base_url_is_treated_as_the_sdk_treats_it() -> None:
    first, second, plain = asyncio.run(_paths("/v1?tenant=a%20b"))
    assert first == second == plain


async def _paths(suffix: str) -> list[str]:
    async with serving(ok) as server:
        connection = Connection("e", server.root + suffix, KEY)
        await post(AiohttpTransport, connection)
        await post(SdkTransport, connection)
        async with plain_sdk(connection.base_url) as client:
            await client.responses.create(model="m", input="hello")
        return [seen.path for seen in server.seen]


TEXTS = (
    "日本語 🎈 é",
    "\x00\x01\x1f\x7f\u2028 tab\t newline\n",
    "lone \ud800 and \udfff surrogates",
    "{{ x }} {% if %} %s %d ${HOME} $x",
    r"\frac{a}{b} \u0041 \n $\alpha$ \\",
    "",
    "x" * 300_000,
)


@TRANSPORTS
@pytest.mark.parametrize("azure", [False, True])
def test_texts_reach_the_server_unchanged(transport: Transport, azure: bool) -> None:
    values = [{"model": "m", "input": [{"role": "user", "content": text}]} for text in TEXTS]
    bodies = [
        json.dumps(value, ensure_ascii="\ud800" in text).encode() for value, text in zip(values, TEXTS, strict=True)
    ]

    async def story() -> list[bytes]:
        async with serving(ok) as server:
            connection = Connection("e", server.root, KEY, azure_api_version="2026-10-01" if azure else None)
            await post(transport, connection, bodies)
            return [seen.body for seen in server.seen]

    arrived = asyncio.run(story())
    assert arrived == bodies
    assert [json.loads(body) for body in arrived] == values


@TRANSPORTS
def test_what_a_reply_carries(transport: Transport) -> None:
    (reply,) = replies_to(transport, [ok])
    assert json.loads(reply.body) == ANSWER
    assert reply.content_type.startswith("application/json")
    assert (reply.request_id, reply.server_ms) == ("req_1", 12.5)


@TRANSPORTS
def test_an_odd_processing_time_is_unknown(transport: Transport) -> None:
    odd = ["", "fast", "-1", "nan", "inf", "²"]
    replies = replies_to(transport, [saying(200, "{}", openai_processing_ms=said) for said in odd])
    assert [reply.server_ms for reply in replies] == [None] * len(odd)


@TRANSPORTS
def test_the_transport_leaves_the_body_to_others(transport: Transport) -> None:
    bodies = [b"<html>hello</html>", b"", b'{"cut": ', b"data: {}\n\n", b"\xff\xfe\x00"]
    assert [reply.body for reply in replies_to(transport, [saying(200, body) for body in bodies])] == bodies


@TRANSPORTS
def test_compressed_answers_are_decoded(transport: Transport) -> None:
    packed = gzip.compress(json.dumps(ANSWER).encode())
    (reply,) = replies_to(transport, [saying(200, packed, Content_Encoding="gzip")])
    assert json.loads(reply.body) == ANSWER


@TRANSPORTS
def test_connections_are_kept_and_counted(transport: Transport) -> None:
    async def story() -> list[Seen]:
        async with serving(ok) as server:
            client = transport(Connection("e", server.base_url, KEY), "/responses", 20)
            left = iter(range(500))

            async def worker() -> None:
                for _ in left:
                    await client.post(HELLO, 5)

            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(worker())
            await client.close()
            return server.seen

    seen = asyncio.run(story())
    assert len(seen) == 500
    assert len({each.peer for each in seen}) <= 20


@TRANSPORTS
def test_a_client_that_sent_nothing_closes(transport: Transport) -> None:
    asyncio.run(transport(Connection("e", "http://127.0.0.1:1/v1", KEY), "/responses", 1).close())


# Keys that rotate, Azure, passwords in addresses ----------------------------------------------------------------------


def rotating(*keys: str) -> Callable[[], Coroutine[Any, Any, str]]:
    left = iter(keys)

    async def current() -> str:
        return next(left)

    return current


def test_each_request_carries_the_key_of_the_moment() -> None:
    async def story() -> list[str]:
        async with serving(ok) as server:
            client = open_client(
                Connection("e", server.base_url, rotating("k-1", "k-2", "k-3")), "/responses", concurrency=2
            )
            for _ in range(3):
                await client.send(HELLO, 5)
            await client.close()
            return [seen.headers["authorization"] for seen in server.seen]

    assert asyncio.run(story()) == ["Bearer k-1", "Bearer k-2", "Bearer k-3"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/chat/completions", "/openai/deployments/m/chat/completions"), ("/responses", "/openai/responses")],
)
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("rotates", [False, True])
def test_azure_is_routed_by_deployment(path: str, expected: str, slash: str, rotates: bool) -> None:
    async def story() -> list[Seen]:
        async with serving(ok) as server:
            key = rotating("k-1", "k-2") if rotates else "k-1"
            connection = Connection("az", server.root + slash, key, azure_api_version="2026-10-01")
            client = open_client(connection, path, concurrency=2)
            await client.send(HELLO, 5)
            await client.close()
            async with openai.AsyncAzureOpenAI(
                azure_endpoint=connection.base_url, api_version="2026-10-01", api_key="k-1", max_retries=0, timeout=None
            ) as sdk:
                await sdk.post(path, body=json.loads(HELLO), cast_to=httpx2.Response)
            return server.seen

    ours, plain = asyncio.run(story())
    assert ours.path == plain.path == f"{expected}?api-version=2026-10-01"
    if not rotates:
        assert ours.headers["api-key"] == "k-1"
        del ours.headers["accept-encoding"], plain.headers["accept-encoding"]
        assert ours.headers == plain.headers
    assert ours.body == HELLO


def test_a_password_in_the_address_becomes_a_header() -> None:
    async def story() -> list[Seen]:
        async with serving(ok) as server:
            base_url = server.base_url.replace("http://", "http://user:pass%21word@")
            await post(AiohttpTransport, Connection("e", base_url, KEY))
            await post(SdkTransport, Connection("e", base_url, KEY))
            async with plain_sdk(base_url) as client:
                await client.responses.create(model="m", input="hello")
            return server.seen

    seen = asyncio.run(story())
    assert [each.headers["authorization"] for each in seen] == ["Basic dXNlcjpwYXNzIXdvcmQ="] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key": "sk-…"}, "the key of endpoint `e` holds a character that cannot be sent"),
        ({"api_key": "sk-1\n"}, "the key of endpoint `e` holds a character that cannot be sent"),
        ({"api_key": ""}, "the key of endpoint `e` is empty"),
        ({"headers": {"x-note": "é"}}, "the header `x-note` of endpoint `e` holds a character that cannot be sent"),
        ({"organization": "o\r\nx: y"}, "the organization of endpoint `e` holds a character that cannot be sent"),
        ({"base_url": "http://"}, "the `base_url` of endpoint `e` is not an address"),
        ({"base_url": "http://h:99999/v1"}, "the `base_url` of endpoint `e` is not an address"),
        ({"base_url": "http://[1:2/v1"}, "the `base_url` of endpoint `e` is not an address"),
        ({"base_url": "http://h\n/v1"}, "the `base_url` of endpoint `e` is not an address"),
        ({"base_url": "localhost"}, "the `base_url` of endpoint `e` is not an address"),
    ],
)
def test_what_http_cannot_carry_is_refused_at_the_door(options: dict[str, Any], message: str) -> None:
    connection = Connection(**{"name": "e", "base_url": "http://h/v1", "api_key": KEY, **options})
    with pytest.raises(SpecError) as caught:
        open_client(connection, "/responses", concurrency=1)
    assert caught.value.message.startswith(message)
    assert "sk-" not in str(caught.value)


def test_a_rotated_key_that_cannot_be_sent_stops_the_run() -> None:
    async def story() -> RunnerError:
        return await outcome(SdkTransport, "http://127.0.0.1:1/v1", api_key=rotating("sk-geheim-…"))

    error = asyncio.run(story())
    assert isinstance(error, FatalError)
    assert error.kind == "bad_key"
    assert "geheim" not in str(error)


# How it fails: the SDK's classes --------------------------------------------------------------------------------------

STATUSES = (400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 429, 500, 502, 503, 529)
BODIES = {
    "json": ('{"error": {"message": "no", "type": "t", "code": "c", "param": null}}', "application/json"),
    "html": ("<html><h1>Bad gateway</h1></html>", "text/html; charset=utf-8"),
    "empty": ("", "application/json"),
    "string": ('{"error": "no"}', "application/json"),
    "null": ('{"error": null}', "application/json"),
    "list": ('{"error": [1, {"message": "no"}]}', "application/json"),
    "odd members": ('{"error": {"message": {"a": 1}, "type": ["t"], "code": {"c": 1}}}', "application/json"),
    "no error": ('{"detail": "no"}', "application/json"),
    "array": ('["no"]', "application/json"),
    "deep": ("[" * 100_000, "application/json"),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_both_transports_raise_what_the_plain_sdk_raises(body: tuple[str, str]) -> None:
    connection = Connection("e", "http://h/v1", KEY)

    async def story() -> list[tuple[int, list[Any]]]:
        errors = []
        async with serving(ok) as server, plain_sdk(server.base_url) as plain:
            here = replace(connection, base_url=server.base_url)
            ours: list[Any] = [each(here, "/responses", 1) for each in (AiohttpTransport, SdkTransport, Threaded)]
            for status in STATUSES:
                server.answer = saying(status, body[0], body[1], x_request_id="req_9")
                sent = [*(client.post(HELLO, 5) for client in ours), plain.responses.create(model="m", input="hello")]
                errors.append((status, await asyncio.gather(*sent, return_exceptions=True)))
            for client in ours:
                await client.close()
        return errors

    for status, errors in asyncio.run(story()):
        ours, sdk, blocking, plain = errors
        assert type(ours) is type(sdk) is type(blocking) is type(plain), status
        assert isinstance(ours, openai.APIStatusError)
        assert isinstance(plain, openai.APIStatusError)
        assert ours.status_code == plain.status_code == status
        assert (ours.code, ours.type, ours.body) == (plain.code, plain.type, plain.body)
        assert ours.request_id == plain.request_id == "req_9"
        for error in (ours, sdk, blocking, plain):
            assert isinstance(classify(error, connection, At(NOON)), RunnerError)


@TRANSPORTS
def test_a_compressed_error_is_decoded(transport: Transport) -> None:
    body = gzip.compress(b'{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}')
    (error,) = errors_of(transport, [saying(429, body, Content_Encoding="gzip", Retry_After="7")])
    assert isinstance(error, TransientError)
    assert error.message == "HTTP 429: slow down"
    assert error.retry_after_s == 7


@TRANSPORTS
def test_an_error_with_latin_1_headers(transport: Transport) -> None:
    async def story() -> RunnerError:
        reply = b"HTTP/1.1 400 Bad\r\nX-Said: caf\xe9\r\nContent-Length: 2\r\n\r\n{}"
        async with raw_server(reply) as place:
            return await outcome(transport, f"http://{place}/v1")

    assert isinstance(asyncio.run(story()), PermanentError)


@TRANSPORTS
def test_a_server_that_does_not_answer_in_time(transport: Transport) -> None:
    async def story() -> tuple[openai.APIError, openai.APIError, RunnerError]:
        async with serving(ok) as server:
            server.answer = server.hang
            connection = Connection("e", server.base_url, KEY)
            return (
                await failure(transport, connection, 0.1),
                await plain_failure(server.base_url, 0.1),
                await outcome(transport, server.base_url, 0.1),
            )

    error, plain, ours = asyncio.run(story())
    assert type(error) is type(plain) is openai.APITimeoutError
    assert isinstance(ours, TransientError)
    assert (ours.kind, ours.message, ours.rate_limited) == ("timeout", "no answer in time", False)


@TRANSPORTS
def test_a_body_that_stalls_is_a_timeout(transport: Transport) -> None:
    async def story() -> RunnerError:
        async def stall(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Length": "10"})
            await response.prepare(request)
            await response.write(b"{")
            await server.closing.wait()
            return response

        async with serving(stall) as server:
            return await outcome(transport, server.base_url, 0.1)

    error = asyncio.run(story())
    assert isinstance(error, TransientError)
    assert error.kind == "timeout"


@TRANSPORTS
def test_a_refused_connection(transport: Transport) -> None:
    base_url = f"http://127.0.0.1:{unused_port()}/v1"

    async def story() -> tuple[openai.APIError, openai.APIError, RunnerError]:
        connection = Connection("e", base_url, KEY)
        return await failure(transport, connection), await plain_failure(base_url), await outcome(transport, base_url)

    error, plain, ours = asyncio.run(story())
    assert type(error) is type(plain) is openai.APIConnectionError
    assert isinstance(ours, TransientError)
    assert ours.kind == "connection"
    said = "[Errno 111] Connection refused" if transport is Threaded else "Cannot connect to host 127.0.0.1"
    assert ours.message.startswith(f"connection failed: {said}")


BROKEN = {
    "cut before the answer": b"",
    "cut in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "cut in the body": b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"id": ',
    "cut in a chunk": b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\n{"id": ',
    "cut between chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "cut in an error": b'HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\n{"error": ',
    "not HTTP": b"220 mail.example ESMTP\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "not gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
}


@TRANSPORTS
@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
def test_a_broken_answer_is_a_connection_error(transport: Transport, reply: bytes) -> None:
    if transport is Threaded and len(reply) > 65536:
        pytest.skip("the SDK's blocking client reads heads of any length")

    async def story() -> tuple[openai.APIError, RunnerError]:
        async with raw_server(reply) as place:
            base_url = f"http://{place}/v1"
            return await failure(transport, Connection("e", base_url, KEY)), await outcome(transport, base_url)

    raised, error = asyncio.run(story())
    assert type(raised) is openai.APIConnectionError
    assert isinstance(error, TransientError)
    assert error.kind == "connection"
    assert error.message.startswith("connection failed: ")
    assert len(error.message) > len("connection failed: ")
    assert not error.rate_limited


def test_cancelling_passes_through() -> None:
    async def story() -> None:
        async with serving(ok) as server:
            server.answer = server.hang
            for transport in (AiohttpTransport, SdkTransport, Threaded):
                client = transport(Connection("e", server.base_url, KEY), "/responses", 1)
                server.reached.clear()
                task = asyncio.create_task(client.post(HELLO, 1))  # which the thread waits for
                await server.reached.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await client.close()

    asyncio.run(story())


# How it fails: the runner's errors ------------------------------------------------------------------------------------


def said(code: str | None = None, kind: str | None = None, message: str = "no") -> str:
    return json.dumps({"error": {"message": message, "type": kind, "code": code}})


OUTCOMES: list[tuple[int, str, type[RunnerError], str]] = [
    (400, said(), PermanentError, "bad_request"),
    (413, said(), PermanentError, "bad_request"),
    (418, said(), PermanentError, "bad_request"),
    (422, said(), PermanentError, "bad_request"),
    (401, said("invalid_api_key"), FatalError, "bad_key"),
    (402, said(), FatalError, "insufficient_quota"),
    (403, said(), FatalError, "permission"),
    (404, said("model_not_found"), FatalError, "not_found"),
    (408, said(), TransientError, "server_error"),
    (409, said(), TransientError, "server_error"),
    (429, said("rate_limit_exceeded"), TransientError, "rate_limit"),
    (429, said(), TransientError, "rate_limit"),
    (429, "", TransientError, "rate_limit"),
    (429, "<html>", TransientError, "rate_limit"),
    (429, said("resource_unavailable"), TransientError, "no_capacity"),
    (429, said("insufficient_quota"), FatalError, "insufficient_quota"),
    (429, said(None, "insufficient_quota"), FatalError, "insufficient_quota"),
    (429, said("insufficient_quota", message="rate limit, please retry"), FatalError, "insufficient_quota"),
    (429, said("rate_limit_exceeded", message="insufficient_quota: billing"), TransientError, "rate_limit"),
    (429, said("billing_hard_limit_reached"), FatalError, "insufficient_quota"),
    (403, said("insufficient_quota"), FatalError, "insufficient_quota"),
    (500, said(), TransientError, "server_error"),
    (503, "<html>", TransientError, "server_error"),
    (529, said(), TransientError, "server_error"),
]


@TRANSPORTS
def test_statuses_become_errors_by_type_and_code(transport: Transport) -> None:
    errors = errors_of(transport, [saying(status, body) for status, body, _, _ in OUTCOMES])
    for error, (status, body, expected, kind) in zip(errors, OUTCOMES, strict=True):
        assert (type(error), error.kind) == (expected, kind), (status, body)
        assert error.message.startswith(f"HTTP {status}: ")
        assert getattr(error, "rate_limited", False) == (expected is TransientError and status == 429)
        if expected is FatalError:
            assert error.where == "endpoint `e`"


MESSAGES = [
    (said(message="Slow\n  down."), "HTTP 400: Slow down."),
    ('{"error": "no"}', "HTTP 400: no"),
    ('{"error": null}', 'HTTP 400: {"error": null}'),
    ('{"error": {"message": null}}', 'HTTP 400: {"error": {"message": null}}'),
    ("", "HTTP 400: no message"),
    ("<h1>Bad\n gateway</h1>", "HTTP 400: <h1>Bad gateway</h1>"),
    (said(message="x" * 10_000), "HTTP 400: " + "x" * 499 + "…"),
]


@TRANSPORTS
def test_the_message_is_what_the_server_said(transport: Transport) -> None:
    errors = errors_of(transport, [saying(400, body) for body, _ in MESSAGES])
    assert [error.message for error in errors] == [message for _, message in MESSAGES]


@TRANSPORTS
def test_only_a_request_that_found_no_server_was_surely_not_carried_out(transport: Transport) -> None:
    async def story() -> tuple[RunnerError, RunnerError]:
        async with raw_server(b"") as place:
            lost = await outcome(transport, f"http://{place}/v1")
        return lost, await outcome(transport, f"http://127.0.0.1:{unused_port()}/v1")

    lost, refused = asyncio.run(story())
    assert isinstance(lost, TransientError)
    assert isinstance(refused, TransientError)
    assert (lost.kind, lost.perhaps_paid) == ("connection", True)
    assert (refused.kind, refused.perhaps_paid) == ("connection", False)


WAITS: list[tuple[dict[str, str], float | None]] = [
    ({}, None),
    ({"Retry_After": "30"}, 30),
    ({"Retry_After": "0"}, 0),
    ({"Retry_After": "1.5"}, 1.5),
    ({"Retry_After_Ms": "250"}, 0.25),
    ({"Retry_After_Ms": "250", "Retry_After": "30"}, 0.25),
    ({"Retry_After_Ms": "soon", "Retry_After": "30"}, 30),
    ({"Retry_After": format_datetime(NOON.replace(minute=2), usegmt=True)}, 120),
    ({"Retry_After": format_datetime(NOON.replace(hour=11), usegmt=True)}, 0),
    ({"Retry_After": "soon"}, None),
    ({"Retry_After": "-5"}, None),
    ({"Retry_After": "nan"}, None),
    ({"Retry_After": "inf"}, None),
    ({"Retry_After": "Fri, 99 Nov 2026 99:00:00 GMT"}, None),
]


@TRANSPORTS
@pytest.mark.parametrize("status", [429, 503])
def test_how_long_the_server_asks_to_wait(transport: Transport, status: int) -> None:
    errors = errors_of(transport, [saying(status, said(), **headers) for headers, _ in WAITS])
    for error, (headers, expected) in zip(errors, WAITS, strict=True):
        assert isinstance(error, TransientError)
        assert error.retry_after_s == expected, headers


# Redirects ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_redirects_are_followed_as_the_sdk_follows_them(status: int, elsewhere: bool) -> None:
    async def story() -> list[Seen]:
        async with serving(ok) as other, serving(ok) as server:

            async def send_on(request: web.BaseRequest) -> web.Response:
                if request.path == "/v1/responses":
                    return web.Response(status=status, headers={"Location": f"{target.root}/new/responses"})
                return await ok(request)

            target = other if elsewhere else server
            server.answer = send_on
            connection = Connection("e", server.base_url, KEY)
            await post(AiohttpTransport, connection, [HELLO])
            await post(SdkTransport, connection, [HELLO])
            async with plain_sdk(server.base_url) as client:
                await client.post("/responses", body=json.loads(HELLO), cast_to=httpx2.Response)
            return [seen for seen in target.seen if seen.path == "/new/responses"]

    ours, sdk, plain = asyncio.run(story())
    for seen in (ours, sdk):
        assert seen.method == plain.method
        assert seen.headers.get("authorization") == plain.headers.get("authorization")
        assert bool(seen.body) == bool(plain.body)
    assert ours.method == ("POST" if status > 303 else "GET")
    assert ours.body == (HELLO if status > 303 else b"")
    assert ("authorization" in ours.headers) is not elsewhere  # never to another place


@TRANSPORTS
def test_a_redirect_that_leads_nowhere(transport: Transport) -> None:
    async def in_circles(request: web.BaseRequest) -> web.Response:
        return web.Response(status=307, headers={"Location": request.path})

    first, second = errors_of(transport, [in_circles, saying(307, "")])
    assert first.kind == "connection"
    assert isinstance(second, PermanentError)


# Proxies --------------------------------------------------------------------------------------------------------------

FROM_PROXY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


@pytest.mark.filterwarnings("ignore:(BasicAuth|The 'proxy_auth' parameter) is deprecated")  # in the SDK
@TRANSPORTS
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
@pytest.mark.parametrize("form", ["http://{}", "{}", "http://user:geheim@{}"])
def test_the_proxy_of_the_environment_is_used(
    transport: Transport, variable: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> list[str]:
        heads: list[str] = []
        async with raw_server(FROM_PROXY, heads) as place:
            monkeypatch.setenv(variable, form.format(place))
            await post(transport, Connection("e", "http://api.example.test/v1", KEY))
        return heads

    (head,) = asyncio.run(story())
    assert head.startswith("POST http://api.example.test/v1/responses HTTP/1.1\r\n")
    assert ("Proxy-Authorization: Basic dXNlcjpnZWhlaW0=" in head) is ("geheim" in form)


@pytest.mark.parametrize("exception", ["127.0.0.1", "*", "localhost,127.0.0.1", "{}"])
def test_no_proxy_is_respected(exception: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> list[Seen]:
        async with serving(ok) as server:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port()}")
            monkeypatch.setenv("no_proxy", exception.format(server.root.removeprefix("http://")))
            await post(AiohttpTransport, Connection("e", server.base_url, KEY))
            return server.seen

    assert len(asyncio.run(story())) == 1


@pytest.mark.filterwarnings("ignore:(BasicAuth|The 'proxy_auth' parameter) is deprecated")  # in the SDK
@TRANSPORTS
def test_a_proxy_that_refuses_does_not_show_its_password(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> RunnerError:
        refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
        async with raw_server(refusal) as place:
            monkeypatch.setenv("https_proxy", f"http://user:geheim@{place}")
            return await outcome(transport, "https://api.example.test/v1")

    error = asyncio.run(story())
    assert isinstance(error, TransientError)
    assert error.kind == "connection"
    assert "407" in error.message or "Proxy" in error.message
    assert "geheim" not in str(error)


def test_a_kind_of_proxy_that_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://user:geheim@127.0.0.1:1")
    with pytest.raises(SpecError) as caught:
        open_client(Connection("e", "http://api.example.test/v1", KEY), "/responses", concurrency=1)
    assert str(caught.value) == (
        "the environment names a socks5 proxy for api.example.test, and only HTTP proxies work\n"
        "hint: set http_proxy to an HTTP proxy, or no_proxy=api.example.test"
    )


# Secrets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transport", "rotates"), [(AiohttpTransport, False), (SdkTransport, False), (SdkTransport, True)]
)
@pytest.mark.parametrize("status", [400, 401, 429])
def test_secrets_that_a_server_repeats_are_cut_out(transport: Transport, rotates: bool, status: int) -> None:
    async def story(form: str) -> RunnerError:
        async def echo(request: web.BaseRequest) -> web.Response:
            text = f"{request.headers['authorization']} {request.headers['x-token']} {request.headers['x-scheme']}"
            body = {
                "json": said(message=text),
                "string": json.dumps({"error": text}),
                "html": f"<html>{text}</html>",
                "late": said(message="x" * 480 + text),  # the end of a long message is cut off, here within the key
            }
            return web.Response(status=status, text=body[form])

        async with serving(echo) as server:
            key = rotating(KEY) if rotates else KEY
            headers = {"x-token": "geheim-token-1", "x-scheme": "Token geheim-token-2"}
            return await outcome(transport, server.base_url, api_key=key, headers=headers)

    for form in ("json", "string", "html", "late"):
        error = asyncio.run(story(form))
        shown = str(error) + repr(error) + repr(vars(error))
        assert "***" in shown
        for start in ("sk-test", "geheim"):
            assert start not in shown


def test_a_connection_shows_no_secret() -> None:
    connection = Connection("e", "http://user:geheim@h/v1?token=geheim", "geheim", headers={"x-token": "geheim"})
    assert "geheim" not in repr(connection) + str(connection)
    assert connection.name in repr(connection)


@TRANSPORTS
def test_an_address_with_a_password_is_not_shown(transport: Transport) -> None:
    port = unused_port()
    error = asyncio.run(outcome(transport, f"http://user:geheim-1@127.0.0.1:{port}/v1?token=geheim-2"))
    assert "geheim" not in str(error) + repr(vars(error))


# How it is built ------------------------------------------------------------------------------------------------------

ADAPTER = [
    Path(runner.__file__).parent / name for name in ("openai_client.py", "openai_errors.py", "openai_batches.py")
]


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("path", ADAPTER, ids=lambda path: path.stem)
def test_the_adapter_uses_no_private_name(path: Path) -> None:
    for name in _imports(path):
        if name.startswith(("openai", "httpx2", "aiohttp", "yarl")):
            assert not [part for part in name.split(".") if part.startswith("_")], name
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            assert isinstance(node.value, ast.Name), ast.unparse(node)
            assert node.value.id == "self", ast.unparse(node)


def test_preparing_a_head_sends_nothing() -> None:
    async def story() -> httpx2.Request:
        return await prepare_head(Connection("e", f"http://127.0.0.1:{unused_port()}/v1", KEY), "/responses")

    head = asyncio.run(story())
    assert head.method == "POST"
    assert head.url.path == "/v1/responses"


@pytest.mark.parametrize(
    ("options", "asked", "expected"),
    [
        ({}, "aiohttp", AiohttpTransport),
        ({}, "sdk", SdkTransport),
        ({"api_key": rotating("k")}, "aiohttp", SdkTransport),
        ({"azure_api_version": "2026-10-01"}, "aiohttp", SdkTransport),
    ],
)
def test_what_a_template_cannot_express_takes_the_sdk(
    options: dict[str, Any], asked: str, expected: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[type] = []
    send = expected.post

    async def noted(self: Any, body: bytes, timeout_s: float) -> Reply:
        used.append(type(self))
        return await send(self, body, timeout_s)

    monkeypatch.setattr(expected, "post", noted)

    async def story() -> None:
        async with serving(ok) as server:
            connection = Connection(**{"name": "e", "base_url": server.root, "api_key": KEY, **options})
            client = open_client(connection, "/responses", concurrency=1, transport=asked)
            await client.send(HELLO, 5)
            await client.close()

    asyncio.run(story())
    assert used == [expected]
