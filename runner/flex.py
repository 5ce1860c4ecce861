"""The flex tier, as a run finds it: how long it has had no room, and what becomes of a row that waited long enough.

Where there is no room the server says so at once, and charges nothing (429 `resource_unavailable`). So a row waits as
it does for a limit: that is no failure, and takes nothing of what the row may try.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from runner.records import Request


class Flex:
    """The flex tier. Shared by all calls of an event loop, or by threads.

    Threads that note something at the same moment may overwrite each other: a row then waits a little longer or less.

    Args:
        patience_s: how long a row waits for room before it is sent at the standard tier; None: as long as it takes.
        at_standard: makes the request for the standard tier out of one for flex.
    """

    def __init__(self, patience_s: float | None, at_standard: Callable[[Request], Request]) -> None:
        self._patience_s = math.inf if patience_s is None else patience_s
        self._full_since_s: float | None = None
        self.at_standard = at_standard

    @property
    def falls_back(self) -> bool:
        """Whether a row is sent at the standard tier after a while."""
        return self._patience_s < math.inf

    def refused(self, now_s: float) -> None:
        """There was no room for a request."""
        if self._full_since_s is None:
            self._full_since_s = now_s

    def answered(self, sent_s: float) -> None:
        """There was room for a request; one that was sent before the tier was full tells nothing."""
        if self._full_since_s is not None and sent_s > self._full_since_s:
            self._full_since_s = None

    def left_s(self, waited_s: float, now_s: float) -> float:
        """Return how much longer a row waits for room, in seconds; 0 or less: it waits no longer.

        Where nobody has found room for that long, rows that come now need not wait all over again.

        Args:
            waited_s: how long this row has waited.
        """
        full_s = 0.0 if self._full_since_s is None else now_s - self._full_since_s
        return self._patience_s - max(waited_s, full_s)
