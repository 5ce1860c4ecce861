"""The job file as types: what may stand in it, what each key means, and what cannot be meant.

Reading the file is `load`'s part. The descriptions become the help that editors show (`runner schema`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

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

from runner.yaml_source import At, Finding, Hint, complain, dotted, listed, say, suggest

KNOWN_STRATEGIES: tuple[str, ...] = ("asyncio",)
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
    findings = []
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        earlier = first.setdefault(value.strip(), index)
        if not value.strip():
            findings.append(Finding("must not be empty", (index,)))
        elif earlier != index:
            same = "the same as" if values[earlier] == value else "but for spaces the same as"
            findings.append(Finding(f"is {same} item [{earlier}]: {say(value)}", (index,)))
    complain(findings)
    return values


def _text_or_file(value: object) -> object:
    if isinstance(value, str | Mapping | PromptFile) or value is None:
        return value
    hint = "put it in quotes" if isinstance(value, bool | int | float) else None
    complain([Finding(f"must be text or `{{file: NAME}}`, got {say(value)}", hint=hint)])
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
            "What to do with a row that cannot be used: `fail` stops before anything is sent where it can be known, "
            "`error_row` makes it a failed row of the output, `skip` leaves it out."
        ),
        examples=["error_row"],
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


class OutputSpec(Section):
    """What an answer must look like: one of `labels`, the fields of `schema`, or plain text."""

    labels: Annotated[Many[str], AfterValidator(_names)] | None = Field(
        default=None,
        min_length=2,
        description="The answer is one of these. At least two, all different.",
        examples=[["positive", "negative", "neutral"]],
    )
    strict: bool = Field(
        default=True,
        description=(
            "Have the server enforce the schema exactly. Then every object in the schema needs "
            "`additionalProperties: false` and must require all its properties."
        ),
    )
    json_schema: dict[str, Any] | str | None = Field(
        default=None,
        alias="schema",
        description=(
            "The answer is an object that fits this JSON Schema: the schema itself, or a .json file relative to the "
            "project root. Its properties become the columns of the output."
        ),
        examples=["configs/paper.json"],
    )
    column: str | None = Field(
        default=None,
        min_length=1,
        description="The column for the answer. Default: `label` with labels, `response` for plain text.",
        examples=["topic"],
    )
    rows_per_part: int = Field(
        default=5000, ge=1, description="How many input rows each Parquet file of the output covers."
    )

    @field_validator("json_schema", mode="before")
    @classmethod
    def _schema(cls, schema: object, info: ValidationInfo) -> object:
        if schema is None:
            return None
        if not isinstance(schema, Mapping | str):
            complain([Finding(f"must be a JSON Schema or the path of a .json file, got {say(schema)}")])
        findings = []
        if info.data.get("labels") is not None:
            hint = "labels make their own schema; keep one of them"
            findings.append(Finding("and `output.labels` exclude each other", on_key=True, hint=hint))
        if isinstance(schema, str) and not schema.lower().endswith(".json"):
            findings.append(Finding(f"must be a JSON Schema or the path of a .json file, got {say(schema)}"))
        if isinstance(schema, Mapping):
            findings += schema_findings(schema, strict=info.data.get("strict", True))
        complain(findings)
        return schema

    @field_validator("column")
    @classmethod
    def _column(cls, column: str | None, info: ValidationInfo) -> str | None:
        findings = []
        if column is not None and column.startswith("_"):
            hint = "names that begin with an underscore are the runner's own"
            findings.append(Finding(f"must not begin with an underscore, got {say(column)}", hint=hint))
        if column is not None and info.data.get("json_schema") is not None:
            hint = "each property of the schema is a column by its own name"
            findings.append(Finding("has no meaning with `output.schema`", hint=hint, on_key=True))
        complain(findings)
        return column


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


class RetrySpec(Section):
    """How often and how long a request is tried."""

    max_attempts: Annotated[int, Hint("1 sends each request once")] = Field(
        default=6, ge=1, description="How often a request may be sent."
    )
    invalid_attempts: Annotated[int, Hint("1 asks once")] = Field(
        default=3, ge=1, description="How often an answer that does not fit may be asked for. Each one is paid for."
    )
    timeout_s: float = Field(default=60, gt=0, description="How long one attempt may take, in seconds.")
    deadline_s: float = Field(
        default=600, gt=0, description="How long a row may take with all its attempts, in seconds."
    )


class StopSpec(Section):
    """When to give up on the whole run."""

    max_error_rate: Annotated[float | None, Hint("`null` never stops; 0.5 stops when half of the rows fail")] = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Stop when more than this share of the rows failed; `null`: never.",
        examples=[0.2],
    )
    after: int = Field(default=100, ge=1, description="Look at the error rate only after this many rows.")


_PARAMETERS = (
    "temperature",
    "top_p",
    "seed",
    "max_output_tokens",
    "max_completion_tokens",
    "max_tokens",
    "reasoning",
    "reasoning_effort",
    "service_tier",
    "verbosity",
)


class JobSpec(Section):
    """One batch job: an input, a question about each row, and where the answers come from."""

    meant: ClassVar[Mapping[str, str]] = {
        **{name: f"parameters.{name}" for name in _PARAMETERS},
        "messages": "prompt.messages",
        "system": "prompt.system",
        "user": "prompt.user",
        "rpm": "limits.requests_per_minute",
        "tpm": "limits.tokens_per_minute",
        "workers": "limits.concurrency",
        "data": "input.path",
        "dataset": "input.path",
    }

    name: str = Field(
        default="job",
        description="The name of the job and of its folder in outputs/. Default: the name of the file.",
        examples=["arxiv-topics"],
        max_length=100,
        json_schema_extra={"pattern": r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"},
    )
    input: InputSpec = Field(description="Where the rows come from.")
    prompt: PromptSpec = Field(description="What the model is asked about each row.")
    output: OutputSpec = Field(
        default_factory=OutputSpec,
        description="What an answer must look like: `labels`, a `schema`, or (without both) plain text.",
    )
    model: str = Field(min_length=1, description="The model, as the endpoint names it.", examples=["gpt-6-luna"])
    api: Literal["responses", "chat"] = Field(
        default="responses",
        description=(
            "Which API to call: `responses` (OpenAI), or `chat` (chat completions: also vLLM, Ollama, gateways)."
        ),
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="Further parameters of the request, passed on as they are.",
        examples=[{"max_output_tokens": 50}],
    )
    endpoint: str = Field(
        default="openai",
        min_length=1,
        description="Where to send the requests: a name in configs/endpoints.yaml; `simulator` for a rehearsal.",
        examples=["simulator"],
    )
    strategy: str = Field(
        default="asyncio",
        description="How the requests are carried out.",
        json_schema_extra={"enum": list(KNOWN_STRATEGIES)},
    )
    transport: Literal["aiohttp", "sdk"] = Field(
        default="aiohttp",
        description="`aiohttp` (fast), or `sdk` (every request through the OpenAI SDK). The requests are the same.",
    )
    limits: LimitsSpec = Field(
        default_factory=LimitsSpec,
        description="How fast the run may go. Default: the limits of the endpoint.",
    )
    retry: RetrySpec = Field(
        default_factory=RetrySpec,
        description="How often and how long a request is tried.",
    )
    stop: StopSpec = Field(
        default_factory=StopSpec,
        description="When to give up on the whole run.",
    )

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
            hint = f"for example `{job_name(name)}`" if name.strip() else "leave the key out for the file's name"
            complain([Finding(f"may hold letters, digits and `.` `_` `-` only, got {say(name)}", hint=hint)])
        return name

    @field_validator("parameters")
    @classmethod
    def _parameters(cls, parameters: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        complain(list(_parameter_findings(parameters, info.data.get("api"))))
        return parameters

    @field_validator("strategy")
    @classmethod
    def _strategy(cls, strategy: str) -> str:
        if strategy not in KNOWN_STRATEGIES:
            near = suggest(strategy, KNOWN_STRATEGIES)
            hint = near or f"there is {listed(KNOWN_STRATEGIES)}"
            complain([Finding(f"must be {listed(KNOWN_STRATEGIES, 'or')}, got {say(strategy)}", hint=hint)])
        return strategy


def job_name(text: str) -> str:
    """A job's name made of any text, such as the stem of its file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:100] or "job"


# What the request's parameters may not say ----------------------------------------------------------------------------

_ELSEWHERE = {
    "model": "write it as `model`, at the top of the job file",
    "messages": "write it as `prompt.messages`",
    "input": "write it as `prompt.user` or `prompt.messages`",
    "instructions": "write it as `prompt.system`",
    "prompt": "write it as `prompt.user` or `prompt.messages`",
    "response_format": "write it as `output.schema` or `output.labels`",
    "text.format": "write it as `output.schema` or `output.labels`",
    "stream": "leave it out: the runner reads whole replies",
    "stream_options": "leave it out: the runner reads whole replies",
    "background": "leave it out: the runner waits for each reply",
}


def _parameter_findings(parameters: Mapping[str, Any], api: str | None) -> Iterator[Finding]:
    for key, value in parameters.items():
        if key in _ELSEWHERE:
            yield Finding("cannot be set here", (key,), _ELSEWHERE[key], on_key=True)
        elif key == "text" and isinstance(value, Mapping) and "format" in value:
            yield Finding("cannot be set here", (key, "format"), _ELSEWHERE["text.format"], on_key=True)
        elif key == "n" and value != 1:
            yield Finding(f"must be 1, got {say(value)}", (key,), "each row gets one answer; leave it out")
        elif api == "responses" and key in ("max_tokens", "max_completion_tokens"):
            yield Finding(
                "is not a parameter of the Responses API", (key,), "did you mean `max_output_tokens`?", on_key=True
            )
        elif api == "chat" and key == "max_output_tokens":
            yield Finding(
                "is not a parameter of chat completions", (key,), "did you mean `max_completion_tokens`?", on_key=True
            )


# What a schema for answers must be ------------------------------------------------------------------------------------


def schema_findings(schema: Mapping[str, Any], *, strict: bool) -> list[Finding]:
    """Everything that keeps a JSON Schema from describing answers; places are relative to the schema."""
    import jsonschema_rs

    try:
        jsonschema_rs.meta.validate(dict(schema))
    except jsonschema_rs.ValidationError as error:
        at = tuple(error.instance_path)
        return [Finding(f"is not valid JSON Schema: {_first_line(error.message)}", at)]
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        return [Finding(f"is not valid JSON Schema: {_first_line(str(error))}")]
    findings = []
    if schema.get("type") != "object" or not isinstance(schema.get("properties"), Mapping) or not schema["properties"]:
        hint = "write `type: object`, and the fields of the answer under `properties`"
        findings.append(Finding("must be an object with properties at its top level", hint=hint))
    else:
        for name in schema["properties"]:
            if name.startswith("_"):
                hint = "names that begin with an underscore are the runner's own columns"
                findings.append(Finding("must not begin with an underscore", ("properties", name), hint, on_key=True))
            elif not name.strip():
                findings.append(Finding("must not be empty: it becomes a column", ("properties", name), on_key=True))
    for at, part in _subschemas(schema):
        reference = part.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            hint = "write what it refers to under `$defs`"
            findings.append(Finding(f"must point inside the schema, got {say(reference)}", (*at, "$ref"), hint))
    if not findings:
        try:
            jsonschema_rs.validator_for(dict(schema))
        except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
            findings.append(Finding(f"cannot be used: {_first_line(str(error))}"))
    if strict:
        for at, part in _subschemas(schema):
            findings += _strict_findings(part, at)
    return findings


def _strict_findings(part: Mapping[str, Any], at: At) -> Iterator[Finding]:
    kind = part.get("type")
    properties = part.get("properties")
    if kind != "object" and not (isinstance(kind, Sequence) and "object" in kind) and properties is None:
        return
    if part.get("additionalProperties") is not False:
        hint = "add it, or set `output.strict: false`"
        yield Finding("needs `additionalProperties: false`", at, hint)
    required = part.get("required", ())
    missing = [name for name in properties or () if name not in required]
    if missing:
        hint = f"add {listed(missing)} to `required`, or set `output.strict: false`"
        yield Finding("must require all its properties", at, hint)


_MAPS_OF_SCHEMAS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = ("items", "not", "if", "then", "else", "contains", "additionalProperties", "propertyNames")


def _subschemas(schema: object, at: At = ()) -> Iterator[tuple[At, Mapping[str, Any]]]:
    """The schema and all schemas in it, each with its place."""
    if not isinstance(schema, Mapping):
        return
    yield at, schema
    for key in _MAPS_OF_SCHEMAS:
        inner = schema.get(key)
        if isinstance(inner, Mapping):
            for name, part in inner.items():
                yield from _subschemas(part, (*at, key, name))
    for key in _LISTS_OF_SCHEMAS:
        inner = schema.get(key)
        if isinstance(inner, list | tuple):
            for index, part in enumerate(inner):
                yield from _subschemas(part, (*at, key, index))
    for key in _SCHEMAS:
        yield from _subschemas(schema.get(key), (*at, key))


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else "unknown reason"
    return line if len(line) <= 160 else f"{line[:159]}…"


# For editors, and for resuming ----------------------------------------------------------------------------------------


def job_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the job file."""
    schema = JobSpec.model_json_schema(by_alias=True)
    for part in (schema, *schema["$defs"].values()):
        for field in part.get("properties", {}).values():
            field.pop("title", None)  # pydantic's titles only repeat the key
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Job file",
    }


ANSWER_KEYS = ("input", "prompt", "output", "model", "api", "parameters", "endpoint")
"""The keys of a job that decide what its answers are, and which rows and parts they stand in."""


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The dotted keys, among those that decide the answers, in which two dumped jobs differ.

    Args:
        old: a job as `as_run` gave it (or `JobSpec.model_dump(mode="json")`), perhaps read back from a file.
        new: the same of the other job.
    """
    return [
        dotted(at) for key in ANSWER_KEYS for at in _differences(old.get(key, _ABSENT), new.get(key, _ABSENT), (key,))
    ]


_ABSENT = object()


def _differences(old: Any, new: Any, at: At) -> Iterator[At]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key, _ABSENT), new.get(key, _ABSENT), (*at, key))
    elif old is _ABSENT or new is _ABSENT or not _same(old, new):
        yield at


def _same(old: Any, new: Any) -> bool:
    """Equal, where 60 and 60.0 are one number; 1 and true are not."""
    return bool(old == new) and isinstance(old, bool) == isinstance(new, bool)
