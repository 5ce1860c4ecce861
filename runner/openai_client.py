"""Sends requests the way the `openai` SDK does. With `openai_errors` and `openai_batches`, the only importer of openai.

Two transports for the event loop send the same bytes and raise the same errors:

- `aiohttp` (default): the SDK prepares one request through its public `http_client=` seam; that head (URL and
  headers) is used again for every body, over aiohttp. It skips the SDK's work per call, which costs more than
  the call itself.
- `sdk`: the SDK's public low-level `post`, for rotating keys and Azure routing, where the head depends on the
  moment or the body, and for anyone who wants the plain path.

Threads send with the SDK's blocking client.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import ssl
import threading
import urllib.request
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import aiohttp
import httpx2
import openai
import yarl
from openai import AsyncAzureOpenAI, AsyncOpenAI, AzureOpenAI, DefaultAioHttpClient, DefaultHttpxClient, OpenAI

from runner.blocking import finish
from runner.clock import Clock, SystemClock
from runner.errors import FatalError, SpecError
from runner.openai_errors import classify, is_timeout, number, status_error
from runner.records import Reply

# The SDK would advertise every decoder that httpx2 has; aiohttp may lack some of them.
_ACCEPT_ENCODING = {"Accept-Encoding": "gzip, deflate"}
_NOT_A_HEADER = "holds a character that cannot be sent; only ASCII can"
# Set by the HTTP library for each body and connection.
_PER_MESSAGE_HEADERS = frozenset({"content-length", "host", "transfer-encoding"})


@dataclass(frozen=True)
class Connection:
    """All that is needed to reach an endpoint, secrets included; its repr shows none.

    Attributes:
        api_key: the key, or an async function that returns the current one (a key that rotates).
        azure_api_version: set for Azure OpenAI, whose URLs the SDK routes by deployment.
    """

    name: str
    base_url: str = field(repr=False)  # may hold a password or a token
    api_key: str | Callable[[], Coroutine[Any, Any, str]] = field(repr=False)
    organization: str | None = None
    project: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    azure_api_version: str | None = None

    @property
    def head_is_constant(self) -> bool:
        """Whether one prepared request can stand for all."""
        return isinstance(self.api_key, str) and self.azure_api_version is None


def open_client(
    connection: Connection,
    path: str,
    *,
    concurrency: int,
    transport: str = "aiohttp",
    clock: Clock | None = None,
) -> OpenAIClient:
    """Return a client for one path of an endpoint; it belongs to the event loop that first uses it.

    Raises:
        SpecError: the address, the key, a header or the environment's proxy cannot be used.
    """
    check(connection)
    chosen: Transport
    if transport == "aiohttp" and connection.head_is_constant:
        chosen = AiohttpTransport(connection, path, concurrency)
    else:
        chosen = SdkTransport(connection, path, concurrency)
    return OpenAIClient(chosen, connection, clock or SystemClock())


def open_blocking_client(connection: Connection, path: str, *, clock: Clock | None = None) -> OpenAIClient:
    """Return a client for threads: its methods never suspend, but return when they are done.

    Raises:
        SpecError: the address, the key or a header cannot be used.
    """
    check(connection)
    return OpenAIClient(BlockingTransport(connection, path), connection, clock or SystemClock())


class Transport(Protocol):
    """Carries bodies to one path of an endpoint."""

    async def post(self, body: bytes, timeout_s: float) -> Reply:
        """Return the answer, if its status was 200; raises the SDK's errors otherwise."""

    async def close(self) -> None:
        """Close all connections."""


class OpenAIClient:
    """A `Client` that turns the SDK's errors into the runner's."""

    def __init__(self, transport: Transport, connection: Connection, clock: Clock) -> None:
        self._transport = transport
        self._connection = connection
        self._clock = clock
        # Of the secrets only the key: a header such as `x-team: research` may be a word of a true answer.
        key = connection.api_key if isinstance(connection.api_key, str) else ""
        self._key = key.encode() if len(key) >= 12 else None

    async def send(self, body: bytes, timeout_s: float) -> Reply:
        try:
            reply = await self._transport.post(body, timeout_s)
            if self._key is not None and self._key in reply.body:
                reply = replace(reply, body=reply.body.replace(self._key, b"***"))
            return reply
        except openai.OpenAIError as error:
            raise classify(error, self._connection, self._clock) from error
        except UnicodeEncodeError:  # the cause would show the key
            raise unsendable_key(self._connection) from None

    async def close(self) -> None:
        await self._transport.close()


class AiohttpTransport:
    """Posts bodies under a head that the SDK prepared once."""

    def __init__(self, connection: Connection, path: str, concurrency: int) -> None:
        self._connection = connection
        self._path = path
        self._concurrency = concurrency
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()  # one session, however many workers come first

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is None:
                self._head = await prepare_head(self._connection, self._path)
                self._url = yarl.URL(str(self._head.url), encoded=True)
                self._proxy = _proxy_for(self._url)
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(
                        limit=self._concurrency,
                        ttl_dns_cache=300,
                        ssl=trusted() if self._url.scheme == "https" else True,
                    ),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    headers=[(k, v) for k, v in self._head.headers.items() if k.lower() not in _PER_MESSAGE_HEADERS],
                    timeout=aiohttp.ClientTimeout(total=None),
                )
            return self._session

    async def post(self, body: bytes, timeout_s: float) -> Reply:
        session = self._session or await self._open()
        try:
            async with (
                asyncio.timeout(timeout_s),
                session.post(self._url, data=body, proxy=self._proxy) as response,
            ):
                content = await response.read()
        except TimeoutError as error:
            raise openai.APITimeoutError(request=self._head) from error
        except (aiohttp.ClientError, OSError) as error:
            raise openai.APIConnectionError(request=self._head) from error
        if response.status >= 300:
            # aiohttp has decoded the content already; httpx2 would try again
            headers = [(k, v) for k, v in response.raw_headers if k.lower() != b"content-encoding"]
            raise status_error(httpx2.Response(response.status, headers=headers, content=content, request=self._head))
        return _reply(content, response.headers)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class SdkTransport:
    """Posts bodies through the SDK's public low-level call."""

    def __init__(self, connection: Connection, path: str, concurrency: int) -> None:
        self._connection = connection
        self._path = path
        self._concurrency = concurrency
        self._client: AsyncOpenAI | None = None

    def _open(self, body: bytes) -> AsyncOpenAI:
        # Above 100 in flight the default pool would open a connection for almost every request.
        limits = httpx2.Limits(max_connections=self._concurrency, max_keepalive_connections=self._concurrency)
        # Azure routes by the model, which is the same in all bodies of a job.
        deployment = json.loads(body)["model"] if self._connection.azure_api_version is not None else None
        self._client = sdk_client(self._connection, DefaultAioHttpClient(limits=limits, verify=trusted()), deployment)
        return self._client

    async def post(self, body: bytes, timeout_s: float) -> Reply:
        client = self._client or self._open(body)
        nowhere = httpx2.Request("POST", client.base_url)
        try:
            async with asyncio.timeout(timeout_s):
                response = await client.post(self._path, cast_to=httpx2.Response, content=body)
        except TimeoutError as error:
            raise openai.APITimeoutError(request=nowhere) from error
        except openai.APITimeoutError as error:
            # A refused connection arrives as a timeout too; only its cause tells.
            if is_timeout(error):
                raise
            raise openai.APIConnectionError(request=error.request) from error
        except (aiohttp.ClientError, OSError) as error:  # the SDK's aiohttp client lets some through
            raise openai.APIConnectionError(request=nowhere) from error
        return _reply(response.content, response.headers)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


class BlockingTransport:
    """Posts bodies through the SDK's blocking client; each thread has one, and with it a connection of its own."""

    def __init__(self, connection: Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        # Where there is no TLS an empty one, that trusts nobody.
        secure = yarl.URL(connection.base_url).scheme == "https"
        self._trust = trusted() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._of_thread = threading.local()
        self._clients: list[OpenAI] = []

    def _open(self, body: bytes) -> OpenAI:
        connection = self._connection
        key = connection.api_key
        arguments = _sdk_arguments(connection) | {
            "api_key": key if isinstance(key, str) else lambda: finish(key()),
            "http_client": DefaultHttpxClient(verify=self._trust),
        }
        if connection.azure_api_version is not None:
            client: OpenAI = AzureOpenAI(**arguments, azure_deployment=json.loads(body)["model"])
        else:
            client = OpenAI(**arguments)
        self._of_thread.client = client
        self._clients.append(client)
        return client

    async def post(self, body: bytes, timeout_s: float) -> Reply:
        client: OpenAI = getattr(self._of_thread, "client", None) or self._open(body)
        # A blocking socket bounds each wait for the server, not their sum.
        response = client.post(self._path, cast_to=httpx2.Response, content=body, options={"timeout": timeout_s})
        return _reply(response.content, response.headers)

    async def close(self) -> None:
        for client in self._clients:
            client.close()


@functools.cache
def trusted() -> ssl.SSLContext:
    """Whom the SDK trusts. To read all the certificates takes 20 to 40 ms, so it is done once for all clients."""
    return httpx2.create_ssl_context()


async def prepare_head(connection: Connection, path: str) -> httpx2.Request:
    """Let the SDK build one request for `path` and return it; nothing is sent."""
    captured: list[httpx2.Request] = []

    async def capture(request: httpx2.Request) -> httpx2.Response:
        captured.append(request)
        return httpx2.Response(200, json={}, request=request)

    async with sdk_client(connection, httpx2.AsyncClient(transport=httpx2.MockTransport(capture))) as client:
        await client.post(path, cast_to=httpx2.Response, content=b"{}")
    return captured[0]


def sdk_client(connection: Connection, http_client: httpx2.AsyncClient, deployment: str | None = None) -> AsyncOpenAI:
    """Return the SDK's client for an endpoint, without retries and timeouts of its own."""
    arguments = _sdk_arguments(connection) | {"http_client": http_client}
    if connection.azure_api_version is not None:
        return AsyncAzureOpenAI(**arguments, azure_deployment=deployment)
    return AsyncOpenAI(**arguments)


def _sdk_arguments(connection: Connection) -> dict[str, Any]:
    """Return what all of the SDK's clients are made with, but for their HTTP client."""
    base_url = httpx2.URL(connection.base_url)
    headers = {**_ACCEPT_ENCODING, **connection.headers}
    if base_url.userinfo:  # httpx2 would make this header of it; aiohttp refuses to be given a password and a key
        login = f"{base_url.username}:{base_url.password}".encode()
        headers["Authorization"] = "Basic " + base64.b64encode(login).decode()
        base_url = base_url.copy_with(userinfo=b"")
    common: dict[str, Any] = {
        "api_key": connection.api_key,
        "organization": connection.organization,
        "default_headers": headers,
        "max_retries": 0,  # retries have one owner, and it is not the SDK
        "timeout": None,  # so have timeouts; the SDK's own would end every call after 600 s
    }
    if connection.azure_api_version is not None:
        return common | {"azure_endpoint": str(base_url), "api_version": connection.azure_api_version}
    return common | {"base_url": base_url, "project": connection.project}


def check(connection: Connection) -> None:
    """Refuse what only HTTP would refuse, before the first request.

    Raises:
        SpecError: the address, the key, a header or the environment's proxy cannot be used.
    """
    name = connection.name
    try:
        if not yarl.URL(connection.base_url).host:
            raise ValueError
        httpx2.URL(connection.base_url)
        _proxy_for(yarl.URL(connection.base_url))
    except (ValueError, httpx2.InvalidURL):
        raise SpecError(
            f"the `base_url` of endpoint `{name}` is not an address", hint="for example `http://localhost:8000/v1`"
        ) from None
    if connection.api_key == "":
        raise SpecError(f"the key of endpoint `{name}` is empty")
    values = {f"header `{key}`": value for key, value in connection.headers.items()}
    values |= {"organization": connection.organization or "", "project": connection.project or ""}
    values |= {"key": connection.api_key} if isinstance(connection.api_key, str) else {}
    for what, value in values.items():
        if not (value.isascii() and (value.isprintable() or not value)):
            raise SpecError(f"the {what} of endpoint `{name}` {_NOT_A_HEADER}")


def unsendable_key(connection: Connection) -> FatalError:
    """Return the error for a key that rotated to one that no header can hold."""
    return FatalError(f"the current key of endpoint `{connection.name}` {_NOT_A_HEADER}", kind="bad_key")


def _proxy_for(url: yarl.URL) -> str | None:
    """Return the proxy that the environment names for `url`, as the SDK's own client would honour it.

    Raises:
        SpecError: it is not an HTTP proxy.
    """
    host = url.host or ""
    if urllib.request.proxy_bypass(host) or urllib.request.proxy_bypass(f"{host}:{url.port}"):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy and "://" not in proxy:
        return f"http://{proxy}"
    if proxy and not proxy.startswith(("http://", "https://")):
        kind = proxy.partition(":")[0]
        raise SpecError(
            f"the environment names a {kind} proxy for {host}, and only HTTP proxies work",
            hint=f"set {url.scheme}_proxy to an HTTP proxy, or no_proxy={host}",
        )
    return proxy


def _reply(content: bytes, headers: Mapping[str, str]) -> Reply:
    server_ms = number(headers.get("openai-processing-ms"))
    return Reply(content, headers.get("content-type", ""), headers.get("x-request-id"), server_ms)
