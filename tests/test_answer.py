"""How an answer is checked, and what its columns are. No value is ever made up."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from runner.answer import Answer, JsonAnswer, OneLabel, PlainText, accept, column_field
from runner.dataset.columns import is_json_text, to_array
from runner.errors import InvalidReply
from runner.records import Completion, Usage

LABELS = OneLabel(["physics", "mathematics"], "topic")


def said(text: str | None, finish: str | None = "stop", refusal: str | None = None) -> Completion:
    return Completion(text, refusal, finish, Usage(5, None, 2, None))


def refused(answer: Answer, text: str) -> str:
    with pytest.raises(InvalidReply) as caught:
        answer.read(text)
    assert (caught.value.kind, caught.value.retryable) == ("invalid_reply", True)
    return caught.value.message


def one(spec: Any, **root: Any) -> JsonAnswer:
    return JsonAnswer({"type": "object", "properties": {"x": spec}, "required": ["x"], **root})


# Plain text and labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["hello", " {{ x }} \n", "", "lone \ud800", '{"label": "physics"}'])
def test_plain_text_is_kept_as_it_is(text: str) -> None:
    answer = PlainText("response")
    assert accept(answer, said(text)) == {"response": text}
    assert answer.asked is None
    assert answer.fields == (pa.field("response", pa.string()),)


def test_a_label() -> None:
    assert LABELS.read(' {"label": "physics"} ') == {"topic": "physics"}
    assert LABELS.fields == (pa.field("topic", pa.string()),)
    assert LABELS.asked == {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": ["physics", "mathematics"]}},
        "required": ["label"],
        "additionalProperties": False,
    }


def test_a_label_that_is_not_one_of_them() -> None:
    reason = refused(LABELS, '{"label": "biology"}')
    assert reason.startswith("the answer does not fit the schema at `label`: ")
    assert "biology" in reason


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "Physics"}',
        '{"label": "physics "}',
        '{"label": null}',
        '{"label": ["physics"]}',
        '{"label": 0}',
        '{"topic": "physics"}',
        '{"label": "physics", "why": "atoms"}',
        "{}",
        "[]",
        '"physics"',
        "null",
        "0",
    ],
)
def test_nothing_near_a_label_will_do(text: str) -> None:
    assert refused(LABELS, text).startswith("the answer does not fit the schema")


# Not quite JSON -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "physics",
        "",
        " ",
        '{"label": "physics"',
        '{"label": "physics"} I hope this helps!',
        '{"label": "physics"}{"label": "physics"}',
        'Here it is: {"label": "physics"}',
        '```json\n{"label": "physics"}\n```',
        "{'label': 'physics'}",
        '{"label": "physics",}',
        '{"label": "mathematics", "label": "physics"}',
        '{"label": "physics", "label": "physics"}',
        '\ufeff{"label": "physics"}',
        "[" * 100_000,
    ],
)
def test_what_is_not_json_is_not_mended(text: str) -> None:
    assert refused(LABELS, text).startswith("the answer is not JSON: ")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("spec", [{"type": "number"}, {"type": "integer"}, {}])
def test_numbers_that_json_does_not_have(number: str, spec: dict[str, Any]) -> None:
    assert refused(one(spec), f'{{"x": {number}}}').startswith("the answer is not JSON: ")


def test_names_that_stand_twice_deep_down() -> None:
    refused(one({"type": "object"}), '{"x": {"a": 1, "a": 2}}')
    assert one({"type": "object"}).read('{"x": {"a": {"a": 1}}}') == {"x": {"a": {"a": 1}}}


def test_long_answers_are_not_repeated_in_full() -> None:
    assert len(refused(LABELS, "x" * 10_000)) < 300
    assert len(refused(LABELS, json.dumps({"label": "x" * 10_000}))) < 300


# Types of columns -----------------------------------------------------------------------------------------------------

TYPES: list[tuple[Any, pa.DataType | None]] = [
    ({"type": "string"}, pa.string()),
    ({"type": "integer"}, pa.int64()),
    ({"type": "number"}, pa.float64()),
    ({"type": "boolean"}, pa.bool_()),
    ({"type": ["string", "null"]}, pa.string()),
    ({"type": ["null", "integer"]}, pa.int64()),
    ({"type": ["integer"]}, pa.int64()),
    ({"type": ["integer", "string"]}, None),
    ({"type": "null"}, None),
    ({"type": "object", "properties": {"a": {"type": "string"}}}, None),
    ({"anyOf": [{"type": "number"}, {"type": "null"}]}, pa.float64()),
    ({"anyOf": [{"type": "null", "description": "none"}, {"type": "number"}]}, pa.float64()),
    ({"oneOf": [{"type": "boolean"}, {"type": "null"}]}, pa.bool_()),
    ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, None),
    ({"anyOf": [{"type": "null"}]}, None),
    ({"enum": ["a", "b"]}, pa.string()),
    ({"type": "string", "enum": ["a", "b", None]}, pa.string()),
    ({"enum": [1, 2]}, pa.int64()),
    ({"enum": [True, False]}, pa.bool_()),
    ({"enum": [1.5, 2.5]}, pa.float64()),
    ({"enum": [1, "a"]}, None),
    ({"enum": [1, True]}, None),
    ({"enum": [None]}, None),
    ({"enum": [{"a": 1}]}, None),
    ({"const": "a"}, pa.string()),
    ({"const": 1}, pa.int64()),
    ({"const": None}, None),
    ({"type": "array", "items": {"type": "string"}}, pa.list_(pa.string())),
    ({"type": ["array", "null"], "items": {"type": ["integer", "null"]}}, pa.list_(pa.int64())),
    ({"type": "array", "items": {"type": "array", "items": {"type": "number"}}}, pa.list_(pa.list_(pa.float64()))),
    ({"type": "array", "items": {"type": "object"}}, None),
    ({"type": "array", "items": {"type": ["string", "integer"]}}, None),
    ({"type": "array"}, None),
    ({"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, None),
    ({"$ref": "#/$defs/word"}, pa.string()),
    ({"$ref": "#/$defs/twice"}, pa.string()),
    ({"$ref": "#/$defs/a~1b~0c"}, pa.int64()),
    ({"anyOf": [{"$ref": "#/$defs/word"}, {"type": "null"}]}, pa.string()),
    ({"type": "array", "items": {"$ref": "#/$defs/word"}}, pa.list_(pa.string())),
    ({"$ref": "#/$defs/loop"}, None),
    ({"$ref": "#/$defs/tree"}, None),
    ({"$ref": "#/$defs/nowhere"}, None),
    ({"$ref": "#"}, None),
    ({}, None),
    (True, None),
]
DEFS = {
    "word": {"type": "string"},
    "twice": {"$ref": "#/$defs/word"},
    "a/b~c": {"type": "integer"},
    "loop": {"$ref": "#/$defs/loop"},
    "tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
}


@pytest.mark.parametrize(("spec", "expected"), TYPES, ids=[json.dumps(spec) for spec, _ in TYPES])
def test_the_type_of_a_column(spec: Any, expected: pa.DataType | None) -> None:
    field = column_field("x", spec, {"type": "object", "properties": {"x": spec}, "$defs": DEFS})
    assert field.name == "x"
    assert is_json_text(field) is (expected is None)
    assert field.type == (expected or pa.string())


STORED: list[tuple[Any, str, list[Any]]] = [
    ({"type": "string"}, '"a"', ["a"]),
    ({"type": "string"}, '"\\ud800"', ["\\ud800"]),
    ({"type": "integer"}, "3", [3]),
    ({"type": "integer"}, "3.0", [3]),
    ({"type": "integer"}, "3e2", [300]),
    ({"type": "integer"}, str(2**63 - 1), [2**63 - 1]),
    ({"type": "integer"}, str(-(2**63)), [-(2**63)]),
    ({"type": "number"}, "3", [3.0]),
    ({"type": "number"}, str(2**70), [float(2**70)]),
    ({"type": "boolean"}, "false", [False]),
    ({"type": ["integer", "null"]}, "null", [None]),
    ({"enum": [1, 2]}, "1.0", [1]),
    ({"type": "array", "items": {"type": "integer"}}, "[1, 2.0]", [[1, 2]]),
    ({"type": "array", "items": {"type": ["number", "null"]}}, "[1, null, 2.5]", [[1.0, None, 2.5]]),
    ({"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}, "[[1.0], []]", [[[1], []]]),
    ({"type": "object"}, '{"b": 1, "a": [2.5, "é"]}', ['{"b": 1, "a": [2.5, "é"]}']),
    ({"type": "object"}, f'{{"n": {2**70}}}', [f'{{"n": {2**70}}}']),
    ({"type": ["integer", "string"]}, "5", ["5"]),
    ({"type": ["integer", "string"]}, '"5"', ['"5"']),
    ({}, "null", [None]),
]


@pytest.mark.parametrize(("spec", "text", "expected"), STORED)
def test_a_valid_answer_fits_its_column(spec: Any, text: str, expected: list[Any]) -> None:
    answer = one(spec)
    (field,) = answer.fields
    value = answer.read(f'{{"x": {text}}}')["x"]
    column = to_array([json.loads(json.dumps(value))], field)  # as it comes back from a journal
    assert column.type == field.type
    assert column.to_pylist() == expected
    assert type(column.to_pylist()[0]) is type(expected[0])


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"type": "integer"}, "3.5"),
        ({"type": "integer"}, '"3"'),
        ({"type": "integer"}, "true"),
        ({"type": "integer"}, "null"),
        ({"type": "number"}, '"3"'),
        ({"type": "boolean"}, "1"),
        ({"type": "string"}, "1"),
        ({"type": "string"}, "null"),
        ({"enum": [1, 2]}, "true"),
        ({"const": "a"}, '"b"'),
        ({"type": "array", "items": {"type": "string"}}, '"a"'),
        ({"type": "array", "items": {"type": "string"}}, "[1]"),
        ({"type": "string", "maxLength": 3}, '"abcd"'),
        ({"$ref": "#/$defs/word"}, "1"),
    ],
)
def test_a_value_of_another_type_is_refused(spec: Any, text: str) -> None:
    message = refused(one(spec, **{"$defs": DEFS}), f'{{"x": {text}}}')
    assert message.startswith("the answer does not fit the schema at `x")


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, 10**30])
@pytest.mark.parametrize("form", ["{}", "{}.0"])
def test_integers_beyond_64_bits(number: int, form: str) -> None:
    if form == "{}.0" and number == -(2**63) - 1:
        number *= 2  # a double cannot tell it from the smallest that fits
    assert refused(one({"type": "integer"}), f'{{"x": {form.format(number)}}}').startswith(
        "the number in `x` does not fit in 64 bits: "
    )
    refused(one({"type": "array", "items": {"type": "integer"}}), f'{{"x": [1, {form.format(number)}]}}')


def test_an_integer_beyond_doubles() -> None:
    assert refused(one({"type": "number"}), f'{{"x": {10**400}}}').startswith("the number in `x` is too large: 1000")


def test_a_property_that_may_be_missing_is_null() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a"]}
    answer = JsonAnswer(schema)
    assert [field.name for field in answer.fields] == ["a", "b"]
    assert answer.read('{"a": "x"}') == {"a": "x"}
    assert answer.read('{"b": 1, "a": "x", "other": 5}') == {"a": "x", "b": 1}
    assert refused(answer, '{"b": 1}') == 'the answer does not fit the schema: "a" is a required property'


def test_the_place_of_a_nested_error() -> None:
    answer = one({"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}})
    assert refused(answer, '{"x": [{"n": 1}, {"n": "two"}]}') == (
        'the answer does not fit the schema at `x.1.n`: "two" is not of type "integer"'
    )


# Refused, cut off, silent ---------------------------------------------------------------------------------------------


def why(answer: Answer, completion: Completion) -> tuple[str, bool, str]:
    with pytest.raises(InvalidReply) as caught:
        accept(answer, completion)
    return caught.value.kind, caught.value.retryable, caught.value.message


ANSWERS = pytest.mark.parametrize("answer", [PlainText("response"), LABELS], ids=["text", "labels"])
VALID = '{"label": "physics"}'


@ANSWERS
def test_a_refusal_is_no_answer(answer: Answer) -> None:
    expected = ("refusal", False, "the model refused: I cannot help.")
    assert why(answer, said(None, refusal="I cannot\n help.")) == expected
    assert why(answer, said(VALID, refusal="I cannot help.")) == expected
    assert len(why(answer, said(None, refusal="x" * 10_000))[2]) < 300


@ANSWERS
@pytest.mark.parametrize("text", [VALID, "", None])
def test_what_the_content_filter_stopped_is_no_answer(answer: Answer, text: str | None) -> None:
    assert why(answer, said(text, "content_filter")) == (
        "content_filter",
        False,
        "the reply was stopped by the content filter",
    )


@ANSWERS
@pytest.mark.parametrize("finish", ["stop", None, "tool_calls"])
def test_no_text_is_no_answer(answer: Answer, finish: str | None) -> None:
    assert why(answer, said(None, finish)) == ("invalid_reply", True, "the reply has no text")


@ANSWERS
@pytest.mark.parametrize("text", [None, ""])
def test_cut_off_before_any_text(answer: Answer, text: str | None) -> None:
    assert why(answer, said(text, "length")) == ("truncated", False, "the token limit was reached before any text")


def test_an_answer_cut_off_in_the_middle() -> None:
    assert why(LABELS, said('{"label": "phy', "length")) == (
        "truncated",
        False,
        "the answer was cut off by the token limit",
    )
    assert accept(LABELS, said(VALID, "length")) == {"topic": "physics"}  # it was whole
    assert accept(PlainText("response"), said("hel", "length")) == {"response": "hel"}  # `_finish_reason` tells
