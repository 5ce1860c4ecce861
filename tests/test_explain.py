"""`runner explain`: which earlier answer a row would get, or everything for which it gets none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from project import LABELS, Project

from runner.earlier import NAME
from runner.errors import InputError
from runner.explain import explain
from runner.journal import Journal
from runner.parts import journal_path, part_path, tables

Make = Callable[..., Project]

ROWS = [
    {"id": "a", "text": "one", "tags": ["x", 1], "about": {"year": 1}, "note": "n"},
    {"id": "b", "text": "two", "tags": [], "about": {}, "note": "n"},
    {"id": "b", "text": "three", "tags": ["y"], "about": {"year": 0}, "note": "n"},
]
PROMPT = {"system": "Sort well.\nBe brief.", "user": "Sort {{ text }} {{ tags }} {{ about }}"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose job has run."""
    made = Project(
        tmp_path_factory.mktemp("ran") / "project",
        prompt=PROMPT, output={"rows_per_part": 2}, parameters={"temperature": 0},
    )  # fmt: skip
    made.rows(ROWS)
    made.work()
    return made


@pytest.fixture
def here(ran: Project, tmp_path: Path) -> Project:
    """A copy of it."""
    made = deepcopy(ran)
    made.folder = tmp_path / "project"
    shutil.copytree(ran.folder, made.folder, symlinks=True)
    return made


def told(here: Project, row: str = "a", **overrides: str) -> list[str]:
    """What is said of a row, with the names of runs replaced. The job says `reuse: true`."""
    texts = [explained.text() for explained in explain(here.job_file, row, {"reuse": "true", **overrides})]
    for number, run in enumerate(sorted((here.folder / "outputs" / "job").glob("2*")), 1):
        texts = [
            text.replace(f"{run.name},", f"RUN{number},").replace(f"{run.name} ", f"RUN{number} ") for text in texts
        ]
    return "\n".join(texts).split("\n")


SINCE = "row a (rows.jsonl:1): would be sent. Since run RUN1, the newest that has this row:"


def reasons(here: Project, **overrides: str) -> list[str]:
    first, *others = told(here, **overrides)
    assert first == SINCE
    return [line.removeprefix("  ") for line in others]


# Hits and misses ------------------------------------------------------------------------------------------------------


def test_an_answer_that_would_be_reused(here: Project) -> None:
    at = here.table().column("_finished_at")[0].as_py()
    assert told(here) == [
        f"row a (rows.jsonl:1): would be reused from run RUN1, part 0: answered {at:%Y-%m-%d %H:%M:%S} UTC"
    ]
    first, second = told(here, "b")
    assert first.startswith("row b (rows.jsonl:2): would be reused from run RUN1, part 0: answered ")
    assert second.startswith("row b (rows.jsonl:3): would be reused from run RUN1, part 1: answered ")
    assert not (here.latest.parent / NAME).exists(), "explaining changes nothing"


def test_a_job_without_reuse_would_send_it_all_the_same(here: Project) -> None:
    assert told(here, reuse="false")[0].startswith(
        "row a (rows.jsonl:1): would be sent, as the job does not say `reuse: true`; "
        "with it, it would be reused from run RUN1, part 0: answered "
    )


def test_of_several_models_each_is_named(here: Project) -> None:
    first, second, reason = told(here, model="[gpt-6-luna, gpt-6-sol]")
    assert first.startswith("row a (rows.jsonl:1, gpt-6-luna): would be reused from run RUN1, part 0: answered ")
    assert second == "row a (rows.jsonl:1, gpt-6-sol): would be sent. Since run RUN1, the newest that has this row:"
    assert reason == "  the model changed: gpt-6-luna -> gpt-6-sol"


def test_what_changes_no_answer_is_no_reason(here: Project) -> None:
    here.change(limits={"concurrency": 2}, output={"rows_per_part": 9, "column": "sort"}, retry={"timeout_s": 5})
    here.rows([{**row, "note": "other"} for row in reversed(ROWS)])
    assert told(here)[0].startswith("row a (rows.jsonl:3): would be reused from run RUN1, part 0")


def test_an_answer_that_was_copied_from_a_run_that_is_gone(here: Project) -> None:
    path = part_path(here.latest, 0)
    table = pq.read_table(path)
    columns = {name: table.column(name) for name in table.column_names}
    pq.write_table(pa.table({**columns, "_reused_from": ["gone"] * len(table)}), path)
    assert "would be reused from run gone, as kept by run RUN1, part 0: answered " in told(here)[0]


def test_a_row_that_no_run_has(here: Project) -> None:
    here.rows([*ROWS, {**ROWS[0], "id": "new", "text": "other"}])
    assert told(here, "new") == ["row new (rows.jsonl:4): would be sent: no earlier run has this row"]
    shutil.rmtree(here.folder / "outputs")
    assert told(here) == ["row a (rows.jsonl:1): would be sent: no earlier run has this row"]


def test_the_same_row_under_another_id_is_the_same_request(here: Project) -> None:
    here.rows([{**ROWS[0], "id": "new"}])
    assert told(here, "new")[0].startswith("row new (rows.jsonl:1): would be reused from run RUN1")


def test_a_deleted_run_and_a_damaged_index(here: Project) -> None:
    (here.latest.parent / NAME).write_bytes(b"damaged")
    assert "would be reused" in told(here)[0]
    here.work()
    shutil.rmtree(here.latest)
    assert "would be reused from run RUN1" in told(here)[0]


def test_the_journal_of_a_killed_run(here: Project) -> None:
    rows = [row for table in tables(part_path(here.latest, 0), 9, here.schema) for row in table.to_pylist()]
    part_path(here.latest, 0).unlink()
    journal = Journal(journal_path(here.latest, 0))
    for row in rows:
        row |= {name: 7 for name in row if name.endswith("_at")}
        journal.add({**row, **{name: json.loads(row[name]) for name in ("tags", "about")}})
    journal.close()
    assert told(here)[0].startswith("row a (rows.jsonl:1): would be reused from run RUN1, part 0: answered 1970-01-01")
    assert reasons(here, model="gpt-6-sol") == ["the model changed: gpt-6-luna -> gpt-6-sol"]


def test_a_row_that_failed_and_was_tried_again(project: Make) -> None:
    here = project(rows=ROWS[:1])
    here.endpoint = {"simulator": {"latency_s": 0, "faults": {"bad_request": 1.0}}}
    here.change(stop={"max_error_rate": None})
    here.work()
    [reason] = reasons(here)
    assert reason.startswith("its earlier answer failed (bad_request): ")
    here.endpoint = {"simulator": {"latency_s": 0}}
    here.change()
    here.work_on(retry=True)
    assert told(here)[0].startswith("row a (rows.jsonl:1): would be reused from run RUN1, part 0")


# What changed ---------------------------------------------------------------------------------------------------------


def test_the_prompt_changed(here: Project) -> None:
    here.change(prompt={"system": "Sort well.\nBe very brief.", "user": f"{PROMPT['user']}\nNow!"})
    assert reasons(here) == [
        "the prompt changed:",
        "  -Be brief.",
        "  +Be very brief.",
        "  +Now!",
    ]
    here.job["prompt"] = {"messages": [{"role": "developer", "content": "x" * 200 + "y" + "z" * 200}]}
    here.change()
    assert reasons(here) == [
        "the prompt changed:",
        "  -system: Sort well.",
        "  -Be brief.",
        "  -user: Sort {{ text }} {{ tags }} {{ about }}",
        f"  +developer: {'x' * 89}…",
    ]


def test_the_row_changed(here: Project) -> None:
    here.rows([{**ROWS[0], "text": "uno", "tags": ["x"], "about": {"year": True}, "note": "other"}, *ROWS[1:]])
    assert reasons(here) == [
        'the row changed: `about`: {"year": 1} -> {"year": true}',
        'the row changed: `tags`: ["x", 1] -> ["x"]',
        'the row changed: `text`: "one" -> "uno"',
    ]


def test_a_long_value_is_shown_where_it_changed(here: Project) -> None:
    long = "word " * 60
    here.rows([{**ROWS[0], "text": long + "old " + long}])
    here.work()
    here.rows([{**ROWS[0], "text": long + "new " + long}])
    first, change, minus, plus = told(here)
    assert first == SINCE.replace("RUN1", "RUN2")
    assert change == (
        f"  the row changed: `text`: …{'word ' * 5}old {'word ' * 14}w… -> …{'word ' * 5}new {'word ' * 14}w…"
    )
    assert minus == f"    -…{'word ' * 5}old {'word ' * 14}w…"
    assert plus == minus.replace("-", "+").replace("old", "new")


def test_text_that_parquet_cannot_hold_is_the_same_text(project: Make) -> None:
    here = project(rows=[{"id": "a", "text": "lone \ud800"}])
    here.work()
    assert reasons(here, model="gpt-6-sol") == ["the model changed: gpt-6-luna -> gpt-6-sol"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"model": "gpt-6-sol"}, ["the model changed: gpt-6-luna -> gpt-6-sol"]),
        ({"api": "chat"}, ["the API changed: responses -> chat"]),
        (
            {"parameters": "{temperature: 1, logit_bias: {a: b}}"},
            [
                "a parameter changed: `temperature`: 0 -> 1",
                'a parameter changed: `logit_bias`: nothing -> {"a": "b"}',
            ],
        ),
        ({"parameters": "{}"}, ["a parameter changed: `temperature`: 0 -> nothing"]),
        (
            {"output.labels": "[other, physics, news]"},
            ["the labels changed: `news` new, `machine learning` and `mathematics` gone"],
        ),
        ({"output.labels": json.dumps(LABELS[::-1])}, ["the labels changed: their order"]),
        ({"output.strict": "false"}, ["what an answer must look like changed: `output.strict`: true -> false"]),
        (
            {"model": "m", "output.labels": "null", "prompt.system": "null"},
            [
                "the prompt changed:",
                "  -system: Sort well.",
                "  -Be brief.",
                "the model changed: gpt-6-luna -> m",
                "the labels changed: `machine learning`, `physics`, `mathematics` and `other` gone",
            ],
        ),
    ],
)  # fmt: skip
def test_the_job_changed(here: Project, overrides: dict[str, str], expected: list[str]) -> None:
    assert reasons(here, **overrides) == expected


def test_the_schema_changed(project: Make) -> None:
    def output(kind: str) -> dict[str, Any]:
        properties = {"n": {"type": kind}, "x.y": {"type": "string"}}
        return {
            "labels": None,
            "schema": {
                "type": "object", "properties": properties, "required": ["n", "x.y"], "additionalProperties": False
            },
        }  # fmt: skip

    here = project(rows=ROWS, output=output("integer"))
    here.work()
    here.change(output=output("number"))
    assert reasons(here) == [
        'what an answer must look like changed: `output.schema.properties.n.type`: "integer" -> "number"'
    ]


def test_the_kind_of_endpoint_changed(here: Project) -> None:
    here.endpoint = {"base_url": "http://localhost:1", "api_key_env": "TEST_KEY", "azure_api_version": "2026-10-01"}
    here.change()
    assert reasons(here) == ["the kind of endpoint changed: simulator -> azure"]


def test_a_real_run_is_compared_with_before_a_rehearsal(here: Project) -> None:
    real = here.latest
    here.work()
    manifest = json.loads((real / "run.json").read_text())
    (real / "run.json").write_text(json.dumps({**manifest, "rehearsal": False}))
    assert "Since run RUN2" in told(here, model="x")[0]
    here.endpoint = {"base_url": "http://localhost:1", "api_key_env": "TEST_KEY"}
    here.change()
    assert reasons(here, model="x") == ["the model changed: gpt-6-luna -> x"]


def test_what_a_run_did_not_keep(project: Make) -> None:
    here = project(rows=ROWS, input={"keep": ["id"]})
    here.work()
    here.rows([{**ROWS[0], "text": "uno"}])
    assert reasons(here) == ["the row may have changed in `text`, which that run did not keep"]
    (here.folder / "configs" / "prompts").mkdir()
    included = here.folder / "configs" / "prompts" / "style.txt"
    included.write_text("Be kind.")
    here.change(prompt={"user": "{% include 'style.txt' %} {{ id }}"})
    here.work()
    included.write_text("Be brief.")
    first, second = told(here)
    assert first == SINCE.replace("RUN1", "RUN2")
    assert second == "  something changed that runs do not keep, such as a file that the prompt includes"
    manifest = here.manifest()
    (here.latest / "run.json").write_text(json.dumps({**manifest, "versions": {"runner": "0.0.1"}}))
    assert told(here)[1] == "  the runner changed: 0.0.1 -> 0.1.0"


# Rows that are not there, and the command -----------------------------------------------------------------------------


def test_an_id_that_is_not_there(here: Project) -> None:
    here.rows([{**ROWS[0], "id": f"paper-{number:04d}"} for number in range(500)])
    with pytest.raises(InputError) as caught:
        told(here, "paper-0042x")
    assert str(caught.value) == (
        "no row has the id `paper-0042x` in `id`\n  --> rows.jsonl\nhint: did you mean `paper-0042`?"
    )
    here.job["input"].pop("id")
    here.change()
    with pytest.raises(InputError) as caught:
        told(here, "500")
    assert str(caught.value).startswith("no row has the id `500`: without `input.id`, ids are the row numbers from 0\n")
    assert told(here, "499")[0].startswith("row 499 (rows.jsonl:500): would be reused")


def test_a_row_that_cannot_be_sent(here: Project) -> None:
    here.rows([{"id": "a", "text": "x", "tags": 1, "about": 2}, {"id": "c"}])
    assert told(here, "c") == ["row c (rows.jsonl:2): cannot be sent: the row has no field `text`"]
    with here.rows_file.open("a") as file:
        file.write("{\n")
    here.job["input"].pop("id")
    here.change()
    assert told(here, "2")[0].startswith("row 2 (rows.jsonl:3): cannot be sent: not valid JSON")


def test_the_first_five_rows_with_an_id(here: Project) -> None:
    here.rows([ROWS[0]] * 7)
    assert len(told(here)) == 5


def test_the_command(here: Project, tmp_path: Path) -> None:
    done = here.runner("explain", here.job_file, "--row", "a", "--set", "model=gpt-6-sol", "--json")
    [explained] = json.loads(done.stdout)
    assert explained == {
        "id": "a",
        "where": "rows.jsonl:1",
        "model": "gpt-6-sol",
        "reuse": False,
        "left_out": None,
        "reused_from": None,
        "compared_with": here.latest.name,
        "reasons": [{"kind": "model", "text": "the model changed: gpt-6-luna -> gpt-6-sol", "diff": []}],
    }
    (here.folder / "outputs").rename(tmp_path / "away")
    plain = here.runner("explain", here.job_file, "--row", "b", "--output", tmp_path / "away").stdout
    assert plain.count("would be reused from run") == 2
