"""The output's columns: the user's first, under their own names, then the runner's, which start with an underscore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from runner.dataset.columns import to_array
from runner.errors import SpecError
from runner.layout import ONE_MODEL, Layout
from runner.output_section import NEEDS_REVIEW, REFUSED
from runner.records import Result

_TIME = pa.timestamp("us", tz="UTC")
RUNNER_FIELDS = (
    pa.field("_index", pa.int64()),
    pa.field("_id", pa.string()),
    pa.field("_model", pa.string()),
    pa.field("_status", pa.string()),
    pa.field("_error_type", pa.string()),
    pa.field("_error", pa.string()),
    pa.field("_finish_reason", pa.string()),
    pa.field("_raw", pa.string()),
    pa.field("_attempts", pa.int32()),
    pa.field("_queued_at", _TIME),
    pa.field("_started_at", _TIME),
    pa.field("_finished_at", _TIME),
    pa.field("_throttle_s", pa.float64()),
    pa.field("_backoff_s", pa.float64()),
    pa.field("_latency_s", pa.float64()),
    pa.field("_total_s", pa.float64()),
    pa.field("_server_ms", pa.float64()),
    pa.field("_input_tokens", pa.int64()),
    pa.field("_cached_tokens", pa.int64()),
    pa.field("_cache_write_tokens", pa.int64()),
    pa.field("_output_tokens", pa.int64()),
    pa.field("_reasoning_tokens", pa.int64()),
    pa.field("_cost_usd", pa.float64()),
    pa.field("_saved_usd", pa.float64()),
    pa.field("_request_id", pa.string()),
    pa.field("_endpoint", pa.string()),
    pa.field("_fingerprint", pa.string()),
    pa.field("_reused_from", pa.string()),
    pa.field("_batch", pa.string()),
    pa.field("_collected_at", _TIME),
)
_TIMES = frozenset(field.name for field in RUNNER_FIELDS if field.type == _TIME)


class Output:
    """The schema of a job's output, and results as rows of it.

    Args:
        schema: all columns of the output.
        copied: the input columns among them.
        models: the job's models.
    """

    def __init__(
        self, schema: pa.Schema, copied: Sequence[str], models: Sequence[str], layout: Layout = ONE_MODEL
    ) -> None:
        self.schema = schema
        self.layout = layout
        self.copied = tuple(copied)
        self._models = tuple(models)

    @classmethod
    def of(
        cls,
        input_fields: Sequence[pa.Field],
        answer_fields: Sequence[pa.Field],
        models: Sequence[str],
        *,
        wide: bool = False,
        rename: str = "give the answer's column another name",
    ) -> Output:
        """Return the output that copies `input_fields` and adds the answer's and the runner's columns.

        Args:
            wide: the results of several models are stored side by side.
            rename: how the answer's columns get other names, for the hint.

        Raises:
            SpecError: two columns would have the same name.
        """
        copied = [f.name for f in input_fields]
        _refuse_clashes(copied, [f.name for f in answer_fields], rename)
        schema = pa.schema([*input_fields, *answer_fields, *RUNNER_FIELDS])
        layout = Layout.for_job(models, copied, wide=wide)
        _refuse_doubles(layout.file_schema(schema).names)
        return cls(schema, copied, models, layout)

    def row(self, result: Result) -> dict[str, Any]:
        """Return a result as a JSON-able row; columns without a value may be absent."""
        item = result.item
        fields = item.fields
        row: dict[str, Any] = {"_index": item.index}
        if item.model:
            row["_model_number"] = item.model  # the journal's key; no column
        row["_id"] = item.id
        for name in self.copied:
            if name in fields:
                row[name] = fields[name]
        if result.answer is not None:
            row.update(result.answer)
        row["_model"] = self._models[item.model]
        row["_status"] = result.status
        if result.error_type is not None:
            row["_error_type"] = result.error_type
            row["_error"] = result.error
        row["_finish_reason"] = result.finish_reason
        row["_raw"] = result.raw
        row["_attempts"] = result.attempts
        row["_queued_at"] = result.queued_at
        row["_started_at"] = result.started_at
        row["_finished_at"] = result.finished_at
        row["_throttle_s"] = round(result.throttle_s, 6)
        row["_backoff_s"] = round(result.backoff_s, 6)
        row["_latency_s"] = _rounded(result.latency_s)
        row["_total_s"] = _rounded(result.total_s)
        row["_server_ms"] = result.server_ms
        row["_input_tokens"] = result.input_tokens
        row["_cached_tokens"] = result.cached_tokens
        row["_cache_write_tokens"] = result.cache_write_tokens
        row["_output_tokens"] = result.output_tokens
        row["_reasoning_tokens"] = result.reasoning_tokens
        row["_cost_usd"] = result.cost_usd
        row["_saved_usd"] = result.saved_usd
        row["_request_id"] = result.request_id
        row["_endpoint"] = result.endpoint
        row["_fingerprint"] = result.fingerprint
        row["_reused_from"] = result.reused_from
        if result.batch is not None:
            row["_batch"] = result.batch
            row["_collected_at"] = result.collected_at
        return row


def to_table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows, as `Output.row` made them, as an Arrow table."""
    return pa.Table.from_arrays([_column(rows, field) for field in schema], schema=schema)


def _column(rows: Sequence[dict[str, Any]], field: pa.Field) -> pa.Array:
    name = field.name
    values = [row.get(name) for row in rows]
    if values and values[0] is None and values.count(None) == len(values):
        return pa.nulls(len(values), field.type)
    if field.name in _TIMES:
        return pa.array(values, pa.int64()).cast(field.type)
    return to_array(values, field)


def _refuse_clashes(inputs: Sequence[str], answers: Sequence[str], rename: str) -> None:
    own = {f.name for f in RUNNER_FIELDS}
    for name in inputs:
        if name in own:
            raise SpecError(
                f"the input column `{name}` has the name of one of the runner's own columns",
                hint="list the columns to copy under `input.keep`, without it",
            )
        if name in answers:
            leave_out = "list the columns to copy under `input.keep`, without it"
            raise SpecError(
                f"the input and the answer both have a column `{name}`",
                hint=leave_out if name in (REFUSED, NEEDS_REVIEW) else f"{rename}, or {leave_out}",
            )


def _refuse_doubles(names: Sequence[str]) -> None:
    """Side by side, a model's column may have the name of an input column."""
    for name in names:
        if names.count(name) > 1:
            raise SpecError(
                f"the input column `{name}` has the name of a model's column",
                hint="list the columns to copy under `input.keep`, without it",
            )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
