"""The section `output` of the job file: what an answer must look like, and the questions that ask for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from runner.problems import At, Finding, Hint, complain, say
from runner.schema_rules import schema_findings
from runner.sections import Many, Section, name_findings

MOST_QUESTIONS = 400  # of one request to /v1/decisions, as openai/types/decision_create_params.py has it
MOST_CHOICES = 255  # of one question there
REFUSED = "refused"  # the column with the names of the questions that the model would not answer
NEEDS_REVIEW = "needs_review"  # the column that says whether someone should look at the answer


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
    findings = name_findings(names)
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
