"""Prompt templates: Jinja2, sandboxed and strict. Field values are data and are never interpreted."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import jinja2
import jinja2.defaults
import jinja2.meta
import jinja2.nodes
import jinja2.utils
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runner.dataset.nearest import nearest
from runner.errors import RunnerError, SpecError
from runner.run_date import DATES, SPAN, values

Messages = list[tuple[str, str]]

Field = tuple[str, date | None]
"""The name of a field, with what stands in for it where the row lacks it."""

Part = str | Field
"""What a simple template is made of: texts and fields."""

# Names that mean something else in a template; such columns are reached as `row["range"]`.
_NOT_COLUMNS = frozenset({"row", "self", *jinja2.defaults.DEFAULT_NAMESPACE})


class MissingField(RunnerError):  # noqa: N818 - not an error of the run but of one row
    """A row lacks a field that the template needs."""


class PromptError(SpecError):
    """A template is wrong, whatever the row.

    Args:
        position: of its message, from 0.
        file: the included file that it is in; None: the message itself.
        line: the line, from 1; 0 where that is not known.
        text: what the line is in.
    """

    def __init__(
        self,
        message: str,
        position: int,
        *,
        file: str | None = None,
        line: int = 0,
        text: str = "",
        hint: str | None = None,
    ) -> None:
        where = file or f"prompt, message {position + 1}"
        super().__init__(message, where=f"{where}, line {line}" if line else where, hint=hint)
        self.position = position
        self.file = file
        self.line = line
        self.text = text


class PromptTemplate:
    """The messages of a job, ready to be filled in for each row.

    Args:
        messages: (role, template text) pairs.
        folder: where `{% include %}` looks.
        run_date: the date that `{{ run_date }}` and its relatives stand for, where a row has no such column; None:
            they are columns like any other.

    Attributes:
        names: the columns that are put in, those of included files too.
        dates: the names among `DATES` that are put in; each is a column where the row has it.
        simple: it only puts columns between texts: a row that has them all can be made into a prompt.

    Raises:
        PromptError: a template is not valid Jinja2.
    """

    def __init__(
        self, messages: Sequence[tuple[str, str]], folder: Path | None = None, run_date: date | None = None
    ) -> None:
        environment = ImmutableSandboxedEnvironment(
            undefined=_Missing,
            finalize=_as_text,
            autoescape=False,
            loader=jinja2.FileSystemLoader([folder] if folder else []),
        )
        given = {} if run_date is None else values(run_date)
        self._environment = environment
        self._bare: set[str] = set()  # the names that stand alone, those of `row`, and those of functions
        self._of_row: set[str] = set()
        self._called: set[str] = set()
        self._optional: set[str] = set()
        self._first_use: dict[str, int] = {}
        self._messages: list[tuple[str, _Filled | jinja2.Template]] = []
        for position, (role, text) in enumerate(messages):
            try:
                tree = environment.parse(text)
                for name in self._names_in(tree):
                    self._first_use.setdefault(name, position)
                self._messages.append((role, _simple(tree, given) or environment.from_string(text)))
            except jinja2.TemplateSyntaxError as error:
                in_file = error.name is not None and not error.name.startswith("<")
                raise PromptError(
                    f"the {role} prompt is not a valid template: {error.message}",
                    position,
                    file=error.name if in_file else None,
                    line=error.lineno,
                    text=error.source or text,
                    hint="write {% raw %}…{% endraw %} around braces that are meant as text",
                ) from None
        environment.globals.update(given)  # a row's fields come before them; until here they counted as fields
        self.dates = frozenset(self._first_use.keys() & given.keys() & self._bare & set(DATES))
        made = given.keys() & self._called & {SPAN}
        self.names = frozenset(self._first_use.keys() - ((self.dates | made) - self._of_row))
        self.simple = all(isinstance(part, _Filled) for _, part in self._messages)

    def _names_in(self, tree: jinja2.nodes.Template, above: frozenset[str] = frozenset()) -> set[str]:
        """Return the columns that a template uses, and note those that it can do without.

        Args:
            above: the files that include this one.
        """
        names = jinja2.meta.find_undeclared_variables(tree) - _NOT_COLUMNS
        self._bare |= names
        of_row = set(filter(None, map(_column_of_row, tree.find_all((jinja2.nodes.Getitem, jinja2.nodes.Getattr)))))
        self._of_row |= of_row
        names |= of_row
        calls = tree.find_all(jinja2.nodes.Call)
        self._called |= {call.node.name for call in calls if isinstance(call.node, jinja2.nodes.Name)}
        for test in tree.find_all((jinja2.nodes.Test, jinja2.nodes.Filter)):
            if test.name in ("defined", "undefined", "default", "d"):
                tested = test.node.name if isinstance(test.node, jinja2.nodes.Name) else _column_of_row(test.node)
                self._optional.update(filter(None, [tested]))
        given = {name.name for name in tree.find_all(jinja2.nodes.Name) if name.ctx != "load"}
        for include in tree.find_all(jinja2.nodes.Include):
            file = include.template.value if isinstance(include.template, jinja2.nodes.Const) else None
            if isinstance(file, str) and file not in above:
                names |= self._names_in(self._included(file), above | {file}) - given
        return names

    def _included(self, file: str) -> jinja2.nodes.Template:
        environment = self._environment
        assert environment.loader is not None
        try:
            source, _, _ = environment.loader.get_source(environment, file)
        except jinja2.TemplateNotFound:  # an error only where it is needed, when a row is filled in
            source = ""
        environment.compile(source, file)  # finds unknown filters, too
        return environment.parse(source, file)

    def unknown(self, columns: Collection[str]) -> Iterator[PromptError]:
        """Yield an error for every name that the template uses and that is not among the columns there are."""
        for name in sorted(self.names - self._optional - set(columns)):
            message = f"the prompt uses `{name}`, and the input has no such column"
            yield PromptError(message, self._first_use[name], hint=nearest(name, columns))

    def two_things(self, columns: Collection[str]) -> Iterator[PromptError]:
        """Yield an error for every date of the run that is also among these columns, which some rows have only."""
        for name in sorted(self.dates & set(columns)):
            message = f"`{name}` is a column of some rows only: in all others the prompt would put in the run's date"
            hint = f'write `row["{name}"]` for the column, or give it another name'
            yield PromptError(message, self._first_use[name], hint=hint)

    @property
    def fillings(self) -> list[tuple[str, Sequence[Part]]] | None:
        """The role of each message, and what it is made of; None: the template is not `simple`."""
        filled = [(role, part.parts) for role, part in self._messages if isinstance(part, _Filled)]
        return filled if self.simple else None

    def render(self, fields: Mapping[str, Any]) -> Messages:
        """Return (role, text) pairs for one row.

        Raises:
            MissingField: the row lacks a field, or the template cannot be filled in with its values.
            PromptError: the template does what no row allows.
        """
        messages: Messages = []
        try:
            for role, part in self._messages:
                text = part.render(fields) if isinstance(part, _Filled) else part.render(fields, row=_Row(fields))
                messages.append((role, text))
            return messages
        except RunnerError:
            raise
        except jinja2.UndefinedError as error:
            raise MissingField(error.message or "the row lacks a field") from None
        except SecurityError as error:
            raise PromptError(f"the prompt does what prompts may not: {error}", len(messages)) from None
        except jinja2.TemplateNotFound as error:
            message = f"the prompt includes `{error.name}`, which is not in configs/prompts/"
            raise PromptError(message, len(messages)) from None
        except Exception as error:  # noqa: BLE001
            # The template's own code fails on this row's values: `{{ n / 0 }}`, `{{ title + 1 }}`.
            raise MissingField(f"the prompt cannot be filled in: {error or type(error).__name__}") from None


class _Filled:
    """A template that only puts fields between texts, as nearly all do: the same result in a tenth of the time.

    Args:
        parts: what it is made of.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts

    def render(self, fields: Mapping[str, Any]) -> str:
        return "".join([part if isinstance(part, str) else field_text(fields, *part) for part in self.parts])


def field_text(fields: Mapping[str, Any], name: str, otherwise: date | None) -> str:
    """Return a field of a row as a template puts it in.

    Raises:
        MissingField: the row lacks it.
    """
    try:
        value = fields[name]
    except KeyError:
        if otherwise is None:
            raise MissingField(f"the row has no field `{name}`") from None
        value = otherwise
    return value if isinstance(value, str) else str(_as_text(value))


def _simple(tree: jinja2.nodes.Template, given: Mapping[str, Any]) -> _Filled | None:
    """Return a template of texts, `{{ name }}` and `{{ row["name"] }}` alone in its simple form; None for any other.

    Args:
        given: the dates that stand in for fields.
    """
    parts: list[Part] = []
    for output in tree.body:
        if not isinstance(output, jinja2.nodes.Output):
            return None
        for node in output.nodes:
            match node:
                case jinja2.nodes.TemplateData(data=text):
                    parts.append(text)
                case jinja2.nodes.Name(name=name) if name not in _NOT_COLUMNS:
                    parts.append((name, given[name] if name in DATES and given else None))
                case jinja2.nodes.Getitem(node=jinja2.nodes.Name(name="row"), arg=jinja2.nodes.Const(value=str(name))):
                    parts.append((name, None))
                case _:
                    return None
    return _Filled(parts)


def _column_of_row(node: jinja2.nodes.Node) -> str | None:
    """Return the column that `row["name"]` or `row.name` stands for."""
    match node:
        case jinja2.nodes.Getitem(node=jinja2.nodes.Name(name="row"), arg=jinja2.nodes.Const(value=str(name))):
            return name
        case jinja2.nodes.Getattr(node=jinja2.nodes.Name(name="row"), attr=name) if not hasattr(dict, name):
            return str(name)
    return None


class _Row(dict[str, Any]):
    """All of a row's fields under one name, for columns whose names are not identifiers."""

    def __missing__(self, name: str) -> Any:
        return _Missing(name=name)


class _Missing(jinja2.StrictUndefined):
    """A name that the row lacks: an error that names it wherever it is used."""

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint or self._undefined_obj is not jinja2.utils.missing:
            said = super()._undefined_message
            return said if self._undefined_exception is SecurityError else f"the prompt cannot be filled in: {said}"
        return f"the row has no field `{self._undefined_name}`"


def _as_text(value: Any) -> Any:
    """Render null as nothing and everything that is not text as JSON."""
    if isinstance(value, str | jinja2.Undefined):
        return value
    if value is None:
        return ""
    if isinstance(value, date):
        return value.isoformat()
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        # `{{ range }}` without such a column, `{{ row.items }}`, a filter without `| list`
        raise MissingField(f"the prompt puts in a {type(value).__name__}, which is not a value of the row") from None
