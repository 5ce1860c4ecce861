"""The sections of the job file: what may stand in each, what each key means, and what cannot be meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from runner.problems import At, Finding, Hint, complain, listed, say, suggest
from runner.schema_rules import schema_findings

DEFAULT_CONCURRENCY = 64
MOST_QUESTIONS = 400  # of one request to /v1/decisions, as openai/types/decision_create_params.py has it
MOST_CHOICES = 255  # of one question there
REFUSED = "refused"  # the column with the names of the questions that the model would not answer
NEEDS_REVIEW = "needs_review"  # the column that says whether someone should look at the answer

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
    complain(_name_findings(values))
    return values


def _name_findings(values: tuple[str, ...]) -> list[Finding]:
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


def _list_or_mapping(value: object) -> object:
    if isinstance(value, list | tuple):
        hint = "with descriptions it is one mapping, without the `-`: `{first: what it means, second: …}`"
        complain([Finding("must be text, got a mapping", (index,), hint)
                  for index, item in enumerate(value) if isinstance(item, Mapping)][:1])  # fmt: skip
    if value is None or isinstance(value, list | tuple | Mapping):
        return value
    hint = f"write [{value}]" if isinstance(value, str) and len(value) < 60 else "write [first, second]"
    complain([Finding(f"must be a list or a mapping, got {say(value)}", hint=hint)])
    return value


def _different(options: Options) -> Options:
    names = tuple(options)
    findings = _name_findings(names)
    if isinstance(options, Mapping):
        findings = [Finding(each.text, (names[int(each.at[0])],), on_key=True) for each in findings]
    complain(findings)
    return options


Options = tuple[str, ...] | dict[str, str | None]
"""What to choose from, in order: as it is, or each with its description (or None)."""

_AnyOptions = Annotated[
    Annotated[Many[str], Tag("<list>")] | Annotated[dict[str, str | None], Tag("<mapping>")],
    Discriminator(lambda value: "<mapping>" if isinstance(value, Mapping) else "<list>"),
    BeforeValidator(_list_or_mapping),
    AfterValidator(_different),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "string"}, "minItems": 2},
                {"type": "object", "additionalProperties": {"type": ["string", "null"]}, "minProperties": 2},
            ]
        }
    ),
]


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
            "What to do with a row that cannot be used: `fail` stops before anything is sent, "
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


_TEMPLATE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)


class QuestionSpec(Section):
    """One question about each row: `choice`, `yes_no` or `score`."""

    meant: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("labels", "options", "values", "enum"), "choice"),
        **dict.fromkeys(("predicate", "statement", "bool", "boolean", "true_false"), "yes_no"),
        **dict.fromkeys(("levels", "scale", "rating", "rate"), "score"),
        **dict.fromkeys(("question", "instructions", "prompt", "text", "description"), "ask"),
        **dict.fromkeys(("threshold", "review_below", "min_confidence"), "accept_at"),
    }

    choice: _AnyOptions | None = Field(
        default=None,
        description="The answer is one of these (2 to 255): a list, or a mapping of each to its description.",
        examples=[["machine learning", "physics", "other"]],
    )
    yes_no: str | None = Field(
        default=None,
        description="The answer is how probable it is, from 0 to 1, that this statement is true.",
        examples=["The paper reports an experiment on real data."],
    )
    score: _AnyOptions | None = Field(
        default=None,
        description=(
            "The answer is a level of this scale, from the lowest (0) to the highest: a list, or a mapping of each to "
            "its description."
        ),
        examples=[["incremental", "solid", "striking"]],
    )
    ask: str | None = Field(
        default=None,
        description="The question, in words. Needed with `choice` and `score`; a `yes_no` statement is its own.",
        examples=["What is the paper mainly about?"],
    )
    multi: bool = Field(default=False, description="With `choice`: any number of the choices may apply.")
    accept_at: Annotated[float | None, Hint("0.8 has all that is less sure than 80 % reviewed")] = Field(
        default=None,
        gt=0,
        le=1,
        description="A row whose answer is less sure than this has `needs_review` set.",
        examples=[0.8],
    )

    @model_validator(mode="after")
    def _whole(self) -> QuestionSpec:
        complain(list(self._findings()))
        return self

    def _findings(self) -> Iterator[Finding]:
        given = [kind for kind in ("choice", "yes_no", "score") if getattr(self, kind) is not None]
        if not given:
            yield Finding(
                "needs `choice`, `yes_no` or `score`", hint="for example `{choice: [a, b], ask: Which one is it?}`"
            )
        for kind in given[1:]:
            hint = "keep one of them, or make two questions of them"
            yield Finding(f"and its `{given[0]}` exclude each other", (kind,), hint, on_key=True)
        for kind in ("choice", "score"):
            if getattr(self, kind) is not None:
                yield from _too_many_or_few(getattr(self, kind), (kind,))
        for key, text in (("yes_no", self.yes_no), ("ask", self.ask)):
            if text is not None and not text.strip():
                yield Finding("must not be empty", (key,))
            if text is not None and (braces := _TEMPLATE.search(text)):
                hint = "what differs from row to row goes into `prompt`; every row is asked the same"
                yield Finding(f"is no template: `{braces[0]}` would be sent as it stands", (key,), hint)
        if len(given) != 1:
            return
        [kind] = given
        if kind == "yes_no" and self.ask is not None:
            hint = "the statement of `yes_no` is what is asked: write all of it there"
            yield Finding("has no meaning with `yes_no`", ("ask",), hint, on_key=True)
        if kind == "yes_no" and self.accept_at is not None and self.accept_at <= 0.5:
            hint = "yes or no is always at least half sure; 0.8 has all between 20 % and 80 % reviewed"
            yield Finding(f"must be above 0.5 with `yes_no`, got {self.accept_at:g}", ("accept_at",), hint)
        if kind != "yes_no" and self.ask is None:
            example = "Which of them is it?" if kind == "choice" else "How much of it is there?"
            yield Finding(f"with `{kind}` needs `ask`", hint=f"for example `ask: {example}`")
        if kind != "choice" and self.multi:
            yield Finding(f"has no meaning with `{kind}`", ("multi",), "it is for `choice`", on_key=True)

    @model_serializer(mode="wrap")
    def _as_written(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in inner(self).items() if value is not None and value is not False}

    def columns(self, name: str) -> tuple[str, ...]:
        """The columns of its answer, where the question is called `name`; the answer itself comes first."""
        if self.yes_no is not None:
            return (name,)
        level = (f"{name}_level",) if self.score is not None else ()
        return (name, *level, f"{name}_confidence", f"{name}_probabilities")

    @property
    def decisions(self) -> int:
        """How many of the questions of `POST /v1/decisions` it takes."""
        return len(self.choice) if self.choice is not None and self.multi else 1


_LABEL_ASK = "Which of these labels is the answer to what the messages ask?"


class OutputSpec(Section):
    """What an answer must look like: one of `labels`, the fields of `schema`, answers to `questions`, or plain text."""

    meant: ClassVar[Mapping[str, str]] = {
        **{kind: f"output.questions.NAME.{kind}" for kind in ("choice", "yes_no", "score", "ask")},
        **dict.fromkeys(("threshold", "review_below", "min_confidence"), "accept_at"),
    }

    labels: _AnyOptions | None = Field(
        default=None,
        description=(
            "The answer is one of these: a list, or a mapping of each label to its description. At least two, "
            "all different."
        ),
        examples=[["positive", "negative", "neutral"]],
    )
    multi: bool = Field(default=False, description="With `labels`: any number of them may apply.")
    accept_at: Annotated[float | None, Hint("0.8 has all that is less sure than 80 % reviewed")] = Field(
        default=None,
        gt=0,
        le=1,
        description="With `labels`: a row whose answer is less sure than this has `needs_review` set.",
        examples=[0.8],
    )
    questions: dict[str, QuestionSpec] | None = Field(
        default=None,
        description="Questions about each row, by name: up to 400. Each becomes columns of that name.",
        examples=[{"topic": {"choice": ["ml", "physics", "other"], "ask": "What is the paper mainly about?"}}],
        json_schema_extra={"minProperties": 1, "maxProperties": MOST_QUESTIONS},
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
    layout: Literal["long", "wide"] = Field(
        default="long",
        description=(
            "With several models: `long` gives one row per input row and model, `wide` one row per input row, "
            "with a group of columns for each model (`MODEL.COLUMN`)."
        ),
    )
    rows_per_part: int = Field(
        default=5000, ge=1, description="How many input rows each Parquet file of the output covers."
    )

    @field_validator("labels")
    @classmethod
    def _labels(cls, labels: Options | None) -> Options | None:
        if labels is not None and len(labels) < 2:
            complain([Finding(f"must hold at least 2, got {len(labels)}")])
        return labels

    @field_validator("multi", "accept_at")
    @classmethod
    def _of_labels(cls, value: bool | float | None, info: ValidationInfo) -> bool | float | None:
        if value and "labels" in info.data and info.data["labels"] is None:
            hint = f"with questions, write it as `output.questions.NAME.{info.field_name}`"
            complain([Finding("needs `output.labels`", hint=hint, on_key=True)])
        return value

    @field_validator("questions")
    @classmethod
    def _questions(
        cls, questions: Mapping[str, QuestionSpec] | None, info: ValidationInfo
    ) -> Mapping[str, QuestionSpec] | None:
        if questions is None:
            return None
        findings = []
        if info.data.get("labels") is not None:
            hint = "keep one of them: labels are a `choice` question too"
            findings.append(Finding("and `output.labels` exclude each other", hint=hint, on_key=True))
        if not questions:
            findings.append(Finding("must not be empty"))
        if len(questions) > MOST_QUESTIONS:
            findings.append(Finding(f"must hold at most {MOST_QUESTIONS}, got {len(questions)}"))
        findings += _question_names(questions)
        complain(findings)
        return questions

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
        if info.data.get("questions") is not None:
            hint = "questions make their own schema; keep one of them"
            findings.append(Finding("and `output.questions` exclude each other", on_key=True, hint=hint))
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
        if column is not None and info.data.get("questions") is not None:
            hint = "the name of each question is its column"
            findings.append(Finding("has no meaning with `output.questions`", hint=hint, on_key=True))
        if column in (REFUSED, NEEDS_REVIEW) and (info.data.get("multi") or info.data.get("accept_at")):
            findings.append(Finding(f"must be another name: the output has a column {say(column)} of its own"))
        complain(findings)
        return column

    @property
    def one_label(self) -> bool:
        """Whether the answer is one label and nothing besides: no confidence, nothing to review."""
        return self.labels is not None and not self.multi and self.accept_at is None

    @property
    def asked(self) -> dict[str, QuestionSpec]:
        """The questions by their columns; labels are one question. Empty with a schema or plain text."""
        if self.labels is not None:
            question = QuestionSpec.model_construct(
                choice=self.labels, ask=_LABEL_ASK, multi=self.multi, accept_at=self.accept_at
            )
            return {self.column or "label": question}
        return dict(self.questions or {})


def _too_many_or_few(options: Options, at: At) -> Iterator[Finding]:
    if len(options) < 2:
        hint = "a question with one answer needs no model" if len(options) == 1 else None
        yield Finding(f"must hold at least 2, got {len(options)}", at, hint)
    elif len(options) > MOST_CHOICES:
        yield Finding(f"must hold at most {MOST_CHOICES}, got {len(options)}", at)


def _question_names(questions: Mapping[str, QuestionSpec]) -> Iterator[Finding]:
    """What is wrong with the names: they are columns, and stand in the request."""
    owner: dict[str, str] = {REFUSED: "", NEEDS_REVIEW: ""}
    for name, question in questions.items():
        if name.startswith("_"):
            hint = "names that begin with an underscore are the runner's own columns"
            yield Finding("must not begin with an underscore", (name,), hint, on_key=True)
        elif not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,59}", name):
            hint = f"for example `{re.sub('[^A-Za-z0-9]+', '_', name).strip('_0123456789')[:60] or 'topic'}`"
            text = "must be up to 60 letters, digits and `_`, a letter first: it becomes a column"
            yield Finding(text, (name,), hint, on_key=True)
        for column in question.columns(name):
            if column in owner:
                whose = f"`output.questions.{owner[column]}` has one too" if owner[column] else "the output has one too"
                yield Finding(f"makes a column `{column}`, and {whose}", (name,), "give it another name", on_key=True)
            owner.setdefault(column, name)


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
        description="Stop when more than this share of the rows that were sent failed; `null`: never.",
        examples=[0.2],
    )
    after: int = Field(default=100, ge=1, description="Look at the error rate only after this many rows were sent.")


class EvaluateSpec(Section):
    """How good the answers are, compared with a column of the input."""

    expected: Annotated[str | dict[str, str], BeforeValidator(_column_or_columns)] = Field(
        description=(
            "The input column that holds the right answers; or for each column of the answer, by its name, "
            "the one that holds its right answers."
        ),
        examples=["category", {"topic": "category", "applied": "has_experiment"}],
    )
