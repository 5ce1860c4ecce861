"""How a simulated API behaves: its speed, its limits, the faults it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from runner.problems import Finding, complain
from runner.sections import Section

Probability = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]

BY_BODY = frozenset({"bad_request", "refuse_question"})
"""The faults that the body alone decides, whatever the attempt."""


class Latency(Section):
    """A lognormal distribution of answer times.

    Attributes:
        median: half of the answers take less, in seconds.
        p95: 95 % of the answers take less, in seconds; at least `median`.
    """

    median: Seconds = 0.2
    p95: Seconds = Field(default=0.5, validate_default=True)

    @field_validator("p95")
    @classmethod
    def _ordered(cls, p95: float, info: ValidationInfo) -> float:
        median = info.data.get("median", 0)
        if p95 < median:
            complain([Finding(f"must be at least `median`, which is {median:g}, got {p95:g}")])
        return p95


class Faults(Section):
    """How often each fault is shown, as probabilities.

    Their sum, without those that are decided by the body alone, is at most 1.

    Attributes:
        rate_limit: 429 `rate_limit_exceeded`, although no limit was exceeded.
        server_error: 500.
        unavailable: 503.
        cut: the connection is closed, after half an answer or none.
        hang: no answer until `hang_s` have passed.
        invalid_json: 200 whose HTTP body is truncated, empty or not JSON.
        invalid_reply: a sound envelope around text that does not fit the schema, or answers that do not fit their
            questions; not shown to requests without either.
        refusal: the model refuses; of a decisions request all questions.
        refuse_question: the model refuses this one question of a decisions request, decided by the body alone.
        bad_request: 400, decided by the body alone: every attempt of that body gets it.
        html: 200 with an HTML page.
        sse: 200 with server-sent events, although nobody asked for a stream.
        no_usage: the answer has no `usage`.
        null_content: the answer's text is null; of a decisions request the answers are.
        no_choices: the answer has no choices (chat), no output (responses) or no `answers` (decisions).
        resource_unavailable: 429 of this code: there is no room; not shown to requests that do not ask for flex.
    """

    rate_limit: Probability = 0
    server_error: Probability = 0
    unavailable: Probability = 0
    cut: Probability = 0
    hang: Probability = 0
    invalid_json: Probability = 0
    invalid_reply: Probability = 0
    refusal: Probability = 0
    refuse_question: Probability = 0
    bad_request: Probability = 0
    html: Probability = 0
    sse: Probability = 0
    no_usage: Probability = 0
    null_content: Probability = 0
    no_choices: Probability = 0
    resource_unavailable: Probability = 0

    @model_validator(mode="after")
    def _at_most_one(self) -> Faults:
        total = sum(p for name, p in self if name not in BY_BODY)
        if total > 1 + 1e-9:
            aside = "without `bad_request` and `refuse_question`"
            complain([Finding(f"must add up to at most 1 ({aside}), got {total:g}")])
        return self


class AccountSettings(Section):
    """One API key, with limits, a quota and an organization of its own.

    Attributes:
        key: the API key.
        organization: what `OpenAI-Organization` must say, if it says anything; None: anything.
        requests_per_minute: enforced second by second; None for no limit.
        tokens_per_minute: input plus the most output asked for, enforced second by second; None for no limit.
        quota_after: after this many answers every request of this key gets 429 `insufficient_quota`; None for never.
        disabled: the key is refused, as one that was revoked.
    """

    key: str = Field(min_length=1)
    organization: str | None = Field(default=None, min_length=1)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    quota_after: int | None = Field(default=None, ge=0)
    disabled: bool = False


def _number_or_distribution(latency: object) -> str:
    """Which of the two is meant: only its own complaints are of use."""
    return "distribution" if isinstance(latency, Mapping | Latency) else "number"


class BatchFaults(Section):
    """How often a batch or a request about one goes wrong, as probabilities. Each is drawn on its own.

    Attributes:
        expire: the batch expires with a part of its requests done: see `expire_share`.
        fail_tokens: the batch fails with `token_limit_exceeded`, although no limit was exceeded.
        lose_create_answer: the batch is created, then the connection is cut without an answer.
        truncate_download: the first download of its output file breaks off half-way.
        duplicate_lines: one line of its output is there twice.
        unknown_lines: its output has a line with a `custom_id` that nobody sent.
        missing_lines: one request has a line in neither file.
        unavailable: a request about files or batches gets 503, and has no effect.
    """

    expire: Probability = 0
    fail_tokens: Probability = 0
    lose_create_answer: Probability = 0
    truncate_download: Probability = 0
    duplicate_lines: Probability = 0
    unknown_lines: Probability = 0
    missing_lines: Probability = 0
    unavailable: Probability = 0


class BatchScript(Section):
    """What one batch does; what is left out is drawn as for any other.

    Attributes:
        duration_s: simulated seconds in progress.
        expire_at: it expires with this share of its requests done.
        fail: it fails with this code.
        only_errors: every request is answered with this status.
        truncate_download: so many downloads of its output file (of its error file, where that is the only one) break
            off half-way.
        duplicate_lines: so many lines of its output are there twice.
        unknown_lines: its output has so many lines with a `custom_id` that nobody sent.
        missing_lines: so many requests have a line in neither file, though they were executed.
        lose_create_answer: it is created, then the connection is cut without an answer.
    """

    duration_s: Seconds | None = None
    expire_at: Probability | None = None
    fail: str | None = Field(default=None, min_length=1)
    only_errors: int | None = Field(default=None, ge=400, le=599)
    truncate_download: int | None = Field(default=None, ge=0)
    duplicate_lines: int | None = Field(default=None, ge=0)
    unknown_lines: int | None = Field(default=None, ge=0)
    missing_lines: int | None = Field(default=None, ge=0)
    lose_create_answer: bool | None = None


class BatchSettings(Section):
    """How files and batches behave. All seconds are simulated ones.

    Attributes:
        speed: how many simulated seconds pass in a real one, from the wall clock's time at the start on.
        validating_s: seconds until a batch was validated.
        duration_s: seconds in progress, fixed or as a distribution that is drawn from for each batch.
        finalizing_s: seconds that the results take to be written.
        cancelling_s: seconds from cancelling to cancelled.
        window_s: seconds from its creation to its expiry, if a batch has not finished.
        expire_share: the share of the requests that is done in batches that the fault `expire` meets; None: drawn.
        max_file_bytes: a larger upload gets 413.
        max_requests: a batch of more fails with `too_many_tasks`.
        enqueued_tokens: the most input tokens in all unfinished batches of one account and model; a batch that would
            exceed it fails with `token_limit_exceeded`. None for no limit.
        faults: how often batches go wrong.
        script: what the first batches do, in the order of their creation.
    """

    speed: float = Field(default=3600, gt=0)
    validating_s: Seconds = 60
    duration_s: Annotated[
        Annotated[Seconds, Tag("number")] | Annotated[Latency, Tag("distribution")],
        Discriminator(_number_or_distribution),
    ] = Latency(median=3600, p95=7200)
    finalizing_s: Seconds = 60
    cancelling_s: Seconds = 60
    window_s: float = Field(default=86400, gt=0)
    expire_share: Probability | None = 0.5
    max_file_bytes: int = Field(default=200_000_000, ge=1)
    max_requests: int = Field(default=50_000, ge=1)
    enqueued_tokens: int | None = Field(default=None, ge=1)
    faults: BatchFaults = BatchFaults()
    script: list[BatchScript] = Field(default_factory=list)


class SimulatorSettings(Section):
    """Everything that can be set about the simulator. The same settings and requests give the same answers.

    Attributes:
        seed: another seed draws other latencies, faults and replies.
        latency_s: seconds to each answer, fixed or as a distribution; 0 for none.
        api_keys: the keys that are accepted; empty: any key, also none, unless there are `accounts`.
        accounts: more keys, each with limits, a quota and an organization of its own; those below are not theirs.
        models: the models there are; empty: any name.
        requests_per_minute: enforced second by second; None for no limit.
        tokens_per_minute: input plus the most output asked for, enforced second by second; None for no limit.
        faults: how often each fault is shown.
        retry_after_s: what `Retry-After` says in injected 429 and 503 answers, in seconds; None leaves it out.
        quota_after: after this many answers every request gets 429 `insufficient_quota`; None for never.
        hang_s: how long the fault `hang` keeps silent, in seconds.
        max_faults_per_body: a body (byte for byte) meets at most this many faults, aside from those that the body
            alone decides; None: no end.
        cached_share: the share of the input tokens that usage says were read from the cache.
        cache_write_share: the share that usage says were written to it; with `cached_share` at most 1.
        batches: how files and batches behave.
    """

    seed: int = 0
    latency_s: Annotated[
        Annotated[Seconds, Tag("number")] | Annotated[Latency, Tag("distribution")],
        Discriminator(_number_or_distribution),
    ] = Latency()
    api_keys: list[str] = Field(default_factory=list)
    accounts: list[AccountSettings] = Field(default_factory=list)
    models: list[str] = Field(default_factory=list)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    faults: Faults = Faults()
    retry_after_s: Seconds | None = 1.0
    quota_after: int | None = Field(default=None, ge=0)
    hang_s: Seconds = 3600
    max_faults_per_body: int | None = Field(default=None, ge=0)
    cached_share: Probability = 0
    cache_write_share: Probability = Field(default=0, validate_default=True)
    batches: BatchSettings = BatchSettings()

    @field_validator("accounts")
    @classmethod
    def _distinct(cls, accounts: list[AccountSettings], info: ValidationInfo) -> list[AccountSettings]:
        everybody = info.data.get("api_keys", [])
        keys = [account.key for account in accounts]
        # The key itself is not repeated: this may be shown anywhere.
        hint = "give each account a key of its own, which is not among `api_keys`"
        complain(
            [
                Finding("is given twice", (position, "key"), hint)
                for position, account in enumerate(accounts)
                if account.key in everybody or account.key in keys[:position]
            ]
        )
        return accounts

    @field_validator("cache_write_share")
    @classmethod
    def _at_most_all(cls, share: float, info: ValidationInfo) -> float:
        cached = info.data.get("cached_share", 0)
        if cached + share > 1 + 1e-9:
            complain([Finding(f"must be at most {1 - cached:g}, what `cached_share` leaves, got {share:g}")])
        return share
