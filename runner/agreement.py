"""Where the models of a job give the same answer to a row, and where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_EXAMPLES = 5

COLUMNS = ["_index", "_id", "_model", "_status"]
"""What it needs of the results, besides the answers."""


class Agreement:
    """Counts over results of several models.

    Args:
        columns: those of the answer with few different values, such as labels.
    """

    def __init__(self, models: Sequence[str], columns: Sequence[str]) -> None:
        self._models = models
        self._columns = columns
        pairs = list(combinations(models, 2))
        self._counts = {column: {pair: [0, 0] for pair in pairs} for column in columns}
        self._examples: dict[str, list[dict[str, Any]]] = {column: [] for column in columns}

    def add(self, table: pa.Table) -> None:
        """Count results; all those of an input row are in one table."""
        answered = table.filter(pc.equal(table.column("_status"), "ok"))
        of_model = {
            model: answered.filter(pc.equal(answered.column("_model"), model)).combine_chunks()
            for model in self._models
        }
        for one, other in combinations(self._models, 2):
            theirs = pc.index_in(of_model[one].column("_index"), of_model[other].column("_index").combine_chunks())
            mine = of_model[one].filter(pc.is_valid(theirs))
            matched = of_model[other].take(theirs.drop_null())
            for column in self._columns:
                self._compare(column, (one, other), mine, matched)

    def _compare(self, column: str, pair: tuple[str, str], mine: pa.Table, theirs: pa.Table) -> None:
        same = pc.equal(mine.column(column), theirs.column(column))  # null where one gave none
        counts = self._counts[column][pair]
        counts[0] += pc.count(same).as_py()
        counts[1] += pc.sum(same).as_py() or 0
        examples = self._examples[column]
        if len(examples) < _EXAMPLES:
            differ = pc.equal(same, False)
            for row, other in zip(
                mine.filter(differ).slice(0, _EXAMPLES - len(examples)).to_pylist(),
                theirs.filter(differ).slice(0, _EXAMPLES - len(examples)).to_pylist(),
                strict=True,
            ):
                examples.append({"id": row["_id"], pair[0]: row[column], pair[1]: other[column]})

    def as_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return, for each column, the rows that each two models answered and to how many they gave the same answer."""
        return {
            column: [
                {"models": list(pair), "rows": rows, "same": same}
                for pair, (rows, same) in self._counts[column].items()
            ]
            for column in self._columns
        }

    def examples(self) -> dict[str, list[dict[str, Any]]]:
        """Return the first rows on which models disagree."""
        return self._examples
