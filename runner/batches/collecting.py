"""Collects what a batch brought: its files become results, and the rest is set aside to be sent again."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from runner.atomic import sync_folder
from runner.batches import rows
from runner.batches.ledger import Entry, Ledger
from runner.batches.reading import Reader, RowError, refused
from runner.batches.rows import Pending, RowIndex
from runner.budget import NOTHING, Amount
from runner.clock import Clock
from runner.errors import FatalError
from runner.exact_json import decode
from runner.records import Key, Result

_BREATH = 500  # rows, after which others get a turn


class Kept(Protocol):
    """Where results are kept, as far as collecting has to know: the run's `ResultStore`."""

    def lacking(self, keys: Iterable[Key]) -> set[Key]:
        """Of these rows, those that have no result yet."""

    async def secure(self) -> bool:
        """Make all results durable; False: they could not be written."""

    def hurry(self) -> AbstractContextManager[None]:
        """A time in which nothing is done with results but keeping them."""


@dataclass
class Collected:
    """What a batch came to.

    Attributes:
        again: how many of its rows have to be sent again.
        spent: what it took.
        fatal: why none of its requests, and no other, will be answered.
    """

    again: int = 0
    spent: Amount = NOTHING
    fatal: FatalError | None = None


class Collector:
    """Collects batches, one at a time. Doing so again after a crash changes nothing.

    Args:
        emit: takes each result.
        kept: where the results go from there.
    """

    def __init__(
        self,
        ledger: Ledger,
        reader: Reader,
        emit: Callable[[Result], None],
        kept: Kept,
        clock: Clock,
        note: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._reader = reader
        self._emit = emit
        self._kept = kept
        self._clock = clock
        self._note = note

    async def collect(self, entry: Entry, row_error: RowError) -> Collected | None:
        """Turn the files of an ended batch into results; rows that are in neither have to be sent again.

        Returns:
            None: the results could not be stored, because the disk failed or the run stops; it can be done again.
        """
        with self._kept.hurry(), _at_full_speed():
            return await self._collect(entry, row_error)

    async def _collect(self, entry: Entry, row_error: RowError) -> Collected | None:
        found, strange = Collected(), 0
        usd, tokens = 0.0, 0
        share = Amount(entry.most_usd / entry.requests, entry.most_tokens // entry.requests)
        lacking = await self._lacking(entry)
        with ExitStack() as opened:
            index = opened.enter_context(RowIndex(self._ledger.path(entry.number, "rows")))
            again = opened.enter_context(_Again(self._ledger))
            for number, line in enumerate(self._lines(entry)):
                row = index.take(str(line.get("custom_id")))
                if row is None:
                    strange += 1
                else:
                    outcome = self._reader.read(line, row, row_error)
                    spent = share if outcome.spent is None else outcome.spent
                    usd, tokens = usd + spent.usd, tokens + spent.tokens
                    found.fatal = found.fatal or outcome.fatal
                    if row.item.key in lacking:
                        self._settle(entry, row, again if outcome.again else None)
                if number % _BREATH == 0:
                    await asyncio.sleep(0)
            found.spent = Amount(usd, tokens)
            code = {"expired": "batch_expired", "cancelled": "batch_cancelled"}.get(entry.status or "", "missing")
            for row in index.rest():
                if code == "missing":  # it may have been paid for, which nobody can know
                    found.spent += share
                sent_again = self._reader.missed(row, code, "the batch has neither an answer nor an error for it").again
                if row.item.key in lacking:
                    self._settle(entry, row, again if sent_again else None)
            if strange:
                self._note(f"batch {entry.batch_id} has {strange:,} lines that belong to none of its rows")
            found.again = again.count
            return found if await self._close(entry, [again]) else None

    async def refuse(self, entry: Entry, reasons: dict[int, str]) -> Collected | None:
        """Close a batch that was refused as a whole: rows that are to blame fail, the others are sent again.

        Args:
            reasons: what was said of lines of the input file, counted from 1.
        """
        lacking = await self._lacking(entry)
        with _Again(self._ledger) as again:
            for number, row in enumerate(rows.read(self._ledger.path(entry.number, "rows")), 1):
                if row.item.key in lacking:
                    if number in reasons:
                        refused(row, reasons[number])
                    self._settle(entry, row, None if number in reasons else again)
            return Collected(again.count) if await self._close(entry, [again]) else None

    async def give_back(self, entry: Entry, pieces: int = 1) -> Collected | None:
        """Close a batch that the server has not worked on: all its rows are to be sent again, in so many pieces."""
        lacking = await self._lacking(entry)
        size = -(-entry.requests // pieces)
        with ExitStack() as opened:
            files = [opened.enter_context(_Again(self._ledger)) for _ in range(pieces)]
            for number, row in enumerate(rows.read(self._ledger.path(entry.number, "rows"))):
                if row.item.key in lacking:
                    files[number // size].add(row)
            return Collected(sum(file.count for file in files)) if await self._close(entry, files) else None

    async def _lacking(self, entry: Entry) -> set[Key]:
        """Return the rows of a batch without a result: an earlier session may have been killed while collecting it."""
        keys = ((index, entry.model) for first, last in entry.rows for index in range(first, last + 1))
        return await asyncio.to_thread(self._kept.lacking, keys)

    def _settle(self, entry: Entry, row: Pending, again: _Again | None) -> None:
        if again is not None:
            again.add(row)
            return
        result = row.result
        result.endpoint, result.batch = entry.endpoint, entry.batch_id
        result.queued_at, result.started_at = entry.submitted_at or entry.packed_at, entry.started_at
        result.collected_at = self._clock.now_us()
        result.finished_at = entry.ended_at or result.collected_at
        result.total_s = (result.finished_at - result.queued_at) / 1e6
        self._emit(result)

    async def _close(self, entry: Entry, agains: list[_Again]) -> bool:
        """Make everything durable in this order: results, rows to be sent again, and then the word that it is done."""
        if not await self._kept.secure():
            return False
        entry.again = [[number, again.count] for again in agains if (number := again.keep()) is not None]
        entry.collected_at = self._clock.now_us()
        self._ledger.collected(entry)
        return True

    def _lines(self, entry: Entry) -> Iterator[dict[str, Any]]:
        """Yield the lines of the output and error files; a last one that was cut off is none."""
        for kind in ("output", "errors"):
            path = self._ledger.path(entry.number, kind)
            if not path.exists():
                continue
            with open(path, "rb", rows.READ_BYTES) as file:
                for line in file:
                    try:
                        value = decode(line)
                    except (ValueError, RecursionError):
                        value = None
                    if isinstance(value, dict):
                        yield value
                    else:
                        self._note(f"batch {entry.batch_id} has a line in its {kind} file that is no JSON object")


@contextmanager
def _at_full_speed() -> Iterator[None]:
    """Let the garbage collector look for circles less often: there are none, and it takes a sixth of the time."""
    thresholds = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


class _Again:
    """A file of rows to be sent again; none, where there are no such rows. Use it as a context manager."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self.count = 0

    def __enter__(self) -> _Again:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, row: Pending) -> None:
        if self._file is None:
            self._number = self._ledger.new_again()
            self._path = self._ledger.again_path(self._number)
            self._file = open(_unfinished(self._path), "wb", 1 << 18)  # noqa: SIM115 - `__exit__` closes it
        self._file.write(row.line())
        self.count += 1

    def keep(self) -> int | None:
        """Make the file durable and return its number; None: there is none."""
        if self._file is None or self._path is None:
            return None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        _unfinished(self._path).replace(self._path)
        sync_folder(self._path.parent)
        return self._number


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")
