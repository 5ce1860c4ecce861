"""The rows that have to be sent: those of the input that are in no batch, and those that batches gave back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from runner.batches import rows
from runner.batches.collecting import Kept
from runner.batches.ledger import Claims, Ledger
from runner.batches.packing import Packing
from runner.batches.rows import Pending
from runner.records import Item, Key, Request, Result
from runner.strategies import Emit, Requests


@dataclass(frozen=True, slots=True)
class Row:
    """A row to be sent.

    Attributes:
        again: the file of rows to be sent again that it is from, and how many rows of that are gone with it.
    """

    pending: Pending
    request: Request
    again: tuple[int, int] | None = None


class Pause:
    """Nothing to send just now."""


_PAUSE = Pause()


class RowStream:
    """What a session has to send, each row once.

    Args:
        packings: the batches that are being filled with its rows, by model.

    Attributes:
        exhausted: whether the input has no more rows; batches may still give some back.
    """

    def __init__(self, ledger: Ledger, kept: Kept, requests: Requests, packings: Mapping[int, Packing]) -> None:
        self._ledger = ledger
        self._kept = kept
        self._requests = requests
        self._packings = packings
        self._claims = _claims(ledger)
        self._next: deque[Row | Pause] = deque()  # held back, or looked at ahead of time
        self._source = self._unclaimed()
        self._again = self._sent_again()
        self._ended = False

    @property
    def exhausted(self) -> bool:
        return self._ended and not self._next

    def next_row(self) -> Row | Pause | None:
        """Return the next row to send; None: there is none now, and there may be later."""
        if self._next:
            return self._next.popleft()
        for stream in (self._again, self._source):
            row = next(stream, None)
            if row is not None:
                return row
        self._again = self._sent_again()
        self._ended = True
        return None

    def hold(self, row: Row) -> None:
        """Take a row back; it is the next one."""
        self._next.appendleft(row)

    def look_ahead(self, count: int) -> list[Row]:
        """Return rows of the input that come next, without taking them."""
        self._next.extend(islice(self._source, count))
        return [row for row in self._next if isinstance(row, Row)]

    def build(self, item: Item) -> Request | None:
        """Return a row as a request; None: it cannot be made into one, and has its result."""
        return self._requests.build(item)

    def _unclaimed(self) -> Iterator[Row | Pause]:
        """Yield the rows of the input that are in no batch."""
        while True:
            try:
                item = self._requests.next_item()
            except StopIteration:
                return
            if item is None or item.key in self._claims:
                yield _PAUSE
                continue
            request = self._requests.build(item)
            yield _PAUSE if request is None else Row(Pending.of(request), request)

    def _sent_again(self) -> Iterator[Row | Pause]:
        """Yield the rows that batches gave back, and that have no result."""
        ledger = self._ledger
        for number in ledger.waiting_again():
            path = ledger.again_path(number)
            taken = ledger.taken(number)
            keys = {row.item.key for row in islice(rows.read(path), taken, None)}
            lacking = self._kept.lacking(keys)
            model, count = None, 0
            for count, row in enumerate(rows.read(path), 1):
                model = row.item.model
                if count <= taken or row.item.key not in lacking:
                    continue
                request = self._requests.build(row.item)
                if request is not None:
                    yield Row(row, request, (number, count))
            packing = None if model is None else self._packings.get(model)
            if packing is not None and packing.continues(number):
                packing.takes_over(number, count)
            else:
                path.unlink(missing_ok=True)  # every row of it is in a batch, went live or has a result


def _claims(ledger: Ledger) -> Claims:
    """Return the rows that earlier sessions left in batches, or to be sent again."""
    claims = Claims()
    for entry in ledger.open:
        claims.add(entry.model, entry.rows)
    for number in ledger.waiting_again():
        for row in rows.read(ledger.again_path(number)):
            claims.add(row.item.model, [[row.item.index, row.item.index]])
    return claims


class LiveRows:
    """The rows that are left as what a live strategy pulls, and what it emits to. Any thread may do so."""

    def __init__(self, stream: RowStream, emit: Emit) -> None:
        self._stream = stream
        self._emit = emit
        self._turn = threading.RLock()
        self._so_far: dict[Key, Result] = {}

    def __iter__(self) -> LiveRows:
        return self

    def __next__(self) -> Request | None:
        with self._turn:
            row = self._stream.next_row()
            if row is None:
                raise StopIteration
            if isinstance(row, Pause):
                return None
            if row.pending.result.attempts:
                self._so_far[row.pending.item.key] = row.pending.result
            return row.request

    def next_item(self) -> Item | None:
        request = next(self)
        return None if request is None else request.item

    def build(self, item: Item) -> Request | None:
        return self._stream.build(item)

    def emit(self, result: Result) -> None:
        """Pass a result on, with what its row took in batches."""
        with self._turn:
            before = self._so_far.pop(result.item.key, None)
        if before is not None:
            rows.add(result, before)
        self._emit(result)
