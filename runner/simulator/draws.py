"""Random numbers that depend on nothing but what was asked: no global state, no order of arrival."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")
_BLOCK = struct.Struct("<8Q")


def digest_of(seed: int, body: bytes) -> bytes:
    """A 16-byte name for this body under this seed."""
    return blake2b(body, digest_size=16, key=str(seed).encode()[:64]).digest()


def label_of(name: bytes, purpose: str, length: int) -> str:
    """That many hexadecimal digits (at most 128), the same for the same name and purpose."""
    return blake2b(name + purpose.encode()).hexdigest()[:length]


class Draws:
    """An endless stream of numbers in [0, 1), the same for the same name and purpose.

    Args:
        name: what the numbers belong to, such as `digest_of` a body.
        purpose: streams of different purposes are independent of each other.
    """

    __slots__ = ("_block", "_key", "_left")

    def __init__(self, name: bytes, purpose: str) -> None:
        self._key = name + purpose.encode(errors="surrogatepass")  # a purpose may quote what a client sent
        self._block = 0
        self._left: list[int] = []

    def unit(self) -> float:
        """The next number, in [0, 1)."""
        if not self._left:
            block = blake2b(self._key + self._block.to_bytes(4, "little")).digest()
            self._left.extend(_BLOCK.unpack(block))
            self._block += 1
        return (self._left.pop() >> 11) * 2.0**-53

    def below(self, end: int) -> int:
        """A whole number from 0 to `end` - 1."""
        return min(int(self.unit() * end), end - 1)

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices, each as likely as the others."""
        return choices[self.below(len(choices))]
