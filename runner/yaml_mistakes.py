"""Mistakes in YAML, in words for people: what PyYAML trips over, or reads as something else."""

from __future__ import annotations

import re

import yaml

from runner.problems import Mark
from runner.yaml_dialect import mark_of


def explain(error: yaml.MarkedYAMLError, lines: list[str]) -> tuple[Mark, str, str | None]:
    """PyYAML's complaint in words for people: where, what, and what to do."""
    problem, context = error.problem or "", error.context or ""
    raw_mark = error.problem_mark or error.context_mark
    mark = mark_of(raw_mark) if raw_mark else Mark(1, 1)
    opened = mark_of(error.context_mark) if error.context_mark else mark
    line = lines[mark.line - 1] if mark.line <= len(lines) else ""
    if context.startswith("found duplicate anchor"):
        name = context.split("'")[1]
        return mark, f"the anchor `&{name}` is defined twice", None
    if problem.startswith("found character '\\t'") or (
        "\t" in line[: max(mark.column, 1)] and not line[: mark.column].strip()
    ):
        return mark, "a tab cannot be used for indentation", "use spaces"
    if "quoted scalar" in context and ("end of stream" in problem or "document separator" in problem):
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
        if re.match(r"-[^\s-]", lines[opened.line - 1][opened.column - 1 :]):
            return opened, "a space is missing after this `-`", "write `- item`"
        return opened, "a `:` is missing after this key", "write `key: value`, with a space after the colon"
    if "mapping values are not allowed" in problem:
        hint = "check the indentation; text that holds `: ` needs quotes"
        return mark, "a second `:` cannot stand here", hint
    if line[mark.column - 1 : mark.column] in ("]", "}"):
        return mark, f"this `{line[mark.column - 1]}` closes nothing", "text that holds it needs quotes"
    if "expected <block end>" in problem or "expected the node content" in problem or "block" in context:
        before = lines[mark.line - 1][: mark.column - 1] if line else ""
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


def misread(raw: str, kind: str) -> str:
    """The hint for plain text that YAML takes for another kind of value."""
    read_as = {"bool": "true" if raw.lower() in ("yes", "true", "on") else "false", "null": "nothing"}
    return f'`{raw}` is read as {read_as.get(kind, "a number")} by YAML: write "{raw}"'
