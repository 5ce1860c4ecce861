"""What a JSON Schema must be to describe answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner.problems import At, Finding, listed, say


def schema_findings(schema: Mapping[str, Any], *, strict: bool) -> list[Finding]:
    """Everything that keeps a JSON Schema from describing answers; places are relative to the schema."""
    import jsonschema_rs

    try:
        jsonschema_rs.meta.validate(dict(schema))
    except jsonschema_rs.ValidationError as error:
        at = tuple(error.instance_path)
        return [Finding(f"is not valid JSON Schema: {_first_line(error.message)}", at)]
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        return [Finding(f"is not valid JSON Schema: {_first_line(str(error))}")]
    findings = []
    if schema.get("type") != "object" or not isinstance(schema.get("properties"), Mapping) or not schema["properties"]:
        hint = "write `type: object`, and the fields of the answer under `properties`"
        findings.append(Finding("must be an object with properties at its top level", hint=hint))
    else:
        for name in schema["properties"]:
            if name.startswith("_"):
                hint = "names that begin with an underscore are the runner's own columns"
                findings.append(Finding("must not begin with an underscore", ("properties", name), hint, on_key=True))
            elif not name.strip():
                findings.append(Finding("must not be empty: it becomes a column", ("properties", name), on_key=True))
    for at, part in _subschemas(schema):
        reference = part.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            hint = "write what it refers to under `$defs`"
            findings.append(Finding(f"must point inside the schema, got {say(reference)}", (*at, "$ref"), hint))
    if not findings:
        try:
            jsonschema_rs.validator_for(dict(schema))
        except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
            findings.append(Finding(f"cannot be used: {_first_line(str(error))}"))
    if strict:
        for at, part in _subschemas(schema):
            findings += _strict_findings(part, at)
    return findings


def _strict_findings(part: Mapping[str, Any], at: At) -> Iterator[Finding]:
    kind = part.get("type")
    properties = part.get("properties")
    if kind != "object" and not (isinstance(kind, Sequence) and "object" in kind) and properties is None:
        return
    if part.get("additionalProperties") is not False:
        hint = "add it, or set `output.strict: false`"
        yield Finding("needs `additionalProperties: false`", at, hint)
    required = part.get("required", ())
    missing = [name for name in properties or () if name not in required]
    if missing:
        hint = f"add {listed(missing)} to `required`, or set `output.strict: false`"
        yield Finding("must require all its properties", at, hint)


_MAPS_OF_SCHEMAS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = ("items", "not", "if", "then", "else", "contains", "additionalProperties", "propertyNames")


def _subschemas(schema: object, at: At = ()) -> Iterator[tuple[At, Mapping[str, Any]]]:
    """The schema and all schemas in it, each with its place."""
    if not isinstance(schema, Mapping):
        return
    yield at, schema
    for key in _MAPS_OF_SCHEMAS:
        inner = schema.get(key)
        if isinstance(inner, Mapping):
            for name, part in inner.items():
                yield from _subschemas(part, (*at, key, name))
    for key in _LISTS_OF_SCHEMAS:
        inner = schema.get(key)
        if isinstance(inner, list | tuple):
            for index, part in enumerate(inner):
                yield from _subschemas(part, (*at, key, index))
    for key in _SCHEMAS:
        yield from _subschemas(schema.get(key), (*at, key))


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else "unknown reason"
    return line if len(line) <= 160 else f"{line[:159]}…"


def target(reference: str, root: Mapping[str, Any]) -> Any:
    """Follow a `$ref` within the schema (a JSON Pointer, RFC 6901); None where it leads nowhere."""
    target: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        target = target.get(name) if isinstance(target, Mapping) else None
    return target
