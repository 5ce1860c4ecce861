"""YAML that remembers where everything stands, so that an error can point at its line and column.

`read` parses a file into plain dicts, lists, text and numbers; `Source.problem` says what is wrong at a place in it;
`check` validates it with a pydantic model and turns every complaint into such a problem. What the values mean is left
to the models.

The dialect is YAML as PyYAML reads it, less its surprises: dates and `12:30` stay text, `007` stays text, `1e3` is a
number, a key given twice is an error. `yes` and `no` remain booleans, and where text was wanted the error says so.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import typing
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from runner.errors import SpecError

At = tuple[str | int, ...]
"""The way to a value: `("output", "labels", 1)`."""

M = TypeVar("M", bound=BaseModel)

MAX_BYTES = 1_000_000
MAX_DEPTH = 100
MAX_VALUES = 100_000
MAX_SHOWN = 30  # problems printed; a list of 5,000 unquoted labels is one mistake, not 5,000
MAX_EXCERPT = 100

# What PyYAML's reader counts as the end of a line; line numbers are only right if ours agree.
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_KEY_LIKE = re.compile(r"sk-[A-Za-z0-9_-]{8,}")


# What is wrong, and where -------------------------------------------------------------------------------------------


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


def mask(text: str) -> str:
    """The text without anything that looks like an API key."""
    return _KEY_LIKE.sub("sk-***", text)


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


# Reading ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the text; both numbers count from 1."""

    line: int
    column: int


class Source:
    """A parsed file: its tree, and where each part of it stands.

    Attributes:
        name: the file as shown to the user.
        data: the tree: dicts with text keys, lists, text, numbers, booleans and None.
        problems: what is wrong with the YAML itself, yet leaves the rest readable (a key given twice).
        private: its values may be secrets, and are never shown.
    """

    def __init__(self, name: str, text: str = "", *, private: bool = False) -> None:
        self.name = name
        self.lines = _LINE_END.split(text)
        self.private = private
        self.data: Any = {}
        self.keys: dict[At, Mark] = {}
        self.values: dict[At, Mark] = {}
        self.raw: dict[At, str] = {}
        self.problems: list[Problem] = []
        self.broken: set[At] = set()
        self.options: dict[At, str] = {}

    def problem(self, at: At, message: str, hint: str | None = None, *, on_key: bool = False) -> Problem:
        """A problem at the value (or the key) that `at` leads to, or at the nearest place above it that exists."""
        message, hint = mask(message), mask(hint) if hint else None
        for end in range(len(at), -1, -1):
            if at[:end] in self.options:
                return Problem(message, mask(self.options[at[:end]]), hint=hint)
        for end in range(len(at), -1, -1):
            here = at[:end]
            # A value that is missing is shown at the key that should hold it.
            first, second = (self.keys, self.values) if on_key or end < len(at) else (self.values, self.keys)
            mark = first.get(here) or second.get(here)
            if mark:
                return self.problem_at(mark, message, hint)
        return Problem(message, self.name, hint=hint)

    def problem_at(self, mark: Mark, message: str, hint: str | None = None) -> Problem:
        line = self.lines[mark.line - 1] if mark.line <= len(self.lines) else ""
        excerpt: str | None = line
        if self.private:
            # A secret may begin like an alias, an anchor or a tag, and PyYAML quotes what it trips over.
            message = re.sub(r"`[*&!][^`\s]+`|'[^']{2,}'", "`…`", message)
            # The key may be shown, and nothing after it.
            key = re.match(r"(\s*[\w.-]+:)(.*)", line)
            excerpt = None
            if key and mark.column <= len(key[1]) + 2:
                excerpt = f"{key[1]} …" if key[2].strip() else key[1]
        return Problem(mask(message), self.name, mark.line, mark.column, excerpt, hint)

    def complain(self, at: At, message: str, hint: str | None = None, *, on_key: bool = False) -> None:
        self.problems.append(self.problem(at, message, hint, on_key=on_key))
        self.broken.add(at)

    def set(self, key: str, text: str) -> None:
        """Put a value in place of what the file says, as `--set key=text` asks.

        Raises:
            SpecErrors: the text is not YAML, or the key leads through a value that has no keys.
        """
        option = f"--set {key}={text}"
        at: At = tuple(key.split("."))
        given = parse(text if text.strip() else "null", option, option=True)
        value = given.data
        tree: Any = self.data
        for depth, step in enumerate(at[:-1]):
            if isinstance(tree, list) and str(step).isdigit() and int(step) < len(tree):
                at = (*at[:depth], int(step), *at[depth + 1 :])
                tree = tree[int(step)]
            elif isinstance(tree, dict):
                if tree.get(step) is None:
                    tree[step] = {}
                tree = tree[step]
            else:
                break
        last = at[-1]
        if isinstance(tree, dict) and last:
            tree[last] = value
        elif isinstance(tree, list) and str(last).isdigit() and int(last) < len(tree):
            at = (*at[:-1], int(last))
            tree[int(last)] = value
        else:
            message = f"`{key}` leads to no key of the job file"
            raise SpecErrors([Problem(mask(message), mask(option))])
        self.options[at] = option
        self.broken -= {path for path in self.broken if path[: len(at)] == at}
        self.raw = {path: raw for path, raw in self.raw.items() if path[: len(at)] != at}
        self.raw |= {(*at, *path): raw for path, raw in given.raw.items() if text.strip()}


def read(path: Path, *, what: str = "job file", private: bool = False, may_be_empty: bool = False) -> Source:
    """Parse a YAML file whose top level is a mapping.

    Args:
        what: what the file is, in messages.
        private: its values may be secrets, and are never shown.

    Raises:
        SpecErrors: the file cannot be read, or is not YAML.
    """
    name = display(path)
    text = read_text(path, what=what)
    return parse(text, name, what=what, private=private, may_be_empty=may_be_empty)


def read_text(path: Path, *, what: str = "file", max_bytes: int | None = MAX_BYTES) -> str:
    """The text of a small UTF-8 file.

    Raises:
        SpecErrors: with one clear sentence for a missing file, a folder, other bytes than UTF-8, or too many of them.
    """
    name = display(path)

    def stop(message: str, hint: str | None = None, mark: Mark | None = None) -> SpecErrors:
        line, column = (mark.line, mark.column) if mark else (0, 0)
        return SpecErrors([Problem(message, name, line, column, hint=hint)])

    try:
        if path.is_dir():
            inside = sorted(file.name for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
            raise stop(f"this is a folder, not a {what}", f"it holds {listed(inside[:5])}" if inside else None)
        with path.open("rb") as file:
            raw = file.read() if max_bytes is None else file.read(max_bytes + 1)
    except FileNotFoundError:
        near = path.parent.is_dir() and suggest(path.name, sorted(file.name for file in path.parent.iterdir()))
        raise stop(f"there is no such {what}", near or None) from None
    except PermissionError:
        raise stop(f"the {what} may not be read", "check its permissions") from None
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise stop(f"the {what} cannot be read: {reason}") from None
    if max_bytes is not None and len(raw) > max_bytes:
        raise stop(f"the {what} is larger than {max_bytes / 1e6:g} MB", "is this the dataset?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace")
        lines = _LINE_END.split(before)
        raise stop(
            f"the {what} is not UTF-8 text: the byte 0x{raw[error.start]:02x} cannot stand here",
            "save it as UTF-8",
            Mark(len(lines), len(lines[-1]) + 1),
        ) from None


def parse(
    text: str,
    name: str,
    *,
    what: str = "job file",
    private: bool = False,
    may_be_empty: bool = False,
    option: bool = False,
) -> Source:
    """Parse YAML text; see `read`.

    Args:
        name: what to call the text in messages.
        option: the text is the value of an option: it may be anything, and has no lines to show.
    """
    name = mask(name) if option else name
    source = Source(name, text, private=private)
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        before = _LINE_END.split(text[: error.position])
        mark = Mark(len(before), len(before[-1]) + 1)
        code = error.character if isinstance(error.character, int) else ord(error.character)
        message = f"the character U+{code:04X} cannot stand in YAML"
        raise _stop(source, mark, message, f'write it as "\\x{code:02x}" in double quotes', option) from None
    try:
        node = loader.get_node() if loader.check_node() else None
        if node is not None and loader.check_node():
            mark = _mark(loader.peek_event().start_mark)  # type: ignore[no-untyped-call]
            raise _stop(source, mark, "there is a second document here", "keep one: a `---` starts another", option)
    except _TooDeepError as error:
        message = f"the {what} is nested more than {MAX_DEPTH} levels deep"
        raise _stop(source, _mark(error.mark), message, None, option) from None
    except yaml.MarkedYAMLError as error:
        mark, message, hint = _explain(error, source)
        raise _stop(source, mark, message, hint, option) from None
    except (ValueError, OverflowError):  # PyYAML lets "\\UFFFFFFFF" fall through
        mark = Mark(loader.line + 1, loader.column + 1)
        raise _stop(source, mark, "this escape names no character", None, option) from None
    if node is None or (not option and _is_null(node)):
        if not may_be_empty:
            raise SpecErrors([Problem(f"the {what} is empty", name, hint="the keys are listed in docs/job-file.md")])
        return source
    build = _Builder(loader, source)
    source.data = build.value(node, ())
    if option:
        if source.problems:
            raise SpecErrors(Problem(problem.message, name, hint=problem.hint) for problem in source.problems)
    elif not isinstance(source.data, dict):
        kind = "a list" if isinstance(source.data, list) else "text" if isinstance(source.data, str) else "a value"
        raise SpecErrors([source.problem((), f"the {what} must be a mapping (`key: value` lines), got {kind}")])
    return source


def _stop(source: Source, mark: Mark, message: str, hint: str | None, option: bool) -> SpecErrors:
    problem = source.problem_at(mark, message, hint)
    return SpecErrors([replace(problem, line=0, column=0, excerpt=None) if option else problem])


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "null"


def _mark(mark: yaml.Mark) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


# Parsing ------------------------------------------------------------------------------------------------------------

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$")
_FLOAT = re.compile(
    r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
    r"|\.inf|\.Inf|\.INF)$|^\.(?:nan|NaN|NAN)$"
)


class _TooDeepError(Exception):
    def __init__(self, mark: yaml.Mark) -> None:
        self.mark = mark


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, used for its nodes, with fewer surprises in plain scalars."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _TooDeepError(self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag.removeprefix(_TAG) in ("bool", "null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_TAG + "int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+.0123456789"))


class _Dumper(yaml.SafeDumper):
    """Writes what both PyYAML and this module read back as it was: it quotes what either would misread."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+.0123456789"))


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if any(ch in text for ch in "\r\x85\u2028\u2029\ufeff"):
        style = '"'  # YAML would turn these into line feeds
    elif "\n" in text:
        style = "|"  # PyYAML itself falls back to quotes where a block cannot hold the text
    return dumper.represent_scalar(_TAG + "str", text, style=style)


def _represent_float(dumper: yaml.SafeDumper, number: float) -> yaml.ScalarNode:
    if number.is_integer() and abs(number) < 1e15:
        return dumper.represent_int(int(number))
    return dumper.represent_float(number)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(float, _represent_float)


def dump(data: Mapping[str, Any]) -> str:
    """YAML text that `parse` reads back as the same tree."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Builder:
    """Turns PyYAML's nodes into plain values, and notes where each stands."""

    def __init__(self, loader: _Loader, source: Source) -> None:
        self._loader = loader
        self._source = source
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: yaml.Node, at: At) -> Any:
        mark = _mark(node.start_mark)
        self._source.values[at] = mark
        self._count += 1
        if self._count > MAX_VALUES:
            message = f"the aliases of this file unfold to more than {MAX_VALUES:,} values"
            raise SpecErrors([self._source.problem_at(mark, message, "write it without `*` aliases")])
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, at)
        if id(node) in self._open:
            raise SpecErrors([self._source.problem_at(mark, "this `&` anchor holds an alias to itself")])
        if len(at) > MAX_DEPTH:  # aliases can nest what is not deep in the text
            raise SpecErrors([self._source.problem_at(mark, f"this is nested more than {MAX_DEPTH} levels deep")])
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, at) if self._tag_fits(node, "map", at) else None
            return self._sequence(node, at) if self._tag_fits(node, "seq", at) else None
        finally:
            self._open.discard(id(node))

    def _tag_fits(self, node: yaml.Node, kind: str, at: At) -> bool:
        if node.tag == _TAG + kind:
            return True
        self._unknown_tag(node, at)
        return False

    def _unknown_tag(self, node: yaml.Node, at: At) -> None:
        tag = f"!!{node.tag.removeprefix(_TAG)}" if node.tag.startswith(_TAG) else node.tag
        self._source.complain(at, f"the tag `{tag}` is not known here", "leave the tag out")

    def _sequence(self, node: yaml.Node, at: At) -> list[Any]:
        return [self.value(item, (*at, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.Node, at: At) -> dict[str, Any]:
        source = self._source
        merged: dict[str, Any] = {}
        result: dict[str, Any] = {}
        for key_node, _ in node.value:
            if key_node.tag == _TAG + "merge":
                merged |= self._merge(node, at)
                break
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                continue
            mark = _mark(key_node.start_mark)
            key = self._key(key_node, at, mark)
            if key is None:
                continue
            here = (*at, key)
            if key in result:
                first = source.keys[here].line
                message = f"`{dotted(here)}` is given twice"
                source.problems.append(source.problem_at(mark, message, f"it is first given in line {first}"))
                continue
            source.keys[here] = mark
            result[key] = self.value(value_node, here)
        return {**{key: value for key, value in merged.items() if key not in result}, **result} if merged else result

    def _merge(self, node: yaml.Node, at: At) -> dict[str, Any]:
        """What `<<` brings in; of several, the first one wins."""
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag != _TAG + "merge":
                continue
            parts = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            for part in reversed(parts):
                if isinstance(part, yaml.MappingNode):
                    merged |= self.value(part, at)
                    for inner, _ in part.value:
                        self._source.keys.setdefault((*at, str(inner.value)), _mark(inner.start_mark))
                else:
                    mark = _mark(key_node.start_mark)
                    message = "`<<` takes an alias of a mapping, such as `<<: *defaults`"
                    self._source.problems.append(self._source.problem_at(mark, message))
        self._source.values[at] = _mark(node.start_mark)
        return merged

    def _key(self, node: yaml.Node, at: At, mark: Mark) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "str":
            return str(node.value)
        hint = None
        if not isinstance(node, yaml.ScalarNode):
            message = "a key must be text, not a mapping or a list"
            if self._source.lines[mark.line - 1][mark.column - 2 : mark.column] == "{{":
                hint = 'put a value that starts with a template in quotes: "{{ … }}"'
        elif not node.value:
            message = "a key is missing here"
        else:
            message = f"the key `{node.value}` must be text"
            hint = _misread(node.value, node.tag.removeprefix(_TAG))
        self._source.problems.append(self._source.problem_at(mark, message, hint))
        if at:
            self._source.broken.add(at)  # what else is wrong there follows from this
        return None

    def _scalar(self, node: yaml.ScalarNode, at: At) -> Any:
        kind = node.tag.removeprefix(_TAG)
        text = node.value
        if kind == "str":
            if _SURROGATE.search(text):
                self._source.complain(at, "half a character (a lone surrogate) cannot stand in a job file")
            return text
        if kind not in ("null", "bool", "int", "float"):
            self._unknown_tag(node, at)
            return None
        if node.style is None:
            self._source.raw[at] = text
        try:
            value = getattr(self._loader, f"construct_yaml_{kind}")(node)
        except (ValueError, KeyError, IndexError, OverflowError):
            wanted = {"bool": "true or false", "int": "a whole number", "float": "a number"}.get(kind, kind)
            self._source.complain(at, f"{_got(self._source, text)} is not {wanted}")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._source.complain(at, f"`{text}` is not a number that JSON can hold")
            return None
        return value


def _misread(raw: str, kind: str) -> str:
    read_as = {"bool": "true" if raw.lower() in ("yes", "true", "on") else "false", "null": "nothing"}
    return f'`{raw}` is read as {read_as.get(kind, "a number")} by YAML: write "{raw}"'


def _explain(error: yaml.MarkedYAMLError, source: Source) -> tuple[Mark, str, str | None]:
    """PyYAML's complaint in words for people: where, what, and what to do."""
    problem, context = error.problem or "", error.context or ""
    raw_mark = error.problem_mark or error.context_mark
    mark = _mark(raw_mark) if raw_mark else Mark(1, 1)
    opened = _mark(error.context_mark) if error.context_mark else mark
    line = source.lines[mark.line - 1] if mark.line <= len(source.lines) else ""
    if context.startswith("found duplicate anchor"):
        name = context.split("'")[1]
        return mark, f"the anchor `&{name}` is defined twice", None
    if problem.startswith("found character '\\t'") or (
        "\t" in line[: max(mark.column, 1)] and not line[: mark.column].strip()
    ):
        return mark, "a tab cannot be used for indentation", "use spaces"
    if "quoted scalar" in context and "end of stream" in problem:
        return opened, "this quote is not closed", None
    if "quoted scalar" in context and "document separator" in problem:
        return opened, "this quote is not closed", None
    if "found unknown escape character" in problem:
        return mark, f"{problem.removeprefix('found ')} in double quotes", "use single quotes, or double the backslash"
    if problem.startswith("expected escape sequence"):
        return mark, "the escape in double quotes is not complete", "use single quotes, or double the backslash"
    if context.startswith(("while parsing a flow sequence", "while parsing a flow mapping")):
        what, close = ("list", "]") if "sequence" in context else ("mapping", "}")
        bracket = "[" if close == "]" else "{"
        later_key = mark.line > opened.line and problem.endswith("got ':'")
        if later_key or "stream end" in problem or "block" in problem or "document" in problem:
            return opened, f"this `{bracket}` is not closed", f"end the {what} with `{close}`"
        return mark, f"a `,` or `{close}` is missing before this", f"the {what} begins in line {opened.line}"
    if "while scanning a simple key" in context:
        if re.match(r"-[^\s-]", source.lines[opened.line - 1][opened.column - 1 :]):
            return opened, "a space is missing after this `-`", "write `- item`"
        return opened, "a `:` is missing after this key", "write `key: value`, with a space after the colon"
    if "mapping values are not allowed" in problem:
        hint = "check the indentation; text that holds `: ` needs quotes"
        return mark, "a second `:` cannot stand here", hint
    if line[mark.column - 1 : mark.column] in ("]", "}"):
        return mark, f"this `{line[mark.column - 1]}` closes nothing", "text that holds it needs quotes"
    if "expected <block end>" in problem or "expected the node content" in problem or "block" in context:
        before = source.lines[mark.line - 1][: mark.column - 1] if line else ""
        if "{{" in before or "}}" in before:
            return mark, "this cannot stand here", 'put a value that starts with a template in quotes: "{{ … }}"'
        if before.rstrip().endswith(('"', "'")):
            return mark, "text after a closing quote cannot stand here", "put the whole value in quotes"
        if before.strip():
            return mark, "this cannot stand here", "put text with special characters in quotes"
        return mark, "the indentation does not fit the lines above", "keys of one level begin in the same column"
    if problem.startswith("found undefined alias"):
        name = problem.split("'")[1] if "'" in problem else ""
        return mark, f"the alias `*{name}` has no anchor `&{name}` above it", "text that starts with `*` needs quotes"
    if "that cannot start any token" in problem:
        character = line[mark.column - 1 : mark.column]
        return mark, f"text cannot start with `{character}`", "put it in quotes"
    if "alias" in context and "alphabetic" in problem:
        return mark, "`*` must be followed by the name of an anchor", "text that starts with `*` needs quotes"
    if "anchor" in context and "alphabetic" in problem:
        return mark, "`&` must be followed by a name", "text that starts with `&` needs quotes"
    said = " ".join(f"{context} {problem}".split())
    return mark, f"this is not YAML: {said}", None


# Validation ---------------------------------------------------------------------------------------------------------


def check(model: type[M], source: Source, data: Any, at: At = ()) -> tuple[M | None, list[Problem]]:
    """Validate a tree with a model.

    Args:
        data: the tree (or a part of it) as `source` read it.
        at: the way from the file's top to `data`.

    Returns:
        The model, or None; and everything that is wrong, each with its place.
    """
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems: dict[tuple[At, str], Problem] = {}
    misspelt = {
        (detail["loc"][:-1], suggest(detail["loc"][-1], _keys_at(model, _follow_keys(data, detail))))
        for detail in details
        if detail["type"] == "extra_forbidden"
    }
    above = {detail["loc"][:end] for detail in details for end in range(len(detail["loc"]))}
    for detail in details:
        loc = detail["loc"]
        if detail["type"] == "missing" and (loc[:-1], f"did you mean `{loc[-1]}`?") in misspelt:
            continue
        if detail["type"] == "too_short" and loc in above:
            continue  # pydantic does not count the members that are wrong
        for where, problem in _translate(model, source, data, at, detail):
            if not any(where[:end] in source.broken for end in range(len(where) + 1)):
                problems.setdefault((where, problem.message), problem)
    return None, list(problems.values())


def _translate(
    model: type[BaseModel], source: Source, data: Any, base: At, error: ErrorDetails
) -> Iterable[tuple[At, Problem]]:
    found = _follow(data, error)
    if found is None:
        return
    inner, value = found
    at = (*base, *inner)
    name = f"`{dotted(at)}`"
    kind, ctx = error["type"], error.get("ctx", {})

    def one(message: str, hint: str | None = None, *, on_key: bool = False) -> tuple[At, Problem]:
        return at, source.problem(at, message, hint, on_key=on_key)

    if kind == "findings":
        for finding in ctx["findings"]:
            where = (*at, *finding.at)
            message = finding.text if finding.whole else f"`{dotted(where)}` {finding.text}"
            yield where, source.problem(where, message, finding.hint, on_key=finding.on_key)
    elif kind == "missing":
        _, field = _walk(model, inner)
        example = field.examples[0] if field is not None and field.examples else None
        hint = f"for example `{dump({str(at[-1]): example}).strip()}`" if isinstance(example, str | int) else None
        yield one(f"{name} is missing", hint)
    elif kind == "extra_forbidden":
        yield one(f"{name} is not a known key", _unknown_key_hint(model, inner), on_key=True)
    elif kind in _WANTED:
        yield one(
            f"{name} must be {_WANTED[kind]}, got {_got(source, value)}",
            _type_hint(source, model, at, inner, value, kind),
        )
    elif kind == "literal_error":
        choices = _choices(ctx["expected"])
        hint = suggest(value, choices) if isinstance(value, str) else None
        yield one(f"{name} must be {_one_of(choices)}, got {_got(source, value)}", hint)
    elif kind in _BOUNDS:
        word, key = _BOUNDS[kind]
        _, field = _walk(model, inner)
        hints = [item.text for item in field.metadata if isinstance(item, Hint)] if field is not None else []
        yield one(f"{name} must be {word} {ctx[key]:,g}, got {_got(source, value)}", hints[0] if hints else None)
    elif kind in ("too_short", "string_too_short"):
        few = "must not be empty" if ctx["min_length"] == 1 else f"must hold at least {ctx['min_length']}"
        got = "" if ctx["min_length"] == 1 else f", got {ctx.get('actual_length', len(str(value)))}"
        yield one(f"{name} {few}{got}")
    elif kind in ("too_long", "string_too_long"):
        yield one(f"{name} must hold at most {ctx['max_length']}, got {ctx.get('actual_length', len(str(value)))}")
    else:
        said = error["msg"]
        yield one(f"{name}: {said[:1].lower()}{said[1:]}")


_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "date_type": "a date such as 2026-11-20",
    "date_from_datetime_parsing": "a date such as 2026-11-20",
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _got(source: Source, value: Any) -> str:
    return "text" if source.private and isinstance(value, str) else say(value)


def _choices(expected: str) -> list[str]:
    return re.findall(r"'([^']*)'", expected)


def _one_of(choices: Sequence[str]) -> str:
    return f"one of {listed(choices, 'or')}" if len(choices) > 2 else listed(choices, "or")


def _follow(data: Any, error: ErrorDetails) -> tuple[At, Any] | None:
    """The way to the value, without the steps that pydantic adds for the members of a union.

    None for a complaint of a member of a union that was not meant.
    """
    at: At = ()
    value = data
    for step in error["loc"]:
        if _holds(value, step):
            at, value = (*at, step), value[step]
        elif step == "str" and error["type"] == "string_type" and not isinstance(value, str):
            if isinstance(value, Mapping):
                return None
        elif error["type"] == "missing" and step == error["loc"][-1]:
            at, value = (*at, step), None
        elif step == error["loc"][-1]:
            at = (*at, step)  # a default that does not fit
    return at, value


def _follow_keys(data: Any, error: ErrorDetails) -> At:
    """The way to the mapping that holds an unknown key."""
    found = _follow(data, error)
    return found[0][:-1] if found else ()


def _holds(tree: Any, step: str | int) -> bool:
    if isinstance(tree, Mapping):
        return step in tree
    return isinstance(tree, list | tuple) and isinstance(step, int) and step < len(tree)


def _walk(model: type[BaseModel], at: At) -> tuple[Any, FieldInfo | None]:
    """The type at a place of a model, and the field that has it; None where there is neither."""
    current: Any = model
    field = None
    for step in at:
        if isinstance(step, int):
            continue  # an item of a list: its model is found inside the type of the list
        inner, field = _model_in(current), None
        if inner is not None:
            field = {found.alias or name: found for name, found in inner.model_fields.items()}.get(step)
        if field is not None:
            current = field.annotation
        elif typing.get_origin(current) is dict:
            current = typing.get_args(current)[1]
        else:
            return None, None
    return current, field


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a type such as `tuple[Message, ...] | None` speaks of; the values of a mapping are deeper."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) is not dict:
        for argument in typing.get_args(annotation):
            found = _model_in(argument)
            if found is not None:
                return found
    return None


def _keys_at(model: type[BaseModel], at: At) -> list[str]:
    """The keys of the mapping at a place."""
    inner = _model_in(_walk(model, at)[0])
    return _keys_of(inner) if inner is not None else []


def _keys_of(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items() if not field.exclude]


def _unknown_key_hint(model: type[BaseModel], at: At) -> str | None:
    word = str(at[-1])
    known = _keys_at(model, at[:-1])
    meant = getattr(model, "meant", {}).get(word)
    if meant and word not in known:
        return f"did you mean `{meant}`?"
    for section, field in model.model_fields.items():
        name = field.alias or section
        inner = _model_in(field.annotation)
        if inner is not None and (name,) != at[:-1] and word in _keys_of(inner):
            return f"did you mean `{name}.{word}`?"
    if word in known and len(at) > 1:
        return f"`{word}` belongs at the top of the file"
    return suggest(word, known) or (f"the keys here are {listed(known)}" if known else None)


def _type_hint(source: Source, model: type[BaseModel], at: At, inner: At, value: Any, kind: str) -> str | None:
    wanted = _WANTED[kind]
    raw = source.raw.get(at)
    if wanted == "text" and raw and value is not None:
        return _misread(raw, "bool" if isinstance(value, bool) else "number")
    if wanted == "text" and value is None and raw:
        return _misread(raw, "null")
    if wanted == "a list" and isinstance(value, str) and not source.private:
        return f"write [{value}]" if len(value) < 60 else "write [first, second]"
    if wanted in ("a whole number", "a number") and isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return None
        return "write it without quotes"
    if wanted == "a mapping":
        keys = _keys_at(model, inner)
        return f"the keys here are {listed(keys)}" if keys else None
    return None
