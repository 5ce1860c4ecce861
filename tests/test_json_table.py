"""Rows that Arrow reads itself are what they would be otherwise, or it says that it cannot."""

from __future__ import annotations

import math
import random
import struct
from typing import Any

import pyarrow as pa
import pytest

from runner.dataset.columns import plain_field
from runner.exact_json import decode, encode
from runner.json_table import LineReader
from runner.output import RUNNER_FIELDS, to_table

PLAIN = pa.schema(
    [
        pa.field("text", pa.string(), metadata={b"runner:summary": b"counts"}),
        pa.field("whole", pa.int64()),
        pa.field("number", pa.float64()),
        pa.field("yes", pa.bool_()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("numbers", pa.list_(pa.float64())),
        *RUNNER_FIELDS,
    ]
)


def read(rows: list[dict[str, Any]], schema: pa.Schema = PLAIN) -> tuple[pa.Table | None, pa.Table]:
    """Return what Arrow makes of rows, and what the interpreter does."""
    lines = [encode(row) + b"\n" for row in rows]
    return LineReader(schema).table(lines), to_table([decode(line) for line in lines], schema)


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"text": None, "whole": None, "number": None, "yes": None, "tags": None, "numbers": None},
        {"text": "", "whole": 0, "number": -0.0, "yes": False, "tags": [], "numbers": []},
        {"text": 'a "b"\n\t\\ \x00 \x7f \u2028 ß 😀 2026-01-01', "tags": ["", None, "😀"]},
        {"whole": 2**63 - 1}, {"whole": -(2**63)}, {"whole": 2**53 + 1},
        {"number": 0.1 + 0.2, "numbers": [1e308, 5e-324, -1.5, None]},
        {"number": 3, "numbers": [1, 2**53]},
        {"number": 1.7976931348623157e308}, {"number": math.nan},
        {"number": -math.inf, "numbers": [math.inf, math.nan]},
        {"unknown": {"a": [1]}, "_model_number": 2, "text": "null"},
        {"_index": 7, "_queued_at": 1_790_000_000_123_456, "_attempts": 3, "_cost_usd": 1e-9, "_server_ms": 12},
        {"_started_at": -1, "_collected_at": 0},
    ],
)  # fmt: skip
def test_arrow_reads_the_same(row: dict[str, Any]) -> None:
    by_arrow, by_us = read([{"text": "first"}, row, {"number": 1.5}])
    assert by_arrow is not None
    assert repr(by_arrow.to_pylist()) == repr(by_us.to_pylist())  # NaN is not equal to itself, and -0.0 to 0.0
    assert by_arrow.schema.equals(PLAIN, check_metadata=True)


def test_arrow_reads_any_number_the_same() -> None:
    draws = random.Random(1)
    numbers = [struct.unpack("<d", draws.randbytes(8))[0] for _ in range(2000)]
    by_arrow, by_us = read([{"number": number, "whole": draws.getrandbits(63)} for number in numbers])
    assert by_arrow is not None
    assert repr(by_arrow.column("number").to_pylist()) == repr(numbers)
    assert by_arrow.column("whole").equals(by_us.column("whole"))


@pytest.mark.parametrize("row", [{"text": "\ud800"}, {"tags": ["\udc00a"]}])
def test_what_arrow_cannot_read_is_left_to_others(row: dict[str, Any]) -> None:
    by_arrow, _ = read([{"text": "first"}, row])
    assert by_arrow is None


@pytest.mark.parametrize("row", [{"whole": 2**63}, {"text": 1}, {"yes": "no"}, {"tags": "a"}, {"whole": 1.5}])
def test_nothing_is_made_to_fit(row: dict[str, Any]) -> None:
    assert LineReader(PLAIN).table([encode(row) + b"\n"]) is None


def test_order_and_number_stay() -> None:
    by_arrow, by_us = read([{"whole": number, "text": "x" * number} for number in range(3000)])
    assert by_arrow is not None
    assert by_arrow.equals(by_us)


@pytest.mark.parametrize(
    "field",
    [
        plain_field("odd", None), pa.field("odd", pa.date32()), pa.field("odd", pa.decimal128(9, 2)),
        pa.field("odd", pa.timestamp("us")), pa.field("odd", pa.duration("s")), pa.field("odd", pa.uint64()),
        pa.field("odd", pa.struct([("a", pa.float64())])), pa.field("odd", pa.list_(pa.list_(pa.string()))),
    ],
)  # fmt: skip
def test_columns_whose_values_are_not_written_plainly_are_left_to_others(field: pa.Field) -> None:
    reader = LineReader(pa.schema([field, *RUNNER_FIELDS]))
    assert not reader.able
    assert reader.table([b"{}\n"]) is None
