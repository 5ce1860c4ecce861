"""Every error the runner raises on purpose, and the exit code each one ends in.

RunnerError                    exit code
├── SpecError                  2   the job file, a config file or an option is wrong
├── InputError                 2   the dataset cannot be read as the job says
├── LockedError                5   another run of this job is going on
├── FatalError                 4   the run cannot go on; what is done is kept, and it can be resumed
└── CallError                      one request failed: it becomes a row, never an exit
    ├── TransientError             worth another attempt (carries `retry_after_s`)
    ├── PermanentError             the same request would fail again
    ├── InvalidReply               answered, and paid for, but not what was asked
    └── DeadlineExceeded           the row's time is up

Anything else that escapes is a bug: exit code 1.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """What the process tells its caller; the meaning of each code never changes."""

    OK = 0
    BUG = 1
    USAGE = 2
    SOME_FAILED = 3
    STOPPED = 4
    LOCKED = 5
    INTERRUPTED = 130


class RunnerError(Exception):
    """Base of all errors that end in one clear message.

    Args:
        message: what is wrong.
        where: the place, as ``file:line:column`` or a path; shown on a line of its own.
        hint: what to try.
    """

    exit_code = Exit.USAGE

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return _revived, (type(self), self.args, self.__dict__)  # worker processes send errors to their run

    def __str__(self) -> str:
        lines = [self.message]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


def _revived(kind: type[RunnerError], args: tuple[object, ...], state: dict[str, Any]) -> RunnerError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class SpecError(RunnerError):
    """The job file, a file in ``configs/``, or a command-line option is wrong."""


class InputError(RunnerError):
    """The dataset is missing, or cannot be read as the job file says."""


class LockedError(RunnerError):
    """Another run holds the job's folder."""

    exit_code = Exit.LOCKED


class FatalError(RunnerError):
    """The run cannot go on. What is done is kept; the run can be resumed.

    Args:
        kind: a short machine-readable word, such as ``insufficient_quota`` or ``disk``.
    """

    exit_code = Exit.STOPPED

    def __init__(self, message: str, *, kind: str, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, where=where, hint=hint)
        self.kind = kind


NO_CAPACITY = "no_capacity"
"""The kind of a 429 that says nothing of limits: the service tier that was asked for is full."""


class CallError(RunnerError):
    """One request failed.

    Args:
        kind: a short machine-readable word; it becomes the row's ``_error_type``.

    Attributes:
        no_room: the request can but wait, because it asked for flex, which is full; this is no failure of the row.
    """

    no_room = False

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class TransientError(CallError):
    """The request may succeed if it is sent again.

    Args:
        retry_after_s: how long the server asked us to wait, in seconds; None when it did not say.
        rate_limited: the server answered 429: it asks everyone who uses this key to slow down.
        perhaps_paid: the request may have been carried out although no answer came.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        retry_after_s: float | None = None,
        rate_limited: bool = False,
        perhaps_paid: bool = False,
    ) -> None:
        super().__init__(message, kind=kind)
        self.perhaps_paid = perhaps_paid
        self.retry_after_s = retry_after_s
        self.rate_limited = rate_limited


class PermanentError(CallError):
    """The server would refuse the same request again."""


class InvalidReply(CallError):  # noqa: N818 - a word of the design
    """The server answered, but not with what was asked for.

    Args:
        retryable: another sample may be valid (False for a refusal or a reply cut off by its length limit).
    """

    def __init__(self, message: str, *, kind: str = "invalid_reply", retryable: bool = True) -> None:
        super().__init__(message, kind=kind)
        self.retryable = retryable


class DeadlineExceeded(CallError):  # noqa: N818 - a word of the design
    """The row used up `retry.deadline_s`."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="deadline")
