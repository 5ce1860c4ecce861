"""Reads the body of a decisions request into a `Question`, or says what is wrong with it as the API would.

The fields and their bounds are those of `DecisionCreateParams` in the openai SDK 3.52.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from runner.simulator.questions import Asked, Question, Refused, fields_and_model, length_as_json, tokens_in

_MODEL = re.compile(r"gpt-6-luna(-\d{4}-\d\d-\d\d)?")
_FIELDS = ("model", "input", "questions", "prompt_cache_key", "prompt_cache_options", "safety_identifier")
_MOST_QUESTIONS = 400
_MOST_CHOICES = 255
_QUESTION_FIELDS = {
    "predicate": ("type", "name", "instructions"),
    "choice": ("type", "name", "instructions", "choices"),
    "score": ("type", "name", "instructions", "levels"),
}
# The texts of each type of input other than a message. What tools said is not the user's.
_TOOL_TEXTS = {
    "function_call": ("name", "arguments"),
    "function_call_output": ("output",),
    "custom_tool_call": ("name", "input"),
    "custom_tool_call_output": ("output",),
}
_ROLES = ("user", "developer", "system", "assistant")
# The key that holds what a part of a content says. An image says nothing here, and counts no tokens.
_PARTS = {
    "input_text": "text",
    "input_image": "image_url",
    "input_json": "data",
    "output_text": "text",
    "refusal": "refusal",
}


def read_decision(body: bytes) -> Question:
    """Read a request body.

    Raises:
        Refused: 400, with the reason.
    """
    fields, model = fields_and_model(body)
    _only(fields, _FIELDS, "")
    if not _MODEL.fullmatch(model):
        raise Refused(
            400,
            f"The model '{model}' is not supported by this endpoint. Supported models are: 'gpt-6-luna'.",
            code="unsupported_model",
            param="model",
        )
    user, other = _texts(_required(fields, "input", ""))
    questions = _listed(_required(fields, "questions", ""), "questions", 1, _MOST_QUESTIONS)
    asked = tuple(_asked(each, f"questions[{position}]") for position, each in enumerate(questions))
    return Question(
        api="decisions",
        fields=fields,
        model=model,
        user_text="\n".join(user),
        input_tokens=tokens_in(sum(map(len, user)) + sum(map(len, other)) + length_as_json(questions)),
        max_output_tokens=None,
        form="questions",
        schema=None,
        asked=asked,
    )


def _asked(question: Any, where: str) -> Asked:
    _object(question, where)
    kind = _one_of(_required(question, "type", where), _QUESTION_FIELDS, f"{where}.type")
    _only(question, _QUESTION_FIELDS[kind], where)
    name = question.get("name")
    if name is not None:
        _text(name, f"{where}.name")
    instructions = "\n".join(_said(_required(question, "instructions", where), f"{where}.instructions"))
    if not instructions:
        raise _empty(f"{where}.instructions", "string")
    if kind == "choice":
        return Asked(kind, name, instructions, *_values(question, "choices", "value", where, _MOST_CHOICES))
    if kind == "score":
        return Asked(kind, name, instructions, *_values(question, "levels", "label", where, None))
    return Asked(kind, name, instructions)


def _values(
    question: dict[str, Any], key: str, naming: str, where: str, most: int | None
) -> tuple[tuple[str | bool, ...], tuple[str, ...]]:
    """What there is to choose from, and the description of each."""
    values: list[str | bool] = []
    descriptions: list[str] = []
    for position, each in enumerate(_listed(_required(question, key, where), f"{where}.{key}", 2, most)):
        here = f"{where}.{key}[{position}]"
        _object(each, here)
        _only(each, (naming, "description"), here)
        value = _required(each, naming, here)
        if not isinstance(value, bool) or key == "levels":
            _text(value, f"{here}.{naming}")
        if key == "choices" and value in values:  # a string and a boolean with the same text are distinct
            message = f"Invalid '{here}.{naming}': each choice must be unique, but this one is given twice."
            raise Refused(400, message, code="invalid_value", param=f"{here}.{naming}")
        values.append(value)
        description = each.get("description")
        descriptions.append("" if description is None else _text(description, f"{here}.description"))
    return tuple(values), tuple(descriptions)


def _texts(given: Any) -> tuple[list[str], list[str]]:
    """The texts of the user, and those of everybody else."""
    if isinstance(given, str):
        return [given], []
    user: list[str] = []
    other: list[str] = []
    for position, item in enumerate(_listed(given, "input", 1, None)):
        where = f"input[{position}]"
        _object(item, where)
        kind = _one_of(item.get("type", "message"), ("message", *_TOOL_TEXTS), f"{where}.type")
        if kind == "message":
            role = _one_of(_required(item, "role", where), _ROLES, f"{where}.role")
            texts = user if role == "user" else other
            texts.extend(_said(_required(item, "content", where), f"{where}.content"))
        else:
            for key in _TOOL_TEXTS[kind]:
                other.extend(_said(_required(item, key, where), f"{where}.{key}"))
    return user, other


def _said(content: Any, where: str) -> list[str]:
    """The texts of a content, which is one itself or a list of parts."""
    if isinstance(content, str):
        return [content]
    texts: list[str] = []
    for position, part in enumerate(_listed(content, where, 1, None)):
        here = f"{where}[{position}]"
        _object(part, here)
        kind = _one_of(_required(part, "type", here), _PARTS, f"{here}.type")
        held = _required(part, _PARTS[kind], here)
        if kind == "input_json":
            texts.append(json.dumps(held, ensure_ascii=False, separators=(",", ":")))
        elif _text(held, f"{here}.{_PARTS[kind]}") and kind != "input_image":
            texts.append(held)
    return texts


# The complaints, in the API's own terms -------------------------------------------------------------------------------


def _only(fields: dict[str, Any], known: Collection[str], where: str) -> None:
    for key in fields:
        if key not in known:
            path = f"{where}.{key}" if where else key
            raise Refused(400, f"Unknown parameter: '{path}'.", code="unknown_parameter", param=path)


def _required(fields: dict[str, Any], key: str, where: str) -> Any:
    if fields.get(key) is None:
        path = f"{where}.{key}" if where else key
        raise Refused(400, f"Missing required parameter: '{path}'.", code="missing_required_parameter", param=path)
    return fields[key]


def _object(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise Refused(400, f"Invalid type for '{where}': expected an object.", code="invalid_type", param=where)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise Refused(400, f"Invalid type for '{where}': expected a string.", code="invalid_type", param=where)
    return value


def _one_of(value: Any, known: Collection[str], where: str) -> str:
    if not isinstance(value, str) or value not in known:
        *most, last = (f"'{each}'" for each in known)
        message = f"Invalid value for '{where}'. Supported values are: {', '.join(most)}, and {last}."
        raise Refused(400, message, code="invalid_value", param=where)
    return value


def _listed(value: Any, where: str, least: int, most: int | None) -> list[Any]:
    if not isinstance(value, list):
        raise Refused(400, f"Invalid type for '{where}': expected an array.", code="invalid_type", param=where)
    if not value:
        raise _empty(where, "array")
    if len(value) < least:
        message = (
            f"Invalid '{where}': array too short. Expected an array with minimum length {least}, but got {len(value)}."
        )
        raise Refused(400, message, code="array_below_min_length", param=where)
    if most is not None and len(value) > most:
        message = (
            f"Invalid '{where}': array too long. Expected an array with maximum length {most}, but got {len(value)}."
        )
        raise Refused(400, message, code="array_above_max_length", param=where)
    return value


def _empty(where: str, kind: str) -> Refused:
    return Refused(400, f"Invalid '{where}': empty {kind}.", code=f"empty_{kind}", param=where)
