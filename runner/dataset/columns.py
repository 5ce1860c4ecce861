"""The Arrow types of the input columns, found row by row, and the arrays that hold their values.

A column whose values do not fit one plain Arrow type is stored as text: the exact JSON of each value, with `JSON_TEXT`
in the field's metadata so that a reader can decode it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from runner.errors import InputError

JSON_TEXT = {b"runner:encoding": b"json"}
"""Marks a text column that holds JSON."""

_MOST_COLUMNS = 10_000
_EXACT_IN_DOUBLE = 1 << 53
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1
_SCALARS: frozenset[type] = frozenset({str, bool, float, type(None)})
_EVERYTHING: frozenset[type] = frozenset({str, bool, float, int, list, dict, type(None)})


class ColumnTypes:
    """Learns the type of each column from the rows it sees.

    bool, ints within int64, floats (with ints that a double holds exactly), str, and lists of one of these become that
    type; a column that is always null becomes text; all else becomes JSON text.
    """

    def __init__(self) -> None:
        self._shapes: dict[str, _Shape] = {}
        self._settled: dict[str, frozenset[type]] = {}
        self._declared: dict[str, pa.Field] = {}
        self._names: dict[str, None] = {}

    def declare(self, fields: Iterable[pa.Field]) -> None:
        """Take the types of a file that knows them; its rows need not be seen."""
        for field in fields:
            self._names.setdefault(field.name)
            known = self._declared.get(field.name)
            self._declared[field.name] = field if known is None else _united(known, field)

    def see(self, fields: Mapping[str, Any]) -> None:
        """Take one row into account.

        Raises:
            InputError: a column's name cannot be stored, or there are too many columns.
        """
        settled = self._settled
        for name, value in fields.items():
            if name not in settled or type(value) not in settled[name]:
                self._note(name, value)

    def _note(self, name: str, value: Any) -> None:
        shape = self._shapes.get(name)
        if shape is None:
            self._add(name)
            shape = self._shapes[name] = _Shape()
        shape.see(value)
        self._settled[name] = shape.settled

    def _add(self, name: str) -> None:
        self._names.setdefault(name)
        if len(self._names) > _MOST_COLUMNS:
            raise InputError(
                f"the rows have more than {_MOST_COLUMNS:,} different columns",
                hint="where keys are data, put them into one object or list",
            )
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"the column name {name!r} is not valid Unicode", hint="lone surrogates cannot be stored in a name"
            ) from error

    def schema(self) -> pa.Schema:
        """All columns in the order in which they were first seen."""
        return pa.schema([self._field(name) for name in self._names])

    def _field(self, name: str) -> pa.Field:
        shape, declared = self._shapes.get(name), self._declared.get(name)
        if shape is None:
            return declared
        inferred = plain_field(name, shape.arrow_type())
        if declared is None:
            return inferred
        if shape.empty:
            return declared
        return _united(declared, inferred)


class _Shape:
    """What kinds of JSON values were seen in one place.

    `settled` holds the types of which another value would change nothing.
    """

    __slots__ = ("_big", "_element", "_kinds", "settled")

    def __init__(self) -> None:
        self.settled: frozenset[type] = frozenset()
        self._kinds: set[type] = set()
        self._big = False
        self._element: _Shape | None = None

    @property
    def empty(self) -> bool:
        return self._kinds <= {type(None)}

    def see(self, value: Any) -> None:
        kind = type(value)
        self._kinds.add(kind)
        if kind in _SCALARS:
            self.settled |= {kind}
        elif kind is int:
            self._see_int(value)
        elif kind is list:
            self._see_list(value)
        else:
            self.settled = _EVERYTHING
            self._kinds.add(dict)

    def _see_int(self, value: int) -> None:
        if -_EXACT_IN_DOUBLE <= value <= _EXACT_IN_DOUBLE:
            return
        self._big = True
        if not _INT64_MIN <= value <= _INT64_MAX:
            self._kinds.add(dict)  # like an object: nothing but JSON holds it
            self.settled = _EVERYTHING

    def _see_list(self, values: list[Any]) -> None:
        element = self._element
        if element is None:
            element = self._element = _Shape()
        if not element.settled.issuperset(map(type, values)):
            for value in values:
                element.see(value)

    def arrow_type(self) -> pa.DataType | None:
        """The plain type that holds everything seen; None where only JSON does."""
        kinds = self._kinds - {type(None)}
        if not kinds:
            return pa.string()
        if kinds == {int, float}:
            return None if self._big else pa.float64()
        if len(kinds) > 1:
            return None
        (kind,) = kinds
        if kind is list:
            inner = self._element.arrow_type() if self._element else None
            return None if inner is None else pa.list_(inner)
        return {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}.get(kind)


def plain_field(name: str, arrow_type: pa.DataType | None) -> pa.Field:
    """A column of that type; of JSON text for None."""
    return pa.field(name, pa.string(), metadata=JSON_TEXT) if arrow_type is None else pa.field(name, arrow_type)


def is_json_text(field: pa.Field) -> bool:
    """Whether the column's text is JSON."""
    return (field.metadata or {}).get(b"runner:encoding") == b"json"


def _united(one: pa.Field, other: pa.Field) -> pa.Field:
    """One column for values of both: exact, or JSON text."""
    if one.equals(other, check_metadata=True):
        return one
    if is_json_text(one) or is_json_text(other):
        return plain_field(one.name, None)
    return plain_field(one.name, _united_type(one.type, other.type))


def _united_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    types = pa.types
    pair = (one, other)
    if one == other:
        return one
    if all(map(types.is_integer, pair)):
        return None if pa.uint64() in pair else pa.int64()
    if all(map(types.is_floating, pair)):
        return pa.float64()
    if all(map(types.is_list, pair)):
        inner = _united_type(one.value_type, other.value_type)
        return None if inner is None else pa.list_(inner)
    if any(map(types.is_floating, pair)) and any(types.is_integer(each) and each.bit_width <= 32 for each in pair):
        return pa.float64()
    return None


def to_array(values: list[Any], field: pa.Field) -> pa.Array:
    """The values as an Arrow array of the field's type.

    Parquet holds UTF-8, which has no lone surrogates: they are written as backslash escapes (``\\ud800``). All else is
    exact.

    Raises:
        pyarrow.ArrowInvalid, pyarrow.ArrowTypeError: a value does not fit: the type was not found from these rows.
    """
    if is_json_text(field):
        return _texts([None if value is None else json.dumps(value, ensure_ascii=False) for value in values])
    kind = field.type
    if pa.types.is_string(kind):
        return _texts(values)
    if pa.types.is_time(kind):
        # Arrow reads dates from text but no times: give it the first day there is.
        days = [None if value is None else f"1970-01-01 {value}" for value in values]
        return pa.array(days, pa.string()).cast(pa.timestamp(kind.unit)).cast(kind)
    if pa.types.is_duration(kind):
        return pa.array(values, pa.string()).cast(pa.int64()).cast(kind)
    if is_text_in_json(kind):
        return pa.array(values, pa.string()).cast(kind)
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:
        return pa.array(_escaped(values), kind)


def is_text_in_json(kind: pa.DataType) -> bool:
    """Whether values of the type are passed on as text, because JSON has no such values."""
    return bool(pa.types.is_temporal(kind) or pa.types.is_decimal(kind))


def _texts(values: list[str | None]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        return pa.array(_escaped(values), pa.string())


def _escaped(value: Any) -> Any:
    if isinstance(value, list):
        return [_escaped(each) for each in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def as_json_values(array: pa.Array) -> pa.Array:
    """Temporal and decimal values as the text that `to_array` reads back."""
    if pa.types.is_duration(array.type):
        return array.cast(pa.int64()).cast(pa.string())
    text = array.cast(pa.string())
    if pa.types.is_timestamp(array.type) and pc.any(pc.starts_with(text, "<")).as_py():
        raise pa.ArrowInvalid("a time after the year 32767")
    return text
