"""Find the files that a job's `path` names, and tell what kind each one is."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from runner.dataset.nearest import nearest
from runner.dataset.settings import Format, InputSettings, NoFile, WrongSetting
from runner.errors import InputError

Packing = Literal["", ".gz", ".zst"]

_EXTENSIONS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}


@dataclass(frozen=True, slots=True)
class Source:
    """One input file.

    Attributes:
        path: where it is.
        name: the path as the user would write it: relative to the project root where it lies below it.
        packing: how it is compressed, as the extension that says so.
    """

    path: Path
    name: str
    format: Format
    packing: Packing


def find_sources(spec: InputSettings, root: Path) -> tuple[Source, ...]:
    """Every file that `spec.path` names, once each: in the order of the list, and sorted within a glob.

    Raises:
        InputError: nothing matches, or a file is missing, not a file, unreadable or of an unknown kind.
    """
    paths = dict.fromkeys(path for pattern in spec.path for path in expand(pattern, root))
    return tuple(_source(path, spec, root) for path in paths)


def display_name(path: Path, root: Path) -> str:
    """The path as a user at the project root would write it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def expand(pattern: str, root: Path) -> list[Path]:
    """Every file that one path or pattern names, sorted.

    Raises:
        NoFile: there is none yet.
        WrongSetting: it names something that is no file, or that may not be looked at.
    """
    try:
        return _expanded(pattern, root)
    except OSError as error:  # a folder that may not be searched, a name that is too long
        raise WrongSetting("path", f"`{pattern}` cannot be looked for: {error.strerror or error}") from error


def _expanded(pattern: str, root: Path) -> list[Path]:
    literal = Path(os.path.normpath(root / pattern))
    if literal.is_file():
        return [literal]
    if glob.has_magic(pattern) and not literal.exists():
        folder = glob.escape(str(root))
        found = sorted(glob.glob(os.path.join(folder, pattern), recursive=True))  # noqa: PTH118, PTH207 - any pattern
        files = [Path(os.path.normpath(path)) for path in found if Path(path).is_file()]
        if not files:
            raise NoFile("path", f"no file matches `{pattern}`", hint=_hint_for_glob(pattern, root) or None)
        return files
    if literal.is_dir():
        raise WrongSetting("path", f"`{pattern}` is a folder", hint=_hint_for_folder(pattern, literal))
    if literal.exists():
        raise WrongSetting(
            "path", f"`{pattern}` is not a regular file", hint="the input is read twice: save it to a file first"
        )
    raise NoFile("path", f"there is no file `{pattern}`", hint=_hint_for_missing(literal, root) or None)


def _hint_for_missing(path: Path, root: Path) -> str:
    """The nearest name in the deepest folder of the path that exists."""
    while not path.parent.is_dir():
        path = path.parent
    names = {entry.name: entry for entry in _entries(path.parent)}
    hint = nearest(path.name, names)
    if hint.startswith("did you mean"):
        for name in sorted(names, key=len, reverse=True):
            hint = hint.replace(f"`{name}`", f"`{display_name(names[name], root)}`")
        return hint
    folder = display_name(path.parent, root)
    place = "the project root" if folder == "." else f"`{folder}`"
    return f"paths are relative to the project root; in {place} {hint}" if hint else f"{place} is empty"


def _hint_for_glob(pattern: str, root: Path) -> str:
    fixed = Path(*_until_magic(Path(pattern).parts))
    return _hint_for_missing(Path(os.path.normpath(root / fixed / Path(pattern).name)), root)


def _until_magic(parts: tuple[str, ...]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part


def _hint_for_folder(pattern: str, folder: Path) -> str:
    for entry in _entries(folder):
        inner = Path(entry.name)
        kind = inner.with_suffix("").suffix + inner.suffix if inner.suffix in (".gz", ".zst") else inner.suffix
        if kind.removesuffix(".gz").removesuffix(".zst") in _EXTENSIONS:
            return f"name its files, for instance `{pattern.rstrip('/')}/*{kind}`"
    return "name the files in it"


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        return []


def _source(path: Path, spec: InputSettings, root: Path) -> Source:
    name = display_name(path, root)
    form, packing = kind_of(path, spec.format, name)
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"`{name}` cannot be read: {error.strerror}", where=name) from error
    return Source(path, name, form, packing)


def kind_of(path: Path, given: Format | None, name: str) -> tuple[Format, Packing]:
    """What kind of file a name stands for: its format, unless one is given, and how it is packed.

    Raises:
        WrongSetting: the name does not tell.
    """
    suffix = path.suffix.lower()
    packing: Packing = next((known for known in get_args(Packing) if known and known == suffix), "")
    kind = Path(path.stem).suffix.lower() if packing else suffix
    form = given or _EXTENSIONS.get(kind)
    if form is None:
        raise WrongSetting(
            "path",
            f"the name `{name}` does not tell what kind of file it is",
            hint=f"add `format:` with one of {', '.join(get_args(Format))}",
        )
    return form, packing
