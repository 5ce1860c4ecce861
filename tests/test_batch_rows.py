"""The rows of a batch come back from their file exactly as they went in."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from runner.batches import rows
from runner.batches.rows import Pending, RowIndex, parse
from runner.records import Item, Result

FINGERPRINT = "0123456789abcdef" * 2


def pending(fields: dict[str, Any], index: int = 7, **known: Any) -> Pending:
    return Pending(Result(Item(index, "é1", fields, "rows.jsonl", 8, 2), fingerprint=FINGERPRINT, **known), 250)


@pytest.mark.parametrize(
    "value",
    [
        "", "\ud800", "a\udfff\ud83d", "😀 \u2028 \x00 \n \" \\ \ufeff", math.nan, math.inf, -math.inf, -0.0, 5e-324,
        0.1 + 0.2, 1e16, 2**53 + 1, 2**64, -(10**400), True, None, [], [1, [2.0, "\ud800"], {}], {"": {"a": [None]}},
        {"\ud800": 1},
    ],
)  # fmt: skip
def test_a_row_survives(value: Any) -> None:
    row = pending({"text": value, "": "no name"})
    line = row.line()
    assert line.count(b"\n") == 1
    assert repr(parse(line)) == repr(row)  # NaN is not equal to itself, and -0.0 to 0.0


def test_what_earlier_attempts_took_survives() -> None:
    row = pending({"text": "a"}, attempts=2, input_tokens=2**60, cached_tokens=0, output_tokens=5, cost_usd=0.1 + 0.2)
    row.transient, row.invalid = 1, 1
    assert parse(row.line()) == row


def test_attempts_that_say_nothing_of_a_row_survive() -> None:
    row = pending({"text": "a"})
    row.transient = 3
    assert parse(row.line()) == row


def write(path: Path, many: list[Pending]) -> Path:
    path.write_bytes(b"".join(row.line() for row in many))
    return path


def test_rows_are_found_by_name_in_any_order_and_once(tmp_path: Path) -> None:
    many = [pending({"text": "\ud800" if index % 3 else "ß" * index}, index) for index in range(20)]
    with RowIndex(write(tmp_path / "rows.jsonl", many)) as index:
        assert index.take(f"{FINGERPRINT}-99") is None
        assert [index.take(many[number].custom_id) for number in (19, 0, 7)] == [many[19], many[0], many[7]]
        assert index.take(many[7].custom_id) is None
        assert len(index) == 17
        assert list(index.rest()) == [*many[1:7], *many[8:19]]
        assert len(index) == 0


def test_rows_are_found_after_many_were_taken(tmp_path: Path) -> None:
    many = [pending({"text": "x"}, index) for index in range(9000)]
    with RowIndex(write(tmp_path / "rows.jsonl", many)) as index:
        assert all(index.take(row.custom_id) == row for row in reversed(many))


def test_rows_are_read_in_order(tmp_path: Path) -> None:
    many = [pending({"text": "x" * index}, index) for index in range(50)]
    assert list(rows.read(write(tmp_path / "rows.jsonl", many))) == many
