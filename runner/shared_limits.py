"""The limits of an endpoint, shared by all processes of this machine that send to it: a few numbers in a small file.

Each process looks there before it sends, under a lock that the kernel drops with its holder; so nobody has to run for
the others, and a process that is killed takes nothing with it.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import struct
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_NUMBERS = struct.Struct("=5d")  # level and time of the requests' bucket, of the tokens', and the end of a pause
_REQUESTS, _TOKENS, _PAUSE = 0, 2, 4
_DAY_S = 86_400


class SharedLimits:
    """What the processes at one endpoint share. Use it from one event loop.

    Args:
        path: the file; made when it is not there. What it held before the machine was started anew is forgotten.
        now: seconds on a clock that all of them see alike.

    Raises:
        OSError: the file cannot be made, or its file system knows no locks.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with self._locked():
                if os.fstat(self._file).st_size < _NUMBERS.size:
                    os.ftruncate(self._file, _NUMBERS.size)
            self._numbers = memoryview(mmap.mmap(self._file, _NUMBERS.size)).cast("d")
        except OSError:
            os.close(self._file)
            raise
        weakref.finalize(self, os.close, self._file)
        self._now = now

    def requests(self, capacity: float, rate: float) -> SharedBucket:
        """Return the bucket of requests.

        Args:
            capacity: how many may go at once.
            rate: how many a second after that.
        """
        return SharedBucket(self, _REQUESTS, capacity, rate)

    def tokens(self, capacity: float, rate: float) -> SharedBucket:
        """Return the bucket of tokens; as `requests`."""
        return SharedBucket(self, _TOKENS, capacity, rate)

    def pause(self, seconds: float) -> None:
        """Let no process start a request for so long; a longer pause that is on already stays."""
        with self._locked():
            self._numbers[_PAUSE] = max(self.paused_until(), self._now() + seconds)

    def paused_until(self) -> float:
        """Return when the pause that is on ends; nobody asks for one of more than a day."""
        until = self._numbers[_PAUSE]
        return until if until <= self._now() + _DAY_S else 0.0  # from before the machine was started anew

    def paused_s(self) -> float:
        """Return how long the pause that is on still lasts, in seconds."""
        return max(0.0, self.paused_until() - self._now())

    def missing_s(self, place: int, amount: float, capacity: float, rate: float) -> float:
        """Return how many seconds it takes until a leaky bucket has room."""
        return max(0.0, self._level(place, capacity, rate) + amount - capacity) / rate

    def book(self, place: int, amount: float, capacity: float, rate: float) -> float:
        """Take the next room that a leaky bucket will have; return in how many seconds that is.

        So processes get their turns in the order in which they ask.
        """
        with self._locked():
            self._numbers[place] = self._level(place, capacity, rate) + amount
            self._numbers[place + 1] = self._now()
            return max(0.0, self._numbers[place] - capacity) / rate

    def _level(self, place: int, capacity: float, rate: float) -> float:
        now, level, at = self._now(), self._numbers[place], self._numbers[place + 1]
        if at > now:  # from before the machine was started anew
            return min(level, capacity)
        if not level <= capacity + _DAY_S * rate:  # nobody waits for so long: the file is damaged
            return capacity
        return max(0.0, level - (now - at) * rate)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


class SharedBucket:
    """A leaky bucket that several processes fill; for its users as `aiolimiter.AsyncLimiter`.

    Attributes:
        max_rate: how much may go at once.
    """

    def __init__(self, limits: SharedLimits, place: int, capacity: float, rate: float) -> None:
        self.max_rate = capacity
        self._limits = limits
        self._place = place
        self._rate = rate
        self._in_order = asyncio.Lock()  # of this process one at a time waits for room

    def has_capacity(self, amount: float = 1) -> bool:
        """Whether so much may go now."""
        return self._limits.missing_s(self._place, amount, self.max_rate, self._rate) <= 0

    async def acquire(self, amount: float = 1) -> None:
        """Wait until so much may go. A wait that is cancelled leaves its room unused."""
        async with self._in_order:
            wait_s = self._limits.book(self._place, amount, self.max_rate, self._rate)
            if wait_s > 0:
                await asyncio.sleep(wait_s)
