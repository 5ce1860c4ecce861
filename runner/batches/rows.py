"""Rows that are in a batch, or wait for one: the items, with what earlier attempts took, one JSON object a line."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.exact_json import decode, encode
from runner.records import Item, Request, Result

READ_BYTES = 1 << 20
"""What is read of a file at once: each reading lets other threads in, and waits for its turn afterwards."""

_NAMED = re.compile(rb'\{"index":(\d+),"fingerprint":"([0-9a-f]+)"')
_FORGET_AFTER = 4096  # rows taken
_SUMS = (
    "attempts", "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "cost_usd",
    "saved_usd",
)  # fmt: skip


@dataclass(slots=True)
class Pending:
    """A row on its way through batches.

    Attributes:
        result: what is known of its outcome so far; what earlier attempts took is in it.
        input_tokens: estimate of the input, in tokens.
        transient: attempts that failed without saying anything about the row.
        invalid: answers that did not fit.
    """

    result: Result
    input_tokens: int
    transient: int = 0
    invalid: int = 0

    @classmethod
    def of(cls, request: Request) -> Pending:
        """Return a row that was never sent."""
        return cls(Result(request.item, fingerprint=request.fingerprint), request.input_tokens)

    @property
    def item(self) -> Item:
        return self.result.item

    @property
    def custom_id(self) -> str:
        """What the server calls its request: no other of the batch has it."""
        return f"{self.result.fingerprint}-{self.result.item.index}"

    def line(self) -> bytes:
        """Return it as a line of a file."""
        result, item = self.result, self.result.item
        row: dict[str, Any] = {
            "index": item.index,
            "fingerprint": result.fingerprint,
            "id": item.id,
            "fields": item.fields,
            "file": item.file,
            "line": item.line,
            "model": item.model,
            "tokens": self.input_tokens,
        }
        if result.attempts or self.transient:
            row["transient"], row["invalid"] = self.transient, self.invalid
            row |= {name: value for name in _SUMS if (value := getattr(result, name)) is not None}
        return encode(row) + b"\n"


def parse(line: bytes) -> Pending:
    """Return what `Pending.line` wrote."""
    row = decode(line)
    item = Item(row["index"], row["id"], row["fields"], row["file"], row["line"], row["model"])
    result = Result(item, fingerprint=row["fingerprint"])
    if "transient" not in row:
        return Pending(result, row["tokens"])
    for name in _SUMS:
        if name in row:
            setattr(result, name, row[name])
    return Pending(result, row["tokens"], row["transient"], row["invalid"])


def add(result: Result, before: Result) -> None:
    """Add what earlier attempts of a row took to its result."""
    for name in _SUMS:
        more = getattr(before, name)
        if more is not None:
            setattr(result, name, (getattr(result, name) or 0) + more)


def read(path: Path) -> Iterator[Pending]:
    """Yield the rows of a file in order."""
    with open(path, "rb", READ_BYTES) as file:
        for line in file:
            yield parse(line)


class RowIndex:
    """The rows of one batch, to be found by their `custom_id`, each once. Use it as a context manager.

    A batch has at most 50,000 rows, so where they stand fits into memory; what they hold stays on disk.
    """

    def __init__(self, path: Path) -> None:
        self._places: dict[str, int] = {}
        self._taken = 0
        with open(path, "rb", READ_BYTES) as file:
            offset = 0
            for line in file:
                named = _NAMED.match(line)
                assert named is not None
                self._places[(b"%b-%b" % named.group(2, 1)).decode()] = offset
                offset += len(line)
            # Mapped, because each row that is read by itself would let other threads in, too.
            self._rows = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __enter__(self) -> RowIndex:
        return self

    def __exit__(self, *exception: object) -> None:
        self._rows.close()

    def __len__(self) -> int:
        """How many have not been taken."""
        return len(self._places)

    def take(self, custom_id: str) -> Pending | None:
        """Return a row; None: the batch has none of that name, or it was taken already."""
        place = self._places.pop(custom_id, None)
        if place is None:
            return None
        self._taken += 1
        if self._taken % _FORGET_AFTER == 0:
            self._rows.madvise(mmap.MADV_DONTNEED)  # what was read would count as this process's memory
        return parse(self._rows[place : self._rows.find(b"\n", place)])

    def rest(self) -> Iterator[Pending]:
        """Yield the rows that nobody took, in order."""
        for custom_id in list(self._places):
            row = self.take(custom_id)
            assert row is not None
            yield row
