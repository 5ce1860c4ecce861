"""`python -m runner` and its like as a fork of a process that has imported the package already.

One such process per test process waits for orders. A fork of it becomes the command: with a pid, signals, files, an
environment and an end of its own, but without the second of work that the imports take. What only a start from nothing
shows (options of Python, what is imported when, limits of the kernel) needs `subprocess`: `Project.start(fresh=True)`.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

# In the process that is forked ----------------------------------------------------------------------------------------


def serve(orders: socket.socket) -> None:
    """Answer one order after the other; in a fork, be the command, and return at its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in pkgutil.walk_packages(import_module("runner").__path__, "runner."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):  # what is optional may be missing
                import_module(module.name)
    import_module("uvloop")
    gc.freeze()  # a fork has no need to look through it, and so to copy it
    while message := (received := socket.recv_fds(orders, 1 << 20, 3))[0]:
        order, files = json.loads(message), received[1]
        if "pid" in order:
            pid, status = os.waitpid(order["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            with warnings.catch_warnings(action="ignore"):  # the only other threads are libraries', which know of forks
                answer = os.fork()
            if answer == 0:
                orders.close()
                become(files=files, **order)
                return
            for file in files:
                os.close(file)
        orders.send(json.dumps(answer).encode())


def become(module: str, arguments: list[str], folder: str, environ: dict[str, str], files: list[int]) -> None:
    """Do what `python -m module` does in a process of its own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", 1)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.path[0] = folder
    sys.argv[1:] = arguments
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        gc.freeze()  # Python's last search for garbage would take longer than most commands


# In the process of the tests ------------------------------------------------------------------------------------------


@functools.cache
def _forkable() -> tuple[socket.socket, threading.Lock]:
    """The process to fork, started when first needed; it ends with this one."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, __file__, str(theirs.fileno())]
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours, threading.Lock()


def _ask(order: dict[str, Any], files: list[int]) -> int | None:
    orders, lock = _forkable()
    with lock:
        socket.send_fds(orders, [json.dumps(order).encode()], files)
        answer: int | None = json.loads(orders.recv(100))
        return answer


class Forked:
    """As much of a `subprocess.Popen` with pipes as tests use.

    Args:
        stderr: a file descriptor for it instead of a pipe.
    """

    def __init__(
        self, module: str, arguments: list[str], folder: Path, environ: dict[str, str], stderr: int | None = None
    ) -> None:
        self.args = [module, *arguments]
        self.returncode: int | None = None
        (its_in, own_in), (own_out, its_out), (own_err, its_err) = os.pipe(), os.pipe(), os.pipe()
        self.stdin = os.fdopen(own_in, "w", encoding="utf-8")
        self.stdout = os.fdopen(own_out, encoding="utf-8")
        self.stderr = os.fdopen(own_err, encoding="utf-8")
        order = {"module": module, "arguments": arguments, "folder": str(folder), "environ": environ}
        try:
            self.pid: Any = _ask(order, [its_in, its_out, its_err if stderr is None else stderr])
        finally:
            for file in (its_in, its_out, its_err):
                os.close(file)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask({"pid": self.pid}, [])
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.005)
        return code

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        said = {}
        readers = []
        for file in (self.stdout, self.stderr):
            readers.append(threading.Thread(target=lambda file=file: said.update({file: file.read()}), daemon=True))
            readers[-1].start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        for file in (self.stdin, self.stdout, self.stderr):
            file.close()
        return said[self.stdout], said[self.stderr]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
