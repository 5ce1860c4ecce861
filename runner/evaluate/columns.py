"""Looks for the columns that a job's `evaluate` names, before the first request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from runner.dataset.nearest import nearest
from runner.evaluate.questions import kind_of, named
from runner.load import Job
from runner.problems import At, Problem, dotted

_AT: At = ("evaluate", "expected")


def expected_columns(job: Job) -> dict[At, str]:
    """Return the columns that hold right answers, each by its place in the job."""
    if job.spec.evaluate is None:
        return {}
    expected = job.spec.evaluate.expected
    if isinstance(expected, str):
        return {_AT: expected}
    return {(*_AT, answer): column for answer, column in expected.items()}


def input_problems(job: Job, columns: Sequence[str]) -> Iterator[Problem]:
    """Yield what is wrong with the columns of the input that `evaluate` names."""
    for at, name in expected_columns(job).items():
        if name not in columns:
            message = f"`{dotted(at)}` names `{name}`, and the input has no such column"
            yield job.source.problem(at, message, nearest(name, columns))


def answer_problems(job: Job, answers: Sequence[pa.Field]) -> Iterator[Problem]:
    """Yield what is wrong with the columns of the answer that `evaluate` names."""
    if job.spec.evaluate is None:
        return
    problem, expected = job.source.problem, job.spec.evaluate.expected
    kinds = {field.name: kind_of(field) for field in answers}
    if not named(expected, answers):
        yield problem(_AT, "no column of the answer can be compared with an expected one", _COMPARABLE)
    for answer in expected if not isinstance(expected, str) else ():
        at = (*_AT, answer)
        if answer not in kinds:
            message = f"`{dotted(at)}` stands for a column of the answer, and there is no `{answer}`"
            yield problem(at, message, nearest(answer, kinds), on_key=True)
        elif kinds[answer] is None:
            yield problem(
                at, f"the answer `{answer}` cannot be compared with an expected one", _COMPARABLE, on_key=True
            )
    for at, name in expected_columns(job).items():
        if name in kinds:
            message = f"`{dotted(at)}` names the column `{name}` of the input, and the answer has a `{name}` too"
            rename = "rename the property in the schema" if job.json_schema else "rename the answer's: `output.column`"
            yield problem(at, message, rename)


_COMPARABLE = "text, numbers, true or false, and lists of them can be compared; objects cannot"
