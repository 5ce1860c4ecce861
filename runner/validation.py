"""A tree checked with a pydantic model: every complaint becomes a problem at its place, in words for people."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from runner.problems import At, Hint, Problem, dotted, listed, suggest
from runner.yaml_dialect import dump
from runner.yaml_mistakes import misread
from runner.yaml_source import Source

M = TypeVar("M", bound=BaseModel)


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
            f"{name} must be {_WANTED[kind]}, got {source.say(value)}",
            _type_hint(source, model, at, inner, value, kind),
        )
    elif kind == "literal_error":
        choices = _choices(ctx["expected"])
        hint = suggest(value, choices) if isinstance(value, str) else None
        yield one(f"{name} must be {_one_of(choices)}, got {source.say(value)}", hint)
    elif kind in _BOUNDS:
        word, key = _BOUNDS[kind]
        _, field = _walk(model, inner)
        hints = [item.text for item in field.metadata if isinstance(item, Hint)] if field is not None else []
        yield one(f"{name} must be {word} {ctx[key]:,g}, got {source.say(value)}", hints[0] if hints else None)
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
        elif step == error["loc"][-1] and isinstance(value, Mapping):
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
        elif (values := _values_in(current)) is not None:
            current = values
        else:
            return None, None
    return current, field


def _values_in(annotation: Any) -> Any:
    """The type of the values of a mapping, or of one that may be left out; None for anything else."""
    for option in (annotation, *typing.get_args(annotation)):
        if typing.get_origin(option) is dict:
            return typing.get_args(option)[1]
    return None


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
    meant = getattr(_model_in(_walk(model, at[:-1])[0]), "meant", {}).get(word)
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
        return misread(raw, "bool" if isinstance(value, bool) else "number")
    if wanted == "text" and value is None and raw:
        return misread(raw, "null")
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
