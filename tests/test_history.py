"""How the runs of a job are listed, and by what words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from past import day_us, row, run

from runner.errors import SpecError
from runner.history import OUTCOMES, Past, in_order, is_one_of, is_success, since_us
from runner.listing import list_runs
from runner.lock import locked


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "job"


@pytest.mark.parametrize(
    ("labels", "status", "stopped_by", "expected"),
    [
        ("ab", "finished", None, "success"),
        ("", "finished", None, "success"),
        (["a", None], "finished", None, "partial"),
        ([None, None], "finished", None, "failed"),
        ("a", "stopped", "budget", "stopped(budget)"),
        ("a", "stopped", None, "stopped"),
        ("a", "interrupted", None, "cancelled"),
        ("a", "waiting", None, "waiting"),
        ("a", "running", None, "killed"),
    ],
)
def test_one_word_says_how_a_run_came_out(
    base: Path, labels: list[str | None], status: str, stopped_by: str | None, expected: str
) -> None:
    rows = [row(number, label) for number, label in enumerate(labels)]
    past = Past.load(run(base, 0, rows, status=status, stopped_by=stopped_by))
    assert past.outcome == expected
    assert past.manifest.status == status, "the record keeps its own words"
    assert past.took_s == 60


def test_a_run_may_be_a_success_of_its_job_although_some_rows_failed(base: Path) -> None:
    rows = [row(number, "a" if number else None) for number in range(20)]
    for day, (wanted, notify) in enumerate(
        [(True, None), (True, {"max_error_rate": 0.05}), (False, {"max_error_rate": 0})]
    ):
        past = Past.load(run(base, day, rows, spec={"notify": notify}))
        assert (past.outcome, is_success(past.manifest)) == ("partial", wanted)


def test_a_run_that_somebody_holds_is_running(base: Path) -> None:
    past = Past.load(run(base, 0, status="running"))
    with locked(base, "a test"):
        assert past.outcome == "running"
    assert past.outcome == "killed"


def test_stopped_stands_for_all_its_reasons() -> None:
    assert is_one_of("stopped(budget)", ["partial", "stopped"])
    assert is_one_of("stopped(budget)", ["stopped(budget)"])
    assert not is_one_of("stopped(budget)", ["stopped(quota)", "success"])
    assert not is_one_of("success", [])


def test_runs_are_in_the_order_in_which_they_began(base: Path) -> None:
    late, early = run(base, 3), run(base, 1)
    late.rename(base / "a-name-of-its-own")
    damaged = run(base, 2)
    (damaged / "run.json").write_text("{}")
    found, unreadable = in_order(base.iterdir())
    assert [each.name for each in found] == [early.name, "a-name-of-its-own"]
    assert list(unreadable) == [damaged]
    assert found[0].began_us == day_us(1)


def test_a_run_that_was_killed_before_it_began_to_work_is_dated_by_its_name(base: Path) -> None:
    folder = run(base, 1)
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**content, "sessions": []}))
    assert Past.load(folder).began_us == day_us(1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", day_us(10) - 90 * 60_000_000),
        ("12h", day_us(9.5)),
        ("7d", day_us(3)),
        ("1w", day_us(3)),
        ("1d12h", day_us(8.5)),
        ("2026-01-03T02:00", day_us(2)),
        ("2026-01-03T02:00Z", day_us(2)),
        ("2026-01-03T04:00+02:00", day_us(2)),
        ("2026-01-03", day_us(2) - 2 * 3_600_000_000),
    ],
)
def test_since_is_a_time_span_or_a_date(text: str, expected: int) -> None:
    assert since_us(text, day_us(10)) == expected


@pytest.mark.parametrize("text", ["", "7", "7y", "d", "yesterday", "2026-13-01", "1234567d"])
def test_what_since_does_not_understand(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        since_us(text, day_us(10))
    assert str(caught.value) == (
        f"--since takes a time span or a date, got `{text}`\nhint: for instance --since 7d or --since 2026-11-01"
    )


def test_the_list_shows_the_newest_last_and_what_was_asked_for(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(base, 0, [row(1), row(2)])
    run(base, 1, [row(1), row(2, None)])
    run(base, 2, [row(1)], status="stopped", stopped_by="budget")
    for part in base.glob("*/part-*"):
        part.unlink()  # finished runs are not counted again
    monkeypatch.chdir(base.parent.parent)
    assert (
        list_runs(None, None, as_json=False)
        == """\
RUN                           STATUS           BEGAN (UTC)       TIME       ROWS  OK  FAILED  COST     MODEL
outputs/job/20260101T020000Z  success          2026-01-01 02:00  1 min 0 s  2     2   0       $0.5000  m
outputs/job/20260102T020000Z  partial          2026-01-02 02:00  1 min 0 s  2     1   1       $0.5000  m
outputs/job/20260103T020000Z  stopped(budget)  2026-01-03 02:00  1 min 0 s  1     1   0       $0.5000  m"""
    )

    def names(since: str | None = None, *statuses: str) -> list[str]:
        text = list_runs("job", None, as_json=True, since=since, statuses=statuses, now_us=day_us(2.5))
        return [each["run"][-16:-8] for each in json.loads(text)]

    assert names() == ["20260101", "20260102", "20260103"]
    assert names("2d") == ["20260102", "20260103"]
    assert names(None, "stopped", "success") == ["20260101", "20260103"]
    assert names("2d", "success") == []
    assert list_runs(None, None, as_json=False, since="2027-01-01") == "no such runs"
    [first, *_] = json.loads(list_runs(None, None, as_json=True))
    assert first == {
        "run": "outputs/job/20260101T020000Z", "job": "job", "status": "finished", "outcome": "success",
        "rehearsal": False, "run_date": "2026-01-01", "began_at": "2026-01-01T02:00:00.000Z", "took_s": 60.0,
        "rows": 2, "ok": 2, "failed": 0, "cost_usd": 0.5, "model": "m",
    }  # fmt: skip


def test_a_status_that_there_is_not(base: Path) -> None:
    with pytest.raises(SpecError) as caught:
        list_runs(None, base.parent, as_json=False, statuses=["sucess"])
    assert str(caught.value) == (
        "--status takes a word of the list of runs, got `sucess`\nhint: did you mean `success`?"
    )
    for word in OUTCOMES:
        list_runs(None, base.parent, as_json=False, statuses=[word])
