"""Sees to it that a run may have as many files open as it needs: to the system, a connection is a file."""

from __future__ import annotations

import resource

from runner.errors import SpecError

_OTHERS = 96  # journals (at most 32), the input, libraries, pipes


def allow(connections: int, where: str) -> None:
    """Raise this process's soft limit on open files as far as a run needs it; its children inherit that.

    Args:
        connections: how many requests may be in flight.
        where: the job file, for the message.

    Raises:
        SpecError: the hard limit is too low.
    """
    needed = connections + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (ValueError, OSError):  # above the hard limit; or there is none, and the system does not go so far
        allowed = soft if hard == resource.RLIM_INFINITY else hard
        raise SpecError(
            f"`limits.concurrency` is {connections:,}, and this process may have only {allowed:,} files open, "
            "connections included",
            where=where,
            hint=f"set it to {max(1, allowed - _OTHERS):,} or less, or raise the limit: `ulimit -n {needed}` (as root)",
        ) from None
