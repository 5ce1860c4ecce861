"""The answers of earlier runs: which are found, whatever happens to the runs and to the index."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from project import Project

from runner.answer_index import keys
from runner.earlier import NAME, Earlier, EarlierAnswer
from runner.journal import Journal

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("text", "_model", "_status", "_finish_reason", "_raw", "_request_id")),
        ("_finished_at", pa.timestamp("us", tz="UTC")),
        *((f"_{kind}_tokens", pa.int64()) for kind in ("input", "cached", "output", "reasoning")),
        ("_cost_usd", pa.float64()),
        *((name, pa.string()) for name in ("_endpoint", "_fingerprint")),
    ]
)
WITH_COPIES = SCHEMA.append(pa.field("_reused_from", pa.string()))


def fingerprint(name: object) -> str:
    return blake2b(str(name).encode(), digest_size=16).hexdigest()


def row(name: object, raw: str, at: int = 1, **columns: Any) -> dict[str, Any]:
    return {"_fingerprint": fingerprint(name), "_status": "ok", "_raw": raw, "_finished_at": at, **columns}


def copy(name: object, raw: str, origin: str, at: int = 1) -> dict[str, Any]:
    return row(name, raw, at, _reused_from=origin)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "job").mkdir()
    return tmp_path / "job"


def run(base: Path, name: str) -> Path:
    folder = base / name
    folder.mkdir(exist_ok=True)
    (folder / "run.json").touch()
    return folder


def part(base: Path, name: str, number: int, rows: Iterable[dict[str, Any]], schema: pa.Schema = WITH_COPIES) -> Path:
    """Seal a part in groups of three rows."""
    path = run(base, name) / f"part-{number:05d}.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows), schema), path, row_group_size=3)
    return path


def journal(base: Path, name: str, file: str, rows: Iterable[dict[str, Any]]) -> Path:
    made = Journal(run(base, name) / file)
    for index, each in enumerate(rows):
        made.add({"_index": index, **each})
    made.close()
    return made.path


def answers(base: Path, names: Sequence[object], **options: Any) -> list[EarlierAnswer | None]:
    with Earlier(base, **options) as earlier:
        assert earlier.update() == []
        return earlier.answers([fingerprint(name) for name in names])


def raws(base: Path, names: Sequence[object], **options: Any) -> list[str | None]:
    return [None if answer is None else answer.raw for answer in answers(base, names, **options)]


# What is found --------------------------------------------------------------------------------------------------------


def test_an_answer_comes_with_all_that_is_known_of_it(base: Path) -> None:
    about = {
        "_model": "m",
        "_endpoint": "e",
        "_finish_reason": "stop",
        "_cost_usd": 0.5,
        "_request_id": "r",
    }
    expected = EarlierAnswer("one", "one", 3, "m", "e", "stop", '{"label": "a"}', 7, 0.5, "r")
    path = part(base, "one", 3, [row("b", "other"), row("a", '{"label": "a"}', 7, **about)], SCHEMA)
    assert answers(base, ["a", "nobody asked"]) == [expected, None]
    path.unlink()
    journal(base, "one", "journal-00003.jsonl", [row("b", "other"), row("a", '{"label": "a"}', 7, **about)])
    assert answers(base, ["nobody asked", "a"]) == [None, expected]


def test_the_newest_answer_counts_and_failures_do_not(base: Path) -> None:
    part(base, "one", 0, [row("a", "old", 1), row("b", "late retry", 9), row("c", "kept", 1)])
    part(base, "two", 0, [row("a", "new", 5), row("b", "old", 5), row("c", "", 6, _status="error")])
    part(base, "two", 1, [row("a", "between", 3), row("d", "", 3, _status="error", _fingerprint=None)])
    assert raws(base, "abcd") == ["new", "late retry", "kept", None]
    assert answers(base, [], shared=False) == []


def test_rows_are_found_in_any_order_and_across_row_groups(base: Path) -> None:
    for number in range(5):
        part(base, "one", number, [row(number * 10 + each, f"raw {number * 10 + each}") for each in range(10)])
    wanted = [each % 60 for each in random.Random(5).choices(range(1000), k=300)]
    assert raws(base, wanted) == [f"raw {each}" if each < 50 else None for each in wanted]


def test_the_answers_of_the_run_itself_do_not_count(base: Path) -> None:
    part(base, "one", 0, [row("a", "one")])
    part(base, "two", 0, [row("b", "two")])
    for _ in range(2):  # also where the index knows of them
        assert raws(base, "ab", but="two") == ["one", None]
        assert raws(base, "ab") == ["one", "two"]
    (base / "latest").symlink_to("two")
    assert raws(base, "ab", but="two") == ["one", None]


def test_open_parts_of_killed_runs_count(base: Path) -> None:
    path = journal(base, "one", "journal-00001.jsonl", [row("a", "a"), row("b", "b", _status="error"), row("c", "c")])
    with path.open("ab") as file:
        file.write(b'{"_index":7, "damaged\n')
        file.write(b'{"_index":9,"_status":"ok","_raw":"torn')
    part(base, "two", 0, [row("d", "", _status="error")])
    journal(base, "two", "retry-00000.jsonl", [row("d", "d \ud800")])
    assert raws(base, "abcd") == ["a", None, "c", "d \ud800"]
    Journal(path).close()
    with path.open("r+b") as file:  # as resuming does
        file.truncate(path.read_bytes().index(b'{"_index":7'))
    journal(base, "one", "journal-00001.jsonl", [row("b", "b")])
    assert raws(base, "abcd") == ["a", "b", "c", "d \ud800"]
    path.unlink()
    part(base, "one", 1, [row(name, f"{name} sealed") for name in "abc"])
    assert raws(base, "abc") == ["a sealed", "b sealed", "c sealed"]


def test_a_copy_counts_where_what_it_was_copied_from_is_gone(base: Path) -> None:
    """A row that was not paid for is as good an answer as the one that was; but it is the older run that is named."""
    part(base, "one", 0, [row("a", "paid", 1)])
    part(base, "two", 0, [copy("a", "copied", "one", 2), row("b", "b", 2)])
    journal(base, "three", "journal-00000.jsonl", [copy("a", "copied", "one", 3)])
    [found] = answers(base, "a")
    assert found is not None
    assert (found.run, found.kept_by, found.raw) == ("one", "one", "paid")
    shutil.rmtree(base / "one")
    [found] = answers(base, "a")
    assert found is not None
    assert (found.run, found.kept_by, found.raw) == ("one", "three", "copied")
    part(base, "four", 0, [row("a", "paid again", 1)])
    assert raws(base, "a") == ["paid again"]


# Keeping up with the runs ---------------------------------------------------------------------------------------------


def test_only_what_is_new_is_read(base: Path) -> None:
    def read(**options: Any) -> list[tuple[int, int]]:
        told: list[tuple[int, int]] = []
        with Earlier(base, **options) as earlier:
            earlier.update(lambda done, total: told.append((done, total)))
        return told

    assert read() == []
    for number in range(3):
        part(base, "one", number, [row(number, "a")])
    assert read(shared=False) == read() == [(1, 3), (2, 3), (3, 3)]
    assert read() == read(shared=False) == []
    part(base, "two", 0, [row("x", "a")])
    path = part(base, "one", 1, [row(1, "a"), row(2, "mended", 5)])
    os.utime(path, ns=(1, 1))
    assert read() == [(1, 2), (2, 2)]
    assert raws(base, [0, 1, 2, "x"]) == ["a", "a", "mended", "a"]


def test_an_older_answer_comes_back_when_the_newer_run_is_deleted(base: Path) -> None:
    part(base, "one", 0, [row("a", "old", 1), row("b", "b", 1)])
    part(base, "two", 0, [row("a", "new", 2), row("c", "c", 2)])
    assert raws(base, "abc") == ["new", "b", "c"]
    shutil.rmtree(base / "two")
    assert raws(base, "abc") == ["old", "b", None]
    shutil.rmtree(base / "one")
    assert raws(base, "abc") == [None, None, None]


def test_a_run_that_is_deleted_while_another_one_works_is_passed_over(base: Path) -> None:
    part(base, "one", 0, [row("a", "a")])
    journal(base, "one", "journal-00001.jsonl", [row("b", "b")])
    part(base, "two", 0, [row("c", "c")])
    with Earlier(base) as earlier:
        earlier.update()
        shutil.rmtree(base / "one")
        found = earlier.answers([fingerprint(name) for name in "abc"])
    assert [answer and answer.raw for answer in found] == [None, None, "c"]


def test_a_part_that_changes_under_way_gives_no_wrong_answer(base: Path) -> None:
    part(base, "one", 0, [row(name, name) for name in "abcdefgh"])
    with Earlier(base) as earlier:
        earlier.update()
        part(base, "one", 0, [row(name, name) for name in "acb"])
        found = earlier.answers([fingerprint(name) for name in "abcdefgh"])
    assert [answer and answer.raw for answer in found] == ["a", *[None] * 7]


def test_a_damaged_part_is_told_of_and_hides_nothing_else(base: Path) -> None:
    part(base, "one", 0, [row("a", "a")])
    damaged = part(base, "one", 1, [row("b", "b")])
    damaged.write_bytes(damaged.read_bytes()[:-20])
    part(base, "two", 0, [row("c", "c", _fingerprint="no hexadecimal digits")])
    for _ in range(2):
        with Earlier(base) as earlier:
            first, second = earlier.update()
            found = earlier.answers([fingerprint(name) for name in "abc"])
        assert first.startswith(f"{damaged}: this part cannot be read: ")
        assert first.endswith("; its answers are not found")
        assert second.startswith(f"{base / 'two' / 'part-00000.parquet'}: ")
        assert [answer and answer.raw for answer in found] == ["a", None, None]


def test_whatever_happens_to_the_runs_the_index_is_as_if_made_anew(base: Path) -> None:
    draws = random.Random(11)
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    names = range(40)
    for step in range(40):
        name = f"run-{step:02d}" if not runs or draws.random() < 0.4 else draws.choice(list(runs))
        files = runs.setdefault(name, {})
        kind = draws.choice(["part", "part", "journal", "retry", "seal", "delete"])
        rows = [row(each, f"{each} by {step}", draws.randrange(100)) for each in draws.sample(names, 4)]
        rows += [copy(each, f"{each} copied by {step}", "gone", step) for each in draws.sample(names, 4)]
        rows.append(row(draws.choice(names), "", 200, _status="error"))
        if kind == "part":
            files[f"part-{len(files):05d}.parquet"] = rows
        elif kind in ("journal", "retry"):
            files[f"{kind}-{len(files):05d}.jsonl"] = rows
        elif kind == "seal":
            for file in [file for file in files if file.startswith("journal")]:
                files[file.replace("journal", "part").replace("jsonl", "parquet")] = files.pop(file)
        else:
            runs.pop(name)
            shutil.rmtree(base / name, ignore_errors=True)
        _write(base, runs)
        expected: dict[int, tuple[int, int, str]] = {}
        for files in runs.values():
            for each in [each for rows in files.values() for each in rows if each["_status"] == "ok"]:
                number, rank = int(each["_raw"].split()[0]), (not each.get("_reused_from"), each["_finished_at"])
                expected[number] = max(expected.get(number, (False, -1, "")), (*rank, each["_raw"]))
        for options in ({}, {"shared": False}):
            found = answers(base, names, **options)
            for number, answer in zip(names, found, strict=True):
                if number not in expected:
                    assert answer is None
                    continue
                assert answer is not None
                paid, at, _ = expected[number]
                assert (not answer.raw or "copied" not in answer.raw, answer.finished_at) == (paid, at)


def _write(base: Path, runs: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    """Make the files of the runs what they should be; those that are stay untouched."""
    for name, files in runs.items():
        run(base, name)
        for path in (base / name).glob("*-*"):
            if path.name not in files:
                path.unlink()
        for file, rows in files.items():
            if not (base / name / file).exists():
                if file.startswith("part"):
                    part(base, name, int(file[5:10]), rows)
                else:
                    journal(base, name, file, rows)


# The index is only a cache --------------------------------------------------------------------------------------------


@pytest.fixture
def filled(base: Path) -> Path:
    """A job's folder with 40 answers, found before."""
    for number in range(4):
        part(base, "one", number, [row(number * 10 + each, f"raw {number * 10 + each}") for each in range(10)])
    assert raws(base, range(41)) == EXPECTED
    return base


EXPECTED = [*(f"raw {number}" for number in range(40)), None]


def test_the_index_may_be_damaged_or_deleted_at_any_time(filled: Path) -> None:
    index = filled / NAME
    whole = index.read_bytes()
    for content in (b"", b"no database", whole[: len(whole) // 2], whole[:-1], whole[:100] + bytes(len(whole) - 100)):
        index.write_bytes(content)
        assert raws(filled, range(41), shared=False) == EXPECTED
        assert raws(filled, range(41)) == EXPECTED
        assert index.read_bytes()[:15] == b"SQLite format 3", "it is mended"
    index.unlink()
    assert raws(filled, range(41)) == EXPECTED
    with sqlite3.connect(index) as other:
        other.execute("PRAGMA user_version = 77")
    other.close()
    assert raws(filled, range(41)) == EXPECTED


def test_bytes_that_change_in_the_index_make_no_wrong_answer(filled: Path) -> None:
    index = filled / NAME
    whole = index.read_bytes()
    draws = random.Random(7)
    used = [at for at, byte in enumerate(whole) if byte]
    for turn in range(60):
        content = bytearray(whole)
        for _ in range(draws.randrange(1, 4)):
            content[draws.choice(used)] = draws.randrange(256)
        index.write_bytes(content)
        found = raws(filled, range(41), shared=bool(turn % 2))
        assert all(raw in (None, expected) for raw, expected in zip(found, EXPECTED, strict=True))


def test_an_index_that_is_damaged_while_it_is_used_is_made_anew(filled: Path) -> None:
    with Earlier(filled) as earlier:
        earlier.update()
        with (filled / NAME).open("r+b") as file:
            file.write(b"x" * (filled / NAME).stat().st_size)
        with sqlite3.connect(filled / "other") as other:  # what has been read is not read again
            other.execute("CREATE TABLE t (x)")
        found = earlier.answers([fingerprint(number) for number in range(41)])
        assert [answer and answer.raw for answer in found] == EXPECTED


def test_where_no_index_can_be_kept_there_is_one_all_the_same(filled: Path) -> None:
    (filled / NAME).unlink()
    (filled / NAME).mkdir()
    assert raws(filled, range(41)) == EXPECTED


def test_readers_neither_wait_for_a_writer_nor_write(filled: Path) -> None:
    whole = (filled / NAME).read_bytes()
    part(filled, "two", 0, [row("new", "new")])
    assert raws(filled, [3, "new"], shared=False) == ["raw 3", "new"]
    assert (filled / NAME).read_bytes() == whole
    writer = sqlite3.connect(filled / NAME, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM answer")
    assert raws(filled, [3, "new"], shared=False) == ["raw 3", "new"]
    writer.execute("ROLLBACK")
    writer.close()
    assert (filled / NAME).read_bytes() == whole
    (filled / NAME).unlink()
    assert raws(filled, [3, "new"], shared=False) == ["raw 3", "new"]
    assert not (filled / NAME).exists()


def test_a_key_is_half_a_fingerprint(filled: Path) -> None:
    assert keys(["01" + "00" * 7 + "ff" * 8, "ff" * 8 + "00" * 8]) == (1, -1)
    for wrong in ("", "0" * 31, "g" * 32, " " * 32):
        with pytest.raises(ValueError, match=r"hexadecimal|fromhex"):
            keys([wrong])
    half = fingerprint(3)[:16]
    with Earlier(filled) as earlier:
        earlier.update()
        assert earlier.answers([half + "0" * 16]) == [None], "another request with the same key"


# With real runs -------------------------------------------------------------------------------------------------------


def test_the_answers_of_real_runs_are_found(project: Callable[..., Project]) -> None:
    here = project(rows=23, output={"rows_per_part": 10})
    here.work()
    table = here.table()
    with Earlier(here.latest.parent) as earlier:
        assert earlier.update() == []
        found = earlier.answers(table.column("_fingerprint").to_pylist())
    for answer, stored in zip(found, table.to_pylist(), strict=True):
        assert answer is not None
        assert answer.part == stored["_index"] // 10
        assert answer.run == here.latest.name
        for name in ("model", "endpoint", "raw", "finish_reason", "cost_usd", "request_id"):
            assert getattr(answer, name) == stored[f"_{name}"]
        assert answer.finished_at == stored["_finished_at"].timestamp() * 1e6
