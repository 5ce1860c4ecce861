"""Packs rows into the files of one batch: what is uploaded, and beside it the rows themselves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runner.atomic import sync_folder
from runner.batches.ledger import Entry, Ledger
from runner.batches.rows import Pending
from runner.budget import NOTHING, Amount

# What the API takes in one file; a margin is left for what counts as a byte is the server's to say.
MOST_REQUESTS = 50_000
MOST_BYTES = int(200e6 * 0.95)


@dataclass
class Sizes:
    """How large a batch may become.

    Attributes:
        tokens: of the endpoint's enqueued tokens; None: as many as there are.
    """

    requests: int = MOST_REQUESTS
    bytes: int = MOST_BYTES
    tokens: int | None = None


class Packing:
    """A batch that is being filled. Nothing of it counts before `finish`.

    Args:
        model: which of the job's models all its rows are asked of; the API takes one model a file.
        url: the path that each request goes to, such as `/v1/responses`.

    Raises:
        OSError: the disk is full, here and in all methods.
    """

    def __init__(self, ledger: Ledger, model: int, url: str, sizes: Sizes) -> None:
        self.model = model
        self.requests = 0
        self._ledger = ledger
        self._sizes = sizes
        self._number = ledger.new_number()
        self._middle = f'","method":"POST","url":"{url}","body":'.encode()
        self._paths = [ledger.path(self._number, kind) for kind in ("requests", "rows")]
        self._files: list[BinaryIO] = [open(_unfinished(path), "wb", 1 << 20) for path in self._paths]  # noqa: SIM115
        self._indices: list[list[int]] = []
        self._bytes = 0
        self._tokens = 0
        self._most = NOTHING
        self._continues: dict[int, int] = {}

    def has_room(self, body: bytes, tokens: int) -> bool:
        """Whether one more request fits; an empty batch takes any."""
        sizes = self._sizes
        if not self.requests:
            return True
        return (
            self.requests < sizes.requests
            and self._bytes + len(body) + 200 <= sizes.bytes
            and (sizes.tokens is None or self._tokens + tokens <= sizes.tokens)
        )

    def add(self, row: Pending, body: bytes, tokens: int, most: Amount) -> None:
        """Add a request.

        Args:
            tokens: what it takes of the endpoint's enqueued tokens.
            most: what it may take of a budget at most.
        """
        line = b'{"custom_id":"%b%b%b}\n' % (row.custom_id.encode(), self._middle, body)
        self._files[0].write(line)
        self._files[1].write(row.line())
        self.requests += 1
        self._bytes += len(line)
        self._tokens += tokens
        self._most += most
        index = row.item.index
        if self._indices and self._indices[-1][1] == index - 1:
            self._indices[-1][1] = index
        else:
            self._indices.append([index, index])

    def takes_over(self, again: int, count: int) -> None:
        """Note that so many rows of a file of rows to be sent again are in this batch or in earlier ones."""
        self._continues[again] = count

    def continues(self, again: int) -> bool:
        """Whether it holds rows of that file."""
        return again in self._continues

    def finish(self, now_us: int) -> Entry:
        """Make the batch durable and enter it in the ledger."""
        for file, path in zip(self._files, self._paths, strict=True):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            _unfinished(path).replace(path)
        sync_folder(self._ledger.folder)
        entry = Entry(
            self._number, "", self.model, self.requests, self._tokens, _united(self._indices),
            self._most.usd, self._most.tokens, [list(pair) for pair in self._continues.items()], packed_at=now_us,
        )  # fmt: skip
        self._ledger.add(entry)
        return entry

    def discard(self) -> None:
        """Give up what was packed; its rows were taken from nowhere yet."""
        for file, path in zip(self._files, self._paths, strict=True):
            file.close()
            _unfinished(path).unlink()


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _united(ranges: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return ranges in order, those that touch made one."""
    united: list[list[int]] = []
    for first, last in sorted(map(tuple, ranges)):
        if united and first == united[-1][1] + 1:
            united[-1][1] = last
        else:
            united.append([first, last])
    return united
