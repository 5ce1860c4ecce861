"""Answers the questions of a decisions request: typed, in their order, with probabilities that sum to 1."""

from __future__ import annotations

from typing import Any

from runner.simulator.draws import Draws
from runner.simulator.judgement import Judge, options
from runner.simulator.questions import Asked


def answer_all(asked: tuple[Asked, ...], judge: Judge) -> list[dict[str, Any]]:
    """One answer for each question."""
    return [_answer(each, judge) for each in asked]


def refusal(asked: Asked) -> dict[str, Any]:
    """What stands in place of an answer to this question."""
    return {"type": "refusal", "name": asked.name}


def _answer(asked: Asked, judge: Judge) -> dict[str, Any]:
    # A name is likely to be the same in a JSON Schema; so the same draws are made for both.
    question = asked.name or asked.instructions
    if asked.kind == "predicate":
        probability = judge.likelihood(question, asked.instructions)
        return {"type": "predicate", "name": asked.name, "probability": probability}
    texts = tuple(each if isinstance(each, str) else str(each).lower() for each in asked.values)
    among = options(texts, asked.descriptions, asked.instructions)
    if asked.kind == "choice":
        shares = judge.probabilities(question, among)
        chosen = shares.index(max(shares))
        return {
            "type": "choice",
            "name": asked.name,
            "choice": asked.values[chosen],
            "confidence": shares[chosen],
            "probabilities": [
                {"value": value, "probability": share} for value, share in zip(asked.values, shares, strict=True)
            ],
        }
    shares = judge.levels(question, among)
    return {
        "type": "score",
        "name": asked.name,
        "score": sum(value * share for value, share in enumerate(shares)),
        "confidence": max(shares),
        "probabilities": [
            {"label": label, "value": value, "probability": share}
            for value, (label, share) in enumerate(zip(asked.values, shares, strict=True))
        ],
    }


def spoil(answers: list[dict[str, Any]], draws: Draws) -> list[dict[str, Any]]:
    """Answers that do not fit their questions: one is missing, of another type, or out of its bounds."""
    at = draws.below(len(answers))
    answer = answers[at]
    way = draws.below(3)
    if way == 0:
        return answers[:at] + answers[at + 1 :]
    if way == 1 or answer["type"] == "refusal":
        spoilt = {"type": "choice" if answer["type"] == "predicate" else "predicate", "name": answer["name"]}
        if spoilt["type"] == "choice":
            sure = [{"value": "yes", "probability": 1.0}]
            spoilt |= {"choice": "yes", "confidence": 1.0, "probabilities": sure}
        else:
            spoilt["probability"] = 0.5
    elif answer["type"] == "predicate":
        spoilt = {**answer, "probability": 1.5}
    elif answer["type"] == "choice":
        spoilt = {**answer, "choice": "a choice that was not offered"}
    else:
        spoilt = {**answer, "score": float(len(answer["probabilities"]))}
    return [*answers[:at], spoilt, *answers[at + 1 :]]
