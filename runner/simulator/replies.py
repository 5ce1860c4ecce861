"""Writes what the model says, and the envelope in which each API delivers it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from runner.simulator.answers import answer_all, refusal, spoil
from runner.simulator.draws import Draws, label_of
from runner.simulator.fitting import Fitting, Unfit
from runner.simulator.judgement import Judge
from runner.simulator.questions import CHARACTERS_PER_TOKEN, Question, Refused, tokens_in
from runner.simulator.settings import SimulatorSettings
from runner.simulator.stats import Tokens
from runner.simulator.words import words

# The same request gives the same bytes, so the clock has no say: 2026-01-01.
CREATED = 1_767_225_600
REFUSAL = "I'm sorry, but I can't help with that request."
_OPENINGS = ("This text is about", "In short:", "The main point is", "It deals with", "A summary:")
_EXCUSES = (
    "Sure! Here is the answer you asked for: ",
    "I think that it is best described as ",
    "As an AI model, I say ",
)

compact_json = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says.

    Attributes:
        text: the answer; None for a refusal or where it is withheld.
        refusal: the refusal, or None.
        cut: the text was cut off at the length asked for.
        output_tokens: an estimate.
        answers: those to the questions of a decisions request; None for other requests, or where they are withheld.
        refused: how many of these questions were refused on their own, without the fault `refusal`.
    """

    text: str | None
    refusal: str | None
    cut: bool
    output_tokens: int
    answers: list[dict[str, Any]] | None = None
    refused: int = 0


def service_tier(question: Question) -> str:
    """The tier that a request is served at: the one it asks for, where there is one of that name."""
    asked = question.fields.get("service_tier")
    return asked if asked in ("flex", "priority") else "default"


def write_reply(question: Question, digest: bytes, fault: str | None, settings: SimulatorSettings) -> Reply:
    """The model's words: the same for the same body, whatever the attempt.

    Args:
        fault: `invalid_reply`, `null_content` and `refusal` change what is said; others do not.

    Raises:
        Refused: 400, no value fits the schema.
    """
    if question.form == "questions":
        return _decided(question, digest, fault, settings)
    if fault == "refusal":
        return Reply(None, REFUSAL, False, tokens_in(len(REFUSAL)))
    text = _text(question, Draws(digest, "reply"), settings.seed)
    if fault == "invalid_reply":
        text = _spoilt(question, text, Draws(digest, "spoilt"))
    most = question.max_output_tokens
    cut = most is not None and tokens_in(len(text)) > most
    if cut and most is not None:
        text = text[: most * CHARACTERS_PER_TOKEN]
    return Reply(None if fault == "null_content" else text, None, cut, tokens_in(len(text)))


def _decided(question: Question, digest: bytes, fault: str | None, settings: SimulatorSettings) -> Reply:
    """Typed answers. They are not written as text, so each counts as one token."""
    judge = Judge(settings.seed, question.model, question.user_text, words(question.user_text))
    answers = answer_all(question.asked, judge)
    refused = 0
    for position, asked in enumerate(question.asked):
        alone = settings.faults.refuse_question
        if fault == "refusal" or (alone and Draws(digest, f"refuse question {position}").unit() < alone):
            answers[position] = refusal(asked)
            refused += fault != "refusal"
    if fault == "invalid_reply":
        answers = spoil(answers, Draws(digest, "spoilt"))
    return Reply(None, None, False, len(question.asked), None if fault == "null_content" else answers, refused)


def _text(question: Question, draws: Draws, seed: int) -> str:
    if question.form == "text":
        return _sentence(words(question.user_text), draws)
    if question.form == "json_object":
        return json.dumps({"answer": _sentence(words(question.user_text), draws)})
    text = words(question.user_text)
    judge = Judge(seed, question.model, question.user_text, text)
    try:
        return compact_json(Fitting(question.schema, text, judge, draws).value())
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        reason = str(error) if isinstance(error, Unfit) else "it is malformed"
        param = "response_format" if question.api == "chat" else "text.format"
        raise Refused(400, f"Invalid schema for {param}: {reason}.", code="invalid_json_schema", param=param) from None


def _sentence(text: list[str], draws: Draws) -> str:
    start = draws.below(max(1, len(text) - 7))
    return f"{draws.pick(_OPENINGS)} {' '.join(text[start : start + 8]) or 'nothing in particular'}."


def _spoilt(question: Question, text: str, draws: Draws) -> str:
    """Text that the schema does not allow: prose, a value of another kind, or JSON that breaks off."""
    way = draws.below(3)
    if way == 1 and text.startswith("{"):
        return json.dumps([json.loads(text)])
    if way == 2 and len(text) > 2 and text[0] in '{["':
        return text[: len(text) // 2]
    return draws.pick(_EXCUSES) + text


def charge(question: Question, reply: Reply, settings: SimulatorSettings) -> Tokens:
    """What the answer is charged for. The shares of the cache are rounded down."""
    read = question.input_tokens
    if not (settings.cached_share or settings.cache_write_share):
        return Tokens(read, reply.output_tokens)
    cached = int(read * settings.cached_share + 1e-6)  # 0.29 of 100 is 28.999999999999996
    return Tokens(read, reply.output_tokens, cached, int(read * settings.cache_write_share + 1e-6))


def envelope(
    question: Question, reply: Reply, tokens: Tokens, digest: bytes, attempt: int, fault: str | None
) -> dict[str, Any]:
    """The whole answer, a `chat.completion`, a `response` or a decision.

    Args:
        tokens: what it is charged for.
        attempt: how many times this body came before; it changes the ids.
        fault: `no_usage` and `no_choices` leave those out; others change nothing here.
    """
    if question.api == "decisions":
        answer = _decision(question, reply, tokens)
    else:
        write = _completion if question.api == "chat" else _response
        answer = write(question, reply, tokens, label_of(digest, f"id{attempt}", 24))
    if fault == "no_usage":
        del answer["usage"]
    if fault == "no_choices":
        if question.api == "decisions":
            del answer["answers"]
        else:
            answer["choices" if question.api == "chat" else "output"] = []
    return answer


def _decision(question: Question, reply: Reply, tokens: Tokens) -> dict[str, Any]:
    return {"answers": reply.answers, "model": question.model, "usage": _usage(tokens)}


def _usage(tokens: Tokens) -> dict[str, Any]:
    """As responses and decisions write it."""
    return {
        "input_tokens": tokens.input,
        "input_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.cache_write},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens.input + tokens.output,
    }


def _completion(question: Question, reply: Reply, tokens: Tokens, name: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": reply.refusal, "annotations": []}
    return {
        "id": f"chatcmpl-{name}",
        "object": "chat.completion",
        "created": CREATED,
        "model": question.model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": "length" if reply.cut else "stop",
            }
        ],
        "usage": {
            "prompt_tokens": tokens.input,
            "completion_tokens": tokens.output,
            "total_tokens": tokens.input + tokens.output,
            "prompt_tokens_details": {
                "cached_tokens": tokens.cached,
                "cache_write_tokens": tokens.cache_write,
                "audio_tokens": 0,
            },
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": service_tier(question),
        "system_fingerprint": "fp_simulator",
    }


def _response(question: Question, reply: Reply, tokens: Tokens, name: str) -> dict[str, Any]:
    fields = question.fields
    status = "incomplete" if reply.cut else "completed"
    said: dict[str, Any] = {"type": "output_text", "annotations": [], "logprobs": [], "text": reply.text}
    if reply.refusal is not None:
        said = {"type": "refusal", "refusal": reply.refusal}
    message = {"id": f"msg_{name}", "type": "message", "status": status, "content": [said], "role": "assistant"}
    return {
        "id": f"resp_{name}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if reply.cut else None,
        "instructions": fields.get("instructions"),
        "max_output_tokens": question.max_output_tokens,
        "model": question.model,
        "output": [message],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": service_tier(question),
        "temperature": fields.get("temperature", 1.0),
        "text": fields.get("text") or {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": fields.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": _usage(tokens),
        "user": None,
        "metadata": fields.get("metadata") or {},
    }
