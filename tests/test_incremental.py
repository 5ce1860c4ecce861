"""`incremental`: a run takes in the rows that no earlier run has answered as they are now, and keeps to its choice."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from past import retried, row, run
from project import Project, parts, simulator, until

from runner import read_dataset
from runner.dry_run import dry_run
from runner.earlier import NAME as INDEX
from runner.errors import FatalError, SpecError
from runner.explain import explain
from runner.incremental import Asked, NewRows
from runner.load import load_job
from runner.plan import Plan, make_plan
from runner.records import Item
from runner.retention import prune
from runner.sections import KeepSpec
from runner.selection import NAME, Selection
from runner.simulator import SimulatorProcess

Make = Callable[..., Project]
NOWHERE = "http://localhost:1/v1"


def rows(*names: object) -> list[dict[str, Any]]:
    """Rows of the input: `a` is row a, and `a2` what became of it later."""
    return [{"id": str(name)[0], "text": f"about {name}"} for name in names]


# Which rows are new ---------------------------------------------------------------------------------------------------


def plan_of(project: Project, **overrides: str) -> Plan:
    return make_plan(load_job(project.job_file, overrides=overrides))


def new(plan: Plan, base: Path, warn: Callable[[str], None] = pytest.fail, at_a_time: int = 1 << 18) -> list[int]:
    """The positions of the rows that are new."""
    with Asked(plan, at_a_time) as asked:
        found = plan.survey(unfit=asked.unfit)
        return list(asked.new_rows(base, found.rows, warn).positions())


def answered(plan: Plan, item: dict[str, Any], *, ok: bool = True, model: int = 0) -> dict[str, Any]:
    """What a run keeps of a row that was sent as `plan` would send it."""
    [found] = [each for each in plan.rows() if each.fields == item]
    fingerprint = plan.builder.fingerprints(found)[model].hex()
    return row(item["id"], "a" if ok else None, _fingerprint=fingerprint, _model=plan.job.spec.models[model])


@pytest.mark.parametrize("by", ["id", "content"])
@pytest.mark.parametrize("seed", range(4))
def test_random_histories_against_the_definition(project: Make, by: str, seed: int) -> None:
    draws = random.Random(seed)
    everything = [{"id": f"r{i}", "text": f"text {text} {i % 30}"} for i in range(60) for text in range(4)]
    here = project(NOWHERE, rows=everything, incremental=by)
    plan, base = plan_of(here), here.folder / "outputs" / "job"
    prints = [plan.builder.fingerprints(item)[0].hex() for item in plan.rows()]  # type: ignore[arg-type]
    history: list[list[tuple[str, str, bool]]] = []
    for day in range(6):
        chosen = draws.sample(range(len(everything)), draws.choice([0, 20, 100]))
        history.append([(everything[i]["id"], prints[i], draws.random() < 0.8) for i in chosen])
        stored = [row(name, "a" if ok else None, _fingerprint=print_) for name, print_, ok in history[-1]]
        run(base, day, stored, kind=draws.choice(["part", "journal"]))
    tonight = sorted(draws.sample(range(len(everything)), 90))
    here.rows([everything[i] for i in tonight])

    def known(name: str, print_: str) -> bool:
        if by == "content":
            return any(print_ == theirs and ok for night in history for _, theirs, ok in night)
        for night in reversed(history):
            if of_newest := {theirs for its_name, theirs, ok in night if ok and its_name == name}:
                return print_ in of_newest
        return False

    keys = {i: everything[i]["id"] if by == "id" else prints[i] for i in tonight}
    lacking = {keys[i] for i in tonight if not known(everything[i]["id"], prints[i])}
    expected = [number for number, i in enumerate(tonight) if keys[i] in lacking]
    assert 5 < len(expected) < 90
    assert new(plan_of(here), base) == expected
    assert new(plan_of(here), base, at_a_time=8) == expected


def test_what_makes_a_row_new(project: Make) -> None:
    here = project(NOWHERE, rows=rows("a", "b", "c", "d", "e"), incremental="id")
    plan, base = plan_of(here), here.folder / "outputs" / "job"
    assert new(plan, base) == [0, 1, 2, 3, 4], "nothing has run"
    a, b, c, d, e = rows("a", "b", "c", "d", "e")
    first = run(base, 1, [answered(plan, a), answered(plan, b), answered(plan, c, ok=False)])
    assert new(plan, base) == [2, 3, 4], "a row that failed is sent again"
    retried(first, [{"_index": 2, **answered(plan, c)}])
    assert new(plan, base) == [3, 4], "its answer waits to be merged"
    run(base, 2, [{**answered(plan, d), "_id": "x"}])
    assert new(plan, base) == [3, 4], "the same request under another id"
    assert new(plan_of(here, incremental="content"), base) == [4]
    run(base, 3, [answered(plan, e)], id_="key")
    assert new(plan, base) == [3, 4], "ids of another column"
    run(base, 4, [answered(plan, e)], rehearsal=True)
    assert new(plan, base) == [3, 4], "a rehearsal"
    run(base, 5, [{**answered(plan, a), "_fingerprint": "0" * 32}])
    assert new(plan, base) == [0, 3, 4], "a newer answer under its id is to another request: the dataset has that"
    run(base, 6, [answered(plan, a)])
    assert new(plan, base) == [3, 4], "and now this one again"


def test_rows_of_one_id_are_new_together(project: Make) -> None:
    """Because the dataset takes all rows of an id from one run."""
    here = project(NOWHERE, rows=[*rows("a", "b"), {"id": "a", "text": "another"}, *rows("c")], incremental="id")
    plan, base = plan_of(here), here.folder / "outputs" / "job"
    run(base, 1, [answered(plan, each) for each in rows("a", "b", "c")])
    assert new(plan, base) == [0, 2]
    assert new(plan_of(here, incremental="content"), base) == [2]


def test_with_several_models_a_row_is_new_when_one_of_them_lacks_it(project: Make) -> None:
    here = project(NOWHERE, rows=rows("a", "b", "c"), incremental="id", model=["m1", "m2"])
    plan, base = plan_of(here), here.folder / "outputs" / "job"
    one, two = ([answered(plan, each, model=model) for each in rows("a", "b", "c")] for model in (0, 1))
    run(base, 1, one, models=["m1"])
    assert new(plan, base) == [0, 1, 2]
    run(base, 2, [{**one[0], "_index": 0}, {**two[0], "_index": 0}, {**two[2], "_index": 2}], models=["m1", "m2"])
    assert new(plan, base) == [1]
    assert new(plan_of(here, model="m2"), base) == [1]
    assert new(plan_of(here, model="m1", incremental="content"), base) == []


def test_bad_rows_are_taken_in_unless_the_job_leaves_them_out(project: Make) -> None:
    here = project(NOWHERE, rows=[*rows("a"), {"id": "b"}, *rows("c"), {"id": "", "text": "x"}], incremental="id")
    base = here.folder / "outputs" / "job"
    here.change(input={"on_bad_row": "error_row", "offset": 0})
    plan = plan_of(here)
    run(base, 1, [answered(plan, rows("c")[0])])
    assert new(plan, base) == [0, 1, 3]
    assert new(plan_of(here, **{"input.offset": "1"}), base) == [1, 3]
    assert new(plan_of(here, **{"input.on_bad_row": "skip"}), base) == [0]


def test_ids_that_are_no_unicode_are_found_again(project: Make) -> None:
    odd = {"id": "\ud800", "text": "odd"}
    here = project(rows=[odd, *rows("b")], incremental="id")
    here.work()
    assert new(plan_of(here), here.folder / "outputs" / "job") == []


def test_what_cannot_be_read_is_sent_again_and_said(project: Make) -> None:
    here = project(NOWHERE, rows=rows("a", "b", "c"), incremental="id")
    plan, base = plan_of(here), here.folder / "outputs" / "job"
    a, b, c = rows("a", "b", "c")
    broken = run(base, 1, [answered(plan, a)])
    (broken / "part-00000.parquet").write_bytes(b"PAR1 no more")
    unreadable = run(base, 2, [answered(plan, b)])
    (unreadable / "run.json").write_text("{")
    waiting = run(base, 3, [answered(plan, c)], status="waiting")
    said: list[str] = []
    assert new(plan, base, said.append) == [0, 1]
    assert len(said) == 3
    assert re.fullmatch(f"run {unreadable.name} counts for nothing: this run.json cannot be read: .*", said[0])
    assert said[1] == f"run {waiting.name} has rows in batches, which are sent again: better `runner resume` it first"
    assert said[2].startswith(f"{broken / 'part-00000.parquet'}: this part cannot be read: ")
    assert said[2].endswith("; its rows count as not answered")


def test_a_torn_journal_counts_as_far_as_it_goes(project: Make) -> None:
    here = project(NOWHERE, rows=rows("a", "b"), incremental="id")
    plan, base = plan_of(here), here.folder / "outputs" / "job"
    folder = run(base, 1, [answered(plan, each) for each in rows("a", "b")], kind="journal", status="running")
    journal = folder / "journal-00000.jsonl"
    journal.write_bytes(journal.read_bytes()[:-5])
    assert new(plan, base) == [1]


def test_fingerprints_are_those_of_the_requests(project: Make) -> None:
    plan = plan_of(project(NOWHERE, rows=rows("a"), model=["m1", "m2"], parameters={"service_tier": "flex"}))
    [item] = plan.rows()
    assert plan.builder.fingerprints(item)[0].hex() == plan.builder.build(item).fingerprint  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "user", ["{{ text }}", 'Say "{{ text }}"\n{{ row["text"] }} on {{ run_date }}', "{{ text | upper }}"]
)
def test_fingerprints_are_those_of_the_requests_whatever_a_row_holds(project: Make, user: str) -> None:
    odd = [
        '"quoted" \\ and',
        "\x00\x1f\t\n\x7f",
        "naïve 🎈 \u2028",
        "lone \ud800",
        None,
        1.5,
        True,
        ["a", {"b": None}],
        "",
    ]
    made = [{"id": str(number), "text": text} for number, text in enumerate(odd)]
    plan = plan_of(project(NOWHERE, rows=made, prompt={"system": 'Sort "it"\n.', "user": user}))
    for item in plan.rows():
        if isinstance(item, Item) and not plan.unfit(item):
            assert plan.builder.fingerprints(item)[0].hex() == plan.builder.build(item).fingerprint


# The list of the rows of a run ----------------------------------------------------------------------------------------


def test_the_list_of_rows(tmp_path: Path) -> None:
    chosen = NewRows(10, 3_000_000)
    chosen.add([0, 7, 8, 2_999_999])
    saved = chosen.save(tmp_path)
    assert saved == Selection(tmp_path / NAME, 4)
    assert list(saved.positions()) == list(chosen.positions()) == [10, 17, 18, 3_000_009]
    assert pq.read_table(tmp_path / NAME).to_pydict() == {"position": [10, 17, 18, 3_000_009]}
    assert NewRows(0, 0).save(tmp_path).rows == 0


def test_a_lost_or_damaged_list_ends_the_run(tmp_path: Path) -> None:
    chosen = NewRows(0, 1000)
    chosen.add(range(0, 1000, 3))
    saved = chosen.save(tmp_path)
    content = bytearray(saved.path.read_bytes())
    with pytest.raises(FatalError, match="it is the list of another run"):
        next(Selection(saved.path, 3).positions())
    for at in range(4, content.rindex(b"position"), 7):
        content[at] ^= 1
    saved.path.write_bytes(content)
    with pytest.raises(FatalError, match="the list of the rows that this run takes in cannot be read"):
        list(saved.positions())
    saved.path.unlink()
    with pytest.raises(FatalError, match="the list of the rows that this run takes in cannot be read"):
        list(saved.positions())


# Whole runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared() -> Iterator[SimulatorProcess]:
    with simulator() as server:
        yield server


@pytest.fixture
def server(shared: SimulatorProcess) -> SimulatorProcess:
    shared.reset_stats()
    return shared


def sent(server: SimulatorProcess) -> int:
    """How many requests there were since the last time."""
    requests: int = server.stats()["requests"]
    server.reset_stats()
    return requests


def told(here: Project) -> list[tuple[int, str, str]]:
    """Place, id and text of the rows of the latest run."""
    table = here.table()
    return list(zip(*(table.column(name).to_pylist() for name in ("_index", "_id", "text")), strict=True))


def whole(here: Project) -> dict[tuple[str, str], tuple[str, str]]:
    """The dataset: text and answer of each row by id and model."""
    found = read_dataset(here.job_file).to_pylist()
    assert len({(row["_id"], row["_model"]) for row in found}) == len(found)
    return {(row["_id"], row["_model"]): (row["text"], row["label"]) for row in found}


def test_three_nights_are_as_good_as_one_full_run(
    project: Make, server: SimulatorProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    here = project(server.base_url, rows=rows("a", "b", "c", "d"), incremental="id", output={"rows_per_part": 2})
    here.work()
    assert sent(server) == 4
    here.rows(rows("n", "a", "b2", "c", "d", "m"))
    done = here.work()
    assert told(here) == [(0, "n", "about n"), (1, "b", "about b2"), (2, "m", "about m")]
    assert sent(server) == 3
    assert [part.name for part in parts(here.latest)] == ["part-00000.parquet", "part-00001.parquet"]
    assert (done.rows, done.ok, done.status) == (3, 3, "finished")
    assert "\n  new       3 of 6 rows are new\n  rows      3: 3 ok, 0 failed\n" in str(done)
    assert (here.manifest()["input"]["rows"], here.manifest()["input"]["all_rows"]) == (3, 6)

    done = here.work()
    assert (sent(server), done.rows, done.status, here.table().num_rows) == (0, 0, "finished", 0)
    assert "\n  new       none of 6 rows is new: earlier runs have answered them all\n  rows      none\n" in str(done)

    here.rows(rows("n", "a", "b", "c", "d", "m"))
    here.work()  # b is as it was in the first night, whose answer is there
    assert told(here) == [(0, "b", "about b")]
    assert (sent(server), here.table().column("_reused_from").null_count) == (0, 0)
    of_nights = whole(here)
    here.change(incremental=None)
    here.work()
    assert sent(server) == 6
    assert (
        whole(here)
        == of_nights
        == {(row["_id"], "gpt-6-luna"): (row["text"], row["label"]) for row in here.table().to_pylist()}
    )


def test_by_content_a_row_is_known_under_any_id(project: Make, server: SimulatorProcess) -> None:
    here = project(server.base_url, rows=rows("a", "b"), incremental={"by": "content"}, input={"id": None})
    here.work()
    here.rows([{"id": "z", "text": "about b"}, *rows("c"), {"id": "y", "text": "about a"}])
    sent(server)
    here.work()
    assert told(here) == [(0, "1", "about c")], "without `input.id` the id is the place in the input"
    assert sent(server) == 1
    here.change(input={"id": "id"}, incremental="id")
    here.work()
    assert [name for _, name, _ in told(here)] == ["z", "c", "y"]
    assert sent(server) == 0, "by id they are new, and their answers are there"
    assert load_job(here.job_file).spec.reuse
    assert not load_job(here.job_file, overrides={"reuse": "false"}).spec.reuse
    assert not load_job(here.job_file, overrides={"incremental": "null"}).spec.reuse


def test_several_models_ask_only_those_that_lack_an_answer(project: Make, server: SimulatorProcess) -> None:
    here = project(server.base_url, rows=rows("a", "b"), incremental="id", model="gpt-6-luna")
    here.work()
    here.change(model=["gpt-6-luna", "gpt-6-sol"])
    here.rows(rows("a", "b", "c"))
    sent(server)
    here.work()
    assert sent(server) == 4
    table = here.table()
    assert table.column("_index").to_pylist() == [0, 0, 1, 1, 2, 2]
    assert [reused is not None for reused in table.column("_reused_from").to_pylist()] == [
        True,
        False,
        True,
        False,
        False,
        False,
    ]
    here.change(output={"layout": "wide"})
    here.rows(rows("a", "b", "c", "d"))
    here.work()
    assert sent(server) == 2
    assert len(whole(here)) == 8
    here.work()
    assert sent(server) == 0


@pytest.fixture(scope="module")
def broken() -> Iterator[SimulatorProcess]:
    """A server that refuses every other row, always the same ones."""
    with simulator(faults={"bad_request": 0.5}) as server:
        yield server


def at(here: Project, server: SimulatorProcess) -> Project:
    """Send to another server from now on."""
    here.endpoint["base_url"] = server.base_url
    here.change()
    return here


def test_failed_rows_are_sent_again_by_the_next_run(
    project: Make, server: SimulatorProcess, broken: SimulatorProcess
) -> None:
    here = project(broken.base_url, rows=rows(*"abcdefghijklmnop"), incremental="id")
    failed = here.work().failed
    assert 0 < failed < 16
    lacking = [row["_id"] for row in here.table().to_pylist() if row["_status"] == "error"]
    here.rows(rows(*"abcdefghijklmnopq"))
    at(here, server).work()
    assert [name for _, name, _ in told(here)] == [*lacking, "q"]
    assert sent(server) == failed + 1


def test_a_retry_sends_what_failed_of_the_rows_that_were_taken_in(
    project: Make, server: SimulatorProcess, broken: SimulatorProcess
) -> None:
    here = project(server.base_url, rows=rows("x", "y"), incremental="id")
    here.work()
    here.rows(rows("x", *"abcdefghijklmnop", "y"))
    failed = at(here, broken).work().failed
    assert 0 < failed < 16
    sent(server)
    done = at(here, server).work_on(retry=True)
    assert (done.rows, done.failed, sent(server)) == (16, 0, failed)
    assert [name for _, name, _ in told(here)] == [*"abcdefghijklmnop"]


def test_a_killed_run_goes_on_with_the_same_rows_whatever_others_did(project: Make) -> None:
    names = [{"id": f"r{i}", "text": f"about {i}"} for i in range(90)]
    with simulator(latency_s=0.02) as server:
        here = project(server.base_url, rows=names[::3], incremental="id", output={"rows_per_part": 7})
        here.work()
        here.rows(names)
        chosen = [row["id"] for row in names if row not in names[::3]]
        sent(server)
        working = here.start("run", here.job_file, "--quiet")
        first = here.latest
        until(lambda: here.latest != first and server.stats()["requests"] > 20)
        here.kill(working)
        killed = here.latest
        assert 0 < here.work().rows < 60  # what the killed run had answered counts
        assert here.latest != killed
        here.change(incremental="content")
        here.runner("resume", killed, "--quiet")
        assert here.table(killed).column("_id").to_pylist() == chosen
        assert here.table(killed).column("_index").to_pylist() == list(range(60))
        assert here.manifest(killed)["input"]["rows"] == 60
        assert server.stats()["distinct_bodies"] == 60
        assert server.stats()["requests"] <= 60 + 8, "what was in flight; the rest was answered by the other run"
        assert len(whole(here)) == 90


def test_worker_processes_read_the_same_rows(project: Make, server: SimulatorProcess) -> None:
    names = [{"id": f"r{i}", "text": f"about {i}"} for i in range(50)]
    here = project(server.base_url, rows=names[::2], incremental="id", model=["gpt-6-luna", "gpt-6-sol"])
    here.work()
    here.change(strategy={"name": "processes", "processes": 1})
    here.rows(names)
    sent(server)
    assert here.work().ok == 50
    assert here.table().column("_id").to_pylist() == [row["id"] for row in names[1::2] for _ in range(2)]
    assert (sent(server), len(whole(here))) == (50, 100)


def test_full_sends_every_row(project: Make, server: SimulatorProcess) -> None:
    here = project(server.base_url, rows=rows("a", "b"), incremental="id")
    here.work()
    sent(server)
    done = here.run("--full")
    assert sent(server) == 2
    assert "are new" not in done.stdout + done.stderr
    assert here.manifest()["overrides"] == {"incremental": "null"}
    done = here.run()
    assert "none of 2 rows is new: earlier runs have answered them all" in done.stderr
    assert (sent(server), here.table().num_rows) == (0, 0)
    shown = here.runner("show").stdout
    assert "  new       none of 2 rows is new: earlier runs have answered them all\n" in shown
    assert "\ninput       2 rows\n" in shown


def test_a_run_whose_list_of_rows_is_gone_cannot_go_on(project: Make) -> None:
    with simulator(quota_after=2) as broke:
        here = project(broke.base_url, rows=rows("a", "b", "c", "d"), incremental="id")
        here.run("-q", exits=4)
        (here.latest / NAME).unlink()
        error = here.runner("resume", exits=4).error
    assert "error: the list of the rows that this run takes in cannot be read: " in error
    assert "hint: restore it from a copy, or start afresh with `runner run`: what is answered is kept" in error


def test_nothing_hangs_on_the_index_of_answers(project: Make, server: SimulatorProcess) -> None:
    here = project(server.base_url, rows=rows("a", "b"), incremental="id")
    here.work()
    index = here.folder / "outputs" / "job" / INDEX
    here.rows(rows("a", "b", "c"))
    here.work()
    assert told(here) == [(0, "c", "about c")]
    assert not index.exists(), "there was nothing to look up in it"
    index.write_bytes(b"no SQLite " * 500)
    sent(server)
    here.rows([*rows("a", "b", "c"), {"id": "d", "text": "about b"}])
    here.work()
    assert (told(here), sent(server)) == ([(0, "d", "about b")], 0)
    index.unlink()
    here.work()
    assert here.table().num_rows == 0


def test_answers_are_looked_up_where_there_may_be_one(project: Make) -> None:
    here = project(NOWHERE, rows=rows("a", "b", "c"), incremental="id")
    plan, base = plan_of(here), here.folder / "outputs" / "job"
    a, b, _ = rows("a", "b", "c")

    def reusable(**overrides: str) -> bool:
        with Asked(plan_of(here, **overrides)) as asked:
            found = plan.survey(unfit=asked.unfit)
            return asked.new_rows(base, found.rows, lambda text: None).reusable

    assert not reusable()
    run(base, 1, [answered(plan, a)])
    assert not reusable()
    assert reusable(model="[gpt-6-luna, gpt-6-sol]")
    run(base, 2, [{**answered(plan, b), "_id": "x"}])
    assert reusable()
    assert not reusable(incremental="content")
    (run(base, 3) / "run.json").write_text("{")
    assert reusable(incremental="content"), "nobody knows what it holds"


def test_prune_deletes_nothing_that_makes_a_row_known(project: Make, server: SimulatorProcess) -> None:
    here = project(server.base_url, rows=rows("a", "b"), incremental="id")
    here.work()
    here.rows(rows("a", "b2", "c"))
    here.work()
    here.rows(rows("a", "b2", "c2"))
    here.work()
    here.work()
    base, later = here.folder / "outputs" / "job", 4_000_000_000_000_000
    needed = [fate.needed for fate in prune(base, KeepSpec(runs=1), later)]
    assert needed == ["holds the latest answer of 1 row"] * 3
    assert len(whole(here)) == 3
    sent(server)
    assert here.work().rows == 0


# Before a run ---------------------------------------------------------------------------------------------------------


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_counts_what_would_be_sent(project: Make, server: SimulatorProcess) -> None:
    many = [{"id": f"r{i}", "text": f"about {i}" + " and more" * (i // 1000 * 20)} for i in range(1003)]
    here = project(server.base_url, rows=many[:1000], incremental="id", parameters={"max_output_tokens": 10})
    here.prices()
    here.work()
    here.rows([many[1000], *many[:1000], *many[1001:]])
    before = files(here.folder)
    found = dry_run(here.job_file, {})
    assert (found.rows, found.all_rows, found.sample, found.sampled_all) == (3, 1003, 3, True)
    assert "\n  rows      3 new, of 1,003\n" in found.text()
    alone = here.folder / "alone.jsonl"
    alone.write_text("".join(json.dumps(row) + "\n" for row in many[1000:]))
    here.change(input={"path": "alone.jsonl"}, incremental=None)
    other = dry_run(here.job_file, {})
    assert (found.input_tokens, found.cost_usd, found.first_request) == (
        other.input_tokens, other.cost_usd, other.first_request,
    )  # fmt: skip
    assert other.all_rows is None
    here.change(input={"path": "rows.jsonl"}, incremental="id")
    here.rows(many[:1000])
    empty = dry_run(here.job_file, {})
    assert (empty.rows, empty.all_rows, empty.cost_usd) == (0, 1000, (0.0, 0.0))
    changed = {"rows.jsonl", "alone.jsonl", "job.yaml", "endpoints.yaml", "project", "configs"}
    after = files(here.folder)
    assert {path.name for path in after if before.get(path) != after[path]} <= changed


def test_auto_chooses_for_the_rows_that_are_new(project: Make, server: SimulatorProcess) -> None:
    here = project(server.base_url, rows=rows("a", "b"), incremental="id")
    here.prices()
    here.work()
    here.change(strategy="auto")
    here.rows(rows("a", "b", "c"))
    here.work()
    assert told(here) == [(0, "c", "about c")]
    assert here.manifest()["choice"]["way"] == "standard"


def test_explain_says_what_would_be_left_out(project: Make, server: SimulatorProcess) -> None:
    here = project(server.base_url, rows=rows("a", "b"), incremental="id")
    here.work()
    first = here.latest.name
    here.rows([*rows("a", "b2", "c"), {"id": "d", "text": "about a"}])
    [a], [b], [c], [d] = (explain(here.job_file, name, {}) for name in "abcd")
    assert a.text() == f"row a (rows.jsonl:1): would be left out: answered by run {first}"
    assert a.as_json()["left_out"] == first
    assert b.text().startswith(f"row b (rows.jsonl:2): would be sent. Since run {first}, ")
    assert c.text() == "row c (rows.jsonl:3): would be sent: no earlier run has this row"
    assert d.text().startswith(f"row d (rows.jsonl:4): would be reused from run {first}, part 0: answered ")
    [d] = explain(here.job_file, "d", {"incremental": "content"})
    assert d.text() == f"row d (rows.jsonl:4): would be left out: answered by run {first}"


# The job file ---------------------------------------------------------------------------------------------------------


def problem(project: Project, **job: Any) -> str:
    project.change(**job)
    with pytest.raises(SpecError) as caught:
        load_job(project.job_file)
    return str(caught.value)


def test_what_the_job_file_may_say(project: Make) -> None:
    here = project(NOWHERE, rows=1, incremental="id")
    assert (
        load_job(here.job_file).spec.incremental
        == load_job(here.job_file, overrides={"incremental": "{}"}).spec.incremental
    )
    text = problem(here, input={"id": None})
    assert text.startswith("`incremental` goes by the ids of the rows, and `input.id` is not set\n  --> ")
    assert text.endswith("hint: write `input: {id: COLUMN}`, or `incremental: content`")
    assert "`incremental` must be `id`, `content` or a mapping with `by`, got true" in problem(here, incremental=True)
    assert problem(here, incremental="rows").startswith('`incremental` must be `id` or `content`, got "rows"\n')
