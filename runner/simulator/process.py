"""Runs the simulator as a process of its own, which ends with the one that started it."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from runner.errors import RunnerError
from runner.simulator.settings import SimulatorSettings

_START_S = 30.0
_STOP_S = 5.0
# A proxy in the environment is for the world outside.
_OPENER = build_opener(ProxyHandler({}))


class SimulatorProcess:
    """A simulator in a child process: a context manager.

    The child stops when its standard input ends, so it does not outlive this process even when this process is killed.
    It has a session of its own, so that Ctrl-C reaches only this process, which can still finish what is in flight.

    Args:
        settings: how it behaves.
        host: where it listens.
        port: 0 for any free one.

    Attributes:
        base_url: such as `http://127.0.0.1:40123/v1`; empty until it was started.
    """

    def __init__(self, settings: SimulatorSettings, host: str = "127.0.0.1", port: int = 0) -> None:
        self.base_url = ""
        self._settings = settings
        self._host = host
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start the child, and return the base URL once it listens.

        Raises:
            RunnerError: the child died, or did not listen within 30 s.
        """
        command = [sys.executable, "-m", "runner.simulator", "--settings", self._settings.model_dump_json()]
        command += ["--host", self._host, "--port", str(self._port), "--until-stdin-closes"]
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        # A file, not a pipe: nobody reads along, and a full pipe would stop the child.
        with tempfile.TemporaryFile() as complaints:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
            try:
                self.base_url = self._first_line()
            except BaseException:
                self.stop()
                raise
            if not self.base_url:
                self.stop()
                complaints.seek(0)
                said = complaints.read().decode(errors="replace").strip().removeprefix("error: ")
                raise RunnerError(f"the simulator did not start: {said or 'it said nothing'}")
        return self.base_url

    def stats(self) -> dict[str, Any]:
        """What the server saw so far, as `GET /stats` shows it."""
        return self._ask("/stats", "GET")

    def reset_stats(self) -> None:
        """Forget what was seen so far: `POST /stats/reset`."""
        self._ask("/stats/reset", "POST")

    def stop(self) -> None:
        """End the child, and wait for it: kindly first, then by force."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
        try:
            process.wait(_STOP_S)
        except BaseException as error:
            process.kill()
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            if process.stdout is not None:
                process.stdout.close()

    def __enter__(self) -> SimulatorProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _first_line(self) -> str:
        """The line that the child prints when it listens; empty when it died or said nothing in time."""
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(_START_S):
                return ""
        return self._process.stdout.readline().decode().strip()

    def _ask(self, path: str, method: str) -> dict[str, Any]:
        request = Request(self.base_url.removesuffix("/v1") + path, method=method)
        with _OPENER.open(request, timeout=10) as answer:
            value: dict[str, Any] = json.load(answer)
        return value
