"""Jobs that ask questions, end to end: the same columns from every API, on disk, exported and summed up."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from project import Project, simulator

from runner import read_results
from runner.api import resume_run
from runner.errors import RunnerError, SpecError
from runner.export import export_run
from runner.load import load_job
from runner.manifest import Manifest
from runner.output import RUNNER_FIELDS
from runner.report import report
from runner.simulator import SimulatorProcess
from runner.snapshot import as_run, changed
from runner.summary import summarize

APIS = ("decisions", "responses", "chat")
OWN = {field.name for field in RUNNER_FIELDS}
QUESTIONS: dict[str, Any] = {
    "topic": {"choice": {"physics": "Matter.", "other": None}, "ask": "What is it about?", "accept_at": 0.8},
    "fields": {"choice": ["a.b", "b", "c"], "ask": "Which fields?", "multi": True},
    "applied": {"yes_no": "The paper reports an experiment."},
    "novelty": {"score": ["low", "middle", "high"], "ask": "How new?"},
}


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatorProcess]:
    with simulator() as started:
        yield started


def asking(server: SimulatorProcess, folder: Path, api: str, **output: Any) -> Project:
    here = Project(folder, server.base_url, api=api, output={"labels": None, "rows_per_part": 20, **output})
    here.rows(30)
    return here


def theirs(table: pa.Table) -> pa.Table:
    """The columns that are not the runner's own."""
    return table.select([name for name in table.schema.names if name not in OWN])


@pytest.mark.parametrize(
    "output",
    [
        {"questions": QUESTIONS},
        {"labels": ["physics", "other"]},
        {"labels": {"physics": "Matter.", "other": None}, "multi": True, "column": "odd name"},
        {"labels": ["physics", "other"], "accept_at": 0.7},
    ],
    ids=["questions", "labels", "several labels", "labels to accept"],
)
def test_every_api_gives_the_same_columns(output: dict[str, Any], tmp_path: Path, server: SimulatorProcess) -> None:
    tables = {}
    for api in APIS:
        here = asking(server, tmp_path / api, api, **output)
        done = here.work()
        assert (done.rows, done.ok, done.failed) == (30, 30, 0)
        tables[api] = here.table()
        assert tables[api].equals(read_results(done.folder))
        assert tables[api].column("_id").to_pylist() == [f"r{number:05d}" for number in range(30)]
    first = tables["decisions"].schema
    assert all(table.schema.equals(first, check_metadata=True) for table in tables.values())
    if "questions" not in output:
        return

    decided, chat = theirs(tables["decisions"]), theirs(tables["chat"])
    assert decided.schema.names[:6] == ["id", "text", "number", "applied", "fields", "fields_confidence"]
    assert [name for name in decided.schema.names if decided.column(name).null_count] == []
    shares = [name for name in chat.schema.names if chat.column(name).null_count]
    assert shares == ["fields_probabilities", "novelty_probabilities", "topic_probabilities"], (
        "only decisions have them"
    )
    for row in decided.to_pylist():
        assert row["topic"] == max(row["topic_probabilities"], key=row["topic_probabilities"].get)
        assert sum(row["topic_probabilities"].values()) == pytest.approx(1)
        assert set(row["fields_probabilities"]) == {"a.b", "b", "c"}
        assert 0 <= row["novelty"] <= 2
        assert row["refused"] == []
        assert row["needs_review"] == (row["topic_confidence"] < 0.8)
    for row in chat.to_pylist():
        assert row["novelty"] == ["low", "middle", "high"].index(row["novelty_level"])


def test_refusals_are_seen_and_leave_the_rest(tmp_path: Path) -> None:
    with simulator(faults={"refuse_question": 0.3}) as server:
        here = asking(server, tmp_path / "p", "decisions", questions=QUESTIONS)
        done = here.work()
    rows = here.table().to_pylist()
    assert {row["_status"] for row in rows if len(row["refused"] or ()) < 4} == {"ok"}
    for row in rows:
        for name in row["refused"] or ():
            assert row[name] is None
            assert row.get(f"{name}_confidence") is None
        for name in QUESTIONS:
            assert (row[name] is None) == (name in (row["refused"] or ()))
        assert row["needs_review"] == ("topic" in row["refused"] or row["topic_confidence"] < 0.8)
    summary = done.record.summary
    refused = [name for row in rows for name in row["refused"] or ()]
    assert len(set(refused)) == 4, "each of them now and then"
    assert summary["refused"] == {name: refused.count(name) for name in summary["refused"]}
    assert summary["needs_review"] == sum(row["needs_review"] for row in rows)


def test_a_row_that_is_refused_as_a_whole_fails_and_can_be_tried_again(tmp_path: Path) -> None:
    with simulator(faults={"refusal": 0.4}, max_faults_per_body=1) as server:
        here = asking(server, tmp_path / "p", "decisions", questions=QUESTIONS)
        done = here.work()
        failed = here.table().filter(pc.equal(here.table().column("_status"), "error"))
        assert 0 < done.failed < 30
        assert set(failed.column("_error_type").to_pylist()) == {"refusal"}
        assert set(failed.column("_error").to_pylist()) == {"the model refused to answer every question"}
        assert failed.column("needs_review").null_count == done.failed

        target = tmp_path / "review.jsonl"
        export_run(here.latest, "jsonl", target, needs_review=True)
        shown = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
        unsure = done.record.summary["needs_review"]
        assert len(shown) == unsure + done.failed, "a failed row has no answer that anyone could accept"
        assert all(row["needs_review"] or row["_status"] == "error" for row in shown)

        with patch.dict(os.environ, here.environ):
            again = resume_run(here.latest, retry=True, progress=False)
    assert (again.ok, again.failed) == (30, 0)
    assert here.table().column("topic_probabilities").null_count == 0


def test_what_is_exported(tmp_path: Path, server: SimulatorProcess) -> None:
    here = asking(server, tmp_path / "p", "decisions", questions=QUESTIONS)
    here.work()
    rows = here.table().to_pylist()
    export_run(here.latest, "csv", tmp_path / "all.csv")
    with open(tmp_path / "all.csv", encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [json.loads(row["topic_probabilities"]) for row in cells] == [row["topic_probabilities"] for row in rows]
    assert {row["refused"] for row in cells} == {"[]"}
    assert [row["needs_review"] for row in cells] == [json.dumps(row["needs_review"]) for row in rows]
    export_run(here.latest, "csv", tmp_path / "some.csv", needs_review=True)
    with open(tmp_path / "some.csv", encoding="utf-8", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [row["id"] for row in rows if row["needs_review"]]
    export_run(here.latest, "jsonl", tmp_path / "all.jsonl")
    lines = (tmp_path / "all.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["novelty_probabilities"] for line in lines] == [
        row["novelty_probabilities"] for row in rows
    ]


def test_a_run_that_never_said_what_to_accept_cannot_tell_what_to_review(
    tmp_path: Path, server: SimulatorProcess
) -> None:
    here = asking(server, tmp_path / "p", "chat", labels=["physics", "other"])
    here.work()
    with pytest.raises(SpecError) as caught:
        export_run(here.latest, "csv", None, needs_review=True)
    assert str(caught.value) == (
        "the rows of this run do not say whether they need review: it has no column `needs_review`\n"
        f"  --> {here.latest}\n"
        "hint: set `accept_at` in the `output` of the job, such as `accept_at: 0.8`, and run it again"
    )


def test_a_run_keeps_its_questions_as_they_were_asked(tmp_path: Path, server: SimulatorProcess) -> None:
    here = asking(server, tmp_path / "p", "decisions", questions=QUESTIONS)
    here.work()
    kept = load_job(here.latest / "job.yaml", root=here.folder)
    assert changed(here.manifest()["spec"], as_run(kept)) == []
    assert kept.spec.output.asked == load_job(here.job_file).spec.output.asked
    here.change(output={"questions": {**QUESTIONS, "applied": {"yes_no": "The paper reports none."}}})
    assert changed(here.manifest()["spec"], as_run(load_job(here.job_file))) == ["output.questions.applied.yes_no"]


def test_the_summary_tells_of_each_question(tmp_path: Path, server: SimulatorProcess) -> None:
    here = asking(server, tmp_path / "p", "decisions", questions=QUESTIONS)
    record = here.work().record
    table = here.table()
    means = {name: pc.mean(table.column(name)).as_py() for name in ("applied", "novelty")}
    found = record.summary["questions"]
    assert sum(found["topic"]["answers"].values()) == 30
    assert sum(found["novelty"]["answers"].values()) == 30
    assert {name: found[name]["mean"] for name in means} == pytest.approx(means, abs=1e-4)
    assert record.summary == summarize(here.latest, Manifest.load(here.latest).schema, record.sessions[0].wall_s)

    said = report(record, here.latest).splitlines()
    first = next(number for number, line in enumerate(said) if line.startswith("  answers   applied: "))
    assert said[first] == f"  answers   applied: {found['applied']['mean']:g} on average"
    assert said[first + 1 :][:1][0].startswith(("            fields: ", "            novelty: "))
    [review] = [line for line in said if line.startswith("  review ")]
    count = record.summary["needs_review"]
    assert review == f"  review    {'1 row needs' if count == 1 else f'{count} rows need'} it, by `accept_at`"
    assert any(line.startswith("review:       runner export ") and line.endswith(" --needs-review") for line in said)


def test_questions_and_input_columns_may_not_share_a_name(tmp_path: Path, server: SimulatorProcess) -> None:
    here = asking(server, tmp_path / "p", "chat", questions={"text": {"yes_no": "It is so."}})
    with pytest.raises(RunnerError) as caught:
        here.work()
    assert str(caught.value).startswith("the input and the answer both have a column `text`")
    assert "hint: give the question another name, or list the columns" in str(caught.value)
    here = asking(server, tmp_path / "q", "chat", questions={"sure": {"yes_no": "It is so."}})
    here.rows([{"id": "a", "text": "t", "refused": 1}])
    with pytest.raises(RunnerError, match=r"hint: list the columns to copy under `input\.keep`, without it"):
        here.work()
