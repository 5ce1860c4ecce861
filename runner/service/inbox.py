"""The folder that job files are dropped into, to be submitted."""

from __future__ import annotations

from pathlib import Path

from runner.service.folder import ENDINGS, Stamp

INBOX = "inbox"
"""The folder in `jobs/` that is watched."""

TAKEN = "taken"
REFUSED = "refused"
"""The folders in it where files go that were submitted, and that cannot be."""


class Inbox:
    """A folder into which job files are dropped. Each is taken once it has stopped changing, and moved away then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[Path, Stamp] = {}

    def ready(self) -> list[tuple[Path, str]]:
        """Return the files that are as they were at the last look, each with a token that tells it from all others.

        Files that begin with a dot or do not end as job files are none: so a file can be written under another name and
        then renamed.
        """
        found = {}
        for path in sorted(self.folder.glob("*")) if self.folder.is_dir() else ():
            stamp = Stamp.of(path)
            if path.suffix in ENDINGS and not path.name.startswith(".") and path.is_file() and stamp is not None:
                found[path] = stamp
        still = [path for path, stamp in found.items() if self._seen.get(path) == stamp]
        self._seen = found
        return [(path, f"inbox:{path.name}:{'-'.join(map(str, found[path]))}") for path in still]

    def put_away(self, path: Path, where: str, name: str) -> Path:
        """Move a file into a folder of the inbox, under another name, and return where it is."""
        target = self.folder / where / name
        target.parent.mkdir(exist_ok=True)
        path.replace(target)
        return target
