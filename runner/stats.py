"""The numbers of a run, counted from the rows on disk: memory stays the same however many there are."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from runner.records import PAID_FAILURES

_STEP = math.log(1.01)  # latencies are counted in steps of 1 %
COLUMNS = [
    "_status", "_error_type", "_error", "_id", "_attempts", "_latency_s", "_started_at", "_finished_at",
    "_throttle_s", "_backoff_s", "_input_tokens", "_cached_tokens", "_cache_write_tokens", "_output_tokens",
    "_cost_usd", "_saved_usd", "_reused_from", "_endpoint", "_batch",
]  # fmt: skip


class Stats:
    """Sums over rows of output."""

    def __init__(self) -> None:
        self.rows = 0
        self.failed = 0
        self.attempts = 0
        self.latency_s = 0.0
        self.throttle_s = 0.0
        self.backoff_s = 0.0
        self.tokens = {"input": 0, "cached": 0, "cache_write": 0, "output": 0}
        self.cost_usd = 0.0
        self.saved_by_cache_usd = 0.0
        self.reused: dict[str, dict[str, Any]] = {}  # rows by the run that paid for them
        self.without_price = 0  # rows whose usage is known, and nothing else of their cost
        self.without_usage = 0
        self.errors: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, int] = {}  # rows by the endpoint that answered last
        self.batched = 0  # rows that were answered in a batch
        self._histogram: dict[int, int] = {}
        self._first_us: int | None = None
        self._last_us: int | None = None

    def add(self, table: pa.Table) -> None:
        """Count the rows of a table that has at least the columns `COLUMNS`."""
        table = table.select(COLUMNS)  # the others may be long, and what is filtered is copied
        self.rows += table.num_rows
        self.attempts += _sum(table, "_attempts") or 0
        self.latency_s += _sum(table, "_latency_s") or 0.0
        self.throttle_s += _sum(table, "_throttle_s") or 0.0
        self.backoff_s += _sum(table, "_backoff_s") or 0.0
        for name in self.tokens:
            self.tokens[name] += _sum(table, f"_{name}_tokens") or 0
        self.cost_usd += _sum(table, "_cost_usd") or 0.0
        self.batched += table.num_rows - table.column("_batch").null_count
        self._add_reused(table)
        self._add_unknown_costs(table)
        self._add_latencies(table.column("_latency_s"))
        self._add_span(table)
        failures = table.filter(pc.equal(table.column("_status"), "error"))
        self.failed += failures.num_rows
        self._add_errors(failures)

    def _add_reused(self, table: pa.Table) -> None:
        asked = table.filter(pc.is_null(table.column("_reused_from")))
        self.saved_by_cache_usd += _sum(asked, "_saved_usd") or 0.0
        for entry in pc.value_counts(asked.column("_endpoint").drop_null()).to_pylist():
            self.endpoints[entry["values"]] = self.endpoints.get(entry["values"], 0) + entry["counts"]
        if len(asked) == len(table):
            return
        reused = table.filter(pc.is_valid(table.column("_reused_from"))).group_by("_reused_from")
        for entry in reused.aggregate([("_saved_usd", "sum"), ("_status", "count")]).to_pylist():
            found = self.reused.setdefault(entry["_reused_from"], {"rows": 0, "saved_usd": 0.0})
            found["rows"] += entry["_status_count"]
            found["saved_usd"] += entry["_saved_usd_sum"] or 0.0

    def _add_unknown_costs(self, table: pa.Table) -> None:
        paid = pc.or_(
            pc.equal(table.column("_status"), "ok"),
            pc.is_in(table.column("_error_type"), value_set=pa.array(PAID_FAILURES)),
        )
        unknown = table.filter(pc.and_(paid, pc.is_null(table.column("_cost_usd"))))
        used = pc.and_(*(pc.is_valid(unknown.column(name)) for name in ("_input_tokens", "_output_tokens")))
        priceless = pc.sum(used).as_py() or 0
        self.without_price += priceless
        self.without_usage += unknown.num_rows - priceless

    def _add_latencies(self, latencies: pa.ChunkedArray) -> None:
        measured = pc.max_element_wise(latencies.drop_null(), 1e-6)
        steps = pc.cast(pc.floor(pc.divide(pc.ln(measured), _STEP)), pa.int64())
        for entry in pc.value_counts(steps).to_pylist():
            self._histogram[entry["values"]] = self._histogram.get(entry["values"], 0) + entry["counts"]

    def _add_span(self, table: pa.Table) -> None:
        first = pc.min(table.column("_started_at").cast(pa.int64())).as_py()
        last = pc.max(table.column("_finished_at").cast(pa.int64())).as_py()
        if first is not None:
            self._first_us = first if self._first_us is None else min(self._first_us, first)
        if last is not None:
            self._last_us = last if self._last_us is None else max(self._last_us, last)

    def _add_errors(self, failures: pa.Table) -> None:
        for entry in pc.value_counts(failures.column("_error_type")).to_pylist():
            kind = entry["values"] or "unknown"
            if kind not in self.errors:
                example = failures.filter(pc.equal(failures.column("_error_type"), entry["values"])).slice(0, 1)
                self.errors[kind] = {
                    "rows": 0,
                    "example": example.column("_error")[0].as_py(),
                    "example_id": example.column("_id")[0].as_py(),
                }
            self.errors[kind]["rows"] += entry["counts"]

    def percentile_s(self, share: float) -> float | None:
        """Return the latency that `share` of the rows stay within, in seconds, to 1 % of its value."""
        total = sum(self._histogram.values())
        below = 0
        for step in sorted(self._histogram):
            below += self._histogram[step]
            if below >= share * total:
                return math.exp((step + 0.5) * _STEP)
        return None

    def timing(self, wall_s: float | None = None) -> dict[str, Any]:
        """Return the interval timing.

        Args:
            wall_s: time spent working; default: from the first start to the last finish.
        """
        if wall_s is None and self._first_us is not None and self._last_us is not None:
            wall_s = (self._last_us - self._first_us) / 1e6
        return {
            "wall_s": _rounded(wall_s),
            "items_per_s": _rounded(self.rows / wall_s) if wall_s else None,
            "latency_p50_s": _rounded(self.percentile_s(0.50)),
            "latency_p95_s": _rounded(self.percentile_s(0.95)),
            "latency_p99_s": _rounded(self.percentile_s(0.99)),
            "latency_sum_s": _rounded(self.latency_s),
            "speedup_over_one_by_one": _rounded(self.latency_s / wall_s) if wall_s else None,
            "throttle_sum_s": _rounded(self.throttle_s),
            "backoff_sum_s": _rounded(self.backoff_s),
        }


def _sum(table: pa.Table, column: str) -> Any:
    return pc.sum(table.column(column)).as_py()


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
