"""What becomes of each batch of a run, written down before it happens: a JSON file for each, in the run's `batches/`.

A batch is `packed` (its files are complete on this disk), `submitting` (it may exist at the server, under our `key` in
its metadata), `submitted` (its id is known), `ended` (the server is done with it) and `collected` (each of its rows has
a result, or stands in a file of rows to be sent again). Beside the entries lie their files:

    batch-00001.json            the entry
    batch-00001.rows.jsonl      its rows, in the order of its requests; until they are accounted for
    batch-00001.requests.jsonl  what is uploaded; until the server has it
    batch-00001.output.jsonl    answers, while they are collected; `errors` in the same way
    again-00001.jsonl           rows to be sent again; until another batch has taken them over
"""

from __future__ import annotations

import json
import re
import uuid
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from runner import atomic
from runner.budget import Amount
from runner.errors import FatalError
from runner.records import Key

FOLDER = "batches"
_FILES = ("rows", "requests", "output", "errors")
_NUMBERED = re.compile(r"(?:batch|again)-(\d+)\.(?:[a-z]+\.)?jsonl?")

Ranges = list[list[int]]
"""First and last of each unbroken sequence of numbers, both included."""


@dataclass
class Entry:
    """One batch.

    Attributes:
        key: our own id of it, in the metadata that the server keeps; a new one for each time it is created.
        model: which of the job's models its rows are asked of.
        rows: the indices of its rows.
        tokens: what it is thought to take of the endpoint's enqueued tokens.
        most_usd: the most that it may cost; with `most_tokens` for budgets.
        continues: of which files of rows to be sent again it took over how many, counted from the file's beginning.
        file_id: its input file at the server; None: there is none, or none any more.
        refused: how often in a row the server had no room for it.
        status: the server's last word of it.
        again: the files of its rows that had to be sent again, each with how many it holds.
        packed_at: like all times in microseconds since 1970 (UTC); the server's word but for this and `collected_at`.
    """

    number: int
    endpoint: str
    model: int
    requests: int
    tokens: int
    rows: Ranges
    most_usd: float = 0.0
    most_tokens: int = 0
    continues: list[list[int]] = field(default_factory=list)
    state: str = "packed"
    key: str = ""
    file_id: str | None = None
    batch_id: str | None = None
    status: str | None = None
    refused: int = 0
    done: int = 0
    failed: int = 0
    again: list[list[int]] = field(default_factory=list)
    packed_at: int = 0
    submitted_at: int | None = None
    started_at: int | None = None
    ended_at: int | None = None
    collected_at: int | None = None
    expires_at: int | None = None

    @property
    def most(self) -> Amount:
        """The most that it may take of a budget."""
        return Amount(self.most_usd, self.most_tokens)

    @property
    def open(self) -> bool:
        """Whether some of its rows may still get a result from it."""
        return self.state != "collected"

    @property
    def at_server(self) -> bool:
        """Whether the server may be working on it."""
        return self.state in ("submitting", "submitted")


class Ledger:
    """The batches of one run. Belongs to whoever holds the run's lock.

    Raises:
        FatalError: an entry cannot be read.
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self.folder.mkdir(exist_ok=True)
        self.entries = list(read(folder))
        self._numbers = self._agains = 0
        for path in self.folder.glob("*.tmp"):
            path.unlink()
        self._tidy()
        self._check()

    def _tidy(self) -> None:
        """Delete what a crash left behind: files of a batch that was never packed, or that is through."""
        open_numbers = {entry.number for entry in self.open}
        for number, path in _numbered(self.folder, "batch-*.*.jsonl"):
            if number not in open_numbers:
                path.unlink()
        waiting = self._waiting()
        for number, path in _numbered(self.folder, "again-*.jsonl"):
            if number not in waiting:
                path.unlink()

    def _check(self) -> None:
        for entry in self.open:
            needed = ["rows"] if entry.file_id or entry.state not in ("packed", "submitting") else ["rows", "requests"]
            for path in [self.path(entry.number, kind) for kind in needed]:
                if not path.exists():
                    raise FatalError(
                        f"a file of batch {entry.number} is missing, which has not been collected",
                        kind="damaged_ledger",
                        where=str(path),
                        hint=f"restore it from a copy, or delete {self.entry_path(entry.number)} "
                        "to have its rows sent, and paid, again",
                    )

    def _waiting(self) -> set[int]:
        """Return the files of rows to be sent again that no batch has taken over to their end."""
        left = [pair for entry in self.entries if not entry.open for pair in entry.again]
        return {number for number, count in left if self.taken(number) < count}

    def taken(self, again: int) -> int:
        """Return how many rows of a file of rows to be sent again are in other batches by now."""
        return max((count for entry in self.entries for number, count in entry.continues if number == again), default=0)

    def add(self, entry: Entry) -> None:
        """Take in a batch that was packed; from now on its rows are in it, and nowhere else."""
        self.save(entry)
        self.entries.append(entry)
        waiting = self._waiting()
        for number, _ in entry.continues:
            if number not in waiting:
                self.again_path(number).unlink(missing_ok=True)

    def save(self, entry: Entry) -> None:
        """Write an entry down, durably."""
        atomic.write_text(self.entry_path(entry.number), json.dumps(asdict(entry), indent=1) + "\n")

    def collected(self, entry: Entry) -> None:
        """Close an entry whose rows are all accounted for; its files are not needed any more."""
        entry.state = "collected"
        self.save(entry)
        for kind in _FILES:
            self.path(entry.number, kind).unlink(missing_ok=True)

    def entry_path(self, number: int) -> Path:
        """Return where the entry of a batch lies."""
        return self.folder / f"batch-{number:05d}.json"

    def path(self, number: int, kind: str) -> Path:
        """Return where one of the files of a batch lies, such as its `rows`."""
        return self.folder / f"batch-{number:05d}.{kind}.jsonl"

    def again_path(self, number: int) -> Path:
        """Return where a file of rows to be sent again lies."""
        return self.folder / f"again-{number:05d}.jsonl"

    def new_number(self) -> int:
        """Return a number that no batch has had."""
        self._numbers = max([self._numbers, *(entry.number for entry in self.entries)]) + 1
        return self._numbers

    def new_again(self) -> int:
        """Return a number that no file of rows to be sent again has had."""
        self._agains = max([self._agains, *(number for entry in self.entries for number, _ in entry.again)]) + 1
        return self._agains

    @property
    def open(self) -> list[Entry]:
        """The batches that may still bring results."""
        return [entry for entry in self.entries if entry.open]

    def waiting_again(self) -> list[int]:
        """Return the files with rows to be sent again that are in no other batch, in order."""
        return sorted(number for number in self._waiting() if self.again_path(number).exists())


def read(folder: Path) -> Iterator[Entry]:
    """Yield the batches of a run in order, as they were last written down.

    Args:
        folder: the run's.

    Raises:
        FatalError: an entry cannot be read.
    """
    for _, path in sorted(_numbered(folder / FOLDER, "batch-*.json")):
        try:
            yield Entry(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise FatalError(
                f"this record of a batch cannot be read: {error}",
                kind="damaged_ledger",
                where=str(path),
                hint="restore it from a copy: it says which batch of the server's holds paid answers",
            ) from None


def has_open(folder: Path) -> bool:
    """Whether a run has rows in batches: answers may come, or rows wait to be sent again."""
    return any(entry.open for entry in read(folder)) or any((folder / FOLDER).glob("again-*.jsonl"))


def _numbered(folder: Path, names: str) -> Iterator[tuple[int, Path]]:
    """Yield the numbers and paths of files; a copy that somebody made beside one is none of ours."""
    for path in folder.glob(names):
        if (named := _NUMBERED.fullmatch(path.name)) is not None:
            yield int(named[1]), path


def new_key() -> str:
    """Return an id that no other batch has."""
    return uuid.uuid4().hex


class Claims:
    """The rows that are in batches, so that they are not sent in another way."""

    def __init__(self) -> None:
        self._first: dict[int, list[int]] = {}
        self._last: dict[int, list[int]] = {}

    def add(self, model: int, ranges: Iterable[Iterable[int]]) -> None:
        """Take in the indices of a model's rows; they overlap with none that were added before."""
        known = zip(self._first.get(model, ()), self._last.get(model, ()), strict=True)
        both = sorted([*map(tuple, ranges), *known])
        self._first[model] = [first for first, _ in both]
        self._last[model] = [last for _, last in both]

    def __contains__(self, key: Key) -> bool:
        index, model = key
        firsts = self._first.get(model)
        if not firsts:
            return False
        place = bisect_right(firsts, index) - 1
        return place >= 0 and index <= self._last[model][place]
