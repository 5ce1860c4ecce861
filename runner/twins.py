"""Rows that make the same request: one is sent, and the others wait for what comes of it, however many or long.

What is recent is in memory, and the rest in a SQLite file without a name, which is gone when the process is.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from operator import attrgetter
from typing import Any

from runner.errors import FatalError
from runner.records import Item, Request

# How much is in memory: as much as a live strategy needs, so that the file is for those that wait for hours.
_MOST_FLYING = 10_000  # requests that were sent
_MOST_ROWS = 2_000  # rows that wait
_MOST_OUTCOMES = 1_000  # written together, and sorted: that takes half the time
_CACHE_KIB = 32 << 10
_TABLES = (
    "CREATE TABLE request (key BLOB PRIMARY KEY, outcome INTEGER) WITHOUT ROWID",  # no outcome: it is in flight
    "CREATE TABLE outcome (number INTEGER PRIMARY KEY, shared BLOB, usd REAL)",
    "CREATE TABLE waiting (number INTEGER PRIMARY KEY, key BLOB, item BLOB)",
    "CREATE INDEX waiting_for ON waiting (key)",
)
_FIND = "SELECT outcome, shared, usd FROM request LEFT JOIN outcome ON number = outcome WHERE key = ?"
_FORGET = "DELETE FROM request WHERE key = ? AND outcome IS NULL"
_TAKE = "SELECT number, item FROM waiting WHERE key = ? AND number <= ? ORDER BY number LIMIT ?"

Outcome = tuple[Sequence[Any], float | None]
"""What came of a request, as far as its rows share it, and what it cost, in USD."""


@dataclass(slots=True)
class _Answered:
    """Rows that waited, and whose answer is there.

    Attributes:
        items: those of them that are in memory.
        last: the number of the last one that is in the file; 0: none is.
    """

    fingerprint: str
    outcome: Outcome
    items: list[Item]
    last: int


class Twins:
    """The identical requests of one session. Not for several threads at once.

    Every method may raise a FatalError: there is no room for the file.
    """

    def __init__(self) -> None:
        self._flying: dict[str, list[Item]] = {}  # the requests that were sent last, and who waits for each
        self._outcomes: dict[str, Outcome] = {}  # the last ones
        self._answered: deque[_Answered] = deque()
        self._rows = 0  # that are in memory
        self._rows_in_file = 0
        self._last = 0  # number of a row in the file
        self._last_outcome = 0
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._file.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        for statement in _TABLES:
            self._file.execute(statement)
        self._file.execute("BEGIN")  # one transaction, never to be kept

    def join(self, request: Request) -> Outcome | bool:
        """Return what came of a request, or whether an identical one is in flight; if not, this one is now."""
        fingerprint = request.fingerprint
        waiting = self._flying.get(fingerprint)
        if waiting is None:
            if (outcome := self._outcomes.get(fingerprint)) is not None:
                return outcome
            try:
                found = self._file.execute(_FIND, (_key(fingerprint),)).fetchone()
            except sqlite3.OperationalError as error:
                raise _no_room(error) from error
            if found is not None and found[0] is not None:
                return pickle.loads(found[1]), found[2]
            waiting = self._flying[fingerprint] = []
            if len(self._flying) > _MOST_FLYING:
                self._put_away()
            if found is None:
                return False
        waiting.append(request.item)
        self._rows += 1
        if self._rows >= _MOST_ROWS:
            self._put_away()
        return True

    def settle(self, fingerprint: str, outcome: Outcome, *, keep: bool) -> None:
        """Take in what came of a request: `answered` has the rows that waited for it.

        Args:
            keep: it counts for later rows too; if not, the next one is sent.
        """
        items = self._flying.pop(fingerprint, [])
        try:
            last = self._last if self._rows_in_file and self._waits_in_file(fingerprint) else 0
            if keep:
                self._outcomes[fingerprint] = outcome
                if len(self._outcomes) >= _MOST_OUTCOMES:
                    self._write_outcomes()
            else:
                self._file.execute(_FORGET, (_key(fingerprint),))
        except sqlite3.OperationalError as error:
            raise _no_room(error) from error
        if items or last:
            self._answered.append(_Answered(fingerprint, outcome, items, last))

    def answered(self, most: int) -> Iterator[tuple[Item, str, Outcome]]:
        """Yield at most so many of the rows whose answer is there, each once, with fingerprint and outcome."""
        while most > 0 and self._answered:
            group = self._answered[0]
            items = self._taken(group, most)
            if len(items) < most:
                self._answered.popleft()
            most -= len(items)
            for item in items:
                yield item, group.fingerprint, group.outcome

    def close(self) -> None:
        self._file.close()

    def _taken(self, group: _Answered, most: int) -> list[Item]:
        items = self._taken_from_file(group, most) if group.last else []
        more = group.items[: most - len(items)]
        del group.items[: len(more)]
        self._rows -= len(more)
        return items + more

    # The file ---------------------------------------------------------------------------------------------------------

    def _waits_in_file(self, fingerprint: str) -> bool:
        return self._file.execute("SELECT 1 FROM waiting WHERE key = ?", (_key(fingerprint),)).fetchone() is not None

    def _taken_from_file(self, group: _Answered, most: int) -> list[Item]:
        key = _key(group.fingerprint)
        try:
            found = self._file.execute(_TAKE, (key, group.last, most)).fetchall()
            self._file.executemany("DELETE FROM waiting WHERE number = ?", [(number,) for number, _ in found])
        except sqlite3.OperationalError as error:
            raise _no_room(error) from error
        self._rows_in_file -= len(found)
        if len(found) < most:
            group.last = 0
        return [Item(*pickle.loads(item)) for _, item in found]

    def _put_away(self) -> None:
        """Write down all rows that wait, and the requests that were sent first."""
        rows: list[tuple[int, bytes, bytes]] = []

        def add(fingerprint: str, items: list[Item]) -> None:
            key = _key(fingerprint)
            numbered = enumerate(items, self._last + len(rows) + 1)
            rows.extend([(number, key, pickle.dumps(_values(item), -1)) for number, item in numbered])
            items.clear()

        # Answered ones first: what is written later under the same key waits for another answer.
        for group in self._answered:
            if group.items:
                add(group.fingerprint, group.items)
                group.last = self._last + len(rows)
        for fingerprint, items in self._flying.items():
            if items:
                add(fingerprint, items)
        try:
            self._file.executemany("INSERT INTO waiting VALUES (?, ?, ?)", rows)
            if len(self._flying) > _MOST_FLYING:
                first = list(islice(self._flying, _MOST_FLYING // 2))
                keys = sorted((_key(fingerprint),) for fingerprint in first)
                self._file.executemany("INSERT OR IGNORE INTO request VALUES (?, NULL)", keys)
                for fingerprint in first:
                    del self._flying[fingerprint]
        except sqlite3.OperationalError as error:
            raise _no_room(error) from error
        self._rows = 0
        self._rows_in_file += len(rows)
        self._last += len(rows)

    def _write_outcomes(self) -> None:
        numbered = list(enumerate(self._outcomes.items(), self._last_outcome + 1))
        rows = [(number, pickle.dumps(shared, -1), usd) for number, (_, (shared, usd)) in numbered]
        self._file.executemany("INSERT INTO outcome VALUES (?, ?, ?)", rows)
        keys = sorted((_key(fingerprint), number) for number, (fingerprint, _) in numbered)
        self._file.executemany("INSERT OR REPLACE INTO request VALUES (?, ?)", keys)
        self._last_outcome += len(rows)
        self._outcomes.clear()


_values = attrgetter(*(field.name for field in fields(Item)))


def _key(fingerprint: str) -> bytes:
    return bytes.fromhex(fingerprint)


def _no_room(error: sqlite3.OperationalError) -> FatalError:
    return FatalError(
        f"identical requests cannot be kept track of: {error}",
        kind="disk",
        hint="make room in the folder for temporary files (TMPDIR), then resume: everything finished so far is kept",
    )
