"""Carries out the requests of a batch in a shuffled order, a little at a time, and writes what they come to."""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from runner.simulator.draws import label_of
from runner.simulator.questions import Refused
from runner.simulator.replies import compact_json
from runner.simulator.stats import NOTHING, Tokens

UNFINISHED = {
    "expired": {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    },
    "cancelled": {
        "code": "batch_cancelled",
        "message": "This request was not executed: the batch was cancelled first.",
    },
}
"""What is said of a request that a batch in this state has not carried out."""


@dataclass(slots=True)
class LineAnswer:
    """What one request came to.

    Attributes:
        content: the answer's body, as JSON.
        tokens: what it is charged for.
    """

    status: int
    request_id: str
    content: bytes
    tokens: Tokens = NOTHING


class BatchOutput:
    """The results of one batch, as far as they are there.

    Args:
        source: the input file.
        starts: where in it each request starts.
        lengths: how long each is.
        name: 16 bytes that the order is drawn from.
        answer: carries out one request, given its body.
        paths: where answers and errors are written.

    Attributes:
        total: how many requests the batch has.
        completed: how many requests were answered with 200.
        failed: how many with another status.
        unfinished: how many were given up.
        charged: the tokens of all answers.
    """

    def __init__(
        self,
        source: Path,
        starts: array[int],
        lengths: array[int],
        name: bytes,
        answer: Callable[[dict[str, Any]], LineAnswer],
        paths: tuple[Path, Path],
        *,
        only_errors: int | None = None,
        missing: int = 0,
        duplicate: int = 0,
    ) -> None:
        self._source = source
        self._starts = starts
        self._lengths = lengths
        self._name = name
        self._answer = answer
        self._only_errors = only_errors
        self._missing = missing
        self._duplicate = duplicate
        self._repeated = bytearray()
        self._order = array("L", range(len(starts)))
        random.Random(name).shuffle(self._order)
        self._at = 0
        self.total = len(starts)
        self.output_path, self.error_path = paths
        self.completed = 0
        self.failed = 0
        self.unfinished = 0
        self.charged = NOTHING

    @property
    def executed(self) -> int:
        """How many requests were carried out."""
        return self.completed + self.failed

    def execute(self, requests: int) -> None:
        """Carry out so many more requests."""
        answers, errors = bytearray(), bytearray()
        with self._source.open("rb") as source:
            for _ in range(requests):
                line = self._next(source)
                result = self._refused() if self._only_errors else self._answer(line["body"])
                shown = self._line(line["custom_id"], result)
                if result.status == 200:
                    self.completed += 1
                    self.charged = self.charged.plus(result.tokens)
                else:
                    self.failed += 1
                if self._missing:
                    self._missing -= 1
                    continue
                if result.status == 200 and self._duplicate:
                    self._duplicate -= 1
                    self._repeated += shown
                (answers if result.status == 200 else errors).extend(shown)
        self._append(answers, errors)

    def give_up(self, requests: int, status: str) -> None:
        """Write down so many more requests as not carried out, because the batch is in this state."""
        errors = bytearray()
        with self._source.open("rb") as source:
            for _ in range(requests):
                line = self._next(source)
                shown = {"id": self._id(line["custom_id"]), "custom_id": line["custom_id"], "response": None}
                errors += (compact_json(shown | {"error": UNFINISHED[status]}) + "\n").encode()
                self.unfinished += 1
        self._append(bytearray(), errors)

    def finish(self, unknown: int) -> None:
        """Write what is there besides: lines that were there before, and so many that nobody asked for."""
        answers = self._repeated
        for number in range(unknown):
            custom_id = f"unknown-{label_of(self._name, f'unknown{number}', 12)}"
            body = compact_json({"object": "nobody asked for this"}).encode()
            answers += self._line(custom_id, LineAnswer(200, "req_unknown", body))
        self._append(answers, bytearray())
        self._repeated = bytearray()
        self._starts, self._lengths, self._order = array("Q"), array("Q"), array("L")  # a megabyte of a full batch

    @property
    def left(self) -> int:
        """How many requests are neither carried out nor given up."""
        return self.total - self._at

    def _next(self, source: IO[bytes]) -> dict[str, Any]:
        index = self._order[self._at]
        self._at += 1
        source.seek(self._starts[index])
        line: dict[str, Any] = json.loads(source.read(self._lengths[index]))
        return line

    def _line(self, custom_id: str, result: LineAnswer) -> bytes:
        head = (
            f'{{"id":"{self._id(custom_id)}","custom_id":{compact_json(custom_id)},"response":'
            f'{{"status_code":{result.status},"request_id":"{result.request_id}","body":'
        )
        return head.encode() + result.content + b'},"error":null}\n'

    def _id(self, custom_id: str) -> str:
        return f"batch_req_{label_of(self._name, custom_id.encode(errors='replace').hex(), 24)}"

    def _refused(self) -> LineAnswer:
        status = self._only_errors or 400
        kind, code = {429: ("requests", "rate_limit_exceeded")}.get(
            status, ("server_error", None) if status >= 500 else ("invalid_request_error", "simulated_bad_request")
        )
        refused = Refused(status, f"The simulator answers {status} to this batch.", kind=kind, code=code)
        request_id = f"req_{label_of(self._name, str(self._at), 32)}"
        return LineAnswer(status, request_id, compact_json(refused.envelope).encode())

    def _append(self, answers: bytearray, errors: bytearray) -> None:
        for path, lines in ((self.output_path, answers), (self.error_path, errors)):
            if lines:
                with path.open("ab") as file:
                    file.write(lines)
