"""Answers that need not be paid for: those of earlier runs, and those to the same request in this run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from runner import parts
from runner.answer import Answer, accept
from runner.clock import Clock
from runner.earlier import Earlier, EarlierAnswer
from runner.errors import InvalidReply
from runner.records import Completion, Item, Request, Result, Usage
from runner.twins import Twins

BATCH = 500  # requests that are looked up together
_NO_ITEM = Item(-1, "", {}, "", 0)
_SHARED = ("status", "answer", "error_type", "error", "finish_reason", "raw", "request_id", "endpoint")
_BATCH_ROWS = 5_000
_COLUMNS = (
    "_status", "_error_type", "_error", "_finish_reason", "_raw", "_cost_usd", "_request_id", "_endpoint",
    "_fingerprint", "_reused_from",
)  # fmt: skip


class Known:
    """What a run looks up before it sends. Belongs to whoever holds the run's lock.

    Args:
        run: the name of the run.
        earlier: the answers of the job's earlier runs; None: they are not wanted.
        dedupe: send identical requests of this run once.
    """

    def __init__(self, run: str, earlier: Earlier | None, answer: Answer, clock: Clock, *, dedupe: bool) -> None:
        self._run = run
        self._earlier = earlier
        self._answer = answer
        self._clock = clock
        self._twins = Twins() if dedupe else None

    def remember(self, results: Iterable[pa.Table], *, failures: bool) -> None:
        """Take in what this run was answered before, in tables with the columns `_COLUMNS`.

        Args:
            failures: those that were paid for too; a retry asks for them again.
        """
        for table in results if self._twins is not None else ():
            asked = pc.and_(pc.is_null(table.column("_reused_from")), pc.is_valid(table.column("_fingerprint")))
            for row in table.filter(asked).to_pylist():
                result = Result(_NO_ITEM, **{name.removeprefix("_"): value for name, value in row.items()})
                with suppress(InvalidReply):  # what fits has changed: it is asked again
                    if result.status == "ok":
                        said = Completion(result.raw, None, result.finish_reason, Usage())
                        result.answer = accept(self._answer, said)
                    if result.status == "ok" or failures:
                        self.settle(result)

    def look_up(self, requests: Sequence[Request]) -> list[Result | None]:
        """Return the result of each request that was answered before; None: it was not."""
        if self._earlier is None:
            return [None] * len(requests)
        found = self._earlier.answers([request.fingerprint for request in requests])
        return [
            None if answer is None else self._result(request, answer)
            for request, answer in zip(requests, found, strict=True)
        ]

    def _result(self, request: Request, earlier: EarlierAnswer) -> Result | None:
        said = Completion(earlier.raw, None, earlier.finish_reason, Usage())
        try:
            answer = accept(self._answer, said)
        except InvalidReply:  # what fits has changed: it has to be asked again
            return None
        result = self._copy(request.item, request.fingerprint, earlier.run, earlier.cost_usd)
        result.status, result.answer, result.raw = "ok", answer, earlier.raw
        result.finish_reason = earlier.finish_reason
        result.request_id, result.endpoint = earlier.request_id, earlier.endpoint
        return result

    def _copy(self, item: Item, fingerprint: str | None, run: str, saved_usd: float | None) -> Result:
        now = self._clock.now_us()
        return Result(
            item, queued_at=now, finished_at=now, total_s=0.0, cost_usd=0.0, saved_usd=saved_usd, reused_from=run,
            fingerprint=fingerprint,
        )  # fmt: skip

    # Identical requests of this run -----------------------------------------------------------------------------------

    def twin(self, request: Request) -> Result | bool:
        """Return the result of an identical request, or whether one is in flight: then `answered` will bring it."""
        if self._twins is None:
            return False
        shared = self._twins.join(request)
        return shared if isinstance(shared, bool) else self._shared(request.item, request.fingerprint, *shared)

    def settle(self, result: Result) -> None:
        """Take in a result, for the rows that wait for it and for later ones: unless another attempt may do better."""
        if self._twins is None or result.fingerprint is None or result.reused_from is not None:
            return
        outcome = [getattr(result, name) for name in _SHARED], result.cost_usd
        self._twins.settle(result.fingerprint, outcome, keep=result.paid or result.error_type == "bad_request")

    def answered(self, most: int) -> Iterator[Result]:
        """Yield the results of at most so many rows that waited for one that is there now."""
        if self._twins is not None:
            for item, fingerprint, outcome in self._twins.answered(most):
                yield self._shared(item, fingerprint, *outcome)

    def _shared(self, item: Item, fingerprint: str, shared: Sequence[Any], saved_usd: float | None) -> Result:
        copy = self._copy(item, fingerprint, self._run, saved_usd)
        for name, value in zip(_SHARED, shared, strict=True):
            setattr(copy, name, value)
        return copy

    def close(self) -> None:
        if self._twins is not None:
            self._twins.close()


@contextmanager
def open_known(
    folder: Path, schema: pa.Schema, answer: Answer, clock: Clock, warn: Callable[[str], None], *,
    reuse: bool, dedupe: bool, retry: bool, alone: bool = True,
) -> Iterator[Known | None]:  # fmt: skip
    """Yield what a run need not pay for; None where its job does not ask for that.

    Args:
        folder: the run's; beside it are the earlier ones.
        schema: of the run's results.
        warn: told of each file of an earlier run that cannot be read.
        retry: rows that failed are asked again.
        alone: no other run of the job goes on meanwhile: what is learnt of the earlier ones may be kept.

    Raises:
        FatalError: there is no room to look answers up.
    """
    if not (reuse or dedupe):
        yield None
        return
    with ExitStack() as opened:
        earlier = opened.enter_context(Earlier(folder.parent, but=folder.name, shared=alone)) if reuse else None
        for problem in earlier.update() if earlier is not None else ():
            warn(problem)
        known = opened.enter_context(closing(Known(folder.name, earlier, answer, clock, dedupe=dedupe)))
        if dedupe:
            columns = pa.schema([schema.field(name) for name in _COLUMNS])
            known.remember(parts.stored(folder, columns, _BATCH_ROWS), failures=not retry)
        yield known
