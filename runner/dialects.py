"""The ways to ask a server: Responses, Chat Completions and Decisions.

A dialect knows its path, how a request body is laid out, and where in a reply the text, the reason for stopping
and the usage stand. It knows nothing of labels, schemas or questions beyond passing them on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from runner.errors import InvalidReply
from runner.records import Completion, Reply, Usage

Messages = Sequence[tuple[str, str]]


class Dialect(Protocol):
    """One API of an endpoint."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def messages_key(self) -> str: ...
    @property
    def max_tokens_keys(self) -> tuple[str, ...]:
        """The parameters that bound an answer's length."""

    def format(self, asked: Any, *, strict: bool) -> dict[str, Any]:
        """Return the body's keys that ask for this: a JSON Schema, or what the API takes in its place."""

    def completion(self, payload: dict[str, Any]) -> Completion:
        """Read a reply's JSON object.

        Raises:
            InvalidReply: a part is missing that every true reply has.
        """


class Responses:
    """`POST /responses` (https://platform.openai.com/docs/api-reference/responses)."""

    name = "responses"
    path = "/responses"
    messages_key = "input"
    max_tokens_keys = ("max_output_tokens",)

    def format(self, asked: Any, *, strict: bool) -> dict[str, Any]:
        return {"text": {"format": {"type": "json_schema", "name": "answer", "schema": asked, "strict": strict}}}

    def completion(self, payload: dict[str, Any]) -> Completion:
        output = payload.get("output")
        if not isinstance(output, list):
            raise InvalidReply("the reply has no `output`")
        texts: list[str] = []
        refusal: str | None = None
        for part in output:
            if not isinstance(part, dict) or part.get("type") != "message":
                continue
            for content in part.get("content") or ():
                if content.get("type") == "output_text" and isinstance(content.get("text"), str):
                    texts.append(content["text"])
                elif content.get("type") == "refusal":
                    refusal = _text(content.get("refusal")) or "no reason given"
        finish = _text(payload.get("status"))
        if finish == "completed":
            finish = "stop"
        elif finish == "incomplete":
            finish = _text((payload.get("incomplete_details") or {}).get("reason")) or "incomplete"
            finish = "length" if finish == "max_output_tokens" else finish
        elif finish is not None:
            said = _error(payload) or f"its status is `{finish}`"
            raise InvalidReply(f"the server could not finish the reply: {said}", kind="server_error")
        text = "".join(texts) if texts else None
        return Completion(text, refusal, finish, _usage(payload), _text(payload.get("service_tier")))


class ChatCompletions:
    """`POST /chat/completions` (https://platform.openai.com/docs/api-reference/chat)."""

    name = "chat"
    path = "/chat/completions"
    messages_key = "messages"
    max_tokens_keys = ("max_completion_tokens", "max_tokens")

    def format(self, asked: Any, *, strict: bool) -> dict[str, Any]:
        return {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": asked, "strict": strict},
            }
        }

    def completion(self, payload: dict[str, Any]) -> Completion:
        choices = payload.get("choices")
        if not isinstance(choices, list) or not choices:
            raise InvalidReply("the reply has no `choices`")
        choice = choices[0]
        message = choice.get("message")
        if not isinstance(message, dict):
            raise InvalidReply("the reply has no `message`")
        text, refusal = message.get("content"), message.get("refusal")
        if isinstance(text, list):  # some compatible servers send parts
            texts = [part["text"] for part in text if part.get("type") == "text" and isinstance(part["text"], str)]
            text = "".join(texts) if texts else None
        usage = payload.get("usage") or {}
        return Completion(
            _text(text),
            str(refusal) if refusal else None,
            _text(choice.get("finish_reason")),
            Usage(
                _count(usage.get("prompt_tokens")),
                _count((usage.get("prompt_tokens_details") or {}).get("cached_tokens")),
                _count(usage.get("completion_tokens")),
                _count((usage.get("completion_tokens_details") or {}).get("reasoning_tokens")),
                _count((usage.get("prompt_tokens_details") or {}).get("cache_write_tokens")),
            ),
            _text(payload.get("service_tier")),
        )


class Decisions:
    """`POST /decisions` (https://developers.openai.com/api/docs/api-reference/decisions).

    It takes questions in place of a schema, and answers them in place of writing text: the text of a reply is the JSON
    of its `answers`. A question that was refused has one too.
    """

    name = "decisions"
    path = "/decisions"
    messages_key = "input"
    max_tokens_keys = ()

    def format(self, asked: Any, *, strict: bool) -> dict[str, Any]:
        return {"questions": asked}

    def completion(self, payload: dict[str, Any]) -> Completion:
        answers = payload.get("answers")
        if not isinstance(answers, list):
            raise InvalidReply("the reply has no `answers`")
        text = json.dumps(answers, ensure_ascii=False, separators=(",", ":"))
        return Completion(text, None, "stop", _usage(payload))


_DIALECTS: dict[str, Dialect] = {"responses": Responses(), "chat": ChatCompletions(), "decisions": Decisions()}


def dialect(name: str) -> Dialect:
    """Return the dialect for the job file's `api`."""
    return _DIALECTS[name]


def understand(dialect: Dialect, reply: Reply) -> Completion:
    """Read a reply.

    Raises:
        InvalidReply: it is not JSON, or not a reply of this API. Nothing is guessed.
    """
    try:
        payload = json.loads(reply.body)
    except (ValueError, RecursionError):
        raise InvalidReply(_not_json(reply)) from None
    return understand_body(dialect, payload)


def understand_body(dialect: Dialect, payload: object) -> Completion:
    """Read what the JSON of a reply says.

    Raises:
        InvalidReply: it is not a reply of this API.
    """
    if not isinstance(payload, dict):
        raise InvalidReply("the reply is JSON, but not an object")
    if not payload.keys() & {"output", "choices", "answers"} and (said := _error(payload)):
        raise InvalidReply(f"the server answered with an error: {said}", kind="server_error")
    try:
        return dialect.completion(payload)
    except (AttributeError, TypeError, KeyError):
        raise InvalidReply(f"the reply does not have the shape of the `{dialect.name}` API") from None


def _not_json(reply: Reply) -> str:
    content_type = reply.content_type.lower()
    start = _short(reply.body[:200].decode("utf-8", "replace"), 60)
    if not start:
        return "the reply is empty"
    if "event-stream" in content_type or start.startswith(("data:", "event:")):
        return "the server sent a stream of events although none was asked for"
    if "html" in content_type or start.startswith("<"):
        return f"the server sent a web page instead of JSON: {start}"
    return f"the reply is not complete JSON: {start}"


def _error(payload: dict[str, Any]) -> str | None:
    """Return what an error inside a reply says."""
    error = payload.get("error")
    said = error.get("message") if isinstance(error, dict) else error
    return _short(said, 200) if isinstance(said, str) and said else None


def _usage(payload: dict[str, Any]) -> Usage:
    """Read the usage of Responses and Decisions, which use the same words for it."""
    usage = payload.get("usage") or {}
    return Usage(
        _count(usage.get("input_tokens")),
        _count((usage.get("input_tokens_details") or {}).get("cached_tokens")),
        _count(usage.get("output_tokens")),
        _count((usage.get("output_tokens_details") or {}).get("reasoning_tokens")),
        _count((usage.get("input_tokens_details") or {}).get("cache_write_tokens")),
    )


def _count(value: Any) -> int | None:
    """Read a token count; anything but a whole number from 0 up (to what a column holds) is unknown."""
    return value if type(value) is int and 0 <= value < 1 << 53 else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _short(text: str, limit: int) -> str:
    return " ".join(text.split())[:limit]
