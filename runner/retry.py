"""When a failed request is tried again, and how long to wait before: the one owner of retries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from runner.errors import CallError, InvalidReply, TransientError
from runner.records import Result


class RetryPolicy(Protocol):
    """What the job file says under `retry`."""

    max_attempts: int
    invalid_attempts: int
    deadline_s: float


# Full jitter: a wait is drawn between 0 and 1, 2, 4 … 60 seconds, so that rows that failed together spread out.
_backoff = wait_random_exponential(multiplier=0.5, max=60)


class RowRetries:
    """The retries of one row, entered after its first attempt failed.

    Attempts that were told to slow down (429) are bounded by the row's deadline alone: they say nothing about the
    row. Those that found no room at the flex tier are bounded by nothing: the row only waits. An answer that does not
    fit has a count of its own, because each one was paid for.

    Args:
        time_spent_s: what the row has used of its deadline: attempts and backoff, but not waiting for limits or room.
    """

    def __init__(self, policy: RetryPolicy, time_spent_s: Callable[[], float]) -> None:
        self._policy = policy
        self._time_spent_s = time_spent_s
        self._transient = 0
        self._invalid = 0
        self.deadline_passed = False

    def may_retry(self, error: CallError, wait_s: float = 0.0) -> bool:
        """Count a failure and say whether another attempt is allowed after waiting `wait_s`."""
        if error.no_room:
            return True
        if isinstance(error, InvalidReply):
            self._invalid += 1
            if self._invalid >= self._policy.invalid_attempts:
                return False
        elif isinstance(error, TransientError) and not error.rate_limited:
            self._transient += 1
            if self._transient >= self._policy.max_attempts:
                return False
        self.deadline_passed = self._time_spent_s() + wait_s >= self._policy.deadline_s
        return not self.deadline_passed

    async def run(
        self,
        first_failure: CallError,
        attempt: Callable[[], Awaitable[None]],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """Try again until an attempt succeeds; raise the last failure when no more are allowed."""
        pending: CallError | None = first_failure

        async def next_attempt() -> None:
            # tenacity counts the attempt that already failed as its first
            nonlocal pending
            if pending is not None:
                error, pending = pending, None
                raise error
            await attempt()

        retrying = AsyncRetrying(
            retry=retry_if_exception(_is_retryable),
            wait=_wait_s,
            stop=lambda state: not self.may_retry(_failure(state), state.upcoming_sleep),
            sleep=sleep,
            reraise=True,
        )
        await retrying(next_attempt)


def _is_retryable(error: BaseException) -> bool:
    return isinstance(error, TransientError) or (isinstance(error, InvalidReply) and error.retryable)


def _wait_s(state: RetryCallState) -> float:
    """Wait for what the server asked, or the backoff, whichever is longer; an unfit answer needs no wait."""
    error = _failure(state)
    if isinstance(error, InvalidReply):
        return 0.0
    asked = error.retry_after_s if isinstance(error, TransientError) else None
    return max(asked or 0.0, float(_backoff(state)) if asked is None else 0.0)


def _failure(state: RetryCallState) -> CallError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, CallError)
    return error


def fail(result: Result, error: CallError) -> None:
    """Write a failure into a result."""
    result.status = "error"
    result.error_type = error.kind
    result.error = error.message
