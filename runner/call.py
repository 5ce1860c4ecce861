"""One request's life: wait for the limits, send, understand, check, try again. It ends as a `Result`, always."""

from __future__ import annotations

import asyncio
from typing import Protocol, TypeVar

from runner.answer import Answer, accept
from runner.client import Client
from runner.clock import Clock
from runner.dialects import Dialect, understand
from runner.errors import (
    CallError,
    DeadlineExceeded,
    FatalError,
    InvalidReply,
    PermanentError,
    RunnerError,
    TransientError,
)
from runner.prices import Tariff
from runner.records import Completion, Request, Result, Usage
from runner.retry import RetryPolicy, RowRetries, fail
from runner.tally import Tally

T = TypeVar("T", int, float)


class CallPolicy(RetryPolicy, Protocol):
    """`retry` of the job file, with the time one attempt may take."""

    timeout_s: float


class Permits(Protocol):
    """Where a call asks whether it may send: the run's `Limiter`, or something that asks it."""

    async def acquire(self, tokens: int) -> None:
        """Wait until a request of `tokens` (input and output) may be sent."""

    def pause(self, seconds: float) -> None:
        """Let nobody start a request for so long."""


class Interrupter(Protocol):
    """Where a call asks for the end of the run, and waits no longer than the run goes on: `Stop`, or its like."""

    def request(self, reason: RunnerError | None = None) -> None:
        """Stop the run."""

    async def sleep(self, seconds: float) -> None:
        """Wait; raises CancelledError when the run stops."""


class Call:
    """Carries out requests against one endpoint. Shared by all workers of an event loop, or by threads.

    Args:
        estimate: what requests count against the token limit; shared by all calls of a run, because it learns.
    """

    def __init__(
        self,
        client: Client,
        limiter: Permits,
        dialect: Dialect,
        answer: Answer,
        tariff: Tariff,
        policy: CallPolicy,
        stop: Interrupter,
        tally: Tally,
        clock: Clock,
        *,
        endpoint: str,
        estimate: TokenEstimate,
    ) -> None:
        self._client = client
        self._limiter = limiter
        self._dialect = dialect
        self._answer = answer
        self._tariff = tariff
        self._policy = policy
        self._stop = stop
        self._tally = tally
        self._clock = clock
        self._endpoint = endpoint
        self._estimate = estimate

    async def __call__(self, request: Request) -> Result:
        """Return the outcome of `request`.

        Raises:
            CancelledError: the run is stopping and the row has no outcome; it is sent again on resume.
        """
        clock = self._clock
        result = Result(
            request.item, queued_at=clock.now_us(), endpoint=self._endpoint, fingerprint=request.fingerprint
        )
        began = clock.steady_s()
        try:
            await self._attempt(request, result, self._policy.timeout_s)
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
        spent_s = result.latency_s or 0.0

        async def attempt() -> None:
            nonlocal spent_s
            remaining_s = self._policy.deadline_s - spent_s
            try:
                await self._attempt(request, result, min(self._policy.timeout_s, remaining_s))
            finally:
                spent_s += result.latency_s or 0.0

        async def sleep(seconds: float) -> None:
            nonlocal spent_s
            began = self._clock.steady_s()
            self._tally.backs_off(1)
            try:
                await self._stop.sleep(seconds)
            finally:
                self._tally.backs_off(-1)
                waited = self._clock.steady_s() - began
                result.backoff_s += waited
                spent_s += waited

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
        """Make one HTTP exchange; on success the result holds the answer."""
        clock, tally = self._clock, self._tally
        asked = clock.steady_s()
        tally.asks()
        try:
            await self._limiter.acquire(self._estimate.tokens(request))
        finally:
            tally.asked()
        started = clock.steady_s()
        result.throttle_s += started - asked
        if result.started_at is None:
            result.started_at = clock.now_us()
        result.attempts += 1
        result.raw = result.finish_reason = None
        rate_limited = False
        tally.sends()
        try:
            reply = await self._client.send(request.body, timeout_s)
        except TransientError as error:
            rate_limited = error.rate_limited
            self._heed(error)
            raise
        finally:
            result.latency_s = clock.steady_s() - started
            tally.sent(result.latency_s, rate_limited=rate_limited)
        result.request_id = reply.request_id
        result.server_ms = reply.server_ms
        completion = understand(self._dialect, reply)
        self._account(request, result, completion)
        result.answer = accept(self._answer, completion)
        result.status = "ok"

    def _heed(self, error: TransientError) -> None:
        """Do for all workers what the server asked of one."""
        asked_s = error.retry_after_s
        if asked_s is None:
            return
        if asked_s > self._policy.deadline_s:
            self._stop.request(
                FatalError(
                    f"the server asks to wait {asked_s:.0f} s, longer than a row may take: {error.message}",
                    kind="server_pause",
                    hint="resume the run after that time, or raise `retry.deadline_s`",
                )
            )
            raise asyncio.CancelledError  # the row did not fail: it waits for the next session
        if error.rate_limited:
            self._limiter.pause(asked_s)

    def _account(self, request: Request, result: Result, completion: Completion) -> None:
        """Take over what was said and what it cost, whether or not it is what was asked for."""
        usage = completion.usage
        result.raw = completion.text
        result.finish_reason = completion.finish_reason
        result.input_tokens = _add(result.input_tokens, usage.input)
        result.cached_tokens = _add(result.cached_tokens, usage.cached)
        result.cache_write_tokens = _add(result.cache_write_tokens, usage.cache_write)
        result.output_tokens = _add(result.output_tokens, usage.output)
        result.reasoning_tokens = _add(result.reasoning_tokens, usage.reasoning)
        result.cost_usd = _add(result.cost_usd, self._tariff.cost_usd(usage, completion.service_tier))
        self._estimate.learn(request, usage)


class TokenEstimate:
    """What a request will count against the token limit: a guess that learns from usage.

    Both guesses are averages that forget: over all replies at first, then over about the last hundred. Threads that
    learn at the same moment may lose one reply's worth of it, no more.

    Args:
        max_output_tokens: the longest answer asked for; the server reserves it, so the token limit does too.
    """

    def __init__(self, max_output_tokens: int | None) -> None:
        self._max_output_tokens = max_output_tokens
        self._weight = 1.0
        self._input_factor = 1.0
        self._output_tokens = 0.0

    def tokens(self, request: Request) -> int:
        """Return the tokens to reserve: input, and the longest answer allowed or the usual one."""
        output = self._output_tokens if self._max_output_tokens is None else self._max_output_tokens
        return int(request.input_tokens * self._input_factor + output) + 1

    def learn(self, request: Request, usage: Usage) -> None:
        if usage.input is None or usage.output is None:
            return
        self._input_factor += self._weight * (usage.input / request.input_tokens - self._input_factor)
        self._output_tokens += self._weight * (usage.output - self._output_tokens)
        self._weight = max(0.01, self._weight / (1 + self._weight))


def _add(total: T | None, more: T | None) -> T | None:
    return total if more is None else more if total is None else total + more
