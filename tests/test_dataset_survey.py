"""What a survey tells, and the types it finds."""

from __future__ import annotations

import datetime
import gzip
import io
import json
import math
import os
import random
import tracemalloc
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_dataset import dataset

from runner.dataset.columns import JSON_TEXT, ColumnTypes, to_array
from runner.dataset.repeats import Repeats
from runner.dataset.survey import Survey, fingerprint, survey, unchanged
from runner.errors import InputError
from runner.records import BadRow, Item


def look(root: Path, content: str, name: str = "in.jsonl", **settings: Any) -> Survey:
    (root / name).write_text(content, newline="")
    return survey(dataset(root, name, **settings))


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# --- the survey ------------------------------------------------------------------------------------------------------


def test_survey_of_a_csv(tmp_path: Path) -> None:
    found = look(tmp_path, "id,t\n1,a\n2\n1,b\n3,c\n,d\n", "in.csv", id="id")
    assert (found.rows, found.bad, found.repeated_ids) == (5, 2, 1)
    assert [bad.reason for bad in found.bad_examples] == ["expected 2 fields, found 1", "the id column `id` is empty"]
    assert found.schema == pa.schema([("id", pa.string()), ("t", pa.string())])
    assert found.columns == ("id", "t")
    assert [item.index for item in found.sample] == [0, 2, 3]
    assert [stamp.path for stamp in found.files] == ["in.csv"]


def test_survey_obeys_offset_and_limit(tmp_path: Path) -> None:
    content = lines({"a": 1}, {"a": "x"}, {"a": 2}, {"a": 3}, {"b": 1})
    found = look(tmp_path, content, offset=2, limit=2)
    assert (found.rows, found.schema) == (2, pa.schema([("a", pa.int64())]))
    assert look(tmp_path, content, offset=9).rows == 0


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.json"])
def test_survey_of_nothing(tmp_path: Path, name: str) -> None:
    found = look(tmp_path, "", name, id="id", keep=("id",))
    assert (found.rows, found.bad, found.columns, found.sample) == (0, 0, (), ())


def test_survey_check_makes_rows_bad(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(lines(*[{"n": n} for n in range(20)]))
    found = survey(dataset(tmp_path, "in.jsonl"), check=lambda item: "odd" if item.fields["n"] % 2 else None)
    assert (found.rows, found.bad, len(found.sample)) == (20, 10, 10)
    assert found.bad_examples[0] == BadRow(1, "in.jsonl", 2, "odd", {"n": 1})
    assert len(found.bad_examples) == 5


def test_survey_reports_progress(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"a": 1}\n' * 25_000)
    seen: list[int] = []
    survey(dataset(tmp_path, "in.jsonl"), progress=seen.append)
    assert seen == [10_000, 20_000]


def test_survey_unites_columns_in_first_seen_order(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.csv").write_text("z,x\n1,2\n")
    assert survey(dataset(tmp_path, "a.csv", "b.csv")).columns == ("x", "y", "z")
    found = look(tmp_path, lines({"b": 1}, {"a": 2, "b": 3}, {}, {"c": None}))
    assert found.columns == ("b", "a", "c")
    assert [item.fields for item in found.sample][2] == {}


def test_survey_of_mixed_formats(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.jsonl").write_text(lines({"x": 1, "y": "s", "w": 1.5}))
    found = survey(dataset(tmp_path, "a.csv", "b.jsonl"))
    assert found.schema.field("x").metadata == JSON_TEXT
    assert found.schema.field("y").type == pa.string()
    assert not found.schema.field("y").metadata
    assert found.schema.field("w").type == pa.float64()


def test_columns_are_checked_as_soon_as_all_are_known(tmp_path: Path) -> None:
    seen: list[tuple[int, list[str]]] = []
    rows = 0

    def count(item: Item) -> None:
        nonlocal rows
        rows += 1

    def check_columns(columns: Sequence[str]) -> None:
        seen.append((rows, list(columns)))

    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.jsonl").write_text(lines({"z": 1}))
    (tmp_path / "header.csv").write_text("x,y\n")
    (tmp_path / "empty.csv").write_text("")
    for paths in (["a.csv"], ["a.csv", "b.jsonl"], ["header.csv"], ["empty.csv"]):
        rows = 0
        survey(dataset(tmp_path, *paths), count, check_columns)
    assert seen == [(0, ["x", "y"]), (2, ["x", "y", "z"]), (0, ["x", "y"])]


def test_an_id_column_that_one_file_lacks(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,t\n1,2\n")
    (tmp_path / "b.csv").write_text("t\n1\n")
    with pytest.raises(InputError) as caught:
        survey(dataset(tmp_path, "a.csv", "b.csv", id="id"))
    assert str(caught.value) == "there is no column `id` to take the ids from\n  --> b.csv\nhint: there are `t`"


def test_sample_is_even_and_the_same_every_time(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("n\n" + "".join(f"{n}\n" for n in range(50_000)))
    first, second = (survey(dataset(tmp_path)).sample for _ in range(2))
    assert first == second
    indexes = [item.index for item in first]
    assert len(set(indexes)) == 200
    assert indexes == sorted(indexes)
    by_tenth = [sum(tenth * 5_000 <= index < (tenth + 1) * 5_000 for index in indexes) for tenth in range(10)]
    assert min(by_tenth) >= 8
    assert max(by_tenth) <= 36


@pytest.mark.parametrize("rows", [0, 1, 199, 200, 201])
def test_sample_of_few_rows(tmp_path: Path, rows: int) -> None:
    found = look(tmp_path, "n\n" + "".join(f"{n}\n" for n in range(rows)), "in.csv")
    assert len(found.sample) == min(rows, 200)
    if rows <= 200:
        assert [item.index for item in found.sample] == list(range(rows))


def test_repeated_ids_are_exact_over_many_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.dataset.repeats._IDS_PER_PASS", 1000)
    rng = random.Random(5)
    ids = [str(rng.randrange(30_000)) for _ in range(50_000)] + ["\ud800", "\ud800", "é"]
    with Repeats() as repeats:
        for each in ids:
            repeats.add(each)
        assert repeats.count() == len(ids) - len(set(ids))


def test_memory_stays_flat(tmp_path: Path) -> None:
    def peak(rows: int, name: str, write: Any) -> int:
        write(tmp_path / name, rows)
        found = dataset(tmp_path, name, id="id")
        tracemalloc.start()
        survey(found)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    def write_json(path: Path, rows: int) -> None:
        path.write_text(json.dumps([{"id": n, "t": "x" * 100} for n in range(rows)]))

    def write_gzip(path: Path, rows: int) -> None:
        path.write_bytes(gzip.compress(b"id,t\n" + b"".join(b"%d,%s\n" % (n, b"x" * 100) for n in range(rows)), 1))

    for name, write in (("in.json", write_json), ("in.csv.gz", write_gzip)):
        survey_small, survey_large = peak(15_000, name, write), peak(45_000, name, write)
        assert survey_large < survey_small * 1.2 + 500_000, name


def test_fingerprint_and_unchanged(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "c.csv", "d.csv"):
        (tmp_path / name).write_text("x\n1\n")
    stamps = fingerprint(dataset(tmp_path, "*.csv").files, tmp_path)
    assert [stamp.path for stamp in stamps] == ["a.csv", "b.csv", "c.csv", "d.csv"]
    assert unchanged(stamps, tmp_path) == []
    os.utime(tmp_path / "a.csv", ns=(1, 1))
    (tmp_path / "b.csv").write_text("x\n2\n")
    os.utime(tmp_path / "b.csv", ns=(1, 1))
    (tmp_path / "c.csv").unlink()
    (tmp_path / "d.csv").write_text("x\n1\n2\n")
    assert unchanged(stamps, tmp_path) == ["b.csv", "c.csv", "d.csv"]
    assert unchanged(fingerprint([tmp_path / "a.csv"]), Path("/elsewhere")) == []
    with pytest.raises(InputError):
        fingerprint([tmp_path / "c.csv"], tmp_path)


def test_a_file_that_changes_during_the_survey(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("x\n1\n2\n")

    def change(item: Item) -> None:
        (tmp_path / "in.csv").write_text("x\n1\n2\n3\n")

    with pytest.raises(InputError) as caught:
        survey(dataset(tmp_path), check=change)
    assert caught.value.message == "`in.csv` changed while it was read"


def test_names_that_cannot_be_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as caught:
        look(tmp_path, lines({"a": 1}, {"\ud800": 1}))
    assert (caught.value.message, caught.value.where) == (
        "the column name '\\ud800' is not valid Unicode",
        "in.jsonl:2",
    )
    monkeypatch.setattr("runner.dataset.columns._MOST_COLUMNS", 10)
    with pytest.raises(InputError) as caught:
        look(tmp_path, lines(*[{f"k{n}": 1} for n in range(20)]))
    assert (caught.value.message, caught.value.where) == ("the rows have more than 10 different columns", "in.jsonl:11")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: io.FileIO("/dev/full", "w"))
    with pytest.raises(InputError) as caught:
        look(tmp_path, lines({"id": 1}), id="id")
    assert caught.value.message == "the ids cannot be counted: No space left on device"


# --- types -----------------------------------------------------------------------------------------------------------

BIG = 2**53
JSON = "json"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, None, False], pa.bool_()),
        ([1, None, -5], pa.int64()),
        ([2**63 - 1, -(2**63)], pa.int64()),
        ([2**63], JSON),
        ([1, -(2**63) - 1], JSON),
        ([1.5, float("inf")], pa.float64()),
        ([1, 2.5, None], pa.float64()),
        ([BIG, 0.5], pa.float64()),
        ([BIG + 1, 0.5], JSON),
        (["a", None], pa.string()),
        ([None, None], pa.string()),
        ([[], None], pa.list_(pa.string())),
        ([["a", None], []], pa.list_(pa.string())),
        ([[1], [2, None]], pa.list_(pa.int64())),
        ([[1], [2.5]], pa.list_(pa.float64())),
        ([[[1]], [[], [2]]], pa.list_(pa.list_(pa.int64()))),
        ([["a"], [1]], JSON),
        ([["a", {"b": 1}]], JSON),
        ([[[1]], [2]], JSON),
        ([{"a": 1}, None], JSON),
        ([1, "a"], JSON),
        ([True, 1], JSON),
        (["a", ["b"]], JSON),
        ([["x", "\ud800", "\0😀"]], pa.list_(pa.string())),
        (["007", "123456789012345678", "\x07\0\n😀"], pa.string()),
        ([[2**63], [1]], JSON),
    ],
)
def test_types_and_their_round_trip(tmp_path: Path, values: list[Any], expected: Any) -> None:
    types = ColumnTypes()
    for value in values:
        types.see({"c": value})
    schema = types.schema()
    field = schema.field("c")
    assert field.type == (pa.string() if expected == JSON else expected)
    assert (field.metadata == JSON_TEXT) == (expected == JSON)
    pq.write_table(pa.table([to_array(values, field)], schema=schema), tmp_path / "out.parquet")
    stored = pq.read_table(tmp_path / "out.parquet")
    assert stored.schema.field("c").metadata == field.metadata
    got = stored["c"].to_pylist()
    if expected == JSON:
        got = [None if each is None else json.loads(each) for each in got]
    assert got == json.loads(json.dumps(values).replace("\\ud800", "\\\\ud800"))


def test_types_random_values_always_fit() -> None:
    rng = random.Random(3)
    atoms = [None, True, 0, 1, -7, BIG + 1, 2**70, 0.5, math.inf, "a", "\ud83d", "", {}, {"k": [None]}]

    def value(kinds: list[Any], depth: int) -> Any:
        return (
            [value(kinds, depth - 1) for _ in range(rng.randint(0, 3))]
            if depth and rng.random() < 0.6
            else rng.choice(kinds)
        )

    for _ in range(2000):
        kinds = rng.sample(atoms, rng.randint(1, 3))
        depth = rng.randint(0, 2)
        values = [value(kinds, depth) for _ in range(rng.randint(1, 6))]
        types = ColumnTypes()
        for each in values:
            types.see({"c": each})
        field = types.schema().field("c")
        got = to_array(values, field).to_pylist()
        if field.metadata == JSON_TEXT:
            assert [None if each is None else json.loads(each) for each in got] == values
        else:
            assert str(got).replace("\\\\", "\\") == str(values) or got == values


def test_json_text_keeps_lone_surrogates() -> None:
    field = pa.field("c", pa.string(), metadata=JSON_TEXT)
    values = [{"\ud800": "\udfff é"}, None, "\\ud800"]
    assert [each and json.loads(each) for each in to_array(values, field).to_pylist()] == values


def test_lone_surrogates_become_escapes() -> None:
    assert to_array(["a\ud800b", None], pa.field("c", pa.string())).to_pylist() == ["a\\ud800b", None]


# --- Parquet ---------------------------------------------------------------------------------------------------------

MOMENT = datetime.datetime(2024, 2, 29, 23, 59, 59, 123456)

PARQUET: dict[str, pa.Array] = {
    "id": pa.array([1, 2, None], pa.int32()),
    "bool": pa.array([True, None, False]),
    "u8": pa.array([1, None, 255], pa.uint8()),
    "u64": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "f32": pa.array([0.1, None, -1.0], pa.float32()),
    "f64": pa.array([0.1, None, float("inf")]),
    "str": pa.array(["007", None, "\0😀\u2028"]),
    "date": pa.array([datetime.date(2024, 2, 29), None, datetime.date(1, 1, 1)]),
    "time": pa.array([datetime.time(1, 2, 3, 456), None, datetime.time(0)], pa.time64("us")),
    "time32": pa.array([datetime.time(1, 2, 3), None, datetime.time(0)], pa.time32("ms")),
    "moment": pa.array([MOMENT, None, MOMENT], pa.timestamp("us")),
    "moment_ns": pa.array([1577836800123456789, None, 0], pa.timestamp("ns")),
    "moment_tz": pa.array([1577836800123456, None, 0], pa.timestamp("us", tz="UTC")),
    "zurich": pa.array([1577836800123456, None, 0], pa.timestamp("us", tz="Europe/Zurich")),
    "duration": pa.array([5, None, -7], pa.duration("us")),
    "decimal": pa.array([Decimal("1.50"), None, Decimal("-0.01")], pa.decimal128(10, 2)),
    "strings": pa.array([["a", None], None, []], pa.list_(pa.string())),
    "ints": pa.array([[[1]], None, [[], None]], pa.list_(pa.list_(pa.int16()))),
}


def read_parquet(root: Path, columns: dict[str, pa.Array], **settings: Any) -> tuple[list[dict[str, Any]], Survey]:
    pq.write_table(pa.table(columns), root / "in.parquet", row_group_size=2)
    found = dataset(root, "in.parquet", **settings)
    rows = [row.fields for row in found.rows()]
    for row in rows:
        json.dumps(row)
    return rows, survey(found)


def test_parquet_types_are_kept(tmp_path: Path) -> None:
    rows, found = read_parquet(tmp_path, PARQUET)
    assert rows[0]["date"] == "2024-02-29"
    assert rows[0]["moment_ns"] == "2020-01-01 00:00:00.123456789"
    assert rows[0]["zurich"] == "2020-01-01 01:00:00.123456+0100"
    assert rows[0]["time"] == "01:02:03.000456"
    assert rows[0]["decimal"] == "1.50"
    assert rows[0]["u64"] == 2**64 - 1
    assert rows[1] == dict.fromkeys(PARQUET) | {"id": 2}
    stored = pq.read_table(tmp_path / "in.parquet")
    for name in PARQUET:
        field = found.schema.field(name)
        assert field.type == stored.schema.field(name).type, name
        assert to_array([row[name] for row in rows], field).equals(stored[name].combine_chunks()), name


def test_parquet_ways_of_storing_are_unwrapped(tmp_path: Path) -> None:
    columns = {
        "dictionary": pa.array(["a", "b", "a"]).dictionary_encode(),
        "large": pa.array(["a", None, "b"], pa.large_string()),
        "large_list": pa.array([["a"], None, []], pa.large_list(pa.large_string())),
        "fixed": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2)),
        "null": pa.nulls(3),
    }
    rows, found = read_parquet(tmp_path, columns)
    expected = [pa.string(), pa.string(), pa.list_(pa.string()), pa.list_(pa.int8()), pa.string()]
    assert found.schema.types == expected
    assert not any(field.metadata for field in found.schema)
    assert rows[0] == {"dictionary": "a", "large": "a", "large_list": ["a"], "fixed": [1, 2], "null": None}
    for field in found.schema:
        assert to_array([row[field.name] for row in rows], field).to_pylist() == [row[field.name] for row in rows]


def test_parquet_structures_become_json(tmp_path: Path) -> None:
    columns = {
        "struct": pa.array([{"a": 1, "t": MOMENT, "d": Decimal("1.5"), "l": [MOMENT]}, None]),
        "map": pa.array([[("k", 1), ("m", None)], None], pa.map_(pa.string(), pa.int64())),
        "binary": pa.array([b"\0\xff", None]),
        "moments": pa.array([[1577836800123456789], None], pa.list_(pa.timestamp("ns"))),
        "bytes": pa.array([[b"a"], None]),
    }
    rows, found = read_parquet(tmp_path, columns)
    text = "2024-02-29 23:59:59.123456"
    assert rows[0] == {
        "struct": {"a": 1, "t": text, "d": "1.5", "l": [text]},
        "map": [["k", 1], ["m", None]],
        "binary": "AP8=",
        "moments": ["2020-01-01 00:00:00.123456789"],
        "bytes": ["YQ=="],
    }
    assert rows[1] == dict.fromkeys(columns)
    assert [field.name for field in found.schema if field.metadata == JSON_TEXT] == [
        "struct",
        "map",
        "moments",
        "bytes",
    ]
    array = to_array([row["struct"] for row in rows], found.schema.field("struct"))
    assert json.loads(array[0].as_py()) == rows[0]["struct"]
    assert not array[1].is_valid


def test_parquet_files_of_different_types(tmp_path: Path) -> None:
    kinds = {"i": (pa.int8(), pa.int64()), "f": (pa.float32(), pa.float64()), "if": (pa.int32(), pa.float64())}
    kinds |= {"u": (pa.uint64(), pa.int64()), "l": (pa.list_(pa.int8()), pa.list_(pa.int16()))}
    for turn in (0, 1):
        columns = {name: pa.nulls(2, pair[turn]) for name, pair in kinds.items()}
        pq.write_table(pa.table(columns), tmp_path / f"{turn}.parquet")
    found = survey(dataset(tmp_path, "*.parquet"))
    expected = [pa.int64(), pa.float64(), pa.float64(), pa.string(), pa.list_(pa.int64())]
    assert found.schema.types[:4] == expected[:4]
    assert found.schema.field("u").metadata == JSON_TEXT
    assert found.schema.types[4] == expected[4]


def test_parquet_ids_offset_and_lines(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"id": pa.array(range(5000)), "t": ["x"] * 5000}), tmp_path / "in.parquet", row_group_size=700
    )
    rows = list(dataset(tmp_path, "in.parquet", id="id", offset=1999, limit=2).rows())
    assert rows == [
        Item(1999, "1999", {"id": 1999, "t": "x"}, "in.parquet", 2000),
        Item(2000, "2000", {"id": 2000, "t": "x"}, "in.parquet", 2001),
    ]
    with pytest.raises(InputError) as caught:
        list(dataset(tmp_path, "in.parquet", id="ID2").rows())
    assert caught.value.hint == "did you mean `id`?"


def test_parquet_compressed_as_a_whole(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "in.parquet")
    (tmp_path / "in.parquet.gz").write_bytes(gzip.compress((tmp_path / "in.parquet").read_bytes()))
    assert [row.fields for row in dataset(tmp_path, "in.parquet.gz").rows()] == [{"a": 1}, {"a": 2}]


def test_not_parquet(tmp_path: Path) -> None:
    for content in (b"", b"a,b\n1,2\n", b"PAR1" + b"x" * 100 + b"PAR1"):
        (tmp_path / "in.parquet").write_bytes(content)
        with pytest.raises(InputError) as caught:
            list(dataset(tmp_path, "in.parquet").rows())
        assert caught.value.message.startswith("`in.parquet` is not a Parquet file that can be read: ")
        assert "\n" not in caught.value.message
    pq.write_table(pa.table({"a": [str(n) * 50 for n in range(5000)]}), tmp_path / "in.parquet", use_dictionary=False)
    content = (tmp_path / "in.parquet").read_bytes()
    (tmp_path / "in.parquet").write_bytes(content[:500] + b"\xff" * 5000 + content[5500:])
    with pytest.raises(InputError):
        list(dataset(tmp_path, "in.parquet").rows())


def test_parquet_doubled_names(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "in.parquet")
    with pytest.raises(InputError) as caught:
        survey(dataset(tmp_path, "in.parquet"))
    assert caught.value.message == "`in.parquet` has columns of the same name: `a`"
