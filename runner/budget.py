"""Holds a run within its budget: the most that a request may cost is set aside before the request is sent.

So the cap is never exceeded, whatever is in flight. A request that does not fit waits for what is set aside for others,
most of which comes back; when nothing is, the budget is spent, and the run ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from runner.clock import Clock
from runner.errors import FatalError

_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Amount:
    """What requests take: money and tokens (input and output)."""

    usd: float = 0.0
    tokens: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.usd + other.usd, self.tokens + other.tokens)

    def or_more(self, other: Amount) -> Amount:
        """Return the larger of each."""
        return Amount(max(self.usd, other.usd), max(self.tokens, other.tokens))

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.usd - other.usd, self.tokens - other.tokens)


NOTHING = Amount()


class Caps(Protocol):
    """What the job file says under `budget`; None: no cap."""

    max_usd: float | None
    max_tokens: int | None
    daily_usd: float | None


class Budget:
    """The money and tokens of one run. Belongs to one event loop.

    Args:
        spent: what the run has taken so far.
        spent_today_usd: what the job has cost since midnight (UTC), in all its runs.
        waiting: entered around every wait, so that a stopping run can end it.
        note: told the most that will be taken from here on until it is told more; a killed run's rows do not tell all.

    Attributes:
        spent: what the run has taken by now; answers that were never kept, because the run stopped, are part of it.
    """

    def __init__(
        self,
        caps: Caps,
        clock: Clock,
        spent: Amount = NOTHING,
        spent_today_usd: float = 0.0,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
        note: Callable[[Amount], None] = lambda most: None,
    ) -> None:
        self._caps = caps
        self._clock = clock
        self.spent = self._before = spent
        self._today_usd = spent_today_usd
        self._day = self._date()
        self._waiting = waiting
        self._note = note
        self._noted = NOTHING
        self._reserved = NOTHING
        self._committed = NOTHING
        self._holders = 0
        self._settled = asyncio.Event()

    @property
    def spent_now(self) -> Amount:
        """What was taken since this budget was opened, and what is set aside: a thread may have been left behind."""
        return self.spent + self._reserved - self._before

    async def reserve(self, most: Amount) -> None:
        """Set aside what a request may take at most; waits while others hold what it needs.

        Raises:
            FatalError: the budget does not allow it, and nobody holds anything that could come back.
        """
        while (exceeded := self._exceeded_by(most)) is not None:
            if self.idle:
                raise _refusal(*exceeded)
            self._settled.clear()
            with self._waiting():
                await self._settled.wait()
        self._reserved += most
        self._holders += 1
        self._note_ahead()

    def _note_ahead(self) -> None:
        taken = self.spent_now
        if taken.or_more(self._noted) != self._noted:
            self._noted = taken + Amount(self._reserved.usd / 2, self._reserved.tokens // 2)  # not for every request
            self._note(self._noted)

    def settle(self, most: Amount, spent: Amount) -> None:
        """Give back what was set aside, but for what was spent of it."""
        self._holders -= 1
        self._reserved = self._reserved - most if self._holders else NOTHING  # no rest of rounding
        self._spend(spent)

    def _spend(self, spent: Amount) -> None:
        self.spent += spent
        self._turn_day()
        self._today_usd += spent.usd
        self._settled.set()

    def commit(self, most: Amount) -> FatalError | None:
        """Set aside what a request may take that waits in a batch, for hours and longer than this session.

        The batch's own record says so; so it is not part of what this session has taken until it is redeemed.

        Returns:
            What to say where the budget does not allow it just now; None: it is set aside.
        """
        if (exceeded := self._exceeded_by(most)) is not None:
            return _refusal(*exceeded)
        self._committed += most
        return None

    def adopt(self, most: Amount) -> None:
        """Set aside what a batch of an earlier session may take."""
        self._committed += most

    def redeem(self, most: Amount, spent: Amount) -> None:
        """Give back what was set aside for a batch, but for what was spent of it."""
        self._committed -= most
        self._spend(spent)
        self._note_ahead()

    @property
    def idle(self) -> bool:
        """Whether nothing is set aside that could come back."""
        return not self._holders and self._committed.usd <= 1e-12 and self._committed.tokens <= 0

    def _exceeded_by(self, most: Amount) -> tuple[str, str] | None:
        """Return the key of the cap that would be exceeded, and what to say of it; None: there is room."""
        caps, taken = self._caps, self.spent + self._reserved + self._committed + most
        self._turn_day()
        if caps.max_usd is not None and taken.usd > caps.max_usd:
            spent = f"${self.spent.usd:,.4f} spent"
            return "max_usd", f"the budget of ${caps.max_usd:,g} is reached: {spent}, and {_next(most)}"
        if caps.max_tokens is not None and taken.tokens > caps.max_tokens:
            return "max_tokens", (
                f"the budget of {caps.max_tokens:,} tokens is reached: {self.spent.tokens:,} used, "
                f"and the next request may take {most.tokens:,}"
            )
        today_usd = self._today_usd + self._reserved.usd + self._committed.usd + most.usd
        if caps.daily_usd is not None and today_usd > caps.daily_usd:
            return "daily_usd", (
                f"the budget of ${caps.daily_usd:,g} a day is reached: this job has spent ${self._today_usd:,.4f} "
                f"since midnight (UTC), and {_next(most)}"
            )
        return None

    def _turn_day(self) -> None:
        if self._date() != self._day:
            self._day, self._today_usd = self._date(), 0.0

    def _date(self) -> int:
        return self._clock.now_us() // _DAY_US


def _refusal(key: str, said: str) -> FatalError:
    return FatalError(said, kind="budget", hint=f"raise it to go on: `runner resume --set budget.{key}=VALUE`")


def midnight_us(clock: Clock) -> int:
    """Return when the day began (UTC), in microseconds since 1970."""
    return clock.now_us() // _DAY_US * _DAY_US


def _next(most: Amount) -> str:
    return f"the next request may cost ${most.usd:,.4f}"
