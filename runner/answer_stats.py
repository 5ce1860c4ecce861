"""What a run's answers amount to: how often each was given, averages, refusals, and rows that need review.

Which columns to look at is written into the output's schema, so that a run can be counted from its folder alone.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from runner.output_section import NEEDS_REVIEW, REFUSED

_SUMMARY, _QUESTION = b"runner:summary", b"runner:question"
_COUNTED = (b"counts", b"mean")


REFUSALS = pa.field(REFUSED, pa.list_(pa.string()), metadata={_SUMMARY: b"refusals"})
"""The column of the questions that a model would not answer."""

REVIEW = pa.field(NEEDS_REVIEW, pa.bool_(), metadata={_SUMMARY: b"review"})
"""The column that says whether an answer is less sure than is accepted."""


def counted(field: pa.Field, question: str = "") -> pa.Field:
    """Mark a column whose values are few, or lists of a few: the summary counts them.

    Args:
        question: whose answer it is; none for the label of a job that asks for nothing else.
    """
    return field.with_metadata({_SUMMARY: b"counts", _QUESTION: question.encode()})


def averaged(field: pa.Field, question: str) -> pa.Field:
    """Mark a column of numbers: the summary has their mean."""
    return field.with_metadata({_SUMMARY: b"mean", _QUESTION: question.encode()})


def says_what_needs_review(schema: pa.Schema) -> bool:
    """Whether an output has the column `needs_review`, and has it from the answers rather than the input."""
    return any(_role(field) == b"review" for field in schema)


def _is_scalar(field: pa.Field) -> bool:
    return not pa.types.is_nested(field.type)


def _role(field: pa.Field) -> bytes | None:
    role: bytes | None = (field.metadata or {}).get(_SUMMARY)
    return role


def deciding(schema: pa.Schema) -> dict[str, bool] | None:
    """Return the columns that are the answers themselves, and whether only the side of 0.5 that they are on counts.

    Confidences and probabilities are no answers: they differ from one time to the next. None: the schema marks nothing,
    as its answers are not labels or questions.
    """
    roles = {field.name: _role(field) for field in schema}
    questions = {name: schema.field(name).metadata[_QUESTION] for name, role in roles.items() if role in _COUNTED}
    counted = {questions[name] for name in questions if roles[name] == b"counts"}
    found = {
        name: roles[name] == b"mean"
        for name, question in questions.items()
        if roles[name] == b"counts" or question not in counted  # the place on a scale has a level beside it
    }
    return found or None


class AnswerStats:
    """Counts over rows of output; their memory is that of the different answers.

    Args:
        schema: of the whole output.

    Attributes:
        columns: what `add` looks at.
        chosen: those of them that hold one value of a few.
    """

    def __init__(self, schema: pa.Schema) -> None:
        roles = {field.name: _role(field) for field in schema}
        self.columns = [name for name, role in roles.items() if role is not None]
        self.chosen = [name for name, role in roles.items() if role == b"counts" and _is_scalar(schema.field(name))]
        self._counts: dict[str, dict[str, int]] = {name: {} for name, role in roles.items() if role == b"counts"}
        self._sums: dict[str, tuple[float, int]] = {name: (0.0, 0) for name, role in roles.items() if role == b"mean"}
        self._question = {name: schema.field(name).metadata[_QUESTION].decode() for name in self._counts | self._sums}
        self._refused: dict[str, int] | None = {} if b"refusals" in roles.values() else None
        self._needs_review: int | None = 0 if b"review" in roles.values() else None

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table that has these columns."""
        for name, counts in self._counts.items():
            _count(table.column(name), counts)
        for name, (total, rows) in self._sums.items():
            column = table.column(name)
            self._sums[name] = total + (pc.sum(column).as_py() or 0.0), rows + len(column) - column.null_count
        if self._refused is not None:
            _count(table.column(REFUSED), self._refused)
        if self._needs_review is not None:
            self._needs_review += pc.sum(table.column(NEEDS_REVIEW)).as_py() or 0

    def as_json(self) -> dict[str, Any]:
        """Return `answers` (of labels), `questions` by name, `refused` by question, and `needs_review`.

        What the output has no columns for is left out, but for `answers`.
        """
        answers: dict[str, int] = {}
        questions: dict[str, dict[str, Any]] = {}
        for name in self.columns:
            question = self._question.get(name)
            if question is None:
                continue
            if not question:
                answers = _in_order(self._counts[name])
            elif name in self._counts:
                questions.setdefault(question, {})["answers"] = _in_order(self._counts[name])
            else:
                total, rows = self._sums[name]
                questions.setdefault(question, {})["mean"] = round(total / rows, 4) if rows else None
        found: dict[str, Any] = {"answers": answers}
        if questions:
            found["questions"] = questions
        if self._refused is not None:
            found["refused"] = _in_order(self._refused)
        if self._needs_review is not None:
            found["needs_review"] = self._needs_review
        return found


def _count(column: pa.ChunkedArray, counts: dict[str, int]) -> None:
    if pa.types.is_list(column.type):
        column = pc.list_flatten(column)
    for entry in pc.value_counts(column.drop_null()).to_pylist():
        counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]


def _in_order(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
