"""Count repeated ids exactly, however many there are, in little memory."""

from __future__ import annotations

import tempfile
from hashlib import blake2b
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc

from runner.temporary import room_for_files

_DIGEST_BYTES = 8
_WRITE_AT = 8192
_READ_BYTES = 1 << 20
_IDS_PER_PASS = 1 << 17


class Repeats:
    """Keeps an 8-byte digest of every id in a temporary file without a name.

    The digests are then counted in passes, each over those that share their last bits, so that a pass has few distinct
    values to remember. Among ten million ids two digests are equal by chance with a probability of 3 in a million.
    """

    def __init__(self) -> None:
        with room_for_files("the ids cannot be counted"):
            self._file = tempfile.TemporaryFile(prefix="runner-ids-", buffering=0)  # noqa: SIM115 - `__exit__` closes it
        self._waiting: list[bytes] = []
        self._count = 0

    def __enter__(self) -> Repeats:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, text: str) -> None:
        waiting = self._waiting
        waiting.append(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest())
        if len(waiting) >= _WRITE_AT:
            self._flush()

    def add_digests(self, digests: bytes) -> None:
        """Add ids by their digests, 8 bytes each."""
        self._waiting.append(digests)
        self._flush()

    def count(self) -> int:
        """How many of the ids were there before."""
        self._flush()
        passes = 1
        while passes * _IDS_PER_PASS < self._count:
            passes *= 2
        distinct = sum(self._distinct(passes, turn) for turn in range(passes))
        pa.default_memory_pool().release_unused()
        return self._count - distinct

    def _flush(self) -> None:
        with room_for_files("the ids cannot be counted"):
            unwritten = memoryview(b"".join(self._waiting))
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
        self._count += sum(map(len, self._waiting)) // _DIGEST_BYTES
        self._waiting.clear()

    def _distinct(self, passes: int, turn: int) -> int:
        mask, wanted = pa.scalar(passes - 1, pa.uint64()), pa.scalar(turn, pa.uint64())
        chosen = []
        self._file.seek(0)
        while chunk := self._file.read(_READ_BYTES):
            digests = pa.Array.from_buffers(pa.uint64(), len(chunk) // _DIGEST_BYTES, [None, pa.py_buffer(chunk)])
            chosen.append(digests.filter(pc.equal(pc.bit_wise_and(digests, mask), wanted)) if passes > 1 else digests)
        found = pa.chunked_array(chosen, pa.uint64()).combine_chunks()
        in_order = found.take(pc.array_sort_indices(found))  # Arrow's own count takes 50 MB for its table
        return len(found) and 1 + (pc.sum(pc.not_equal(in_order[1:], in_order[:-1])).as_py() or 0)
