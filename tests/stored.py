"""Rows of a made-up run, for tests of what is on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runner.output import Output
from runner.records import BadRow, Item, Result
from runner.store import ResultStore

OUTPUT = Output.of([pa.field("text", pa.string())], [pa.field("label", pa.string())], ["some-model"])
ROWS_PER_PART = 4
NOW_US = 1_767_225_600_000_000


def items(rows: int) -> Iterator[Item | BadRow]:
    for index in range(rows):
        yield Item(index, f"r{index}", {"text": f"text {index}"}, "rows.jsonl", index + 1)


def ok(item: Item | BadRow, by: str = "first") -> Result:
    """Return an answer; `by` tells who gave it."""
    assert isinstance(item, Item)
    return Result(
        item, "ok", {"label": "a"}, raw=by, attempts=1, queued_at=NOW_US, started_at=NOW_US, finished_at=NOW_US,
        latency_s=0.1, total_s=0.1, cost_usd=0.001,
    )  # fmt: skip


def failed(item: Item | BadRow, kind: str = "server_error", by: str = "first") -> Result:
    result = ok(item, by)
    result.status, result.answer, result.error_type, result.error = "error", None, kind, "no luck"
    return result


def store(folder: Path, *, retry: bool = False, rows_per_part: int = ROWS_PER_PART, soon: Any = None) -> ResultStore:
    return ResultStore(folder, OUTPUT, rows_per_part, {"run": "a-run"}, retry=retry, soon=soon)


def finish(folder: Path, rows: int, by: str, *, retry: bool = False, only: Iterable[int] | None = None) -> list[int]:
    """Answer what is missing (or only some of it); return the rows that were given out."""
    given = []
    with store(folder, retry=retry) as opened:
        for item in opened.missing(items(rows)):
            if item is not None:
                given.append(item.index)
                if only is None or item.index in only:
                    opened.append(ok(item, by))
    return given


def table(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of all sealed parts."""
    return pa.concat_tables([pq.read_table(part) for part in sorted(folder.glob("part-*.parquet"))]).to_pylist()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
