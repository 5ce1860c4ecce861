"""Turns rows that are lines of JSON into an Arrow table without the interpreter, where Arrow reads them exactly."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.json

from runner.dataset.columns import is_json_text


class LineReader:
    """Reads lines, as `exact_json.encode` writes them, of rows as `Output.row` makes them.

    While Arrow reads, which takes two thirds of the time that decoding a row and making arrays of its values does,
    other threads go on.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        kinds = [_written_as(field) for field in schema]
        self.able = None not in kinds
        """Whether it knows how to read all columns."""
        if self.able:
            written = pa.schema([pa.field(name, kind) for name, kind in zip(schema.names, kinds, strict=True)])
            self._options = pyarrow.json.ParseOptions(explicit_schema=written, unexpected_field_behavior="ignore")

    def table(self, lines: Sequence[bytes]) -> pa.Table | None:
        """Return the rows as a table; None where a value is not for Arrow: a lone surrogate, or another type."""
        if not self.able:
            return None
        content = b"".join(lines)
        at_once = pyarrow.json.ReadOptions(use_threads=False, block_size=len(content) + 1)
        try:
            found = pyarrow.json.read_json(pa.BufferReader(content), at_once, self._options)
            return found.cast(self._schema)
        except pa.ArrowException:
            return None


def _written_as(field: pa.Field) -> pa.DataType | None:
    """Return the type as which Arrow finds a column's values in JSON; None where they are not written plainly."""
    kind = field.type
    if pa.types.is_timestamp(kind):
        return pa.int64() if field.name.startswith("_") and kind.tz == "UTC" else None  # the runner's own: microseconds
    plain = kind.value_type if pa.types.is_list(kind) else kind
    if is_json_text(field) or plain not in (pa.string(), pa.bool_(), pa.int32(), pa.int64(), pa.float64()):
        return None
    return kind
