"""Serves the simulated API over real HTTP on this machine. The only module here that knows aiohttp."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from aiohttp import BodyPartReader, web

from runner.errors import RunnerError
from runner.simulator.batch_api import Incoming
from runner.simulator.files import FormPart, StoredFile
from runner.simulator.service import Answer, Service
from runner.simulator.settings import SimulatorSettings

_BACKLOG = 4096  # connections that may wait to be accepted: clients open hundreds at once
_LARGEST_BODY = 64 * 2**20
_CHUNK = 256 * 2**10
_KEPT = ("/v1/files", "/v1/batches")  # what is asked for under these is kept from one request to the next


class Simulator:
    """A local server that behaves as the settings say. As an async context manager: on a free port of 127.0.0.1.

    Args:
        settings: how it behaves.
        now: the time that limits go by, in seconds; the event loop's by default.

    Attributes:
        base_url: such as `http://127.0.0.1:40123/v1`; empty until it was started.
    """

    def __init__(self, settings: SimulatorSettings, now: Callable[[], float] | None = None) -> None:
        self.base_url = ""
        self._settings = settings
        self._now = now
        self._service: Service | None = None
        self._runner: web.ServerRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen, and return the base URL.

        Args:
            port: 0 for any free one.

        Raises:
            RunnerError: the port is in use, or cannot be listened on.
        """
        service = Service(self._settings, self._now or asyncio.get_running_loop().time, time.time())
        # Cancelled handlers are how the server learns that a client went away while it waited.
        runner = web.ServerRunner(
            _Server(service, request_factory=_request, handler_cancellation=True, access_log=None),
            shutdown_timeout=0.05,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        except OSError as error:
            await runner.cleanup()
            raise _cannot_listen(host, port, error) from error
        self._service, self._runner = service, runner
        shown = f"[{host}]" if ":" in host else host
        self.base_url = f"http://{shown}:{runner.addresses[0][1]}/v1"
        return self.base_url

    async def stop(self) -> None:
        """Close every connection, also those that wait for an answer."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
            if self._service is not None:
                self._service.close()

    def stats(self) -> dict[str, Any]:
        """What the server saw so far, as `GET /stats` shows it; it can still be asked after `stop`.

        Of batches it tells what was done when somebody last looked at them: `GET /stats` does, this does not.
        """
        if self._service is None:
            raise RuntimeError("the simulator was not started")
        return self._service.last_snapshot()

    async def __aenter__(self) -> Simulator:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def serve(
    settings: SimulatorSettings,
    host: str,
    port: int,
    announce: Callable[[str], None],
    until_stdin_closes: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM. Blocks.

    Args:
        port: 0 for any free one.
        announce: called with the base URL once the server listens.
        until_stdin_closes: also stop when standard input ends, so that the server never outlives the process that
            started it and holds the other end of the pipe, not even when that process is killed.

    Raises:
        RunnerError: the port is in use, or cannot be listened on.
    """

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            # Outside the main thread, and on Windows, signals stay as they are.
            with suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(signum, stop.set)
        simulator = Simulator(settings)
        base_url = await simulator.start(host, port)
        try:
            announce(base_url)
            if until_stdin_closes:
                threading.Thread(target=_await_end_of_stdin, args=(loop, stop), daemon=True).start()
            await stop.wait()
        finally:
            await simulator.stop()

    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())


def _await_end_of_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    with suppress(RuntimeError):  # the loop is closed already
        loop.call_soon_threadsafe(stop.set)


def _cannot_listen(host: str, port: int, error: OSError) -> RunnerError:
    if error.errno == errno.EADDRINUSE:
        return RunnerError(
            f"port {port} on {host} is in use by another program",
            hint="choose another port, or 0 for any free one",
        )
    return RunnerError(
        f"cannot listen on port {port} of {host}: {error.strerror or error}",
        hint="use host 127.0.0.1, and port 0 for any free one",
    )


class _Server(web.Server):
    """Carries out what the service decides."""

    def __init__(self, service: Service, **options: Any) -> None:
        super().__init__(self._handle, **options)
        self._service = service

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        self._service.stats.connections += 1
        super().connection_made(handler, transport)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path == "/stats" and request.method == "GET":
            return web.json_response(await self._service.snapshot())
        if path == "/stats/reset" and request.method == "POST":
            self._service.reset()
            return web.json_response(await self._service.snapshot())
        service = self._service
        service.began()
        answer: Answer | None = None
        try:
            answer = await self._answer(request)
            if answer.delay_s > 0:
                await asyncio.sleep(answer.delay_s)
            if answer.cut is None:
                response = await _send(request, answer)
                service.sent(answer)
                return response
        except (asyncio.CancelledError, ConnectionError):
            service.abandoned(answer)
            raise
        finally:
            service.stats.ended()
        await _send_part(request, answer)
        return web.Response()  # which goes nowhere: aiohttp would report an error at length

    async def _answer(self, request: web.BaseRequest) -> Answer:
        method, path, headers = request.method, request.path, request.headers
        authorization, organization = headers.get("Authorization"), headers.get("OpenAI-Organization")
        if not path.startswith(_KEPT):
            body = await request.read()
            return self._service.answer(method, path, authorization, body, organization)
        return await self._service.keep(
            Incoming(method, path, request.query, authorization, organization, request.read, partial(_form, request))
        )


async def _form(request: web.BaseRequest) -> AsyncIterator[FormPart]:
    """The fields of a multipart form, one after the other.

    Raises:
        ValueError: it is none, or breaks off.
    """
    if not request.content_type.startswith("multipart/"):
        raise ValueError("its content type is not multipart/form-data")
    async for part in await request.multipart():
        if isinstance(part, BodyPartReader):  # a form within the form is nothing that is looked for
            yield FormPart(part.name or "", part.filename, _chunks(part))


async def _chunks(part: BodyPartReader) -> AsyncIterator[bytes]:
    while chunk := await part.read_chunk(_CHUNK):
        yield chunk


async def _send(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    """Write the answer to the connection.

    Raises:
        ConnectionError: the connection is gone.
    """
    if answer.file is not None:
        return await _send_file(request, answer, answer.file)
    response = web.Response(
        status=answer.status, body=answer.content, headers=answer.headers, content_type=answer.content_type
    )
    await response.prepare(request)
    await response.write_eof()
    return response


async def _send_part(request: web.BaseRequest, answer: Answer) -> None:
    """Write as much of the answer as it is meant to get, which may be nothing, and close the connection."""
    if answer.cut:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_type = answer.content_type
        response.content_length = len(answer.content) if answer.file is None else answer.file.size
        await response.prepare(request)
        if answer.file is None:
            await response.write(answer.content[: answer.cut])
        else:
            await _copy(answer.file, answer.cut, response)
    if request.transport is not None:
        request.transport.close()


async def _send_file(request: web.BaseRequest, answer: Answer, stored: StoredFile) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_type = answer.content_type
    response.content_length = stored.size
    await response.prepare(request)
    await _copy(stored, stored.size, response)
    await response.write_eof()
    return response


async def _copy(stored: StoredFile, size: int, response: web.StreamResponse) -> None:
    """Write so many bytes of a file as they are read: it may be larger than memory."""
    with stored.path.open("rb") as file:
        while chunk := file.read(min(size, _CHUNK)):
            size -= len(chunk)
            await response.write(chunk)


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    """As aiohttp makes its requests, but large bodies are welcome."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_LARGEST_BODY)
