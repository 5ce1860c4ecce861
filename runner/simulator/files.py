"""Keeps uploaded files, and the results of batches, in a temporary folder: each is its account's alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from runner.simulator.accounts import Account
from runner.simulator.paging import page
from runner.simulator.questions import Refused

# As `FileCreateParams` of the openai SDK 3.52.0 has them.
_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_MOST_LISTED = 10_000
_LONGEST_FIELD = 10_000


@dataclass(slots=True)
class StoredFile:
    """A file that can be downloaded.

    Attributes:
        size: in bytes.
        created_at: seconds since 1970, in simulated time.
        digest: of its bytes.
        needed_by: how many batches still read it: until then its bytes stay, even when it is deleted.
        to_cut: so many of its next downloads break off half-way.
        downloads: how often it was downloaded whole.
    """

    id: str
    owner: Account
    path: Path
    name: str
    purpose: str
    size: int
    created_at: float
    digest: bytes
    needed_by: int = 0
    to_cut: int = 0
    downloads: int = 0

    def shown(self) -> dict[str, Any]:
        """The file as the API shows it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": int(self.created_at),
            "expires_at": None,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


@dataclass(frozen=True, slots=True)
class FormPart:
    """One field of a multipart form.

    Attributes:
        filename: None for a field that is no file.
        chunks: its bytes, as they come.
    """

    name: str
    filename: str | None
    chunks: AsyncIterator[bytes]


class Files:
    """Every file there is.

    Args:
        max_bytes: a larger upload is refused.
        now: seconds since 1970, in simulated time.

    Attributes:
        uploaded: how many files were uploaded.
        deleted: how many were deleted.
    """

    def __init__(self, max_bytes: int, now: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._now = now
        self._folder: TemporaryDirectory[str] | None = None
        self._files: dict[str, StoredFile] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the counters; the files stay."""
        self.uploaded = 0
        self.deleted = 0
        for stored in self._files.values():
            stored.downloads = 0

    def close(self) -> None:
        """Remove the folder and all that is in it."""
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()

    def new_path(self) -> Path:
        """Where another file can be written; it is nobody's yet."""
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="simulator-")
        return Path(self._folder.name) / uuid4().hex

    def add(self, owner: Account, path: Path, name: str, purpose: str, digest: bytes) -> StoredFile:
        """Take a file in that was written to `new_path`."""
        # No simulator gives an id that another one gave: a batch of the last one is not found by mistake.
        name_of_it = f"file-{uuid4().hex[:24]}"
        stored = StoredFile(name_of_it, owner, path, name, purpose, path.stat().st_size, self._now(), digest)
        self._files[stored.id] = stored
        return stored

    async def upload(self, owner: Account, parts: AsyncIterator[FormPart]) -> StoredFile:
        """Write an uploaded file to disk as it comes.

        Raises:
            Refused: 413, it is too large; 400, the form lacks a field, or the purpose is unknown.
        """
        path = self.new_path()
        fields: dict[str, str] = {}
        name: str | None = None
        hashed = blake2b(digest_size=16)
        size = 0
        try:
            with path.open("wb") as file:
                async for part in parts:
                    if part.name == "file":
                        name = part.filename or "upload"
                        async for chunk in part.chunks:
                            size += len(chunk)
                            if (
                                size <= self._max_bytes
                            ):  # what is too large is read to its end, so that the answer arrives
                                file.write(chunk)
                                hashed.update(chunk)
                    else:
                        fields[part.name] = await _text(part)
            self._check(name, fields.get("purpose"), size)
            stored = self.add(owner, path, name or "", fields["purpose"], hashed.digest())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self.uploaded += 1
        return stored

    def _check(self, name: str | None, purpose: str | None, size: int) -> None:
        for param, given in (("file", name), ("purpose", purpose)):
            if given is None:
                message = f"Missing required parameter: '{param}'."
                raise Refused(400, message, code="missing_required_parameter", param=param)
        if purpose not in _PURPOSES:
            known = ", ".join(f"'{each}'" for each in _PURPOSES)
            message = f"Invalid value: '{purpose}'. Supported values are: {known}."
            raise Refused(400, message, code="invalid_value", param="purpose")
        if size > self._max_bytes:
            message = f"The file is too large: {size} bytes, and at most {self._max_bytes} are allowed."
            raise Refused(413, message, code="file_too_large", param="file")
        if size == 0:
            raise Refused(400, "The file is empty.", code="empty_file", param="file")

    def get(self, owner: Account, name: str) -> StoredFile:
        """The file of this id.

        Raises:
            Refused: 404, the account has none.
        """
        stored = self._files.get(name)
        if stored is None or stored.owner is not owner:
            raise Refused(404, f"No such File object: {name}", param="id")
        return stored

    def page(self, owner: Account, query: Mapping[str, str]) -> dict[str, Any]:
        """A page of the account's files, newest first unless `order` is `asc`.

        Raises:
            Refused: 400, the query is wrong.
        """
        order = query.get("order", "desc")
        if order not in ("asc", "desc"):
            message = f"Invalid value: '{order}'. Supported values are: 'asc' and 'desc'."
            raise Refused(400, message, code="invalid_value", param="order")
        purpose = query.get("purpose")
        mine = [each for each in self._files.values() if each.owner is owner and purpose in (None, each.purpose)]
        if order == "desc":
            mine.reverse()
        return page(mine, query, _MOST_LISTED, _MOST_LISTED, StoredFile.shown)

    def delete(self, owner: Account, name: str) -> dict[str, Any]:
        """Delete a file.

        Raises:
            Refused: 404, the account has none of this id.
        """
        stored = self.get(owner, name)
        del self._files[name]
        self.deleted += 1
        self._clear(stored)
        return {"id": name, "object": "file", "deleted": True}

    def release(self, stored: StoredFile) -> None:
        """A batch that read the file has ended."""
        stored.needed_by -= 1
        self._clear(stored)

    def _clear(self, stored: StoredFile) -> None:
        if not stored.needed_by and stored.id not in self._files:
            with suppress(FileNotFoundError):
                stored.path.unlink()

    def snapshot(self) -> dict[str, int]:
        """The counters as `GET /stats` shows them."""
        results = [each for each in self._files.values() if each.purpose == "batch_output"]
        return {
            "uploaded": self.uploaded,
            "deleted": self.deleted,
            "present": len(self._files),
            "uploads_present": len(self._files) - len(results),
            "results_present": len(results),
            "results_never_downloaded": sum(not each.downloads for each in results),
        }


async def _text(part: FormPart) -> str:
    content = bytearray()
    async for chunk in part.chunks:
        if len(content) <= _LONGEST_FIELD:
            content += chunk
    return content[:_LONGEST_FIELD].decode(errors="replace")
