"""A job's whole current dataset: the latest answer to each row, over all its runs.

    with LatestAnswers(base) as latest:
        for table in latest.tables(): ...

Runs are looked through from the newest to the oldest, and a row counts where it is met first. Nothing is rewritten:
what was met is kept as digests in a SQLite file without a name, so memory does not grow with the rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from runner import journal, parts, runs
from runner.dataset.columns import is_json_text
from runner.errors import FatalError, SpecError
from runner.history import Past, in_order
from runner.output import RUNNER_FIELDS, to_table

RUN = pa.field("_run", pa.string())
"""The column that names the run that a row is taken from."""

_OWN = {field.name for field in RUNNER_FIELDS}
_KEYS = ("_index", "_id", "_model", "_status", "_fingerprint")
_BATCH_ROWS = 10_000
_GROUP_BYTES = 16 << 20
_GROUP_ROWS = 50_000
_CACHE_KIB = 64 << 10


class LatestAnswers:
    """The latest answer to each row of a job. Use it as a context manager.

    A row is known by its id; in jobs without `input.id` by its request, as the place in the input says nothing of the
    next input. Rows of one run that share an id are all kept. Where the newest run asks several models, a row is one
    for each of them; where it asks one, that model's answers count, and those of runs that asked another one alone.

    Args:
        base: the job's folder.
        until: the newest run that counts; default: the newest there is. Rehearsals never do. Of two runs the one for
            the later date is newer, whenever they were made.

    Attributes:
        schema: the columns: of the newest run, then those that only older ones have, then the runner's own and `RUN`.
        runs: the runs whose answers count, newest first.
        left_out: the runs whose answers cannot be put together with those of newer ones, each with the reason.

    Raises:
        SpecError: there is no run that counts.
    """

    def __init__(self, base: Path, until: Past | None = None) -> None:
        found, unreadable = in_order(runs.runs_in(base))
        self.left_out = {folder: f"its record cannot be read: {why}" for folder, why in unreadable.items()}
        real = [run for run in reversed(found) if not run.is_rehearsal and (until is None or not _after(run, until))]
        if not real:
            begun = "up to that one" if until else "yet"
            raise SpecError(
                f"there is no run {begun} whose answers count: rehearsals have none",
                where=str(base),
                hint=None if until else "start one with `runner run JOB`",
            )
        self._newest = real[0]
        self._columns = _Columns()
        self.runs = []
        for run in real:
            why = self._misfit(run) or self._columns.take(run)
            if why:
                self.left_out[run.folder] = why
            else:
                self.runs.append(run)
        self.schema = self._columns.schema()
        self._met = _Met()

    def __enter__(self) -> LatestAnswers:
        return self

    def __exit__(self, *exception: object) -> None:
        self._met.close()

    @property
    def id_column(self) -> str | None:
        """The input's column that identifies a row; None: its request does."""
        return _id_column(self._newest)

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows, those of the newest run first and each run's in its input order. To be called once.

        Raises:
            FatalError: a part or journal is damaged, or there is no room for what was met.
            SpecError: a value does not fit the column's type.
        """
        return _regrouped(table for run in self.runs for table in self._rows(run))

    def held(self) -> dict[Path, int]:
        """Return of how many rows each run holds the latest answer. To be called once, and instead of `tables`.

        Raises:
            FatalError: a part or journal is damaged, or there is no room for what was met.
        """
        return {
            run.folder: sum(mask.true_count for path, again in _sources(run.folder)
                            for _, mask in self._marked(run, path, again, _few(run, _KEYS)))
            for run in self.runs
        }  # fmt: skip

    def notes(self, rows: int) -> list[str]:
        """Return what a person should know of so many rows: where they come from, and what is not among them."""
        many = f"{rows:,} {'row' if rows == 1 else 'rows'}"
        lines = [
            f"{many}: the latest answer to each, over {len(self.runs):,} {'run' if len(self.runs) == 1 else 'runs'}"
        ]
        if self.id_column is None:
            lines.append("note: without `input.id` a row is known by its request, so that a new prompt makes new rows")
        lines += [f"note: run {folder.name} is left out: {why}" for folder, why in sorted(self.left_out.items())]
        return lines

    def _misfit(self, run: Past) -> str | None:
        """Return why the rows of a run cannot be told apart as those of the newest are."""
        mine, newest = _id_column(run), self.id_column
        if newest is not None and mine != newest:
            return f"its rows are known by {_by(mine)}, those of the newest run by {_by(newest)}"
        if len(run.manifest.models) > 1 or len(self._newest.manifest.models) > 1:
            wanted = self._newest.manifest.models
            if not set(wanted) & set(run.manifest.models):
                return f"it asked {' and '.join(run.manifest.models)}, the newest run {' and '.join(wanted)}"
        return None

    def _rows(self, run: Past) -> Iterator[pa.Table]:
        columns = self._columns.of(run)
        for path, again in _sources(run.folder):
            if path.suffix == ".jsonl":  # it may be growing: read it once
                for table, mask in self._marked(run, path, again, columns):
                    yield self._columns.fitted(run, table.filter(mask))
                continue
            masks = [mask for _, mask in self._marked(run, path, again, _few(run, _KEYS))]
            if not any(mask.true_count for mask in masks):
                continue
            whole, start = pa.concat_arrays(masks), 0
            for table in _read(path, columns):
                yield self._columns.fitted(run, table.filter(whole.slice(start, len(table))))
                start += len(table)

    def _marked(
        self, run: Past, path: Path, again: set[tuple[int, str]], columns: pa.Schema
    ) -> Iterator[tuple[pa.Table, pa.BooleanArray]]:
        """Yield the rows in a file of a run, each table with which of its rows are the latest.

        Args:
            again: the rows that a retry has answered; its own file adds them, and in its part they do not count.
        """
        for table in _read(path, columns):
            keys = self._keys(run, table)
            if again or _is_retry(path):
                which = list(zip(*(table.column(name).to_pylist() for name in ("_index", "_model")), strict=True))
                keys = [None if row in again else key for row, key in zip(which, keys, strict=True)]
                if _is_retry(path):
                    again.update(row for row, key in zip(which, keys, strict=True) if key is not None)
            with _room():
                mask = pa.array(self._met.first_in(run.name, keys), pa.bool_())
            yield table, mask

    def _keys(self, run: Past, table: pa.Table) -> list[bytes | None]:
        """Return what each row is known by; None for one without an answer that counts."""
        several, models = len(self._newest.manifest.models) > 1, set(self._newest.manifest.models)
        names = table.column("_id")
        if self.id_column is None:
            names = pc.coalesce(table.column("_fingerprint"), names)
        count = pc.equal(table.column("_status"), "ok")
        if several or len(run.manifest.models) > 1:
            count = pc.and_(count, pc.is_in(table.column("_model"), pa.array(sorted(models))))
        names = pc.if_else(count, names, None).to_pylist()
        if several and self.id_column is not None:  # a fingerprint tells models apart by itself
            of_model = table.column("_model").to_pylist()
            names = [name and f"{model}\0{name}" for name, model in zip(names, of_model, strict=True)]
        return [None if name is None else blake2b(name.encode(), digest_size=16).digest() for name in names]


def latest_of(job: str, as_of: str | None = None, outputs: Path | None = None) -> LatestAnswers:
    """Return the latest answers of a job that a person names as for `runs.of_job`, up to a run as for `runs.run_of`.

    Raises:
        SpecError: there is no such job or run, or none that counts.
    """
    base = runs.of_job(job, outputs)[0].parent
    return LatestAnswers(base, None if as_of is None else Past.load(runs.run_of(as_of, base)))


def _after(run: Past, other: Past) -> bool:
    return run.turn > other.turn


def _id_column(run: Past) -> str | None:
    named: str | None = run.manifest.spec["input"].get("id")
    return named


def _by(column: str | None) -> str:
    return "their request" if column is None else f"`{column}`"


# What was met already -------------------------------------------------------------------------------------------------


class _Met:
    """The keys that were met, each with the run in which that was."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # a file without a name
        for setting in (f"cache_size = -{_CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.execute("CREATE TABLE met (key BLOB PRIMARY KEY, run INTEGER) WITHOUT ROWID")
        self._connection.execute("BEGIN")
        self._numbers: dict[str, int] = {}

    def close(self) -> None:
        self._connection.close()

    def first_in(self, run: str, keys: Sequence[bytes | None]) -> list[bool]:
        """Return whether each key is met in this run first; rows that share one all are."""
        number = self._numbers.setdefault(run, len(self._numbers))
        execute = self._connection.execute
        found = [None if key is None else execute("SELECT run FROM met WHERE key = ?", (key,)).fetchone()
                 for key in keys]  # fmt: skip
        new = ((key, number) for key, met in zip(keys, found, strict=True) if key is not None and met is None)
        self._connection.executemany("INSERT OR IGNORE INTO met VALUES (?, ?)", new)
        return [key is not None and (met is None or met[0] == number) for key, met in zip(keys, found, strict=True)]


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise FatalError(
            f"the rows of the runs cannot be told apart: {error}",
            kind="disk",
            hint="make room in the folder for temporary files, or name another one (TMPDIR)",
        ) from error


# Reading a run --------------------------------------------------------------------------------------------------------


def _sources(folder: Path) -> Iterator[tuple[Path, set[tuple[int, str]]]]:
    """Yield what holds the rows of a run, each with a set that it shares with the retry of its rows.

    Retries come first. What one has answered waits beside its part while it is going on, or after it was killed.
    """
    again: dict[int, set[tuple[int, str]]] = {}
    for path in [*sorted(folder.glob("retry-*.jsonl")), *parts.sources(folder)]:
        yield path, again.setdefault(parts.number_of(path), set())


def _is_retry(path: Path) -> bool:
    return path.name.startswith("retry-")


def _few(run: Past, names: Iterable[str]) -> pa.Schema:
    return pa.schema([run.manifest.schema.field(name) for name in names])


def _read(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    if path.suffix == ".jsonl":
        try:
            for rows in journal.read(path):
                yield to_table(rows, schema)
            return
        except FileNotFoundError:  # sealed meanwhile
            path = parts.part_path(path.parent, parts.number_of(path))
    yield from parts.tables(path, _BATCH_ROWS, schema)


def _regrouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Put small tables together: a year of nights is not as many row groups."""
    waiting: list[pa.Table] = []
    size = rows = 0
    for table in tables:
        waiting.append(table)
        size, rows = size + table.nbytes, rows + len(table)
        if size >= _GROUP_BYTES or rows >= _GROUP_ROWS:
            yield pa.concat_tables(waiting)
            waiting, size, rows = [], 0, 0
    if rows:
        yield pa.concat_tables(waiting)


# The columns of all runs ----------------------------------------------------------------------------------------------


class _Columns:
    """The columns of runs that are taken in from the newest to the oldest, each with a type for the values of all."""

    def __init__(self) -> None:
        self._theirs: dict[str, pa.Field] = {}
        self._taken: list[Past] = []
        self._without: set[tuple[str, str]] = set()  # a run, and a column that it has no value in

    def take(self, run: Past) -> str | None:
        """Take the columns of a run in; or return why they do not fit, and stay as before."""
        united = dict(self._theirs)
        for field in run.manifest.schema:
            if field.name in _OWN:
                continue
            if field.name == RUN.name:
                return f"it has a column `{RUN.name}` of its own"
            known = united.get(field.name)
            fitting = field if known is None else _united(known, field)
            if fitting is None:
                assert known is not None
                fitting = self._of_one(known, field, run)
            if fitting is None:
                return f"its column `{field.name}` holds {_kind(field)}, and that of newer runs {_kind(known)}"
            united[field.name] = fitting
        self._theirs = united
        self._taken.append(run)
        return None

    def _of_one(self, known: pa.Field, field: pa.Field, run: Past) -> pa.Field | None:
        """Return which of two types holds the values where the runs of the other have none: a null fits any."""
        if self._is_empty(run, field.name):
            return known
        newer = [each for each in self._taken if field.name in each.manifest.schema.names]
        return field if all(self._is_empty(each, field.name) for each in newer) else None

    def _is_empty(self, run: Past, name: str) -> bool:
        if (run.name, name) not in self._without:
            few = _few(run, (name,))
            columns = (table.column(name) for path, _ in _sources(run.folder) for table in _read(path, few))
            if any(column.null_count < len(column) for column in columns):
                return False
            self._without.add((run.name, name))
        return True

    def schema(self) -> pa.Schema:
        return pa.schema([*self._theirs.values(), *RUNNER_FIELDS, RUN])

    def of(self, run: Past) -> pa.Schema:
        """Return which columns of a run to read."""
        return pa.schema([field for field in run.manifest.schema if (run.name, field.name) not in self._without])

    def fitted(self, run: Past, table: pa.Table) -> pa.Table:
        """Return rows of a run with the columns of all.

        Raises:
            SpecError: a value does not fit.
        """
        table = table.append_column(RUN, pa.repeat(run.name, len(table)))
        target = self.schema()
        try:
            # Arrow fills in what is missing, members of structs too, and refuses to round.
            return pa.concat_tables([target.empty_table(), table], promote_options="permissive").cast(target)
        except pa.ArrowException as error:
            raise SpecError(
                f"the rows of run {run.name} do not fit those of newer runs: {error}",
                where=str(run.folder),
                hint="`--as-of RUN` gives the dataset as it was after a run",
            ) from error


def _united(one: pa.Field, other: pa.Field) -> pa.Field | None:
    """Return a column for the values of both; None where there is none."""
    if is_json_text(one) != is_json_text(other):
        return None
    both = [pa.schema([field.remove_metadata()]) for field in (one, other)]
    try:
        return one.with_type(pa.unify_schemas(both, promote_options="permissive").field(0).type)
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return None


def _kind(field: pa.Field) -> str:
    return "JSON text" if is_json_text(field) else str(field.type)
