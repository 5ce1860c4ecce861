"""`runner diff`: what differs between two runs, and whose answer changed."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from past import LABEL, TEXT, row, run

from runner.answer_stats import averaged, counted
from runner.errors import SpecError
from runner.manifest import Manifest
from runner.row_diff import RowDiff, compare_rows
from runner.run_diff import compare_runs, drift, last_two


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "job"


def rows_of(old: Path, new: Path, rows: int = 20) -> RowDiff:
    return compare_rows((old, Manifest.load(old)), (new, Manifest.load(new)), rows)


def changed(found: RowDiff) -> list[tuple[Any, ...]]:
    return [(each.id, *each.old.values(), *each.new.values()) for each in found.rows]


# The rows -------------------------------------------------------------------------------------------------------------


def test_rows_are_compared_by_their_id(base: Path) -> None:
    old = run(base, 0, [row("gone"), row("same"), row("b", "x"), row("a", "x"), row("mended", None), row("broke")])
    new = run(base, 1, [row("broke", None), row("b", "y"), row("same"), row("new"), row("a", "y"), row("mended", "z")])
    found = rows_of(old, new)
    assert changed(found) == [
        ("broke", "a", "server_error"), ("b", "x", "y"), ("a", "x", "y"), ("mended", "server_error", "z"),
    ]  # fmt: skip
    assert [each.index for each in found.rows] == [0, 1, 4, 5]
    assert (found.added, found.added_ids, found.gone, found.gone_ids) == (1, ["new"], 1, ["gone"])
    assert (found.both_ok, found.changed, found.mended, found.broke) == (3, 2, 1, 1)
    for rows in (0, 1, 2):
        few = rows_of(old, new, rows)
        assert (few.changed, changed(few)) == (2, changed(found)[:rows]), "all are counted, whatever is shown"


def test_rows_that_share_an_id_are_taken_in_their_order(base: Path) -> None:
    old = run(base, 0, [row("a", "1"), row("a", "2"), row("a", "3")])
    new = run(base, 1, [row("a", "1"), row("a", "two")])
    found = rows_of(old, new)
    assert (changed(found), found.gone, found.added) == ([("a", "2", "two")], 1, 0)


def test_no_row_is_called_gone_that_a_run_over_what_is_new_had_no_need_of(base: Path) -> None:
    old, new = run(base, 0, [row("a"), row("b")]), run(base, 1, [row("c")])
    manifest = Manifest.load(new)
    manifest.input["all_rows"] = 3
    manifest.save(new)
    assert "only in the later run: c\n            2 rows only in the earlier one: a, b" in compare_runs(old, new).text()


def test_of_an_unfinished_run_what_there_is_so_far_is_compared(base: Path) -> None:
    old = run(base, 0, [row("a", "x"), row("b", "x")])
    new = run(base, 1, [row("b", "y")], kind="journal", status="running")
    assert changed(rows_of(old, new)) == [("b", "x", "y")]


@pytest.mark.parametrize(
    ("old", "new", "expected", "pairs"),
    [
        (["m"], ["n"], [("a", "m", "n")], {"n": "m"}),
        (["m", "n"], ["n", "m"], [], {"n": "n", "m": "m"}),
        (["m", "n"], ["n", "k"], [], {"n": "n"}),
        (["m", "n"], ["m"], [], {"m": "m"}),
    ],
)
def test_models_are_compared_with_themselves_unless_there_is_one_each(
    base: Path, old: list[str], new: list[str], expected: list[Any], pairs: dict[str, str]
) -> None:
    folders = [
        run(base, day, [row("a", model, _model=model, _index=0) for model in models], models=models)
        for day, models in enumerate((old, new))
    ]
    found = rows_of(folders[0], folders[1])
    assert changed(found) == expected
    assert found.models == pairs
    assert (found.added, found.gone, found.both_ok) == (0, 0, len(pairs))


def test_a_number_of_yes_or_no_changes_where_it_crosses_the_middle(base: Path) -> None:
    number = pa.float64()
    columns = [
        averaged(pa.field("applied", number), "applied"),
        counted(pa.field("topic", pa.string()), "topic"),
        pa.field("topic_confidence", number),
        averaged(pa.field("novel", number), "novel"),
        counted(pa.field("novel_level", pa.string()), "novel"),
    ]

    def answer(name: str, applied: float, level: str = "low") -> dict[str, Any]:
        return row(name, applied=applied, topic="x", topic_confidence=applied, novel=applied, novel_level=level)

    old = run(base, 0, [answer("a", 0.1), answer("b", 0.4), answer("c", 0.9)], answers=columns)
    new = run(base, 1, [answer("a", 0.3), answer("b", 0.5), answer("c", 0.8, "high")], answers=columns)
    found = rows_of(old, new)
    assert found.columns == ("applied", "topic", "novel_level")
    assert changed(found) == [("b", 0.4, "x", "low", 0.5, "x", "low"), ("c", 0.9, "x", "low", 0.8, "x", "high")]


def test_long_answers_are_cut_off_and_differ_all_the_same(base: Path) -> None:
    long = "x" * 300
    old = run(base, 0, [row("a", f"{long}1"), row("b", long)])
    new = run(base, 1, [row("a", f"{long}2"), row("b", long)])
    [(_, then, now)] = changed(rows_of(old, new))
    assert then.startswith("x" * 200 + "… (301 characters, digest ")
    assert then != now


def test_runs_without_a_column_in_common(base: Path) -> None:
    old = run(base, 0, [row("a")])
    new = run(base, 1, [row("a", topic="b")], answers=[pa.field("topic", pa.string())])
    found = compare_runs(old, new)
    assert (found.rows.columns, found.rows.changed, found.rows.both_ok) == ((), 0, 1)
    assert "  changed   the runs have no column of the answer in common" in found.text()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_runs_hold_the_counts_are_what_dictionaries_say(base: Path, seed: int) -> None:
    draws = random.Random(seed)
    runs, sides = [], []
    for day in range(2):
        rows = [row(draws.randrange(25), draws.choice(["x", "y", None])) for _ in range(40)]
        runs.append(run(base, day, rows))
        known: dict[tuple[str, int], str | None] = {}
        met: defaultdict[str, int] = defaultdict(int)
        for each in rows:
            known[each["_id"], met[each["_id"]]] = each.get("label")
            met[each["_id"]] += 1
        sides.append(known)
    old, new = sides
    both = [(old[key], new[key]) for key in old.keys() & new.keys()]
    found = rows_of(runs[0], runs[1])
    assert (found.added, found.gone) == (len(new.keys() - old.keys()), len(old.keys() - new.keys()))
    assert found.both_ok == sum(None not in pair for pair in both)
    assert found.changed == sum(None not in pair and pair[0] != pair[1] for pair in both)
    assert found.mended == sum(pair[0] is None and pair[1] is not None for pair in both)
    assert found.broke == sum(pair[1] is None and pair[0] is not None for pair in both)


# The whole ------------------------------------------------------------------------------------------------------------


def test_all_that_differs_is_said(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = {"path": "rows.jsonl", "size": 1, "mtime_ns": 1, "sha256": "x"}
    tokens = {"input": 1000, "cached": 0, "output": 20, "reasoning": 0}
    old = run(
        base, 0, [row("a", "physics"), row("b", "physics"), row("c", None), row("d", "other")],
        files=[stamp, {**stamp, "path": "old.csv"}], summary={"answers": {"physics": 2, "other": 1}, "tokens": tokens},
        spec={"prompt": {"system": "Be brief.", "user": "Sort {{ text }}\nNow"}, "limits": {"concurrency": 8}},
    )  # fmt: skip
    new = run(
        base, 1, [row("a", "physics"), row("b", "maths"), row("c", "other"), row("e", "other")], models=["n"],
        files=[{**stamp, "sha256": "y"}], summary={"answers": {"other": 2, "physics": 1, "maths": 1}, "cost_usd": None},
        spec={"prompt": {"system": "Be brief.", "user": "Sort {{ title }}\nNow"}, "limits": {"concurrency": None}},
    )  # fmt: skip
    monkeypatch.chdir(base.parent.parent)
    found = compare_runs(old, new)
    assert (
        found.text()
        == """\
job: outputs/job/20260101T020000Z -> outputs/job/20260102T020000Z

  job       `model`: "m" -> "n"
            `limits.concurrency`: 8 -> nothing
            the prompt:
              @@ -1,3 +1,3 @@
               system: Be brief.
              -user: Sort {{ text }}
              +user: Sort {{ title }}
               Now
  input     rows.jsonl changed, old.csv gone
            1 row new: e
            1 row gone: d
  rows      4 · ok 3 -> 4 · failed 1 -> 0
  answers   label: drift 41.7%
              other    1 (33.3%) -> 2 (50.0%)  +16.7
              physics  2 (66.7%) -> 1 (25.0%)  -41.7
              maths    0 (0.0%) -> 1 (25.0%)  +25.0
  tokens    1,000 in -> 10 in
            20 out -> 2 out
  cost      $0.5000 -> unknown
  changed   1 of 2 answers that both have (50.0%)
            1 failed then and is answered now
              b: "physics" -> "maths"
              c: failed (server_error) -> "other\""""
    )
    told = json.loads(json.dumps(found.as_json()))
    assert told["job"]["limits.concurrency"] == {"old": 8, "new": None}
    assert told["files"] == {"rows.jsonl": "changed", "old.csv": "gone"}
    assert told["numbers"]["failed"] == {"old": 1, "new": 0}
    assert told["answers"][""]["counts"]["maths"] == [0, 1]
    assert told["rows"]["rows"][0] == {
        "index": 1, "id": "b", "model": "n", "old": {"label": "physics"}, "new": {"label": "maths"},
    }  # fmt: skip


def test_two_runs_that_are_the_same(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [run(base, day, [row("a")]) for day in range(2)]
    monkeypatch.chdir(base.parent.parent)
    assert compare_runs(both[0], both[1]).text().split("\n")[2:] == [
        "  job       the same", "  input     the same files", "  rows      1 · ok 1",
        "  tokens    10 in", "            2 out", "  cost      $0.5000",
        "  changed   0 of 1 answers that both have (0.0%)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"a": (1, 1)}, 0.0),
        ({"a": (10, 0), "b": (0, 3)}, 1.0),
        ({"a": (1, 30), "b": (1, 10)}, 0.25),
        ({"a": (0, 1)}, None),
        ({}, None),
    ],
)
def test_drift_is_the_share_that_would_have_to_be_answered_differently(
    counts: dict[str, tuple[int, int]], expected: float | None
) -> None:
    assert drift(counts) == expected


def test_a_job_means_its_last_two_finished_runs(base: Path) -> None:
    def two() -> tuple[str, ...]:
        return tuple(folder.name[6:8] for folder in last_two("job", base.parent))

    run(base, 0, rehearsal=True)
    with pytest.raises(SpecError) as caught:
        last_two("job", base.parent)
    assert str(caught.value) == (
        f"two finished runs are needed, and `job` has 1\n  --> {base}\n"
        "hint: name the runs to look at unfinished ones: `runner diff RUN1 RUN2`"
    )
    run(base, 1, rehearsal=True)
    assert two() == ("01", "02")
    for day in (2, 3, 4):
        run(base, day, inputs=[TEXT], answers=[LABEL])
    run(base, 5, status="stopped")
    run(base, 6, rehearsal=True)
    assert two() == ("04", "05")
