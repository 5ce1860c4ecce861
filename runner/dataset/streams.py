"""Open an input file as bytes or text. What can be wrong with its bytes becomes an `InputError` here, and only here."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import zstandard

from runner.dataset.files import Source
from runner.dataset.settings import WrongSetting
from runner.errors import InputError

_BUFFER_BYTES = 1 << 18
_BROKEN = (EOFError, zlib.error, zstandard.ZstdError, OSError)


@contextmanager
def open_bytes(source: Source) -> Iterator[io.BufferedReader]:
    """The file's content, decompressed.

    Raises:
        InputError: the file cannot be read, or is damaged; also for what goes wrong inside the `with`.
    """
    try:
        with _binary(source) as stream:
            yield stream
    except _BROKEN as error:
        raise _unreadable(source, error) from error


@contextmanager
def open_text(source: Source, encoding: str, newline: str) -> Iterator[io.TextIOWrapper]:
    """The file's text, without a byte order mark.

    Args:
        newline: as for `open`: ``""`` ends lines at LF, CRLF and CR, ``"\\n"`` only at LF; neither changes them.

    Raises:
        InputError: as for `open_bytes`, or the bytes are not text in `encoding`.
    """
    check_encoding(encoding)
    try:
        with open_bytes(source) as stream:
            _skip_bom(stream, encoding)
            with io.TextIOWrapper(stream, encoding=encoding, newline=newline) as text:
                yield text
    except UnicodeDecodeError as error:
        raise _not_text(source, encoding, newline) from error
    except UnicodeError as error:  # as a whole, not at a byte: `utf-16` without the mark that begins such files
        raise InputError(
            f"`{source.name}` is not {encoding.upper()} text: {error}",
            where=f"{source.name}:1",
            hint=_hint_for_encoding(source, encoding),
        ) from error


def check_encoding(encoding: str) -> None:
    """Raises InputError unless Python knows a text encoding of this name."""
    try:
        b"a".decode(encoding, "replace")
    except (LookupError, ValueError, AssertionError) as error:
        raise WrongSetting(
            "encoding",
            f"there is no text encoding named {encoding!r}",
            hint="for instance utf-8, cp1252, latin-1, utf-16, shift_jis or gb18030",
        ) from error


def _binary(source: Source) -> io.BufferedReader:
    if source.packing == ".gz":
        # GzipFile is not a RawIOBase, but has the `readinto` that a buffer needs.
        return io.BufferedReader(cast("io.RawIOBase", gzip.open(source.path)), _BUFFER_BYTES)
    if source.packing == ".zst":
        return io.BufferedReader(_Zstandard(source.path.open("rb")), _BUFFER_BYTES)
    return io.BufferedReader(io.FileIO(source.path), _BUFFER_BYTES)


class _Zstandard(io.RawIOBase):
    """All frames of a Zstandard file. The library's own reader takes a file that was cut off for a complete one."""

    _CHUNK_BYTES = 1 << 14  # small: what repeats a lot unpacks to many times its size

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            chunk = self._file.read(self._CHUNK_BYTES)
            if not chunk:
                if self._frame:
                    raise EOFError("the last frame is not complete")
                return 0
            self._ready = memoryview(self._unpack(chunk))
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _unpack(self, chunk: bytes) -> bytes:
        unpacked = []
        while chunk:
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            unpacked.append(self._frame.decompress(chunk))
            chunk = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        return b"".join(unpacked)


def _unreadable(source: Source, error: Exception) -> InputError:
    if isinstance(error, OSError) and error.errno is not None:
        return InputError(f"`{source.name}` cannot be read: {error.strerror}", where=source.name)
    kind = {".gz": "gzip", ".zst": "Zstandard"}.get(source.packing, "input")
    if isinstance(error, EOFError):
        return InputError(
            f"the {kind} file `{source.name}` is cut off: its end is missing",
            where=source.name,
            hint="copy or download it again",
        )
    return InputError(
        f"`{source.name}` is not a {kind} file, or is damaged: {error}",
        where=source.name,
        hint="copy or download it again; a file that is not compressed must not be named *.gz or *.zst",
    )


def _skip_bom(stream: io.BufferedReader, encoding: str) -> None:
    try:
        mark = "\ufeff".encode(encoding)
    except UnicodeError:
        return
    if stream.peek(len(mark))[: len(mark)] == mark:
        stream.read(len(mark))


def _not_text(source: Source, encoding: str, newline: str) -> InputError:
    """Read the file once more, to tell where it stops being text and which encoding would do."""
    place = _first_undecodable(source, encoding, newline)
    if place is None:
        return InputError(f"`{source.name}` changed while it was read", where=source.name, hint="run again")
    line, offset, byte = place
    return InputError(
        f"`{source.name}` is not {encoding.upper()} text: byte 0x{byte:02x} at offset {offset:,}",
        where=f"{source.name}:{line}",
        hint=_hint_for_encoding(source, encoding),
    )


def _hint_for_encoding(source: Source, encoding: str) -> str:
    suggestion = next((name for name in _candidates(source, encoding) if _decodes(source, name)), None)
    if suggestion is None:
        return "add `encoding:` with the encoding that the file was written in"
    return f"if it is written in {suggestion}, add `encoding: {suggestion}`"


def _first_undecodable(source: Source, encoding: str, newline: str) -> tuple[int, int, int] | None:
    """The line (1-based), the byte's offset in the decompressed file, and the byte that cannot be decoded."""
    decoder = codecs.getincrementaldecoder(encoding)()
    to_lf = io.IncrementalNewlineDecoder(None, translate=not newline)
    line, fed = 1, 0
    with _binary(source) as stream:
        while True:
            chunk = stream.read(_BUFFER_BYTES)
            pending = len(decoder.getstate()[0])
            try:
                line += to_lf.decode(decoder.decode(chunk, final=not chunk)).count("\n")
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(error.encoding, "replace")
                line += to_lf.decode(before, final=True).count("\n")
                return line, fed - pending + error.start, error.object[error.start]
            if not chunk:
                return None
            fed += len(chunk)


def _candidates(source: Source, encoding: str) -> list[str]:
    with _binary(source) as stream:
        start = stream.peek(2)[:2]
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return ["utf-16"]
    if b"\0" in start:  # the files of all formats begin with a character of ASCII, or nearly all
        return ["utf-16-be" if start.startswith(b"\0") else "utf-16-le"]
    others = ["utf-8", "cp1252", "shift_jis", "gb18030"]
    return [name for name in others if codecs.lookup(name) != codecs.lookup(encoding)]


def _decodes(source: Source, encoding: str) -> bool:
    try:
        return _first_undecodable(source, encoding, "\n") is None
    except _BROKEN:
        return False
