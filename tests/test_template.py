"""Prompts: fields are data, unknown names are errors, and the simple form says what Jinja2 says."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from runner.errors import SpecError
from runner.template import MissingField, PromptTemplate


def prompt(text: str, folder: Path | None = None) -> PromptTemplate:
    return PromptTemplate([("user", text)], folder)


def filled(text: str, **fields: Any) -> str:
    return prompt(text).render(fields)[0][1]


VALUES = [
    "",
    "a {{ b }} %s {% if %}",
    "é\u2028\ud800\x00",
    None,
    True,
    0,
    -1.5,
    12345678901234567890,
    ["a", None],
    {"k": [1]},
]


def test_the_simple_form_and_jinja_say_the_same() -> None:
    draw = random.Random(3)
    simple = prompt('A {{ x }} b {{ row["odd name"] }}{{ y }} {# no #}end')
    general = prompt('A {{ x }} b {{ row["odd name"] }}{{ y }} {# no #}{% if true %}end{% endif %}')
    for _ in range(300):
        fields = {name: draw.choice(VALUES) for name in ("x", "y", "odd name")}
        assert simple.render(fields) == general.render(fields)


@pytest.mark.parametrize("text", ["{{ x }}", "{% if true %}{{ x }}{% endif %}"])
def test_values_are_never_interpreted(text: str) -> None:
    for value in ("{{ 7 * 7 }}", "{% raw %}", "%s", r"\alpha {x}", "{# gone #}"):
        assert filled(text, x=value) == value


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (True, "true"), (3, "3"), (["a", 1], '["a", 1]'), ({"k": "é"}, '{"k": "é"}')]
)
def test_null_is_nothing_and_the_rest_is_json(value: Any, text: str) -> None:
    assert filled("<{{ x }}>", x=value) == f"<{text}>"


def test_an_unknown_name_is_an_error_that_names_the_columns() -> None:
    with pytest.raises(SpecError) as caught:
        prompt("{{ titel }}").check_columns(["title", "abstract"])
    assert str(caught.value) == (
        "the prompt uses `titel`, and the input has no such column\n"
        "hint: did you mean `title`? columns: title, abstract"
    )


def test_what_jinja_offers_is_no_unknown_column() -> None:
    template = prompt("{% for n in range(3) %}{{ n }}{{ loop.index }}{% endfor %}{{ row['x'] }}")
    template.check_columns(["x"])
    assert template.render({"x": "!"})[0][1] == "011223!"


@pytest.mark.parametrize(
    "text", ["{{ x }}", "{% if x %}{% endif %}", "{{ x | upper }}", '{{ row["x"] }}', '{{ row["x"] | upper }}']
)
def test_a_field_that_the_row_lacks_is_named(text: str) -> None:
    with pytest.raises(MissingField, match="the row has no field `x`"):
        filled(text, y=1)


def test_a_template_may_ask_whether_a_field_is_there() -> None:
    assert filled("{% if x is defined %}{{ x }}{% else %}none{% endif %}") == "none"


@pytest.mark.parametrize("text", ["{{ x.__class__.__mro__ }}", "{{ ''.__class__.__subclasses__() }}"])
def test_what_the_sandbox_forbids_is_a_mistake_in_the_job(text: str) -> None:
    with pytest.raises(SpecError, match="what prompts may not"):
        filled(text, x="a")


def test_a_value_that_the_template_cannot_use_fails_its_row() -> None:
    with pytest.raises(MissingField, match="division by zero"):
        filled("{{ 1 / n }}", n=0)


def test_a_broken_template_is_an_error_with_its_place() -> None:
    with pytest.raises(SpecError, match="not a valid template"):
        prompt("line one\n{{ x ")
    with pytest.raises(SpecError, match="not a valid template"):
        prompt("{% for x in y %}")
