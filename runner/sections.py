"""The sections of the job file: what may stand in each, what each key means, and what cannot be meant."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from runner.deadline import Deadline
from runner.problems import At, Finding, Hint, complain, listed, say, suggest
from runner.timespan import TimeSpan

DEFAULT_CONCURRENCY = 64

T = TypeVar("T")
Many = Annotated[tuple[T, ...], Strict(False)]
"""A YAML list."""


class Section(BaseModel):
    """A part of a configuration file: frozen, and strict about its keys and types."""

    meant: ClassVar[Mapping[str, str]] = {}
    """What someone who writes this unknown key is looking for."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, serialize_by_alias=True)


# Small checks that several fields share -------------------------------------------------------------------------------


def _paths(value: object) -> object:
    if not isinstance(value, str | list | tuple):
        complain([Finding(f"must be a path or a list of paths, got {say(value)}")])
    return (value,) if isinstance(value, str) else value


def _one_character(value: str) -> str:
    if len(value) != 1:
        hint = 'write "\\t" in double quotes for a tab' if value == "\\t" else 'put it in quotes, such as "|"'
        complain([Finding(f"must be one character, got {say(value)}", hint=hint)])
    return value


def _quote(value: str) -> str:
    if value != "none" and len(value) != 1:
        complain([Finding(f"must be one character or `none`, got {say(value)}")])
    return value


def _names(values: tuple[str, ...]) -> tuple[str, ...]:
    """Column names or labels: none empty, none twice."""
    complain(name_findings(values))
    return values


def name_findings(values: tuple[str, ...]) -> list[Finding]:
    """Return what is wrong with names that must be there and different."""
    findings = []
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        earlier = first.setdefault(value.strip(), index)
        if not value.strip():
            findings.append(Finding("must not be empty", (index,)))
        elif earlier != index:
            same = "the same as" if values[earlier] == value else "but for spaces the same as"
            findings.append(Finding(f"is {same} item [{earlier}]: {say(value)}", (index,)))
    return findings


def _name_or_names(value: object) -> object:
    names: list[object] = []
    findings = []
    if isinstance(value, str):
        names = [value]
    elif isinstance(value, list | tuple):
        names = list(value)
    else:
        hint = "put it in quotes" if isinstance(value, bool | int | float) else None
        findings.append(Finding(f"must be a name or a list of names, got {say(value)}", hint=hint))
    if not names and not findings:
        findings.append(Finding("must name at least one"))
    for index, name in enumerate(names):
        at: At = () if isinstance(value, str) else (index,)
        if not isinstance(name, str) or not name.strip():
            findings.append(Finding(f"must be a name, got {say(name)}", at))
        elif not at and ", " in name:
            findings.append(Finding(f"must be one name, got {say(name)}", hint=f"several are a list: [{name}]"))
        elif name in names[:index]:
            findings.append(Finding(f"is there already: {say(name)}", at))
    complain(findings)
    return value if isinstance(value, str) else tuple(names)


OneOrMore = Annotated[
    str | tuple[str, ...],
    BeforeValidator(_name_or_names),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "uniqueItems": True},
            ]
        }
    ),
]
"""A name, or a YAML list of different ones."""


def _text_or_file(value: object) -> object:
    if isinstance(value, str | Mapping | PromptFile) or value is None:
        return value
    hint = "put it in quotes" if isinstance(value, bool | int | float) else None
    complain([Finding(f"must be text or `{{file: NAME}}`, got {say(value)}", hint=hint)])
    return value


def _column_or_columns(value: object) -> object:
    hint = "for example `expected: category`, or `expected: {topic: category}`"
    if isinstance(value, Mapping):
        complain([Finding(f"must be a column, got {say(column)}", (answer,)) for answer, column in value.items()
                  if not isinstance(column, str) or not column])  # fmt: skip
    if not isinstance(value, str | Mapping) or not value:
        complain([Finding(f"must be a column, or columns of the answer with one each, got {say(value)}", hint=hint)])
    return value


def _fallback(value: object) -> object:
    if isinstance(value, str):
        if value != "standard":
            complain([Finding(f"must be `standard`, got {say(value)}")])
        return {"to": value}
    if value is not None and not isinstance(value, Mapping | FlexFallback):
        complain([Finding(f"must be `standard` or `{{to: standard, after_s: 300}}`, got {say(value)}")])
    return value


def _real_encoding(value: str) -> str:
    try:
        "".encode(value)
    except LookupError:
        near = suggest(value, ("utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "cp1250", "ascii", "gb18030"))
        complain([Finding(f"is not an encoding that Python knows, got {say(value)}", hint=near)])
    except ValueError as error:
        complain([Finding(f"is not the name of an encoding: {error}")])
    return value


# The sections -------------------------------------------------------------------------------------------------------


class WaitSpec(Section):
    """How long a run waits for input that is not there when it begins."""

    until: Deadline = Field(
        description=(
            "Until when: a time of day on the schedule's clock, the first one after the moment that the run is for; "
            "a date with a time; or a time span from when the run began."
        ),
        examples=["04:00", "2h"],
    )
    settle: TimeSpan = Field(
        default=TimeSpan("10s", timedelta(seconds=10)),
        description="A file counts as complete when its size and time of change have not changed for so long.",
        examples=["1m"],
    )


class InputSpec(Section):
    """Where the rows come from."""

    path: Annotated[
        tuple[str, ...],
        Strict(False),
        BeforeValidator(_paths),
        WithJsonSchema(
            {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
        ),
    ] = Field(
        min_length=1,
        description=(
            "The input: a file, a glob such as data/*.csv, or a list of them, relative to the project root. "
            "CSV, TSV, JSONL, a JSON array or Parquet; plain, .gz or .zst."
        ),
        examples=["data/papers.jsonl"],
    )
    format: Literal["csv", "tsv", "jsonl", "json", "parquet"] | None = Field(
        default=None, description="The format of the files. Default: what the name says.", examples=["csv"]
    )
    id: str | None = Field(
        default=None,
        min_length=1,
        description="The column that identifies a row. Default: the row number.",
        examples=["id"],
    )
    keep: Many[str] | None = Field(
        default=None, description="The columns that are copied to the output. Default: all.", examples=[["id", "title"]]
    )
    columns: Annotated[Many[str], AfterValidator(_names)] | None = Field(
        default=None,
        min_length=1,
        description="CSV: the names of the columns, for a file without a header, or in place of its header.",
        examples=[["text", "stars"]],
    )
    header: int | None = Field(
        default=None,
        ge=0,
        description=(
            "CSV: how many lines at the top are header; the last of them names the columns. "
            "Default: 1, or 0 when `columns` is given."
        ),
        examples=[1],
    )
    delimiter: Annotated[str, AfterValidator(_one_character)] | None = Field(
        default=None,
        description="CSV: the character between fields. Default: a comma, or a tab for .tsv.",
        examples=[";"],
        json_schema_extra={"minLength": 1, "maxLength": 1},
    )
    quote: Annotated[str, AfterValidator(_quote)] | None = Field(
        default=None,
        description='CSV: the quote character, or `none` where quotes are plain text. Default: the double quote `"`.',
        examples=["none"],
    )
    encoding: Annotated[str, AfterValidator(_real_encoding)] = Field(
        default="utf-8", description="The encoding of text files.", examples=["latin-1"]
    )
    limit: Annotated[int | None, Hint("leave the key out to read all rows")] = Field(
        default=None, ge=1, description="Read at most this many rows. Default: all.", examples=[100]
    )
    offset: int = Field(default=0, ge=0, description="Skip this many rows first.", examples=[1000])
    on_bad_row: Literal["fail", "error_row", "skip"] = Field(
        default="fail",
        description=(
            "What to do with a row that cannot be used: `fail` stops before anything is sent, "
            "`error_row` makes it a failed row of the output, `skip` leaves it out."
        ),
        examples=["error_row"],
    )
    min_rows: Annotated[int | None, Hint("leave the key out to allow an empty input")] = Field(
        default=None,
        ge=1,
        description=(
            "Send nothing, and fail, when the input has fewer rows than this that can be used. `limit` does not count. "
            "Default: an empty input is a success."
        ),
        examples=[1],
    )
    wait_for: WaitSpec | None = Field(
        default=None,
        description="Wait for files that are not there yet, or still growing, when a run begins. Default: do not wait.",
        examples=[{"until": "04:00"}],
    )


class PromptFile(Section):
    """A prompt kept in a file of its own."""

    file: str = Field(min_length=1, description="The file, relative to configs/prompts/.", examples=["classify.txt"])


Text = Annotated[str | PromptFile, BeforeValidator(_text_or_file)]


class Message(Section):
    """One message of the prompt."""

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="Who says it: system, developer, user or assistant.", examples=["user"]
    )
    content: Text = Field(
        description="What is said: a Jinja2 template, or {file: NAME} for one in configs/prompts/.",
        examples=["Title: {{ title }}"],
    )


class PromptSpec(Section):
    """What the model is asked: `user` (with or without `system`), or `messages`."""

    system: Text | None = Field(
        default=None,
        description="The instructions: a Jinja2 template, or {file: NAME} for one in configs/prompts/.",
        examples=["You sort scientific papers."],
    )
    user: Text | None = Field(
        default=None,
        description="The question about one row: a Jinja2 template, or {file: NAME} for one in configs/prompts/.",
        examples=["Title: {{ title }}"],
    )
    messages: Many[Message] | None = Field(
        default=None,
        min_length=1,
        validate_default=True,
        description="The whole conversation, in place of `system` and `user`.",
        examples=[[{"role": "user", "content": "Title: {{ title }}"}]],
    )

    @field_validator("messages")
    @classmethod
    def _one_way(cls, messages: tuple[Message, ...] | None, info: ValidationInfo) -> tuple[Message, ...] | None:
        if "system" not in info.data or "user" not in info.data:
            return messages  # one of them is wrong, and said so
        if messages is None and info.data["user"] is None:
            complain([Finding("`prompt` needs `user`, or `messages`", whole=True)])
        if messages is not None:
            given = [key for key in ("system", "user") if info.data[key] is not None]
            if given:
                complain([Finding(f"and {listed(given)} exclude each other", on_key=True, hint="keep one of them")])
        return messages


class LimitsSpec(Section):
    """How fast the run may go."""

    concurrency: Annotated[int | None, Hint(f"leave the key out for {DEFAULT_CONCURRENCY}")] = Field(
        default=None,
        ge=1,
        le=100_000,
        description=f"How many requests may be in flight. Default: what the endpoint says, else {DEFAULT_CONCURRENCY}.",
        examples=[64],
    )
    requests_per_minute: Annotated[float | None, Hint("leave the key out for no limit")] = Field(
        default=None,
        gt=0,
        description="Requests started per minute. Default: what the endpoint says, else no limit.",
        examples=[3000],
    )
    tokens_per_minute: Annotated[float | None, Hint("leave the key out for no limit")] = Field(
        default=None,
        gt=0,
        description="Tokens per minute, input and output. Default: what the endpoint says, else no limit.",
        examples=[1_000_000],
    )
    enqueued_tokens: Annotated[int | None, Hint("leave the key out for no limit")] = Field(
        default=None,
        ge=1,
        description=(
            "Batch API: input tokens of one model that may wait in unfinished batches. "
            "Default: what the endpoint says, else no limit."
        ),
        examples=[2_000_000],
    )


class BudgetSpec(Section):
    """What a run may take. The most that a request may cost is set aside before it is sent, so no cap is exceeded."""

    max_usd: Annotated[float | None, Hint("leave the key out for no cap")] = Field(
        default=None, gt=0, description="What the run may cost, in USD, over all its sessions.", examples=[5.0]
    )
    max_tokens: Annotated[int | None, Hint("leave the key out for no cap")] = Field(
        default=None, ge=1, description="Tokens that the run may take, input and output.", examples=[10_000_000]
    )
    daily_usd: Annotated[float | None, Hint("leave the key out for no cap")] = Field(
        default=None,
        gt=0,
        description="What all runs of the job together may cost in a day (UTC), in USD.",
        examples=[20.0],
    )

    @property
    def unlimited(self) -> bool:
        return self.max_usd is None and self.max_tokens is None and self.daily_usd is None


class FlexFallback(Section):
    """Where a row goes that the flex tier has no room for."""

    to: Literal["standard"] = Field(default="standard", description="The tier that it is sent at then.")
    after_s: Annotated[float, Hint("0 does not wait")] = Field(
        default=300, ge=0, description="How long a row waits for room before, in seconds."
    )


FLEX_TIMEOUT_S = 900.0
"""What the API's guide to flex recommends (https://developers.openai.com/api/docs/guides/flex-processing)."""
FLEX_DEADLINE_S = 9000.0
"""As many attempts of full length as the defaults of other tiers leave time for: ten."""


class RetrySpec(Section):
    """How often and how long a request is tried."""

    max_attempts: Annotated[int, Hint("1 sends each request once")] = Field(
        default=6, ge=1, description="How often a request may be sent."
    )
    invalid_attempts: Annotated[int, Hint("1 asks once")] = Field(
        default=3, ge=1, description="How often an answer that does not fit may be asked for. Each one is paid for."
    )
    timeout_s: float = Field(
        default=60,
        gt=0,
        description=(
            f"How long one attempt may take, in seconds. Default with `service_tier: flex`: {FLEX_TIMEOUT_S:g}."
        ),
    )
    deadline_s: float = Field(
        default=600,
        gt=0,
        description=(
            "How long a row may take with all its attempts, in seconds; waiting for limits, and for room at the flex "
            f"tier, is not counted. Default with `service_tier: flex`: {FLEX_DEADLINE_S:g}."
        ),
    )
    flex_fallback: Annotated[
        FlexFallback | None,
        BeforeValidator(_fallback),
        WithJsonSchema({"anyOf": [{"const": "standard"}, FlexFallback.model_json_schema(), {"type": "null"}]}),
    ] = Field(
        default=None,
        description=(
            "With `service_tier: flex`: `standard` sends a row at the standard tier, for its price, when flex has had "
            "no room for it for 300 seconds; {to: standard, after_s: 60} after another time. "
            "Default: it waits for room as long as it takes."
        ),
        examples=["standard", {"to": "standard", "after_s": 60}],
    )

    def patient(self) -> RetrySpec:
        """Return what holds for requests at the flex tier, which is slow: longer times where none were given."""
        slow = {"timeout_s": FLEX_TIMEOUT_S, "deadline_s": FLEX_DEADLINE_S}
        return self.model_copy(update={key: slow[key] for key in slow.keys() - self.model_fields_set})


class StopSpec(Section):
    """When to give up on the whole run."""

    max_error_rate: Annotated[float | None, Hint("`null` never stops; 0.5 stops when half of the rows fail")] = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Stop when more than this share of the rows that were sent failed; `null`: never.",
        examples=[0.2],
    )
    after: int = Field(default=100, ge=1, description="Look at the error rate only after this many rows were sent.")


class KeepSpec(Section):
    """Which runs `runner prune` keeps: those that either key keeps, and all that something needs."""

    runs: Annotated[int | None, Hint("leave the key out to go by `days` alone")] = Field(
        default=None, ge=1, description="Keep the newest so many runs. Default: only `days` counts.", examples=[90]
    )
    days: Annotated[float | None, Hint("leave the key out to go by `runs` alone")] = Field(
        default=None,
        gt=0,
        validate_default=True,
        description="Keep the runs of so many days. Default: only `runs` counts.",
        examples=[365],
    )

    @field_validator("days")
    @classmethod
    def _some(cls, days: float | None, info: ValidationInfo) -> float | None:
        if days is None and info.data.get("runs", 0) is None:
            complain([Finding("`keep` needs `runs`, `days`, or both", whole=True, hint="{runs: 90, days: 365}")])
        return days


class EvaluateSpec(Section):
    """How good the answers are, compared with a column of the input."""

    expected: Annotated[str | dict[str, str], BeforeValidator(_column_or_columns)] = Field(
        description=(
            "The input column that holds the right answers; or for each column of the answer, by its name, "
            "the one that holds its right answers."
        ),
        examples=["category", {"topic": "category", "applied": "has_experiment"}],
    )
