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
