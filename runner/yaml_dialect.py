"""The dialect of the configuration files: YAML as PyYAML reads it, less its surprises.

Dates and `12:30` stay text, `007` stays text, `1e3` is a number, and a question may end in `?` between brackets. `yes`
and `no` remain booleans, and where text was wanted the error says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from runner.problems import Mark

MAX_DEPTH = 100

TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$")
_FLOAT = re.compile(
    r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
    r"|\.inf|\.Inf|\.INF)$|^\.(?:nan|NaN|NAN)$"
)


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, used for its nodes, with fewer surprises in plain scalars."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooDeepError(self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def scan_plain(self) -> yaml.ScalarToken:
        """Plain text up to where it ends. PyYAML ends it at a `?` between brackets; YAML 1.2 and libyaml do not."""
        token = super().scan_plain()
        text, end = token.value, token.end_mark
        while self.flow_level and self.peek() == "?" and self.line == end.line:
            length = 1
            while self.peek(length) in "?#":  # a `#` begins a comment only after a space
                length += 1
            text += " " * (self.column - end.column) + self.prefix(length)
            self.forward(length)
            self.allow_simple_key = False
            end = self.get_mark()
            spaces = self.scan_plain_spaces(0, token.start_mark)
            more = super().scan_plain()
            if more.value:
                text, end = text + "".join(spaces or ()) + more.value, more.end_mark
        return yaml.ScalarToken(text, True, token.start_mark, end)


Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag.removeprefix(TAG) in ("bool", "null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(TAG + "int", _INT, list("-+0123456789"))
Loader.add_implicit_resolver(TAG + "float", _FLOAT, list("-+.0123456789"))


class TooDeepError(Exception):
    """Says where it goes too deep. PyYAML itself would end in a RecursionError."""

    def __init__(self, mark: yaml.Mark) -> None:
        self.mark = mark


def mark_of(mark: yaml.Mark) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def dump(data: Mapping[str, Any]) -> str:
    """YAML text that `parse` reads back as the same tree."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes what both PyYAML and this module read back as it was: it quotes what either would misread."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(TAG + "float", _FLOAT, list("-+.0123456789"))


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if any(ch in text for ch in "\r\x85\u2028\u2029\ufeff"):
        style = '"'  # YAML would turn these into line feeds
    elif "\n" in text:
        style = "|"  # PyYAML itself falls back to quotes where a block cannot hold the text
    return dumper.represent_scalar(TAG + "str", text, style=style)


def _represent_float(dumper: yaml.SafeDumper, number: float) -> yaml.ScalarNode:
    if number.is_integer() and abs(number) < 1e15:
        return dumper.represent_int(int(number))
    return dumper.represent_float(number)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(float, _represent_float)
