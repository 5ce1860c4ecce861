"""The date that a run is for: in paths and prompts, in its record, and in the order of a job's runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest
from past import row, run
from project import Project, parts

from runner import app
from runner.errors import SpecError
from runner.execution import Outcome
from runner.explain import explain
from runner.history import in_order
from runner.listing import list_runs, show_run
from runner.load import Job, load_job
from runner.plan import make_plan
from runner.problems import SpecErrors
from runner.progress import Console
from runner.run_date import Calendar, fill_in, today
from runner.template import PromptTemplate
from runner.yaml_source import parse

DAY = date(2026, 1, 5)
Make = Callable[..., Project]


def filled(text: str, section: str = "input", key: str = "path") -> Any:
    source = parse(f"{section}:\n  {key}: '{text}'", "job.yaml")
    assert fill_in(source, DAY) == []
    return source.data[section][key]


# In paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data/{{ run_date }}.jsonl", "data/2026-01-05.jsonl"),
        ("data/{{run_date.isoformat()}}.jsonl", "data/2026-01-05.jsonl"),
        ("{{ run_date.strftime(\"%Y/%m\") }}/{{ '%02d' % run_date.day }}.csv".replace("'", '"'), "2026/01/05.csv"),
        ("{{ yesterday }}-{{ tomorrow }}", "2026-01-04-2026-01-06"),
        ("{{ run_date - days(7) }}", "2025-12-29"),
        ("{{ run_date.year }}-W{{ run_date.isocalendar()[1] }}", "2026-W2"),
        ("{{- run_date -}}", "2026-01-05"),
        ("{{ run_date.replace(day=1) }}", "2026-01-01"),
    ],
)
def test_a_path_holds_the_date_in_any_form(text: str, expected: str) -> None:
    assert filled(text) == expected


@pytest.mark.parametrize("text", ["{{ x }}", "{% if %}", "a {{", "run_date", "{{ my_run_date }}", "{{ x.run_date }}"])
def test_braces_that_are_not_about_the_date_stay_as_they_are(text: str) -> None:
    assert filled(text, "output", "column") == text


def test_every_text_of_input_and_output_is_filled_in_and_no_other() -> None:
    source = parse(
        "input: {path: ['a-{{ run_date }}', b], keep: ['{{ run_date }}']}\n"
        "output: {labels: ['{{ run_date }}', '{{ label }}'], schema: {deep: [{er: '{{ run_date }}'}]}}\n"
        "prompt: {user: '{{ run_date }}'}",
        "job.yaml",
    )
    assert fill_in(source, DAY) == []
    assert source.data == {
        "input": {"path": ["a-2026-01-05", "b"], "keep": ["2026-01-05"]},
        "output": {"labels": ["2026-01-05", "{{ label }}"], "schema": {"deep": [{"er": "2026-01-05"}]}},
        "prompt": {"user": "{{ run_date }}"},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{{ run_date.wat }}",
            "`input.path` cannot be filled in: 'datetime.date object' has no attribute 'wat'",
        ),
        ("{{ run_date + }}", "`input.path` cannot be filled in: unexpected 'end of template'"),
        ("{{ run_date + x }}", "`input.path` cannot be filled in: 'x' is undefined"),
        (
            "{{ run_date.isoformat }}",
            "`input.path` cannot be filled in: "
            "`run_date.isoformat` is no text, date or number but a function: add `()`",
        ),
        (
            "{{ run_date - yesterday }}",
            "`input.path` cannot be filled in: `run_date - yesterday` is no text, date or number but a timedelta",
        ),
        ("{{ run_date - days(9999999) }}", "`input.path` cannot be filled in: date value out of range"),
        (
            "{{ run_date.__class__ }}",
            "`input.path` cannot be filled in: access to attribute '__class__' of 'date' object is unsafe.",
        ),
    ],
)
def test_what_cannot_be_filled_in_is_said_at_its_place(text: str, message: str) -> None:
    source = parse(f"input:\n  path: '{text}'", "job.yaml")
    [problem] = fill_in(source, DAY)
    assert (problem.message, problem.where) == (message, "job.yaml:2:9")
    assert str(problem.hint).startswith("for example {{ run_date")


def test_a_misspelt_name_in_a_path_is_no_file_name() -> None:
    [problem] = fill_in(parse("input: {path: ['data/{{ rundate }}.csv']}", "job.yaml"), DAY)
    assert str(problem).splitlines()[0] == (
        "`input.path[0]` has `{{ rundate }}`, and a path knows only `run_date`, `yesterday`, `tomorrow`"
    )
    assert problem.hint == "did you mean `run_date`?"


# Which date it is -----------------------------------------------------------------------------------------------------


def test_today_is_that_of_the_schedules_clock(zone: Callable[[str], None]) -> None:
    evening = int(datetime(2026, 1, 5, 23, 30, tzinfo=UTC).timestamp() * 1e6)
    zone("America/New_York")
    assert today("Europe/Berlin", evening, os.environ) == date(2026, 1, 6)
    assert today(None, evening, os.environ) == date(2026, 1, 5)
    assert today("no zone", evening, {"TZ": "Asia/Tokyo"}) == date(2026, 1, 6)


def test_a_date_is_written_as_iso_or_as_a_word() -> None:
    calendar = Calendar(DAY)
    assert calendar.read("2025-12-31", "--date") == date(2025, 12, 31)
    assert calendar.read("2026-01-06", "--date") == date(2026, 1, 6), "it may have begun elsewhere"
    assert calendar.read("yesterday", "--date") == date(2026, 1, 4)
    assert calendar.read("today", "--date") == DAY


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2026-02-30", '--date takes a date, got "2026-02-30"'),
        ("20260105", '--date takes a date, got "20260105"'),
        ("2026-01-07", "--date 2026-01-07 is in the future"),
        ("0206-01-01", "--date 0206-01-01 is too long ago"),
    ],
)
def test_a_date_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Calendar(DAY).read(text, "--date")
    assert caught.value.message == message


# In prompts -----------------------------------------------------------------------------------------------------------


def rendered(template: str, **fields: Any) -> str:
    [(_, said)] = PromptTemplate([("user", template)], run_date=DAY).render(fields)
    return said


@pytest.mark.parametrize("more", ["", "{% if true %}{% endif %}"])  # the fast way, and the long one
def test_a_prompt_knows_the_date_and_columns_come_first(more: str) -> None:
    assert rendered("{{ run_date }} {{ yesterday }} {{ text }}" + more, text="x") == "2026-01-05 2026-01-04 x"
    assert rendered("{{ run_date }}" + more, run_date="theirs") == "theirs"
    assert rendered("{{ run_date }}" + more, run_date=None) == ""
    assert rendered("{{ run_date - days(7) }}" + more) == "2025-12-29"
    assert rendered("{{ run_date.strftime('%d.%m.') }}{{ days }}" + more, days=3) == "05.01.3"


def test_the_dates_are_no_columns_that_an_input_must_have() -> None:
    template = PromptTemplate([("user", "{{ run_date }} {{ run_date - days(1) }} {{ text }}")], run_date=DAY)
    assert (template.names, template.dates) == ({"text"}, {"run_date"})
    assert list(template.unknown(["text"])) == []
    of_row = PromptTemplate([("user", '{{ row["run_date"] }} {{ days }}')], run_date=DAY)
    assert (of_row.names, of_row.dates) == ({"run_date", "days"}, set())
    assert [error.message for error in of_row.unknown([])] == [
        "the prompt uses `days`, and the input has no such column",
        "the prompt uses `run_date`, and the input has no such column",
    ]


def test_a_column_that_only_some_rows_have_is_not_mixed_with_the_date(project: Make) -> None:
    made = project(prompt={"user": "On {{ run_date }}"}, rows=[{"id": "a", "run_date": "x"}, {"id": "b"}])
    with pytest.raises(SpecErrors) as caught:
        make_plan(load_job(made.job_file)).survey()
    assert caught.value.message == (
        "`run_date` is a column of some rows only: in all others the prompt would put in the run's date"
    )
    assert caught.value.hint == 'write `row["run_date"]` for the column, or give it another name'
    made.rows([{"id": "a", "run_date": "x"}, {"id": "b", "run_date": "y"}])
    assert make_plan(load_job(made.job_file)).survey().bad == 0


# A run of a date ------------------------------------------------------------------------------------------------------


@pytest.fixture
def dated(project: Make) -> Project:
    """A job whose input and prompt hold the date, with inputs for January 5 to 7, 2026."""
    made = project(
        rows=0, input={"path": "data/{{ run_date }}.jsonl"}, prompt={"user": "Sort, on {{ run_date }}: {{ text }}"}
    )
    made.rows_file.unlink()
    (made.folder / "data").mkdir()
    for day in (5, 6, 7):
        made.rows_file.parent.joinpath(f"data/2026-01-0{day}.jsonl").write_text('{"id": "a", "text": "b"}\n' * day)
    return made


def start(project: Project, day: date = DAY, **settings: str) -> Outcome:
    with patch.dict(os.environ, project.environ):
        return app.start(loaded(project, day, **settings), console=Console(quiet=True))


def loaded(project: Project, day: date = DAY, **settings: str) -> Job:
    return load_job(project.job_file, overrides=settings, run_date=day)


def test_a_run_keeps_its_date(dated: Project) -> None:
    outcome = start(dated)
    assert (outcome.manifest.run_date, outcome.manifest.input["rows"]) == ("2026-01-05", 5)
    assert outcome.manifest.spec["input"]["path"] == ["data/2026-01-05.jsonl"]
    assert "{{ run_date }}" in outcome.manifest.spec["prompt"]["user"], "a prompt stays a template"
    [part] = parts(outcome.folder)
    assert b'"run_date": "2026-01-05"' in b"".join(pq.read_metadata(part).metadata.values())
    assert "\ndate        2026-01-05\n" in show_run(outcome.folder, as_json=False)


def test_a_run_goes_on_with_its_own_date_on_another_day(dated: Project) -> None:
    first = start(dated)
    record = first.folder / "run.json"
    record.write_text(record.read_text().replace('"status": "finished"', '"status": "interrupted"'))
    [part] = parts(first.folder)
    before = pq.read_table(part).column("_fingerprint").to_pylist()
    part.unlink()
    with patch.dict(os.environ, dated.environ):
        again = app.resume(first.folder, {}, console=Console(quiet=True))
    assert (again.manifest.status, again.manifest.run_date) == ("finished", "2026-01-05")
    [part] = parts(first.folder)
    assert pq.read_table(part).column("_fingerprint").to_pylist() == before
    # from its own copy of the job, when the file is gone
    record.write_text(record.read_text().replace('"status": "finished"', '"status": "interrupted"'))
    part.unlink()
    dated.job_file.unlink()
    with patch.dict(os.environ, dated.environ):
        assert app.resume(first.folder, {}, console=Console(quiet=True)).manifest.status == "finished"


def test_another_date_is_another_request(dated: Project) -> None:
    requests = []
    for day in (5, 6):
        plan = make_plan(loaded(dated, date(2026, 1, day)))
        requests.append(plan.builder.build(next(iter(plan.rows()))))  # type: ignore[arg-type]
    assert requests[0].fingerprint != requests[1].fingerprint
    assert b"on 2026-01-05: b" in requests[0].body


def test_explain_says_that_the_date_changed(dated: Project) -> None:
    start(dated)
    with patch.dict(os.environ, dated.environ):
        [told, *_] = explain(dated.job_file, "a", {}, run_date=date(2026, 1, 6))
    assert [(reason.kind, reason.text) for reason in told.reasons] == [
        ("date", "the prompt holds the run's date, which changed: 2026-01-05 -> 2026-01-06")
    ]


# The order of runs ----------------------------------------------------------------------------------------------------


def test_a_run_for_an_old_date_is_not_the_newest(tmp_path: Path) -> None:
    base = tmp_path / "outputs" / "job"
    nightly = run(base, 10, [row("a")])
    backfilled = run(base, 12, [row("a")], run_date="2026-01-03")
    assert [each.folder for each in in_order([nightly, backfilled])[0]] == [backfilled, nightly]
    listed = list_runs("job", tmp_path / "outputs", as_json=False).splitlines()
    assert listed[0].split()[:3] == ["RUN", "DATE", "STATUS"]
    assert [line.split()[1] for line in listed[1:]] == ["2026-01-11", "2026-01-03"], "the list is in order of the clock"


def test_the_list_names_no_dates_where_they_are_those_of_the_days(tmp_path: Path) -> None:
    run(tmp_path / "outputs" / "job", 10, [row("a")])
    assert "DATE" not in list_runs("job", tmp_path / "outputs", as_json=False)
