"""One request's life: wait for the limits, send, understand, check, try again. It ends as a `Result`, always."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Protocol

from runner.accounting import account
from runner.answer import Answer, accept
from runner.budget import NOTHING, Amount
from runner.client import Client
from runner.clock import Clock
from runner.dialects import Dialect, understand
from runner.errors import (
    NO_CAPACITY,
    CallError,
    DeadlineExceeded,
    FatalError,
    InvalidReply,
    PermanentError,
    RunnerError,
    TransientError,
)
from runner.flex import Flex
from runner.gate import Need
from runner.prices import Tariff
from runner.records import Completion, Request, Result, Usage
from runner.retry import RetryPolicy, RowRetries, fail
from runner.tally import Tally


class CallPolicy(RetryPolicy, Protocol):
    """`retry` of the job file, with the time one attempt may take."""

    timeout_s: float


class Permits(Protocol):
    """Where a call asks whether it may send, and where to: the run's `Gate`, or something that asks it."""

    async def acquire(self, need: Need) -> int:
        """Wait until a request may be sent; return the number of the endpoint that it goes to."""

    def release(self, endpoint: int, need: Need, spent: Amount, *, failed: bool) -> None:
        """Say how an attempt ended."""

    def pause(self, endpoint: int, seconds: float) -> None:
        """Let nobody start a request to an endpoint for so long."""

    async def leave(self, endpoint: int, error: FatalError) -> None:
        """Say that an endpoint can take no more requests; raises `error` when no other is left."""


@dataclass(frozen=True)
class Destination:
    """An endpoint that requests can go to."""

    name: str
    client: Client


class Interrupter(Protocol):
    """Where a call asks for the end of the run, and waits no longer than the run goes on: `Stop`, or its like."""

    def request(self, reason: RunnerError | None = None) -> None:
        """Stop the run."""

    async def sleep(self, seconds: float) -> None:
        """Wait; raises CancelledError when the run stops."""


class Call:
    """Carries out requests. Shared by all workers of an event loop, or by threads.

    Args:
        destinations: the endpoints, in the order in which `permits` numbers them.
        tariffs: for each of the job's models.
        estimates: what requests count against the limits, for each of the job's models; shared by all calls of a run,
            because they learn.
        flex: how the flex tier is found, where the requests ask for it.
    """

    def __init__(
        self,
        destinations: Sequence[Destination],
        permits: Permits,
        dialect: Dialect,
        answer: Answer,
        tariffs: Sequence[Tariff],
        policy: CallPolicy,
        stop: Interrupter,
        tally: Tally,
        clock: Clock,
        *,
        estimates: Sequence[Estimate],
        flex: Flex | None = None,
    ) -> None:
        self._destinations = destinations
        self._permits = permits
        self._dialect = dialect
        self._answer = answer
        self._tariffs = tariffs
        self._policy = policy
        self._stop = stop
        self._tally = tally
        self._clock = clock
        self._estimates = estimates
        self._timeout_s = min(policy.timeout_s, policy.deadline_s)
        self._flex = flex
        self._at_standard = self
        if flex is not None:
            self._at_standard = copy(self)  # the same in everything else
            self._at_standard._flex = None

    async def __call__(self, request: Request) -> Result:
        """Return the outcome of `request`.

        Raises:
            CancelledError: the run is stopping and the row has no outcome; it is sent again on resume.
        """
        clock = self._clock
        result = Result(request.item, queued_at=clock.now_us(), fingerprint=request.fingerprint)
        began = clock.steady_s()
        try:
            await self._attempt(request, result, self._timeout_s)
        except (TransientError, InvalidReply) as error:
            await self._retry(request, result, error)
        except PermanentError as error:
            fail(result, error)
        except FatalError as error:
            self._stop.request(error)
            raise asyncio.CancelledError from error
        result.finished_at = clock.now_us()
        result.total_s = clock.steady_s() - began
        return result

    async def _retry(self, request: Request, result: Result, first: CallError) -> None:
        call, last = self, first
        spent_s = room_s = 0.0

        def spend(seconds: float) -> None:
            """Count time: as waiting for room where there was none, else against the row's deadline."""
            nonlocal spent_s, room_s
            if last.no_room:
                room_s += seconds
            else:
                spent_s += seconds

        async def attempt() -> None:
            nonlocal last
            remaining_s = self._policy.deadline_s - spent_s
            try:
                await call._attempt(request, result, min(self._timeout_s, remaining_s))
            except CallError as error:
                last = error
                raise
            finally:
                spend(result.latency_s or 0.0)

        async def sleep(seconds: float) -> None:
            nonlocal call, request
            began = self._clock.steady_s()
            if self._flex is not None and last.no_room:
                left_s = self._flex.left_s(room_s, began)
                if left_s <= seconds:
                    seconds = max(0.0, left_s)
                    call, request = self._at_standard, self._flex.at_standard(request)
            self._tally.backs_off(1, no_room=last.no_room)
            try:
                await self._stop.sleep(seconds)
            finally:
                self._tally.backs_off(-1, no_room=last.no_room)
                waited = self._clock.steady_s() - began
                result.backoff_s += waited
                spend(waited)

        spend(result.latency_s or 0.0)

        retries = RowRetries(self._policy, lambda: spent_s)
        try:
            await retries.run(first, attempt, sleep)
        except FatalError as error:
            self._stop.request(error)
            raise asyncio.CancelledError from error
        except CallError as error:
            if retries.deadline_passed:
                error = DeadlineExceeded(
                    f"not answered within {self._policy.deadline_s:g} s ({result.attempts} attempts); "
                    f"last failure: {error.message}"
                )
            fail(result, error)

    async def _attempt(self, request: Request, result: Result, timeout_s: float) -> None:
        """Make one HTTP exchange, or more where endpoints leave; on success the result holds the answer."""
        need = self._estimates[request.item.model].need(request)
        while True:
            endpoint = await self._acquire(need, result)
            try:
                completion = await self._exchange(request, result, endpoint, need, timeout_s)
                break
            except FatalError as error:
                await self._permits.leave(endpoint, error)
        if self._flex is not None:
            self._flex.answered(self._clock.steady_s() - (result.latency_s or 0.0))
        result.answer = accept(self._answer, completion)
        result.status = "ok"

    async def _acquire(self, need: Need, result: Result) -> int:
        clock, tally = self._clock, self._tally
        asked = clock.steady_s()
        tally.asks()
        try:
            return await self._permits.acquire(need)
        finally:
            tally.asked()
            result.throttle_s += clock.steady_s() - asked

    async def _exchange(
        self, request: Request, result: Result, endpoint: int, need: Need, timeout_s: float
    ) -> Completion:
        """Send the request and account for the answer."""
        clock, tally = self._clock, self._tally
        destination = self._destinations[endpoint]
        started = clock.steady_s()
        if result.started_at is None:
            result.started_at = clock.now_us()
        result.attempts += 1
        result.endpoint = destination.name
        result.raw = result.finish_reason = None
        failed = rate_limited = False
        spent = need.most  # until more is known
        tally.sends()
        try:
            try:
                reply = await destination.client.send(request.body, timeout_s)
            finally:
                result.latency_s = clock.steady_s() - started
            result.request_id = reply.request_id
            result.server_ms = reply.server_ms
            completion = understand(self._dialect, reply)
            spent = self._account(request, result, completion, need)
            return completion
        except TransientError as error:
            failed, rate_limited = True, error.rate_limited
            if not error.perhaps_paid:
                spent = NOTHING
            self._heed(error, endpoint)
            raise
        except (PermanentError, FatalError):
            spent = NOTHING
            raise
        finally:
            tally.sent(result.latency_s or 0.0, rate_limited=rate_limited)
            self._permits.release(endpoint, need, spent, failed=failed)

    def _heed(self, error: TransientError, endpoint: int) -> None:
        """Do for all workers what the server asked of one.

        Raises:
            FatalError: it asks for a longer wait than a row may take; the row did not fail, and is sent elsewhere or
                in the next session.
        """
        flex, several = self._flex, len(self._destinations) > 1
        asked_s = error.retry_after_s
        if flex is not None and error.kind == NO_CAPACITY:
            error.no_room = True
            flex.refused(self._clock.steady_s())
            if flex.falls_back:  # what goes to the standard tier has no reason to wait
                error.retry_after_s = None if several else asked_s
                return
        if asked_s is None:
            return
        if asked_s > self._policy.deadline_s and not error.no_room:
            raise FatalError(
                f"the server asks to wait {asked_s:.0f} s, longer than a row may take: {error.message}",
                kind="server_pause",
                hint="resume the run after that time, or raise `retry.deadline_s`",
            ) from error
        if several:
            self._permits.pause(endpoint, asked_s)
            error.retry_after_s = 0.0  # another endpoint may have room
        elif error.rate_limited:
            self._permits.pause(endpoint, asked_s)

    def _account(self, request: Request, result: Result, completion: Completion, need: Need) -> Amount:
        """Take over what was said and what it cost, whether or not it is what was asked for; return what it took."""
        usage, model = completion.usage, request.item.model
        cost_usd = account(result, completion, self._tariffs[model], completion.service_tier)
        self._estimates[model].learn(request.input_tokens, usage)
        if usage.input is None or usage.output is None:
            return need.most
        return Amount(need.most.usd if cost_usd is None else cost_usd, usage.input + usage.output)


class Estimate:
    """What the requests of one model need: a guess for the token limit that learns from usage, and a bound for budgets.

    Both guesses are averages that forget: over all replies at first, then over about the last hundred. Threads that
    learn at the same moment may lose one reply's worth of it, no more.

    Args:
        max_output_tokens: the longest answer asked for; the server reserves it, so the token limit does too.
        most: what a request with so many input and output tokens may take at most; None: there is no budget.
    """

    def __init__(self, max_output_tokens: int | None, most: Callable[[int, int], Amount] | None = None) -> None:
        self._max_output_tokens = max_output_tokens
        self._most = most
        self._weight = 1.0
        self._input_factor = 1.0
        self._output_tokens = 0.0

    def need(self, request: Request) -> Need:
        """Return what to reserve: tokens of input, and of the longest answer allowed or the usual one.

        A byte of the body makes at most one token, because tokens are made of bytes.
        """
        tokens = self.tokens(request.input_tokens)
        if self._most is None:
            return Need(tokens)
        return Need(tokens, self._most(len(request.body), self._max_output_tokens or 0))

    def tokens(self, guess: int) -> int:
        """Return what the token limit takes for a request whose input is thought to be `guess` tokens."""
        output = self._output_tokens if self._max_output_tokens is None else self._max_output_tokens
        return int(guess * self._input_factor + output) + 1

    def input_tokens(self, guess: int) -> int:
        """Return how many tokens an input will be, for which `guess` was a first estimate."""
        return int(guess * self._input_factor) + 1

    def learn(self, guess: int, usage: Usage) -> None:
        """Take in what a reply used whose input was thought to be `guess` tokens."""
        if usage.input is None or usage.output is None:
            return
        self._input_factor += self._weight * (usage.input / guess - self._input_factor)
        self._output_tokens += self._weight * (usage.output - self._output_tokens)
        self._weight = max(0.01, self._weight / (1 + self._weight))
