"""The example jobs run as they are, through the command line, and give what a reader of them expects."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema_rs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from forked import forking, stand_in
from project import simulator

from runner import read_results, run_job
from runner.dry_run import dry_run
from runner.load import Job, load_job
from runner.plan import make_plan
from runner.problems import SpecErrors
from runner.simulator import SimulatorProcess

ROOT = Path(__file__).parent.parent
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
SCHEMA = ROOT / "jobs" / "job.schema.json"
INSTANT = "simulator: {simulator: {latency_s: 0}}\n"


def runner(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [stand_in(), "-m", "runner", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=60)


@dataclass(frozen=True)
class Finished:
    """A run that ended well: its folder, its manifest, and all of its rows."""

    folder: Path
    manifest: dict[str, Any]
    table: pa.Table

    def column(self, name: str) -> list[Any]:
        return self.table.column(name).to_pylist()


def run(name: str, folder: Path) -> Finished:
    """Run an example in a copy of the project whose simulator answers at once."""
    project, outputs = folder / "project", folder / "outputs"
    shutil.copytree(ROOT / "jobs", project / "jobs")
    shutil.copytree(ROOT / "configs", project / "configs")
    (project / "configs" / "endpoints.yaml").write_text(INSTANT, encoding="utf-8")
    unlimited = ("--set", "limits={concurrency: 32}")
    done = runner("run", project / "jobs" / f"{name}.yaml", "--output", outputs, "--quiet", *unlimited)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    latest = outputs / name / "latest"
    tables = [pq.read_table(part) for part in sorted(latest.glob("part-*.parquet"))]
    manifest = json.loads((latest / "run.json").read_text(encoding="utf-8"))
    return Finished(latest, manifest, pa.concat_tables(tables))


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run("arxiv-topics", tmp_path_factory.mktemp("topics"))


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run("review-sentiment", tmp_path_factory.mktemp("sentiment"))


@pytest.fixture(scope="module")
def papers() -> list[dict[str, Any]]:
    with open(ROOT / "jobs" / "data" / "papers.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def reviews() -> list[dict[str, str]]:
    with open(ROOT / "jobs" / "data" / "reviews.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# The job files -------------------------------------------------------------------------------------------------------


def test_these_are_the_examples() -> None:
    assert [path.stem for path in JOBS] == [
        "arxiv-topics",
        "paper-facts",
        "paper-models",
        "paper-nightly",
        "paper-organizations",
        "paper-overnight",
        "paper-questions",
        "review-sentiment",
    ]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_an_example_loads_and_rehearses_without_a_key(path: Path) -> None:
    job = load_job(path, overrides={"endpoint": "simulator"}, environ={})
    assert job.spec.name == path.stem
    assert job.root == ROOT
    assert job.rehearsal


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_an_example_needs_only_a_key_to_be_real(path: Path) -> None:
    job = load_job(path, overrides={"endpoint": "openai"}, environ={"OPENAI_API_KEY": "not-a-key"})
    assert all(model in job.models.models for model in job.spec.models), "their prices are known"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_an_editor_finds_the_schema_and_has_no_complaint(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA.name}\n")
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema_rs.validator_for(schema).validate(yaml.safe_load(text))


def test_the_schema_is_up_to_date() -> None:
    printed = runner("schema")
    assert printed.returncode == 0
    assert SCHEMA.read_text(encoding="utf-8") == printed.stdout, "renew it: runner schema > jobs/job.schema.json"


# What the data must have to be worth running -------------------------------------------------------------------------


def test_the_papers_are_as_awkward_as_real_ones(papers: list[dict[str, Any]]) -> None:
    assert len(papers) == 240
    counts = Counter(paper["id"] for paper in papers)
    assert sorted(counts.values())[-2:] == [1, 2], "exactly one id comes twice"
    assert any(name.startswith("0") for name in counts), "leading zeros"
    assert any(name.endswith("0") for name in counts), "zeros that a number would lose"
    assert all(60 <= len(paper["abstract"].split()) <= 150 for paper in papers)
    abstracts = "".join(paper["abstract"] for paper in papers)
    assert all(piece in abstracts for piece in (r"$\alpha", r"\mathcal{H}", "é", "\n"))
    assert {key for paper in papers for key, value in paper.items() if value is None} >= {"doi", "journal-ref"}


def test_the_reviews_are_as_awkward_as_real_ones(reviews: list[dict[str, str]]) -> None:
    assert [review["review_id"] for review in reviews] == [f"{number:05d}" for number in range(1, 121)]
    texts = "".join(review["text"] for review in reviews)
    assert all(piece in texts for piece in (",", '"', "\n", "🥐", "{{"))


# arxiv-topics --------------------------------------------------------------------------------------------------------


def test_topics_has_every_row_once_and_in_order(topics: Finished, papers: list[dict[str, Any]]) -> None:
    assert topics.column("_index") == list(range(240))
    for name in ("id", "title", "categories"):
        assert topics.column(name) == [paper[name] for paper in papers]
    assert topics.column("_id") == topics.column("id")
    assert set(topics.column("_status")) == {"ok"}


def test_topics_has_the_kept_columns_the_label_and_the_runners_own(topics: Finished) -> None:
    schema = topics.table.schema
    assert schema.names[:4] == ["id", "title", "categories", "label"]
    assert all(name.startswith("_") for name in schema.names[4:])
    assert {schema.field(name).type for name in schema.names[:4]} == {pa.string()}


def test_topics_are_all_from_the_list(topics: Finished) -> None:
    labels = topics.column("label")
    listed = yaml.safe_load((ROOT / "jobs" / "arxiv-topics.yaml").read_text(encoding="utf-8"))["output"]["labels"]
    assert set(labels) == set(listed), "and each of them occurs"
    assert labels == [json.loads(raw)["label"] for raw in topics.column("_raw")]
    assert topics.manifest["summary"]["answers"] == Counter(labels)


def test_topics_keeps_the_rows_of_an_id_that_repeats_and_says_so(topics: Finished) -> None:
    [twice] = [name for name, count in Counter(topics.column("id")).items() if count > 1]
    assert topics.column("id").count(twice) == 2
    assert topics.manifest["input"]["repeated_ids"] == 1


def test_topics_costs_what_its_tokens_cost(topics: Finished) -> None:
    per_token = {"input": 0.10e-6, "output": 0.50e-6}  # gpt-6-luna, in configs/models.yaml
    for row in topics.table.select(["_input_tokens", "_output_tokens", "_cost_usd"]).to_pylist():
        expected = row["_input_tokens"] * per_token["input"] + row["_output_tokens"] * per_token["output"]
        assert row["_cost_usd"] == pytest.approx(expected)


# review-sentiment ----------------------------------------------------------------------------------------------------


def test_sentiment_has_every_row_once_in_order_and_as_written(
    sentiment: Finished, reviews: list[dict[str, str]]
) -> None:
    assert sentiment.column("_index") == list(range(120))
    for name in ("review_id", "product", "stars", "text"):
        assert sentiment.column(name) == [review[name] for review in reviews]
    assert sentiment.column("_id")[16] == "00017"
    assert set(sentiment.column("_status")) == {"ok"}
    assert sentiment.manifest["input"]["repeated_ids"] == 0


def test_sentiment_fills_typed_columns(sentiment: Finished) -> None:
    schema = sentiment.table.schema
    assert schema.names[:7] == ["review_id", "product", "stars", "text", "sentiment", "score", "reasons"]
    assert schema.field("sentiment").type == pa.string()
    assert schema.field("score").type == pa.int64()
    assert pa.types.is_list(schema.field("reasons").type)
    assert schema.field("reasons").type.value_type == pa.string()
    assert set(sentiment.column("sentiment")) == {"positive", "negative", "mixed"}
    assert set(sentiment.column("score")) == {1, 2, 3, 4, 5}
    for answer, raw in zip(
        sentiment.table.select(["sentiment", "score", "reasons"]).to_pylist(), sentiment.column("_raw"), strict=True
    ):
        assert answer == json.loads(raw)


def test_optional_properties_do_not_count_as_the_least_there_can_be() -> None:
    schema = "{properties: {name: {type: string}, remark: {type: string}}, required: [name], type: object}"
    settings = {"output": f"{{strict: false, schema: {schema}}}", "parameters": "{}"}
    found = dry_run(ROOT / "jobs" / "review-sentiment.yaml", settings)
    assert found.output_tokens == (120 * 2, None)
    assert "at least 240 out, no maximum set" in found.text()
    assert "cost      at least about $" in found.text()


# paper-questions and paper-facts --------------------------------------------------------------------------------------


def work(name: str, folder: Path, answers: int = 240, **settings: Any) -> pa.Table:
    """Run an example in this process, in a copy of the project whose simulator answers at once."""
    shutil.copytree(ROOT / "jobs", folder / "jobs")
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "configs" / "endpoints.yaml").write_text(INSTANT, encoding="utf-8")
    settings = {"endpoint": "simulator", "limits": {"concurrency": 32}, **settings}
    with forking():
        done = run_job(load(folder / "jobs" / f"{name}.yaml", **settings), progress=False)
    assert (done.rows, done.ok, done.failed) == (240, answers, 0)
    return read_results(done.folder)


def load(path: Path, **settings: Any) -> Job:
    return load_job(path, overrides={key: json.dumps(value) for key, value in settings.items()}, environ={})


def test_questions_have_the_columns_that_the_job_promises(tmp_path: Path) -> None:
    table = work("paper-questions", tmp_path)
    assert [name for name in table.schema.names if not name.startswith("_")] == [
        *("id", "title"),
        *("topic", "topic_confidence", "topic_probabilities"),
        "applied",
        *("novelty", "novelty_level", "novelty_confidence", "novelty_probabilities"),
        *("refused", "needs_review"),
    ]
    topics = {"machine learning", "physics", "mathematics", "other"}
    assert {field.name for field in table.schema.field("topic_probabilities").type} == topics
    assert set(table.column("topic").to_pylist()) == topics, "each of them occurs"
    assert set(table.column("novelty_level").to_pylist()) == {"incremental", "solid", "striking"}
    assert set(table.column("needs_review").to_pylist()) == {True, False}
    for row in table.select(["topic_confidence", "needs_review"]).to_pylist():
        assert row["needs_review"] == (row["topic_confidence"] < 0.6)


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_one_word_moves_the_questions_to_another_api(api: str) -> None:
    path = ROOT / "jobs" / "paper-questions.yaml"
    here, there = make_plan(load(path)), make_plan(load(path, api=api))
    assert pa.schema(here.answer.fields).equals(pa.schema(there.answer.fields), check_metadata=True)


def test_facts_are_typed(tmp_path: Path) -> None:
    table = work("paper-facts", tmp_path)
    types = {name: table.schema.field(name).type for name in table.schema.names[2:7]}
    assert types == {
        "problem": pa.string(),
        "methods": pa.list_(pa.string()),
        "kind": pa.string(),
        "sample_size": pa.int64(),
        "claims_first": pa.bool_(),
    }
    assert table.column("sample_size").null_count > 0
    for answer, raw in zip(table.select(list(types)).to_pylist(), table.column("_raw").to_pylist(), strict=True):
        assert answer == json.loads(raw)


def test_two_models_stand_side_by_side(tmp_path: Path) -> None:
    table = work("paper-models", tmp_path, answers=480)
    assert table.num_rows == 240
    assert table.schema.names[:3] == ["id", "title", "_index"]
    for model in ("gpt-6-luna", "gpt-6-sol"):
        assert set(table.column(f"{model}._status").to_pylist()) == {"ok"}
        assert table.column(f"{model}.label").null_count == 0


def test_two_organizations_share_the_work(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    with forking():
        done = run_job(load(tmp_path / "jobs" / "paper-organizations.yaml", endpoint="simulator"), progress=False)
    assert (done.ok, done.failed) == (240, 0)
    assert set(read_results(done.folder).column("_endpoint").to_pylist()) == {"openai-org-a", "openai-org-b"}


# All of them, through the Batch API -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batching() -> Iterator[SimulatorProcess]:
    with simulator(batches={"speed": 50_000, "duration_s": 1800}) as server:
        yield server


BATCHES = [path.stem for path in JOBS if "api: decisions" not in path.read_text(encoding="utf-8")]

# What may differ between an answer that came live and one that came in a batch: times, names, and money.
OF_THE_WAY = {
    "_queued_at", "_started_at", "_finished_at", "_throttle_s", "_backoff_s", "_latency_s", "_total_s", "_server_ms",
    "_request_id", "_reused_from", "_batch", "_collected_at", "_cost_usd", "_saved_usd",
}  # fmt: skip


@pytest.mark.parametrize("name", BATCHES)
def test_an_example_gives_the_same_table_in_batches_at_half_the_price(
    name: str, tmp_path: Path, batching: SimulatorProcess
) -> None:
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    endpoints = f"there: {{base_url: {batching.base_url}}}\n"
    (tmp_path / "configs" / "endpoints.yaml").write_text(endpoints, encoding="utf-8")
    tables, cost_usd = [], []
    for strategy in ("asyncio", "batch_api"):
        settings = {"endpoint": "there", "limits": {"concurrency": 32}, "reuse": False, "strategy": strategy}
        settings["incremental"] = None  # or the second would find nothing new
        done = run_job(load(tmp_path / "jobs" / f"{name}.yaml", **settings), progress=False)
        assert (done.status, done.failed) == ("finished", 0)
        tables.append(read_results(done.folder))
        assert done.cost_usd is not None
        cost_usd.append(done.cost_usd)
    live, batched = tables
    assert live.schema.equals(batched.schema)
    for column in live.column_names:
        if column.rpartition(".")[2] not in OF_THE_WAY:
            assert live.column(column).to_pylist() == batched.column(column).to_pylist(), column
    assert cost_usd[1] == pytest.approx(cost_usd[0] / 2, abs=1e-6)  # which is as exact as they are told
    assert batching.stats()["batches"]["states"].keys() == {"completed"}


def test_what_the_batch_api_does_not_take_is_said() -> None:
    assert {path.stem for path in JOBS} - set(BATCHES) == {"paper-questions"}
    with pytest.raises(SpecErrors, match="the Batch API does not offer `api: decisions`"):
        load(ROOT / "jobs" / "paper-questions.yaml", endpoint="simulator", strategy="batch_api")


def test_what_is_not_done_overnight_is_sent_live(tmp_path: Path) -> None:
    """In ten minutes a batch could just be cancelled, so none is submitted."""
    table = work("paper-overnight", tmp_path, strategy={"name": "batch_api", "deadline": "10m"})
    assert table.column("_batch").null_count == 240
    assert table.column("_latency_s").null_count == 0


def test_the_second_night_has_nothing_to_do(tmp_path: Path) -> None:
    assert work("paper-nightly", tmp_path).num_rows == 240
    with forking():
        again = run_job(load(tmp_path / "jobs" / "paper-nightly.yaml"), progress=False)
    assert (again.status, again.rows) == ("finished", 0)


# Both ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "file"), [("topics", "arxiv-topics"), ("sentiment", "review-sentiment")])
def test_a_dry_run_foretells_what_a_rehearsal_takes(name: str, file: str, request: pytest.FixtureRequest) -> None:
    summary = request.getfixturevalue(name).manifest["summary"]
    found = dry_run(ROOT / "jobs" / f"{file}.yaml", {})
    assert found.input_tokens == pytest.approx(summary["tokens"]["input"], rel=0.02)
    fewest, most = found.output_tokens
    assert fewest <= summary["tokens"]["output"] <= most
    lowest, highest = found.cost_usd
    assert lowest <= summary["cost_usd"] <= highest


@pytest.mark.parametrize("name", ["topics", "sentiment"])
def test_a_run_of_the_simulator_says_that_it_is_a_rehearsal(name: str, request: pytest.FixtureRequest) -> None:
    finished: Finished = request.getfixturevalue(name)
    assert finished.manifest["status"] == "finished"
    assert finished.manifest["rehearsal"] is True
    assert finished.folder.resolve().name.endswith("-rehearsal")
    parts = sorted(finished.folder.glob("part-*.parquet"))
    assert [part.name for part in parts] == ["part-00000.parquet"]
    about = json.loads(pq.ParquetFile(parts[0]).metadata.metadata[b"runner"])
    assert about["rehearsal"] is True
    assert (about["rows"], about["failed"]) == (finished.table.num_rows, 0)


@pytest.mark.parametrize("name", ["topics", "sentiment"])
def test_nothing_but_the_run_is_left(name: str, request: pytest.FixtureRequest) -> None:
    finished: Finished = request.getfixturevalue(name)
    left = sorted(path.name for path in finished.folder.iterdir())
    assert left == ["job.yaml", "part-00000.parquet", "run.json"]
