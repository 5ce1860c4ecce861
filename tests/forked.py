"""`python -m runner` and its like as a fork of a process that has imported the package already.

One such process per test process waits for orders. A fork of it becomes the command: with a pid, signals, files, an
environment and an end of its own, but without the second of work that the imports take. What it starts in its turn as
`sys.executable`, such as worker processes, is a fork as well, with `stand_in.py` in its place among the processes. What
only a start from nothing shows (options of Python, what is imported when, limits of the kernel) needs `subprocess`:
`Project.start(fresh=True)`.
"""

from __future__ import annotations

import ast
import atexit
import functools
import gc
import os
import pkgutil
import runpy
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

# In the process that is forked ----------------------------------------------------------------------------------------


def serve(door: socket.socket, executable: str) -> None:
    """Fork for each order, and tell whoever gave it the pid and then the exit code, until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in pkgutil.walk_packages(import_module("runner").__path__, "runner."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):  # what is optional may be missing
                import_module(module.name)
    import_module("uvloop")
    import_module("runner.openai_client").trusted()
    sys.executable = executable
    gc.freeze()  # a fork has no need to look through it, and so to copy it
    ended, ending = socket.socketpair()
    ending.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ending.fileno())
    forks: dict[socket.socket, int] = {}  # the pid, by who asked for it; 0: it has ended
    with selectors.DefaultSelector() as waiting:
        for file in (sys.stdin, door, ended):
            waiting.register(file, selectors.EVENT_READ)
        while True:
            for asker in [key.fileobj for key, _ in waiting.select()]:
                if asker is sys.stdin:
                    return
                assert isinstance(asker, socket.socket)
                if asker is door:
                    waiting.register(door.accept()[0], selectors.EVENT_READ)
                elif asker is ended:
                    ended.recv(1000)
                elif asker in forks or not (order := receive(asker)):  # it is gone, and its fork is to go with it
                    if pid := forks.pop(asker, 0):
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
                    waiting.unregister(asker)
                    asker.close()
                else:
                    with warnings.catch_warnings(action="ignore"):  # other threads are libraries', which know of forks
                        pid = os.fork()
                    if pid == 0:
                        signal.set_wakeup_fd(-1)
                        waiting.close()
                        for own in (door, ended, ending, asker, *forks):
                            own.close()
                        become(**order)
                        return
                    for file in order["files"]:
                        os.close(file)
                    forks[asker] = pid
                    tell(asker, pid)
            for asker, pid in forks.items():
                if pid and (found := os.waitpid(pid, os.WNOHANG))[0]:
                    forks[asker] = 0
                    tell(asker, os.waitstatus_to_exitcode(found[1]))


def receive(asker: socket.socket) -> dict[str, Any]:
    """Return an order, with the files it came with; empty: there will be none."""
    text, files = b"", []
    while not text.endswith(b"\n"):
        piece, more, *_ = socket.recv_fds(asker, 1 << 20, 3)
        if not piece:
            return {}
        text += piece
        files += more
    return {**ast.literal_eval(text.decode()), "files": files}


def tell(asker: socket.socket, number: int) -> None:
    """Send a pid or an exit code."""
    with suppress(OSError):  # it is gone, which shows at the next turn
        asker.send(number.to_bytes(4, "little", signed=True))


def become(command: list[str], folder: str, environ: dict[str, str], files: list[int]) -> None:
    """Do what `python` does with this command line in a process of its own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", 1)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.path[0] = folder
    try:
        run(*command)
    except SystemExit as end:
        leave(end.code)
    else:
        leave(0)
    finally:
        gc.freeze()  # Python's last search for garbage would take longer than most commands


def run(option: str, what: str, *arguments: str) -> None:
    """Run a module or a program, in the forms in which they are started."""
    if option == "-P":
        del sys.path[0]
        run(what, *arguments)
    elif option == "-m":
        sys.argv[1:] = arguments
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        assert option == "-c"
        sys.argv[:] = ["-c", *arguments]
        sys.modules["__main__"] = ModuleType("__main__")
        exec(what, vars(sys.modules["__main__"]))


def leave(code: str | int | None) -> None:
    """End as Python does, but leave the memory as it is: to take it apart would be to copy it all."""
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


# In the process of the tests ------------------------------------------------------------------------------------------


@functools.cache
def stand_in() -> str:
    """A program that is to Python as a fork is to a start from nothing.

    With the first call, the process to fork is started; it ends with this one.
    """
    folder = Path(tempfile.mkdtemp(prefix="runner-forks-"))
    program, orders = folder / "python", folder / "orders"
    words = [sys.executable, "-IS", str(Path(__file__).with_name("stand_in.py")), str(orders)]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    program.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(orders))
        door.listen(128)
        server = subprocess.Popen(
            [sys.executable, __file__, str(door.fileno()), str(program)],
            pass_fds=[door.fileno()], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.communicate)
    return str(program)


@contextmanager
def forking() -> Iterator[None]:
    """What this process starts as `sys.executable` meanwhile is a fork."""
    with patch.object(sys, "executable", stand_in()):
        yield


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
        order = {"command": ["-m", module, *arguments], "folder": str(folder), "environ": environ}
        self._fork = socket.socket(socket.AF_UNIX)
        try:
            self._fork.connect(str(Path(stand_in()).with_name("orders")))
            files = [its_in, its_out, its_err if stderr is None else stderr]
            socket.send_fds(self._fork, [ascii(order).encode() + b"\n"], files)
            self.pid: Any = self._number()
        finally:
            for file in (its_in, its_out, its_err):
                os.close(file)

    def _number(self) -> int:
        number = self._fork.recv(4)
        assert number, "the process that is forked is gone"
        return int.from_bytes(number, "little", signed=True)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        if self.returncode is None:
            self._fork.settimeout(timeout)
            try:
                self.returncode = self._number()
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired(self.args, timeout) from None
            self._fork.close()
        return self.returncode

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
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
