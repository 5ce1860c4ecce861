"""Reads a request body into a `Question`, or says what is wrong with it as the API would."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import ceil
from typing import Any

CHARACTERS_PER_TOKEN = 4


class Refused(Exception):  # noqa: N818 - a word of the protocol
    """The request gets an error envelope.

    Args:
        status: the HTTP status.
        message: for people.
        kind: the envelope's `type`.
        code: the envelope's `code`, by which a client decides.
        param: the parameter that is wrong.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.envelope = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True, slots=True)
class Asked:
    """One of the questions of a decisions request.

    Attributes:
        kind: `predicate`, `choice` or `score`.
        name: the client's name for it, or None.
        instructions: the question itself, as text.
        values: what there is to choose from: choices, or the labels of the levels; none for a predicate.
        descriptions: one for each value, empty where there is none.
    """

    kind: str
    name: str | None
    instructions: str
    values: tuple[str | bool, ...] = ()
    descriptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks for.

    Attributes:
        api: `chat`, `responses` or `decisions`.
        fields: the body, parsed.
        model: the model's name.
        user_text: what the user wrote, without instructions.
        input_tokens: an estimate, of the messages and the schema or the questions.
        max_output_tokens: the most output asked for, or None.
        form: `text`, `json_object`, `json_schema` or `questions`.
        schema: the JSON Schema where `form` is `json_schema`.
        asked: the questions where `form` is `questions`.
    """

    api: str
    fields: dict[str, Any]
    model: str
    user_text: str
    input_tokens: int
    max_output_tokens: int | None
    form: str
    schema: Any
    asked: tuple[Asked, ...] = ()


def tokens_in(characters: int) -> int:
    """An estimate: about four characters make a token."""
    return ceil(characters / CHARACTERS_PER_TOKEN)


def read_question(api: str, body: bytes) -> Question:
    """Read a request body.

    Args:
        api: `chat` or `responses`.

    Raises:
        Refused: 400, with the reason.
    """
    fields, model = fields_and_model(body)
    return question_in(api, fields, model)


def question_in(api: str, fields: dict[str, Any], model: str) -> Question:
    """What a body that is parsed already asks for; as `read_question` otherwise."""
    if fields.get("stream"):
        raise Refused(400, "The simulator does not stream.", code="unsupported_value", param="stream")
    key = "messages" if api == "chat" else "input"
    user, other = _texts(fields, key)
    if api == "responses" and isinstance(instructions := fields.get("instructions"), str):
        other.append(instructions)
    form, schema = _format(api, fields)
    limits = ("max_completion_tokens", "max_tokens") if api == "chat" else ("max_output_tokens",)
    return Question(
        api=api,
        fields=fields,
        model=model,
        user_text="\n".join(user),
        input_tokens=tokens_in(sum(map(len, user)) + sum(map(len, other)) + length_as_json(schema)),
        max_output_tokens=_most(fields, limits),
        form=form,
        schema=schema,
    )


def fields_and_model(body: bytes) -> tuple[dict[str, Any], str]:
    """A request body, parsed, and the model it names.

    Raises:
        Refused: 400, with the reason.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(
            400,
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly.)",
        ) from None
    if not isinstance(fields, dict):
        raise Refused(400, "Invalid type for the request body: expected an object.", code="invalid_type")
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise Refused(400, "you must provide a model parameter", code="missing_required_parameter", param="model")
    return fields, model


def _texts(fields: dict[str, Any], key: str) -> tuple[list[str], list[str]]:
    """The texts of the user, and those of everybody else."""
    if fields.get(key) is None:
        raise Refused(400, f"Missing required parameter: '{key}'.", code="missing_required_parameter", param=key)
    messages = fields[key]
    if isinstance(messages, str) and key == "input":
        return [messages], []
    if not isinstance(messages, list) or not messages:
        problem = "empty array" if messages == [] else "wrong type"
        raise Refused(
            400,
            f"Invalid '{key}': {problem}. Expected an array of messages with at least one.",
            code="empty_array" if messages == [] else "invalid_type",
            param=key,
        )
    user: list[str] = []
    other: list[str] = []
    for position, message in enumerate(messages):
        where = f"{key}[{position}]"
        if not isinstance(message, dict):
            raise Refused(400, f"Invalid type for '{where}': expected an object.", code="invalid_type", param=where)
        role, content = message.get("role"), message.get("content")
        if key == "messages" and not isinstance(role, str):
            raise Refused(
                400,
                f"Missing required parameter: '{where}.role'.",
                code="missing_required_parameter",
                param=f"{where}.role",
            )
        texts = user if role == "user" else other
        if isinstance(content, str):
            texts.append(content)
        elif isinstance(content, list):
            texts.extend(
                part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
            )
        elif content is not None or role == "user":
            raise Refused(
                400,
                f"Invalid type for '{where}.content': expected a string or an array.",
                code="invalid_type",
                param=f"{where}.content",
            )
    return user, other


def _format(api: str, fields: dict[str, Any]) -> tuple[str, Any]:
    """The form of the answer, and its schema."""
    if api == "chat":
        param, asked = "response_format", fields.get("response_format")
    else:
        text = fields.get("text")
        if text is not None and not isinstance(text, dict):
            raise Refused(400, "Invalid type for 'text': expected an object.", code="invalid_type", param="text")
        param, asked = "text.format", (text or {}).get("format")
    if asked is None:
        return "text", None
    form = asked.get("type") if isinstance(asked, dict) else None
    if form in ("text", "json_object"):
        return str(form), None
    if form != "json_schema":
        raise Refused(
            400,
            f"Invalid value: '{param}.type'. Supported values are: 'json_object', 'json_schema', and 'text'.",
            code="invalid_value",
            param=f"{param}.type",
        )
    holder, path = (asked.get("json_schema"), f"{param}.json_schema") if api == "chat" else (asked, param)
    for name, kind in (("name", str), ("schema", dict)):
        if not isinstance(holder, dict) or not isinstance(holder.get(name), kind):
            raise Refused(
                400,
                f"Missing required parameter: '{path}.{name}'.",
                code="missing_required_parameter",
                param=f"{path}.{name}",
            )
    return "json_schema", holder["schema"]


def length_as_json(value: Any) -> int:
    """How many characters a schema, or a list of questions, has: the model reads it like a message."""
    return 0 if value is None else len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def _most(fields: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """The most output tokens asked for."""
    for name in names:
        most = fields.get(name)
        if most is None:
            continue
        if not isinstance(most, int) or isinstance(most, bool):
            raise Refused(400, f"Invalid type for '{name}': expected an integer.", code="invalid_type", param=name)
        if most < 1:
            raise Refused(
                400,
                f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {most} instead.",
                code="integer_below_min_value",
                param=name,
            )
        return most
    return None
