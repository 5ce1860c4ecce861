"""The answers of a job's earlier runs, by the fingerprint of the request.

    with Earlier(base, but=folder.name) as earlier:
        earlier.update()
        for fingerprint, answer in zip(fingerprints, earlier.answers(fingerprints)): ...

The answers stay where they are, in the parts and journals of their runs; a file in the job's folder says where each one
stands, and is made again from them whenever it is lost, damaged, or older than they are.
"""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from runner import journal, manifest, parts
from runner.answer_index import FAILURES, AnswerIndex, Entry, Place, Source, keys
from runner.errors import FatalError
from runner.part_rows import PartRows

T = TypeVar("T")

NAME = ".answers.sqlite"
_JOURNAL = re.compile(r"(?:journal|retry)-(\d{5,})\.jsonl")
_INDEXED = ("_fingerprint", "_status", "_finished_at", "_reused_from")
_INDEX_ROWS = 50_000
_NO_ROOM = ("SQLITE_FULL", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_IOERR_WRITE")
_COPY_AGE = 1 << 60  # how much older a copy counts as: any answer that was paid for comes before it


class EarlierAnswer(NamedTuple):
    """An answer that was paid for in an earlier run; each field named like an output column without its underscore.

    Attributes:
        run: the run that asked.
        kept_by: the run in which the answer was found: another one where it is a copy.
        part: the number of its part there.
        finished_at: microseconds since 1970 (UTC).
    """

    run: str
    kept_by: str
    part: int
    model: str | None
    endpoint: str | None
    finish_reason: str | None
    raw: str | None
    finished_at: int | None
    cost_usd: float | None
    request_id: str | None


_READ = ("_fingerprint", "_reused_from", *(f"_{name}" for name in EarlierAnswer._fields[3:]))


class Earlier:
    """The answers of a job's earlier runs. Use it as a context manager, from one thread at a time.

    Args:
        base: the job's folder.
        but: the name of a run whose own answers do not count.
        shared: keep what is learnt in the job's folder. Only for who holds its lock; everyone else works on a copy.
    """

    def __init__(self, base: Path, *, but: str | None = None, shared: bool = True) -> None:
        self._base = base
        self._but = but
        self._index = self._shared_index() if shared else AnswerIndex.temporary(base / NAME)
        self._sources: dict[int, Source] = {}
        self._rows = PartRows(_READ)

    def _shared_index(self) -> AnswerIndex:
        try:
            return AnswerIndex.at(self._base / NAME)
        except (*FAILURES, OSError):  # it cannot be kept, and is not needed for more than speed
            return AnswerIndex.temporary(self._base / NAME)

    def __enter__(self) -> Earlier:
        return self

    def __exit__(self, *exception: object) -> None:
        self._index.close()
        self._rows.close()

    def update(self, progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
        """Take in what the runs have gained, and forget the runs that were deleted.

        Args:
            progress: called after each file, with how many are done and how many there are to do.

        Returns:
            What could not be read, and so is not found: a sentence each.

        Raises:
            FatalError: there is no room for the index.
        """
        return self._surely(lambda: self._update(progress))

    def find(self, fingerprints: Sequence[str]) -> list[Place | None]:
        """Return where the answer to each request stands, if there is one: a hint, which `answers` checks.

        Takes 2 µs each when asked for a thousand at a time.
        """
        places = self._surely(lambda: self._index.find(fingerprints))
        return [place if place is not None and place[0] in self._sources else None for place in places]

    def answers(self, fingerprints: Sequence[str]) -> list[EarlierAnswer | None]:
        """Return the newest answer to each request, if there is one.

        Takes 5 µs each, `find` included, when the order is about that of the earlier runs. In any other, parts are read
        again and again, and the more are asked for at a time, the better.
        """
        found: list[EarlierAnswer | None] = [None] * len(fingerprints)
        wanted: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for position, place in enumerate(self.find(fingerprints)):
            if place is not None:
                wanted[place[0]].append((position, place[1]))
        for number, rows in wanted.items():
            positions, places = zip(*rows, strict=True)
            source = self._sources[number]
            path = self._base / source.run / source.file
            read = self._rows.read if path.suffix == ".parquet" else _from_journal
            part = parts.number_of(path)
            try:
                for which, (fingerprint, origin, *answer) in read(path, places):
                    if fingerprint == fingerprints[positions[which]]:
                        found[positions[which]] = EarlierAnswer(origin or source.run, source.run, part, *answer)
            except (FatalError, OSError):  # it was deleted or damaged just now: its rows are sent again
                continue
        return found

    # Bringing the index up to date ------------------------------------------------------------------------------------

    def _surely(self, do: Callable[[], T]) -> T:
        """Do something with the index; where it is damaged, with a new one that only this process has."""
        try:
            return do()
        except FAILURES:
            self._index.close()
        try:
            self._index = AnswerIndex.temporary()
            self._update()
            return do()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname not in _NO_ROOM:
                raise
            raise FatalError(
                f"the answers of earlier runs cannot be looked up: {error}",
                kind="disk",
                where=str(self._base / NAME),
                hint="make room there and in the folder for temporary files (TMPDIR), then resume",
            ) from error

    def _update(self, progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
        there = {(source.run, source.file): source for source in self._files()}
        known = {(source.run, source.file): source for source in self._index.sources().values()}
        problems = []
        with self._index.changing():
            gone = [source for at, source in known.items() if at not in there and source.run != self._but]
            if any(_moved_to(source) not in there for source in gone):
                self._index.clear()  # its answers may have hidden older ones
                known = {}
            for source in gone:
                self._index.forget(source.run, source.file)
            new = [source for at, source in there.items() if known.get(at) != source]
            for done, source in enumerate(new, 1):
                path = self._base / source.run / source.file
                try:
                    self._index.add(source, _entries(path))
                except FileNotFoundError:  # sealed meanwhile, or deleted
                    pass
                except (FatalError, OSError, ValueError) as error:
                    why = error.message if isinstance(error, FatalError) else error
                    problems.append(f"{path}: {why}; its answers are not found")
                progress(done, len(new))
        sources = self._index.sources().items()
        self._sources = {number: source for number, source in sources if (source.run, source.file) in there}
        return problems

    def _files(self) -> Iterator[Source]:
        """Yield the files that hold answers, runs from old to new."""
        for folder in sorted(path.parent for path in self._base.glob(f"*/{manifest.NAME}")):
            if folder.is_symlink() or folder.name == self._but:
                continue
            journals = [path for path in folder.glob("*.jsonl") if _JOURNAL.fullmatch(path.name)]
            for path in sorted(journals) + parts.sealed(folder):
                try:
                    about = path.stat()
                except FileNotFoundError:  # sealed meanwhile, or deleted
                    continue
                yield Source(folder.name, path.name, about.st_size, about.st_mtime_ns)


def _moved_to(source: Source) -> tuple[str, str]:
    """Return the part that a journal's rows are in once it is gone."""
    return source.run, _JOURNAL.sub(r"part-\1.parquet", source.file)


def _entries(path: Path) -> Iterator[Entry]:
    if path.suffix == ".parquet":
        return _entries_of_part(path)
    return _entries_of_journal(path)


def _entries_of_part(path: Path) -> Iterator[Entry]:
    start = 0
    with parts.open_part(path) as part:
        columns = parts.runner_fields(part, _INDEXED)
    for table in parts.tables(path, _INDEX_ROWS, columns):
        numbers = pa.array(range(start, start + len(table)), pa.int64())
        start += len(table)
        ages = pc.coalesce(table.column("_finished_at").cast(pa.int64()), 0)
        if "_reused_from" in columns.names:
            ages = pc.subtract(ages, pc.multiply(table.column("_reused_from").is_valid().cast(pa.int64()), _COPY_AGE))
        rows = pa.table([table.column("_fingerprint"), numbers, ages], ["fingerprint", "number", "age"])
        rows = rows.filter(pc.equal(table.column("_status"), "ok")).drop_null()
        fingerprints, *others = (column.to_pylist() for column in rows.columns)
        yield from zip(keys(fingerprints), *others, strict=True)


def _entries_of_journal(path: Path) -> Iterator[Entry]:
    for offset, row in journal.standing(path):
        if row.get("_status") == "ok" and row.get("_fingerprint"):
            [key] = keys([row["_fingerprint"]])
            yield key, offset, (row.get("_finished_at") or 0) - (_COPY_AGE if row.get("_reused_from") else 0)


def _from_journal(path: Path, offsets: Sequence[int]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    with open(path, "rb") as file:
        for which, offset in enumerate(offsets):
            row = journal.row_at(file, offset) or {}
            yield which, tuple(row.get(name) for name in _READ)
