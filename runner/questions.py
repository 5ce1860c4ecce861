"""The kinds of question: how each is put to a model, and which columns its answer fills.

A question is put as properties of a JSON Schema, or as one or more questions of `POST /decisions`. Both ways fill the
same columns; probabilities of single choices only the Decisions API gives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from runner.answer_stats import averaged, counted
from runner.errors import InvalidReply
from runner.output_section import Options, QuestionSpec

_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_APPLIES_FROM = 0.5


class Question(ABC):
    """One question.

    Args:
        column: the column of its answer; others have this name with an ending.
        name: what it is called in requests.
        title: what it is called in the summary; none for labels, which are the answer.

    Attributes:
        fields: its columns, the answer first.
        properties: what stands for it in a JSON Schema; all of them are required.
        shortest: the shortest values that fit these.
        decisions: what is asked of the Decisions API.
        replies: the JSON Schema of the answer to each of these, a refusal aside.
    """

    fields: tuple[pa.Field, ...]
    properties: dict[str, Any]
    shortest: dict[str, Any]
    decisions: list[dict[str, Any]]
    replies: list[dict[str, Any]]

    def __init__(self, column: str, spec: QuestionSpec, name: str, title: str) -> None:
        self.column = column
        self.accept_at = spec.accept_at
        self._name = name
        self._title = title
        self._confidence = f"{column}_confidence"
        self._probabilities = f"{column}_probabilities"

    @abstractmethod
    def from_object(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Return its columns from an object that fits the schema."""

    @abstractmethod
    def from_decisions(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return its columns from the answers to `decisions`, which fit `replies`.

        Raises:
            InvalidReply: an answer contradicts itself.
        """

    def from_refusal(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return what is known nevertheless, where at least one of the answers is a refusal."""
        return {}

    def confidence(self, columns: Mapping[str, Any]) -> float:
        """Return how sure the answer in these columns is, from 0 to 1."""
        return float(columns[self._confidence])

    def verdict(self, columns: Mapping[str, Any]) -> Any:
        """Return what is answered, without how sure it is; None where it was refused."""
        return columns.get(self.column)

    def _asked_confidence(self) -> dict[str, Any]:
        return {**_SHARE, "description": f"How probable it is, from 0 to 1, that `{self._name}` is right."}


class Choice(Question):
    """One of some choices."""

    def __init__(self, column: str, spec: QuestionSpec, name: str, title: str) -> None:
        super().__init__(column, spec, name, title)
        choices = described(spec.choice or ())
        values, confidence = list(choices), f"{name}_confidence"
        self.fields = (
            counted(pa.field(column, pa.string()), title),
            pa.field(self._confidence, pa.float64()),
            _probability_field(self._probabilities, values),
        )
        text = "\n".join([spec.ask or "", *listed_descriptions(choices)])
        self.properties = {
            name: {"type": "string", "enum": values, "description": text},
            confidence: self._asked_confidence(),
        }
        self.shortest = {name: min(values, key=len), confidence: 1}
        self.decisions = [
            {
                "type": "choice",
                "name": name,
                "instructions": spec.ask,
                "choices": [_with_description({"value": value}, text) for value, text in choices.items()],
            }
        ]
        self.replies = [
            _reply("choice", name, choice={"enum": values}, confidence=_SHARE, probabilities=_shares("value", values))
        ]

    def from_object(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return {self.column: value[self._name], self._confidence: float(value[f"{self._name}_confidence"])}

    def from_decisions(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        [answer] = answers
        return {
            self.column: answer["choice"],
            self._confidence: float(answer["confidence"]),
            self._probabilities: _by(answer, "value"),
        }


class Multi(Question):
    """Any number of some choices. The Decisions API is asked about each of them by itself."""

    def __init__(self, column: str, spec: QuestionSpec, name: str, title: str) -> None:
        super().__init__(column, spec, name, title)
        choices = described(spec.choice or ())
        self._values, confidence = list(choices), f"{name}_confidence"
        self.fields = (
            counted(pa.field(column, pa.list_(pa.string())), title),
            pa.field(self._confidence, pa.float64()),
            _probability_field(self._probabilities, self._values),
        )
        text = "\n".join([spec.ask or "", "List all that apply.", *listed_descriptions(choices)])
        self.properties = {
            name: {"type": "array", "items": {"type": "string", "enum": self._values}, "description": text},
            confidence: self._asked_confidence(),
        }
        self.shortest = {name: [], confidence: 1}
        self.decisions = [
            {"type": "predicate", "name": f"{name}-{number}", "instructions": _applies(spec.ask or "", value, text)}
            for number, (value, text) in enumerate(choices.items(), 1)
        ]
        self.replies = [_reply("predicate", question["name"], probability=_SHARE) for question in self.decisions]

    def from_object(self, value: Mapping[str, Any]) -> dict[str, Any]:
        said = frozenset(value[self._name])  # strict schemas cannot ask for different ones, or for an order
        return {
            self.column: [each for each in self._values if each in said],
            self._confidence: float(value[f"{self._name}_confidence"]),
        }

    def from_decisions(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        shares = [float(answer["probability"]) for answer in answers]
        return {
            self.column: [each for each, share in zip(self._values, shares, strict=True) if share >= _APPLIES_FROM],
            self._confidence: min(max(share, 1 - share) for share in shares),
            self._probabilities: dict(zip(self._values, shares, strict=True)),
        }

    def from_refusal(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        known = zip(self._values, answers, strict=True)
        return {
            self._probabilities: {
                each: float(answer["probability"]) for each, answer in known if "probability" in answer
            }
        }


class YesNo(Question):
    """How probable it is that a statement is true."""

    def __init__(self, column: str, spec: QuestionSpec, name: str, title: str) -> None:
        super().__init__(column, spec, name, title)
        self.fields = (averaged(pa.field(column, pa.float64()), title),)
        text = f"How probable it is, from 0 to 1, that this is true: {spec.yes_no}"
        self.properties = {name: {**_SHARE, "description": text}}
        self.shortest = {name: 1}
        self.decisions = [{"type": "predicate", "name": name, "instructions": spec.yes_no}]
        self.replies = [_reply("predicate", name, probability=_SHARE)]

    def from_object(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return {self.column: float(value[self._name])}

    def from_decisions(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {self.column: float(answers[0]["probability"])}

    def confidence(self, columns: Mapping[str, Any]) -> float:
        share = float(columns[self.column])
        return max(share, 1 - share)

    def verdict(self, columns: Mapping[str, Any]) -> Any:
        share = columns.get(self.column)
        return None if share is None else share >= _APPLIES_FROM


class Score(Question):
    """A place on a scale. Its levels count 0, 1, 2, ...; the score is their average, weighted by probability."""

    def __init__(self, column: str, spec: QuestionSpec, name: str, title: str) -> None:
        super().__init__(column, spec, name, title)
        levels = described(spec.score or ())
        self._level = f"{column}_level"
        values, confidence = list(levels), f"{name}_confidence"
        self._number = {value: number for number, value in enumerate(values)}
        self.fields = (
            averaged(pa.field(column, pa.float64()), title),
            counted(pa.field(self._level, pa.string()), title),
            pa.field(self._confidence, pa.float64()),
            _probability_field(self._probabilities, values),
        )
        scale = f"From the lowest to the highest: {', '.join(values)}."
        text = "\n".join([spec.ask or "", scale, *listed_descriptions(levels)])
        self.properties = {
            name: {"type": "string", "enum": values, "description": text},
            confidence: self._asked_confidence(),
        }
        self.shortest = {name: min(values, key=len), confidence: 1}
        self.decisions = [
            {
                "type": "score",
                "name": name,
                "instructions": spec.ask,
                "levels": [_with_description({"label": value}, text) for value, text in levels.items()],
            }
        ]
        score = {"type": "number", "minimum": 0, "maximum": len(values) - 1}
        self.replies = [_reply("score", name, score=score, confidence=_SHARE, probabilities=_shares("label", values))]

    def from_object(self, value: Mapping[str, Any]) -> dict[str, Any]:
        level = value[self._name]
        return {
            self.column: float(self._number[level]),
            self._level: level,
            self._confidence: float(value[f"{self._name}_confidence"]),
        }

    def from_decisions(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        [answer] = answers
        shares = _by(answer, "label")
        return {
            self.column: float(answer["score"]),
            self._level: max(shares, key=lambda level: (shares[level], -self._number[level]), default=None),
            self._confidence: float(answer["confidence"]),
            self._probabilities: shares,
        }

    def verdict(self, columns: Mapping[str, Any]) -> Any:
        return columns.get(self._level)


def question(column: str, spec: QuestionSpec, name: str, title: str) -> Question:
    """Return the question of a job file."""
    if spec.yes_no is not None:
        return YesNo(column, spec, name, title)
    if spec.score is not None:
        return Score(column, spec, name, title)
    return (Multi if spec.multi else Choice)(column, spec, name, title)


def described(options: Options) -> dict[str, str | None]:
    """Return options with the description of each; a blank one is none."""
    if not isinstance(options, Mapping):
        return dict.fromkeys(options)
    return {option: text if text and text.strip() else None for option, text in options.items()}


def listed_descriptions(options: Mapping[str, str | None]) -> list[str]:
    """Return a line for each option that is described."""
    return [f"- {option}: {text}" for option, text in options.items() if text]


def _with_description(option: dict[str, str], text: str | None) -> dict[str, str]:
    return {**option, "description": text} if text else option


def _applies(ask: str, choice: str, text: str | None) -> str:
    return f"{ask}\nThe following applies: {choice}" + (f" ({text})" if text else "")


def _probability_field(name: str, values: Sequence[str]) -> pa.Field:
    return pa.field(name, pa.struct([pa.field(value, pa.float64()) for value in values]))


def _reply(kind: str, name: str, **properties: Any) -> dict[str, Any]:
    """The JSON Schema of one answer, as far as it is read."""
    known = {"type": {"const": kind}, "name": {"enum": [name, None]}, **properties}
    return {"type": "object", "properties": known, "required": ["type", *properties]}


def _shares(key: str, values: Sequence[str]) -> dict[str, Any]:
    """The JSON Schema of a list of probabilities of these values."""
    properties = {key: {"enum": list(values)}, "probability": _SHARE}
    return {"type": "array", "items": {"type": "object", "properties": properties, "required": [key, "probability"]}}


def _by(answer: Mapping[str, Any], key: str) -> dict[str, float]:
    shares = {entry[key]: float(entry["probability"]) for entry in answer["probabilities"]}
    if len(shares) < len(answer["probabilities"]):
        raise InvalidReply("the answer has two probabilities of one choice")
    return shares
