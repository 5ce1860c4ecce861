"""YAML that remembers where everything stands, so that an error can point at its line and column.

`read` parses a file into plain dicts, lists, text and numbers; `Source.problem` says what is wrong at a place in it.
What the values mean is left to the models. A key given twice is an error.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from runner.problems import At, Mark, Problem, SpecErrors, display, dotted, mask, say
from runner.text_file import end_of, lines_of, read_text
from runner.yaml_dialect import MAX_DEPTH, TAG, Loader, TooDeepError, mark_of
from runner.yaml_mistakes import explain, misread

MAX_VALUES = 100_000

_SURROGATE = re.compile("[\ud800-\udfff]")


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
        self.lines = lines_of(text)
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

    def problem_in_text(self, at: At, line: int, message: str, hint: str | None = None) -> Problem:
        """A problem in a line of a text, counted from 1; at the text's beginning where it is not a block (`|`)."""
        mark = self.values.get(at)
        given = any(at[:end] in self.options for end in range(len(at) + 1))
        if mark is None or given or self.lines[mark.line - 1][mark.column - 1 : mark.column] != "|":
            return self.problem(at, message, hint)
        inside = mark.line + line
        text = self.lines[inside - 1] if inside <= len(self.lines) else ""
        return self.problem_at(Mark(inside, len(text) - len(text.lstrip()) + 1), message, hint)

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

    def say(self, value: object) -> str:
        """A wrong value as an error names it; of a private file only that it is text."""
        return "text" if self.private and isinstance(value, str) else say(value)

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
    return parse(read_text(path, what=what), display(path), what=what, private=private, may_be_empty=may_be_empty)


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
        loader = Loader(text)
    except yaml.reader.ReaderError as error:
        code = error.character if isinstance(error.character, int) else ord(error.character)
        message = f"the character U+{code:04X} cannot stand in YAML"
        raise _stop(
            source, end_of(text[: error.position]), message, f'write it as "\\x{code:02x}" in double quotes', option
        ) from None
    try:
        node = loader.get_node() if loader.check_node() else None
        if node is not None and loader.check_node():
            mark = mark_of(loader.peek_event().start_mark)  # type: ignore[no-untyped-call]
            raise _stop(source, mark, "there is a second document here", "keep one: a `---` starts another", option)
    except TooDeepError as error:
        message = f"the {what} is nested more than {MAX_DEPTH} levels deep"
        raise _stop(source, mark_of(error.mark), message, None, option) from None
    except yaml.MarkedYAMLError as error:
        mark, message, hint = explain(error, source.lines)
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
    return isinstance(node, yaml.ScalarNode) and node.tag == TAG + "null"


class _Builder:
    """Turns PyYAML's nodes into plain values, and notes where each stands."""

    def __init__(self, loader: Loader, source: Source) -> None:
        self._loader = loader
        self._source = source
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: yaml.Node, at: At) -> Any:
        mark = mark_of(node.start_mark)
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
        if node.tag == TAG + kind:
            return True
        self._unknown_tag(node, at)
        return False

    def _unknown_tag(self, node: yaml.Node, at: At) -> None:
        tag = f"!!{node.tag.removeprefix(TAG)}" if node.tag.startswith(TAG) else node.tag
        self._source.complain(at, f"the tag `{tag}` is not known here", "leave the tag out")

    def _sequence(self, node: yaml.Node, at: At) -> list[Any]:
        return [self.value(item, (*at, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.Node, at: At) -> dict[str, Any]:
        source = self._source
        merged: dict[str, Any] = {}
        result: dict[str, Any] = {}
        for key_node, _ in node.value:
            if key_node.tag == TAG + "merge":
                merged |= self._merge(node, at)
                break
        for key_node, value_node in node.value:
            if key_node.tag == TAG + "merge":
                continue
            mark = mark_of(key_node.start_mark)
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
            if key_node.tag != TAG + "merge":
                continue
            parts = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            for part in reversed(parts):
                if isinstance(part, yaml.MappingNode):
                    merged |= self.value(part, at)
                    for inner, _ in part.value:
                        self._source.keys.setdefault((*at, str(inner.value)), mark_of(inner.start_mark))
                else:
                    mark = mark_of(key_node.start_mark)
                    message = "`<<` takes an alias of a mapping, such as `<<: *defaults`"
                    self._source.problems.append(self._source.problem_at(mark, message))
        self._source.values[at] = mark_of(node.start_mark)
        return merged

    def _key(self, node: yaml.Node, at: At, mark: Mark) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.tag == TAG + "str":
            return str(node.value)
        if isinstance(node, yaml.ScalarNode) and node.style is None and node.value == "on":
            return "on"  # YAML 1.1 takes it for true; as a key of ours it can be but the word (`notify.to[].on`)
        hint = None
        if not isinstance(node, yaml.ScalarNode):
            message = "a key must be text, not a mapping or a list"
            if self._source.lines[mark.line - 1][mark.column - 2 : mark.column] == "{{":
                hint = 'put a value that starts with a template in quotes: "{{ … }}"'
        elif not node.value:
            message = "a key is missing here"
        else:
            message = f"the key `{node.value}` must be text"
            hint = misread(node.value, node.tag.removeprefix(TAG))
        self._source.problems.append(self._source.problem_at(mark, message, hint))
        if at:
            self._source.broken.add(at)  # what else is wrong there follows from this
        return None

    def _scalar(self, node: yaml.ScalarNode, at: At) -> Any:
        kind = node.tag.removeprefix(TAG)
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
            self._source.complain(at, f"{self._source.say(text)} is not {wanted}")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._source.complain(at, f"`{text}` is not a number that JSON can hold")
            return None
        return value
