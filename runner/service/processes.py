"""Each task in a process of its own: what one does to memory, or dies of, is no matter of the service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from runner.notify.watch import LOG_VARIABLE
from runner.service.book import Task
from runner.service.work import LOG, home_of


class Process(Protocol):
    """A task that is being carried out."""

    def poll(self) -> int | None:
        """Return its exit code, negative for the signal that ended it; None while it works."""

    def stop(self) -> None:
        """Let what is in flight finish, then end."""

    def kill(self) -> None:
        """End it at once."""


class Launcher(Protocol):
    """Begins to carry out tasks."""

    def __call__(self, task: Task) -> Process:
        """Begin one.

        Raises:
            OSError: it cannot be begun.
        """


class OwnProcesses:
    """Carries tasks out by `runner work`.

    A process holds the reading end of a pipe as its stdin, and the service the other: when that closes, on purpose or
    because the service was killed, the run finishes what is in flight and ends.
    """

    def __init__(self, outputs: Path) -> None:
        self._outputs = outputs.resolve()

    def __call__(self, task: Task) -> Process:
        log = home_of(self._outputs, task.id) / LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        # -P: the project's folder may hold a folder `runner` of its own
        command = [sys.executable, "-P", "-m", "runner", "work", str(task.id), "--output", str(self._outputs)]
        with open(log, "ab") as out:
            return _OwnProcess(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=out,
                    cwd=task.root,
                    env={**os.environ, LOG_VARIABLE: str(log)},
                    start_new_session=True,  # Ctrl-C in the service's terminal is the service's business
                )
            )


class _OwnProcess:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        code = self._process.poll()
        if code is not None:
            self.stop()
        return code

    def stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self) -> None:
        self._process.kill()
