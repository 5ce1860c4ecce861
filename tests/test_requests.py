"""The bytes that are sent, and the fingerprint that stands for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runner.dialects import dialect
from runner.records import Item, Request
from runner.requests import RequestBuilder
from runner.template import PromptTemplate

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def built(text: str = "hello", **change: Any) -> Request:
    given: dict[str, Any] = {
        "prompt": [("system", "You sort."), ("user", "{{ x }}")],
        "api": "chat",
        "model": "gpt-6-luna",
        "parameters": {"max_completion_tokens": 5, "temperature": 0},
        "schema": SCHEMA,
        "endpoint_kind": "openai",
    } | change
    builder = RequestBuilder(
        PromptTemplate(given["prompt"]), dialect(given["api"]), given["model"], given["parameters"], given["schema"],
        endpoint_kind=given["endpoint_kind"],
    )  # fmt: skip
    return builder.build(Item(0, "0", {"x": text}, "rows.csv", 2))


@pytest.mark.parametrize("text", ["hello", "é 😀", "\ud800 lone", "\x00\x1f", "{{ x }} %s", r"$\alpha$", '"quoted"\n'])
def test_the_body_is_what_the_api_wants_and_the_text_is_unchanged(text: str) -> None:
    messages = [{"role": "system", "content": "You sort."}, {"role": "user", "content": text}]
    assert json.loads(built(text).body) == {
        "model": "gpt-6-luna",
        "messages": messages,
        "max_completion_tokens": 5,
        "temperature": 0,
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}},
    }
    assert json.loads(built(text, api="responses", parameters={"text": {"verbosity": "low"}}).body) == {
        "model": "gpt-6-luna",
        "input": messages,
        "text": {
            "verbosity": "low",
            "format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True},
        },
    }


@pytest.mark.parametrize(
    "change",
    [
        {"text": "other"},
        {"model": "gpt-6-sol"},
        {"prompt": [("user", "{{ x }}")]},
        {"parameters": {"max_completion_tokens": 6, "temperature": 0}},
        {"schema": None},
        {"api": "responses"},
        {"endpoint_kind": "azure"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_that_changes_the_answer_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert built(**change).fingerprint != built().fingerprint


def test_the_order_of_parameters_does_not_change_the_fingerprint() -> None:
    assert built(parameters={"temperature": 0, "max_completion_tokens": 5}).fingerprint == built().fingerprint
