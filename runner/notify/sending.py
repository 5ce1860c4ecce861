"""Sends messages and pings, side by side and within a few seconds. What it says of a failure holds no address."""

from __future__ import annotations

import json
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, InvalidURL
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from runner import __version__

LIMIT_S = 6.0
"""How long all messages of one moment may take together; the run's end waits for no longer."""

_TIMEOUT_S = 3.0
_WAITS_S: tuple[float, ...] = (0.3, 1.0)  # so there are three attempts
_AGENT = f"llm-batch-runner/{__version__}"
_INSTALL = "this service needs the package apprise: pip install 'llm-batch-runner[alerts]'"


class NotSentError(Exception):
    """A message was not taken; the reason holds no address, and no part of one."""


@dataclass(frozen=True)
class Message:
    """One message to one target.

    Attributes:
        payload: what a webhook is sent as JSON.
        good: whether it is good news, for services that show that.
    """

    subject: str
    body: str
    payload: dict[str, Any]
    good: bool


def send(address: str, message: Message) -> None:
    """Send a message: to a web address as JSON, to any other through Apprise.

    Raises:
        NotSentError: it was not taken.
    """
    if urlsplit(address).scheme.lower() in ("http", "https"):
        body = json.dumps(message.payload).encode()
        _ask(urllib.request.Request(address, body, {"Content-Type": "application/json", "User-Agent": _AGENT}))
    else:
        _through_apprise(address, message)


def ping(address: str, ending: str = "") -> None:
    """Tell a dead man's switch that a run begins (`/start`), failed (`/fail`) or went well (no ending).

    The endings are those of healthchecks.io (https://healthchecks.io/docs/http_api/).

    Raises:
        NotSentError: it did not answer, or not with success.
    """
    parts = urlsplit(address)
    if ending:
        parts = parts._replace(path=parts.path.rstrip("/") + ending)
    if parts.scheme.lower() not in ("http", "https"):
        raise NotSentError("it must begin with https://")
    _ask(urllib.request.Request(urlunsplit(parts), headers={"User-Agent": _AGENT}))


class Round:
    """Messages that are on their way. Each has a thread, which nobody waits for longer than is allowed.

    Args:
        after: a round whose messages must arrive before those that are sent in order.
    """

    def __init__(self, after: Round | None = None) -> None:
        self._after = after
        self._threads: list[tuple[str, threading.Thread]] = []
        self._failures: dict[str, str | None] = {}

    def begin(self, name: str, work: Callable[[], None], *, in_order: bool = False) -> None:
        """Begin to send.

        Args:
            name: what to call it when it fails.
        """

        def sending() -> None:
            try:
                if in_order and self._after is not None:
                    self._after.failures()
                work()
                self._failures[name] = None
            except NotSentError as error:
                self._failures[name] = str(error)
            except Exception as error:  # noqa: BLE001 - a service's plug-in may raise anything, with an address in it
                self._failures[name] = type(error).__name__

        thread = threading.Thread(target=sending, name="notify", daemon=True)
        self._threads.append((name, thread))
        thread.start()

    def failures(self, limit_s: float = LIMIT_S) -> dict[str, str]:
        """Wait for all, and return why those failed that did, by their names."""
        end = time.monotonic() + limit_s
        for _, thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        found = {name: self._failures.get(name, "no answer in time") for name, _ in self._threads}
        return {name: why for name, why in found.items() if why is not None}


def _ask(request: urllib.request.Request) -> None:
    for wait_s in (*_WAITS_S, None):
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                answer.read(1)
            return
        except urllib.error.HTTPError as error:
            error.close()
            why, again = f"it answered HTTP {error.code}", error.code >= 500 or error.code == 429
        except (OSError, HTTPException, ValueError) as error:
            why, again = _reason(error), isinstance(error, OSError)
        if wait_s is None or not again:
            raise NotSentError(why)
        time.sleep(wait_s)


def _reason(error: Exception) -> str:
    """Return why an address could not be reached. Messages of libraries may name it, so they are not repeated."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {_TIMEOUT_S:g} s"
    if isinstance(cause, ssl.SSLError):
        return "its certificate is not trusted" if isinstance(cause, ssl.SSLCertVerificationError) else "TLS failed"
    if isinstance(cause, OSError) and cause.strerror:
        return f"it cannot be reached: {cause.strerror.lower()}"
    return "it is no address that can be asked" if isinstance(cause, ValueError | InvalidURL) else "it spoke no HTTP"


def _through_apprise(address: str, message: Message) -> None:
    try:
        import apprise  # here, because it takes a fifth of a second, and few need it
    except ImportError:
        raise NotSentError(_INSTALL) from None
    service = apprise.Apprise.instantiate(address, asset=apprise.AppriseAsset(async_mode=False))
    if service is None:
        raise NotSentError("Apprise knows no such service, or the address lacks a part of it")
    kind = apprise.NotifyType.SUCCESS if message.good else apprise.NotifyType.FAILURE
    sender = apprise.Apprise(service)
    if not sender.notify(message.body, title=message.subject, notify_type=kind, body_format="text", timeout=LIMIT_S):
        raise NotSentError(f"{service.service_name} did not take it; `apprise -vv` shows why")
