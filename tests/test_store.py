"""The store: each row once, sealed parts, and a disk that fails."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from project import until
from stored import NOW_US, OUTPUT, failed, finish, items, names, ok, store, table

from runner import parts
from runner.errors import FatalError
from runner.records import BadRow, Item
from runner.summary import summarize


def test_parts_cover_fixed_ranges_and_say_what_they_are(tmp_path: Path) -> None:
    assert finish(tmp_path, 10, "first") == list(range(10))
    assert [pq.read_metadata(part).num_rows for part in sorted(tmp_path.glob("part-*"))] == [4, 4, 2]
    about = parts.about(tmp_path / "part-00002.parquet")
    assert (about["run"], about["rows"], about["failed"]) == ("a-run", 2, 0)
    assert about["timing"]["latency_p50_s"] == pytest.approx(0.1, rel=0.01)
    assert pq.read_schema(tmp_path / "part-00000.parquet").remove_metadata() == OUTPUT.schema


def test_a_straggler_holds_back_only_its_own_part(tmp_path: Path) -> None:
    with store(tmp_path) as opened:
        for item in opened.missing(items(12)):
            assert item is not None
            if item.index == 5:
                straggler = item
            else:
                opened.append(ok(item))
        expected = ["journal-00001.jsonl", "part-00000.parquet", "part-00002.parquet"]
        until(lambda: sorted(path.name for path in tmp_path.glob("[jp]*")) == expected)
        opened.append(ok(straggler))
    assert [row["_index"] for row in table(tmp_path)] == list(range(12))


def test_answers_in_any_order_over_many_open_parts_need_few_open_files(tmp_path: Path) -> None:
    rows, most = 400, 0  # in 100 parts
    files = Path("/proc/self/fd")
    before = len(list(files.iterdir()))
    with store(tmp_path) as opened:
        waiting = [item for item in opened.missing(items(rows)) if item is not None]
        random.Random(1).shuffle(waiting)
        for done, item in enumerate(waiting, 1):
            opened.append(ok(item))
            if done % 50 == 0:
                opened.sync()
                most = max(most, len(list(files.iterdir())) - before)
    assert 30 < most < 40
    assert [row["_index"] for row in table(tmp_path)] == list(range(rows))
    assert len(names(tmp_path)) == 100


def test_results_are_kept_that_come_while_another_thread_writes(tmp_path: Path) -> None:
    rows, over = 3_000, threading.Event()
    appended: list[Callable[[], None]] = []

    def look() -> int:
        looks = 0
        while not over.is_set():
            opened.lacking([])  # as a batch is collected while live answers come
            looks += 1
        return looks

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor() as beside, store(tmp_path, rows_per_part=rows, soon=appended.append) as opened:
            looking = beside.submit(look)
            try:
                for item in opened.missing(items(rows)):
                    assert item is not None
                    opened.append(ok(item))
                    time.sleep(0)  # the other has a turn
            finally:
                over.set()
            assert looking.result() > 0
    finally:
        sys.setswitchinterval(interval)
    assert [row["_index"] for row in table(tmp_path)] == list(range(rows))


def test_a_row_has_one_result_and_a_part_is_not_sealed_before_all_have_one(tmp_path: Path) -> None:
    rows = [item for item in items(8) if isinstance(item, Item)]
    with store(tmp_path) as opened:
        assert opened.append(ok(rows[0], "a batch"))  # of an earlier session
        for item in opened.missing(iter(rows)):
            if item is not None and item.index != 3:
                assert opened.append(ok(item))
        assert not opened.append(ok(rows[0], "a twin"))
        assert not opened.append(ok(rows[1], "a twin"))
        assert names(tmp_path)[0] != "part-00000.parquet"
        assert opened.append(ok(rows[3]))
        assert not opened.append(ok(rows[5], "a twin")), "its part is sealed, or will be"
    assert [(row["_index"], row["_raw"]) for row in table(tmp_path)] == [
        (index, "first" if index else "a batch") for index in range(8)
    ]
    assert not list(tmp_path.glob("journal-*"))


def test_a_sync_does_not_wait_until_all_that_is_complete_is_sealed(tmp_path: Path) -> None:
    with store(tmp_path) as opened:
        for item in opened.missing(items(800)):
            assert item is not None
            opened.append(ok(item))
        opened.sync()
        assert len(list(tmp_path.glob("journal-*"))) > 50
    assert len(names(tmp_path)) == 200


def test_no_part_is_sealed_while_answers_have_to_be_stored_in_a_hurry(tmp_path: Path) -> None:
    with store(tmp_path) as opened:
        with opened.hurry():
            for item in opened.missing(items(12)):
                assert item is not None
                opened.append(ok(item))
            opened.sync()  # which shares a thread with sealing, does not wait for its end
            time.sleep(0.05)
            assert sorted(path.name[:7] for path in tmp_path.glob("[jp]*")) == ["journal"] * 3
        until(lambda: sorted(path.name[:4] for path in tmp_path.glob("[jp]*")) == ["part"] * 3)
    assert [row["_index"] for row in table(tmp_path)] == list(range(12))


def test_an_input_without_rows_gives_one_part_without_rows(tmp_path: Path) -> None:
    for _ in range(2):  # a run that was killed before it noted its end makes no second one
        with store(tmp_path) as opened:
            assert list(opened.missing([])) == []
        assert names(tmp_path) == ["part-00000.parquet"]
        assert pq.read_schema(tmp_path / "part-00000.parquet").remove_metadata() == OUTPUT.schema
        assert parts.about(tmp_path / "part-00000.parquet")["rows"] == 0
    assert json.loads(json.dumps(summarize(tmp_path, OUTPUT.schema, 0.0)))["rows"] == 0


def test_a_part_is_never_replaced_by_one_without_rows(tmp_path: Path) -> None:
    finish(tmp_path, 4, "first")
    for retry in (False, True):
        with store(tmp_path, retry=retry) as opened:
            assert list(opened.missing([])) == []
    assert len(table(tmp_path)) == 4


def test_rows_that_were_left_out_are_no_rows(tmp_path: Path) -> None:
    def some() -> list[Item | BadRow]:
        return [item for item in items(12) if item.index in (0, 3, 9)]

    with store(tmp_path) as opened:
        for item in opened.missing(some()):
            assert item is not None
            opened.append(ok(item))
    assert names(tmp_path) == ["part-00000.parquet", "part-00002.parquet"]
    with store(tmp_path) as opened:
        assert opened.found == 3
        assert list(opened.missing(some())) == []


def test_a_retry_gives_out_failed_rows_but_not_bad_input(tmp_path: Path) -> None:
    with store(tmp_path) as opened:
        for item in opened.missing(items(4)):
            assert item is not None
            kinds = {1: "server_error", 2: "bad_row"}
            opened.append(failed(item, kinds[item.index]) if item.index in kinds else ok(item))
    assert finish(tmp_path, 4, "again", retry=True) == [1]
    assert [row["_raw"] for row in table(tmp_path)] == ["first", "again", "first", "first"]


def test_an_unfinished_retry_is_merged_when_it_ends(tmp_path: Path) -> None:
    with store(tmp_path) as opened:
        for item in opened.missing(items(8)):
            assert item is not None
            opened.append(failed(item))
    assert finish(tmp_path, 8, "again", retry=True, only=[1, 2]) == list(range(8))
    assert [row["_raw"] == "again" for row in table(tmp_path)] == [i in (1, 2) for i in range(8)]
    assert names(tmp_path) == ["part-00000.parquet", "part-00001.parquet"]


def test_the_journal_beside_a_damaged_part_is_kept(tmp_path: Path) -> None:
    finish(tmp_path, 4, "first", only=range(3))
    (tmp_path / "part-00000.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(FatalError, match="this part cannot be read") as caught:
        store(tmp_path)
    assert caught.value.where == str(tmp_path / "part-00000.parquet")
    (tmp_path / "part-00000.parquet").unlink()  # as the hint says
    assert finish(tmp_path, 4, "second") == [3]


def test_a_part_damaged_inside_is_named(tmp_path: Path) -> None:
    finish(tmp_path, 4, "first")
    path = tmp_path / "part-00000.parquet"
    content = bytearray(path.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    content[4:footer] = b"\xff" * (footer - 4)
    path.write_bytes(content)
    with pytest.raises(FatalError, match="this part cannot be read"):
        list(parts.tables(path, 10, OUTPUT.schema))
    with pytest.raises(FatalError, match="this part cannot be read"):
        summarize(tmp_path, OUTPUT.schema, 1.0)


def test_a_journal_beside_its_part_is_not_counted_twice(tmp_path: Path) -> None:
    finish(tmp_path, 6, "first", only=range(5))
    beside = (tmp_path / "journal-00001.jsonl").read_bytes()
    (tmp_path / "journal-00000.jsonl").write_bytes(beside)
    (tmp_path / "journal-00001.jsonl").write_bytes(beside + b'{"_index":5,')
    assert summarize(tmp_path, OUTPUT.schema, 1.0)["rows"] == 5


def test_a_seal_that_fails_is_a_failure_and_keeps_the_journal(tmp_path: Path) -> None:
    with store(tmp_path) as opened:
        for item in opened.missing(items(4)):
            assert item is not None
            opened.append(ok(item))
            (tmp_path / "part-00000.parquet.tmp").mkdir(exist_ok=True)  # nothing can be written there
    assert opened.failure is not None
    assert opened.failure.kind == "disk"
    (tmp_path / "part-00000.parquet.tmp").rmdir()
    assert finish(tmp_path, 4, "second") == []
    assert [row["_raw"] for row in table(tmp_path)] == ["first"] * 4


def test_a_bug_while_sealing_does_not_pass_unseen(tmp_path: Path) -> None:
    opened = store(tmp_path)
    for item in opened.missing(items(4)):
        assert item is not None
        result = ok(item)
        result.error_type, result.error = "a kind", 5  # type: ignore[assignment] - no text, so it fits no column
        opened.append(result)
    with pytest.raises(TypeError):
        opened.close()
    assert names(tmp_path) == ["journal-00000.jsonl"]


def test_tokens_of_the_cache_are_summed_in_rows_that_were_retried_and_in_the_summary(tmp_path: Path) -> None:
    for retry, (cached, written) in ((False, (0, 8)), (True, (8, 1))):
        with store(tmp_path, retry=retry) as opened:
            for item in opened.missing(items(1)):
                assert item is not None
                result = ok(item, "again") if retry else failed(item)
                result.input_tokens, result.cached_tokens, result.cache_write_tokens = 10, cached, written
                result.finished_at = NOW_US + retry
                opened.append(result)
    [row] = table(tmp_path)
    assert (row["_input_tokens"], row["_cached_tokens"], row["_cache_write_tokens"]) == (20, 8, 9)
    tokens = summarize(tmp_path, OUTPUT.schema, 1.0)["tokens"]
    assert tokens == {"input": 20, "cached": 8, "cache_write": 9, "output": 0}
