"""What went wrong with a request: the SDK's error for a status, and the runner's error for one of the SDK's.

By type and code, never by what a message says; and no secret of the endpoint stays in a text that a server wrote.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import aiohttp
import httpx2
import openai
import yarl

from runner.clock import Clock
from runner.errors import NO_CAPACITY, CallError, FatalError, PermanentError, TransientError

_QUOTA_CODES = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated"}
)


class Endpoint(Protocol):
    """What of a connection an error may name, and what it must not show."""

    @property
    def name(self) -> str: ...
    @property
    def base_url(self) -> str: ...
    @property
    def api_key(self) -> str | Callable[[], Coroutine[Any, Any, str]]: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


_STATUS_CLASSES: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
}


def status_error(response: httpx2.Response) -> openai.APIStatusError:
    """Return the error that the SDK raises for this response."""
    status = response.status_code
    cls = _STATUS_CLASSES.get(status) or (openai.InternalServerError if status >= 500 else openai.APIStatusError)
    text = response.text.strip()
    try:
        body: Any = json.loads(text)
    except (ValueError, RecursionError):
        body = text
    data = body.get("error", body) if isinstance(body, dict) else body
    return cls(f"Error code: {status}", response=response, body=data)


def is_timeout(error: BaseException) -> bool:
    """Whether a timeout error of the SDK was one: the aiohttp client reports lost connections as timeouts too."""
    cause = error.__cause__
    while cause is not None:
        if isinstance(cause, TimeoutError):
            return True
        if isinstance(cause, aiohttp.ClientConnectionError | ConnectionError):
            return False
        cause = cause.__cause__ or cause.__context__
    return True


def classify(error: openai.OpenAIError, connection: Endpoint, clock: Clock) -> CallError | FatalError:
    """Turn an error of the SDK into one of the runner's, by type and code, never by its message."""
    if isinstance(error, openai.APIStatusError):
        return _classify_status(error, connection, clock)
    if isinstance(error, openai.APITimeoutError):
        return TransientError("no answer in time", kind="timeout", perhaps_paid=True)
    if isinstance(error, openai.APIConnectionError):
        cause: BaseException = error
        while cause.__cause__ is not None and isinstance(cause, openai.OpenAIError | httpx2.HTTPError):
            cause = cause.__cause__
        # httpx2 wraps what the system said in errors that say nothing.
        while not str(cause) and (deeper := cause.__cause__ or cause.__context__) is not None:
            cause = deeper
        message = _redact(f"connection failed: {cause}", error, connection)
        if isinstance(cause, aiohttp.ClientResponseError):  # its text shows the proxy's password
            message = f"connection failed: {cause.message or type(cause).__name__}"
        return TransientError(_short(message), kind="connection", perhaps_paid=not _never_sent(error))
    message = f"the client cannot work: {type(error).__name__}"
    return FatalError(message, kind="client", where=f"endpoint `{connection.name}`")


def _never_sent(error: BaseException | None) -> bool:
    """Whether there was no connection, so that the server cannot have done anything.

    A `ConnectTimeout` says nothing: the SDK's aiohttp client raises it for a connection that was lost later too.
    """
    while error is not None:
        if isinstance(error, aiohttp.ClientConnectorError | httpx2.ConnectError | ConnectionRefusedError):
            return True
        error = error.__cause__
    return False


def _classify_status(error: openai.APIStatusError, connection: Endpoint, clock: Clock) -> CallError | FatalError:
    status = error.status_code
    said = error.body.get("message") if isinstance(error.body, dict) else error.body
    if not isinstance(said, str) or not said:
        said = error.response.text or "no message"
    message = f"HTTP {status}: {_short(_redact(said, error, connection))}"
    where = f"endpoint `{connection.name}`"
    codes = [code for code in (error.code, error.type) if isinstance(code, str)]
    if status == 401:
        return FatalError(
            message, kind="bad_key", where=where, hint="check the key in the endpoint's environment variable"
        )
    if status == 402 or not _QUOTA_CODES.isdisjoint(codes):
        return FatalError(
            message, kind="insufficient_quota", where=where, hint="add credit or raise the limit, then resume"
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
    if status == 429:
        kind = NO_CAPACITY if "resource_unavailable" in codes else "rate_limit"
        return TransientError(
            message, kind=kind, retry_after_s=_retry_after_s(error.response, clock), rate_limited=True
        )
    if status in (408, 409) or status >= 500:
        return TransientError(message, kind="server_error", retry_after_s=_retry_after_s(error.response, clock))
    return PermanentError(message, kind="bad_request")


def _retry_after_s(response: httpx2.Response, clock: Clock) -> float | None:
    """Read how long to wait, in seconds (RFC 9110 section 10.2.3; `retry-after-ms` is OpenAI's finer form)."""
    milliseconds = number(response.headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = response.headers.get("retry-after", "")
    seconds = number(value)
    if seconds is not None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - clock.now_us() / 1e6)
    except (ValueError, OverflowError):
        return None


def _redact(text: str, error: openai.APIError, connection: Endpoint) -> str:
    """Cut the endpoint's secrets out of a text that a server wrote."""
    url = yarl.URL(connection.base_url)
    sent = error.request.headers  # with the key of that moment, where it rotates
    secrets = {url.user, url.password, *url.query.values(), sent.get("api-key"), sent.get("authorization")}
    secrets |= {*connection.headers.values(), connection.api_key if isinstance(connection.api_key, str) else None}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        for part in (secret, secret.partition(" ")[2]):  # `Bearer …`
            if len(part) >= 6:
                text = text.replace(part, "***")
    return text


def _short(text: str, limit: int = 500) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def number(text: str | None) -> float | None:
    """Read a number from 0 up that a server wrote; None for anything else."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
