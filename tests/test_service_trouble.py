"""What the service makes of clocks that jump, files that are in the way, and people who do two things at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
from hooks import hooks
from nights import InProcess, Nights
from project import Project, simulator

from runner.app import start
from runner.errors import FatalError, LockedError, SpecError
from runner.load import load_job
from runner.lock import locked
from runner.manifest import Manifest, Origin
from runner.progress import Console
from runner.service.book import Book, Task
from runner.service.own_turn import run_scheduled
from runner.service.processes import Process
from runner.simulator import SimulatorProcess

NIGHT = {"cron": "0 2 * * *", "timezone": "UTC"}
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatorProcess]:
    with simulator() as running:
        yield running


@pytest.fixture
def nights(project: Callable[..., Project], server: SimulatorProcess) -> Nights:
    return Nights(project(server.base_url, rows=4), "2026-03-01T12:00+00:00")


def runs_of(nights: Nights, job: str) -> list[Manifest]:
    return [Manifest.load(path.parent) for path in sorted((nights.outputs / job).glob("2*/run.json"))]


# The queue ------------------------------------------------------------------------------------------------------------


def test_an_empty_queue_in_place_of_an_old_one_gives_no_number_twice(nights: Nights) -> None:
    """A task's run is found by its number: given again, the new task would have been done before it began."""
    file = nights.job("a")
    nights.submit(file)
    nights.work()
    nights.book.path.unlink()
    (nights.book.path.parent / "task-00007").mkdir()
    (nights.book.path.parent / "task-notes").mkdir()
    nights.start()
    assert nights.submit(file).id == 8
    nights.work()
    assert [run.task for run in runs_of(nights, "a")] == [1, 8]


def test_the_numbers_of_tasks_are_also_known_from_their_runs(nights: Nights) -> None:
    nights.submit(nights.job("a"))
    nights.work()
    folder = nights.book.path.parent
    folder.rename(folder.with_name(".moved"))
    nights.start()
    assert nights.submit(nights.job("b")).id == 2


def test_a_task_that_is_cancelled_just_when_it_is_put_back_does_not_stay_in_the_queue(nights: Nights) -> None:
    nights.lasts = lambda task: timedelta(hours=1)
    task = nights.submit(nights.job("a"))
    nights.work()
    nights.book.cancel(task.id, nights.wall.now_us())
    nights.book.put_back(task, task.begins_us)  # by who looked at it before that
    nights.start()
    nights.work()
    assert nights.service.idle
    assert nights.said[-1] == "2026-03-01T12:00:00Z  a #1  cancelled"


# Schedules ------------------------------------------------------------------------------------------------------------


def test_a_schedule_that_is_changed_and_changed_back_loses_no_night(nights: Nights) -> None:
    for cron in ("0 2 * * *", "0 3 * * *", "0 2 * * *"):
        nights.job("nightly", schedule={"cron": cron, "timezone": "UTC"})
        nights.work()
    nights.until("2026-03-02T05:00+00:00")
    assert nights.records() == [("03-02 02:00", "success")]


def test_a_clock_that_was_a_year_ahead_for_a_while_costs_no_night(nights: Nights) -> None:
    nights.job("nightly", schedule=NIGHT)
    nights.until("2026-03-02T05:00+00:00")
    nights.wall.now += timedelta(days=365)
    nights.work()
    nights.wall.now -= timedelta(days=365)
    nights.until("2026-03-04T05:00+00:00")
    assert nights.records()[:3] == [("03-02 02:00", "success"), ("03-03 02:00", "success"), ("03-04 02:00", "success")]
    nights.wall.now += timedelta(days=363)
    nights.work()
    assert len([run for run in runs_of(nights, "nightly") if run.moment == "2027-03-02T02:00:00.000Z"]) == 1


def test_a_clock_that_is_set_back_by_minutes_repeats_nothing(nights: Nights) -> None:
    nights.job("nightly", schedule=NIGHT)
    nights.until("2026-03-02T02:00+00:00")
    nights.wall.now -= timedelta(minutes=20)
    nights.until("2026-03-02T05:00+00:00")
    assert nights.began == [1]


def test_a_day_of_minutes_is_caught_up_at_once(nights: Nights) -> None:
    """At 25 ms for each, loaded one by one, they would keep the queue from all others for half a minute."""
    nights.job("nightly", schedule={"cron": "* * * * *", "timezone": "UTC", "catch_up": "all"})
    nights.lasts = lambda task: timedelta(hours=1)
    nights.work()
    nights.wall.now += timedelta(days=1)
    began_s = nights.wall.steady_s()
    nights.service.turn()
    assert nights.wall.steady_s() - began_s < 10
    assert len(nights.book.tasks("queued", "running")) == 1440
    assert {task.run_date for task in nights.book.tasks("queued")} == {"2026-03-01", "2026-03-02"}
    began_s = nights.wall.steady_s()
    nights.service.turn()
    assert nights.wall.steady_s() - began_s < 1
    assert nights.began == [1]


def test_many_moments_that_nobody_was_there_for_are_one_line(nights: Nights) -> None:
    nights.job("nightly", schedule={"cron": "0 * * * *", "timezone": "UTC"})
    nights.work()
    nights.wall.now += timedelta(days=2)
    nights.work()
    assert [line[22:] for line in nights.said[1:3]] == [
        "nightly  47 moments are not run, 2026-03-01 13:00 UTC to 2026-03-03 11:00 UTC: `runner runs` has each",
        "nightly #1  is due: 2026-03-03 12:00 UTC",
    ]
    assert len(nights.records()) == 48


def test_two_files_with_one_job_are_told_apart(nights: Nights) -> None:
    nights.job("nightly", schedule=NIGHT)
    other = nights.job("other", schedule=NIGHT)
    other.write_text(other.read_text(encoding="utf-8").replace("name: other", "name: nightly"), encoding="utf-8")
    nights.until("2026-03-02T05:00+00:00")
    assert nights.records() == [("03-02 02:00", "success")]
    [said] = [line for line in nights.said if "other.yaml" in line]
    assert said.endswith(f"other.yaml is left out: its job has the name of that in {nights.jobs / 'nightly.yaml'}")


@pytest.mark.parametrize("written", ["3", "true", "[]", "{}", "{cron: []}", '"* * *"', "{tz: x}"])
def test_no_schedule_ends_the_service_however_it_is_written(nights: Nights, written: str) -> None:
    (nights.jobs / "bad.yaml").write_text(f"schedule: {written}\n", encoding="utf-8")
    nights.work()
    [said] = nights.said
    assert "bad.yaml cannot be read: `schedule" in said


def test_nothing_is_written_outside_of_outputs_for_a_name_that_is_none(nights: Nights) -> None:
    file = nights.job("nightly", schedule=NIGHT, notify={"to": [{"url": "http://127.0.0.1:9/x", "on": ["failure"]}]})
    file.write_text(
        file.read_text(encoding="utf-8").replace("name: nightly", "name: ../../elsewhere"), encoding="utf-8"
    )
    nights.until("2026-03-02T05:00+00:00")
    assert nights.records() == [("03-02 02:00", "failed")]
    assert not list(nights.project.folder.parent.rglob("elsewhere"))


def test_a_file_that_comes_back_to_the_inbox_is_another_task(nights: Nights) -> None:
    inbox = nights.jobs / "inbox"
    inbox.mkdir()
    nights.job("a").rename(inbox / "a.yaml")
    nights.work()
    (inbox / "taken" / "00001-a.yaml").rename(inbox / "a.yaml")
    nights.work()
    assert nights.began == [1, 2]


def test_an_inbox_that_may_not_be_written_to_holds_nothing_up(nights: Nights) -> None:
    inbox = nights.jobs / "inbox"
    inbox.mkdir()
    (inbox / "taken").write_text("in the way", encoding="utf-8")
    nights.job("a").rename(inbox / "a.yaml")
    nights.work()
    nights.submit(nights.job("b"))
    nights.work()
    assert nights.began == [1, 2]
    assert [line[22:] for line in nights.said if "moved" in line] == [
        f"{inbox / 'a.yaml'} cannot be moved away: File exists"
    ]


# What becomes of tasks ------------------------------------------------------------------------------------------------


def test_a_run_that_cannot_go_on_has_failed_and_is_told_of(nights: Nights) -> None:
    with hooks() as heard:
        nights.project.environ["ALERT"] = heard.url
        nights.lasts = lambda task: timedelta(hours=1)
        nights.submit(nights.job("a", notify={"to": [{"url": "${ALERT}", "on": ["failure"]}]}))
        nights.work()
        nights.service.stopping = True
        nights.service.turn()
        nights.service.turn()
        key = nights.project.environ.pop("TEST_KEY")
        nights.start()
        nights.lasts = lambda task: timedelta(0)
        nights.work()
        nights.project.environ["TEST_KEY"] = key
    [task] = nights.book.last_ended(1)
    assert (task.outcome, task.run) == ("failed", runs_of(nights, "a")[0].run)
    assert len(heard.messages) == 1


def test_a_task_from_the_inbox_that_is_given_up_is_told_of(nights: Nights) -> None:
    def kill(task: Task) -> Process:
        process = InProcess(nights, task, timedelta(hours=1))
        process.kill()
        return process

    with hooks() as heard:
        nights.project.environ["ALERT"] = heard.url
        (nights.jobs / "inbox").mkdir()
        nights.job("a", notify={"to": [{"url": "${ALERT}", "on": ["failure"]}]}).rename(
            nights.jobs / "inbox" / "a.yaml"
        )
        nights.launch = kill
        nights.until("2026-03-01T12:10+00:00", timedelta(minutes=1))
    assert [task.outcome for task in nights.book.last_ended(9)] == ["killed"]
    assert len(heard.messages) == 1


def test_a_process_that_cannot_be_started_is_tried_again(nights: Nights) -> None:
    left = [0, 1, 1]

    def launch(task: Task) -> Process:
        if left.pop():
            raise OSError(11, "Resource temporarily unavailable")
        return InProcess(nights, task, timedelta(0))

    nights.launch = launch
    nights.submit(nights.job("a"))
    nights.until("2026-03-01T12:10+00:00", timedelta(minutes=1))
    assert [line[22:] for line in nights.said] == [
        "a #1  its process cannot be started: Resource temporarily unavailable; it goes on in 60 s",
        "a #1  its process cannot be started: Resource temporarily unavailable; it goes on in 60 s",
        "a #1  goes on",
        "a #1  success: 4 of 4 rows ok",
    ]


# Runs that another scheduler starts -----------------------------------------------------------------------------------


def test_the_run_of_a_moment_is_begun_once_however_many_are_asked_for_it(nights: Nights) -> None:
    job = load_job(nights.job("nightly", schedule=NIGHT), environ=nights.project.environ)
    origin = Origin(scheduled=True, moment="2026-03-01T02:00:00.000Z")
    start(job, outputs=nights.outputs, console=QUIET, origin=origin, clock=nights.wall)
    with pytest.raises(LockedError, match="another process has begun the run of 2026"):
        start(job, outputs=nights.outputs, console=QUIET, origin=origin, clock=nights.wall)
    assert len(runs_of(nights, "nightly")) == 1


def test_who_comes_while_the_run_of_the_moment_is_going_on_does_not_call_it_skipped(nights: Nights) -> None:
    file = nights.job("nightly", schedule=NIGHT)
    run = partial(run_scheduled, file, {}, nights.outputs, QUIET, clock=nights.wall, environ=nights.project.environ)
    (nights.outputs / "nightly").mkdir()
    with locked(nights.outputs / "nightly", "runner run jobs/nightly.yaml"), pytest.raises(LockedError):
        run()
    assert nights.records() == [("03-01 02:00", "skipped")]
    with patch.dict("os.environ", nights.project.environ):
        run()
        assert nights.records() == [("03-01 02:00", "run")]
        with nights.book.changing():
            nights.book._connection.execute("UPDATE moment SET verdict = 'skipped'")  # by the one that was killed after
        assert run().idle
    assert nights.records() == [("03-01 02:00", "run")]


# Looking at it --------------------------------------------------------------------------------------------------------


def test_looking_at_a_queue_makes_none(tmp_path: Path) -> None:
    with Book(tmp_path / "outputs", to_read=True) as book:
        assert book.tasks("queued") == []
        with pytest.raises(SpecError, match="there is no task 1"):
            book.task(1)
    assert list(tmp_path.iterdir()) == []


def test_who_only_looks_at_a_queue_cannot_change_it(nights: Nights) -> None:
    nights.submit(nights.job("a"))
    with Book(nights.outputs, to_read=True) as book:
        assert [task.job for task in book.tasks("queued")] == ["a"]
        nights.work()
        assert [task.outcome for task in book.last_ended(1)] == ["success"], "it sees what others do meanwhile"
        with pytest.raises(FatalError, match="attempt to write a readonly database"):
            book.cancel(1, 0)
