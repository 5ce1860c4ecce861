"""How good the answers are: they are compared with a column of the input that holds the right ones.

`questions` says what is compared with what, `counts` counts, `scores` has the formulas. Of what comes out, `words`
makes lines for the terminal and `figure` a picture; both need nothing but the numbers in `run.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from runner.dataset.columns import is_json_text
from runner.evaluate.counts import Counts
from runner.evaluate.questions import Question, named, question, text
from runner.evaluate.scores import BINS

PICTURE = "evaluation.svg"
"""The drawing in a run's folder."""

_YES_NO = {"true": "yes", "yes": "yes", "1": "yes", "false": "no", "no": "no", "0": "no"}


class Evaluation:
    """The answers of a run against what was expected, counted table by table.

    Args:
        questions: what is compared; all columns of it are in the tables.
        missing: columns of the answer that cannot be compared, because the rows lack the expected column: its name.
    """

    def __init__(self, questions: Sequence[Question], missing: Mapping[str, str] | None = None) -> None:
        self._questions = questions
        self._missing = missing or {}
        self._counts: dict[str, dict[str, Counts]] = {each.answer: {} for each in questions}

    @classmethod
    def of(cls, spec: Mapping[str, Any], schema: pa.Schema, copied: Sequence[str]) -> Evaluation | None:
        """Return what a job wants to be evaluated; None: nothing.

        Args:
            spec: the job as run, as `run.json` has it.
            schema: the columns of its output.
            copied: those of them that came from the input.
        """
        if not spec.get("evaluate"):
            return None
        answers = [field for field in schema if field.name not in copied and not field.name.startswith("_")]
        wanted = named(spec["evaluate"]["expected"], answers)
        missing = {answer: expected for answer, expected in wanted.items() if expected not in copied}
        there = [pair for pair in wanted.items() if pair[0] not in missing]
        return cls([question(*pair, schema, spec["output"]) for pair in there], missing)

    @property
    def columns(self) -> list[str]:
        """The columns that `add` looks at."""
        return list(dict.fromkeys(["_status", "_model", *(name for each in self._questions for name in each.columns)]))

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table of output."""
        for each in self._questions:
            if each.kind == "several":
                self._add_several(each, table)
            else:
                self._add_values(each, table)

    def as_dict(self) -> dict[str, Any]:
        """Return for each column of answers what it was compared with, and the numbers of each model."""
        found: dict[str, Any] = {
            each.answer: {
                "expected": each.expected,
                "kind": each.kind,
                "models": {model: counts.as_dict() for model, counts in self._counts[each.answer].items()},
            }
            for each in self._questions
        }
        return found | {answer: {"expected": name, "missing": True} for answer, name in self._missing.items()}

    def _of(self, each: Question, model: str) -> Counts:
        models = self._counts[each.answer]
        if model not in models:
            models[model] = Counts(each)
        return models[model]

    def _add_values(self, each: Question, table: pa.Table) -> None:
        expected, answer = _expected(table, each.expected), _as_text(table, each.answer)
        probability = table.column(each.probability) if each.probability else None
        if each.kind == "yes_no":
            expected = _yes_or_no(expected)
            answer = _yes_or_no(answer)
        if probability is not None:
            probability = probability.cast(pa.float64())
            fits = pc.fill_null(pc.and_(pc.greater_equal(probability, 0), pc.less_equal(probability, 1)), False)
            if each.kind == "yes_no":
                answer = pc.if_else(fits, pc.if_else(pc.greater_equal(probability, 0.5), "yes", "no"), _NOTHING)
        answer = pc.if_else(pc.equal(table.column("_status"), "ok"), answer, _NOTHING)
        rows = pa.table({"model": table.column("_model"), "expected": expected, "answer": answer})
        groups = rows.group_by(["model", "expected", "answer"], use_threads=False).aggregate([([], "count_all")])
        for group in groups.to_pylist():
            self._of(each, group["model"]).add(group["expected"], group["answer"], group["count_all"])
        if probability is not None:
            self._add_probabilities(each, rows, probability, fits)

    def _add_probabilities(self, each: Question, rows: pa.Table, probability: pa.Array, fits: pa.Array) -> None:
        """Count how probable answers were said to be, against whether they are right (`yes_no`: whether it is yes)."""
        labels = each.labels
        known = pc.is_valid(rows["expected"]) if labels is None else pc.is_in(rows["expected"], pa.array(labels))
        stray = pc.and_(pc.and_(known, pc.is_valid(probability)), pc.invert(fits))
        for group in pc.value_counts(rows.filter(stray)["model"]).to_pylist():
            self._of(each, group["values"]).no_probability += group["counts"]
        true = pc.equal(rows["expected"], "yes" if each.kind == "yes_no" else rows["answer"])
        told = pa.table({"model": rows["model"], "p": probability, "true": true.cast(pa.float64())})
        told = told.filter(pc.and_(pc.and_(known, pc.is_valid(rows["answer"])), fits))
        number = pc.min_element_wise(pc.floor(pc.multiply(told["p"], float(BINS))), BINS - 1)  # 1.0 is in the last
        error = pc.subtract(told["p"], told["true"])
        told = told.append_column("bin", number.cast(pa.int64())).append_column("square", pc.multiply(error, error))
        sums = [([], "count_all"), ("p", "sum"), ("true", "sum"), ("square", "sum")]
        for group in told.group_by(["model", "bin"], use_threads=False).aggregate(sums).to_pylist():
            tenth = self._of(each, group["model"]).bins[group["bin"]]
            tenth.rows += group["count_all"]
            tenth.probability += group["p_sum"]
            tenth.true += round(group["true_sum"])
            tenth.squares += group["square_sum"]

    def _add_several(self, each: Question, table: pa.Table) -> None:
        field, expected = table.schema.field(each.expected), table.column(each.expected).to_pylist()
        columns = (table.column(name).to_pylist() for name in ("_model", "_status", each.answer))
        for model, status, answer, wanted in zip(*columns, expected, strict=True):
            given = None if answer is None or status != "ok" else frozenset(text(value) for value in answer)
            self._of(each, model).add_several(_set(wanted, each, is_json_text(field)), given)


_NOTHING = pa.scalar(None, pa.string())


def _as_text(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column as text, each value as `questions.text` has it."""
    column, field = table.column(name), table.schema.field(name)
    if is_json_text(field):
        values = [None if value is None else json.loads(value) for value in column.to_pylist()]
    elif pa.types.is_nested(column.type):
        values = column.to_pylist()
    else:
        return column.cast(pa.string())
    return pa.chunked_array([pa.array([None if value is None else text(value) for value in values], pa.string())])


def _expected(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column as text; null where it holds nothing but spaces."""
    column = _as_text(table, name)
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), _NOTHING, column)


def _yes_or_no(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return `yes` and `no` for all ways to write them, and anything else as it is."""
    place = pc.index_in(pc.utf8_lower(column), pa.array(list(_YES_NO)))
    return pc.coalesce(pc.take(pa.array(list(_YES_NO.values())), place), column)


def _set(value: Any, each: Question, is_json: bool) -> frozenset[str] | None:
    """Return the labels that a row expects: of a list, a list in JSON, or text with `;` or commas between them."""
    if isinstance(value, str) and (is_json or value.lstrip().startswith("[")):
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, list):
        return frozenset(text(member) for member in value if member is not None)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str) or (each.labels is not None and value in each.labels):
        return frozenset([text(value)])
    parts = (part.strip() for part in value.split(";" if ";" in value else ","))
    return frozenset(part for part in parts if part)
