"""What a line of an output or error file means for its row: a result, or another attempt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from runner.accounting import account
from runner.answer import Answer, accept
from runner.batches.rows import Pending
from runner.budget import NOTHING, Amount
from runner.call import Estimate
from runner.dialects import Dialect, understand_body
from runner.errors import CallError, FatalError, InvalidReply, PermanentError, RunnerError, TransientError
from runner.prices import Tariff
from runner.records import Result
from runner.retry import RetryPolicy, fail

TIER = "batch"
"""What the price table calls the Batch API."""

RowError = Callable[[int, object], RunnerError]
"""The error that a status and a body stand for: a `CallError`, or a `FatalError`."""

# What the API says in the error file of requests that it did not get to
# (https://platform.openai.com/docs/guides/batch#6-batch-expiration).
_NOT_REACHED = frozenset({"batch_expired", "batch_cancelled"})


class Outcome(NamedTuple):
    """What a line says.

    Attributes:
        again: the row has no result yet.
        spent: what was charged for it, NOTHING for a request that was not carried out; None: unknown.
        fatal: what keeps all requests from being answered.
    """

    again: bool
    spent: Amount | None = NOTHING
    fatal: FatalError | None = None


class Reader:
    """Reads the lines of output and error files, with the same eyes as replies of the live API.

    Args:
        tariffs: for each of the job's models, as `estimates`, which learn.
    """

    def __init__(
        self,
        dialect: Dialect,
        answer: Answer,
        tariffs: Sequence[Tariff],
        policy: RetryPolicy,
        estimates: Sequence[Estimate],
    ) -> None:
        self._dialect = dialect
        self._answer = answer
        self._tariffs = tariffs
        self._policy = policy
        self._estimates = estimates

    def read(self, line: dict[str, Any], row: Pending, row_error: RowError) -> Outcome:
        """Take over what a line says into the result of its row."""
        response = line.get("response")
        if not isinstance(response, dict):
            error = line.get("error")
            code = error.get("code") if isinstance(error, dict) else None
            return self.missed(row, str(code or "no response"), "the batch has neither an answer nor an error for it")
        row.result.attempts += 1
        request_id = response.get("request_id")
        row.result.request_id = request_id if isinstance(request_id, str) else None
        status, body = response.get("status_code"), response.get("body")
        if status == 200:
            return self._answered(row, body)
        failure = row_error(status if isinstance(status, int) else 500, body)
        if isinstance(failure, FatalError):
            row.result.attempts -= 1  # it says nothing of the row
            return Outcome(again=True, fatal=failure)
        if not isinstance(failure, CallError):
            failure = PermanentError(failure.message, kind="bad_request")
        return Outcome(self._failed(row, failure))

    def missed(self, row: Pending, code: str, why: str) -> Outcome:
        """Take note that a row was not carried out; `code` says why, in the API's word where it gave one."""
        if code == "batch_cancelled":
            return Outcome(again=True)
        kind = "expired" if code == "batch_expired" else "no_result"
        said = "the batch expired before it was answered" if code in _NOT_REACHED else why
        return Outcome(self._failed(row, TransientError(said, kind=kind)))

    def _answered(self, row: Pending, body: object) -> Outcome:
        result, model = row.result, row.item.model
        spent: Amount | None = None
        try:
            completion = understand_body(self._dialect, body)
            cost_usd = account(result, completion, self._tariffs[model], TIER)
            usage = completion.usage
            if cost_usd is not None and usage.input is not None and usage.output is not None:
                self._estimates[model].learn(row.input_tokens, usage)
                spent = Amount(cost_usd, usage.input + usage.output)
            result.answer = accept(self._answer, completion)
            result.status = "ok"
            again = False
        except InvalidReply as error:
            again = self._failed(row, error)
        return Outcome(again, spent)

    def _failed(self, row: Pending, error: CallError) -> bool:
        """Count a failure; return whether the row is to be sent again, or write the failure into its result."""
        if isinstance(error, InvalidReply) and error.retryable:
            row.invalid += 1
            again = row.invalid < self._policy.invalid_attempts
        elif isinstance(error, TransientError):
            row.transient += 1
            again = row.transient < self._policy.max_attempts
        else:
            again = False
        if not again:
            fail(row.result, error)
        return again


def refused(row: Pending, why: str) -> Result:
    """Return the result of a row because of which a whole batch was refused."""
    row.result.attempts += 1
    fail(row.result, PermanentError(why, kind="bad_request"))
    return row.result
