"""The job file as a type.

Reading the file is `load`'s part. The descriptions become the help that editors show (`runner schema`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from runner import incremental_section, strategies
from runner.incremental_section import IncrementalSpec
from runner.notify_section import NotifySpec, not_a_list
from runner.output_section import MOST_CHOICES, MOST_QUESTIONS, OutputSpec
from runner.problems import At, Finding, complain, listed, say, suggest
from runner.schedule.section import ScheduleSpec, short_form
from runner.sections import (
    BudgetSpec,
    EvaluateSpec,
    InputSpec,
    KeepSpec,
    LimitsSpec,
    OneOrMore,
    PromptSpec,
    RetrySpec,
    Section,
    StopSpec,
)

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

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

# What `runner plan` calls ways to carry a job out are not the names of strategies.
_OF_WAYS = {
    "hybrid": 'write `{name: batch_api, deadline: "06:00"}`',
    "flex": "write `parameters: {service_tier: flex}`, which any live strategy takes",
    "standard": "leave it out, or write `asyncio`",
}


def _without_default(schema: dict[str, Any]) -> None:
    """Leave out of a key's schema what it is by default, where that depends on other keys."""
    schema.pop("default")


class JobSpec(Section):
    """One batch job: an input, a question about each row, and where the answers come from."""

    meant: ClassVar[Mapping[str, str]] = {
        **{name: f"parameters.{name}" for name in _PARAMETERS},
        "messages": "prompt.messages",
        "system": "prompt.system",
        "user": "prompt.user",
        "rpm": "limits.requests_per_minute",
        "tpm": "limits.tokens_per_minute",
        "flex_fallback": "retry.flex_fallback",
        "workers": "limits.concurrency",
        "data": "input.path",
        "dataset": "input.path",
        "alerts": "notify",
        "ping": "notify.ping",
        "cron": "schedule",
        "timezone": "schedule.timezone",
        "only_new": "incremental",
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
        description="What an answer must look like: `labels`, `questions`, a `schema`, or (without these) plain text.",
    )
    model: OneOrMore = Field(
        description="The model, as the endpoint names it; or a list of models: each row is asked of all of them.",
        examples=["gpt-6-luna"],
    )
    api: Literal["responses", "chat", "decisions"] = Field(
        default="responses",
        description=(
            "Which API to call: `responses` (OpenAI), `chat` (chat completions: also vLLM, Ollama, gateways), or "
            "`decisions` (OpenAI: labels and questions, answered with probabilities)."
        ),
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="Further parameters of the request, passed on as they are.",
        examples=[{"max_output_tokens": 50}],
    )
    endpoint: OneOrMore = Field(
        default="openai",
        description=(
            "Where to send the requests: a name in configs/endpoints.yaml; `simulator` for a rehearsal. "
            "Or a list of names: each request goes to the one of them that has room."
        ),
        examples=["simulator"],
    )
    strategy: str | dict[str, Any] = Field(
        default="asyncio",
        description="How the requests are carried out: a name, or a mapping with `name` and the strategy's options.",
        examples=["asyncio"],
    )
    transport: Literal["aiohttp", "sdk"] = Field(
        default="aiohttp",
        description="`aiohttp` (fast), or `sdk` (every request through the OpenAI SDK). The requests are the same.",
    )
    limits: LimitsSpec = Field(
        default_factory=LimitsSpec,
        description="How fast the run may go. Default: the limits of the endpoint.",
    )
    budget: BudgetSpec = Field(
        default_factory=BudgetSpec,
        description="What the run may cost. Default: no cap.",
    )
    incremental: Annotated[IncrementalSpec | None, BeforeValidator(incremental_section.short_form)] = Field(
        default=None,
        description=(
            "Send only the rows that are new or changed since the job's earlier runs: `id`, `content`, or a mapping "
            "with `by`. Default: every row."
        ),
        examples=["id", {"by": "content"}],
    )
    reuse: bool = Field(
        default=None,
        validate_default=True,
        description=(
            "Take answers from the job's earlier runs where the request is the same; they cost nothing. "
            "Default: `true` with `incremental`, else `false`."
        ),
        json_schema_extra=_without_default,
    )
    dedupe: bool = Field(
        default=False,
        description="Send identical requests of one run once, and give the answer to each such row.",
    )
    retry: RetrySpec = Field(
        default_factory=RetrySpec,
        validate_default=True,
        description="How often and how long a request is tried.",
    )
    stop: StopSpec = Field(
        default_factory=StopSpec,
        description="When to give up on the whole run.",
    )
    evaluate: EvaluateSpec | None = Field(
        default=None,
        description="How good the answers are, compared with a column of the input that holds the right ones.",
    )
    notify: Annotated[NotifySpec | None, BeforeValidator(not_a_list)] = Field(
        default=None,
        description="Who is told how the job goes: failures, recoveries, lateness. Default: nobody.",
    )
    keep: KeepSpec | None = Field(
        default=None,
        description="Which runs `runner prune` keeps. Default: all.",
        examples=[{"runs": 90, "days": 365}],
    )
    schedule: Annotated[ScheduleSpec | None, BeforeValidator(short_form)] = Field(
        default=None,
        description="When the job runs by itself: a cron line, or a mapping with `cron` and more. Default: never.",
        examples=["0 2 * * *"],
    )

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            hint = f"for example `{job_name(name)}`" if name.strip() else "leave the key out for the file's name"
            complain([Finding(f"may hold letters, digits and `.` `_` `-` only, got {say(name)}", hint=hint)])
        return name

    @field_validator("incremental")
    @classmethod
    def _incremental(cls, incremental: IncrementalSpec | None, info: ValidationInfo) -> IncrementalSpec | None:
        source = info.data.get("input")
        if incremental is not None and incremental.by == "id" and source is not None and source.id is None:
            text = "goes by the ids of the rows, and `input.id` is not set"
            hint = "write `input: {id: COLUMN}`, or `incremental: content`"
            complain([Finding(text, hint=hint)])
        return incremental

    @field_validator("reuse", mode="before")
    @classmethod
    def _reuse(cls, reuse: object, info: ValidationInfo) -> object:
        return info.data.get("incremental") is not None if reuse is None else reuse

    @field_validator("api")
    @classmethod
    def _api(cls, api: str, info: ValidationInfo) -> str:
        if api == "decisions" and "output" in info.data:
            complain(list(_decisions_findings(info.data["output"])))
        return api

    @field_validator("parameters")
    @classmethod
    def _parameters(cls, parameters: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        complain(list(_parameter_findings(parameters, info.data.get("api"))))
        return parameters

    @field_validator("retry")
    @classmethod
    def _retry(cls, retry: RetrySpec, info: ValidationInfo) -> RetrySpec:
        if "parameters" not in info.data:
            return retry  # which is wrong, and said so
        if info.data["parameters"].get("service_tier") == "flex":
            return retry.patient()
        if retry.flex_fallback is not None:
            text = "has no meaning without `parameters: {service_tier: flex}`"
            complain([Finding(text, ("flex_fallback",), "leave it out, or ask for flex", on_key=True)])
        return retry

    @field_validator("strategy", mode="before")
    @classmethod
    def _strategy(cls, strategy: object) -> object:
        """Look at the name; the options are the strategy's business (`load`)."""
        known = strategies.names()
        if not isinstance(strategy, str | dict):
            hint = f"there is {listed(known)}"
            complain([Finding(f"must be a name, or a mapping with `name`, got {say(strategy)}", hint=hint)])
        at: At = ()
        name: object = strategy
        if isinstance(strategy, dict):
            if "name" not in strategy:
                complain([Finding("lacks `name`", hint="for example `{name: threads, workers: 8}`")])
            at, name = ("name",), strategy["name"]
        if not isinstance(name, str) or name not in known:
            near = _OF_WAYS.get(str(name)) or suggest(name, known) or "docs/strategies.md tells what each is for"
            complain([Finding(f"must be one of {listed(known, 'or')}, got {say(name)}", at, near)])
        return strategy

    @property
    def asks_flex(self) -> bool:
        """Whether the requests ask for the flex tier."""
        return bool(self.parameters.get("service_tier") == "flex")

    @property
    def models(self) -> tuple[str, ...]:
        """The models that each row is asked of."""
        return (self.model,) if isinstance(self.model, str) else self.model

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The names of the endpoints that requests may go to."""
        return (self.endpoint,) if isinstance(self.endpoint, str) else self.endpoint

    @property
    def strategy_name(self) -> str:
        return self.strategy if isinstance(self.strategy, str) else str(self.strategy["name"])

    @property
    def strategy_options(self) -> dict[str, Any]:
        """What stands beside the name."""
        return {} if isinstance(self.strategy, str) else {k: v for k, v in self.strategy.items() if k != "name"}


def job_name(text: str) -> str:
    """A job's name made of any text, such as the stem of its file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:100] or "job"


def name_of(data: Mapping[str, Any], job_file: Path) -> str:
    """Return the name of a job as its file has it, which was not checked: that of the file where it is none."""
    name = str(data.get("name") or "")
    return name if _NAME.fullmatch(name) else job_name(job_file.stem)


def job_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the job file."""
    schema = JobSpec.model_json_schema(by_alias=True)
    schema["properties"]["strategy"]["anyOf"] = _strategy_schemas()
    schema["properties"]["schedule"]["anyOf"].insert(0, {"type": "string", "minLength": 9})
    schema["properties"]["incremental"]["anyOf"].insert(0, {"enum": ["id", "content"]})
    for part in (schema, *schema["$defs"].values()):
        for field in part.get("properties", {}).values():
            field.pop("title", None)  # pydantic's titles only repeat the key
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Job file",
    }


def _strategy_schemas() -> list[dict[str, Any]]:
    """What may stand under `strategy`: a name, or a mapping with the options of that one. Other packages add theirs."""
    mappings = []
    for name in strategies.OWN:
        options = strategies.load(name).Options.model_json_schema().get("properties", {})
        for option in options.values():
            option.pop("title", None)
        properties = {"name": {"const": name}, **options}
        mappings.append(
            {"type": "object", "properties": properties, "required": ["name"], "additionalProperties": False}
        )
    return [{"enum": list(strategies.OWN)}, *mappings]


def _decisions_findings(output: OutputSpec) -> Iterator[Finding]:
    """What the Decisions API cannot be asked."""
    if not output.asked:
        text = "`api: decisions` answers questions, and `output` asks none"
        hint = "write `output.labels` or `output.questions`; plain text and a `schema` take `api: responses`"
        yield Finding(text, hint=hint, whole=True)
    if output.labels is not None and len(output.labels) > MOST_CHOICES:
        text = f"`api: decisions` takes at most {MOST_CHOICES} labels, and there are {len(output.labels)}"
        yield Finding(text, hint="`api: responses` takes more", whole=True)
    count = sum(question.decisions for question in output.asked.values())
    if count > MOST_QUESTIONS:
        text = f"`api: decisions` takes at most {MOST_QUESTIONS} questions a request, and these make {count}"
        hint = "each choice of a `multi` question is one; `api: responses` asks them all in one schema"
        yield Finding(text, hint=hint, whole=True)


# What the request's parameters may not say ----------------------------------------------------------------------------

_ELSEWHERE = {
    "model": "write it as `model`, at the top of the job file",
    "messages": "write it as `prompt.messages`",
    "input": "write it as `prompt.user` or `prompt.messages`",
    "instructions": "write it as `prompt.system`",
    "prompt": "write it as `prompt.user` or `prompt.messages`",
    "questions": "write them as `output.questions`",
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
