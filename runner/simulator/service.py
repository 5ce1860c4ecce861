"""Decides what the server answers to a request, without any networking: `server.py` carries it out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from runner.simulator.accounts import Account, Accounts
from runner.simulator.batch_api import BatchApi, Incoming
from runner.simulator.batch_output import LineAnswer
from runner.simulator.decisions import read_decision
from runner.simulator.draws import Draws, digest_of, label_of
from runner.simulator.faults import FaultTable, latency_of
from runner.simulator.files import StoredFile
from runner.simulator.limits import retry_headers
from runner.simulator.questions import Question, Refused, question_in, read_question
from runner.simulator.replies import CREATED, Reply, charge, compact_json, envelope, service_tier, write_reply
from runner.simulator.settings import BY_BODY, SimulatorSettings
from runner.simulator.stats import NOTHING, Stats, Tokens

_APIS = {"/v1/chat/completions": "chat", "/v1/responses": "responses", "/v1/decisions": "decisions"}
_HTML = b"<!doctype html><html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
# The kinds of fault after which a client still holds an answer that it can use and has paid for.
_STILL_ANSWERS = frozenset({None, "hang", "refusal", "no_usage"})
# The kinds of fault that befall a connection: the requests of a batch have none of their own.
_OF_CONNECTIONS = frozenset({"cut", "hang", "invalid_json", "html", "sse"})
_compact_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(slots=True)
class Answer:
    """What is sent back, and what it counts as.

    Attributes:
        content: the HTTP body.
        content_type: its type, without a charset.
        delay_s: seconds to wait before sending.
        cut: how many bytes of the content are sent before the connection is closed, 0 for no answer at all; None: all.
        digest: the body this answers, when it is an answer that a client can use, else None.
        tokens: what the answer is charged for.
        account: whose request it answers; None where that is not known.
        file: what is sent in place of the content.
    """

    status: int
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    delay_s: float = 0.0
    cut: int | None = None
    digest: bytes | None = None
    tokens: Tokens = NOTHING
    account: Account | None = None
    file: StoredFile | None = None


class Service:
    """The simulated API.

    Args:
        settings: how it behaves.
        now: the time that limits go by, in seconds.
        started_at: when the simulated time of batches starts, in seconds since 1970.
    """

    def __init__(self, settings: SimulatorSettings, now: Callable[[], float], started_at: float = CREATED) -> None:
        self._settings = settings
        self._now = now
        self._accounts = Accounts(settings, now)
        self._models = frozenset(settings.models)
        self._faults = FaultTable(settings.faults)
        self.stats = Stats(self._accounts.names)
        self._batch_api = BatchApi(settings, now, started_at, self._answer_line, self._has_model)

    def reset(self) -> None:
        """Forget what was seen: counters, attempts and the used quotas. Limits go on; files and batches stay."""
        self.stats.reset()
        self._accounts.reset()
        self._batch_api.reset()

    async def snapshot(self) -> dict[str, Any]:
        """The counters as `GET /stats` shows them, all that is due of the batches done first."""
        await self._batch_api.catch_up()
        return self.last_snapshot()

    def last_snapshot(self) -> dict[str, Any]:
        """The counters, batches as they were when somebody last looked at them."""
        return self.stats.snapshot() | self._batch_api.snapshot()

    def close(self) -> None:
        """Remove all files from the disk."""
        self._batch_api.close()

    def began(self) -> None:
        """A request arrived."""
        self.stats.began(self._now())

    def sent(self, answer: Answer) -> None:
        """The answer was written."""
        stats = self.stats
        stats.all.answered(answer.status, answer.tokens)
        if answer.account is not None and answer.account.name is not None:
            stats.accounts[answer.account.name].answered(answer.status, answer.tokens)
        if answer.digest is not None:
            stats.bodies.answered(answer.digest)
        if answer.file is not None:
            answer.file.downloads += 1

    def abandoned(self, answer: Answer | None) -> None:
        """The client went away before the answer was written."""
        self.stats.abandoned += 1
        if answer is not None and answer.digest is not None and answer.account is not None:
            answer.account.take_back()

    def answer(
        self, method: str, path: str, authorization: str | None, body: bytes, organization: str | None = None
    ) -> Answer:
        """Decide the answer to one request.

        Args:
            authorization: the header `Authorization`.
            organization: the header `OpenAI-Organization`.
        """
        account = None
        try:
            account = self._accounts.whose(authorization)
            self._admit(account, organization)
            answer = self._route(method, path, body, account)
        except Refused as refused:
            digest = digest_of(self._settings.seed, body)
            answer = _json(refused.status, refused.envelope, _request_id(digest, -1))
        answer.account = account
        return answer

    async def keep(self, asked: Incoming) -> Answer:
        """Decide the answer to a request about files or batches."""
        account = None
        headers = _request_id(f"{asked.method} {asked.path}".encode(), self.stats.all.requests)
        try:
            account = self._accounts.whose(asked.authorization)
            self._admit(account, asked.organization)
            kept = await self._batch_api.answer(asked, account)
        except Refused as refused:
            answer = _json(refused.status, refused.envelope, headers)
        else:
            if kept.simulated_now is not None:
                headers["x-simulated-now"] = f"{kept.simulated_now:.3f}"
                headers["x-simulated-speed"] = f"{self._settings.batches.speed:g}"
            if kept.file is None:
                answer = _json(200, kept.value, headers)
                answer.cut = 0 if kept.lost else None
            else:
                answer = Answer(200, b"", headers, "application/octet-stream", file=kept.file, cut=kept.cut)
        answer.account = account
        return answer

    def _admit(self, account: Account, organization: str | None) -> None:
        if account.name is not None:
            self.stats.accounts[account.name].requests += 1
            account.admit(organization)

    def _route(self, method: str, path: str, body: bytes, account: Account) -> Answer:
        if method == "POST" and path in _APIS:
            return self._create(_APIS[path], body, account)
        if method == "GET" and path == "/v1/models":
            return _json(200, {"object": "list", "data": [_model(name) for name in self._model_names()]})
        if method == "GET" and path.startswith("/v1/models/"):
            name = unquote(path.removeprefix("/v1/models/"))
            self._check_model(name)
            return _json(200, _model(name))
        raise Refused(404, f"Invalid URL ({method} {path})")

    def _create(self, api: str, body: bytes, account: Account) -> Answer:
        settings, limits = self._settings, account.limits
        question = read_decision(body) if api == "decisions" else read_question(api, body)
        self._check_model(question.model)
        account.check_quota()
        digest = digest_of(settings.seed, body)
        if (exceeded := limits.admit(question.input_tokens + (question.max_output_tokens or 0))) is not None:
            unit = "RPM" if exceeded.limit == "requests" else "TPM"
            return _limited(
                f"Rate limit reached for {question.model} on {exceeded.limit} per min ({unit}): "
                f"Limit {exceeded.per_minute}. Please try again in {exceeded.retry_after_s:.3f}s.",
                exceeded.limit,
                {**limits.headers(), **retry_headers(exceeded.retry_after_s), **_request_id(digest, -1)},
            )
        answer = self._respond(question, digest, account)
        answer.headers |= limits.headers()
        return answer

    def _answer_line(self, api: str, fields: dict[str, Any], account: Account) -> LineAnswer:
        """Answer a request of a batch: as if it came alone, but for the limits and for faults of the connection.

        Args:
            api: `chat` or `responses`.
            fields: the request's body, parsed.
        """
        digest = digest_of(self._settings.seed, _as_sent(fields))
        try:
            question = question_in(api, fields, fields["model"])
            account.check_quota()
        except Refused as refused:
            answer = _json(refused.status, refused.envelope, _request_id(digest, -1))
        else:
            answer = self._respond(question, digest, account, in_batch=True)
        if answer.digest is not None:
            self.stats.bodies.answered(answer.digest)
        return LineAnswer(answer.status, answer.headers["x-request-id"], answer.content, answer.tokens)

    def _respond(self, question: Question, digest: bytes, account: Account, *, in_batch: bool = False) -> Answer:
        """Answer what passed all checks: the next draw of this body says how."""
        settings = self._settings
        tally = self.stats.bodies.tally(digest)
        attempt = tally.attempts
        draws = Draws(digest, f"attempt{attempt}")
        fault = self._faults.draw(draws)
        delay_s = 0.0 if in_batch else latency_of(settings.latency_s, draws)
        enough = settings.max_faults_per_body is not None and tally.faults >= settings.max_faults_per_body
        if enough or (fault == "invalid_reply" and question.form == "text") or (in_batch and fault in _OF_CONNECTIONS):
            fault = None
        if fault == "resource_unavailable" and service_tier(question) != "flex":
            fault = None
        if self._faults.permanent(digest):
            fault = "bad_request"
        self.stats.bodies.attempted(digest, faulted=fault is not None and fault not in BY_BODY)
        headers = _request_id(digest, attempt)
        headers["openai-processing-ms"] = str(round(delay_s * 1000))
        try:
            answer = self._faulty(question, digest, attempt, fault, draws)
        except Refused as refused:
            return _json(refused.status, refused.envelope, headers)
        if fault is not None:
            self.stats.faults[fault] += 1
        if fault == "hang":
            delay_s += settings.hang_s
        if fault not in ("rate_limit", "resource_unavailable", "bad_request"):
            answer.delay_s = delay_s
        answer.headers |= headers
        if answer.digest is not None:
            account.promise()
        return answer

    def _faulty(self, question: Question, digest: bytes, attempt: int, fault: str | None, draws: Draws) -> Answer:
        retry_after_s = self._settings.retry_after_s
        retry = {} if retry_after_s is None else retry_headers(retry_after_s)
        if fault == "bad_request":
            message = "The simulator refuses this body for good."
            return _json(400, Refused(400, message, code="simulated_bad_request").envelope)
        if fault == "rate_limit":
            return _limited("Rate limit reached. Please slow down.", "requests", retry)
        if fault == "resource_unavailable":
            message = "There is no room for flex requests just now."
            return _json(429, Refused(429, message, kind=fault, code=fault).envelope, retry)
        if fault == "server_error":
            message = "The server had an error while processing your request. Sorry about that!"
            return _json(500, Refused(500, message, kind="server_error").envelope)
        if fault == "unavailable":
            message = "The server is overloaded or not ready yet."
            return _json(503, Refused(503, message, kind="server_error", code="server_overloaded").envelope, retry)
        if fault == "html":
            return Answer(200, _HTML, content_type="text/html")
        reply = write_reply(question, digest, fault, self._settings)
        tokens = charge(question, reply, self._settings)
        answer = _json(200, envelope(question, reply, tokens, digest, attempt, fault))
        if fault == "cut":
            answer.cut = 0 if draws.unit() < 0.5 else len(answer.content) // 2
        elif fault == "invalid_json":
            answer.content = draws.pick((answer.content[: len(answer.content) // 2], b"", b"upstream error\n"))
        elif fault == "sse":
            answer.content = _events(question, reply, answer.content)
            answer.content_type = "text/event-stream"
        else:
            answer.tokens = tokens
            if reply.refused:
                self.stats.faults["refuse_question"] += reply.refused
            answer.digest = digest if fault in _STILL_ANSWERS else None
        return answer

    def _has_model(self, name: str) -> bool:
        return not self._models or name in self._models

    def _check_model(self, name: str) -> None:
        if not self._has_model(name):
            raise Refused(
                404,
                f"The model `{name}` does not exist or you do not have access to it.",
                code="model_not_found",
                param="model",
            )

    def _model_names(self) -> list[str]:
        return list(self._settings.models) or ["gpt-6-luna"]


def _as_sent(fields: dict[str, Any]) -> bytes:
    """The bytes that the SDK sends for a body: so it is the same body in a batch and alone, however it is spaced."""
    try:
        return _compact_json(fields).encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8, but JSON can spell it
        return compact_json(fields).encode()


def _json(status: int, value: Any, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, compact_json(value).encode(), dict(headers or {}))


def _limited(message: str, kind: str, headers: dict[str, str]) -> Answer:
    return _json(429, Refused(429, message, kind=kind, code="rate_limit_exceeded").envelope, headers)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "simulator"}


def _request_id(digest: bytes, attempt: int) -> dict[str, str]:
    return {"x-request-id": f"req_{label_of(digest, f'request{attempt}', 32)}"}


def _events(question: Question, reply: Reply, content: bytes) -> bytes:
    """The answer as server-sent events."""
    if question.api == "responses":
        return b'event: response.completed\ndata: {"type":"response.completed","response":' + content + b"}\n\n"
    if question.api == "decisions":
        return b"data: " + content + b"\n\ndata: [DONE]\n\n"
    whole = json.loads(content)
    choice = {"index": 0, "delta": {"role": "assistant", "content": reply.text}, "finish_reason": "stop"}
    chunk = {key: whole[key] for key in ("id", "created", "model")} | {
        "object": "chat.completion.chunk",
        "choices": [choice],
    }
    return b"data: " + compact_json(chunk).encode() + b"\n\ndata: [DONE]\n\n"
