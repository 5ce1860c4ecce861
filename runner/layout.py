"""How the results of several models lie in a Parquet file: a row each, or side by side in one row per input row.

Everything that works with results sees them long, one row per input row and model, in that order. Only files are wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from runner.records import Key

_NOT_REPEATED = ("_index", "_id")
_MODEL = "_model"


@dataclass(frozen=True)
class Layout:
    """The layout of a run's files.

    Attributes:
        models: the job's models; empty where there is only one.
        copied: the input's columns, which stand once in a wide row.
        wide: each model has its own group of columns, `MODEL.COLUMN`.
    """

    models: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    wide: bool = False

    @classmethod
    def for_job(cls, models: Sequence[str], copied: Sequence[str], *, wide: bool) -> Layout:
        """Return the layout of a job's files."""
        return cls(tuple(models), tuple(copied), wide) if len(models) > 1 else ONE_MODEL

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Layout:
        """Return the layout that a part's metadata tells."""
        found = metadata.get("layout", {})
        return cls(tuple(found.get("models", ())), tuple(found.get("copied", ())), found.get("wide", False))

    def as_metadata(self) -> dict[str, Any]:
        """Return what `of` reads; nothing for one model."""
        if not self.models:
            return {}
        return {"layout": {"models": self.models, "copied": self.copied if self.wide else (), "wide": self.wide}}

    def file_schema(self, schema: pa.Schema) -> pa.Schema:
        """Return the columns of a file, from those of the results."""
        if not self.wide:
            return schema
        once = [field for field in schema if self._once(field.name)]
        own = [schema.field(name) for name in self._own(schema)]
        return pa.schema([*once, *(field.with_name(f"{model}.{field.name}") for model in self.models for field in own)])

    def file_columns(self, schema: pa.Schema) -> list[str]:
        """Return which columns of a file hold these columns of the results."""
        if not self.wide:
            return list(schema.names)
        once = ["_index", *(name for name in schema.names if self._once(name) and name != "_index")]
        return [*once, *(f"{model}.{name}" for model in self.models for name in self._own(schema))]

    def pack(self, table: pa.Table) -> pa.Table:
        """Return results as a file holds them. Results of one input row must be in one table."""
        if not self.wide:
            return table
        indexes = pc.unique(table.column("_index"))
        first = table.take(pc.index_in(indexes, pa.array(table.column("_index").combine_chunks())))
        columns = {field.name: first.column(field.name) for field in table.schema if self._once(field.name)}
        for model in self.models:
            mine = table.filter(pc.equal(table.column(_MODEL), model))
            places = pc.index_in(indexes, mine.column("_index").combine_chunks())
            for name in self._own(table.schema):
                columns[f"{model}.{name}"] = mine.column(name).take(places)
        schema = self.file_schema(table.schema)
        return pa.table([columns[name] for name in schema.names], schema=schema)

    def unpack(self, table: pa.Table, schema: pa.Schema) -> pa.Table:
        """Return what a file holds as results with the columns of `schema`, ordered by row and model."""
        if not self.wide:
            return table.select(schema.names)
        layers = [
            pa.table([self._column(table, field.name, model) for field in schema], schema=schema)
            for model in self.models
        ]
        order = [row + layer * table.num_rows for row in range(table.num_rows) for layer in range(len(layers))]
        return pa.concat_tables(layers).take(pa.array(order, pa.int64()))

    def _column(self, table: pa.Table, name: str, model: str) -> Any:
        if name == _MODEL:
            return pa.repeat(model, table.num_rows)
        return table.column(name if self._once(name) else f"{model}.{name}")

    def _own(self, schema: pa.Schema) -> list[str]:
        """Return the columns that each model has for itself."""
        return [name for name in schema.names if not self._once(name) and name != _MODEL]

    def _once(self, name: str) -> bool:
        return name in _NOT_REPEATED or name in self.copied

    def results(self, rows: int) -> int:
        """Return how many results so many rows of a file hold."""
        return rows * len(self.models) if self.wide else rows

    def keys(self, table: pa.Table) -> list[Key]:
        """Return the key of each result in a table that has `_index` and, with several models, `_model`."""
        indexes = table.column("_index").to_pylist()
        if not self.models:
            return [(index, 0) for index in indexes]
        number = {model: number for number, model in enumerate(self.models)}
        return [(index, number[model]) for index, model in zip(indexes, table.column(_MODEL).to_pylist(), strict=True)]

    def sorted(self, table: pa.Table) -> pa.Table:
        """Return results in order of their keys."""
        if not self.models:
            return table.sort_by("_index")
        numbers = pc.index_in(table.column(_MODEL), pa.array(self.models))
        return table.append_column("", numbers).sort_by([("_index", "ascending"), ("", "ascending")]).drop_columns("")


ONE_MODEL = Layout()
