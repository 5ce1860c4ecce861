"""What the simulator says: it has the true shape, fits the schema, and depends on the request alone."""

from __future__ import annotations

import json
import math
from typing import Any

import jsonschema_rs
import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from runner.simulator.draws import Draws, digest_of
from runner.simulator.fitting import Fitting, Unfit
from runner.simulator.judgement import Judge, options
from runner.simulator.service import Answer, Service
from runner.simulator.settings import SimulatorSettings
from runner.simulator.words import words

PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses"}
LABELS = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["machine learning", "physics", "mathematics", "other"]}},
    "required": ["label"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, Any] = {
    "labels": LABELS,
    "scalars": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "minLength": 40},
            "short": {"type": "string", "maxLength": 3},
            "whole": {"type": "integer", "minimum": 3, "maximum": 5},
            "open": {"type": "integer", "exclusiveMinimum": -1, "exclusiveMaximum": 1},
            "share": {"type": "number", "minimum": 0, "maximum": 1},
            "inside": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
            "below": {"type": "number", "maximum": -7},
            "fives": {"type": "integer", "multipleOf": 5, "minimum": 11},
            "yes": {"type": "boolean"},
            "nothing": {"type": "null"},
            "fixed": {"const": {"a": [1]}},
            "level": {"enum": [1, 2, 3]},
            "maybe": {"type": ["string", "null"]},
        },
        "required": ["text", "short", "whole", "nothing", "fixed"],
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {
            "people": {"type": "array", "minItems": 2, "maxItems": 4, "items": {"$ref": "#/$defs/person"}},
            "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2},
            "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 3},
        },
        "required": ["people", "pair", "tags"],
        "$defs": {
            "person": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "born": {"type": "string", "format": "date"},
                    "seen": {"type": "string", "format": "date-time"},
                    "mail": {"type": "string", "format": "email"},
                    "key": {"type": "string", "format": "uuid"},
                    "home": {"type": "string", "format": "uri"},
                    "host": {"type": "string", "format": "ipv4"},
                    "host6": {"type": "string", "format": "ipv6"},
                    "at": {"type": "string", "format": "time"},
                    "took": {"type": "string", "format": "duration"},
                },
                "required": ["name", "born"],
            }
        },
    },
    "branches": {
        "type": "object",
        "properties": {
            "any": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
            "one": {"oneOf": [{"const": "physics"}, {"const": "mathematics"}]},
            "all": {
                "allOf": [
                    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                    {"properties": {"b": {"type": "string"}}, "required": ["b"]},
                ]
            },
            "untyped": {"properties": {"c": {"type": "boolean"}}, "required": ["c"]},
        },
        "required": ["any", "one", "all", "untyped"],
    },
    "recursive": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "children": {"type": "array", "items": {"$ref": "#"}},
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
        "required": ["name", "children", "next"],
        "additionalProperties": False,
    },
    "array": {"type": "array", "items": {"type": "number"}, "minItems": 7},
    "anything": {},
}


def asked(api: str, text: str = "A mathematical proof", schema: Any = None, **fields: Any) -> bytes:
    body: dict[str, Any] = {"model": "gpt-6-luna", **fields}
    if api == "chat":
        body["messages"] = [{"role": "system", "content": "Sort: physics."}, {"role": "user", "content": text}]
        if schema is not None:
            held = {"name": "answer", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": held}
    else:
        body["instructions"] = "Sort: physics."
        body["input"] = [{"role": "user", "content": [{"type": "input_text", "text": text}]}]
        if schema is not None:
            body["text"] = {"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}}
    return json.dumps(body).encode()


def service(**settings: Any) -> Service:
    return Service(SimulatorSettings.model_validate({"latency_s": 0, **settings}), lambda: 0.0)


def ask(api: str, body: bytes, to: Service | None = None) -> Answer:
    return (to or service()).answer("POST", PATHS[api], None, body)


def said(api: str, answer: Answer) -> str:
    assert answer.status == 200, answer.content
    if api == "chat":
        return ChatCompletion.model_validate_json(answer.content).choices[0].message.content or ""
    return Response.model_validate_json(answer.content).output_text


@pytest.mark.parametrize("api", PATHS)
@pytest.mark.parametrize("name", SCHEMAS)
def test_replies_fit_their_schema(api: str, name: str):
    validator = jsonschema_rs.Draft202012Validator(SCHEMAS[name], validate_formats=True)
    for number in range(40):
        value = json.loads(said(api, ask(api, asked(api, f"Some text, number {number}", SCHEMAS[name]))))
        problems = [problem.message for problem in validator.iter_errors(value)]
        assert not problems, (value, problems)


@pytest.mark.parametrize("api", PATHS)
@pytest.mark.parametrize("schema", [None, LABELS])
def test_replies_have_the_shape_of_the_sdks_types(api: str, schema: Any):
    answer = ask(api, asked(api, schema=schema, temperature=0.5))
    if api == "chat":
        chat = ChatCompletion.model_validate_json(answer.content, strict=True)
        assert chat.object == "chat.completion"
        assert chat.choices[0].finish_reason == "stop"
        assert chat.usage is not None
        assert chat.usage.prompt_tokens_details is not None
        assert chat.usage.completion_tokens_details is not None
        assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
        assert answer.tokens[:2] == (chat.usage.prompt_tokens, chat.usage.completion_tokens)
    else:
        response = Response.model_validate_json(answer.content, strict=True)
        assert response.status == "completed"
        assert response.temperature == 0.5
        assert response.usage is not None
        assert response.usage.input_tokens_details.cached_tokens == 0
        assert response.usage.output_tokens_details.reasoning_tokens == 0
        assert answer.tokens[:2] == (response.usage.input_tokens, response.usage.output_tokens)
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["openai-processing-ms"] == "0"


@pytest.mark.parametrize("api", PATHS)
def test_input_tokens_are_those_of_messages_and_schema(api: str):
    text = len("Sort: physics.") + len("A mathematical proof")
    assert ask(api, asked(api)).tokens.input == math.ceil(text / 4)
    schema = {"type": "object", "properties": {"größe": {"type": "integer"}}, "required": ["größe"]}
    written = len(json.dumps(schema, ensure_ascii=False, separators=(",", ":")))
    assert ask(api, asked(api, schema=schema)).tokens.input == math.ceil((text + written) / 4)


@pytest.mark.parametrize("api", PATHS)
def test_a_reply_longer_than_asked_for_is_cut(api: str):
    most = {"max_tokens": 3} if api == "chat" else {"max_output_tokens": 3}
    answer = ask(api, asked(api, "many words " * 50, **most))
    assert len(said(api, answer)) == 12
    assert answer.tokens.output == 3
    whole = json.loads(answer.content)
    if api == "chat":
        assert whole["choices"][0]["finish_reason"] == "length"
    else:
        assert whole["status"] == "incomplete"
        assert whole["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.parametrize("api", PATHS)
def test_a_plain_reply_shares_words_with_the_input(api: str):
    assert {"quantum", "entanglement"} & set(words(said(api, ask(api, asked(api, "quantum entanglement")))))


@pytest.mark.parametrize("api", PATHS)
@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("We study learning machines of many kinds", "machine learning"),
        ("A Mathematical theory", "mathematics"),
        ("on the physical properties of glass", "physics"),
    ],
)
def test_a_label_is_picked_by_the_words_of_the_user(api: str, text: str, label: str):
    assert json.loads(said(api, ask(api, asked(api, text, LABELS)))) == {"label": label}


def test_labels_that_nothing_speaks_for_are_spread():
    picked = {said("chat", ask("chat", asked("chat", f"xyzzy {number}", LABELS))) for number in range(50)}
    assert len(picked) == 4


@pytest.mark.parametrize(
    ("choices", "best"),
    [
        (("a cat", "mathematical cat", "dog"), {"mathematical cat"}),
        (("the cat", "mathematician"), {"the cat"}),
        (("of the", "dog"), {"of the", "dog"}),
    ],
)
def test_choices(choices: tuple[str, ...], best: set[str]):
    text = "The cats sat; cats of mathematics"
    drawn = [Judge(number, "m", text, words(text)).choose("which", options(choices)) for number in range(30)]
    assert {choices[at] for at in drawn} == best


def test_the_same_seed_and_body_give_the_same_bytes():
    body = asked("chat", "whatever it is", SCHEMAS["nested"])
    first, second = service(seed=3), service(seed=3)
    ask("chat", asked("chat", "something else"), first)  # others do not disturb it
    assert ask("chat", body, first).content == ask("chat", body, second).content
    assert ask("chat", body, service(seed=4)).content != ask("chat", body, service(seed=3)).content


def test_another_attempt_draws_for_itself_but_says_the_same():
    to = service(latency_s={"median": 0.2, "p95": 0.5})
    body = asked("chat")
    answers = [ask("chat", body, to) for _ in range(3)]
    assert len({answer.delay_s for answer in answers}) == 3
    assert len({json.loads(answer.content)["id"] for answer in answers}) == 3
    assert len({said("chat", answer) for answer in answers}) == 1


def test_latencies_are_distributed_as_asked():
    to = service(latency_s={"median": 0.2, "p95": 0.5})
    delays = sorted(ask("chat", asked("chat", str(number)), to).delay_s for number in range(2000))
    assert delays[1000] == pytest.approx(0.2, rel=0.1)
    assert delays[1900] == pytest.approx(0.5, rel=0.1)
    assert ask("chat", asked("chat"), service(latency_s=0.25)).delay_s == 0.25


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/none"},
        {"$ref": "#"},
        {"$ref": "https://example.org/schema"},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"enum": []},
        {"type": "colour"},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "array", "minItems": 2, "maxItems": 1},
        False,
    ],
)
def test_a_schema_that_nothing_fits_is_said_to_be_so(schema: Any):
    with pytest.raises(Unfit):
        Fitting(schema, [], Judge(0, "m", "", []), Draws(b"name", "test")).value()


@pytest.mark.parametrize("schema", [{"enum": []}, {"type": "object", "properties": 3}, {"minItems": "two"}])
def test_a_bad_schema_is_a_400(schema: Any):
    answer = ask("responses", asked("responses", schema=schema))
    assert answer.status == 400
    assert json.loads(answer.content)["error"]["code"] == "invalid_json_schema"


@pytest.mark.parametrize(
    ("api", "body", "param"),
    [
        ("chat", b"{", None),
        ("chat", b"\xff", None),
        ("chat", b"[]", None),
        ("chat", b'{"messages":[{"role":"user","content":"x"}]}', "model"),
        ("chat", b'{"model":"m"}', "messages"),
        ("chat", b'{"model":"m","messages":[]}', "messages"),
        ("chat", b'{"model":"m","messages":"hello"}', "messages"),
        ("chat", b'{"model":"m","messages":[1]}', "messages[0]"),
        ("chat", b'{"model":"m","messages":[{"content":"x"}]}', "messages[0].role"),
        ("chat", b'{"model":"m","messages":[{"role":"user"}]}', "messages[0].content"),
        ("responses", b'{"model":"m"}', "input"),
        ("responses", b'{"model":"m","input":3}', "input"),
        ("responses", b'{"model":"m","input":"x","text":{"format":{"type":"xml"}}}', "text.format.type"),
        ("responses", b'{"model":"m","input":"x","text":{"format":{"type":"json_schema"}}}', "text.format.name"),
        ("responses", b'{"model":"m","input":"x","max_output_tokens":0}', "max_output_tokens"),
        ("responses", b'{"model":"m","input":"x","stream":true}', "stream"),
    ],
)
def test_bad_bodies_get_the_error_envelope(api: str, body: bytes, param: str | None):
    answer = ask(api, body)
    assert answer.status == 400
    error = json.loads(answer.content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert answer.headers["x-request-id"].startswith("req_")


def test_lone_surrogates_and_odd_text_pass():
    body = asked("chat", "\ud800 {{ x }} %s \\frac \x00")
    assert ask("chat", body).status == 200


def test_models():
    to = service(models=["one", "org/two"])
    listed = json.loads(to.answer("GET", "/v1/models", None, b"").content)
    assert [Model.model_validate(each).id for each in listed["data"]] == ["one", "org/two"]
    assert to.answer("GET", "/v1/models/org%2Ftwo", None, b"").status == 200
    missing = to.answer("GET", "/v1/models/three", None, b"")
    assert (missing.status, json.loads(missing.content)["error"]["code"]) == (404, "model_not_found")
    refused = ask("chat", asked("chat"), to)
    assert (refused.status, json.loads(refused.content)["error"]["code"]) == (404, "model_not_found")


def test_draws_are_even_and_belong_to_their_name():
    numbers = [Draws(digest_of(0, str(n).encode()), "x").unit() for n in range(4000)]
    assert all(0 <= number < 1 for number in numbers)
    assert sum(number < 0.3 for number in numbers) == pytest.approx(1200, rel=0.1)
    stream = Draws(b"name", "x")
    assert len({stream.unit() for _ in range(100)}) == 100
    assert stream.below(1) == 0
