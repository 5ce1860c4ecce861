"""`run --date` and `backfill`: a job has one run for a date, and ranges of dates are made, mended and continued."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from threading import Thread
from typing import Any
from unittest.mock import patch

import pytest
from past import row, run
from project import Project, simulator, until

from runner import freshness
from runner.backfill import NOT_BEGUN, Backfill, Done, Ended, Mode, Order, days_of, doing_for, steps_for
from runner.clock import SystemClock
from runner.dated import newest_for, nothing_to_do, pasts_in, run_for_date
from runner.errors import Exit, LockedError, SpecError
from runner.execution import Outcome
from runner.history import Past
from runner.load import Job, load_job
from runner.lock import locked
from runner.notify.watch import Watch
from runner.problems import SpecErrors
from runner.progress import Console
from runner.runs import find, point_latest
from runner.shared_limits import SharedLimits
from runner.simulator import SimulatorProcess

Make = Callable[..., Project]
QUIET = Console(quiet=True)


def january(day: int) -> date:
    return date(2026, 1, day)


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatorProcess]:
    with simulator(api_keys=["sk-test-0123456789"]) as running:
        yield running


class Days:
    """A job whose input has a file for each date, of as many rows as the day's number."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.base = project.folder / "outputs" / "job"
        (project.folder / "data").mkdir()

    def arrive(self, *days: int) -> None:
        for day in days:
            rows = [{"id": str(number), "text": f"{day} {number}"} for number in range(day)]
            text = "".join(json.dumps(each) + "\n" for each in rows)
            (self.project.folder / "data" / f"2026-01-{day:02}.jsonl").write_text(text)

    def job(self, day: int = 1, **settings: str) -> Job:
        return load_job(self.project.job_file, overrides=settings, run_date=january(day))

    def run(self, day: int, *, force: bool = False, **settings: str) -> Outcome:
        with patch.dict(os.environ, self.project.environ):
            return run_for_date(self.job(day, **settings), force=force, console=QUIET)

    def order(self, first: int, last: int, mode: Mode = "missing", **options: Any) -> Order:
        return Order(self.project.job_file, january(first), january(last), mode, **options)

    def fill(self, first: int, last: int, mode: Mode = "missing", **options: Any) -> Ended:
        with patch.dict(os.environ, self.project.environ):
            return Backfill(self.order(first, last, mode, **options)).run(QUIET, lambda one: None)

    def runs(self) -> dict[str, list[str]]:
        """The dates that there are runs for, with how those came out."""
        found: dict[str, list[str]] = {}
        for past in sorted(pasts_in(self.base), key=lambda past: past.turn):
            found.setdefault(past.run_date, []).append(past.outcome)
        return found


@pytest.fixture
def days(project: Make, server: SimulatorProcess) -> Days:
    job = {"input": {"path": "data/{{ run_date }}.jsonl"}, "output": {"labels": ["a", "b"]}}
    made = project(server.base_url, rows=0, **job)
    return Days(made)


def said(done: Sequence[Done]) -> list[tuple[int, str, str]]:
    return [(one.day.day, one.doing.value, one.outcome) for one in done]


# The run for a date ---------------------------------------------------------------------------------------------------


def test_the_same_job_and_date_is_the_same_run(days: Days) -> None:
    days.arrive(3)
    first = days.run(3)
    assert (first.manifest.status, first.idle, first.exit_code) == ("finished", False, Exit.OK)
    again = days.run(3)
    assert (again.idle, again.folder, again.exit_code) == (True, first.folder, Exit.OK)
    assert nothing_to_do(days.job(3), again) == (
        f"nothing to do: the run for 2026-01-03 is finished ({first.folder.name}); `--force` makes another one"
    )
    assert nothing_to_do(days.job(3, model="gpt-6-sol"), again).splitlines()[1] == (
        "note: the job has changed since: `model`"
    )
    forced = days.run(3, force=True)
    assert forced.folder != first.folder
    assert days.runs() == {"2026-01-03": ["success", "success"]}
    assert days.run(3).folder == forced.folder, "of several the newest"


def test_an_unfinished_run_goes_on(days: Days) -> None:
    days.arrive(3)
    folder = days.run(3).folder
    record = folder / "run.json"
    record.write_text(record.read_text().replace('"status": "finished"', '"status": "interrupted"'))
    again = days.run(3)
    assert (again.folder, again.idle, again.manifest.status) == (folder, False, "finished")
    assert len(again.manifest.sessions) == 2


def test_rehearsals_and_trials_are_not_the_run_for_a_date(days: Days, tmp_path: Path) -> None:
    base = tmp_path / "job"
    run(base, 9, [row(1)], run_date="2026-01-03", rehearsal=True)
    run(base, 8, [row(1)], run_date="2026-01-03", spec={"input": {"id": "id", "limit": 10}})
    assert newest_for(days.job(3), pasts_in(base)) is None
    assert newest_for(days.job(3, **{"input.limit": "10"}), pasts_in(base)) is not None
    assert newest_for(days.job(3, endpoint="simulator"), pasts_in(base)) is not None
    run(base, 2, [row(1)])  # a plain run, of the day on which it was made
    assert newest_for(days.job(3), pasts_in(base)) is not None


def test_it_is_looked_for_under_the_lock(days: Days) -> None:
    days.arrive(3)
    days.base.mkdir(parents=True)
    with locked(days.base, "a test"), pytest.raises(LockedError):
        days.run(3)


# The command line -----------------------------------------------------------------------------------------------------


def test_the_command_line(days: Days) -> None:
    days.arrive(3, 4)
    runner, job = days.project.runner, days.project.job_file
    assert "finished" in runner("run", job, "--date", "2026-01-03").stdout
    assert runner("run", job, "--date", "2026-01-03").stdout.startswith("nothing to do: the run for 2026-01-03 is")
    assert runner("run", job, "--force", exits=2).error == (
        "error: --force goes with --date\nhint: without --date every run is a new one\n"
    )
    ended = runner("backfill", job, "--from", "2026-01-03", "--to", "2026-01-05", "--quiet", exits=3)
    assert (ended.stdout, ended.stderr) == ("", "")
    listed = runner("backfill", job, "--from", "2026-01-03", "--to", "2026-01-05", "--dry-run").stdout.splitlines()
    assert [line.split()[:2] for line in listed] == [
        ["2026-01-03", "nothing"], ["2026-01-04", "nothing"], ["2026-01-05", "start"],
    ]  # fmt: skip
    assert "would fail: " in listed[2]


def test_ctrl_c_stops_all_and_the_same_command_goes_on(project: Make) -> None:
    with simulator(latency_s=0.2) as slow:
        made = project(slow.base_url, rows=0, input={"path": "data/{{ run_date }}.jsonl"}, limits={"concurrency": 1})
        days = Days(made)
        days.arrive(28, 29, 30)
        wanted = ("backfill", made.job_file, "--from", "2026-01-28", "--to", "2026-01-30", "--max-active", "2")
        process = made.start(*wanted)
        until(lambda: len(list(days.base.glob("2*/journal-*.jsonl"))) == 2)
        process.send_signal(signal.SIGINT)
        done = Project.end(process, 130)
        assert done.stderr == "stopping: waiting for the answers that are on their way (again to stop at once)\n"
        assert sorted(line.split()[:2] for line in done.stdout.splitlines()[:2]) == [
            ["2026-01-28", "cancelled"], ["2026-01-29", "cancelled"],
        ]  # fmt: skip
        assert done.stdout.splitlines()[2].startswith("3 dates: 2 cancelled, 1 not begun · ")
        made.change(limits={"concurrency": 30})
        assert "3 dates: 3 success" in made.runner(*wanted).stdout
        seen = slow.stats()["requests"]
    assert days.runs() == {f"2026-01-{day}": ["success"] for day in (28, 29, 30)}
    assert seen == 28 + 29 + 30, "nothing was sent twice"


# What is done for a date ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "missing", "failed", "every"),
    [
        (None, "start", "nothing", "start"),
        ("success", "nothing", "nothing", "nothing"),
        ("partial", "nothing", "retry", "retry"),
        ("failed", "nothing", "retry", "retry"),
        ("cancelled", "resume", "resume", "resume"),
        ("stopped(budget)", "resume", "resume", "resume"),
        ("killed", "resume", "resume", "resume"),
        ("running", "resume", "resume", "resume"),  # we hold the lock, so nobody is at work on it
        ("waiting", "resume", "resume", "resume"),
    ],
)
def test_what_is_done_for_a_date(outcome: str | None, missing: str, failed: str, every: str) -> None:
    assert [doing_for(outcome, mode) for mode in ("missing", "failed", "all")] == [missing, failed, every]
    assert doing_for(outcome, "all", force=True) == "start"
    if outcome is None:
        assert doing_for(outcome, "failed", could_not_begin=True) == "start"


def test_the_newest_run_for_a_date_counts(days: Days) -> None:
    run(days.base, 9, [row(1)], run_date="2026-01-03", status="interrupted")
    run(days.base, 10, [row(1)], run_date="2026-01-03")
    run(days.base, 11, [row(1), row(2, None)], run_date="2026-01-04")
    steps = steps_for(days.job(), [january(3), january(4), january(5)], days.base, "failed")
    assert [step.text() for step in steps] == [
        "2026-01-03  nothing  20260111T020000Z (success)",
        "2026-01-04  retry    20260112T020000Z (partial)",
        "2026-01-05  nothing",
    ]


def test_a_schedule_says_which_dates(days: Days) -> None:
    assert len(days_of(days.job(), january(1), january(31))) == 31
    days.project.change(schedule={"cron": "30 1 * * 1-5", "timezone": "Asia/Tokyo"})
    assert [day.day for day in days_of(days.job(), january(1), january(7))] == [1, 2, 5, 6, 7]
    with pytest.raises(SpecErrors) as caught:
        Backfill(days.order(3, 4))
    assert caught.value.message == "the schedule has no moment from 2026-01-03 to 2026-01-04"
    days.project.change(schedule={"cron": "*/10 * * * *", "timezone": "Europe/Berlin"})
    assert len(days_of(days.job(), date(2025, 3, 25), date(2025, 4, 2))) == 9, "also over a change of the clock"


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"first": 5, "last": 4}, "--from 2026-01-05 is after --to 2026-01-04"),
        ({"first": 4, "last": 5, "force": True}, "--force goes with --all"),
        ({"first": 4, "last": 5, "max_active": 2}, "`budget.daily_usd` is kept by one run at a time"),
    ],
)
def test_what_cannot_be_meant_is_one_message(days: Days, order: dict[str, Any], message: str) -> None:
    days.project.prices()
    days.project.change(budget={"daily_usd": 1.0}, parameters={"max_output_tokens": 5})
    with pytest.raises(SpecError) as caught:
        Backfill(days.order(**order))
    assert caught.value.message == message
    assert not days.base.exists()


# Filling in -----------------------------------------------------------------------------------------------------------


def test_dates_are_made_and_a_missing_file_fails_its_date_alone(days: Days) -> None:
    days.arrive(3, 5)
    lines: list[str] = []
    with patch.dict(os.environ, days.project.environ):
        ended = Backfill(days.order(3, 5)).run(QUIET, lambda one: lines.append(one.text()))
    assert said(ended.done) == [(3, "start", "success"), (4, "start", "failed"), (5, "start", "success")]
    assert lines[0].startswith("2026-01-03  success    3 rows  cost unknown  ")
    assert lines[1] == f"2026-01-04  failed     {ended.done[1].error}"
    assert "2026-01-04.jsonl" in str(ended.done[1].error)
    assert ended.exit_code == Exit.SOME_FAILED
    assert ended.text().splitlines()[0].startswith("3 dates: 2 success, 1 failed · 8 rows · cost unknown · ")
    assert ended.text().splitlines()[1].endswith("--from 2026-01-03 --to 2026-01-05 --failed tries again what failed")
    assert json.loads((days.base / NOT_BEGUN).read_text()) == {"2026-01-04": ended.done[1].error}
    days.arrive(4)
    again = days.fill(3, 5, "failed")
    assert said(again.done) == [(4, "start", "success")]
    assert again.text().startswith("3 dates: 1 success, 2 success before · 4 rows · ")
    assert again.exit_code == Exit.OK
    assert json.loads((days.base / NOT_BEGUN).read_text()) == {}
    idle = days.fill(3, 5)
    assert (idle.done, idle.exit_code, idle.text()) == ([], Exit.OK, "3 dates: 3 success before")


def test_finished_runs_are_left_alone_unless_forced(days: Days) -> None:
    days.arrive(3, 4)
    days.fill(3, 4)
    days.project.change(prompt={"user": "Anew: {{ text }}"})
    left = days.fill(3, 4, "all")
    assert (left.done, left.stale) == ([], 2)
    assert left.text().splitlines()[1] == (
        "note: the job has changed since 2 runs that were left alone: `--all --force` makes new ones"
    )
    assert said(days.fill(3, 4, "all", force=True).done) == [(3, "start", "success"), (4, "start", "success")]
    assert days.runs() == {"2026-01-03": ["success", "success"], "2026-01-04": ["success", "success"]}


def test_failed_rows_are_tried_again_and_unfinished_runs_go_on(days: Days) -> None:
    days.arrive(3, 4)
    days.project.environ["TEST_KEY"] = "sk-test-wrong"
    stopped = days.fill(3, 4)
    assert said(stopped.done) == [(3, "start", "stopped(bad_key)")], "the next date would end alike"
    assert stopped.exit_code == Exit.STOPPED
    assert stopped.text().splitlines()[0].startswith("2 dates: 1 stopped(bad_key), 1 not begun · ")
    assert stopped.text().splitlines()[1].endswith("--missing goes on")
    days.project.environ["TEST_KEY"] = "sk-test-0123456789"
    assert said(days.fill(3, 4).done) == [(3, "resume", "success"), (4, "start", "success")]


def test_several_at_once_are_as_one_after_the_other(days: Days) -> None:
    days.arrive(*range(3, 9))
    days.project.change(reuse=True)
    ended = days.fill(3, 8, max_active=3)
    assert sorted(said(ended.done)) == [(day, "start", "success") for day in range(3, 9)]
    assert days.runs() == {f"2026-01-0{day}": ["success"] for day in range(3, 9)}
    assert (days.base / "latest").resolve() == find("job", days.base.parent)
    assert Past.load(find("job", days.base.parent)).run_date == "2026-01-08"
    assert not list(days.base.glob(".latest.tmp"))
    assert sum(past.manifest.summary["ok"] for past in pasts_in(days.base)) == sum(range(3, 9))


def test_runs_in_threads_share_the_limits_of_an_endpoint(tmp_path: Path) -> None:
    one, other = SharedLimits(tmp_path / "limits"), SharedLimits(tmp_path / "limits")

    def book(limits: SharedLimits) -> None:
        for _ in range(2_000):
            limits.book(0, 1, 10, 1.0)

    threads = [Thread(target=book, args=(limits,)) for limits in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one.missing_s(0, 0, 0, 1.0) == pytest.approx(4_000, abs=30), "none was lost; in a second one leaks out"


def test_a_run_that_is_going_on_keeps_a_backfill_out(days: Days) -> None:
    days.base.mkdir(parents=True)
    with locked(days.base, "a test"), pytest.raises(LockedError):
        days.fill(3, 4)


# What an old date says of a job ---------------------------------------------------------------------------------------


def test_an_old_date_does_not_become_latest(tmp_path: Path) -> None:
    base = tmp_path / "job"
    nightly, old = run(base, 10, [row(1)]), run(base, 12, [row(1)], run_date="2026-01-03")
    for folder in (nightly, old):
        point_latest(folder)
    assert (base / "latest").resolve() == nightly
    assert find("job", tmp_path) == nightly
    assert find(None, tmp_path) == old, "without a job it is what was made last"
    newer = run(base, 13, [row(1)])
    point_latest(newer)
    assert (base / "latest").resolve() == newer


@pytest.mark.parametrize(("made_for", "as_of"), [("2026-01-13", 12), ("2026-01-12", 12), ("2026-01-03", 3.9167)])
def test_an_old_date_made_today_is_no_fresh_success(tmp_path: Path, made_for: str, as_of: float) -> None:
    """The run begins on January 13 at 02:00 (UTC); what was made for the day before still counts as of then."""
    found = freshness.last_success([run(tmp_path, 12, [row(1)], run_date=made_for)])
    assert found is not None
    began = int(1e6) * 86_400 * 20_454 + int(1e6) * 7_200  # January 1 at 02:00
    assert (found.at_us - began) / 86_400e6 == pytest.approx(as_of, abs=1e-4)


def test_nobody_is_told_of_an_old_date(days: Days) -> None:
    days.project.change(notify={"to": [{"url": "${ALERT_URL}", "on": ["failure"]}]})
    warned: list[str] = []

    run(days.base, 10, [row(1)])
    old = Watch(days.job(3), days.base, SystemClock(), {}, warned.append)
    old.begin()
    old.failed(SpecError("no file"))
    assert warned == []
    Watch(days.job(20), days.base, SystemClock(), {}, warned.append).begin()
    assert warned == ["notify.to[0] will not be told: the environment variable ALERT_URL is not set"]
