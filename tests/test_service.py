"""The queue and the service, on a clock that stands still: runs are real, and so is the disk."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hooks import hooks
from nights import Nights
from project import Project, simulator

from runner.errors import FatalError, LockedError, SpecError
from runner.listing import list_runs
from runner.lock import locked
from runner.manifest import Manifest
from runner.progress import Console
from runner.service import listing
from runner.service.book import Book
from runner.service.inbox import Inbox
from runner.service.own_turn import run_scheduled
from runner.simulator import SimulatorProcess

NIGHT = {"cron": "0 2 * * *", "timezone": "UTC"}
QUIET = Console(quiet=True)


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatorProcess]:
    with simulator() as running:
        yield running


@pytest.fixture
def nights(project: Callable[..., Project], server: SimulatorProcess) -> Nights:
    return Nights(project(server.base_url, rows=4), "2026-03-01T12:00+00:00")


def outcomes(nights: Nights, job: str = "nightly") -> list[str]:
    return [outcome for _, outcome in nights.records(job)]


def manifests(nights: Nights, job: str) -> list[Manifest]:
    return [Manifest.load(path.parent) for path in sorted((nights.outputs / job).glob("2*/run.json"))]


# The queue ------------------------------------------------------------------------------------------------------------


def test_what_is_submitted_runs_by_priority_and_then_in_turn(nights: Nights) -> None:
    files = [nights.job(name) for name in ("a", "b", "c")]
    for file, priority in zip(files, (0, 0, 5), strict=True):
        nights.submit(file, priority=priority)
    nights.work()
    assert nights.began == [3, 1, 2]
    assert [task.outcome for task in nights.book.last_ended(9)] == ["success"] * 3
    assert nights.said[:2] == ["2026-03-01T12:00:00Z  c #3  began", "2026-03-01T12:00:00Z  a #1  began"]
    assert nights.said[2] == "2026-03-01T12:00:00Z  c #3  success: 4 of 4 rows ok"


def test_a_task_is_the_job_as_it_was_submitted(nights: Nights) -> None:
    file = nights.job("a", prompt={"user": "First: {{ text }}"})
    nights.submit(file, overrides={"limits.concurrency": "3"})
    file.write_text("nonsense", encoding="utf-8")
    nights.work()
    [run] = manifests(nights, "a")
    assert run.spec["prompt"]["user"] == "First: {{ text }}"
    assert run.spec["limits"]["concurrency"] == 3
    assert (run.overrides, run.job_file, run.task) == ({"limits.concurrency": "3"}, str(file), 1)
    assert (run.scheduled, run.moment) == (False, None)


def test_a_task_for_later_waits_until_then(nights: Nights) -> None:
    file = nights.job("a")
    nights.submit(file)
    later = nights.submit(file)
    with nights.book.changing():
        nights.book._connection.execute("UPDATE task SET begins_us = begins_us + 3600000000 WHERE id = ?", (later.id,))
    nights.until("2026-03-01T12:59+00:00")
    assert nights.began == [1]
    nights.until("2026-03-01T13:00+00:00")
    assert nights.began == [1, 2]


def test_tasks_of_one_job_go_one_after_the_other_and_others_beside_them(nights: Nights) -> None:
    nights.lasts = lambda task: timedelta(hours=1)
    first, other = nights.job("a"), nights.job("b")
    for file in (first, first, other):
        nights.submit(file)
    nights.work()
    assert nights.began == [1, 3], "two workers, and the second task is of the same job as the first"
    nights.until("2026-03-01T13:00+00:00")
    assert nights.began == [1, 3, 2]


def test_no_more_tasks_go_on_than_there_are_workers(nights: Nights) -> None:
    nights.lasts = lambda task: timedelta(hours=1)
    for name in ("a", "b", "c"):
        nights.submit(nights.job(name))
    nights.work()
    assert nights.began == [1, 2]


def test_a_task_waits_for_a_run_that_somebody_started_by_hand(nights: Nights) -> None:
    nights.submit(nights.job("a"))
    (nights.outputs / "a").mkdir()
    with locked(nights.outputs / "a", "runner run jobs/a.yaml"):
        nights.work()
        assert nights.said == ["2026-03-01T12:00:00Z  a #1  waits: another run of this job is going on"]
    nights.work()
    assert nights.said[-1] == "2026-03-01T12:00:00Z  a #1  success: 4 of 4 rows ok"


def test_what_cannot_run_says_why(nights: Nights) -> None:
    nights.submit(nights.job("a", input={"path": "none.jsonl", "id": "id"}))
    nights.work()
    [task] = nights.book.last_ended(1)
    assert (task.outcome, task.run) == ("failed", None)
    assert task.message == "there is no file `none.jsonl`"
    assert nights.said[-1].endswith("a #1  failed (there is no file `none.jsonl`)")


def test_cancelling_ends_a_queued_task_at_once_and_a_running_one_when_it_can(nights: Nights) -> None:
    nights.lasts = lambda task: timedelta(hours=1)
    file = nights.job("a")
    for _ in range(2):
        nights.submit(file)
    nights.work()
    assert nights.book.cancel(2, nights.wall.now_us()).outcome == "cancelled"
    assert nights.book.cancel(1, nights.wall.now_us()).state == "running"
    nights.work()
    assert [(task.id, task.outcome) for task in nights.book.last_ended(2)] == [(1, "cancelled"), (2, "cancelled")]
    assert nights.began == [1]
    assert manifests(nights, "a")[0].status == "interrupted", "and can be resumed"


def test_the_queue_is_shown(nights: Nights) -> None:
    nights.lasts = lambda task: timedelta(hours=1) if task.job == "b" else timedelta(0)
    files = [nights.job(name) for name in ("a", "b")]
    for file in (*files, files[1]):
        nights.submit(file, priority=int(file is files[0]))
    nights.work()
    shown = listing.table(nights.book, nights.outputs, nights.wall.now_us(), as_json=False)
    assert shown.splitlines() == [
        "ID  JOB  STATUS   WHEN (UTC)           FROM    PRIORITY  RUN",
        "1   a    success  2026-03-01 12:00:00  submit  1         20260301T120000Z",
        "2   b    running  2026-03-01 12:00:00  submit  -         -",
        "3   b    queued   2026-03-01 12:00:00  submit  -         -",
        "no service is running here: `runner serve` works through the queue",
    ]
    [first, *_] = json.loads(listing.table(nights.book, nights.outputs, 0, as_json=True))
    assert first == {
        "id": 1, "job": "a", "job_file": str(files[0]), "root": str(nights.project.folder), "overrides": {},
        "run_date": first["run_date"], "source": "submit", "moment": None, "priority": 1, "state": "ended", "kills": 0,
        "cancelled": False, "outcome": "success", "message": None, "run": "20260301T120000Z",
        "submitted_at": "2026-03-01T12:00:00.000Z", "begins_at": "2026-03-01T12:00:00.000Z",
        "started_at": "2026-03-01T12:00:00.000Z", "ended_at": "2026-03-01T12:00:00.000Z",
    }  # fmt: skip


def test_a_damaged_queue_is_one_message(tmp_path: Path) -> None:
    (tmp_path / ".service").mkdir()
    (tmp_path / ".service" / "queue.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(SpecError, match="the queue cannot be read: file is not a database"):
        Book(tmp_path)


def test_a_queue_of_another_version_is_refused(tmp_path: Path) -> None:
    with Book(tmp_path) as book:
        book._connection.execute("PRAGMA user_version = 7")
    with pytest.raises(SpecError, match="made by another version of the runner"):
        Book(tmp_path)


# Schedules ------------------------------------------------------------------------------------------------------------


def test_each_night_is_one_run_and_one_record(nights: Nights) -> None:
    file = nights.job("nightly", schedule=NIGHT)
    nights.until("2026-03-04T12:00+00:00")
    assert nights.records() == [("03-02 02:00", "success"), ("03-03 02:00", "success"), ("03-04 02:00", "success")]
    assert [(run.scheduled, run.moment) for run in manifests(nights, "nightly")] == [
        (True, f"2026-03-0{day}T02:00:00.000Z") for day in (2, 3, 4)
    ]
    assert nights.said[0].endswith("nightly is scheduled (0 2 * * * UTC): next 2026-03-02 02:00 UTC")
    assert nights.said[1] == "2026-03-02T02:00:00Z  nightly #1  is due: 2026-03-02 02:00 UTC"
    assert manifests(nights, "nightly")[1].summary["saved"]["reused_rows"] == 4, "what is not said of `reuse` is true"
    assert file.is_file()


def test_nights_that_nobody_was_there_for_are_missed(nights: Nights) -> None:
    nights.job("nightly", schedule=NIGHT)
    nights.work()
    nights.wall.now += timedelta(days=3)
    nights.start()
    nights.work()
    assert nights.records() == [("03-02 02:00", "missed"), ("03-03 02:00", "missed"), ("03-04 02:00", "success")]
    shown = list_runs("nightly", nights.outputs, as_json=False)
    assert [line.split()[2:3] for line in shown.splitlines()[1:3]] == [["missed"], ["missed"]]
    assert "2 d 10 h late, and a later moment runs in its place" in shown


def test_all_of_them_can_be_caught_up_one_after_the_other(nights: Nights) -> None:
    nights.job("nightly", schedule={**NIGHT, "catch_up": "all", "overlap": "skip"})
    nights.work()
    nights.wall.now += timedelta(days=3)
    nights.lasts = lambda task: timedelta(minutes=10)
    nights.work()
    assert nights.began == [1]
    nights.until("2026-03-04T13:30+00:00")
    assert outcomes(nights) == ["success"] * 3


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ("skip", ["success", "skipped", "success"]),
        ("queue", ["success", "success", "success"]),
        ("cancel", ["cancelled", "success", "success"]),
    ],
)
def test_a_night_that_comes_while_the_one_before_is_going_on(nights: Nights, overlap: str, expected: list[str]) -> None:
    nights.job("nightly", schedule={**NIGHT, "overlap": overlap})
    nights.lasts = lambda task: timedelta(hours=30 if task.id == 1 else 1)
    nights.until("2026-03-04T12:00+00:00")
    assert outcomes(nights) == expected


def test_a_schedule_that_is_changed_begins_anew(nights: Nights) -> None:
    nights.job("nightly", schedule=NIGHT)
    nights.work()
    nights.job("nightly", schedule={**NIGHT, "cron": "0 11 * * *"})
    nights.work()
    assert nights.said[-1].endswith("nightly is scheduled (0 11 * * * UTC): next 2026-03-02 11:00 UTC")
    nights.until("2026-03-02T11:30+00:00")
    assert nights.records() == [("03-02 11:00", "success")]


def test_a_schedule_that_is_disabled_skips_its_moments(nights: Nights) -> None:
    nights.job("nightly", schedule={**NIGHT, "enabled": False})
    nights.until("2026-03-02T12:00+00:00")
    nights.job("nightly", schedule=NIGHT)
    nights.until("2026-03-03T12:00+00:00")
    assert outcomes(nights) == ["skipped", "success"]


def test_a_broken_job_file_is_told_once_and_its_moments_have_records(nights: Nights) -> None:
    with hooks() as hook:
        nights.project.environ["ALERT_URL"] = hook.url
        tells = {"to": [{"url_env": "ALERT_URL"}]}
        nights.job("nightly", schedule=NIGHT, notify=tells)
        nights.work()
        nights.job("nightly", schedule=NIGHT, notify=tells, model=7)
        nights.until("2026-03-04T12:00+00:00")
        assert outcomes(nights) == ["failed", "failed", "failed"]
        nights.job("nightly", schedule=NIGHT, notify=tells)
        nights.until("2026-03-05T12:00+00:00")
        assert [message["event"] for message in hook.messages] == ["failure", "recovered"]
    assert outcomes(nights)[-1] == "success"
    shown = list_runs("nightly", nights.outputs, as_json=False)
    assert "`model` must be a name or a list of names, got 7" in shown


def test_a_file_that_cannot_be_read_keeps_its_schedule(nights: Nights) -> None:
    file = nights.job("nightly", schedule=NIGHT)
    nights.work()
    file.write_text("name: [", encoding="utf-8")
    nights.until("2026-03-02T12:00+00:00")
    assert outcomes(nights) == ["failed"]
    assert sum("cannot be read" in line for line in nights.said) == 1


# The inbox ------------------------------------------------------------------------------------------------------------


def test_a_file_in_the_inbox_is_submitted_once_it_rests(nights: Nights) -> None:
    inbox = nights.jobs / "inbox"
    inbox.mkdir()
    dropped = nights.job("dropped").rename(inbox / "dropped.yaml")
    (inbox / ".hidden.yaml").write_text("half", encoding="utf-8")
    nights.service.turn()
    with dropped.open("a", encoding="utf-8") as file:
        file.write("\n# not done yet\n")
    nights.service.turn()
    assert nights.book.tasks("queued") == []
    nights.service.turn()
    nights.work()
    assert (inbox / "taken" / "00001-dropped.yaml").is_file()
    assert [(task.job, task.outcome, task.source) for task in nights.book.last_ended(9)] == [
        ("dropped", "success", "inbox")
    ]


def test_a_file_in_the_inbox_that_is_wrong_is_put_aside_with_the_reason(nights: Nights) -> None:
    inbox = nights.jobs / "inbox"
    inbox.mkdir()
    nights.job("dropped", model=7).rename(inbox / "dropped.yaml")
    nights.service.turn()
    nights.work()
    assert not nights.began
    [reason] = (inbox / "refused").glob("*.error.txt")
    assert "`model` must be a name or a list of names, got 7" in reason.read_text(encoding="utf-8")


def test_a_file_in_the_inbox_is_not_submitted_twice_where_the_service_died_before_it_moved_it(nights: Nights) -> None:
    inbox = nights.jobs / "inbox"
    inbox.mkdir()
    nights.job("dropped").rename(inbox / "dropped.yaml")
    nights.service.turn()
    dying = patch.object(Inbox, "put_away", side_effect=Killed)
    with dying, pytest.raises(Killed):
        nights.service.turn()
    nights.start()
    nights.service.turn()
    nights.work()
    assert nights.began == [1]
    assert (inbox / "taken" / "00001-dropped.yaml").is_file()


# Death ----------------------------------------------------------------------------------------------------------------


def test_the_service_can_die_at_any_write_and_nothing_is_run_twice(
    project: Callable[..., Project], server: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights = Nights(project(server.base_url, rows=1), "2026-03-01T12:00+00:00")
    nights.job("nightly", schedule={**NIGHT, "overlap": "queue"})
    nights.submit(nights.job("a"))
    original, draws = Book.changing, random.Random(5)
    dies = {"after": 0, "phase": 0}

    @contextmanager
    def dying(book: Book) -> Iterator[None]:
        if book._connection.in_transaction:
            yield
            return
        dies["after"] -= 1
        phase = dies["phase"] if dies["after"] == 0 else None
        if phase == 0:
            raise Killed  # before anything is written
        with original(book):
            yield
            if phase == 1:
                raise Killed  # before it is kept
        if phase == 2:
            raise Killed  # once it is

    monkeypatch.setattr(Book, "changing", dying)
    deaths = 0
    for day in range(2, 12):
        for last_try in (False, False, False, True):
            dies.update(after=0 if last_try else draws.randrange(1, 9), phase=draws.randrange(3))
            with suppress(Killed):
                nights.start()
                nights.until(f"2026-03-{day:02}T12:00+00:00", timedelta(hours=6))
                continue
            deaths += 1
    assert deaths >= 15
    assert outcomes(nights) == ["success"] * 10
    assert sorted({run.moment for run in manifests(nights, "nightly")}) == [
        f"2026-03-{day:02}T02:00:00.000Z" for day in range(2, 12)
    ]
    assert len(manifests(nights, "nightly")) == 10
    assert len(manifests(nights, "a")) == 1


def test_a_task_whose_process_is_killed_goes_on_and_is_given_up_after_three_times(nights: Nights) -> None:
    nights.lasts = lambda task: timedelta(days=1)
    nights.submit(nights.job("a"))
    for _ in range(3):
        nights.work()
        nights.service.kill()
        nights.work()
        nights.wall.now += timedelta(minutes=2)
    nights.work()
    [task] = nights.book.last_ended(1)
    assert (task.outcome, nights.began) == ("killed", [1, 1, 1])
    assert task.message == "its process was killed 3 times, the last by signal 9"


def test_a_service_that_is_stopped_goes_on_where_it_was(nights: Nights) -> None:
    nights.lasts = lambda task: timedelta(hours=1)
    nights.submit(nights.job("a"))
    nights.work()
    nights.service.stopping = True
    nights.work()
    assert nights.said[-1].endswith("a #1  was interrupted, and will be continued")
    assert not nights.service.working
    nights.lasts = lambda task: timedelta(0)
    nights.start()
    nights.work()
    [run] = manifests(nights, "a")
    assert (run.status, len(run.sessions)) == ("finished", 2)
    assert nights.said[-1].endswith("a #1  success: 4 of 4 rows ok")


# Lateness -------------------------------------------------------------------------------------------------------------


def test_a_job_that_has_not_succeeded_for_too_long_is_told_once(nights: Nights) -> None:
    with hooks() as hook:
        nights.project.environ["ALERT_URL"] = hook.url
        tells = {"to": [{"url_env": "ALERT_URL", "on": ["late"]}], "late_after": "26h"}
        nights.job("nightly", schedule=NIGHT, notify=tells, input={"path": "none.jsonl", "id": "id"})
        nights.until("2026-03-05T12:00+00:00", timedelta(hours=2))
        assert [message["event"] for message in hook.messages] == ["late"]
        assert sum("is late" in line for line in nights.said) == 1


# Without the service --------------------------------------------------------------------------------------------------


def scheduled_run(nights: Nights, file: Path) -> Any:
    with patch.dict("os.environ", nights.project.environ):
        return run_scheduled(file, {}, nights.outputs, QUIET, clock=nights.wall)


def test_a_run_that_cron_starts_is_the_run_of_its_moment(nights: Nights) -> None:
    file = nights.job("nightly", schedule=NIGHT)
    nights.wall.now = datetime(2026, 3, 2, 2, 0, 5, tzinfo=UTC)
    outcome = scheduled_run(nights, file)
    assert (outcome.manifest.moment, outcome.manifest.scheduled) == ("2026-03-02T02:00:00.000Z", True)
    nights.wall.now = datetime(2026, 3, 2, 9, tzinfo=UTC)
    assert scheduled_run(nights, file).idle, "asked again, it does nothing"
    nights.wall.now = datetime(2026, 3, 5, 2, 0, 5, tzinfo=UTC)
    scheduled_run(nights, file)
    assert [outcome for _, outcome in nights.records()] == ["run", "missed", "missed", "run"]
    shown = json.loads(list_runs("nightly", nights.outputs, as_json=True))
    assert [row["outcome"] for row in shown] == ["success", "missed", "missed", "success"]


def test_a_dry_run_of_what_cron_starts_reckons_with_its_reuse(nights: Nights) -> None:
    file = nights.job("nightly", schedule=NIGHT)
    nights.until("2026-03-02T12:00+00:00")
    shown = [nights.project.runner("run", file, "--dry-run", *more).stdout for more in ([], ["--scheduled"])]
    assert ["they cost nothing" in text for text in shown] == [False, True], shown


def test_a_run_that_cron_starts_and_that_cannot_begin_has_a_record(nights: Nights) -> None:
    file = nights.job("nightly", schedule=NIGHT, input={"path": "none.jsonl", "id": "id"})
    with pytest.raises(SpecError, match=r"there is no file `none\.jsonl`"):
        scheduled_run(nights, file)
    assert [outcome for _, outcome in nights.records()] == ["failed"]
    nights.job("nightly", schedule=NIGHT)
    assert scheduled_run(nights, file).manifest.status == "finished", "and asked again it is tried again"
    assert [outcome for _, outcome in nights.records()] == ["run"]


def test_a_run_that_cron_starts_while_another_is_going_on_is_skipped(nights: Nights) -> None:
    file = nights.job("nightly", schedule=NIGHT)
    (nights.outputs / "nightly").mkdir(parents=True)
    with locked(nights.outputs / "nightly", "runner run jobs/nightly.yaml"), pytest.raises(LockedError):
        scheduled_run(nights, file)
    assert [outcome for _, outcome in nights.records()] == ["skipped"]


def test_a_run_that_cron_started_and_that_was_killed_before_it_began_is_listed(nights: Nights) -> None:
    file = nights.job("nightly", schedule=NIGHT)
    with patch("runner.service.own_turn.app.start", side_effect=Killed), pytest.raises(Killed):
        scheduled_run(nights, file)
    [row] = json.loads(list_runs("nightly", nights.outputs, as_json=True))
    assert (row["outcome"], row["why"]) == ("killed", "its run has not begun")
    scheduled_run(nights, file)
    assert [row["outcome"] for row in json.loads(list_runs("nightly", nights.outputs, as_json=True))] == ["success"]


def test_what_a_service_has_taken_is_not_run_by_cron_as_well(nights: Nights) -> None:
    file = nights.job("nightly", schedule=NIGHT)
    nights.until("2026-03-02T12:00+00:00")
    with pytest.raises(SpecError, match="a service has it, as task 1"):
        scheduled_run(nights, file)


def test_the_books_disk_is_full(nights: Nights) -> None:
    nights.book._connection.execute("PRAGMA max_page_count = 1")
    file = nights.job("a", prompt={"user": "{{ text }}" + "x" * 100_000})
    with pytest.raises(FatalError, match="the queue cannot be used: database or disk is full"):
        nights.submit(file)
