"""A keyed store on disk: where the answer to each request stands, by the request's fingerprint.

It is a cache in a SQLite file. What it says is a hint: who reads at the place it names checks the fingerprint there.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

Place = tuple[int, int]
"""A source's number, and where in it: the row of a part, the byte offset in a journal."""

Entry = tuple[int, int, int]
"""The key of a fingerprint, where in its source the answer stands, and its age: of two answers the higher counts."""

_VERSION = 1
_TABLES = f"""
    CREATE TABLE source (number INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT, file TEXT, size INTEGER, mtime_ns INTEGER);
    CREATE TABLE answer (key INTEGER PRIMARY KEY, source INTEGER, at INTEGER, age INTEGER);
    PRAGMA user_version = {_VERSION};
"""
_CACHE_KIB = (
    64 << 10
)  # the pages of about two million answers; not mapped: a file that is cut off would kill the process
_WAIT_S = 10.0
_FIND = """
    SELECT answer.key, source, at FROM json_each(?) AS wanted CROSS JOIN answer
    ON answer.key = wanted.value AND typeof(at) = 'integer'
"""
_ADD_SOURCE = "INSERT INTO source (run, file, size, mtime_ns) VALUES (?, ?, ?, ?)"
_ADD = """
    INSERT INTO answer (key, source, at, age) VALUES (?, ?, ?, ?) ON CONFLICT (key)
    DO UPDATE SET source = excluded.source, at = excluded.at, age = excluded.age WHERE excluded.age >= age
"""


FAILURES = (sqlite3.Error, UnicodeDecodeError)
"""What an index raises when its file is damaged, in use for long, or cannot be written; the second of garbled names."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file that holds answers, as it was when it was read.

    Attributes:
        run: the name of its run's folder.
        file: its name there.
    """

    run: str
    file: str
    size: int
    mtime_ns: int


def keys(fingerprints: Sequence[str]) -> tuple[int, ...]:
    """Return the first half of each fingerprint as a number: SQLite finds its own integer keys fastest.

    That two of ten million fingerprints share a key has a probability of 3 in a million, and costs one request.

    Raises:
        ValueError: one is not 32 hexadecimal digits.
    """
    digits = bytes.fromhex("".join(fingerprints))
    if len(digits) != 16 * len(fingerprints):
        raise ValueError("a fingerprint has 32 hexadecimal digits")
    return struct.unpack(f"<{2 * len(fingerprints)}q", digits)[::2]


class AnswerIndex:
    """Where answers stand. Every method may raise one of `FAILURES`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        if connection.execute("PRAGMA user_version").fetchone() != (_VERSION,):
            self.clear()

    @classmethod
    def at(cls, path: Path) -> AnswerIndex:
        """Open the index in a file, which is made where there is none, and made anew where it is damaged."""
        for _ in range(2):
            connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            try:
                index = cls(connection)
                index.check()
                return index
            except FAILURES as error:
                connection.close()
                if not _damaged(error):  # in use, or the disk is full: another file would not help
                    raise
                path.unlink()
                path.with_name(path.name + "-journal").unlink(missing_ok=True)
        raise sqlite3.DatabaseError(f"{path} is damaged again as soon as it is made")

    @classmethod
    def temporary(cls, like: Path | None = None) -> AnswerIndex:
        """Return an index that nobody else sees, and that vanishes when it is closed.

        Args:
            like: the file to begin with a copy of, if it can be copied; default: it begins empty.
        """
        connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # a file without a name
        if like is not None:
            with suppress(*FAILURES):
                address = f"{like.absolute().as_uri()}?mode=ro"
                with closing(sqlite3.connect(address, uri=True, timeout=_WAIT_S)) as theirs:
                    theirs.backup(connection)
                index = cls(connection)
                index.check()
                return index
            connection.close()
            return cls.temporary()
        return cls(connection)

    def check(self) -> None:
        """Look at the whole file for damage: an answer that is not found is paid for again."""
        found = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != ("ok",):
            raise sqlite3.DatabaseError(found[0])
        self.sources()
        self.find(["0" * 32])

    def close(self) -> None:
        self._connection.close()

    def clear(self) -> None:
        """Forget everything."""
        with self.changing():
            for table in ("source", "answer"):
                self._connection.execute(f"DROP TABLE IF EXISTS {table}")
            for statement in filter(str.strip, _TABLES.split(";")):
                self._connection.execute(statement)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Do all that is inside, or nothing of it."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def sources(self) -> dict[int, Source]:
        """Return the files that were added, by number."""
        rows = self._connection.execute("SELECT number, run, file, size, mtime_ns FROM source")
        return {number: Source(str(run), str(file), size, mtime_ns) for number, run, file, size, mtime_ns in rows}

    def add(self, source: Source, entries: Iterable[Entry]) -> None:
        """Take the answers of a file in, all or (when `entries` raises something) none.

        What was known of the same file is forgotten.
        """
        self.forget(source.run, source.file)
        execute = self._connection.execute
        execute("SAVEPOINT file")
        try:
            number = execute(_ADD_SOURCE, (source.run, source.file, source.size, source.mtime_ns)).lastrowid
            self._connection.executemany(_ADD, ((key, number, at, age) for key, at, age in entries))
        except BaseException:
            execute("ROLLBACK TO file")
            raise
        finally:
            execute("RELEASE file")

    def forget(self, run: str, file: str) -> None:
        """Forget a file whose answers stand in another one now."""
        self._connection.execute("DELETE FROM source WHERE run = ? AND file = ?", (run, file))

    def find(self, fingerprints: Sequence[str]) -> list[Place | None]:
        """Return where the answer to each request may stand; some thousand at a time are fastest."""
        wanted = keys(fingerprints)
        rows = self._connection.execute(_FIND, (str(list(wanted)),))
        found: dict[int, Place] = {key: (source, at) for key, source, at in rows}
        return [found.get(key) for key in wanted]


def _damaged(error: Exception) -> bool:
    return getattr(error, "sqlite_errorname", "SQLITE_CORRUPT").split("_")[1] in ("CORRUPT", "NOTADB", "ERROR")
