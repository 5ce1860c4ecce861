"""Turns an input row into the bytes that are sent for it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from runner.clock import Clock
from runner.dialects import Dialect
from runner.records import BadRow, Item, Request, Result
from runner.template import Field, Messages, Part, PromptTemplate, field_text

SAYS_NOTHING = frozenset(
    {"service_tier", "store", "metadata", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
     "prompt_cache_retention"}
)  # fmt: skip
"""Parameters that do not change an answer, and so are no part of a request's fingerprint."""

CHARACTERS_PER_TOKEN = 4.0  # a first guess for English; `usage` in the replies is the truth


class RequestBuilder:
    """Renders rows of one job.

    Only the messages differ between rows, so the rest of the body is encoded once.

    Args:
        endpoint_kind: part of the fingerprint, because another kind of server answers differently.
        asked: what is asked besides the messages (a JSON Schema, questions), or None.
    """

    def __init__(
        self,
        template: PromptTemplate,
        dialect: Dialect,
        models: Sequence[str],
        parameters: Mapping[str, Any],
        asked: Any,
        *,
        strict: bool = True,
        endpoint_kind: str = "openai",
    ) -> None:
        self._template = template
        self._spelling = None if template.fillings is None else _spelling(template.fillings)
        rest: dict[str, Any] = {"model": None, **dict(sorted(parameters.items()))}
        if asked is not None:
            for key, value in dialect.format(asked, strict=strict).items():
                # `parameters: {text: {verbosity: low}}` and the format live under one key
                rest[key] = {**rest[key], **value} if isinstance(rest.get(key), Mapping) else value
        self._head = f'{{"{dialect.messages_key}":'.encode()
        self._rest, self._models = rest, models
        self._tails = [b"," + _encode({**rest, "model": model})[1:] for model in models]
        telling = {key: value for key, value in rest.items() if key not in SAYS_NOTHING}
        self._telling_tails = [b"," + _encode({**telling, "model": model})[1:] for model in models]
        self._salt = f"{endpoint_kind}\n{dialect.name}\n".encode()
        self._salted_head = self._salt + self._head
        self.max_output_tokens = max_output_tokens(parameters, dialect)
        self._asked_characters = len(_encode(asked).decode()) if asked else 0

    def build(self, item: Item) -> Request:
        """Return the request for one row.

        Raises:
            MissingField: the row lacks a field that the template needs.
        """
        messages = self._template.render(item.fields)
        start = self._head + _encode_messages(messages)
        characters = sum([len(text) for _, text in messages]) + self._asked_characters
        return Request(
            item,
            start + self._tails[item.model],
            hashlib.blake2b(self._salt + start + self._telling_tails[item.model], digest_size=16).hexdigest(),
            max(1, math.ceil(characters / CHARACTERS_PER_TOKEN)),
        )

    def fingerprints(self, item: Item) -> list[bytes]:
        """Return for each model the 16 bytes that are the `fingerprint` of its request for a row.

        Raises:
            MissingField: the row lacks a field that the template needs.
        """
        start = self._salted_head + self._messages(item.fields)
        return [hashlib.blake2b(start + tail, digest_size=16).digest() for tail in self._telling_tails]

    def _messages(self, fields: Mapping[str, Any]) -> bytes:
        """Return the messages for a row, encoded: of a simple template only the values of fields are encoded anew."""
        if self._spelling is not None:
            with suppress(PydanticSerializationError):  # a lone surrogate
                return b"".join([part if isinstance(part, bytes) else _inner(field_text(fields, *part))
                                 for part in self._spelling])  # fmt: skip
        return _encode_messages(self._template.render(fields))

    def at_standard(self, request: Request) -> Request:
        """Return the same request, asked at the standard tier: `auto` could be another one in a project's settings."""
        number = request.item.model
        rest = {**self._rest, "model": self._models[number], "service_tier": "default"}
        start = request.body.removesuffix(self._tails[number])
        return replace(request, body=start + b"," + _encode(rest)[1:])


def max_output_tokens(parameters: Mapping[str, Any], dialect: Dialect) -> int | None:
    """Return the longest answer the job allows, in tokens."""
    for key in dialect.max_tokens_keys:
        if isinstance(parameters.get(key), int):
            return int(parameters[key])
    return None


def _encode(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8, but JSON can spell it
        return json.dumps(value, separators=(",", ":")).encode()


def _encode_messages(messages: Messages) -> bytes:
    """Return what `_encode` would for a list of objects, in a third of the time: only the texts need a look."""
    try:
        return _spelled(messages, _quoted).encode()
    except UnicodeEncodeError:
        return _spelled(messages, _escaped).encode()


def _spelled(messages: Messages, quoted: Callable[[str], str]) -> str:
    return "[" + ",".join([f'{{"role":{quoted(role)},"content":{quoted(text)}}}' for role, text in messages]) + "]"


def _spelling(fillings: Sequence[tuple[str, Sequence[Part]]]) -> list[bytes | Field] | None:
    """Return what the encoded messages of a simple template are made of; None where a text of it is no Unicode."""
    spelled: list[bytes | Field] = [b"["]
    for number, (role, parts) in enumerate(fillings):
        spelled.append(f'{"," if number else ""}{{"role":{_quoted(role)},"content":"'.encode())
        try:
            spelled += [_inner(part) if isinstance(part, str) else part for part in parts]
        except PydanticSerializationError:
            return None
        spelled.append(b'"}')
    return [*spelled, b"]"]


def _inner(text: str) -> bytes:
    """Return a text as it stands between the quotes of a JSON string.

    It is what `json` makes of it, in a third of the time. Raises PydanticSerializationError for a lone surrogate.
    """
    return to_json(text)[1:-1]


_quoted = json.JSONEncoder(ensure_ascii=False).encode
_escaped = json.JSONEncoder().encode


def bad_result(row: BadRow, clock: Clock, row_id: str | None = None) -> Result:
    """Return the result of a row that cannot be sent."""
    now = clock.now_us()
    item = Item(row.index, str(row.index) if row_id is None else row_id, row.fields, row.file, row.line, row.model)
    return Result(
        item, error_type="bad_row", error=f"{row.where}: {row.reason}", queued_at=now, finished_at=now, total_s=0.0
    )
