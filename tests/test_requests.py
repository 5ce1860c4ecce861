"""The bytes that are sent for a row, and the fingerprint that says when two rows are the same request."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

from runner.answer import OneLabel
from runner.dialects import dialect
from runner.records import Item, Request
from runner.requests import RequestBuilder, max_output_tokens
from runner.template import MissingField, PromptTemplate

SCHEMA = {
    "type": "object",
    "properties": {"z": {"type": "string", "description": "größer"}, "a": {"type": "integer"}},
    "required": ["z", "a"],
    "additionalProperties": False,
}
MESSAGES = [("system", "Sort."), ("user", "Title: {{ title }}")]
PARAMETERS = {"temperature": 0, "logit_bias": {"b": "1", "a": "2"}, "stop": ["x", "y"]}
APIS = pytest.mark.parametrize("api", ["responses", "chat"])


def build(title: Any = "On π", **changes: Any) -> Request:
    settings = {
        "messages": MESSAGES,
        "api": "responses",
        "model": "gpt-6-luna",
        "parameters": PARAMETERS,
        "schema": SCHEMA,
        "strict": True,
        "endpoint_kind": "openai",
        **changes,
    }
    builder = RequestBuilder(
        PromptTemplate(settings["messages"]),
        dialect(settings["api"]),
        [settings["model"]],
        settings["parameters"],
        settings["schema"],
        strict=settings["strict"],
        endpoint_kind=settings["endpoint_kind"],
    )
    return builder.build(Item(0, "a", {"title": title}, "f.csv", 2))


def naive(api: str, title: str, schema: dict[str, Any] | None, strict: bool) -> dict[str, Any]:
    messages = [{"role": "system", "content": "Sort."}, {"role": "user", "content": f"Title: {title}"}]
    body: dict[str, Any] = {"model": "gpt-6-luna", **PARAMETERS}
    if api == "responses":
        body["input"] = messages
        if schema:
            body["text"] = {"format": {"type": "json_schema", "name": "answer", "strict": strict, "schema": schema}}
    else:
        body["messages"] = messages
        if schema:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": strict, "schema": schema},
            }
    return body


@APIS
@pytest.mark.parametrize("schema", [SCHEMA, None])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "title",
    ["", "On π 日本 🎈", 'a "quoted" \\ back', "\x00\n\t\x7f\u2028", "lone \ud800", "{{ x }} %s {0}", r"\frac{a}{b}"],
)
def test_the_body_is_the_json_that_one_would_write(
    api: str, schema: dict[str, Any] | None, strict: bool, title: str
) -> None:
    request = build(title, api=api, schema=schema, strict=strict)
    assert json.loads(request.body) == naive(api, title, schema, strict)
    assert request.body.count(b'"model":') == 1


@APIS
def test_no_parameters_at_all(api: str) -> None:
    body = json.loads(build(api=api, parameters={}, schema=None).body)
    assert set(body) == {"model", "input" if api == "responses" else "messages"}


@APIS
def test_the_order_of_the_schema_stays(api: str) -> None:
    """Models answer in the order of the properties: a reason before the label makes a difference."""
    body = build(api=api).body
    assert body.index(b'"z":') < body.index(b'"a":{"type":"integer"')
    assert "größer".encode() in body


def test_text_goes_as_utf_8_and_only_lone_surrogates_are_escaped() -> None:
    assert "On π".encode() in build().body
    assert b'"Title: lone \\ud800"' in build("lone \ud800").body
    assert json.loads(build(None).body)["input"][1]["content"] == "Title: "


def test_messages_are_spelled_as_json_spells_them() -> None:
    draws = random.Random(3)
    odd = ["a", '"', "\\", "\n", "\0", "\x1f", "\x7f", "é", "\u2028", "𝄞", "/", "\ud800"]
    for number in range(2_000):
        texts = ["".join(draws.choices(odd[: -1 if number % 2 else None], k=draws.randrange(9))) for _ in range(3)]
        messages = [("system", texts[0]), ("user", texts[1]), ("assistant", texts[2])]
        plain = [{"role": role, "content": text} for role, text in messages]
        spelled = json.dumps(plain, ensure_ascii="\ud800" in "".join(texts), separators=(",", ":"))
        builder = RequestBuilder(
            PromptTemplate([(role, f"{{{{ {role} }}}}") for role, _ in messages]), dialect("chat"), "m", {}, None
        )
        assert (
            builder.build(Item(0, "a", dict(messages), "f.csv", 2)).body
            == f'{{"messages":{spelled},"model":"m"}}'.encode()
        )


def test_text_parameters_live_beside_the_format() -> None:
    body = json.loads(build(parameters={"text": {"verbosity": "low"}}).body)
    assert body["text"] == {
        "verbosity": "low",
        "format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True},
    }
    assert json.loads(build(parameters={"text": {"verbosity": "low"}}, schema=None).body)["text"] == {
        "verbosity": "low"
    }


def test_the_parameters_of_the_job_are_not_changed() -> None:
    parameters = {"text": {"verbosity": "low"}}
    build(parameters=parameters)
    assert parameters == {"text": {"verbosity": "low"}}


# Fingerprints ---------------------------------------------------------------------------------------------------------

CHANGES: dict[str, dict[str, Any]] = {
    "the row": {"title": "On e"},
    "the model": {"model": "gpt-6-sol"},
    "the prompt": {"messages": [("system", "Sort!"), MESSAGES[1]]},
    "a role": {"messages": [("developer", "Sort."), MESSAGES[1]]},
    "one message less": {"messages": [MESSAGES[1]]},
    "a parameter": {"parameters": {**PARAMETERS, "temperature": 1}},
    "a nested parameter": {"parameters": {**PARAMETERS, "logit_bias": {"b": "1", "a": "3"}}},
    "a parameter more": {"parameters": {**PARAMETERS, "seed": 1}},
    "a parameter less": {"parameters": {}},
    "the order of a list": {"parameters": {**PARAMETERS, "stop": ["y", "x"]}},
    "the schema": {"schema": {**SCHEMA, "required": ["z"]}},
    "no schema": {"schema": None},
    "strictness": {"strict": False},
    "the API": {"api": "chat"},
    "the kind of endpoint": {"endpoint_kind": "azure"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_fingerprint_changes_with(change: dict[str, Any]) -> None:
    assert build(**change).fingerprint != build().fingerprint


def test_all_these_changes_are_different_requests() -> None:
    prints = [build(**change).fingerprint for change in [*CHANGES.values(), {}]]
    assert len(set(prints)) == len(prints)
    for fingerprint in prints:
        assert len(fingerprint) == 32
        assert int(fingerprint, 16) >= 0


@APIS
def test_the_fingerprint_does_not_change_with_the_order_of_parameters(api: str) -> None:
    turned = dict(reversed(PARAMETERS.items()))
    assert build(api=api, parameters=turned).fingerprint == build(api=api).fingerprint
    assert build(api=api, parameters=turned).body == build(api=api).body


def test_the_fingerprint_is_of_the_request_and_not_of_the_row() -> None:
    builder = RequestBuilder(PromptTemplate(MESSAGES), dialect("responses"), ["m"], {}, None)
    one = builder.build(Item(0, "a", {"title": "x", "year": 1}, "f.csv", 2))
    other = builder.build(Item(7, "b", {"year": 2, "title": "x"}, "g.csv", 9))
    assert (one.fingerprint, one.body) == (other.fingerprint, other.body)
    assert (one.item.id, other.item.id) == ("a", "b")


@pytest.mark.parametrize(
    ("api", "fingerprint"),
    [("responses", "2eaf04668c4d4fd20023bd57d26f64e3"), ("chat", "551012478d04418e65a1751e61c8e3a1")],
)
def test_a_request_for_a_label_is_what_it_has_always_been(api: str, fingerprint: str) -> None:
    """Answers that were paid for are found by it."""
    label = OneLabel(("a", "b"), "topic")
    assert build(api=api, schema=label.asked).fingerprint == fingerprint


# Tokens ---------------------------------------------------------------------------------------------------------------


def test_the_estimate_counts_messages_and_schema() -> None:
    messages = len("Sort.") + len("Title: ") + 4001
    assert build("é" * 4001, schema=None).input_tokens == math.ceil(messages / 4)
    schema = len(json.dumps(SCHEMA, ensure_ascii=False, separators=(",", ":")))
    assert build("é" * 4001).input_tokens == math.ceil((messages + schema) / 4)
    assert build("", messages=[("user", "{{ title }}")], schema=None).input_tokens == 1


@pytest.mark.parametrize(
    ("api", "parameters", "expected"),
    [
        ("responses", {"max_output_tokens": 50}, 50),
        ("responses", {"max_tokens": 50}, None),
        ("chat", {"max_completion_tokens": 50}, 50),
        ("chat", {"max_tokens": 40}, 40),
        ("chat", {"max_tokens": 40, "max_completion_tokens": 50}, 50),
        ("chat", {"max_tokens": None}, None),
        ("chat", {}, None),
    ],
)
def test_the_longest_answer(api: str, parameters: dict[str, Any], expected: int | None) -> None:
    assert max_output_tokens(parameters, dialect(api)) == expected


def test_a_row_that_lacks_a_field_has_no_request() -> None:
    builder = RequestBuilder(PromptTemplate(MESSAGES), dialect("chat"), ["m"], {}, None)
    with pytest.raises(MissingField, match="the row has no field `title`"):
        builder.build(Item(0, "a", {"other": 1}, "f.csv", 2))
