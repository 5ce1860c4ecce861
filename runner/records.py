"""The values that flow through a run: an `Item` becomes a `Request`, and ends as a `Result`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

PAID_FAILURES = ("invalid_reply", "refusal", "truncated", "content_filter")
"""The `_error_type`s of rows that were answered, and so paid for, though not with what was asked for."""


Key = tuple[int, int]
"""The index of a row, and which of the job's models it is asked of."""


@dataclass(frozen=True, slots=True)
class Item:
    """One row of the input, as it is asked of one model.

    Attributes:
        index: 0-based position in the whole input, over all files and before `offset` and `limit`.
        id: the id column as text, or the index as text where the job names no id column.
        fields: column name to value; CSV values are text as written, JSON values keep their types.
        file: the file it came from, as the user would write it.
        line: 1-based line in that file (for Parquet: 1-based row).
        model: which of the job's models it is asked of, by its 0-based place in the job file.
    """

    index: int
    id: str
    fields: dict[str, Any]
    file: str
    line: int
    model: int = 0

    @property
    def key(self) -> Key:
        """What no other request of the run has: row and model."""
        return self.index, self.model


@dataclass(frozen=True, slots=True)
class BadRow:
    """An input row that cannot be used, and why. It has an index like any other row.

    Attributes:
        reason: one sentence without the place, such as ``expected 3 fields, found 5``.
        fields: what could be read of it (may be empty).
    """

    index: int
    file: str
    line: int
    reason: str
    fields: dict[str, Any] = field(default_factory=dict)
    model: int = 0

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent for one item.

    Attributes:
        body: the JSON body, as the bytes that go over the wire.
        fingerprint: 32 hexadecimal digits over everything that changes the answer.
        input_tokens: estimate of the input, in tokens.
    """

    item: Item
    body: bytes
    fingerprint: str
    input_tokens: int


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer with status 200, not yet understood.

    Attributes:
        request_id: the server's `x-request-id`.
        server_ms: the server's own processing time (`openai-processing-ms`), in milliseconds.
    """

    body: bytes
    content_type: str = "application/json"
    request_id: str | None = None
    server_ms: float | None = None


class Usage(NamedTuple):
    """Tokens of one attempt, as the server counted them; None where it did not say."""

    input: int | None = None
    cached: int | None = None
    output: int | None = None
    reasoning: int | None = None
    cache_write: int | None = None


class Completion(NamedTuple):
    """A reply, understood: what the model said and why it stopped."""

    text: str | None
    refusal: str | None
    finish_reason: str | None
    usage: Usage
    service_tier: str | None = None


@dataclass(slots=True)
class Result:
    """The outcome of one request; each field named like an output column without its underscore.

    It is filled in while the request lives, and never changed after it is stored. Times ending in `_at` are
    microseconds since 1970 (UTC); the others are seconds. Tokens and cost are summed over all attempts, because
    a reply that had to be thrown away was paid for too. What was saved is what caching took off, or all of the
    cost where the answer was there already, from the run that `reused_from` names. An answer that came in a batch of
    the Batch API has that batch's times, and the time when it was collected.
    """

    item: Item
    status: str = "error"
    answer: dict[str, Any] | None = None
    error_type: str | None = None
    error: str | None = None
    finish_reason: str | None = None
    raw: str | None = None
    attempts: int = 0
    queued_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    throttle_s: float = 0.0
    backoff_s: float = 0.0
    latency_s: float | None = None
    total_s: float | None = None
    server_ms: float | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: float | None = None
    saved_usd: float | None = None
    request_id: str | None = None
    endpoint: str | None = None
    fingerprint: str | None = None
    reused_from: str | None = None
    batch: str | None = None
    collected_at: int | None = None

    @property
    def paid(self) -> bool:
        """Whether the server answered, which costs something whether or not it said how much."""
        return self.status == "ok" or self.error_type in PAID_FAILURES
