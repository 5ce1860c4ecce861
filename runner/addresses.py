"""Which parts of an address (a URL) look like secrets, so that a file can be refused and a message masked."""

from __future__ import annotations

import re
from collections.abc import Iterator

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

_ADDRESS = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*)://|\$\{\w+\})([^\s\"'<>`]+)")
_PIECE = re.compile(r"\$\{\w+\}|[^/?&=:@,#;{}\[\]()|$\\]+")
_NAMES_A_SECRET = re.compile(r"key|token|secret|pass|auth|sig|credential", re.IGNORECASE)
_LONGEST_WORD = 20
_SHORTEST_CODE = 6


def secret_parts(address: str) -> list[tuple[int, int]]:
    """Return where the parts of an address stand that look like secrets: each from, and up to but without.

    That is a password before the `@`, the value of a parameter named like a secret, and what is no word: long, or
    letters mixed with digits, as keys and UUIDs are. `${NAME}` is none. The host of a web address is public; of other
    addresses, such as Apprise's, even that may be a key.
    """
    match = _ADDRESS.match(address)
    if match is None:
        return []
    start, text = match.start(2), match[2]
    user, at, _ = re.split(r"[/?#]", text, maxsplit=1)[0].rpartition("@")
    login = len(user + at)
    web = match[1] is None or match[1].lower() in ("http", "https")
    found = []
    for piece in _PIECE.finditer(text):
        if piece[0].startswith("${"):
            continue
        before = text[: piece.start()]
        password = piece.end() <= len(user) and ":" in before
        named = re.search(r"([^?&=/]+)=$", before)
        host = web and piece.start() >= login and not re.search(r"[/?#]", before[login:])
        if password or (named and _NAMES_A_SECRET.search(named[1])) or (not host and _is_code(piece[0])):
            found.append((start + piece.start(), start + piece.end()))
    return found


def _is_code(piece: str) -> bool:
    words = re.split(r"[-_.~+%*]", piece)
    return any(len(word) > _LONGEST_WORD or (len(word) >= _SHORTEST_CODE and _is_mixed(word)) for word in words)


def _is_mixed(word: str) -> bool:
    return any(letter.isdigit() for letter in word) and any(letter.isalpha() for letter in word)


def masked(text: str) -> str:
    """Return a text of the same length, in which the secret parts of addresses are asterisks."""
    out = list(text)
    for first, end in _secrets_in(text):
        out[first:end] = "*" * (end - first)
    return "".join(out)


def _secrets_in(text: str) -> Iterator[tuple[int, int]]:
    for address in _ADDRESS.finditer(text):
        for first, end in secret_parts(address[0]):
            yield address.start() + first, address.start() + end
