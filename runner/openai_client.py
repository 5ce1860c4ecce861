"""Sends requests the way the `openai` SDK does. Nothing else imports openai, httpx2 or aiohttp for this.

Two transports send the same bytes and raise the same errors:

- `aiohttp` (default): the SDK prepares one request through its public `http_client=` seam; that head (URL and
  headers) is used again for every body, over aiohttp. It skips the SDK's work per call, which costs more than
  the call itself.
- `sdk`: the SDK's public low-level `post`, for rotating keys and Azure routing, where the head depends on the
  moment or the body, and for anyone who wants the plain path.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import httpx2
import openai
import yarl
from openai import AsyncAzureOpenAI, AsyncOpenAI, DefaultAioHttpClient

from runner.clock import Clock, SystemClock
from runner.errors import CallError, FatalError, PermanentError, TransientError
from runner.records import Reply

# The SDK would advertise every decoder that httpx2 has; aiohttp may lack some of them.
_ACCEPT_ENCODING = {"Accept-Encoding": "gzip, deflate"}
# Set by the HTTP library for each body and connection.
_PER_MESSAGE_HEADERS = frozenset({"content-length", "host", "transfer-encoding"})
_QUOTA_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated"}
)


@dataclass(frozen=True)
class Connection:
    """All that is needed to reach an endpoint, secrets included; its repr shows none.

    Attributes:
        api_key: the key, or an async function that returns the current one (a key that rotates).
        azure_api_version: set for Azure OpenAI, whose URLs the SDK routes by deployment.
    """

    name: str
    base_url: str
    api_key: str | Callable[[], Awaitable[str]] = field(repr=False)
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
    """Return a client for one path of an endpoint; it belongs to the event loop that first uses it."""
    chosen: _Transport
    if transport == "aiohttp" and connection.head_is_constant:
        chosen = AiohttpTransport(connection, path, concurrency)
    else:
        chosen = SdkTransport(connection, path, concurrency)
    return OpenAIClient(chosen, connection, clock or SystemClock())


class OpenAIClient:
    """A `Client` that turns the SDK's errors into the runner's."""

    def __init__(self, transport: _Transport, connection: Connection, clock: Clock) -> None:
        self._transport = transport
        self._connection = connection
        self._clock = clock

    async def send(self, body: bytes, timeout_s: float) -> Reply:
        try:
            return await self._transport.post(body, timeout_s)
        except openai.OpenAIError as error:
            raise classify(error, self._connection, self._clock) from error

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
                    connector=aiohttp.TCPConnector(limit=self._concurrency, ttl_dns_cache=300),
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
        headers = response.headers
        if response.status >= 300:
            raise _status_error(
                httpx2.Response(response.status, headers=list(headers.items()), content=content, request=self._head)
            )
        return _reply(content, headers)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class SdkTransport:
    """Posts bodies through the SDK's public low-level call."""

    def __init__(self, connection: Connection, path: str, concurrency: int) -> None:
        # Above 100 in flight the default pool would open a connection for almost every request.
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        self._client = _sdk_client(connection, DefaultAioHttpClient(limits=limits))
        self._path = path
        self._routes_by_body = connection.azure_api_version is not None

    async def post(self, body: bytes, timeout_s: float) -> Reply:
        sent: dict[str, Any] = {"body": json.loads(body)} if self._routes_by_body else {"content": body}
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.post(self._path, cast_to=httpx2.Response, **sent)
        except TimeoutError as error:
            raise openai.APITimeoutError(request=httpx2.Request("POST", str(self._client.base_url))) from error
        except openai.APITimeoutError as error:
            # A refused connection arrives as a timeout too; only its cause tells.
            if _is_timeout(error):
                raise
            raise openai.APIConnectionError(request=error.request) from error
        return _reply(response.content, response.headers)

    async def close(self) -> None:
        await self._client.close()


_Transport = AiohttpTransport | SdkTransport


async def prepare_head(connection: Connection, path: str) -> httpx2.Request:
    """Let the SDK build one request for `path` and return it; nothing is sent."""
    captured: list[httpx2.Request] = []

    async def capture(request: httpx2.Request) -> httpx2.Response:
        captured.append(request)
        return httpx2.Response(200, json={}, request=request)

    async with _sdk_client(connection, httpx2.AsyncClient(transport=httpx2.MockTransport(capture))) as client:
        await client.post(path, cast_to=httpx2.Response, content=b"{}")
    return captured[0]


def _sdk_client(connection: Connection, http_client: httpx2.AsyncClient) -> AsyncOpenAI:
    common: dict[str, Any] = {
        "api_key": connection.api_key,
        "organization": connection.organization,
        "project": connection.project,
        "default_headers": {**_ACCEPT_ENCODING, **connection.headers},
        "max_retries": 0,  # retries have one owner, and it is not the SDK
        "http_client": http_client,
    }
    if connection.azure_api_version is not None:
        common.pop("project")
        return AsyncAzureOpenAI(azure_endpoint=connection.base_url, api_version=connection.azure_api_version, **common)
    return AsyncOpenAI(base_url=connection.base_url, **common)


def _proxy_for(url: yarl.URL) -> str | None:
    """Return the proxy that the environment names for `url`, as the SDK's own client would honour it."""
    if urllib.request.proxy_bypass(url.host or ""):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(url.scheme) or proxies.get("all")


def _reply(content: bytes, headers: Mapping[str, str]) -> Reply:
    server_ms = headers.get("openai-processing-ms")
    return Reply(
        content,
        headers.get("content-type", ""),
        headers.get("x-request-id"),
        float(server_ms) if server_ms and server_ms.replace(".", "", 1).isdigit() else None,
    )


_STATUS_CLASSES: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
}


def _status_error(response: httpx2.Response) -> openai.APIStatusError:
    """Return the error that the SDK raises for this response."""
    status = response.status_code
    cls = _STATUS_CLASSES.get(status) or (openai.InternalServerError if status >= 500 else openai.APIStatusError)
    try:
        body: Any = response.json()
    except ValueError:
        return cls(response.text or f"Error code: {status}", response=response, body=None)
    data = body.get("error", body) if isinstance(body, dict) else body
    return cls(f"Error code: {status} - {body}", response=response, body=data)


def _is_timeout(error: BaseException) -> bool:
    """Whether a timeout error of the SDK was one: the aiohttp client reports lost connections as timeouts too."""
    cause = error.__cause__
    while cause is not None:
        if isinstance(cause, TimeoutError):
            return True
        if isinstance(cause, aiohttp.ClientConnectionError | ConnectionError):
            return False
        cause = cause.__cause__ or cause.__context__
    return True


def classify(error: openai.OpenAIError, connection: Connection, clock: Clock) -> CallError | FatalError:
    """Turn an error of the SDK into one of the runner's, by type and code, never by its message."""
    if isinstance(error, openai.APIStatusError):
        return _classify_status(error, connection, clock)
    if isinstance(error, openai.APITimeoutError):
        return TransientError("no answer in time", kind="timeout")
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        while cause.__cause__ is not None and isinstance(cause, openai.OpenAIError | httpx2.HTTPError):
            cause = cause.__cause__
        return TransientError(
            _redact(f"connection failed: {cause or type(cause).__name__}", connection), kind="connection"
        )
    return FatalError(_redact(str(error), connection), kind="client", where=f"endpoint `{connection.name}`")


def _classify_status(error: openai.APIStatusError, connection: Connection, clock: Clock) -> CallError | FatalError:
    status = error.status_code
    said = error.body.get("message") if isinstance(error.body, dict) else None
    message = _redact(f"HTTP {status}: {_short(said or error.response.text or 'no message')}", connection)
    where = f"endpoint `{connection.name}` ({connection.base_url})"
    codes = {error.code, error.type}
    if status == 401:
        return FatalError(
            message, kind="bad_key", where=where, hint="check the key in the endpoint's environment variable"
        )
    if status == 403:
        return FatalError(message, kind="permission", where=where, hint="this key may not use this model or project")
    if status == 404:
        return FatalError(
            message,
            kind="not_found",
            where=where,
            hint="check `model` in the job and `base_url` in configs/endpoints.yaml",
        )
    if status == 402 or codes & _QUOTA_CODES:
        return FatalError(
            message, kind="insufficient_quota", where=where, hint="add credit or raise the limit, then resume"
        )
    if status == 429:
        kind = "no_capacity" if "resource_unavailable" in codes else "rate_limit"
        return TransientError(
            message, kind=kind, retry_after_s=_retry_after_s(error.response, clock), rate_limited=True
        )
    if status in (408, 409) or status >= 500:
        return TransientError(message, kind="server_error", retry_after_s=_retry_after_s(error.response, clock))
    return PermanentError(message, kind="bad_request")


def _retry_after_s(response: httpx2.Response, clock: Clock) -> float | None:
    """Read how long to wait, in seconds (RFC 9110 section 10.2.3; `retry-after-ms` is OpenAI's finer form)."""
    milliseconds = response.headers.get("retry-after-ms")
    value = response.headers.get("retry-after")
    try:
        if milliseconds is not None:
            return max(0.0, float(milliseconds) / 1000)
        return None if value is None else max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value or "").timestamp() - clock.now_us() / 1e6)
    except ValueError:
        return None


def _redact(text: str, connection: Connection) -> str:
    """Cut the endpoint's secrets out of a text that a server wrote."""
    secrets = [*connection.headers.values()]
    if isinstance(connection.api_key, str):
        secrets.append(connection.api_key)
    for secret in secrets:
        if len(secret) >= 6:
            text = text.replace(secret, "***")
    return text


def _short(text: str, limit: int = 500) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
