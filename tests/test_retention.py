"""`runner prune`: which runs are deleted, and that none is which something needs."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from past import day_us, row, run
from project import Project
from pydantic import ValidationError

from runner.batches.ledger import FOLDER
from runner.errors import FatalError, LockedError, SpecError
from runner.latest import LatestAnswers
from runner.listing import list_runs
from runner.lock import locked
from runner.retention import GRAVE, fates, prune, prune_named
from runner.runs import runs_in
from runner.sections import KeepSpec

Make = Callable[..., Project]
NOW = day_us(100)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "job"


def nights(base: Path, count: int, **options: object) -> list[Path]:
    """Make a run for each day, all with the same row."""
    return [run(base, day, [row("a", str(day))], **options) for day in range(count)]  # type: ignore[arg-type]


def told(base: Path, now_us: int = NOW, **keep: float) -> dict[str, str | None]:
    """What becomes of the runs that are old, by the day in January that they began on."""
    return {fate.run.name[6:8]: fate.needed for fate in fates(base, KeepSpec.model_validate(keep), now_us)}


def dataset(base: Path) -> list[dict[str, object]]:
    with LatestAnswers(base) as latest:
        found: list[dict[str, object]] = pa.concat_tables([latest.schema.empty_table(), *latest.tables()]).to_pylist()
        return found


# Which runs -----------------------------------------------------------------------------------------------------------


def test_only_what_both_keys_let_go_is_old(base: Path) -> None:
    nights(base, 6)
    now = day_us(5.5)
    assert list(told(base, now, runs=2)) == ["01", "02", "03", "04"]
    assert list(told(base, now, days=3)) == ["01", "02", "03"]
    assert list(told(base, now, runs=4, days=3)) == ["01", "02"]
    assert list(told(base, now, runs=2, days=5)) == ["01"]
    assert list(told(base, now, runs=6)) == list(told(base, now, days=6)) == []


def test_what_is_needed_stays(base: Path) -> None:
    run(base, 0, [row("a", "old")])
    run(base, 1, [row("only here", "x"), row("a", "old")])
    run(base, 2, [row("a", "half")], status="stopped", stopped_by="budget")
    run(base, 3, [row("a", "open")], status="running")
    waiting = run(base, 4, [row("a", "open")])
    (waiting / FOLDER).mkdir()
    (waiting / FOLDER / "again-00001.jsonl").touch()
    run(base, 5, [row("n", "another id")], id_="number")
    run(base, 6, [row("a", "new")])
    run(base, 7, [row("a", "newest"), row("b", None)])
    assert told(base, runs=1) == {
        "01": None,
        "02": "holds the latest answer of 1 row",
        "03": "is not finished (stopped(budget)): `runner resume` goes on with it",
        "04": "is not finished (killed): `runner resume` goes on with it",
        "05": "has rows in batches: `runner resume` collects them",
        "06": "may hold answers that no newer run has: its rows are known by `number`, those of the newest run by `id`",
        "07": "is the newest success",
    }
    assert told(base, days=1)["08"] == "is the newest"


def test_what_a_daily_budget_counts_stays(base: Path) -> None:
    nights(base, 4)
    assert told(base, day_us(2.5), runs=1) == {
        "01": None,
        "02": None,
        "03": "worked within a day: `budget.daily_usd` counts what it cost",
    }


def test_rehearsals_are_counted_for_themselves_and_hold_no_answer(base: Path) -> None:
    rehearsals = [run(base, day, [row("only here", str(day))], rehearsal=True) for day in range(3)]
    [real, _] = nights(base, 2)
    found = fates(base, KeepSpec(runs=1), NOW)
    assert {fate.run.folder: fate.needed for fate in found} == dict.fromkeys([real, *rehearsals[:2]])
    assert [fate.run.began_us for fate in found] == sorted(fate.run.began_us for fate in found)


def test_only_rehearsals(base: Path) -> None:
    for day in range(3):
        run(base, day, [row("a", str(day))], rehearsal=True)
    (base / "latest").symlink_to(runs_in(base)[1].name)
    assert told(base, runs=1) == {"01": None, "02": "is the newest"}


@pytest.mark.parametrize("seed", range(4))
def test_the_dataset_is_the_same_after_any_pruning(base: Path, seed: int) -> None:
    draws = random.Random(seed)
    for day in range(15):
        rows = [row(name, draws.choice([f"{day}", f"{day}", None])) for name in draws.sample(range(12), 6)]
        run(base, day, rows, status=draws.choice(["finished", "finished", "finished", "interrupted"]))
    before = dataset(base)
    found = prune(base, KeepSpec(runs=draws.randrange(1, 6)), NOW)
    assert dataset(base) == before
    assert {fate.run.folder.exists() for fate in found if fate.needed is None} == {False}
    assert {fate.run.folder.exists() for fate in found if fate.needed} <= {True}


# Deleting -------------------------------------------------------------------------------------------------------------


def test_a_dry_run_deletes_nothing(base: Path) -> None:
    folders = nights(base, 3)
    assert [fate.run.folder for fate in prune(base, KeepSpec(runs=1), NOW, dry_run=True)] == folders[:2]
    assert runs_in(base) == folders
    prune(base, KeepSpec(runs=1), NOW)
    assert runs_in(base) == folders[2:]
    assert not (base / GRAVE).exists()


def test_a_prune_that_was_killed_leaves_no_half_run(base: Path) -> None:
    folders = nights(base, 3)
    (base / GRAVE).mkdir()
    folders[0].rename(base / GRAVE / folders[0].name)
    (base / GRAVE / folders[0].name / "part-00000.parquet").unlink()
    assert runs_in(base) == folders[1:]
    assert folders[0].name not in list_runs(None, base.parent, as_json=False)
    assert dataset(base)[0]["label"] == "2"
    prune(base, KeepSpec(runs=5), NOW)
    assert not (base / GRAVE).exists()


def test_nothing_is_deleted_while_a_run_is_going_on(base: Path) -> None:
    folders = nights(base, 3)
    with locked(base, "runner run job.yaml"), pytest.raises(LockedError, match="another run of this job is going on"):
        prune(base, KeepSpec(runs=1), NOW)
    assert runs_in(base) == folders


def test_what_cannot_be_deleted_is_one_message(base: Path) -> None:
    folders = nights(base, 2)
    (base / GRAVE / folders[0].name / "in the way").mkdir(parents=True)
    shutil.move(base / GRAVE, base / "moved")
    (base / GRAVE).write_text("a file in its place")
    with pytest.raises(FatalError) as caught:
        prune(base, KeepSpec(runs=1), NOW)
    assert caught.value.message.startswith("a run cannot be deleted: ")
    assert folders[0] in runs_in(base)


# Where `keep` comes from ----------------------------------------------------------------------------------------------


def test_the_command(project: Make) -> None:
    here = project(rows=1)
    outputs = here.folder / "outputs"
    old, new = nights(outputs / "job", 2, spec={"keep": {"runs": 1}})
    nights(outputs / "without", 2)
    done = here.runner("prune", "--dry-run")
    size = sum(path.stat().st_size for path in old.iterdir()) / 1e6
    assert done.stdout == f"job: 1 run would be deleted, {size:.1f} MB\n  would be deleted  {old.name}\n"
    assert "the job does not say which runs to keep" in here.runner("prune", "without", exits=2).error
    here.change(keep={"runs": 2})
    assert here.runner("prune", here.job_file).stdout == "job: 0 runs deleted, 0.0 MB\n"
    here.change(keep={"runs": 1})
    assert json.loads(here.runner("prune", here.job_file, "--json").stdout)["jobs"]["job"][0]["deleted"] is True
    assert runs_in(outputs / "job") == [new]


def test_of_several_jobs_one_that_runs_is_left_alone(base: Path) -> None:
    for name in ("one", "two"):
        nights(base.with_name(name), 2, spec={"keep": {"runs": 1, "days": None}})
    with locked(base.with_name("one"), "runner run one.yaml"):
        done = prune_named(None, base.parent)
    assert list(done.fates) == ["two"]
    assert [type(error) for error in done.refused] == [LockedError]


def test_somebody_has_to_say_what_to_keep(base: Path) -> None:
    nights(base, 2)
    for job, message in ((None, "no job says which runs to keep"), ("job", "the job does not say which runs to keep")):
        with pytest.raises(SpecError) as caught:
            prune_named(job, base.parent)
        assert caught.value.message == message
        assert caught.value.hint == "for instance `keep: {runs: 90, days: 365}`"


@pytest.mark.parametrize("keep", [{}, {"runs": 0}, {"days": 0}, {"runs": None}, {"runs": 1, "weeks": 1}])
def test_what_keep_cannot_be(keep: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        KeepSpec.model_validate(keep)
