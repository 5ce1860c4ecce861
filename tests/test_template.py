"""Prompts are filled in with the values of a row, which are data and never code."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from runner.errors import RunnerError, SpecError
from runner.template import MissingField, PromptError, PromptTemplate


def fill(text: str, folder: Path | None = None, /, **fields: Any) -> str:
    template = PromptTemplate([("user", text)], folder)
    for error in template.unknown(list(fields)):
        raise error
    return only(template.render(fields))


def only(messages: list[tuple[str, str]]) -> str:
    ((role, text),) = messages
    assert role == "user"
    return text


def spec_error(text: str, folder: Path | None = None, /, **fields: Any) -> str:
    with pytest.raises(SpecError) as caught:
        fill(text, folder, **fields)
    return str(caught.value)


def missing(text: str, fields: dict[str, Any], folder: Path | None = None) -> str:
    with pytest.raises(MissingField) as caught:
        PromptTemplate([("user", text)], folder).render(fields)
    return caught.value.message


# Values ---------------------------------------------------------------------------------------------------------------

# Nothing is put in by the second form but what is put in by the first; it only makes Jinja2 itself do it.
BOTH_WAYS = pytest.mark.parametrize("ending", ["", "{% if true %}{% endif %}"], ids=["simple", "jinja"])


def test_messages_keep_their_roles_and_order() -> None:
    template = PromptTemplate([("system", "Be {{ how }}."), ("user", "{{ a }}"), ("assistant", "no fields")])
    assert template.render({"how": "brief", "a": "x"}) == [
        ("system", "Be brief."),
        ("user", "x"),
        ("assistant", "no fields"),
    ]
    assert template.names == {"how", "a"}


@BOTH_WAYS
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        ("", ""),
        (None, ""),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (10**30, str(10**30)),
        (1.0, "1.0"),
        (1e-7, "1e-07"),
        (["a", 1, None], '["a", 1, null]'),
        ({"é": "日本"}, '{"é": "日本"}'),
        ([], "[]"),
        ({}, "{}"),
    ],
)
def test_null_is_nothing_and_what_is_not_text_is_json(ending: str, value: Any, expected: str) -> None:
    assert fill("<{{ x }}>" + ending, x=value) == f"<{expected}>"
    assert fill('<{{ row["x"] }}>' + ending, x=value) == f"<{expected}>"


DANGEROUS = [
    "{{ x }}",
    "{% include 'secret' %}",
    "{# comment #}",
    "%s %(a)s {0} {x.__class__} ${HOME}",
    r"\frac{1}{2} $\{x\}$ \n \u0041",
    "<b>&amp;\"'</b>",
    "line\r\nline\rline\n",
    "\x00\x1f\u2028",
    "\ud800 alone",
    "{{",
    "}}",
]


@BOTH_WAYS
@pytest.mark.parametrize("value", DANGEROUS)
def test_values_are_never_interpreted(ending: str, value: str) -> None:
    assert fill("{{ x }}|{{ y }}" + ending, x=value, y="secret") == f"{value}|secret"
    assert fill("{{ x }}" + ending, x=[value], y="secret") == json.dumps([value], ensure_ascii=False)


def test_the_simple_form_equals_jinja() -> None:
    random_ = random.Random(7)
    names = ["a", "title", "_x", "range", "self", "row", "loop", "dict", "größe", "x1", "none_", "super", "caller"]
    odd = ["odd name", "a.b", "items", "keys", '"', "é\n", "0", ""]
    texts = ["", " ", "Text: ", "{# no #}", "{ }", "%s", "\n", "\r\n", "  \n", "\\n", "}}", "#", "日本"]
    values = [*DANGEROUS, "text", None, True, 5, -1.5, [1, "a"], {"b": None}, "", 0]
    for _ in range(400):
        parts = []
        for _ in range(random_.randrange(7)):
            parts.append(random_.choice(texts))
            name = random_.choice([*names, *odd])
            plain = name in names and random_.random() < 0.6
            dash = random_.choice(["", "", "-"])
            parts.append("{{" + dash + (f" {name} " if plain else f" row[{json.dumps(name)}] ") + dash + "}}")
        text = "".join([*parts, random_.choice(texts)])
        fields = {name: random_.choice(values) for name in [*names, *odd] if random_.random() < 0.97}
        simple = outcome(text, fields)
        assert simple == outcome(text + "{% if true %}{% endif %}", fields), (text, fields)


def outcome(text: str, fields: dict[str, Any]) -> tuple[str, str]:
    if text.endswith("\n"):
        text += "."  # Jinja2 cuts off the newline at the very end
    if text.endswith("%}"):
        text = text.replace("\n{% if true %}", "\n.{% if true %}")
    try:
        return "ok", only(PromptTemplate([("user", text)]).render(fields))
    except RunnerError as error:
        return type(error).__name__, error.message


@pytest.mark.parametrize("text", ["{{ a }}", "x {{ a }} y {{ row['b c'] }}", "no fields", ""])
def test_nearly_all_templates_are_simple(text: str) -> None:
    fields = {"a": "1", "b c": "2"}
    assert PromptTemplate([("user", text)]).simple
    assert not PromptTemplate([("user", text), ("user", "{{ a | upper }}")]).simple
    assert fill(text, **fields) == text.replace("{{ a }}", "1").replace("{{ row['b c'] }}", "2")


# Names ----------------------------------------------------------------------------------------------------------------


def test_an_unknown_column_is_named_with_a_suggestion() -> None:
    assert spec_error("{{ abstrct }}", title="x", abstract="y") == (
        "the prompt uses `abstrct`, and the input has no such column\n"
        "  --> prompt, message 1\n"
        "hint: did you mean `abstract`?"
    )
    assert spec_error("{{ zzz }}", title="x") == (
        "the prompt uses `zzz`, and the input has no such column\n  --> prompt, message 1\nhint: there are `title`"
    )


def test_all_unknown_columns_are_found_each_in_its_first_message() -> None:
    template = PromptTemplate([("system", "{{ a }}"), ("user", "{{ c }}{{ b }}{{ a }}")])
    assert [(error.message.split("`")[1], error.position) for error in template.unknown(["c"])] == [("a", 0), ("b", 1)]


@pytest.mark.parametrize(
    "text",
    [
        '{{ row["odd nam"] }}',
        "{{ row['odd nam'] }}",
        "{% if row['odd nam'] == 1 %}{% endif %}",
        "{% for x in [1] %}{{ x }}{{ row['odd nam'] }}{% endfor %}",
    ],
)
def test_an_unknown_odd_name_is_found_too(text: str) -> None:
    assert "did you mean `odd name`?" in spec_error(text, **{"odd name": "x"})


def test_an_unknown_attribute_of_the_row_is_found() -> None:
    assert "did you mean `title`?" in spec_error("{{ row.titel }}", title="x")
    assert fill("{{ row.title }}", title="x") == "x"


def test_names_that_are_not_columns() -> None:
    text = "{% set a = 1 %}{% for b in range(2) %}{{ a + b + loop.index }}{% endfor %}"
    assert PromptTemplate([("user", text)]).names == set()
    assert fill(text) == "24"
    assert fill("{% set n = namespace(x=1) %}{{ n.x }}{{ dict(a=1) }}") == '1{"a": 1}'
    assert fill("{{ row }}", a=1, b=None) == '{"a": 1, "b": null}'


def test_columns_whose_names_mean_something_else() -> None:
    fields = {"row": "r", "range": "g", "self": "s", "items": "i", "true": "t", "dict": "d"}
    for name, value in fields.items():
        assert fill(f'{{{{ row["{name}"] }}}}', **fields) == value
    assert fill("{{ range }}{{ dict }}{{ items }}", **fields) == "gdi"
    assert fill("{{ row['row'] }}{{ row['range'] }}", **fields) == "rg"
    for text in ("{{ self }}", "{{ row.items }}"):  # never sent as "<built-in method…>"
        assert "which is not a value of the row" in missing(text, fields)


@pytest.mark.parametrize("text", ["{{ range }}", "{{ dict }}", "{{ lipsum }}", "{{ cycler }}", "{{ title.upper }}"])
def test_what_is_no_value_is_never_put_in(text: str) -> None:
    assert missing(text, {"title": "x"}).startswith("the prompt puts in a ")


def test_a_generator_is_no_value_and_a_list_is_one() -> None:
    assert missing("{{ a | map('upper') }}", {"a": ["x"]}) == (
        "the prompt puts in a generator, which is not a value of the row"
    )
    assert fill("{{ a | map('upper') | list }}", a=["x"]) == '["X"]'


# Rows that lack something ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{{ x }}",
        "{{ row['x'] }}",
        "{{ row['x'] | upper }}",
        "{{ x | upper }}",
        "{{ x + 1 }}",
        "{{ 1 - x }}",
        "{{ x < 1 }}",
        "{{ x == 1 }}",
        "{{ x.y.z }}",
        "{{ x['y'] }}",
        "{{ x() }}",
        "{{ -x }}",
        "{{ 'a' in x }}",
        "{{ x ~ 'a' }}",
        "{% if x %}{% endif %}",
        "{% if not x %}{% endif %}",
        "{% for y in x %}{% endfor %}",
        "{% set y = x %}{{ y }}",
        "{{ x | length }}",
        "{{ [x] | join }}",
        "{{ '%s' | format(x) }}",
        "{{ x if true }}",
    ],
)
def test_a_field_that_the_row_lacks_is_named(text: str) -> None:
    assert missing(text, {"a": 1}) == "the row has no field `x`"


@pytest.mark.parametrize(
    "text",
    [
        "{% if x is defined %}{{ x }}{% else %}-{% endif %}",
        "{% if row['x'] is defined %}{{ row['x'] }}{% else %}-{% endif %}",
        "{% if x is undefined %}-{% else %}{{ x }}{% endif %}",
        "{{ x | default('-') }}",
        "{{ x | d('-') }}",
        "{{ row['x'] | default('-') }}",
        "{{ x if x is defined else '-' }}",
    ],
)
def test_a_field_may_be_missing_where_the_template_asks(text: str) -> None:
    template = PromptTemplate([("user", text)])
    assert "x" in template.names
    assert only(template.render({"x": "value"})) == "value"
    assert only(template.render({"a": "value"})) == "-"
    assert not list(template.unknown(["a"])), "no row has it: fine too"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ n / 0 }}", "division by zero"),
        ("{{ title + 1 }}", 'can only concatenate str (not "int") to str'),
        ("{{ title.foo }}", "'str object' has no attribute 'foo'"),
        ("{{ title.foo.bar }}", "'str object' has no attribute 'foo'"),
        ("{{ d.b }}", "'dict object' has no attribute 'b'"),
        ("{{ d['b'] + 1 }}", "'dict object' has no attribute 'b'"),
        ("{{ [1][5] }}", "list object has no element 5"),
        ("{{ range(10 ** 9) }}", "Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000)."),
    ],
)
def test_values_that_the_template_cannot_work_with(text: str, reason: str) -> None:
    assert missing(text, {"n": 1, "title": "x", "d": {"a": 1}}) == f"the prompt cannot be filled in: {reason}"


# The sandbox ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "{{ title.__class__ }}",
        "{{ title.__class__.__mro__[1].__subclasses__() }}",
        "{{ title['__class__'] }}",
        "{{ title | attr('__class__') }}",
        "{{ ''.__class__ }}",
        "{{ row.__class__ }}",
        "{{ range.__globals__ }}",
        "{{ self.__init__ }}",
        "{{ '{0.__class__}'.format(title) }}",
        "{{ authors.append('x') }}",
        "{{ row.update({'a': 1}) }}",
        "{{ row.clear() }}",
    ],
)
def test_a_template_cannot_reach_out(text: str) -> None:
    fields = {"title": "x", "authors": ["a"]}
    with pytest.raises(PromptError) as caught:
        PromptTemplate([("system", "fine"), ("user", text)]).render(fields)
    assert caught.value.message.startswith("the prompt does what prompts may not: ")
    assert caught.value.position == 1
    assert fields == {"title": "x", "authors": ["a"]}


# Mistakes in the template ---------------------------------------------------------------------------------------------

RAW = "hint: write {% raw %}…{% endraw %} around braces that are meant as text"


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ("a\n{{ b", "unexpected end of template, expected 'end of print statement'.", 2),
        ("{{ }}", "Expected an expression, got 'end of print statement'", 1),
        ("{% if %}", "Expected an expression, got 'end of statement block'", 1),
        ("\n\n{{ x | nofilter }}", "No filter named 'nofilter'.", 3),
        ("{{ x is notest }}", "No test named 'notest'.", 1),
        (r"\frac{{1}{2}", "unexpected '}'", 1),
        ("{# never closed", "Missing end of comment tag", 1),
        ("{% frobnicate %}", "Encountered unknown tag 'frobnicate'.", 1),
    ],
)
def test_a_template_that_is_not_valid(text: str, reason: str, line: int) -> None:
    with pytest.raises(SpecError) as caught:
        PromptTemplate([("system", "fine"), ("user", text)])
    assert str(caught.value) == (
        f"the user prompt is not a valid template: {reason}\n  --> prompt, message 2, line {line}\n{RAW}"
    )


def test_braces_as_text() -> None:
    assert fill("{% raw %}{{ x }}{% endraw %} {{ '{{' }} { } {x} } {") == "{{ x }} {{ { } {x} } {"


# Included files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "style.txt": "Be brief, {{ name }}.",
        "outer.txt": "{% include 'style.txt' %}!",
        "loop.txt": "{% include 'loop.txt' %}",
        "wrong.txt": "fine\n{{ x | nofilter }}",
        "broken.txt": "{% if %}",
        "maybe.txt": "{{ x | default('-') }}",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_included_files(folder: Path) -> None:
    assert fill("{% include 'style.txt' %} {{ name }}", folder, name="Ada") == "Be brief, Ada. Ada"
    assert fill("{% include 'outer.txt' %}", folder, name="{{ x }}") == "Be brief, {{ x }}.!"
    assert fill("{% for name in all %}{% include 'style.txt' %}{% endfor %}", folder, all=["A", "B"]) == (
        "Be brief, A.Be brief, B."
    )
    assert fill("{% include 'maybe.txt' %}", folder, a=1) == "-"
    assert fill("{% include 'nowhere.txt' ignore missing %}.", folder) == "."


@pytest.mark.parametrize("file", ["style.txt", "outer.txt"])
def test_the_columns_of_included_files_are_checked(folder: Path, file: str) -> None:
    assert "the prompt uses `name`" in spec_error(f"{{% include '{file}' %}}", folder, nam="Ada")
    assert missing(f"{{% include '{file}' %}}", {}, folder) == "the row has no field `name`"


def test_mistakes_in_included_files(folder: Path) -> None:
    assert spec_error("{% include 'wrong.txt' %}", folder, x=1) == (
        f"the user prompt is not a valid template: No filter named 'nofilter'.\n  --> wrong.txt, line 2\n{RAW}"
    )
    assert "--> broken.txt, line 1" in spec_error("{% include 'broken.txt' %}", folder)


@pytest.mark.parametrize("file", ["nowhere.txt", "../style.txt", "/etc/hostname"])
def test_only_files_of_the_folder_are_included(folder: Path, file: str) -> None:
    expected = f"the prompt includes `{file}`, which is not in configs/prompts/"
    expected += "\n  --> prompt, message 1"
    assert spec_error(f"{{% include '{file}' %}}", folder) == expected
    assert spec_error(f"{{% include '{file}' %}}") == expected


def test_a_file_that_includes_itself(folder: Path) -> None:
    assert missing("{% include 'loop.txt' %}", {}, folder).startswith("the prompt cannot be filled in: ")
