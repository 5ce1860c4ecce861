"""What is wrong in a file or an option: where, and in words for the person who wrote it."""

from __future__ import annotations

import difflib
import json
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import PydanticCustomError

from runner import addresses
from runner.errors import SpecError

At = tuple[str | int, ...]
"""The way to a value: `("output", "labels", 1)`."""

MAX_SHOWN = 30  # problems printed; a list of 5,000 unquoted labels is one mistake, not 5,000
MAX_EXCERPT = 100

_KEY_LIKE = re.compile(r"sk-[A-Za-z0-9_-]{8,}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file or an option.

    Attributes:
        message: what is wrong, without the place.
        place: the file as shown to the user, or the option, such as ``--set limits.concurrency=8``.
        line: 1-based; 0 where there is none.
        column: 1-based; 0 where there is none.
        excerpt: the line it stands in; None where there is none, or where it may hold a secret.
        hint: what to do about it.
    """

    message: str
    place: str
    line: int = 0
    column: int = 0
    excerpt: str | None = None
    hint: str | None = None

    @property
    def where(self) -> str:
        return f"{self.place}:{self.line}:{self.column}" if self.line else self.place

    def __str__(self) -> str:
        lines = [self.message, f"  --> {self.where}"]
        if self.line and self.excerpt is not None:
            number = str(self.line).rjust(2)
            gutter = " " * len(number)
            text, pad = _window(self.excerpt, self.column)
            lines += [f"{gutter} |", f"{number} | {text}".rstrip(), f"{gutter} | {' ' * pad}^"]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class SpecErrors(SpecError):  # noqa: N818 - several of them
    """Everything that is wrong with a job: all problems at once.

    Printed after ``error: ``, it reads as one error per problem, with a blank line between.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(first.message, where=first.where, hint=first.hint)

    def __str__(self) -> str:
        shown = [str(problem) for problem in self.problems[:MAX_SHOWN]]
        if len(self.problems) > MAX_SHOWN:
            shown.append(f"and {len(self.problems) - MAX_SHOWN:,} more problems")
        return "\n\nerror: ".join(shown)

    def __reduce__(self) -> tuple[type[SpecErrors], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


def in_order(problems: list[Problem]) -> list[Problem]:
    """As they stand in their file; those without a line last."""
    return sorted(problems, key=lambda problem: (not problem.line, problem.line, problem.column))


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the text; both numbers count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What a validator has to say, in words for the user.

    Attributes:
        text: follows the name of the key: "must be …"; or, with `whole`, the whole message.
        at: the way from the validated value to what is wrong in it.
        on_key: point at the key rather than the value.
    """

    text: str
    at: At = ()
    hint: str | None = None
    on_key: bool = False
    whole: bool = False


def complain(findings: Sequence[Finding]) -> None:
    """Raise what pydantic turns into a validation error, if there is anything to say."""
    if findings:
        # Braces would be read as a template for the context.
        text = "; ".join(finding.text for finding in findings).replace("{", "(").replace("}", ")")
        raise PydanticCustomError("findings", text, {"findings": tuple(findings)})


@dataclass(frozen=True, slots=True)
class Hint:
    """Goes into a field's `Annotated`: the hint for a value out of bounds."""

    text: str


def dotted(at: At) -> str:
    """`("output", "labels", 1)` as `output.labels[1]`."""
    text = ""
    for step in at:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def display(path: Path) -> str:
    """The path as the user would write it: relative to the current folder where it lies below."""
    try:
        return path.absolute().relative_to(Path.cwd()).as_posix()
    except (ValueError, OSError):
        return str(path)


def typed(path: Path) -> str:
    """Return a path as it can be typed into a shell from here."""
    return shlex.quote(display(path))


def mask(text: str) -> str:
    """The text without anything that looks like an API key, or like a secret in an address."""
    return addresses.masked(_KEY_LIKE.sub("sk-***", text))


def say(value: object) -> str:
    """A wrong value as an error names it, short and without secrets."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = json.dumps(mask(value) if isinstance(value, str) else value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:56]}…{text[-1] if isinstance(value, str) else ''}"


def suggest(word: object, known: Iterable[str]) -> str | None:
    """`did you mean …?`, or None if nothing is near."""
    names = [name for name in known if name]
    near = difflib.get_close_matches(str(word).lower(), [name.lower() for name in names], n=1, cutoff=0.6)
    if not near:
        return None
    name = next(name for name in names if name.lower() == near[0])
    return f"did you mean `{name}`?"


def listed(names: Iterable[str], last: str = "and") -> str:
    """`a`, `b` and `c`."""
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {last} {quoted[-1]}" if quoted else "none"


def _window(line: str, column: int) -> tuple[str, int]:
    """The part of the line around the column, and how many cells to the left of the caret."""
    text = mask("".join(" " if ch == "\t" else "?" if unicodedata.category(ch) == "Cc" else ch for ch in line))
    at = max(0, column - 1)
    if len(text) > MAX_EXCERPT:
        start = max(0, min(at - MAX_EXCERPT // 2, len(text) - MAX_EXCERPT))
        end = start + MAX_EXCERPT
        before, after = "…" if start else "", "…" if end < len(text) else ""
        text, at = f"{before}{text[start:end]}{after}", at - start + len(before)
    pad = sum(2 if unicodedata.east_asian_width(ch) in "WF" else 1 for ch in text[:at])
    return text, pad + max(0, at - len(text))
