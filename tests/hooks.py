"""A server on this machine that takes webhooks and pings, and remembers them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hooks:
    """What came in, in order.

    Attributes:
        answers: what the next requests are answered with; 200 when they are used up.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: list[int] = []
        self.asked: list[tuple[str, str, dict[str, Any]]] = []

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _ in self.asked]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [content for method, _, content in self.asked if method == "POST"]

    def take(self) -> list[dict[str, Any]]:
        """Return the messages so far, and forget all."""
        found = self.messages
        self.asked.clear()
        return found


@contextmanager
def hooks() -> Iterator[Hooks]:
    """Serve until left."""

    class Answering(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found.asked.append((self.command, self.path, json.loads(text) if text else {}))
            self.send_response(found.answers.pop(0) if found.answers else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = _answer  # noqa: N815 - the names of http.server

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        found = Hooks(f"http://127.0.0.1:{server.server_address[1]}")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield found
        server.shutdown()
        thread.join()
