"""Which columns of the answers are compared with which columns of the input."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from runner.dataset.columns import is_json_text
from runner.schema_rules import target

Kind = Literal["choice", "yes_no", "several"]


@dataclass(frozen=True, slots=True)
class Question:
    """A column of answers, and the column of the input that holds the right ones.

    Attributes:
        kind: `choice`: one value; `yes_no`: true or false, or how probable yes is; `several`: a list of values.
        labels: what may be answered, in the job's order; None: anything.
        probability: the column that says how probable the answer is (of `yes_no`: how probable yes is).
    """

    answer: str
    expected: str
    kind: Kind
    labels: tuple[str, ...] | None = None
    probability: str | None = None

    @property
    def columns(self) -> list[str]:
        return [self.answer, self.expected, *([self.probability] if self.probability else [])]


def kind_of(field: pa.Field) -> Kind | None:
    """Return how answers of this column are compared; None: they cannot be."""
    kind = field.type
    if is_json_text(field) or pa.types.is_struct(kind):
        return None
    if pa.types.is_boolean(kind) or pa.types.is_floating(kind):
        return "yes_no"
    if pa.types.is_list(kind):
        return "several" if kind.value_type in (pa.string(), pa.int64(), pa.bool_()) else None
    return "choice"


def named(expected: str | Mapping[str, str], answers: Sequence[pa.Field]) -> dict[str, str]:
    """Return column of the answer to column of the input, as `evaluate.expected` says.

    One column of the input is for the first column of the answer that is text, else for the first one that can be
    compared. Empty where there is none.
    """
    if not isinstance(expected, str):
        return dict(expected)
    kinds = {field.name: kind_of(field) for field in answers}
    first = [field.name for field in answers if kinds[field.name] == "choice" and field.type == pa.string()]
    return dict.fromkeys([*first, *(name for name in kinds if kinds[name])][:1], expected)


def question(answer: str, expected: str, schema: pa.Schema, output: Mapping[str, Any]) -> Question:
    """Return how a column of the answer, which can be compared, is compared.

    Args:
        schema: the answer's columns, perhaps among others.
        output: the job's section `output`, as plain data, with its schema read from its file.
    """
    asked = output.get("questions") or {}
    if asked.get(answer, {}).get("score") is not None:
        answer = f"{answer}_level"  # the score itself is a mean, and no level
    field = schema.field(answer)
    kind = kind_of(field)
    assert kind is not None, answer
    if kind == "yes_no":
        probable = answer if pa.types.is_floating(field.type) else None
        return Question(answer, expected, kind, ("yes", "no"), probable)
    confidence = f"{answer if answer in asked else answer.removesuffix('_level')}_confidence"
    known = kind == "choice" and confidence in schema.names and pa.types.is_floating(schema.field(confidence).type)
    return Question(answer, expected, kind, _labels(answer, output), confidence if known else None)


def text(value: Any) -> str:
    """Return a value as it is compared: text as it is, all else as JSON writes it; 1.0 is 1."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _labels(answer: str, output: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return what the job lets a column hold, as text."""
    if output.get("labels") is not None:
        return tuple(output["labels"])
    for name, question in (output.get("questions") or {}).items():
        if answer in (name, f"{name}_level") and (options := question.get("choice") or question.get("score")):
            return tuple(options)
    schema = output.get("schema") or {}
    allowed = _enum(schema.get("properties", {}).get(answer), schema)
    return None if allowed is None else tuple(dict.fromkeys(text(value) for value in allowed if value is not None))


def _enum(spec: Any, root: Mapping[str, Any], depth: int = 0) -> list[Any] | None:
    """Return the values that a JSON Schema lists: its own, those of what it refers to, or of the items of its list."""
    if not isinstance(spec, Mapping) or depth > 8:
        return None
    if "enum" in spec or "const" in spec:
        return list(spec.get("enum", [spec.get("const")]))
    inner = [option for union in ("anyOf", "oneOf") for option in spec.get(union, []) if option != {"type": "null"}]
    if "$ref" in spec:
        inner = [target(str(spec["$ref"]), root)]
    elif "items" in spec:
        inner = [spec["items"]]
    return _enum(inner[0], root, depth + 1) if len(inner) == 1 else None
