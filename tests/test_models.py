"""Several models in one job: each row is asked of all of them, and has a result for each."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from itertools import product
from typing import Any

import pyarrow as pa
import pytest
from project import Project, parts, simulator

from runner import load_job, read_results
from runner.errors import SpecError
from runner.layout import Layout
from runner.listing import show_run

Make = Callable[..., Project]
MODELS = ["gpt-6-luna", "gpt-6-sol"]


def asked(table: pa.Table) -> list[tuple[int, str]]:
    return list(zip(table.column("_index").to_pylist(), table.column("_model").to_pylist(), strict=True))


@pytest.mark.parametrize("strategy", ["asyncio", "threads", {"name": "processes", "processes": 2}])
def test_every_row_has_one_result_for_each_model_in_order(project: Make, strategy: Any) -> None:
    with simulator() as server:
        here = project(server.base_url, rows=33, model=MODELS, output={"rows_per_part": 10}, strategy=strategy)
        summary = here.work()
        assert server.stats()["requests"] == 66
    assert asked(here.table()) == list(product(range(33), MODELS))
    assert [len(pa.parquet.read_table(part)) for part in parts(here.latest)] == [20, 20, 20, 6]
    assert len(set(here.table().column("_fingerprint").to_pylist())) == 66, "the model is part of the request"
    assert (summary.rows, summary.ok) == (33, 66)


def test_bad_rows_fail_once_for_each_model(project: Make) -> None:
    rows = [{"id": "r00000", "text": "a"}, {"id": "r00001"}]
    here = project(rows=rows, model=MODELS, input={"on_bad_row": "error_row"})
    here.work()
    found = here.table().select(["_index", "_model", "_error_type"]).to_pylist()
    assert [(row["_index"], row["_model"], row["_error_type"]) for row in found] == [
        (0, "gpt-6-luna", None), (0, "gpt-6-sol", None), (1, "gpt-6-luna", "bad_row"), (1, "gpt-6-sol", "bad_row"),
    ]  # fmt: skip


@pytest.mark.parametrize("layout", ["long", "wide"])
def test_what_a_killed_run_has_is_kept_and_only_the_rest_is_sent(project: Make, layout: str) -> None:
    with simulator(latency_s=0.05) as server:
        here = project(server.base_url, rows=40, model=MODELS, output={"rows_per_part": 8, "layout": layout})
        process = here.start("run", here.job_file, "--quiet")
        while not here.has_begun() or len(parts(here.latest)) < 2:
            assert process.poll() is None
        here.kill(process)
        here.work_on()
        stats = server.stats()
    table = here.table() if layout == "long" else here.long_table()
    assert asked(table) == list(product(range(40), MODELS))
    assert stats["statuses"]["200"] <= 80 + 8, "at most what was in flight is sent again"


def test_wide_has_one_row_per_input_row_and_a_group_of_columns_per_model(project: Make) -> None:
    here = project(rows=7, model=MODELS, output={"rows_per_part": 3, "layout": "wide"})
    here.work()
    table = here.table()
    assert table.num_rows == 7
    assert table.schema.names[:7] == ["id", "text", "number", "_index", "_id", "gpt-6-luna.label", "gpt-6-luna._status"]
    assert "gpt-6-sol.label" in table.schema.names
    assert "_model" not in table.schema.names
    assert table.column("_index").to_pylist() == list(range(7))
    assert read_results(here.latest).equals(table.cast(read_results(here.latest).schema))
    lines = list(csv.DictReader(io.StringIO(here.runner("export").stdout)))
    assert [line["gpt-6-sol.label"] for line in lines] == table.column("gpt-6-sol.label").to_pylist()
    assert here.manifest()["summary"]["ok"] == 14
    shown = show_run(here.latest, as_json=False)
    assert "columns     id, text, number, gpt-6-luna.label, gpt-6-sol.label (and the runner's own)\n" in shown


@pytest.mark.parametrize("layout", ["long", "wide"])
def test_a_retry_sends_only_what_failed_of_the_model_it_failed_for(project: Make, layout: str) -> None:
    with simulator(faults={"bad_request": 0.2}, seed=3) as server:
        here = project(server.base_url, rows=20, model=MODELS, output={"rows_per_part": 6, "layout": layout})
        here.work()
        before = here.long_table()
        failed = [key for key, status in zip(asked(before), before.column("_status").to_pylist(), strict=True)
                  if status == "error"]  # fmt: skip
        assert 0 < len(failed) < 20
        sent = server.stats()["requests"]
        here.work_on(retry=True)
        assert server.stats()["requests"] - sent == len(failed)
    after = here.long_table()
    assert asked(after) == list(product(range(20), MODELS))
    again = dict(zip(asked(after), after.column("_attempts").to_pylist(), strict=True))
    assert {key for key, attempts in again.items() if attempts == 2} == set(failed)


def test_packing_and_unpacking_give_the_same_results_back() -> None:
    schema = pa.schema([("a", pa.string()), ("x", pa.list_(pa.int64())), ("_index", pa.int64()), ("_id", pa.string()),
                        ("_model", pa.string()), ("_status", pa.string())])  # fmt: skip
    layout = Layout(("m", "n.2", "o"), ("a",), wide=True)
    rows = [
        {"a": f"in {i}", "x": [i], "_index": i, "_id": str(i), "_model": model, "_status": f"{model} {i}"}
        for i in (2, 5, 7)
        for model in layout.models
    ]
    whole = pa.Table.from_pylist(rows, schema)
    assert layout.unpack(layout.pack(whole), schema).equals(whole)
    some = pa.Table.from_pylist([row for row in rows if row["_status"] != "n.2 5"], schema)
    packed = layout.pack(some)
    assert packed.num_rows == 3
    assert packed.column("n.2._status").to_pylist() == ["n.2 2", None, "n.2 7"]
    assert packed.column("a").to_pylist() == ["in 2", "in 5", "in 7"]


def test_models_that_agree_and_those_that_do_not(project: Make) -> None:
    here = project(rows=20, model=MODELS)
    done = here.runner("run", here.job_file).stdout
    summary = here.manifest()["summary"]
    table = here.long_table()
    labels: dict[int, set[str]] = {}
    for index, label in zip(table.column("_index").to_pylist(), table.column("label").to_pylist(), strict=True):
        labels.setdefault(index, set()).add(label)
    same = sum(len(found) == 1 for found in labels.values())
    [pair] = summary["agreement"]["label"]
    assert (pair["models"], pair["rows"], pair["same"]) == (MODELS, 20, same)
    assert [entry["ok"] for entry in summary["models"].values()] == [20, 20]
    assert f"gpt-6-luna and gpt-6-sol agree on {same} of 20 rows" in done


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ([], "`model` must name at least one"),
        (["m", "m"], '`model[1]` is there already: "m"'),
        (["m", 5], "`model[1]` must be a name, got 5"),
        (5, "`model` must be a name or a list of names, got 5"),
        ("m, n", '`model` must be one name, got "m, n"'),
        (" ", '`model` must be a name, got " "'),
    ],
)
def test_what_model_may_be(project: Make, model: Any, said: str) -> None:
    here = project(model=model)
    with pytest.raises(SpecError) as caught:
        load_job(here.job_file)
    assert said in str(caught.value)


def test_an_input_column_with_the_name_of_a_models_column_is_refused(project: Make) -> None:
    here = project(rows=[{"id": "a", "text": "t", "m.label": "x"}], model=["m", "n"], output={"layout": "wide"})
    with pytest.raises(SpecError, match=r"the input column `m.label` has the name of a model's column"):
        here.work()
