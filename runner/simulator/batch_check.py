"""Validates the input file of a batch, a little at a time: what is wrong with it, where its lines start."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from runner.simulator.questions import Refused, question_in, tokens_in

APIS = {"/v1/chat/completions": "chat", "/v1/responses": "responses"}
"""The endpoints that batches are for, and what the simulator calls them."""

_MOST_ERRORS = 100


@dataclass(frozen=True, slots=True)
class LineError:
    """One thing that is wrong with an input file.

    Attributes:
        line: counted from 1; None where it is no line's.
    """

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def shown(self) -> dict[str, Any]:
        """As the API shows it."""
        return {"code": self.code, "line": self.line, "message": self.message, "param": self.param}


class InputCheck:
    """Reads an input file from its start to its end.

    Args:
        endpoint: that of the batch.
        max_requests: more are refused.
        known_model: whether there is a model of this name.

    Attributes:
        starts: where each request starts, in bytes; and, once done, where the last one ends.
        errors: the first hundred.
        model: that of the first request that names one.
        tokens: an estimate, of all requests' input.
    """

    def __init__(self, path: Path, endpoint: str, max_requests: int, known_model: Callable[[str], bool]) -> None:
        self._path = path
        self._endpoint = endpoint
        self._max_requests = max_requests
        self._known_model = known_model
        self._at = 0
        self._line = 0
        self._ids: set[bytes] = set()
        self.starts = array("Q")
        self.lengths = array("Q")
        self.errors: list[LineError] = []
        self.model: str | None = None
        self.tokens = 0
        self.done = False

    def step(self, lines: int) -> None:
        """Read so many more lines."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            for _ in range(lines):
                raw = file.readline()
                if not raw:
                    self._finish()
                    return
                self._line += 1
                if raw.strip():
                    self._read(raw)
                    if len(self.starts) > self._max_requests:
                        self._finish()
                        return
                self._at += len(raw)

    def _finish(self) -> None:
        self.done = True
        self._ids = set()
        if len(self.starts) > self._max_requests:
            message = f"The file has more than {self._max_requests} requests."
            self.errors = [LineError("too_many_tasks", message)]
        elif not self.starts:
            self.errors = [LineError("empty_file", "The file has no requests.")]

    def _read(self, raw: bytes) -> None:
        self.starts.append(self._at)
        self.lengths.append(len(raw))
        if (error := self._wrong_with(raw)) is not None and len(self.errors) < _MOST_ERRORS:
            self.errors.append(error)

    def _wrong_with(self, raw: bytes) -> LineError | None:
        number = self._line
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            return LineError("invalid_json_line", "The line is not valid JSON.", number)
        if not isinstance(line, dict):
            return LineError("invalid_json_line", "The line is not a JSON object.", number)
        for name, kind, called in _FIELDS:
            value = line.get(name)
            if value is None or value == "":
                message = f"Missing required parameter: '{name}'."
                return LineError("missing_required_parameter", message, number, name)
            if not isinstance(value, kind):
                return LineError("invalid_type", f"Invalid type for '{name}': expected {called}.", number, name)
        if line["method"] != "POST":
            return LineError("invalid_method", "Invalid 'method': expected 'POST'.", number, "method")
        if line["url"] != self._endpoint:
            message = f"The url '{line['url']}' is not that of the batch, '{self._endpoint}'."
            return LineError("url_mismatch", message, number, "url")
        custom_id = blake2b(line["custom_id"].encode(errors="surrogatepass"), digest_size=8).digest()
        if custom_id in self._ids:
            message = "Another request of this file has the same custom_id."
            return LineError("duplicate_custom_id", message, number, "custom_id")
        self._ids.add(custom_id)
        return self._wrong_with_body(line["body"], number, len(raw))

    def _wrong_with_body(self, body: dict[str, Any], number: int, length: int) -> LineError | None:
        model = body.get("model")
        if not isinstance(model, str) or not model:
            return LineError(
                "missing_required_parameter", "Missing required parameter: 'body.model'.", number, "body.model"
            )
        if self.model is None:
            self.model = model
            if not self._known_model(model):
                return LineError("model_not_found", f"The model '{model}' does not exist.", number, "body.model")
        elif model != self.model:
            message = f"The model '{model}' is not that of the first request, '{self.model}'."
            return LineError("model_mismatch", message, number, "body.model")
        try:
            self.tokens += question_in(APIS[self._endpoint], body, model).input_tokens
        except Refused:  # found out when the request is carried out: it alone fails
            self.tokens += tokens_in(length)
        return None


_FIELDS: tuple[tuple[str, type, str], ...] = (
    ("custom_id", str, "a string"),
    ("method", str, "a string"),
    ("url", str, "a string"),
    ("body", dict, "an object"),
)
