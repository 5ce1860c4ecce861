"""A job's whole current dataset: the latest answer to each row over all its runs."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from past import LABEL, TEXT, day_us, retried, row, run
from project import Project, simulator

from runner import read_dataset
from runner.dataset.columns import JSON_TEXT
from runner.errors import FatalError, SpecError
from runner.export import export_dataset
from runner.history import Past
from runner.latest import LatestAnswers, latest_of

Make = Callable[..., Project]
YEAR = pa.field("year", pa.int64())


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "job"


def table(base: Path, until: Path | None = None) -> pa.Table:
    with LatestAnswers(base, None if until is None else Past.load(until)) as latest:
        return pa.concat_tables([latest.schema.empty_table(), *latest.tables()])


def now(base: Path, until: Path | None = None, *columns: str) -> list[tuple[Any, ...]]:
    found = table(base, until).select(["_id", *(columns or ("label",))])
    return [tuple(each.values()) for each in found.to_pylist()]


def left_out(base: Path) -> list[str]:
    with LatestAnswers(base) as latest:
        return [f"{folder.name[:8]}: {why}" for folder, why in latest.left_out.items()]


# Which rows -----------------------------------------------------------------------------------------------------------


def test_the_newest_answer_to_each_row_counts_and_a_failure_hides_none(base: Path) -> None:
    first = run(base, 0, [row("a", "old"), row("b", "old"), row("c", "old"), row("z", None)])
    second = run(base, 1, [row("b", "new"), row("c", None), row("d", "new")])
    run(base, 2, [row("a", "means nothing")], rehearsal=True)
    assert now(base) == [("b", "new"), ("d", "new"), ("a", "old"), ("c", "old")]
    assert now(base, first) == [("a", "old"), ("b", "old"), ("c", "old")]
    assert now(base, None, "_run") == [
        ("b", second.name), ("d", second.name), ("a", first.name), ("c", first.name),
    ]  # fmt: skip


def test_the_run_that_began_last_counts_though_another_was_worked_on_later(base: Path) -> None:
    run(base, 1, [row("a", "second")])
    run(base, 0, [row("a", "first, answered late", _finished_at=day_us(9))])
    assert now(base) == [("a", "second")]


def test_what_is_still_open_counts_as_well(base: Path) -> None:
    run(base, 0, [row("a", "old"), row("b", "old")])
    run(base, 1, [row("b", "open"), row("c", None)], kind="journal", status="running")
    folder = run(base, 2, [row("d", None), row("e", "ok"), row("f", "sealed")])
    retried(folder, [row("d", "retried", _index=0), row("f", "retried, and merged", _index=2)])
    assert now(base) == [
        ("d", "retried"), ("f", "retried, and merged"), ("e", "ok"), ("b", "open"), ("a", "old"),
    ]  # fmt: skip


def test_rows_of_one_run_that_share_an_id_are_all_kept(base: Path) -> None:
    run(base, 0, [row("a", "1"), row("a", "2"), row("b", "1"), row("b", "2")])
    run(base, 1, [row("b", "3")])
    assert now(base) == [("b", "3"), ("a", "1"), ("a", "2")]


def test_without_an_id_a_row_is_known_by_its_request(base: Path) -> None:
    """The place in the input says nothing: tomorrow's first row is another one than today's."""
    same = {"_fingerprint": "0" * 32}
    run(base, 0, [row(0, "old", **same), row(1, "another")], id_=None)
    run(base, 1, [row(0, "a third"), row(1, "new", **same)], id_=None)
    assert now(base) == [("0", "a third"), ("1", "new"), ("1", "another")]
    with LatestAnswers(base) as latest:
        assert latest.notes(3) == [
            "3 rows: the latest answer to each, over 2 runs",
            "note: without `input.id` a row is known by its request, so that a new prompt makes new rows",
        ]


def test_with_several_models_a_row_is_one_for_each(base: Path) -> None:
    both = [row("a", "m1", _model="m"), row("a", "n1", _model="n", _index=0)]
    run(base, 0, [row("a", "k", _model="k"), row("b", "k", _model="k")], models=["k"])
    run(base, 1, both, models=["m", "n"])
    run(base, 2, [row("a", "m2", _model="m"), row("c", "l", _model="l", _index=1)], models=["m", "l"])
    assert now(base) == [("a", "m2"), ("c", "l"), ("a", "m1")][:2]
    assert left_out(base) == ["20260101: it asked k, the newest run m and l"]
    run(base, 3, both, models=["m", "n"])
    assert now(base) == [("a", "m1"), ("a", "n1")]
    run(base, 4, [row("b", "k2", _model="k")], models=["k"])
    assert now(base) == [("b", "k2"), ("a", "k")], "now one is asked, and runs that asked another are not comparable"
    assert len(left_out(base)) == 3


def test_another_model_may_take_over(base: Path) -> None:
    run(base, 0, [row("a", "old"), row("b", "old")], models=["m"])
    run(base, 1, [row("a", "new")], models=["n"])
    assert now(base) == [("a", "new"), ("b", "old")]


def test_runs_whose_rows_are_known_by_something_else_are_left_out_and_named(base: Path) -> None:
    run(base, 0, [row("0", "x")], id_=None)
    run(base, 1, [row("a", "x")], id_="doi")
    run(base, 2, [row("a", "y")])
    damaged = run(base, 3, [row("c", "y")])
    (damaged / "run.json").write_text("{}")
    assert now(base) == [("a", "y")]
    assert left_out(base) == [
        "20260104: its record cannot be read: this run.json cannot be read: no 'sessions'",
        "20260102: its rows are known by `doi`, those of the newest run by `id`",
        "20260101: its rows are known by their request, those of the newest run by `id`",
    ]


def test_there_has_to_be_a_run_that_counts(base: Path) -> None:
    only = run(base, 0, [row("a")], rehearsal=True)
    for until, expected in (
        (None, "there is no run yet whose answers count: rehearsals have none"),
        (Past.load(only), "there is no run up to that one whose answers count: rehearsals have none"),
    ):
        with pytest.raises(SpecError) as caught:
            LatestAnswers(base, until)
        assert caught.value.message == expected


def test_a_damaged_part_is_no_silent_loss(base: Path) -> None:
    folder = run(base, 0, [row("a")])
    run(base, 1, [row("b")])
    part = folder / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(FatalError, match="this part cannot be read"):
        table(base)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_runs_hold_the_dataset_is_what_a_dictionary_says(base: Path, seed: int) -> None:
    draws = random.Random(seed)
    expected: dict[str, tuple[str, str]] = {}
    for day in range(12):
        rows = [row(name, draws.choice([f"{day}", None])) for name in draws.sample(range(30), draws.randrange(12))]
        folder = run(base, day, rows, kind=draws.choice(["part", "journal"]))
        expected |= {each["_id"]: (each["label"], folder.name) for each in rows if each["_status"] == "ok"}
    found = now(base, None, "label", "_run")
    assert sorted(found) == sorted((name, *answer) for name, answer in expected.items())
    with LatestAnswers(base) as latest:
        held = latest.held()
    for each in base.iterdir():
        assert held[each] == sum(folder == each.name for _, folder in expected.values())


# Which columns --------------------------------------------------------------------------------------------------------


def test_columns_are_those_of_all_runs_the_newest_first(base: Path) -> None:
    run(base, 0, [row("a", "x", old=True, text="t")], inputs=[pa.field("old", pa.bool_()), TEXT])
    run(base, 1, [row("b", topic="y", text="t")], answers=[pa.field("topic", pa.string())])
    found = table(base)
    assert found.schema.names[:4] == ["text", "topic", "old", "label"]
    assert found.schema.names[-1] == "_run"
    assert found.select(["_id", "topic", "label", "old"]).to_pylist() == [
        {"_id": "b", "topic": "y", "label": None, "old": None},
        {"_id": "a", "topic": None, "label": "x", "old": True},
    ]


def test_types_that_fit_become_one(base: Path) -> None:
    def chances(*names: str) -> pa.Field:
        return pa.field("chances", pa.struct([(name, pa.float64()) for name in names]))

    run(base, 0, [row("a", year=1, chances={"x": 0.5, "gone": 0.5})], answers=[LABEL, YEAR, chances("x", "gone")])
    run(base, 1, [row("b", year=1.5, chances={"x": 0.1, "new": 0.9})],
        answers=[LABEL, YEAR.with_type(pa.float64()), chances("x", "new")])  # fmt: skip
    assert left_out(base) == []
    assert now(base, None, "year", "chances") == [
        ("b", 1.5, {"x": 0.1, "new": 0.9, "gone": None}),
        ("a", 1.0, {"x": 0.5, "new": None, "gone": 0.5}),
    ]


def test_a_column_without_a_value_fits_any_type(base: Path) -> None:
    """A column that is null all night is stored as text."""
    text = YEAR.with_type(pa.string())
    run(base, 0, [row("a", year=None)], inputs=[text])
    run(base, 1, [row("b", year=1999)], inputs=[YEAR])
    run(base, 2, [row("c", year=None)], inputs=[text])
    assert now(base, None, "year") == [("c", None), ("b", 1999), ("a", None)]
    assert table(base).schema.field("year").type == pa.int64()


def test_a_run_whose_columns_do_not_fit_is_left_out_and_named(base: Path) -> None:
    run(base, 0, [row("a", year="1999")], inputs=[YEAR.with_type(pa.string())])
    run(base, 1, [row("b", year="[1]")], inputs=[pa.field("year", pa.string(), metadata=JSON_TEXT)])
    run(base, 2, [row("c", _run="mine", text="t")], inputs=[TEXT, pa.field("_run", pa.string())])
    run(base, 3, [row("d", year=1999)], inputs=[YEAR])
    assert now(base, None, "year") == [("d", 1999)]
    assert left_out(base) == [
        "20260103: it has a column `_run` of its own",
        "20260102: its column `year` holds JSON text, and that of newer runs int64",
        "20260101: its column `year` holds string, and that of newer runs int64",
    ]


def test_nothing_is_rounded(base: Path) -> None:
    folder = run(base, 0, [row("a", year=2**60 + 1)], inputs=[YEAR])
    run(base, 1, [row("b", year=0.5)], inputs=[YEAR.with_type(pa.float64())])
    with pytest.raises(SpecError) as caught:
        table(base)
    assert caught.value.message.startswith(f"the rows of run {folder.name} do not fit those of newer runs: Integer")
    assert caught.value.hint == "`--as-of RUN` gives the dataset as it was after a run"


# Written out ----------------------------------------------------------------------------------------------------------


def test_it_is_written_in_three_formats(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(base, 0, [row("a", "old", text="é"), row("b", "old", text="t")])
    run(base, 1, [row("b", "new", text="t")])

    def write(format_: str | None, name: str | None) -> int:
        with LatestAnswers(base) as latest:
            return export_dataset(latest, format_, None if name is None else tmp_path / name)

    assert write(None, "all.parquet") == 2
    assert pq.read_table(tmp_path / "all.parquet").equals(table(base))
    assert write(None, "all.csv") == write("jsonl", "all.txt") == write(None, None) == 2
    text = (tmp_path / "all.csv").read_text("utf-8")
    assert capsys.readouterr().out == text
    assert [each["label"] for each in csv.DictReader(io.StringIO(text))] == ["new", "old"]
    assert (tmp_path / "all.txt").read_text("utf-8").count("\n") == 2
    with pytest.raises(SpecError) as caught:
        write("parquet", None)
    assert str(caught.value) == "Parquet goes to a file, not to stdout\nhint: name one: `--to FILE.parquet`"


def test_real_runs_make_one_dataset(project: Make) -> None:
    with simulator() as server:
        here = project(server.base_url, rows=6, output={"rows_per_part": 4})
        here.work()
        here.rows(3)
        here.work()
    done = here.runner("dataset", "job", "--to", "all.parquet")
    assert done.stdout == ""
    assert done.stderr == "6 rows: the latest answer to each, over 2 runs\n"
    found = read_dataset(here.job_file)
    assert found.equals(pq.read_table(here.folder / "all.parquet"))
    assert found.column("_id").to_pylist() == [f"r{number:05d}" for number in range(6)]
    told = json.loads(here.runner("diff", "job", "--json").stdout)
    assert (told["rows"]["gone"], told["rows"]["both_ok"], told["rows"]["changed"]) == (3, 3, 0)


def test_as_of_takes_a_run_of_the_job_only(base: Path) -> None:
    first, other = run(base, 0, [row("a", "old")]), run(base.with_name("other"), 0, [row("a")])
    run(base, 1, [row("a", "new")])
    for named in (first.name, str(first)):
        with latest_of("job", named, base.parent) as latest:
            assert [each.folder for each in latest.runs] == [first]
    assert read_dataset("job", as_of=first.name, output=base.parent).column("label").to_pylist() == ["old"]
    with pytest.raises(SpecError) as caught:
        latest_of("job", str(other), base.parent)
    assert caught.value.message == f"`{other}` is no run of the job `job`"
