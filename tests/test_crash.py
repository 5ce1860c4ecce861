"""Crash at every single file operation of storing, sealing and merging: nothing is lost, nothing doubled."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stored import failed, finish, items, names, ok, store, table

ROWS = 10  # parts of 4, 4 and 2 rows
OPERATIONS = frozenset({"open", "os.rename", "os.remove", "os.truncate"})


class Crash(BaseException):
    """The process is dead: from here on it touches no file any more."""


class CrashPoint:
    """Lets so many file operations in a folder happen, and not one more. Python's audit events tell of them."""

    def __init__(self) -> None:
        self.folder = ""
        self.left: int | None = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.left is None or event not in OPERATIONS or not str(arguments[0]).startswith(self.folder):
            return
        if self.left <= 0:
            raise Crash
        self.left -= 1

    @contextmanager
    def after(self, operations: int, folder: Path) -> Iterator[None]:
        self.folder, self.left = str(folder), operations
        try:
            yield
        finally:
            self.left = None


POINT = CrashPoint()
sys.addaudithook(POINT)  # it cannot be taken away again, and does nothing while no test uses it


def crash_once(folder: Path, after: int, *, retry: bool) -> tuple[bool, list[int]]:
    """Work until the crash; return whether there was one, and the rows whose storing had returned."""
    stored: list[int] = []
    try:
        with POINT.after(after, folder), store(folder, retry=retry) as opened:
            for item in opened.missing(items(ROWS)):
                if item is not None:
                    opened.append(ok(item, "first" if not retry else "retried"))
                    stored.append(item.index)
    except Crash:
        return True, stored
    return False, stored


def test_a_run_that_crashes_at_any_file_operation_loses_nothing(tmp_path: Path) -> None:
    for after in range(200):
        folder = tmp_path / str(after)
        folder.mkdir()
        crashed, stored = crash_once(folder, after, retry=False)
        given = finish(folder, ROWS, "second")
        assert not set(given) & set(stored), "an answer was bought twice"
        rows = table(folder)
        assert [row["_index"] for row in rows] == list(range(ROWS))
        assert [row["_index"] for row in rows if row["_raw"] == "first"] == stored
        assert names(folder) == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
        if not crashed:
            break
    assert after > 15
    assert stored == list(range(ROWS))


def test_a_retry_that_crashes_at_any_file_operation_loses_nothing(tmp_path: Path) -> None:
    before = tmp_path / "before"
    before.mkdir()
    with store(before) as opened:
        for item in opened.missing(items(ROWS)):
            assert item is not None
            opened.append(failed(item) if item.index in (1, 2, 9) else ok(item))
    untouched = (before / "part-00001.parquet").read_bytes()
    for after in range(200):
        folder = tmp_path / str(after)
        shutil.copytree(before, folder)
        crashed, stored = crash_once(folder, after, retry=True)
        given = finish(folder, ROWS, "again", retry=True)
        assert sorted(given + stored) == [1, 2, 9], "a failed row was sent twice, or never"
        rows = table(folder)
        assert [row["_index"] for row in rows] == list(range(ROWS))
        assert {row["_status"] for row in rows} == {"ok"}
        assert [row["_index"] for row in rows if row["_raw"] == "retried"] == stored
        assert [row["_index"] for row in rows if row["_raw"] == "first"] == [0, 3, 4, 5, 6, 7, 8]
        assert (folder / "part-00001.parquet").read_bytes() == untouched
        assert names(folder) == names(before)
        if not crashed:
            break
    assert after > 15
    assert stored == [1, 2, 9]


@pytest.mark.parametrize("retry", [False, True])
def test_a_crash_while_recovering_from_a_crash_loses_nothing(tmp_path: Path, retry: bool) -> None:
    """Every way to crash twice, the second time while the folder is brought into order."""
    before = tmp_path / "before"
    before.mkdir()
    if retry:
        with store(before) as opened:
            for item in opened.missing(items(ROWS)):
                assert item is not None
                opened.append(failed(item) if item.index in (1, 2, 9) else ok(item))
    for first in range(3, 60, 7):
        crashed = False
        for second in range(12):
            folder = tmp_path / f"{first}-{second}"
            shutil.copytree(before, folder)
            crashed, stored = crash_once(folder, first, retry=retry)
            _, more = crash_once(folder, second, retry=retry)
            given = finish(folder, ROWS, "third", retry=retry)
            assert sorted(stored + more + given) == ([1, 2, 9] if retry else list(range(ROWS)))
            assert [row["_index"] for row in table(folder)] == list(range(ROWS))
            shutil.rmtree(folder)
        if not crashed:
            break


def test_what_a_crash_leaves_is_put_in_order(tmp_path: Path) -> None:
    """The states that a power failure can leave, built by hand."""
    finish(tmp_path, 8, "first", only=range(6))
    journal = (tmp_path / "journal-00001.jsonl").read_bytes()
    shutil.copy(tmp_path / "journal-00001.jsonl", tmp_path / "journal-00000.jsonl")  # beside its sealed part
    (tmp_path / "journal-00001.jsonl").write_bytes(journal + b'{"_index":6,"_id":"r6"')
    for name in ("part-00000.parquet.tmp", "part-00001.parquet.tmp", "run.json.tmp"):
        (tmp_path / name).write_bytes(b"half of it")
    assert finish(tmp_path, 8, "second") == [6, 7]
    assert [(row["_index"], row["_raw"]) for row in table(tmp_path)] == [
        (index, "first" if index < 6 else "second") for index in range(8)
    ]
    assert names(tmp_path) == ["part-00000.parquet", "part-00001.parquet"]
