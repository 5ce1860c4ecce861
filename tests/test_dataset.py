"""The readers of the input formats: exact values, exact counts, and one clear message for what is wrong."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from runner.dataset import Dataset, json_rows, open_dataset
from runner.errors import InputError
from runner.records import BadRow, Item


@dataclass(frozen=True)
class Spec:
    """The `input:` block, without its checks."""

    path: tuple[str, ...]
    format: Any = None
    id: str | None = None
    keep: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    header: int | None = None
    delimiter: str | None = None
    quote: str | None = None
    encoding: str = "utf-8"
    limit: int | None = None
    offset: int = 0
    on_bad_row: str = "fail"


def dataset(root: Path, *path: str, **settings: Any) -> Dataset:
    return open_dataset(Spec(path or ("in.csv",), **settings), root)


def read(root: Path, content: bytes | str, name: str = "in.csv", **settings: Any) -> list[Item | BadRow]:
    (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return list(dataset(root, name, **settings).rows())


def fields(rows: list[Item | BadRow]) -> list[dict[str, Any]]:
    assert all(type(row) is Item for row in rows), rows
    return [row.fields for row in rows]


def failure(root: Path, content: bytes | str, name: str = "in.csv", **settings: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        read(root, content, name, **settings)
    return caught.value


# --- CSV ---------------------------------------------------------------------------------------------------------


def test_csv_values_stay_text_as_written(tmp_path: Path) -> None:
    rows = read(tmp_path, 'id,n,x\n007,123456789012345678,"{{ x }} %s \\alpha"\n0704.0001, 1 ,\n', id="id")
    assert rows == [
        Item(0, "007", {"id": "007", "n": "123456789012345678", "x": "{{ x }} %s \\alpha"}, "in.csv", 2),
        Item(1, "0704.0001", {"id": "0704.0001", "n": " 1 ", "x": ""}, "in.csv", 3),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_csv_line_ends(tmp_path: Path, end: str, last: bool) -> None:
    text = end.join(["a,b", f'1,"x{end}y"', "", "2,z"]) + (end if last else "")
    rows = read(tmp_path, text)
    assert fields(rows) == [{"a": "1", "b": f"x{end}y"}, {"a": "2", "b": "z"}]
    assert [row.line for row in rows] == [2, 5]


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf-16-le", "utf-16", "gb18030"])
def test_csv_byte_order_mark_is_no_data(tmp_path: Path, encoding: str) -> None:
    mark = "" if encoding == "utf-16" else "\ufeff"
    rows = read(tmp_path, f'{mark}"a",b\n1,é\n'.encode(encoding), encoding=encoding)
    assert fields(rows) == [{"a": "1", "b": "é"}]


def test_csv_a_row_with_the_wrong_number_of_fields_is_bad_and_reading_goes_on(tmp_path: Path) -> None:
    rows = read(tmp_path, 'a,b,c\n1,2,3\n1,2,3,4,5\n\n   \n1\n""\n7,8,9\n')
    assert rows[0] == Item(0, "0", {"a": "1", "b": "2", "c": "3"}, "in.csv", 2)
    assert rows[1] == BadRow(1, "in.csv", 3, "expected 3 fields, found 5", {"a": "1", "b": "2", "c": "3"})
    assert rows[2] == BadRow(2, "in.csv", 6, "expected 3 fields, found 1", {"a": "1"})
    assert rows[3] == BadRow(3, "in.csv", 7, "expected 3 fields, found 1", {"a": ""})
    assert rows[4] == Item(4, "4", {"a": "7", "b": "8", "c": "9"}, "in.csv", 8)
    assert len(rows) == 5


def test_csv_a_quote_that_is_never_closed_is_told(tmp_path: Path) -> None:
    error = failure(tmp_path, 'a,b\n1,2\n3,"4\n5,6\n7,8\n')
    assert str(error) == (
        "a quoted field is never closed, so the rest of the file is inside it\n"
        "  --> in.csv:3\n"
        "hint: close the quote, or add `quote: none` if quotes are plain text in this file"
    )
    assert failure(tmp_path, 'a\n"x').where == "in.csv:2"
    assert failure(tmp_path, 'a\n"').where == "in.csv:2"
    assert failure(tmp_path, '"a\n1\n').where == "in.csv:1"


def test_csv_a_closed_quote_at_the_end_is_fine(tmp_path: Path) -> None:
    assert fields(read(tmp_path, 'a\n"x"')) == [{"a": "x"}]
    assert fields(read(tmp_path, 'a\n5" disk\n"x"y\n')) == [{"a": '5" disk'}, {"a": "xy"}]


def test_csv_quotes_as_plain_text(tmp_path: Path) -> None:
    rows = read(tmp_path, '"a\t1\nb"c\t"0"\n', "in.txt", format="tsv", quote="none", columns=("text", "label"))
    assert fields(rows) == [{"text": '"a', "label": "1"}, {"text": 'b"c', "label": '"0"'}]


def test_csv_other_delimiter_and_quote(tmp_path: Path) -> None:
    assert fields(read(tmp_path, "a;b\n'x;y';\"\n", delimiter=";", quote="'")) == [{"a": "x;y", "b": '"'}]
    assert fields(read(tmp_path, "a\tb\n1,5\t2\n", "in.tsv")) == [{"a": "1,5", "b": "2"}]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delimiter": "||"}, "`delimiter` must be one character, got '||'"),
        ({"quote": ""}, None),
        ({"quote": "ab"}, "`quote` must be one character, got 'ab'"),
        ({"delimiter": '"'}, "`delimiter` and `quote` are both '\"'"),
        ({"delimiter": "\n"}, "`delimiter` must be one character, got '\\n'"),
        ({"encoding": "utf-9"}, "there is no text encoding named 'utf-9'"),
        ({"encoding": "base64"}, "there is no text encoding named 'base64'"),
        ({"encoding": "idna\0"}, "there is no text encoding named 'idna\\x00'"),
        ({"encoding": "undefined"}, "there is no text encoding named 'undefined'"),
    ],
)
def test_csv_impossible_settings(tmp_path: Path, settings: dict[str, Any], message: str | None) -> None:
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")
    if message is None:
        assert len(list(dataset(tmp_path, **settings).rows())) == 1
        return
    with pytest.raises(InputError) as caught:
        dataset(tmp_path, **settings)
    assert caught.value.message == message


def test_csv_empty_and_doubled_names_are_one_error(tmp_path: Path) -> None:
    error = failure(tmp_path, "a,,b,a, \n1,2,3,4,5\n")
    assert str(error) == (
        "3 column names are empty or doubled in `in.csv`: "
        "column 2 is empty, column 4 is `a` like column 1, column 5 is empty\n"
        "  --> in.csv:1\n"
        "hint: name all 5 columns with `columns:`, and add `header: 1` to skip the file's own"
    )
    rows = read(tmp_path, "a,,b,a, \n1,2,3,4,5\n", columns=tuple("vwxyz"), header=1)
    assert fields(rows) == [dict(zip("vwxyz", "12345", strict=True))]


def test_csv_columns_must_fit(tmp_path: Path) -> None:
    error = failure(tmp_path, "1,2,3\n", columns=("a", "b"))
    assert (
        str(error)
        == "`columns` has 2 names, but `in.csv` has 3 columns\n  --> in.csv:1\nhint: its first row is 1, 2, 3"
    )
    assert failure(tmp_path, "1,2\n", columns=("a", "a")).message == (
        "`columns` has names that are empty or doubled: column 2 is `a` like column 1"
    )


def test_csv_columns_that_repeat_the_header(tmp_path: Path) -> None:
    error = failure(tmp_path, "a,b\n1,2\n", columns=("a", "b"))
    assert error.message == "the first row of `in.csv` repeats the names in `columns`"
    assert error.hint == "it seems to be a header: leave out `columns`, or add `header: 1`"
    assert len(read(tmp_path, "a,b\n1,2\n", columns=("a", "b"), header=1)) == 1


def test_csv_header_rows(tmp_path: Path) -> None:
    assert fields(read(tmp_path, "Report 2024\n\na,b\n1,2\n", header=2)) == [{"a": "1", "b": "2"}]
    assert failure(tmp_path, "1,2\n", header=0).message == "the columns of `in.csv` have no names"


@pytest.mark.parametrize("content", ["", "\n\n", "a,b\n", "a,b", "\ufeff"])
def test_csv_without_rows(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content, id="a" if "a" in content else None) == []


def test_csv_any_length_of_field(tmp_path: Path) -> None:
    long = "x" * 3_000_000
    assert fields(read(tmp_path, f'a,b\n"{long}",1\n')) == [{"a": long, "b": "1"}]


def test_csv_a_field_beyond_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.dataset.csv_rows._FIELD_CHARACTERS", 100)
    error = failure(tmp_path, 'a\n"' + "x\n" * 200)
    assert error.message == "not a CSV file as `input` describes it: field larger than field limit (100)"


ALPHABET = [
    "a",
    "é",
    "😀",
    '"',
    "'",
    ",",
    ";",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\0",
    "\x07",
    "\u2028",
    "\x85",
    "{{ x }}",
    " ",
    "\\",
]


@pytest.mark.parametrize("seed", range(30))
def test_csv_random_round_trips(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    delimiter, quote = rng.choice([",", ";", "\t", "|"]), rng.choice(['"', "'"])
    end = rng.choice(["\n", "\r\n", "\r"])
    width = rng.randint(1, 6)
    names = [f"c{column}" for column in range(width)]
    rows = [["".join(rng.choices(ALPHABET, k=rng.randint(0, 8))) for _ in names] for _ in range(200)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quotechar=quote, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([names, *rows])
    content = text.getvalue()
    if rng.random() < 0.5:
        content = content[: -len(end)]
    encoding = rng.choice(["utf-8", "utf-16", "utf-8-sig"])
    read_as = "utf-8" if encoding == "utf-8-sig" else encoding
    got = read(tmp_path, content.encode(encoding), delimiter=delimiter, quote=quote, encoding=read_as)
    assert [list(each.values()) for each in fields(got)] == rows


# --- encodings -----------------------------------------------------------------------------------------------------


def test_not_utf8_names_the_place_and_an_encoding_that_works(tmp_path: Path) -> None:
    content = b"a,b\n1,x\r\n2,caf" + b"\xe9\n"
    assert str(failure(tmp_path, content)) == (
        "`in.csv` is not UTF-8 text: byte 0xe9 at offset 14\n"
        "  --> in.csv:3\n"
        "hint: if it is written in cp1252, add `encoding: cp1252`"
    )
    assert fields(read(tmp_path, content, encoding="cp1252"))[1] == {"a": "2", "b": "café"}


def test_not_utf8_far_inside_the_file(tmp_path: Path) -> None:
    lines = [f'{{"n": {n}, "é": "\u2028 😀"}}\n' for n in range(40_000)]
    content = "".join(lines).encode()
    error = failure(tmp_path, content + b'{"x": "\xff"}\n', "in.jsonl")
    assert (error.where, error.message) == (
        "in.jsonl:40001",
        f"`in.jsonl` is not UTF-8 text: byte 0xff at offset {len(content) + 7:,}",
    )


def test_suggested_encodings_decode_the_file(tmp_path: Path) -> None:
    def hint(content: bytes, **settings: Any) -> str | None:
        return failure(tmp_path, content, **settings).hint

    assert "`encoding: utf-16`" in str(hint("a,b\n1,2\n".encode("utf-16")))
    assert "`encoding: utf-8`" in str(hint("a\né\n".encode(), encoding="ascii"))
    assert "cp1252" not in str(hint("a\nひらがな、\u4e9c\u8a71\n".encode("shift_jis") + b"\x81\x41"))
    assert hint(b"a\n\xff\xff\x81\x8d\n") == "add `encoding:` with the encoding that the file was written in"


def test_utf16_without_its_mark(tmp_path: Path) -> None:
    content = "a,b\n1,é2\n"
    assert str(failure(tmp_path, content.encode(), encoding="utf-16")) == (
        "`in.csv` is not UTF-16 text: UTF-16 stream does not start with BOM\n"
        "  --> in.csv:1\n"
        "hint: if it is written in utf-8, add `encoding: utf-8`"
    )
    for name in ("utf-16-le", "utf-16-be"):
        assert f"`encoding: {name}`" in str(failure(tmp_path, content.encode(name), encoding="utf-16").hint)
        assert fields(read(tmp_path, content.encode(name), encoding=name)) == [{"a": "1", "b": "é2"}]


def test_a_character_cut_off_at_the_end(tmp_path: Path) -> None:
    assert failure(tmp_path, b"a\nx\n\xf0\x9f").where == "in.csv:3"


# --- JSON Lines ------------------------------------------------------------------------------------------------------


def test_jsonl_values_keep_their_types(tmp_path: Path) -> None:
    values = {
        "id": 12345678901234567890123,
        "f": 1.5,
        "b": True,
        "n": None,
        "l": [1, "a", None],
        "o": {"é": []},
        "s": "\0😀\u2028\ud800",
    }
    rows = read(tmp_path, json.dumps(values) + "\r\n\n  \n" + '{"id": "x\u2028y"}', "in.ndjson", id="id")
    assert rows == [
        Item(0, "12345678901234567890123", values, "in.ndjson", 1),
        Item(1, "x\u2028y", {"id": "x\u2028y"}, "in.ndjson", 4),
    ]


def test_jsonl_bad_lines(tmp_path: Path) -> None:
    rows = read(
        tmp_path,
        '\ufeff{"a": 1}\n{"a": \n[1]\n"x"\n3\nnull\ntrue\n'
        + "[" * 100_000
        + "\n"
        + "9" * 5000
        + '\n{"a": 2}\n{"a": "to',
        "in.jsonl",
    )
    assert [(row.line, getattr(row, "reason", None)) for row in rows] == [
        (1, None),
        (2, "not valid JSON: Expecting value at column 6"),
        (3, "expected a JSON object, found a list (if the file is one JSON array, add `format: json`)"),
        (4, "expected a JSON object, found a string"),
        (5, "expected a JSON object, found a number"),
        (6, "expected a JSON object, found null"),
        (7, "expected a JSON object, found true or false"),
        (8, "not usable JSON: nested too deeply (if the file is one JSON array, add `format: json`)"),
        (9, rows[8].reason),
        (10, None),
        (11, "not valid JSON: Unterminated string starting at column 7"),
    ]
    assert rows[8].reason.startswith("not usable JSON: Exceeds the limit")


def test_ids(tmp_path: Path) -> None:
    content = '{"id": "a"}\n{"id": 7}\n{"id": null}\n{}\n{"id": ""}\n{"id": [1, "é"]}\n{"id": 0}\n{"id": false}\n'
    rows = read(tmp_path, content, "in.jsonl", id="id")
    assert [row.id if isinstance(row, Item) else row.reason for row in rows] == [
        "a",
        "7",
        "the id column `id` is empty",
        "the id column `id` is empty",
        "the id column `id` is empty",
        '[1, "é"]',
        "0",
        "false",
    ]
    assert [row.index for row in rows] == list(range(8))
    assert [row.id for row in read(tmp_path, '{"x": 1}\n', "in.jsonl")] == ["0"]


def test_csv_id_column_missing(tmp_path: Path) -> None:
    error = failure(tmp_path, "paper_id,title\n1,2\n", id="paperid")
    assert str(error) == (
        "there is no column `paperid` to take the ids from\n  --> in.csv\nhint: did you mean `paper_id`?"
    )


# --- JSON arrays -----------------------------------------------------------------------------------------------------


def test_json_array(tmp_path: Path) -> None:
    content = '\ufeff\n[\n {"a": 1,\n  "b": "]},{"},\r\n\n 5, [1], {"a": "\\ud800"}\n]\n\n'
    rows = read(tmp_path, content, "in.json")
    assert rows == [
        Item(0, "0", {"a": 1, "b": "]},{"}, "in.json", 3),
        BadRow(1, "in.json", 6, "expected a JSON object, found a number"),
        BadRow(2, "in.json", 6, "expected a JSON object, found a list"),
        Item(3, "3", {"a": "\ud800"}, "in.json", 6),
    ]
    assert read(tmp_path, " [ ] ", "in.json") == []
    assert read(tmp_path, "  \n", "in.json") == []


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 50])
def test_json_array_in_any_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("runner.dataset.json_rows._CHUNK_CHARACTERS", chunk)
    rng = random.Random(chunk)

    def value(depth: int = 0) -> Any:
        choices: list[Any] = [
            True,
            None,
            rng.randint(-(10**20), 10**20),
            rng.random(),
            -1.5e-300,
            'é\\"\n😀 ' * rng.randint(0, 3),
        ]
        if depth < 3:
            choices += [
                [value(depth + 1) for _ in range(rng.randint(0, 3))],
                {"k\n": value(depth + 1), "": value(depth + 1)},
            ]
        return rng.choice(choices)

    values = [{"v": value()} if rng.random() < 0.8 else value() for _ in range(60)]
    for settings in ({}, {"indent": 2}, {"ensure_ascii": False, "separators": (",", ":")}):
        content = json.dumps(values, **settings)
        rows = read(tmp_path, content, "in.json")
        assert len(rows) == len(values)
        assert [row.fields for row in rows] == [each if isinstance(each, dict) else {} for each in values]
    for cut in rng.sample(range(1, len(content)), 40):
        with pytest.raises(InputError):
            read(tmp_path, content[:cut], "in.json")


@pytest.mark.parametrize(
    ("content", "message", "line"),
    [
        ('[\n{"a": 1},\n{"a" 2},\n{"a": 3}]', "not valid JSON: Expecting ':' delimiter", 3),
        ('[\n{"a": 1}\n{"a": 2}]', "expected a comma or a closing bracket, found '{'", 3),
        ('[\n{"a": 1},\n', "the array is cut off: its closing bracket is missing", 3),
        ('[\n{"a": 1}\n', "the array is cut off: its closing bracket is missing", 3),
        ('[\n{"a": 1},\n{"b": "x', "not valid JSON: Unterminated string", 3),
        ('[{"a": 1}]\nx', "there is more text after the end of the array", 2),
        ("[1,]", "not valid JSON: Expecting value", 1),
        ("[" * 100_000, "not usable JSON: nested too deeply", 1),
        ('{"a": 1}', "`in.json` is not a JSON array", 1),
    ],
)
def test_json_array_broken(tmp_path: Path, content: str, message: str, line: int) -> None:
    error = failure(tmp_path, content, "in.json")
    assert (error.message, error.where) == (message, f"in.json:{line}")


def test_json_that_is_json_lines(tmp_path: Path) -> None:
    hint = "it looks like JSON Lines: add `format: jsonl`"
    assert failure(tmp_path, '{"a": 1}\n{"a": 2}\n', "in.json").hint == hint
    assert failure(tmp_path, '{"a": [\n{"a": 2}]}\n', "in.json").hint != hint
    assert len(read(tmp_path, '{"a": 1}\n{"a": 2}\n', "in.json", format="jsonl")) == 2


def test_json_broken_at_the_start_does_not_read_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.dataset.json_rows._CHUNK_CHARACTERS", 1000)
    reads = []
    read_on = json_rows._Array._read
    monkeypatch.setattr(json_rows._Array, "_read", lambda self: (reads.append(1), read_on(self))[1])
    failure(tmp_path, '[{"a" 1},' + '{"a": 1},' * 10_000 + '{"a": 1}]', "in.json")
    assert len(reads) == 1


# --- compression -----------------------------------------------------------------------------------------------------


def pack(name: str, content: bytes) -> bytes:
    half = len(content) // 2
    one = gzip.compress if name.endswith(".gz") else zstandard.ZstdCompressor(write_checksum=True).compress
    return one(content[:half]) + one(content[half:])


CONTENTS = {
    "in.csv": b"id,t\n" + b"".join(b"%d,some text %d\n" % (n, n * 7919) for n in range(20_000)),
    "in.jsonl": b"".join(b'{"id": %d, "t": "text %d"}\n' % (n, n * 7919) for n in range(20_000)),
    "in.json": json.dumps([{"id": n, "t": f"text {n * 7919}"} for n in range(20_000)]).encode(),
}


@pytest.mark.parametrize("packing", [".gz", ".zst", ".GZ"])
@pytest.mark.parametrize("name", list(CONTENTS))
def test_compressed_files(tmp_path: Path, name: str, packing: str) -> None:
    packed = pack(f"{name}{packing.lower()}", CONTENTS[name])
    rows = read(tmp_path, packed, name + packing, id="id")
    assert fields(rows) == fields(read(tmp_path, CONTENTS[name], name, id="id"))
    assert len(rows) == 20_000
    error = failure(tmp_path, packed[: len(packed) * 3 // 4], name + packing)
    assert "cut off" in error.message
    assert error.where == name + packing
    damaged = packed[:2000] + bytes(255 - each for each in packed[2000:2100]) + packed[2100:]
    assert failure(tmp_path, damaged, name + packing).where.split(":")[0] == name + packing
    assert "is not a" in failure(tmp_path, CONTENTS[name], name + packing).message


def test_zstandard_cut_at_every_byte(tmp_path: Path) -> None:
    packed = zstandard.ZstdCompressor(write_checksum=True).compress(b"a\n1\n2\n3\n" * 50)
    for cut in range(1, len(packed)):
        assert "cut off" in failure(tmp_path, packed[:cut], "in.csv.zst").message


def test_zstandard_unpacks_in_small_steps(tmp_path: Path) -> None:
    line = b'{"a": "' + b"x" * 1000 + b'"}\n'
    (tmp_path / "in.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(line * 20_000))
    rows = dataset(tmp_path, "in.jsonl.zst").rows()
    assert next(rows).index == 0
    assert sum(1 for _ in rows) == 19_999


# --- files -----------------------------------------------------------------------------------------------------------


def problem(root: Path, *path: str, **settings: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        dataset(root, *path, **settings)
    return caught.value


def test_several_files_and_globs(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    for name in ("d/b.csv", "d/a.csv", "d/e/c.csv", "z.jsonl"):
        (tmp_path / name).write_text(f'{{"n": "{name}"}}\n' if name == "z.jsonl" else f"n,m\n{name},1\n{name},2\n")
    found = dataset(tmp_path, "z.jsonl", "d/*.csv", "d/**/*.csv")
    assert [path.relative_to(tmp_path).as_posix() for path in found.files] == [
        "z.jsonl",
        "d/a.csv",
        "d/b.csv",
        "d/e/c.csv",
    ]
    rows = list(found.rows())
    assert [row.index for row in rows] == list(range(7))
    assert [row.file for row in rows] == ["z.jsonl", *["d/a.csv"] * 2, *["d/b.csv"] * 2, *["d/e/c.csv"] * 2]
    assert [row.fields["n"] for row in rows] == [row.file for row in rows]


def test_a_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    assert len(read(tmp_path, "a\n1\n", "in[1].csv")) == 1


def test_files_outside_the_root_and_absolute(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "in.csv").write_text("a\n1\n")
    for path in ("../in.csv", str(tmp_path / "in.csv")):
        (row,) = dataset(tmp_path / "root", path).rows()
        assert row.file == str(tmp_path / "in.csv")


def test_missing_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "papers.jsonl").write_text("{}\n")
    assert str(problem(tmp_path, "data/paper.json")) == (
        "there is no file `data/paper.json`\n  --> input.path\nhint: did you mean `data/papers.jsonl`?"
    )
    assert problem(tmp_path, "dat/papers.jsonl").hint == "did you mean `data`?"
    assert problem(tmp_path, "data/*.csv").message == "no file matches `data/*.csv`"
    assert (
        problem(tmp_path, "data/zzz").hint
        == "paths are relative to the project root; in `data` there are `papers.jsonl`"
    )
    folder = problem(tmp_path, "data")
    assert (folder.message, folder.hint) == ("`data` is a folder", "name its files, for instance `data/*.jsonl`")
    name = "x" * 300 + ".jsonl"
    long = problem(tmp_path, name)
    assert long.message == f"`{name}` cannot be looked for: File name too long"
    (tmp_path / "notes.txt").write_text("x")
    unknown = problem(tmp_path, "notes.txt")
    assert unknown.message == "the name `notes.txt` does not tell what kind of file it is"
    assert unknown.hint == "add `format:` with one of csv, tsv, jsonl, json, parquet"
    os.mkfifo(tmp_path / "pipe.csv")
    assert problem(tmp_path, "pipe.csv").message == "`pipe.csv` is not a regular file"
    assert problem(tmp_path, "data/papers.jsonl", columns=("a",)).message == (
        "`columns` is for CSV files, and `data/papers.jsonl` is read as jsonl"
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "in.csv").touch(mode=0o000)
    assert problem(tmp_path, "in.csv").message == "`in.csv` cannot be read: Permission denied"


def test_a_file_that_goes_away_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a\n1\n")
    opened = dataset(tmp_path)
    (tmp_path / "in.csv").unlink()
    with pytest.raises(InputError) as caught:
        list(opened.rows())
    assert caught.value.message == "`in.csv` cannot be read: No such file or directory"


# --- the stream ------------------------------------------------------------------------------------------------------


def test_offset_and_limit(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("x\n" + "".join(f"{name}{n}\n" for n in range(5)))

    def got(**settings: Any) -> list[tuple[int, str]]:
        return [(row.index, row.fields["x"]) for row in dataset(tmp_path, "?.csv", **settings).rows()]

    whole = [(n, f"{'ab'[n // 5]}{n % 5}") for n in range(10)]
    for offset in range(12):
        assert got(offset=offset) == whole[offset:]
        for limit in range(12):
            assert got(offset=offset, limit=limit) == whole[offset : offset + limit]


def test_rows_are_read_as_they_are_asked_for_and_the_file_is_closed(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"a\n" + b"x\n" * 1_000_000 + b"\xff")
    rows = dataset(tmp_path).rows()
    assert next(rows).line == 2
    rows.close()
    folder = Path("/proc/self/fd")
    if folder.exists():
        assert not [link for link in folder.iterdir() if link.exists() and link.resolve() == tmp_path / "in.csv"]
    assert len(list(dataset(tmp_path, limit=3).rows())) == 3


# Some rows of many ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet", "csv.gz"])
def test_rows_that_are_picked_are_those_of_the_whole_input(tmp_path: Path, kind: str) -> None:
    draws = random.Random(kind)
    values = [{"id": f"r{number}", "text": f"a\nb {number}" if number % 7 == 0 else "x"} for number in range(3_000)]
    for number, some in enumerate((values[:2_500], [], values[2_500:])):
        path = tmp_path / f"in-{number}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(some, pa.schema({"id": pa.string(), "text": pa.string()})), path)
            continue
        text = io.StringIO(newline="")
        if kind == "json":
            json.dump(some, text)
        elif kind == "jsonl":
            text.writelines(json.dumps(row) + "\n\n" * draws.randrange(1, 3) for row in some)
        else:
            table = csv.writer(text, lineterminator="\n")
            table.writerow(["id", "text"])
            for row in some:
                table.writerow(row.values())
                text.write("\n" * draws.randrange(2))
        content = text.getvalue().encode()
        path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    whole = dataset(tmp_path, f"in-*.{kind}", id="id")
    rows = list(whole.rows())
    assert [row.fields for row in rows] == values
    for wanted in ([], [0], [2_999], [0, 1, 2_499, 2_500], sorted(draws.sample(range(3_000), 500)), list(range(3_000))):
        found = list(whole.picked(iter(wanted)))
        expected = [replace(rows[position], index=place) for place, position in enumerate(wanted)]
        assert [row for row in found if row is not None] == expected
        assert found.count(None) <= 3
    assert found.count(None) == 0
    assert next(whole.picked(iter([2_999]))) is None, "others have their turn"
