"""Counts of one question and one model, and all that is said of them. Grows with the pairs of labels, not with rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

from runner.evaluate.questions import Question
from runner.evaluate.scores import BINS, Bin, brier, expected_calibration_error, f1, share, wilson

MOST_VALUES = 500
"""Different values that are told apart where the job names no labels; and of those that are no label."""
MOST_PAIRS = 5_000
"""Cells of the confusion matrix that are written down: all of them up to 70 labels."""
_MOST_UNKNOWN = 20
_LONGEST = 100


class Counts:
    """What one model answered to one question.

    Attributes:
        unlabelled: rows whose expected value is empty.
        unknown: rows whose expected value is no label, by that value; `unknown_rows` of them in all.
        unanswered: rows with a label and without an answer: failed, or null.
        answered: rows with both; `right` of them agree.
        hits, expected, given: of those, by label: rows that agree, that expect it, that got it.
        pairs: of those, by expected and given label.
        bins: of those that have a probability, by tenths of it; `no_probability` have one outside 0 to 1.
    """

    def __init__(self, question: Question) -> None:
        self._question = question
        self._values = dict.fromkeys(question.labels or ())
        self.unlabelled = 0
        self.unknown_rows = 0
        self.unknown: Counter[str] = Counter()
        self.unanswered: Counter[str] = Counter()
        self.unanswered_rows = 0
        self.answered = 0
        self.right = 0
        self.hits: Counter[str] = Counter()
        self.expected: Counter[str] = Counter()
        self.given: Counter[str] = Counter()
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.bins = [Bin() for _ in range(BINS)]
        self.no_probability = 0

    def add(self, expected: str | None, answer: str | None, rows: int) -> None:
        """Count rows of one value each; None: there is none."""
        if expected is None:
            self.unlabelled += rows
        elif self._is_unknown(expected):
            self._add_unknown([expected], rows)
        elif answer is None:
            self._add_unanswered([expected], rows)
        else:
            self.answered += rows
            self.right += rows * (expected == answer)
            self._add_labels([expected], [answer], rows)
            pair = self._name(expected), self._name(answer)
            if pair[0] is not None and pair[1] is not None:
                self.pairs[pair[0], pair[1]] += rows

    def add_several(self, expected: frozenset[str] | None, answer: frozenset[str] | None) -> None:
        """Count a row with a set of values on each side."""
        if expected is None:
            self.unlabelled += 1
        elif unknown := sorted(value for value in expected if self._is_unknown(value)):
            self._add_unknown(unknown, 1)
        elif answer is None:
            self._add_unanswered(expected, 1)
        else:
            self.answered += 1
            self.right += expected == answer
            self._add_labels(expected, answer, 1)

    def _is_unknown(self, expected: str) -> bool:
        return self._question.labels is not None and expected not in self._values

    def _add_unknown(self, values: Iterable[str], rows: int) -> None:
        self.unknown_rows += rows
        for value in map(_shown, values):
            if value in self.unknown or len(self.unknown) < MOST_VALUES:
                self.unknown[value] += rows

    def _add_unanswered(self, expected: Iterable[str], rows: int) -> None:
        self.unanswered_rows += rows
        for name in self._named(expected):
            self.unanswered[name] += rows

    def _add_labels(self, expected: Iterable[str], given: Iterable[str], rows: int) -> None:
        both = set(expected) & set(given)
        for counter, values in ((self.expected, expected), (self.given, given), (self.hits, both)):
            for name in self._named(values):
                counter[name] += rows

    def _named(self, values: Iterable[str]) -> list[str]:
        return [name for name in map(self._name, values) if name is not None]

    def _name(self, value: str) -> str | None:
        """Return what a value is counted as; None: it came after the first `MOST_VALUES` different ones."""
        name = _shown(value)
        if name not in self._values:
            if len(self._values) >= MOST_VALUES:
                return None
            self._values[name] = None
        return name

    def as_dict(self) -> dict[str, Any]:
        """Return the counts and what they amount to, JSON-able. A number that nothing can be said of is null."""
        labelled = self.answered + self.unanswered_rows
        low, high = wilson(self.right, self.answered) if self.answered else (None, None)
        names = self._names()
        scores = [f1(self.hits[name], self.expected[name], self.given[name]) for name in names]
        known = [score for score in scores if score is not None]
        found: dict[str, Any] = {
            "rows": labelled + self.unlabelled + self.unknown_rows,
            "unlabelled": self.unlabelled,
            "not_a_label": {"rows": self.unknown_rows, "values": dict(_ranked(self.unknown)[:_MOST_UNKNOWN])},
            "labelled": labelled,
            "answered": self.answered,
            "coverage": _rounded(share(self.answered, labelled)),
            "right": self.right,
            "accuracy": _rounded(share(self.right, self.answered)),
            "accuracy_low": _rounded(low),
            "accuracy_high": _rounded(high),
            "accuracy_of_all": _rounded(share(self.right, labelled)),
            "macro_f1": _rounded(share(sum(known), len(known))),
            "labels": {name: self._label(name, score) for name, score in zip(names, scores, strict=True)},
        }
        if self._question.kind != "several":
            found["confusion"] = self._confusion()
            shown = sum(rows for row in found["confusion"].values() for rows in row.values())
            found["confusion_left_out"] = self.answered - shown
        if self._question.probability is not None:
            found["calibration"] = self._calibration()
        return found

    def _names(self) -> list[str]:
        """Return the labels in the job's order, or else as often as they come."""
        if self._question.labels is not None:
            beyond = [name for name in self._values if name not in self._question.labels and self.given[name]]
            return [*self._question.labels, *beyond]
        seen = self.expected + self.unanswered
        return sorted(self._values, key=lambda name: (-seen[name], -self.given[name], name))

    def _label(self, name: str, score: float | None) -> dict[str, Any]:
        hits, expected, given = self.hits[name], self.expected[name], self.given[name]
        return {
            "support": expected,
            "given": given,
            "right": hits,
            "unanswered": self.unanswered[name],
            "precision": _rounded(share(hits, given)),
            "recall": _rounded(share(hits, expected)),
            "f1": _rounded(score),
        }

    def _confusion(self) -> dict[str, dict[str, int]]:
        kept = dict(_ranked(self.pairs)[:MOST_PAIRS])
        names = self._names()
        order = {name: number for number, name in enumerate(names)}
        found: dict[str, dict[str, int]] = {}
        for expected, given in sorted(kept, key=lambda pair: (order[pair[0]], order[pair[1]])):
            found.setdefault(expected, {})[given] = kept[expected, given]
        return found

    def _calibration(self) -> dict[str, Any]:
        rows = sum(each.rows for each in self.bins)
        return {
            "probability": self._question.probability,
            "rows": rows,
            "not_a_probability": self.no_probability,
            "mean": _rounded(share(sum(each.probability for each in self.bins), rows)),
            "true": _rounded(share(sum(each.true for each in self.bins), rows)),
            "ece": _rounded(expected_calibration_error(self.bins)),
            "brier": _rounded(brier(self.bins)),
            "bins": [
                {
                    "from": number / BINS,
                    "to": (number + 1) / BINS,
                    "rows": each.rows,
                    "mean": _rounded(share(each.probability, each.rows)),
                    "true": _rounded(share(each.true, each.rows)),
                }
                for number, each in enumerate(self.bins)
            ],
        }


def _ranked(counter: Counter[Any]) -> list[tuple[Any, int]]:
    return sorted(counter.items(), key=lambda entry: (-entry[1], entry[0]))


def _shown(value: str) -> str:
    """Return a value short enough to be written down; different ones stay different."""
    if len(value) <= _LONGEST:
        return value
    return f"{value[:_LONGEST]}… ({hashlib.sha256(value.encode('utf-8', 'replace')).hexdigest()[:8]})"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
