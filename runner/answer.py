"""What the job asks for and how an answer is checked: plain text, one label, or JSON of a schema.

The answer's columns and their Arrow types follow from the job file alone, so that every part of every run of a
job has the same schema, whatever the model says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Protocol

import jsonschema_rs
import pyarrow as pa

from runner.answer_stats import counted
from runner.dataset.columns import is_json_text, plain_field
from runner.errors import InvalidReply
from runner.output_section import Options
from runner.questions import described, listed_descriptions
from runner.records import Completion
from runner.requests import CHARACTERS_PER_TOKEN
from runner.schema_rules import target

_INT64 = range(-(2**63), 2**63)


class Answer(Protocol):
    """One way to answer."""

    @property
    def asked(self) -> Any:
        """What is asked besides the messages, for `Dialect.format`: a JSON Schema or questions; None: nothing."""

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        """The answer's output columns."""

    @property
    def shortest_tokens(self) -> int:
        """About how many tokens an answer has at least."""

    def read(self, text: str) -> dict[str, Any]:
        """Return the answer's columns.

        Raises:
            InvalidReply: the text is not an answer to what was asked.
        """

    def verdict(self, columns: dict[str, Any]) -> dict[str, Any]:
        """Return of these columns what two answers must share to agree, which leaves out how sure they are."""


class PlainText:
    """The reply's text, as it is."""

    shortest_tokens = 1

    def __init__(self, column: str) -> None:
        self.asked = None
        self.fields = (pa.field(column, pa.string()),)
        self._column = column

    def read(self, text: str) -> dict[str, Any]:
        return {self._column: text}

    def verdict(self, columns: dict[str, Any]) -> dict[str, Any]:
        return columns


class JsonAnswer:
    """A JSON object of a schema; its properties become columns."""

    def __init__(self, schema: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> None:
        """Args:
        columns: column name for each property; default: the property's own name.
        """
        self.asked: dict[str, Any] = dict(schema)
        self._validator = jsonschema_rs.validator_for(self.asked)
        properties: Mapping[str, Any] = self.asked.get("properties") or {}
        names = columns or {name: name for name in properties}
        self._fields = {name: column_field(names[name], spec, self.asked) for name, spec in properties.items()}
        self.fields = tuple(self._fields.values())
        required = sum(len(name) + len('"":1') for name in self.asked.get("required", ()))
        self.shortest_tokens = max(1, round(required / CHARACTERS_PER_TOKEN))

    def read(self, text: str) -> dict[str, Any]:
        value = check_json(text, self._validator)
        return {field.name: _fit(value[name], field) for name, field in self._fields.items() if name in value}

    def verdict(self, columns: dict[str, Any]) -> dict[str, Any]:
        return columns


class OneLabel(JsonAnswer):
    """One of some labels, in one column."""

    def __init__(self, labels: Options, column: str) -> None:
        label: dict[str, Any] = {"type": "string", "enum": list(labels)}
        if descriptions := listed_descriptions(described(labels)):
            label["description"] = "\n".join(descriptions)
        schema = {
            "type": "object",
            "properties": {"label": label},
            "required": ["label"],
            "additionalProperties": False,
        }
        super().__init__(schema, {"label": column})
        self.fields = (counted(*self.fields),)
        self.shortest_tokens = round((min(map(len, labels)) + len('{"label":""}')) / CHARACTERS_PER_TOKEN)


def check_json(text: str, validator: jsonschema_rs.Validator) -> Any:
    """Return the JSON value that a text holds.

    Raises:
        InvalidReply: it is not JSON, or does not fit.
    """
    try:
        value = _decode(text)
    except (ValueError, RecursionError):
        raise InvalidReply(f"the answer is not JSON: {_short(text)}") from None
    if not validator.is_valid(value):
        error = next(validator.iter_errors(value))
        place = ".".join(str(step) for step in error.instance_path)
        raise InvalidReply(
            f"the answer does not fit the schema{f' at `{place}`' if place else ''}: {_short(error.message)}"
        )
    return value


def accept(answer: Answer, completion: Completion) -> dict[str, Any]:
    """Return the answer's columns from what the model said.

    Raises:
        InvalidReply: it refused, said nothing, was cut off, or does not fit.
    """
    if completion.refusal is not None:
        raise InvalidReply(f"the model refused: {_short(completion.refusal)}", kind="refusal", retryable=False)
    if completion.finish_reason == "content_filter":
        raise InvalidReply("the reply was stopped by the content filter", kind="content_filter", retryable=False)
    cut_off = completion.finish_reason == "length"
    if completion.text is None or (cut_off and not completion.text):
        if cut_off:
            raise InvalidReply("the token limit was reached before any text", kind="truncated", retryable=False)
        raise InvalidReply("the reply has no text")
    try:
        return answer.read(completion.text)
    except InvalidReply:
        if cut_off:
            raise InvalidReply("the answer was cut off by the token limit", kind="truncated", retryable=False) from None
        raise


def column_field(name: str, spec: Any, root: Mapping[str, Any]) -> pa.Field:
    """Return the field for a property of a JSON Schema: scalars and lists of them are typed, the rest is JSON text."""
    return plain_field(name, _arrow_type(spec, root, depth=0))


def _arrow_type(spec: Any, root: Mapping[str, Any], depth: int) -> pa.DataType | None:
    if not isinstance(spec, Mapping) or depth > 8:
        return None
    if "$ref" in spec:
        return _arrow_type(target(str(spec["$ref"]), root), root, depth + 1)
    for union in ("anyOf", "oneOf"):
        if union in spec:
            options = [option for option in spec[union] if not _is_null(option)]
            return _arrow_type(options[0], root, depth + 1) if len(options) == 1 else None
    if "enum" in spec or "const" in spec:
        values = [value for value in spec.get("enum", [spec.get("const")]) if value is not None]
        kinds = {type(value) for value in values}
        return _SCALARS.get(_PYTHON_KINDS.get(kinds.pop(), "")) if len(kinds) == 1 else None
    kinds_named = spec.get("type")
    names = [kinds_named] if isinstance(kinds_named, str) else list(kinds_named or [])
    names = [name for name in names if name != "null"]
    if len(names) != 1:
        return None
    if names[0] == "array":
        inner = None if "prefixItems" in spec else _arrow_type(spec.get("items"), root, depth + 1)
        return None if inner is None else pa.list_(inner)
    return _SCALARS.get(names[0])


def _is_null(spec: Any) -> bool:
    return isinstance(spec, Mapping) and spec.get("type") == "null"


_SCALARS = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_PYTHON_KINDS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def _fit(value: Any, field: pa.Field) -> Any:
    """Make a valid value storable in its column; what is not typed stays as it is."""
    return value if is_json_text(field) else _fit_type(value, field.type, field.name)


def _fit_type(value: Any, kind: pa.DataType, name: str) -> Any:
    if value is None or kind in (pa.string(), pa.bool_()):
        return value
    if pa.types.is_list(kind):
        return [_fit_type(element, kind.value_type, name) for element in value]
    if kind == pa.int64():
        value = int(value)  # JSON Schema counts 3.0 as an integer
        if value not in _INT64:
            raise InvalidReply(f"the number in `{name}` does not fit in 64 bits: {_short(str(value))}")
        return value
    try:
        return float(value)
    except OverflowError:
        raise InvalidReply(f"the number in `{name}` is too large: {_short(str(value))}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is too large")
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name stands twice, and nothing says which one is meant")
    return value


def _short(text: str, limit: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


_decode = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_doubles
).decode
