"""Remembers, for every distinct request body, how often it came, was faulted and was answered.

About 100 MB for a million bodies: a dict from an 8-byte digest to a tally, and bodies with equal tallies share one.
"""

from __future__ import annotations

from typing import NamedTuple

_SHARED_BELOW = 16


class Tally(NamedTuple):
    """What happened to one body so far."""

    attempts: int = 0
    faults: int = 0
    answers: int = 0


class Bodies:
    """Tallies by body."""

    def __init__(self) -> None:
        self._tallies: dict[int, Tally] = {}
        self._shared: dict[Tally, Tally] = {}
        self.answered_more_than_once = 0
        self.extra_answers = 0

    def __len__(self) -> int:
        return len(self._tallies)

    def tally(self, digest: bytes) -> Tally:
        """What happened to this body before."""
        return self._tallies.get(_key(digest), Tally())

    def attempted(self, digest: bytes, *, faulted: bool) -> None:
        """The body came once more, and met a fault or none."""
        attempts, faults, answers = self.tally(digest)
        self._put(digest, Tally(attempts + 1, faults + faulted, answers))

    def answered(self, digest: bytes) -> None:
        """The body was answered once more."""
        attempts, faults, answers = self.tally(digest)
        self._put(digest, Tally(attempts, faults, answers + 1))
        self.extra_answers += answers > 0
        self.answered_more_than_once += answers == 1

    def _put(self, digest: bytes, tally: Tally) -> None:
        if max(tally) < _SHARED_BELOW:  # a body that is sent for ever would fill the table of shared tallies
            tally = self._shared.setdefault(tally, tally)
        self._tallies[_key(digest)] = tally


def _key(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little")
