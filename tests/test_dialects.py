"""What is read from a reply, and what is made of a server that lies."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.dialects import dialect, understand
from runner.errors import InvalidReply
from runner.records import Completion, Reply, Usage

SHARED = Path(__file__).parents[2] / "shared" / "data" / "openai"
NO_USAGE = Usage()


def read(api: str, payload: Any, content_type: str = "application/json") -> Completion:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return understand(dialect(api), Reply(body, content_type))


def refusal_of(api: str, payload: Any, content_type: str = "application/json") -> InvalidReply:
    with pytest.raises(InvalidReply) as caught:
        read(api, payload, content_type)
    return caught.value


def chat(content: Any = "hello", **others: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 2}, **others}


def message(*content: Any) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": list(content)}


def text(value: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": value, "annotations": []}


def responses(*output: Any, **others: Any) -> dict[str, Any]:
    usage = {"input_tokens": 5, "output_tokens": 2}
    return {"status": "completed", "output": list(output), "usage": usage, **others}


APIS = pytest.mark.parametrize("api", ["chat", "responses"])
TRUE_REPLY = {"chat": chat(), "responses": responses(message(text("hello")))}


@APIS
def test_a_true_reply(api: str) -> None:
    assert read(api, TRUE_REPLY[api]) == Completion("hello", None, "stop", Usage(5, None, 2, None))


def test_the_details_of_usage() -> None:
    details = {"cached_tokens": 3, "cache_write_tokens": 2}, {"reasoning_tokens": 1}
    for_chat = {"prompt_tokens": 5, "prompt_tokens_details": details[0]}
    for_chat |= {"completion_tokens": 2, "completion_tokens_details": details[1]}
    for_responses = {"input_tokens": 5, "input_tokens_details": details[0]}
    for_responses |= {"output_tokens": 2, "output_tokens_details": details[1]}
    assert read("chat", chat(usage=for_chat)).usage == Usage(5, 3, 2, 1, 2)
    assert read("responses", responses(usage=for_responses)).usage == Usage(5, 3, 2, 1, 2)


@APIS
@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": 7}])
def test_usage_that_is_not_told_is_unknown(api: str, usage: Any) -> None:
    assert read(api, {**TRUE_REPLY[api], "usage": usage}).usage == NO_USAGE


@APIS
def test_no_usage_at_all(api: str) -> None:
    payload = dict(TRUE_REPLY[api])
    del payload["usage"]
    assert read(api, payload) == Completion("hello", None, "stop", NO_USAGE)


@APIS
@pytest.mark.parametrize("count", [-1, "5", 5.0, True, None, [5], {"n": 5}, 10**30, float("nan")])
def test_a_count_that_is_none_is_unknown(api: str, count: Any) -> None:
    counts = dict.fromkeys(("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"), count)
    assert read(api, {**TRUE_REPLY[api], "usage": counts}).usage == NO_USAGE


@APIS
@pytest.mark.parametrize("usage", ["5 tokens", [5], 5, {"prompt_tokens_details": "x", "input_tokens_details": [1]}])
def test_usage_of_another_shape_is_not_a_reply(api: str, usage: Any) -> None:
    assert refusal_of(api, {**TRUE_REPLY[api], "usage": usage}).message == (
        f"the reply does not have the shape of the `{api}` API"
    )


@APIS
@pytest.mark.parametrize("odd", [5, ["x"], {"a": 1}, None])
def test_words_that_are_no_text_are_unknown(api: str, odd: Any) -> None:
    payload = {**TRUE_REPLY[api], "service_tier": odd}
    if api == "chat":
        payload["choices"] = [{**payload["choices"][0], "finish_reason": odd}]
    else:
        payload["status"] = odd
    completion = read(api, payload)
    assert (completion.finish_reason, completion.service_tier, completion.text) == (None, None, "hello")


@APIS
def test_the_service_tier(api: str) -> None:
    assert read(api, {**TRUE_REPLY[api], "service_tier": "flex"}).service_tier == "flex"


# Chat completions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, 5, {"text": "hello"}, []])
def test_no_content_is_no_text(content: Any) -> None:
    completion = read("chat", chat(content))
    assert (completion.text, completion.usage.input) == (None, 5)


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "image_url"}, {"type": "text", "text": "lo"}]
    assert read("chat", chat(parts)).text == "hello"
    assert read("chat", chat([{"type": "text", "text": 5}])).text is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"choices": None}, "the reply has no `choices`"),
        ({"choices": []}, "the reply has no `choices`"),
        ({"choices": "hello"}, "the reply has no `choices`"),
        ({"choices": [{}]}, "the reply has no `message`"),
        ({"choices": [{"message": None}]}, "the reply has no `message`"),
        ({"choices": [{"message": "hello"}]}, "the reply has no `message`"),
        ({"choices": [{"text": "hello"}]}, "the reply has no `message`"),
        ({"choices": [None]}, "the reply does not have the shape of the `chat` API"),
        ({"choices": ["hello"]}, "the reply does not have the shape of the `chat` API"),
        ({"choices": [{"message": {"content": ["hello"]}}]}, "the reply does not have the shape of the `chat` API"),
    ],
)
def test_no_choice_is_not_a_reply(change: dict[str, Any], reason: str) -> None:
    assert refusal_of("chat", {**chat(), **change}).message == reason


def test_no_choices_at_all() -> None:
    assert refusal_of("chat", {"id": "x"}).message == "the reply has no `choices`"
    assert refusal_of("chat", TRUE_REPLY["responses"]).message == "the reply has no `choices`"


def test_a_refusal_in_chat() -> None:
    payload = chat(None)
    payload["choices"][0]["message"]["refusal"] = "I cannot."
    assert read("chat", payload).refusal == "I cannot."
    payload["choices"][0]["message"]["refusal"] = ""
    assert read("chat", payload).refusal is None


@pytest.mark.parametrize("reason", ["length", "content_filter", "tool_calls"])
def test_why_it_stopped_in_chat(reason: str) -> None:
    payload = chat()
    payload["choices"][0]["finish_reason"] = reason
    assert read("chat", payload).finish_reason == reason


# Responses ------------------------------------------------------------------------------------------------------------


def test_reasoning_before_the_message_is_left_out() -> None:
    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "content": None}
    assert read("responses", responses(reasoning, message(text("hello")))).text == "hello"


def test_several_messages_and_parts_are_joined_as_the_sdk_joins_them() -> None:
    payload = responses(message(text("a"), text("b")), {"type": "web_search_call"}, message(text("c")))
    assert read("responses", payload).text == "abc"


@pytest.mark.parametrize("output", [[], [{"type": "reasoning"}], [message()], [message(text(None))], [None, "x"]])
def test_output_without_text_is_no_text(output: list[Any]) -> None:
    assert read("responses", responses(*output)).text is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"output": None}, "the reply has no `output`"),
        ({"output": "hello"}, "the reply has no `output`"),
        ({"output": {"text": "hello"}}, "the reply has no `output`"),
        ({"output": [message("hello")]}, "the reply does not have the shape of the `responses` API"),
        (
            {"output": [{"type": "message", "content": "hello"}]},
            "the reply does not have the shape of the `responses` API",
        ),
        ({"output": [{"type": "message", "content": 5}]}, "the reply does not have the shape of the `responses` API"),
    ],
)
def test_no_output_is_not_a_reply(change: dict[str, Any], reason: str) -> None:
    assert refusal_of("responses", {**responses(), **change}).message == reason


def test_a_refusal_in_responses() -> None:
    refused = {"type": "refusal", "refusal": "I cannot."}
    assert read("responses", responses(message(refused))).refusal == "I cannot."
    assert read("responses", responses(message(text("well"), refused))).refusal == "I cannot."
    assert read("responses", responses(message({"type": "refusal"}))).refusal == "no reason given"


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"reason": "max_output_tokens"}, "length"),
        ({"reason": "content_filter"}, "content_filter"),
        (None, "incomplete"),
        ({"reason": None}, "incomplete"),
        ({"reason": 5}, "incomplete"),
    ],
)
def test_an_incomplete_response(details: Any, expected: str) -> None:
    completion = read("responses", responses(message(text("hel")), status="incomplete", incomplete_details=details))
    assert (completion.text, completion.finish_reason) == ("hel", expected)


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        ("failed", {"code": "server_error", "message": "Sorry."}, "Sorry."),
        ("failed", "Sorry.", "Sorry."),
        ("failed", None, "its status is `failed`"),
        ("failed", {"message": None}, "its status is `failed`"),
        ("cancelled", None, "its status is `cancelled`"),
        ("in_progress", None, "its status is `in_progress`"),
        ("queued", None, "its status is `queued`"),
    ],
)
def test_a_response_that_was_not_finished(status: str, error: Any, reason: str) -> None:
    failure = refusal_of("responses", responses(message(text("hel")), status=status, error=error))
    assert failure.message == f"the server could not finish the reply: {reason}"
    assert (failure.kind, failure.retryable) == ("server_error", True)


# Not a reply at all ---------------------------------------------------------------------------------------------------


@APIS
@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"", "application/json", "the reply is empty"),
        (b" \r\n ", "application/json", "the reply is empty"),
        (
            b'data: {"choices": []}\n\ndata: [DONE]\n\n',
            "text/event-stream; charset=utf-8",
            "the server sent a stream of events although none was asked for",
        ),
        (b"data: {}\n\n", "application/json", "the server sent a stream of events although none was asked for"),
        (
            b"event: response.created\ndata: {}\n\n",
            "",
            "the server sent a stream of events although none was asked for",
        ),
        (
            b"<html>\n<h1>502 Bad gateway</h1>",
            "Text/HTML",
            "the server sent a web page instead of JSON: <html> <h1>502 Bad gateway</h1>",
        ),
        (b"\n<!doctype html>", "", "the server sent a web page instead of JSON: <!doctype html>"),
        (b'{"choices": [{"mess', "application/json", 'the reply is not complete JSON: {"choices": [{"mess'),
        (b"{} {}", "application/json", "the reply is not complete JSON: {} {}"),
        (b"upstream timed out", "text/plain", "the reply is not complete JSON: upstream timed out"),
        (b"\x80\x81\xff", "application/json", "the reply is not complete JSON: \ufffd\ufffd\ufffd"),
        (b"[" * 100_000, "application/json", "the reply is not complete JSON: " + "[" * 60),
        (b'{"a":' * 100_000, "application/json", "the reply is not complete JSON: " + '{"a":' * 12),
        (b"[]", "application/json", "the reply is JSON, but not an object"),
        (b"null", "application/json", "the reply is JSON, but not an object"),
        (b'"hello"', "application/json", "the reply is JSON, but not an object"),
        (b"5", "application/json", "the reply is JSON, but not an object"),
    ],
)
def test_what_is_not_json(api: str, body: bytes, content_type: str, reason: str) -> None:
    failure = refusal_of(api, body, content_type)
    assert failure.message == reason
    assert failure.retryable


@APIS
@pytest.mark.parametrize(
    ("error", "reason"),
    [({"message": "no\n room", "code": 502}, "no room"), ("no room", "no room"), ({"message": "x" * 900}, "x" * 200)],
)
def test_an_error_with_status_200(api: str, error: Any, reason: str) -> None:
    failure = refusal_of(api, {"error": error})
    assert failure.message == f"the server answered with an error: {reason}"
    assert failure.kind == "server_error"


@APIS
def test_an_error_that_says_nothing(api: str) -> None:
    name = {"chat": "choices", "responses": "output"}[api]
    silent: list[Any] = [None, {}, {"message": None}, [], 5]
    for error in silent:
        assert refusal_of(api, {"error": error}).message == f"the reply has no `{name}`"


@APIS
def test_text_is_kept_as_it_is(api: str) -> None:
    odd = "lone \ud800 {{ x }} \x00 \u2028 日本 %s "
    payload = chat(odd) if api == "chat" else responses(message(text(odd)))
    assert read(api, payload).text == odd
    assert read(api, b"\xef\xbb\xbf" + json.dumps(payload).encode()).text == odd  # with a byte order mark


# What OpenAI really sent ----------------------------------------------------------------------------------------------


def recorded() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (where, api, reply) of the recordings that are a whole answer."""
    for path in sorted((SHARED / "recordings").rglob("*.yaml")):
        recording = yaml.safe_load(path.read_text(encoding="utf-8"))
        for number, exchange in enumerate(recording["interactions"]):
            uri = exchange["request"]["uri"].partition("?")[0]
            api = {"completions": "chat", "responses": "responses"}.get(uri.rpartition("/")[2])
            reply = _payload(exchange["response"])
            if api and exchange["response"]["status"]["code"] == 200 and isinstance(reply, dict):
                yield f"{path.name}#{number}", api, reply


def _payload(response: dict[str, Any]) -> Any:
    body = response.get("parsed_body", response.get("body"))
    if isinstance(body, dict) and set(body) == {"string"}:
        content = body["string"]
        content = content if isinstance(content, bytes) else str(content).encode()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        elif "base64_string" in body:
            content = base64.b64decode(content)
        try:
            return json.loads(content)
        except ValueError:
            return None  # a stream
    return body


def batched() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path in sorted(SHARED.glob("*batch_output.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            value = json.loads(line)
            yield value["custom_id"], "responses", value["response"]["body"]


@pytest.mark.skipif(not SHARED.exists(), reason="the recordings are not here")
@pytest.mark.parametrize("source", [recorded, batched])
def test_text_and_usage_equal_what_openai_sent(source: Any) -> None:
    seen = set()
    for where, api, reply in source():
        completion = read(api, reply)
        usage = reply["usage"]
        if api == "chat":
            expected_text = reply["choices"][0]["message"]["content"]
            into, out = ("prompt_tokens", "completion_tokens")
            assert completion.finish_reason == reply["choices"][0]["finish_reason"], where
        else:
            parts = [part for item in reply["output"] if item["type"] == "message" for part in item["content"]]
            expected_text = "".join(part["text"] for part in parts) if parts else None
            into, out = ("input_tokens", "output_tokens")
            assert (completion.finish_reason == "stop") is (reply["status"] == "completed"), where
        assert completion.text == expected_text, where
        assert completion.usage == Usage(
            usage[into],
            usage.get(f"{into}_details", {}).get("cached_tokens"),
            usage[out],
            usage.get(f"{out}_details", {}).get("reasoning_tokens"),
            usage.get(f"{into}_details", {}).get("cache_write_tokens"),
        ), where
        assert completion.service_tier == reply.get("service_tier"), where
        seen.add(where)
    assert len(seen) >= 5
