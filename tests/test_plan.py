"""What can be known before the first request is found then, and shown at its place."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from runner.dry_run import dry_run
from runner.errors import RunnerError, SpecError
from runner.load import load_job
from runner.plan import Plan, make_plan

ROWS = [
    {"id": "a", "text": "one", "tags": ["x"], "about": {"year": 1}},
    {"id": "b", "text": "two", "tags": [], "about": {}},
    {"id": "c", "text": "three", "tags": ["y"], "about": {"year": 0}},
]
JOB = Path("job.yaml")


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("configs/prompts").mkdir(parents=True)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def job(user: str, **settings: Any) -> Path:
    """Write a job with this prompt, and with these keys of `input`."""
    keys = {"input": {"path": "rows.jsonl", **settings}, "prompt": {"user": user}}
    return written(yaml.safe_dump(keys))


def written(text: str) -> Path:
    JOB.write_text(dedent(text).lstrip("\n") + "model: gpt-6-luna\nendpoint: simulator\n")
    return JOB


def plan(path: Path, **overrides: str) -> Plan:
    return make_plan(load_job(path, overrides=overrides))


def said(path: Path, **overrides: str) -> str:
    """What a job ends in before anything is sent."""
    with pytest.raises(RunnerError) as caught:
        plan(path, **overrides).survey()
    assert caught.value.exit_code == 2
    return f"error: {caught.value}"


def expect(shown: str) -> str:
    return dedent(shown).strip("\n")


# Rows that the prompt cannot be made of -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "bad", "first", "reason"),
    [
        ("{{ 1 / 0 }}", 3, 1, "division by zero"),
        ("{{ about.month }}", 3, 1, "'dict object' has no attribute 'month'"),
        ("{{ tags[0] }}", 1, 2, "list object has no element 0"),
        ("{{ 1 / about.year }}", 2, 2, "'dict object' has no attribute 'year'"),
    ],
)
def test_rows_that_a_template_cannot_be_filled_in_with_are_bad(user: str, bad: int, first: int, reason: str) -> None:
    count = "1 row of the input is" if bad == 1 else f"{bad} rows of the input are"
    assert said(job(user)).startswith(
        f"error: {count} bad, the first because: the prompt cannot be filled in: {reason}\n  --> rows.jsonl:{first}"
    )
    for how, rows in (("error_row", 3), ("skip", 3 - bad)):
        made = plan(job(user, on_bad_row=how))
        found = made.survey()
        assert (found.rows, found.bad, len(found.sample)) == (3, bad, 3 - bad)
        assert len(list(made.rows())) == rows


def test_a_dry_run_tells_of_bad_rows() -> None:
    with pytest.raises(RunnerError, match="3 rows of the input are bad"):
        dry_run(job("{{ 1 / 0 }}"), {})
    found = dry_run(job("{{ tags[0] }}", on_bad_row="error_row"), {})
    assert (found.rows, found.bad_rows, found.sample) == (3, 1, 2)
    assert "\n  bad       1 of them, for instance rows.jsonl:2: the prompt cannot be filled in: list" in found.text()
    assert "bad" not in dry_run(job("{{ text }}"), {}).text()


def test_a_file_of_another_format_is_told_by_its_first_line() -> None:
    Path("rows.csv").write_text("id,text\n1,one\n2,two\n")
    path = job("{{ text }}", path="rows.csv", format="jsonl", id="id", keep=["text"])
    assert said(path).splitlines()[:2] == [
        "error: 3 rows of the input are bad, the first because: not valid JSON: Expecting value at column 1",
        "  --> rows.csv:1",
    ]
    made = plan(path, **{"input.on_bad_row": "error_row"})
    assert made.output(made.survey()).copied == ()


# Columns that are not there -------------------------------------------------------------------------------------------

NO_SUCH_COLUMNS = """
    input:
      path: rows.jsonl
      id: idd
      keep: [id, txt]
    prompt:
      messages:
        - {role: system, content: Be brief.}
        - role: user
          content: |
            {{ txet }} and {{ titel }}
"""


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "header.csv"])
def test_all_names_of_columns_that_are_not_there_come_at_once(name: str) -> None:
    Path("rows.csv").write_text("id,text,tags\n1,2,3\n")
    Path("header.csv").write_text("id,text,tags\n")
    others = "`id`, `text`, `tags`, `about`" if name == "rows.jsonl" else "`id`, `text`, `tags`"
    assert said(written(NO_SUCH_COLUMNS.replace("rows.jsonl", name))) == expect(f"""
        error: `input.id` names `idd`, and the input has no such column
          --> job.yaml:3:7
           |
         3 |   id: idd
           |       ^
        hint: did you mean `id`?

        error: `input.keep` names `txt`, and the input has no such column
          --> job.yaml:4:14
           |
         4 |   keep: [id, txt]
           |              ^
        hint: did you mean `text`?

        error: the prompt uses `titel`, and the input has no such column
          --> job.yaml:9:16
           |
         9 |       content: |
           |                ^
        hint: there are {others}

        error: the prompt uses `txet`, and the input has no such column
          --> job.yaml:9:16
           |
         9 |       content: |
           |                ^
        hint: did you mean `text`?
    """)


def test_an_input_without_columns_says_nothing_of_them() -> None:
    Path("empty.csv").write_text("")
    made = plan(written(NO_SUCH_COLUMNS.replace("rows.jsonl", "empty.csv")))
    assert made.output(made.survey()).copied == ()


# Columns of the same name ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "way_out"),
    [
        ("{column: text}", "name the answer's column with `output.column`"),
        ("{column: text, labels: [a, b]}", "name the answer's column with `output.column`"),
        ("{strict: false, schema: {type: object, properties: {text: {}}}}", "rename the property in the schema"),
    ],
)
def test_a_column_of_input_and_answer_is_refused_with_a_way_out_that_works(output: str, way_out: str) -> None:
    made = plan(written(f"input: {{path: rows.jsonl}}\nprompt: {{user: x}}\noutput: {output}\n"))
    with pytest.raises(SpecError) as caught:
        made.output(made.survey())
    assert str(caught.value) == expect(f"""
        the input and the answer both have a column `text`
          --> job.yaml:1:1
           |
         1 | input: {{path: rows.jsonl}}
           | ^
        hint: {way_out}, or list the columns to copy under `input.keep`, without it
    """)


# Templates that are wrong ---------------------------------------------------------------------------------------------


def test_a_template_that_is_not_valid_is_shown_at_its_line() -> None:
    in_a_block = """
        input: {path: rows.jsonl}
        prompt:
          user: |
            One {{ text }}

            two {{ text | nofilter }}
    """
    assert said(written(in_a_block)) == expect("""
        error: the user prompt is not a valid template: No filter named 'nofilter'.
          --> job.yaml:6:5
           |
         6 |     two {{ text | nofilter }}
           |     ^
        hint: write {% raw %}…{% endraw %} around braces that are meant as text
    """)
    in_quotes = 'input: {path: rows.jsonl}\nprompt: {user: "{{ text"}\n'
    assert "\n  --> job.yaml:2:16\n" in said(written(in_quotes))
    as_option = {"prompt.user": '"{{ text"'}
    assert '\n  --> --set prompt.user="{{ text"\n' in said(written(in_a_block), **as_option)


@pytest.mark.parametrize("system", ["{file: wrong.txt}", "\"{% include 'wrong.txt' %}\""])
def test_a_prompt_file_that_is_not_valid_is_shown_at_its_line(system: str) -> None:
    Path("configs/prompts/wrong.txt").write_text("fine\n{{ text | nofilter }}\n")
    assert said(written(f"input: {{path: rows.jsonl}}\nprompt: {{system: {system}, user: x}}\n")) == expect("""
        error: the system prompt is not a valid template: No filter named 'nofilter'.
          --> configs/prompts/wrong.txt:2:1
           |
         2 | {{ text | nofilter }}
           | ^
        hint: write {% raw %}…{% endraw %} around braces that are meant as text
    """)


@pytest.mark.parametrize("how", ["fail", "error_row", "skip"])
@pytest.mark.parametrize(
    ("user", "message"),
    [
        (
            "{{ text.__class__.__mro__ }}",
            "the prompt does what prompts may not: access to attribute '__class__' of 'str' object is unsafe.",
        ),
        ("{% include 'none.txt' %}", "the prompt includes `none.txt`, which is not in configs/prompts/"),
    ],
)
def test_what_no_prompt_may_do_is_an_error_whatever_happens_to_bad_rows(how: str, user: str, message: str) -> None:
    text = f"input: {{path: rows.jsonl, on_bad_row: {how}}}\nprompt:\n  user: |\n    {user}\n"
    assert said(written(text)).splitlines()[:2] == [f"error: {message}", "  --> job.yaml:3:9"]


# Settings that do not fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "column", "message"),
    [
        ("path: row.jsonl", 15, "there is no file `row.jsonl`"),
        ("path: 'x*.csv'", 15, "no file matches `x*.csv`"),
        ("path: configs", 15, "`configs` is a folder"),
        ("path: rows.jsonl, delimiter: ';'", 38, "`delimiter` is for CSV files, and `rows.jsonl` is read as jsonl"),
        ("delimiter: '|', quote: '|', path: x.csv", 20, "`delimiter` and `quote` are both '|'"),
    ],
)
def test_a_setting_that_does_not_fit_the_files_is_shown_at_its_place(setting: str, column: int, message: str) -> None:
    shown = said(written(f"input: {{{setting}}}\nprompt: {{user: x}}\n")).splitlines()
    assert shown[:2] == [f"error: {message}", f"  --> job.yaml:1:{column}"]
