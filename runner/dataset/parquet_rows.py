"""Read Parquet files. Types stay what they are; values are passed on as JSON has them."""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runner.dataset.columns import as_json_values, is_text_in_json, plain_field
from runner.dataset.files import Source
from runner.dataset.rows import Row, Skip
from runner.dataset.streams import open_bytes
from runner.errors import InputError

_BATCH_ROWS = 512
_BUFFER_BYTES = 1 << 20


def read_parquet(source: Source, skip: Skip) -> Iterator[Row]:
    """Every row but those to skip; its line is its number, from 1."""
    with _open(source) as file:
        names = file.schema_arrow.names
        number = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            while passed := min(skip.rows, len(batch)):
                skip.rows -= passed
                number += passed
                batch = batch.slice(passed)
            for values in zip(*map(_json_values, batch.columns), strict=True):
                number += 1
                if skip.rows:
                    skip.rows -= 1
                    continue
                yield number, dict(zip(names, values, strict=True)), None


def parquet_fields(source: Source) -> list[pa.Field]:
    """The file's columns, with the types that their values get in the output.

    Raises:
        InputError: the file is not Parquet, or has a column name twice.
    """
    with _open(source) as file:
        return [_output_field(field) for field in file.schema_arrow]


@contextmanager
def _open(source: Source) -> Iterator[pq.ParquetFile]:
    try:
        with _seekable(source) as where, pq.ParquetFile(where, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            names = file.schema_arrow.names
            doubled = sorted({name for name in names if names.count(name) > 1})
            if doubled:
                raise InputError(
                    f"`{source.name}` has columns of the same name: {', '.join(f'`{name}`' for name in doubled)}",
                    where=source.name,
                    hint="write the file again with different names",
                )
            yield file
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"`{source.name}` is not a Parquet file that can be read: {_first_line(error)}",
            where=source.name,
            hint="if it is another kind of file, add `format:`; if not, copy or download it again",
        ) from error


@contextmanager
def _seekable(source: Source) -> Iterator[Any]:
    """The file, unpacked where it is compressed as a whole: Parquet is read from its end."""
    if not source.packing:
        yield source.path
        return
    with tempfile.TemporaryFile() as unpacked:
        with open_bytes(source) as packed:
            shutil.copyfileobj(packed, unpacked)
        yield unpacked


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _output_field(field: pa.Field) -> pa.Field:
    kind = _unwrapped(field.type)
    if pa.types.is_null(kind) or _is_binary(kind):
        return plain_field(field.name, pa.string())
    return plain_field(field.name, kind if _is_plain(kind) else None)


def _unwrapped(kind: pa.DataType) -> pa.DataType:
    """The type without what is only a way to store it."""
    types = pa.types
    if types.is_dictionary(kind):
        return _unwrapped(kind.value_type)
    if types.is_large_string(kind) or types.is_string_view(kind):
        return pa.string()
    if types.is_float16(kind):
        return pa.float32()
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _unwrapped(kind.value_type)
        return pa.list_(inner) if _is_number_or_text(inner) or types.is_list(inner) else kind
    return kind


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        inner = kind.value_type
        return _is_number_or_text(inner) or (bool(pa.types.is_list(inner)) and _is_plain(inner))
    return _is_number_or_text(kind) or (is_text_in_json(kind) and not pa.types.is_interval(kind))


def _is_number_or_text(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_string(kind)
    ) and not types.is_float16(kind)


def _is_binary(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def _json_values(array: pa.Array) -> list[Any]:
    """A column's values as JSON has them."""
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    kind = _unwrapped(array.type)
    if _is_plain(kind):
        return list((as_json_values(array) if is_text_in_json(kind) else array.cast(kind)).to_pylist())
    return [_as_json(value) for value in array.cast(_nested_text(array.type)).to_pylist()]


def _nested_text(kind: pa.DataType) -> pa.DataType:
    """The type with text in place of times and decimals inside lists, structs and maps."""
    types = pa.types
    if types.is_dictionary(kind):
        return _nested_text(kind.value_type)
    if types.is_duration(kind):
        return pa.int64()
    if is_text_in_json(kind) and not types.is_interval(kind):
        return pa.string()
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, _nested_text(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(_nested_text(kind.key_type), _nested_text(kind.item_type))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(_nested_text(kind.value_type))
    return kind


def _as_json(value: Any) -> Any:
    """A value as JSON has it: bytes as base64 text, a map as a list of pairs."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {name: _as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    return str(Decimal(value) if isinstance(value, Decimal) else value)
