"""The journal: whole lines or none, whatever happens."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner import journal
from runner.errors import FatalError
from runner.journal import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = Journal(tmp_path / "journal-00000.jsonl")
    for index in (3, 1, 2):
        made.add({"_index": index, "text": f"line {index}, \ud800 é \u2028"})
    made.close()
    return made.path


def indexes(path: Path) -> list[int]:
    return [row["_index"] for rows in journal.read(path) for row in rows]


def test_rows_come_back_in_order_and_as_they_were(path: Path) -> None:
    [rows] = journal.read(path)
    assert rows == [{"_index": index, "text": f"line {index}, \ud800 é \u2028"} for index in (1, 2, 3)]
    assert [batch[0]["_index"] for batch in journal.read(path, batch_bytes=1)] == [1, 2, 3]


VALUES = [
    2**64, -(2**63) - 1, 10**40, 1, 1.0, -0.0, 0.1 + 0.2, 5e-324, 1e300, float("inf"), float("-inf"), True, None,
    "null", "\ud800", "a\udfff\ud83d", "\U0001f388", "\x00\x7f\u2028\n\r\\\"", "", [None, [1.0, "\ud800"]],
    {"b": None, "a": {"": []}},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_any_value_comes_back_as_it_was(tmp_path: Path, value: Any) -> None:
    made = Journal(tmp_path / "journal-00000.jsonl")
    row = {"_index": 0, "value": value, "list": [value], "inside": {"value": value}}
    made.add(row)
    made.close()
    assert made.path.read_bytes().count(b"\n") == 1, "a line each"
    [[found]] = journal.read(made.path)
    assert repr(found) == repr(row), "1.0 is not 1, and the columns keep their order"
    assert [repr(each) for _, each in journal.standing(made.path)] == [repr(row)]


def test_what_is_not_a_number_stays_that(tmp_path: Path) -> None:
    made = Journal(tmp_path / "journal-00000.jsonl")
    made.add({"_index": 0, "value": float("nan"), "list": [float("nan")]})
    made.close()
    [[found]] = journal.read(made.path)
    assert repr(found) == "{'_index': 0, 'value': nan, 'list': [nan]}"


def test_people_can_read_it(tmp_path: Path) -> None:
    made = Journal(tmp_path / "journal-00000.jsonl")
    made.add({"_index": 0, "title": "Über π"})
    made.close()
    assert made.path.read_text(encoding="utf-8") == '{"_index":0,"title":"Über π"}\n'


def test_a_journal_that_holds_ascii_only_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "journal-00000.jsonl"
    rows = [{"_index": index, "value": value} for index, value in enumerate(VALUES)]
    path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows), encoding="ascii")
    assert repr([row for batch in journal.read(path) for row in batch]) == repr(rows)
    assert journal.repair(path) == {(index, 0) for index in range(len(VALUES))}


def test_a_large_journal_is_read_row_by_row(path: Path) -> None:
    assert list(journal.read(path, whole_bytes=10)) == list(journal.read(path))


def test_a_journal_whose_file_was_closed_meanwhile_is_written_and_synced_like_any_other(path: Path) -> None:
    made = Journal(path)
    made.release()
    made.add({"_index": 4})
    made.write()
    made.release()
    made.add({"_index": 5})
    made.write()
    made.release()
    made.sync()
    assert indexes(path) == [1, 2, 3, 4, 5]
    made.add({"_index": 6})
    made.write()
    made.release()
    path.unlink()
    with pytest.raises(FileNotFoundError):
        made.sync()


def test_of_two_lines_of_one_row_the_later_counts(path: Path) -> None:
    again = Journal(path)
    again.add({"_index": 1, "text": "later"})
    again.close()
    [rows] = journal.read(path)
    assert [row["text"] for row in rows if row["_index"] == 1] == ["later"]


def test_a_last_line_torn_at_any_byte_is_cut_off(path: Path) -> None:
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole)):
        path.write_bytes(whole[:end])
        assert indexes(path) == [1, 3], "who only reads passes it over"
        assert journal.repair(path) == {(1, 0), (3, 0)}
        assert path.read_bytes() == whole[:last]
        again = Journal(path)
        again.add({"_index": 2})
        again.close()
        assert indexes(path) == [1, 2, 3]
    path.write_bytes(whole)
    assert journal.repair(path) == {(1, 0), (2, 0), (3, 0)}
    assert path.read_bytes() == whole


@pytest.mark.parametrize("garbage", [b"\0\0\0\0", b'{"_index":', b"5", b"[]", b'{"other": 1}', b"\xff\xfe", b""])
def test_a_damaged_line_in_the_middle_is_named_and_kept(path: Path, garbage: bytes) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + garbage + b"\n" + lines[1] + lines[2])
    before = path.read_bytes()
    with pytest.raises(FatalError) as caught:
        journal.repair(path)
    assert caught.value.kind == "damaged_journal"
    assert caught.value.where == f"{path}:2"
    assert path.read_bytes() == before
    assert re.search("delete the line and resume", caught.value.hint or "")
    path.write_bytes(lines[0] + lines[1] + lines[2])  # as the hint says
    assert journal.repair(path) == {(1, 0), (2, 0), (3, 0)}


def test_a_line_that_does_not_fit_is_taken_back_whole(tmp_path: Path) -> None:
    """A file size limit cuts a write short, as a full disk does."""
    path = tmp_path / "journal-00000.jsonl"
    program = (
        "import sys; from pathlib import Path; from runner.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for index in range(100):\n"
        "    try: journal.add({'_index': index, 'text': 'x' * 77}); journal.write()\n"
        "    except OSError as error: print(index, error.strerror); break\n"
    )
    limit = 1000
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    index, reason = done.stdout.strip().split(maxsplit=1)
    assert reason == "File too large"
    assert indexes(path) == list(range(int(index)))
    assert path.read_bytes().endswith(b"}\n")
