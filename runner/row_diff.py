"""Compares the rows of two runs by their id: which came, which went, and whose answer changed.

Both are put in order of their ids by SQLite, in a file without a name, and then walked through side by side, so that
memory does not grow with the rows.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import nsmallest
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from runner import parts
from runner.answer_stats import deciding
from runner.dataset.columns import is_json_text
from runner.errors import FatalError
from runner.manifest import Manifest
from runner.output import RUNNER_FIELDS

_BATCH_ROWS = 10_000
_CACHE_KIB = 32 << 10
_MOST_CHARACTERS = 200  # of an answer that is kept to be shown; of the rest a digest tells whether it is the same
_EXAMPLES = 5
_KEYS = ("_index", "_id", "_model", "_status", "_error_type")


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A row whose answer changed.

    Attributes:
        index: its place in the newer run.
        model: of the newer run.
        old: the answer by column; long text is cut off. Of a row that failed `_error_type` alone.
    """

    index: int
    id: str
    model: str
    old: dict[str, Any]
    new: dict[str, Any]


@dataclass
class RowDiff:
    """What became of the rows.

    Attributes:
        columns: the columns that were compared, which are in both runs.
        models: which model of the older run each of the newer is compared with.
        added: rows that only the newer run has; `added_ids` are the first few.
        both_ok: rows that both answered, of which `changed` have another answer.
        mended: rows that failed, and are answered now; `broke` the other way round.
        rows: the first of those that changed, in the order of the newer run.
    """

    columns: tuple[str, ...]
    models: dict[str, str]
    added: int = 0
    gone: int = 0
    both_ok: int = 0
    changed: int = 0
    mended: int = 0
    broke: int = 0
    added_ids: list[str] = field(default_factory=list)
    gone_ids: list[str] = field(default_factory=list)
    rows: list[ChangedRow] = field(default_factory=list)


class _Row(NamedTuple):
    """A row as SQLite gives it back; `pair` numbers the models that are compared."""

    id: str
    pair: int
    place: int
    ok: int
    answer: str


def compare_rows(old: tuple[Path, Manifest], new: tuple[Path, Manifest], rows: int) -> RowDiff:
    """Compare the rows of two runs; of one that is not finished those that have a result.

    Rows that share an id are taken in their order, the first with the first. Where both runs ask one model, its answers
    are compared whatever its name; otherwise those of each model that both ask.

    Args:
        rows: how many of the rows to show whose answer changed.

    Raises:
        FatalError: a part or journal is damaged, or there is no room for temporary files.
    """
    columns = _columns(old[1], new[1])
    models = _models(old[1].models, new[1].models)
    found = RowDiff(tuple(columns), {now: then for then, now in models})
    connection = sqlite3.connect("", isolation_level=None)  # a file without a name
    try:
        for setting in (f"cache_size = -{_CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            connection.execute(f"PRAGMA {setting}")
        for name, (folder, manifest), asked in zip(("old", "new"), (old, new), zip(*models, strict=True), strict=True):
            _fill(connection, name, folder, manifest, tuple(columns), asked)
        same = _Same(list(columns.values()))
        seen = _walk(_in_order(connection, "old"), _in_order(connection, "new"), found, same)
        first = nsmallest(max(1, rows), seen, key=lambda both: (both[1].place, both[1].pair))[:rows]  # 0 walks nowhere
    except sqlite3.Error as error:
        raise FatalError(
            f"the rows of the runs cannot be compared: {error}",
            kind="disk",
            hint="make room in the folder for temporary files, or name another one (TMPDIR)",
        ) from error
    finally:
        connection.close()
    found.rows = [
        ChangedRow(now.place, now.id, models[now.pair][1], _shown(then, columns), _shown(now, columns))
        for then, now in first
    ]
    return found


def _columns(old: Manifest, new: Manifest) -> dict[str, bool]:
    """Return the columns of the answer that both runs have, and whether only their side of 0.5 counts."""
    then, now = (_answer_columns(manifest) for manifest in (old, new))
    return {name: now[name] for name in now if name in then}


def _answer_columns(manifest: Manifest) -> dict[str, bool]:
    schema = manifest.schema
    others = {*manifest.copied_columns, *(field.name for field in RUNNER_FIELDS)}
    return deciding(schema) or {name: False for name in schema.names if name not in others}


def _models(old: Sequence[str], new: Sequence[str]) -> list[tuple[str, str]]:
    """Return which models are compared; where none is asked by both, the first stand for the rows."""
    if len(old) == len(new) == 1:
        return [(old[0], new[0])]
    return [(model, model) for model in new if model in old] or [(old[0], new[0])]


# Putting rows in order ------------------------------------------------------------------------------------------------


def _fill(
    connection: sqlite3.Connection, name: str, folder: Path, manifest: Manifest, columns: Sequence[str],
    models: Sequence[str],
) -> None:  # fmt: skip
    connection.execute(f"CREATE TABLE {name} (id TEXT, pair INTEGER, place INTEGER, ok INTEGER, answer TEXT)")
    wanted = pa.schema([manifest.schema.field(each) for each in (*_KEYS, *columns)])
    connection.execute("BEGIN")
    for table in parts.stored(folder, wanted, _BATCH_ROWS):
        table = table.filter(pc.is_in(table.column("_model"), pa.array(models)))
        pairs = pc.index_in(table.column("_model"), pa.array(models)).to_pylist()
        ok = pc.equal(table.column("_status"), "ok").cast(pa.int8()).to_pylist()
        rows = zip(
            table.column("_id").to_pylist(), pairs, table.column("_index").to_pylist(), ok, _answers(table, columns),
            strict=True,
        )  # fmt: skip
        connection.executemany(f"INSERT INTO {name} VALUES (?, ?, ?, ?, ?)", rows)
    connection.execute("COMMIT")


def _answers(table: pa.Table, columns: Sequence[str]) -> Iterator[str]:
    """Yield each row's answer as JSON, or why it failed."""
    read = [_values(table, name) for name in columns]
    failed = table.column("_error_type").to_pylist()
    answers = zip(*read, strict=True) if read else (() for _ in failed)
    for why, answer in zip(failed, answers, strict=True):
        yield json.dumps(why if why is not None else [_short(value) for value in answer], ensure_ascii=False)


def _values(table: pa.Table, name: str) -> list[Any]:
    values: list[Any] = table.column(name).to_pylist()
    if not is_json_text(table.schema.field(name)):
        return values
    return [value if value is None else json.loads(value) for value in values]


def _short(value: Any) -> Any:
    """Return a value, or the beginning of a long one with a digest of the whole."""
    if value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < 50):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) <= _MOST_CHARACTERS:
        return value if isinstance(value, str) else json.loads(text)
    digest = blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()
    return f"{text[:_MOST_CHARACTERS]}… ({len(text):,} characters, digest {digest})"


def _in_order(connection: sqlite3.Connection, name: str) -> Iterator[tuple[tuple[str, int, int], _Row]]:
    """Yield the rows in order of what they are known by: id, model, and which of the rows with both."""
    last, number = ("", -1), 0
    for found in connection.execute(f"SELECT id, pair, place, ok, answer FROM {name} ORDER BY id, pair, place"):
        row = _Row(*found)
        number = number + 1 if (row.id, row.pair) == last else 0
        last = row.id, row.pair
        yield (*last, number), row


# Walking through both -------------------------------------------------------------------------------------------------


class _Same:
    """Whether two answers are the same.

    Args:
        sides: of each column whether only the side of 0.5 counts that its number is on.
    """

    def __init__(self, sides: Sequence[bool]) -> None:
        self._sides = sides

    def __call__(self, old: str, new: str) -> bool:
        if old == new:
            return True
        if not any(self._sides):
            return False
        then, now = json.loads(old), json.loads(new)
        return all(
            a == b or (side and None not in (a, b) and (a >= 0.5) == (b >= 0.5))
            for a, b, side in zip(then, now, self._sides, strict=True)
        )


def _walk(
    old: Iterator[tuple[tuple[str, int, int], _Row]],
    new: Iterator[tuple[tuple[str, int, int], _Row]],
    found: RowDiff,
    same: Callable[[str, str], bool],
) -> Iterator[tuple[_Row, _Row]]:
    """Count what became of the rows, and yield those whose answer changed, then and now."""
    then, now = next(old, None), next(new, None)
    counts: Counter[str] = Counter()
    while then or now:
        if now is None or (then is not None and then[0] < now[0]):
            assert then is not None
            _note(found.gone_ids, then[1])
            counts["gone"] += then[1].pair == 0
            then = next(old, None)
        elif then is None or now[0] < then[0]:
            _note(found.added_ids, now[1])
            counts["added"] += now[1].pair == 0
            now = next(new, None)
        else:
            before, after = then[1], now[1]
            what = {(1, 1): "both_ok", (0, 1): "mended", (1, 0): "broke"}.get((before.ok, after.ok), "both_failed")
            counts[what] += 1
            if before.ok and after.ok and not same(before.answer, after.answer):
                counts["changed"] += 1
                yield before, after
            elif what in ("mended", "broke"):
                yield before, after
            then, now = next(old, None), next(new, None)
    for name in ("added", "gone", "both_ok", "changed", "mended", "broke"):
        setattr(found, name, counts[name])


def _note(ids: list[str], row: _Row) -> None:
    if row.pair == 0 and len(ids) < _EXAMPLES:
        ids.append(row.id)


def _shown(row: _Row, columns: Sequence[str] | dict[str, bool]) -> dict[str, Any]:
    answer = json.loads(row.answer)
    return dict(zip(columns, answer, strict=True)) if row.ok else {"_error_type": answer}
