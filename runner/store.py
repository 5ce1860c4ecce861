"""Keeps every result: journals while a part is open, Parquet once it is complete. Nothing else writes results.

A part is complete when the source has passed its last row and all its rows have a result. Sealing and syncing run
in one background thread, so that neither holds up the event loop nor meets the other.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from runner import journal, parts
from runner.errors import FatalError
from runner.journal import Journal
from runner.output import Output
from runner.records import BadRow, Item, Key, Result

_BALLAST_BYTES = 4 << 20
_BREATH = 500  # rows passed over before others get a turn
_LOOK_S = 0.02
_OPEN_FILES = 32  # however many parts are open: because of a slow row, or because answers come in any order


class _Marks:
    """Which places are taken: a bit for each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, place: int) -> bool:
        """Take a place; False: it was taken."""
        byte, bit = place >> 3, 1 << (place & 7)
        if byte >= len(self._bits):
            self._bits.extend(bytes(byte + 1 - len(self._bits)))
        free = not self._bits[byte] & bit
        self._bits[byte] |= bit
        return free


@dataclass(slots=True)
class _OpenPart:
    journal: Journal
    expected: int = 0  # results that the source has asked for so far, finished ones included
    finished: int = 0
    passed: bool = False  # the source is beyond its last row
    done: set[Key] = field(default_factory=set)  # what has a result from before; only while the source is in it
    stored: _Marks = field(default_factory=_Marks)  # what has a result by now


class ResultStore:
    """The results of one run. Use it as a context manager.

    Args:
        folder: the run's folder.
        metadata: written into each part.
        soon: calls a function soon, as an event loop's `call_soon` does: then the results of one turn of the loop are
            written together. None: each is written before `append` returns.
        retry: give out the failed rows of sealed parts, and merge their new results in.
        models: how many models each row is asked of; it has as many results.

    Attributes:
        found: results that were there when the store was opened.
        failure: set when the disk failed; the run should end.

    Raises:
        FatalError: the folder cannot be written to, or something in it is damaged.
    """

    def __init__(
        self,
        folder: Path,
        output: Output,
        rows_per_part: int,
        metadata: Mapping[str, Any],
        *,
        retry: bool = False,
        models: int = 1,
        soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self._folder = folder
        self._output = output
        self._rows_per_part = rows_per_part
        self._metadata = metadata
        self._retry = retry
        self._models = models
        self._open: dict[int, _OpenPart] = {}
        self._ballast = folder / ".ballast"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="seal")
        self._soon = soon
        self._unwritten: dict[int, _OpenPart] = {}
        self._writing = threading.RLock()  # what is added to a journal is written or still waits; any thread may write
        self._files: dict[int, Journal] = {}  # those that are open; the one that was written to last is at the end
        self._complete: dict[int, Journal] = {}  # those that wait to be sealed
        self._syncs: deque[Future[None]] = deque()  # that someone waits for
        self._bug: BaseException | None = None
        self._unhurried = threading.Event()  # cleared while parts are not to be sealed
        self._unhurried.set()
        self.found = 0
        self.found_failed = 0
        self.failure: FatalError | None = None
        try:
            self._recover()
            self._load_ballast()
        except OSError as error:
            raise disk_error(error, folder) from error

    def __enter__(self) -> ResultStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _recover(self) -> None:
        """Bring the folder of a killed run into order: nothing here loses a result."""
        for path in self._folder.glob("*.tmp"):
            path.unlink()
        for path in sorted(self._folder.glob("retry-*.jsonl")):
            journal.repair(path)
            parts.merge(self._folder, parts.number_of(path), self._output.schema, self._metadata)
        for path in parts.sealed(self._folder):
            about = parts.about(path)  # first: the journal of a damaged part is worth keeping
            parts.journal_path(self._folder, parts.number_of(path)).unlink(missing_ok=True)
            self.found += about["rows"]
            self.found_failed += about["failed"]
        for path in sorted(self._folder.glob("journal-*.jsonl")):
            self.found += len(journal.repair(path))

    def _load_ballast(self) -> None:
        """Keep some space back, so that what is in flight when the disk fills up can still be written."""
        descriptor = os.open(self._ballast, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.posix_fallocate(descriptor, 0, _BALLAST_BYTES)
        except OSError as error:
            self._ballast.unlink()
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # some file systems cannot keep space back
                raise
        finally:
            os.close(descriptor)

    def missing(self, rows: Iterable[Item | BadRow | None]) -> Iterator[Item | BadRow | None]:
        """Yield the rows that have no result yet, in order, once for each model that they lack one of.

        None stands for a pause after many that have one, or where there is one among `rows`. In a retry these are the
        rows that failed. An input without rows gets one part without rows, so that every finished run can be read.
        """
        current: int | None = None
        select: Callable[[Key], bool] = _nothing
        passed_over = 0
        for row in rows:
            if row is None:
                yield None
                continue
            number = row.index // self._rows_per_part
            if number != current:
                if current is not None:
                    self._leave(current)
                current = number
                select = self._enter(number)
            for model in range(self._models):
                if select((row.index, model)):
                    yield replace(row, model=model) if model else row
                else:
                    passed_over += 1
            if passed_over >= _BREATH:
                passed_over = 0
                yield None
        if current is not None:
            self._leave(current)
        elif not self._retry and not parts.part_path(self._folder, 0).exists():
            self._thread.submit(self._seal_nothing)

    def _enter(self, number: int) -> Callable[[Key], bool]:
        """Open a part, unless results have come for it before its rows did, and return what of it to give out."""
        part = parts.part_path(self._folder, number)
        if self._retry:
            failed = parts.failed(part) if part.exists() and parts.about(part).get("failed") else set()
            if not failed:
                return _nothing
            opened = self._opened(number)
            opened.expected = len(failed)
            return (failed - opened.done).__contains__
        if part.exists():
            return _nothing
        opened = self._opened(number)

        def select(key: Key) -> bool:
            opened.expected += 1
            return key not in opened.done

        return select

    def _opened(self, number: int) -> _OpenPart:
        """Return an open part with what it has results of by now."""
        self.write()
        opened = self._open.setdefault(number, _OpenPart(Journal(self._journal_path(number))))
        if opened.journal.path.exists():
            opened.done = {line.key for line in journal.lines(opened.journal.path)}
            opened.finished = len(opened.done)
            for key in opened.done:
                opened.stored.add(self._place(key))
        return opened

    def _place(self, key: Key) -> int:
        index, model = key
        return index % self._rows_per_part * self._models + model

    def _journal_path(self, number: int) -> Path:
        return (parts.retry_path if self._retry else parts.journal_path)(self._folder, number)

    def lacking(self, keys: Iterable[Key]) -> set[Key]:
        """Return those of these rows that have no result yet, or in a retry those that still have their old failure."""
        self.write()
        found: set[Key] = set()
        for number, some in groupby(sorted(keys), lambda key: key[0] // self._rows_per_part):
            lacking = set(some)
            with suppress(FileNotFoundError):  # first: it goes when the part is sealed, which may be just now
                lacking -= {line.key for line in journal.lines(self._journal_path(number))}
            part = parts.part_path(self._folder, number)
            if part.exists():
                lacking &= parts.failed(part) if self._retry else set()
            found |= lacking
        return found

    async def secure(self) -> bool:
        """Make all results durable that were appended; False: the disk failed."""
        self.write()
        await asyncio.to_thread(self.sync)
        return self.failure is None

    def _leave(self, number: int) -> None:
        part = self._open.get(number)
        if part is not None:
            part.passed = True
            part.done = set()
            with self._writing:
                self._seal_if_complete(number, part)

    def append(self, result: Result) -> bool:
        """Store a result, also before the source reaches its row.

        Once it is written, killing the process does not lose it.

        Returns:
            False: the row has a result, and keeps it. Of a row that is on its way in a batch the answer to an
            identical one may come first.

        Raises:
            FatalError: it could not be written, even with the space kept back for this.
        """
        number = result.item.index // self._rows_per_part
        row = self._output.row(result)
        with self._writing:
            part = self._open.get(number)
            if part is None:  # the source has not come to it
                if self._is_sealed(number):
                    return False
                part = self._opened(number)
                part.done = set()
            if not part.stored.add(self._place(result.item.key)):
                return False
            part.journal.add(row)
            part.finished += 1
            if self._soon is None:
                self._unwritten[number] = part
                self.write()
                if self._unwritten and self.failure is not None:
                    raise self.failure
            else:
                first = not self._unwritten
                self._unwritten[number] = part
                if first:
                    self._soon(self.write)
            self._seal_if_complete(number, part)
        return True

    def _is_sealed(self, number: int) -> bool:
        """Whether a part is not open because it is complete."""
        return number in self._complete or (not self._retry and parts.part_path(self._folder, number).exists())

    def write(self) -> None:
        """Write all results that were appended. A disk that fails is noted in `failure`."""
        with self._writing:
            self._write()

    def _write(self) -> None:
        for number, part in list(self._unwritten.items()):
            try:
                part.journal.write()
            except OSError as error:
                self._fail(error)
                try:
                    part.journal.write()  # with the space that was kept back
                except OSError:
                    continue  # once more when the store is closed
            del self._unwritten[number]
            self._files.pop(number, None)
            self._files[number] = part.journal
            if len(self._files) > _OPEN_FILES:
                self._release(next(iter(self._files)))

    def _release(self, number: int) -> None:
        """Close a journal's file, if it is open; when something is written to it, it opens again."""
        opened = self._files.pop(number, None)
        with self._noting_failures():
            if opened is not None:
                opened.release()

    def _seal_if_complete(self, number: int, part: _OpenPart) -> None:
        if not part.passed or part.finished < part.expected:
            return
        self.write()
        if not part.journal.written:
            return  # the disk failed, and the run ends
        if part.expected:  # not all its rows were left out
            self._release(number)  # many may wait
            self._complete[number] = part.journal
            self._thread.submit(self._seal, number, part.journal)
        del self._open[number]

    @contextmanager
    def hurry(self) -> Iterator[None]:
        """Seal no part in this time: many answers are waiting to be stored, and a journal keeps them as safely."""
        self._unhurried.clear()
        try:
            yield
        finally:
            self._unhurried.set()

    def _seal(self, number: int, source: Journal) -> None:
        self._sync()
        while not self._unhurried.wait(_LOOK_S):
            self._sync()
        with self._noting_failures():
            source.close()
            finish = parts.merge if self._retry else parts.seal
            finish(self._folder, number, self._output.schema, self._metadata)
            self._complete.pop(number, None)  # an unfinished retry's is not there

    def _seal_nothing(self) -> None:
        with self._noting_failures():
            parts.seal_nothing(self._folder, self._output.schema, self._metadata)

    @contextmanager
    def _noting_failures(self) -> Iterator[None]:
        """Keep what goes wrong in the thread for those who can tell of it."""
        try:
            yield
        except OSError as error:
            self._fail(error)
        except FatalError as error:
            self.failure = self.failure or error
        except BaseException as error:  # noqa: BLE001 - it is raised where someone waits: when the store is closed
            self._bug = error

    def _fail(self, error: OSError) -> None:
        """Note that the disk failed, and give back the space that was kept for what is in flight."""
        self.failure = self.failure or disk_error(error, self._folder)
        with suppress(OSError):
            self._ballast.unlink(missing_ok=True)

    def sync(self) -> None:
        """Make everything stored so far survive a power failure. Returns when that is done."""
        done: Future[None] = Future()
        self._syncs.append(done)
        self._thread.submit(self._sync)
        done.result()

    def _sync(self) -> None:
        """Sync, if someone waits for that: before each part that is to be sealed, because many may be."""
        while self._syncs:
            done = self._syncs.popleft()
            with self._noting_failures():
                for opened in [part.journal for part in list(self._open.values())] + list(self._complete.values()):
                    opened.sync()
            done.set_result(None)

    def close(self) -> None:
        """Finish sealing and sync what stays open. Results of an unfinished retry are merged."""
        try:
            self.write()
            for part in self._open.values():
                part.journal.close()
            if self._retry:
                for number, part in self._open.items():
                    if part.finished:
                        self._thread.submit(self._seal, number, part.journal)
        except OSError as error:
            self._fail(error)
        finally:
            self._open.clear()
            self._thread.shutdown(wait=True)
            with suppress(OSError):
                self._ballast.unlink(missing_ok=True)
        if self._bug is not None:
            raise self._bug


def disk_error(error: OSError, folder: Path) -> FatalError:
    """Return what to tell the user when writing fails."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return FatalError(
            f"cannot write results: {os.strerror(error.errno)}",
            kind="open_files",
            where=str(error.filename or folder),
            hint="lower `limits.concurrency`, or raise the limit on open files (`ulimit -n`), then resume",
        )
    return FatalError(
        f"cannot write results: {os.strerror(error.errno) if error.errno else error}",  # pyarrow's own text is long
        kind="disk",
        where=str(error.filename or folder),
        hint="make room or fix the folder, then resume: everything finished so far is kept",
    )


def _nothing(key: Key) -> bool:
    return False
