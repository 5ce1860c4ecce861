"""Says what state a batch is in, from the clock alone: nothing runs between two looks at it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(slots=True)
class Life:
    """When a batch does what. Times are in seconds since 1970.

    Attributes:
        duration_s: how long all requests take; `inf`: none is ever done.
        failed: it was validated, and is not carried out.
        cancelling_at: when it was cancelled, or None.
    """

    created_at: float
    validating_s: float
    duration_s: float
    finalizing_s: float
    cancelling_s: float
    window_s: float
    failed: bool = False
    cancelling_at: float | None = None

    @property
    def in_progress_at(self) -> float:
        """When it is validated."""
        return self.created_at + self.validating_s

    @property
    def expires_at(self) -> float:
        """When it expires, if it has not finished."""
        return self.created_at + self.window_s

    @property
    def ends_at(self) -> float:
        """When it reaches its last state."""
        if self.cancelling_at is not None:
            return self.cancelling_at + self.cancelling_s
        if self.failed:
            return self.in_progress_at
        return self._expired_at if self._expires else self._finalizing_at + self.finalizing_s

    @property
    def _finalizing_at(self) -> float:
        return self.in_progress_at + self.duration_s

    @property
    def _expires(self) -> bool:
        return self._finalizing_at > self._expired_at

    @property
    def _expired_at(self) -> float:
        return max(self.expires_at, self.in_progress_at)

    def status(self, now: float) -> str:
        """The state as the API calls it."""
        if self.cancelling_at is not None:
            return "cancelled" if now >= self.ends_at else "cancelling"
        if now < self.in_progress_at:
            return "validating"
        if self.failed:
            return "failed"
        if now >= self.ends_at:
            return "expired" if self._expires else "completed"
        return "in_progress" if now < self._finalizing_at else "finalizing"

    def share_done(self, now: float) -> float:
        """The share of the requests that is carried out, from 0 to 1."""
        stop = min(now, inf if self.cancelling_at is None else self.cancelling_at)
        if self._expires:
            stop = min(stop, self._expired_at)
        if self.failed or stop < self.in_progress_at:
            return 0.0
        return 1.0 if stop >= self._finalizing_at else (stop - self.in_progress_at) / self.duration_s

    def timestamps(self, now: float) -> dict[str, int | None]:
        """The times that the API shows, in whole seconds; None for what has not happened."""
        last = self.status(now)
        cancelled = self.cancelling_at is not None
        stop = now if self.cancelling_at is None else self.cancelling_at
        began = not self.failed and stop >= self.in_progress_at
        finalizing = began and not self._expires and stop >= self._finalizing_at
        return {
            "created_at": int(self.created_at),
            "in_progress_at": int(self.in_progress_at) if began else None,
            "expires_at": int(self.created_at) + int(self.window_s),
            "finalizing_at": int(self._finalizing_at) if finalizing else None,
            "completed_at": int(self.ends_at) if last == "completed" else None,
            "failed_at": int(self.ends_at) if last == "failed" else None,
            "expired_at": int(self.ends_at) if last == "expired" else None,
            "cancelling_at": int(self.cancelling_at or 0) if cancelled else None,
            "cancelled_at": int(self.ends_at) if last == "cancelled" else None,
        }
