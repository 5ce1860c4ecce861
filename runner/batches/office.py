"""What a strategy works with that carries requests out in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runner.batches.collecting import Collector, Kept
from runner.batches.desk import Desk
from runner.batches.reading import RowError
from runner.budget import Amount, Budget
from runner.call import Estimate
from runner.clock import Clock
from runner.stop import Stop
from runner.tally import Tally


class RateLimits(Protocol):
    """How fast live requests may go."""

    @property
    def concurrency(self) -> int | None: ...
    @property
    def requests_per_minute(self) -> float | None: ...
    @property
    def tokens_per_minute(self) -> float | None: ...


@dataclass(frozen=True)
class Errand:
    """What a session is to do about the batches of its run.

    Attributes:
        wait: until all of them have ended; otherwise it submits what there is room for, collects what has ended, and
            leaves.
        cancel: have them cancelled, collect what they finished, and send nothing more.
    """

    wait: bool = True
    cancel: bool = False


WAIT = Errand()


@dataclass(frozen=True)
class Home:
    """The run that batches belong to.

    Attributes:
        about: what the metadata of its batches says.
        kept: where its results are.
        began_us: when its first session began, in microseconds since 1970; deadlines count from there.
        left: how many results it lacks.
        note: says something to the user; `warn` writes it down as well.
    """

    folder: Path
    about: Mapping[str, str]
    kept: Kept
    errand: Errand
    began_us: int
    left: Callable[[], int]
    note: Callable[[str], None]
    warn: Callable[[str], None]


@dataclass(frozen=True)
class Office:
    """The batches of one run, with all that is needed to fill, follow and collect them.

    Attributes:
        row_errors: for each endpoint what the errors in its files mean.
        estimates: what requests need, for each of the job's models.
        bounds: the most that a request whose body has so many bytes takes of the budget, for each model.
        limits: of live requests.
    """

    home: Home
    desk: Desk
    collector: Collector
    row_errors: Mapping[str, RowError]
    estimates: Sequence[Estimate]
    bounds: Sequence[Callable[[int], Amount]]
    budget: Budget | None
    limits: RateLimits
    tally: Tally
    stop: Stop
    clock: Clock
