"""All questions of a job as one answer: in one JSON object, or from the Decisions API. The columns are the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import jsonschema_rs
import pyarrow as pa

from runner.answer import check_json
from runner.answer_stats import REFUSALS, REVIEW
from runner.errors import InvalidReply
from runner.output_section import NEEDS_REVIEW, REFUSED, OutputSpec
from runner.questions import Question, question
from runner.requests import CHARACTERS_PER_TOKEN

_REFUSAL = {"type": "object", "properties": {"type": {"const": "refusal"}}, "required": ["type"]}


class _Questionnaire:
    """Questions, their columns, and when an answer to them needs review.

    Besides the columns of each question there is `refused`, the names of those that the model would not answer, and
    `needs_review` where an answer is only accepted from some confidence on.
    """

    def __init__(self, questions: Iterable[Question]) -> None:
        self._questions = tuple(questions)
        self._reviewed = tuple((each, each.accept_at) for each in self._questions if each.accept_at is not None)
        review = [REVIEW] if self._reviewed else []
        fields = [field for each in self._questions for field in each.fields]
        self.fields: tuple[pa.Field, ...] = (*fields, REFUSALS, *review)

    def verdict(self, columns: dict[str, Any]) -> dict[str, Any]:
        return {each.column: each.verdict(columns) for each in self._questions}

    def _whole(self, columns: dict[str, Any], refused: Sequence[str]) -> dict[str, Any]:
        columns[REFUSED] = refused
        if self._reviewed:
            columns[NEEDS_REVIEW] = any(
                each.column in refused or each.confidence(columns) < accept_at for each, accept_at in self._reviewed
            )
        return columns


class SchemaQuestionnaire(_Questionnaire):
    """Questions as the properties of one JSON Schema. How sure an answer is, the model says of itself."""

    def __init__(self, questions: Iterable[Question]) -> None:
        super().__init__(questions)
        properties = {name: spec for each in self._questions for name, spec in each.properties.items()}
        self.asked: dict[str, Any] = {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
        self._validator = jsonschema_rs.validator_for(self.asked)
        shortest = {name: value for each in self._questions for name, value in each.shortest.items()}
        self.shortest_tokens = max(1, round(len(json.dumps(shortest, separators=(",", ":"))) / CHARACTERS_PER_TOKEN))

    def read(self, text: str) -> dict[str, Any]:
        value = check_json(text, self._validator)
        columns: dict[str, Any] = {}
        for each in self._questions:
            columns.update(each.from_object(value))
        return self._whole(columns, [])


class DecisionsQuestionnaire(_Questionnaire):
    """Questions to the Decisions API, and the JSON of its answers to them.

    Args:
        only_answer: leave out all columns but that of the answer to the first question.
    """

    shortest_tokens = 0

    def __init__(self, questions: Iterable[Question], *, only_answer: bool = False) -> None:
        super().__init__(questions)
        self._only = self._questions[0].column if only_answer else None
        if only_answer:
            self.fields = self.fields[:1]
        self.asked: list[dict[str, Any]] = [part for each in self._questions for part in each.decisions]
        replies = [reply for each in self._questions for reply in each.replies]
        self._validator = jsonschema_rs.validator_for(
            {
                "type": "array",
                "prefixItems": [{"if": _REFUSAL, "then": True, "else": reply} for reply in replies],
                "minItems": len(replies),
                "maxItems": len(replies),
            }
        )

    def read(self, text: str) -> dict[str, Any]:
        answers = check_json(text, self._validator)
        if all(map(_is_refusal, answers)):
            what = "the question" if len(self._questions) == 1 else "every question"
            raise InvalidReply(f"the model refused to answer {what}", kind="refusal", retryable=False)
        remaining = iter(answers)
        columns: dict[str, Any] = {}
        refused = []
        for each in self._questions:
            mine = list(islice(remaining, len(each.decisions)))
            if any(map(_is_refusal, mine)):
                refused.append(each.column)
                columns.update(each.from_refusal(mine))
            else:
                columns.update(each.from_decisions(mine))
        return self._whole(columns, refused) if self._only is None else {self._only: columns[self._only]}


def questionnaire(output: OutputSpec, api: str) -> SchemaQuestionnaire | DecisionsQuestionnaire:
    """Return the answer to the questions, or to the labels, of a job file."""
    labels = output.labels is not None
    questions = [
        question(column, spec, "label" if labels else column, "" if labels else column)
        for column, spec in output.asked.items()
    ]
    if api == "decisions":
        return DecisionsQuestionnaire(questions, only_answer=output.one_label)
    return SchemaQuestionnaire(questions)


def _is_refusal(answer: Mapping[str, Any]) -> bool:
    return bool(answer["type"] == "refusal")
