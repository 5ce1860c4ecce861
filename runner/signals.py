"""The signals that ask a process to end, and who takes them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def endings() -> list[signal.Signals]:
    """Return the signals that ask for an end: Ctrl-C, `kill`, and a terminal that closes, unless `nohup` bears that."""
    wanted = [signal.SIGINT, signal.SIGTERM]
    return wanted if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [*wanted, signal.SIGHUP]


@contextmanager
def at_an_ending(do: Callable[[], None]) -> Iterator[None]:
    """Do something whenever such a signal comes; nothing in a thread that is not the main one, which gets none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def take(number: int, frame: FrameType | None) -> None:
        do()

    before = {number: signal.signal(number, take) for number in endings()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
