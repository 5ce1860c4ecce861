"""Makes up a value that fits a JSON Schema, sensible where the user's text suggests one.

Covers what structured output allows: objects, arrays, strings, numbers, booleans, null, enum, const, lists of types,
anyOf, oneOf, allOf, $ref within the schema, and the bounds of each. `pattern` and `not` are left out of account.
"""

from __future__ import annotations

from math import ceil, floor
from typing import Any

from runner.simulator.draws import Draws
from runner.simulator.judgement import Judge, Options, options

_DEEP = 6  # from here on a recursive schema is led to its end
_TOO_DEEP = 60
_FILLER = ("of", "the", "sample", "text", "made", "up", "by", "a", "simulator")
_CONFIDENCE = "_confidence"  # a property named so says how sure the answer is that stands beside it
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")


class Unfit(ValueError):  # noqa: N818 - a word of the module
    """No value fits the schema, or the schema is not one."""


class Fitting:
    """Makes values for one schema.

    Args:
        schema: a JSON Schema, as parsed JSON.
        text: the user's text as a list of words, to quote from.
        judge: who chooses by that text.
        draws: where chance comes from.
    """

    def __init__(self, schema: Any, text: list[str], judge: Judge, draws: Draws) -> None:
        self._root = schema
        self._text = text
        self._judge = judge
        self._draws = draws

    def value(self) -> Any:
        """A value that fits.

        Raises:
            Unfit: the schema refers to nothing, never ends, or allows nothing.
        """
        return self._fit(self._root, 0, "")

    def _fit(self, schema: Any, depth: int, path: str) -> Any:
        """A value for what stands at that path, such as `people[1].name`."""
        if schema is True:
            return self._words(3)
        if not isinstance(schema, dict):
            raise Unfit(f"{schema!r} is not a schema that a value can fit")
        if depth > _TOO_DEEP:
            raise Unfit("the schema never ends")
        schema = self._resolved(schema, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._choice(schema, path)
        kind = self._type(schema, depth)
        if kind == "object":
            return self._object(schema, depth, f"{path}." if path else "")
        if kind == "array":
            return self._array(schema, depth, path)
        if kind == "string":
            return self._string(schema)
        if kind == "number" and _is_probability(schema) and (statement := _said(schema)):
            return self._judge.likelihood(path, statement)
        if kind in ("integer", "number"):
            return self._number(schema, whole=kind == "integer")
        if kind == "boolean" and (statement := _said(schema)):
            return self._judge.likelihood(path, statement) >= 0.5
        return self._draws.unit() < 0.5 if kind == "boolean" else None

    def _resolved(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        """The schema without $ref, allOf, anyOf and oneOf."""
        hops = 0
        while True:
            hops += 1
            if hops > _TOO_DEEP:
                raise Unfit("a `$ref` leads back to itself")
            if "$ref" in schema:
                rest = {key: value for key, value in schema.items() if key != "$ref"}
                schema = _merged(rest, self._referred(schema["$ref"]))
            elif schema.get("allOf"):
                parts = schema["allOf"]
                schema = {key: value for key, value in schema.items() if key != "allOf"}
                for part in parts:
                    schema = _merged(schema, part)
            elif branches := schema.get("anyOf") or schema.get("oneOf"):
                rest = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
                schema = _merged(rest, self._branch(branches, depth))
            else:
                return schema

    def _referred(self, ref: Any) -> Any:
        if not isinstance(ref, str) or not ref.startswith("#"):
            raise Unfit(f"`$ref` must point into the schema itself, got {ref!r}")
        found = self._root
        for step in ref[1:].split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(step)] if isinstance(found, list) else found[step]
            except (KeyError, IndexError, TypeError, ValueError):
                raise Unfit(f"`$ref` points to nothing: {ref!r}") from None
        return found

    def _branch(self, branches: list[Any], depth: int) -> Any:
        consts = [branch["const"] for branch in branches if isinstance(branch, dict) and "const" in branch]
        if len(consts) == len(branches):
            return {"enum": consts}
        if depth >= _DEEP:
            flat = [branch for branch in branches if _is_flat(branch)]
            branches = flat or branches
        elif self._draws.unit() < 0.9:  # null is the exception among answers
            branches = [branch for branch in branches if branch != {"type": "null"}] or branches
        return self._draws.pick(branches)

    def _choice(self, schema: dict[str, Any], path: str) -> Any:
        texts, among = _choices(schema)
        return texts[self._judge.choose(path, among)] if among else self._draws.pick(schema["enum"])

    def _confidence(self, schema: Any, depth: int, path: str) -> float | None:
        """How sure the value of that property is; None where nothing is known of it."""
        if not isinstance(schema, dict):
            return None
        schema = self._resolved(schema, depth)
        if "enum" in schema:
            _, among = _choices(schema)
            return max(self._judge.probabilities(path, among)) if among else None
        if schema.get("type") == "boolean" and (statement := _said(schema)):
            likelihood = self._judge.likelihood(path, statement)
            return max(likelihood, 1 - likelihood)
        return None

    def _type(self, schema: dict[str, Any], depth: int) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            kinds = [each for each in kind if each != "null"]
            if not kinds or ("null" in kind and (depth >= _DEEP or self._draws.unit() < 0.1)):
                return "null"
            kind = self._draws.pick(kinds)
        if kind is None:
            if "properties" in schema or "required" in schema:
                return "object"
            if "items" in schema or "prefixItems" in schema or "minItems" in schema:
                return "array"
            if any(key in schema for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")):
                return "number"
            return "string"
        if kind not in _TYPES:
            raise Unfit(f"`type` must be one of {', '.join(_TYPES)}, got {kind!r}")
        return str(kind)

    def _object(self, schema: dict[str, Any], depth: int, inside: str) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required") or []
        value: dict[str, Any] = {}
        for name, part in properties.items():
            if name in required or depth < _DEEP:
                if part is False:
                    continue
                if name.endswith(_CONFIDENCE) and isinstance(part, dict) and _is_probability(part):
                    beside = name.removesuffix(_CONFIDENCE)
                    if (sure := self._confidence(properties.get(beside), depth, inside + beside)) is not None:
                        value[name] = sure
                        continue
                value[name] = self._fit(part, depth + 1, inside + name)
        more = schema.get("additionalProperties", True)
        for name in required:
            if name not in value:
                value[name] = self._fit(more, depth + 1, inside + name)
        extra = 0
        while len(value) < schema.get("minProperties", 0):
            extra += 1
            name = f"property_{extra}"
            value.setdefault(name, self._fit(more, depth + 1, inside + name))
        return value

    def _array(self, schema: dict[str, Any], depth: int, path: str) -> list[Any]:
        first = schema.get("prefixItems") or []
        items = schema.get("items", True)
        least = schema.get("minItems", 0)
        most = schema.get("maxItems", max(least, 3))
        if most < least:
            raise Unfit("`maxItems` is below `minItems`")
        if not first and isinstance(items, dict):
            held = self._resolved(items, depth)
            if "enum" in held:
                texts, among = _choices({"description": _said(schema), **held})
                if len(among) >= max(least, 1):  # several labels: each at most once, and all that the text speaks for
                    chosen = self._judge.several(path, among, least, schema.get("maxItems", len(among)))
                    return [texts[at] for at in chosen]
        size = least if depth >= _DEEP else least + self._draws.below(most - least + 1)
        if depth < _DEEP and size == 0 and most > 0:
            size = 1  # an empty list is a dull answer
        if items is False:
            size = min(size, len(first))
        value: list[Any] = []
        for attempt in range(20 * size):  # more than enough tries to find different values where they must differ
            if len(value) >= size:
                break
            each = self._fit(first[len(value)] if len(value) < len(first) else items, depth + 1, f"{path}[{attempt}]")
            if not (schema.get("uniqueItems") and each in value):
                value.append(each)
        if schema.get("uniqueItems") and len(value) < least:
            value.extend(each for each in _choices_of(items) if each not in value)
            value = value[:size]
        return value

    def _string(self, schema: dict[str, Any]) -> str:
        if (made := _formatted(schema.get("format"), self._draws)) is not None:
            return made
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        text = self._words(4)
        while len(text) < least:
            text += " " + self._draws.pick(_FILLER)
        return text if most is None else text[:most]

    def _number(self, schema: dict[str, Any], *, whole: bool) -> float:
        low, high = schema.get("minimum"), schema.get("maximum")
        above, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        step = schema.get("multipleOf") or (1 if whole else None)
        if whole and step and step % 1:
            step = 1  # such as a multiple of 0.5
        if step:
            # The bounds in steps; an exclusive bound is the next step after it.
            lows = [
                ceil(low / step) if low is not None else None,
                floor(above / step) + 1 if above is not None else None,
            ]
            highs = [
                floor(high / step) if high is not None else None,
                ceil(under / step) - 1 if under is not None else None,
            ]
            least, most = _span([n for n in lows if n is not None], [n for n in highs if n is not None], 100)
            if most < least:
                raise Unfit("no number is within the bounds")
            number = (least + self._draws.below(int(most - least) + 1)) * step
            return int(number) if whole else round(number, 10)
        least, most = _span([n for n in (low, above) if n is not None], [n for n in (high, under) if n is not None], 1)
        if most < least:
            raise Unfit("no number is within the bounds")
        # Strictly between the bounds, unless they are one point; round only where that keeps it there.
        exact = least + (most - least) * (0.001 + 0.998 * self._draws.unit())
        return rounded if least < (rounded := round(exact, 3)) < most else exact

    def _words(self, count: int) -> str:
        """Some neighbouring words of the user's text."""
        if not self._text:
            return " ".join(self._draws.pick(_FILLER) for _ in range(count))
        start = self._draws.below(max(1, len(self._text) - count + 1))
        return " ".join(self._text[start : start + count])


def _choices(schema: dict[str, Any]) -> tuple[list[str], Options]:
    """The texts of an enum, and what is known about each; none of both where it lists no text."""
    enum = schema["enum"]
    if not isinstance(enum, list) or not enum:
        raise Unfit("`enum` must list at least one value")
    texts = [choice for choice in enum if isinstance(choice, str)]
    return texts, options(tuple(texts), (), _said(schema))


def _said(schema: dict[str, Any]) -> str:
    """The description of a schema, or nothing."""
    said = schema.get("description")
    return said if isinstance(said, str) else ""


def _is_probability(schema: dict[str, Any]) -> bool:
    return schema.get("minimum") == 0 and schema.get("maximum") == 1 and schema.get("multipleOf") is None


def _formatted(kind: Any, draws: Draws) -> str | None:
    """A string of one of JSON Schema's formats; None for a format that is unknown, or none."""
    if kind in ("date", "time", "date-time"):
        date = f"{2000 + draws.below(30)}-{1 + draws.below(12):02}-{1 + draws.below(28):02}"
        time = f"{draws.below(24):02}:{draws.below(60):02}:{draws.below(60):02}Z"
        return {"date": date, "time": time}.get(kind, f"{date}T{time}")
    number = draws.below(16**8)
    if kind == "uuid":
        return f"{number:08x}-{draws.below(16**4):04x}-4000-a000-{draws.below(16**12):012x}"
    return {
        "duration": f"PT{1 + number % 59}M",
        "email": f"someone{number}@example.org",
        "hostname": f"host{number}.example.org",
        "ipv4": f"192.0.2.{number % 256}",
        "ipv6": f"2001:db8::{1 + number % 9999}",
        "uri": f"https://example.org/{number}",
    }.get(kind)


def _span(lows: list[float], highs: list[float], width: float) -> tuple[float, float]:
    """The tightest bounds; where there is none, `width` away from the other or from 0."""
    if lows:
        return max(lows), min(highs, default=max(lows) + width)
    if highs:
        return min(0, min(highs) - width), min(highs)
    return 0, width


def _merged(one: Any, other: Any) -> dict[str, Any]:
    """Both schemas at once, as far as their keys differ; properties and required add up."""
    if other is True:
        other = {}
    if not isinstance(one, dict) or not isinstance(other, dict):
        raise Unfit(f"{other!r} is not a schema that a value can fit")
    merged = {**one, **other}
    if "properties" in one and "properties" in other:
        merged["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        merged["required"] = [*one["required"], *other["required"]]
    return merged


def _is_flat(schema: Any) -> bool:
    """Whether a value of this schema surely holds no other."""
    return isinstance(schema, dict) and (
        "const" in schema
        or "enum" in schema
        or schema.get("type") in ("string", "integer", "number", "boolean", "null")
    )


def _choices_of(schema: Any) -> list[Any]:
    """Every value of a schema that lists them."""
    if isinstance(schema, dict) and isinstance(schema.get("enum"), list):
        return list(schema["enum"])
    return []
