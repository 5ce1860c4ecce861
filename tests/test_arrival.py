"""Input that arrives late, or of which too little arrives: what a run waits for, until when, and what it says."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hooks import hooks
from project import Project, until

from runner import run_job_async
from runner.arrival import Arrival, until_us
from runner.deadline import Deadline
from runner.errors import Exit, FatalError
from runner.load import load_job
from runner.lock import is_locked
from runner.plan import make_plan
from runner.problems import SpecErrors
from runner.sections import WaitSpec
from runner.snapshot import as_run, changed
from runner.stop import Stop


def us(text: str) -> int:
    return round(datetime.fromisoformat(f"{text}+00:00").timestamp() * 1e6)


class Night:
    """A folder and a clock on which waiting takes no time; files come when they are said to.

    Args:
        began: when it is at first (UTC).
    """

    def __init__(self, project: Project, began: str) -> None:
        self.project = project
        self.began_us = us(began)
        self.now_s = 0.0
        self.said: list[tuple[float, str]] = []
        self.coming: list[tuple[float, Callable[[], None]]] = []

    def now_us(self) -> int:
        return self.began_us + round(self.now_s * 1e6)

    def steady_s(self) -> float:
        return self.now_s

    def pause(self, seconds: float) -> None:
        assert seconds > 0, "it would spin"
        self.now_s += seconds
        for each in [each for each in self.coming if each[0] <= self.now_s]:
            self.coming.remove(each)
            each[1]()

    def file(self, name: str, text: str = "x", *, age_s: float = 0) -> None:
        """Write a file now."""
        path = self.project.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        changed_ns = (self.now_us() - round(age_s * 1e6)) * 1000
        os.utime(path, ns=(changed_ns, changed_ns))

    def at(self, second: float, name: str, text: str = "x") -> None:
        self.coming.append((second, lambda: self.file(name, text)))

    def arrival(self, moment: datetime | None = None) -> Arrival:
        job = load_job(self.project.job_file)
        assert job.spec.input.wait_for is not None
        return Arrival(job, job.spec.input.wait_for, self, moment)

    def wait(self, stop: Stop | None = None, moment: datetime | None = None) -> float:
        """Return how long it waited, in seconds."""
        arrival = self.arrival(moment)
        arrival.wait(stop or Stop(), lambda text: self.said.append((self.now_s, text)), self.pause)
        return self.now_s

    def refused(self, moment: datetime | None = None) -> SpecErrors:
        with pytest.raises(SpecErrors) as caught:
            self.wait(moment=moment)
        return caught.value


@pytest.fixture
def night(tmp_path: Path, zone: Callable[[str], None]) -> Callable[..., Night]:
    def make(*paths: str, began: str = "2026-11-21 02:00", schedule: Any = None, **wait_for: str) -> Night:
        zone("UTC")
        project = Project(tmp_path / "project")
        project.change(input={"path": list(paths) or "in.jsonl", "wait_for": {"until": "04:00", **wait_for}})
        project.change(**({"schedule": schedule} if schedule else {}))
        return Night(project, began)

    return make


Make = Callable[..., Night]


def test_what_is_there_is_not_waited_for(night: Make) -> None:
    here = night()
    here.file("in.jsonl", age_s=10)
    assert here.arrival().complete
    assert here.wait() == 0
    assert here.said == []


def test_a_file_that_comes_late_is_waited_for_until_it_is_complete(night: Make) -> None:
    here = night()
    here.at(1500, "in.jsonl", "x")
    here.at(1505, "in.jsonl", "xy")
    here.at(1512, "in.jsonl", "xyz")
    assert here.wait() == 1522
    settling = "waiting for in.jsonl to stay the same for 10s"
    assert here.said == [
        (0, "waiting for in.jsonl until 04:00"),
        (600, "waiting for in.jsonl until 04:00"),
        (1200, "waiting for in.jsonl until 04:00"),
        (1500, settling),
    ]


def test_a_file_that_grows_when_the_run_begins_is_not_taken_half(night: Make) -> None:
    here = night(settle="1m")
    here.file("in.jsonl", age_s=20)
    assert not here.arrival().complete
    here.at(30, "in.jsonl", "xy")
    assert here.wait() == 90
    assert here.said == [(0, "waiting for in.jsonl to stay the same for 1m")]


def test_the_time_that_a_file_has_been_there_counts(night: Make) -> None:
    here = night(settle="1m")
    here.file("in.jsonl", age_s=20)
    assert here.wait() == 40


def test_a_clock_that_is_ahead_on_another_machine_holds_nothing_up(night: Make) -> None:
    here = night()
    here.file("in.jsonl", age_s=-3600)
    assert here.wait() == 10


def test_every_path_is_waited_for_and_a_pattern_has_come_with_its_first_file(night: Make) -> None:
    here = night("a.jsonl", "b/*.jsonl", "c.jsonl", "d.jsonl", "e.jsonl")
    here.file("a.jsonl", age_s=60)
    here.at(100, "b/1.jsonl")
    here.at(106, "b/2.jsonl")  # those that come on its heels are waited for too
    for name in "cde":
        here.at(110, f"{name}.jsonl")
    assert here.wait() == 120
    assert here.said == [
        (0, "waiting for b/*.jsonl, c.jsonl, d.jsonl and 1 more until 04:00"),
        (110, "waiting for b/2.jsonl, c.jsonl, d.jsonl and 1 more to stay the same for 10s"),
    ]


def test_a_file_that_is_taken_away_again_is_missing_again(night: Make) -> None:
    here = night()
    here.at(20, "in.jsonl")
    here.coming.append((24, lambda: (here.project.folder / "in.jsonl").unlink()))
    here.at(60, "in.jsonl")
    assert here.wait() == 70


def test_when_the_time_is_over_it_says_what_is_missing(night: Make) -> None:
    here = night("in.jsonl", "other/*.csv")
    assert str(here.refused()) == (
        "there was no file `in.jsonl` by 04:00\n"
        f"  --> {here.project.job_file}:5:5\n"
        "   |\n"
        " 5 |   - in.jsonl\n"
        "   |     ^\n"
        "hint: run the job when it is there; or wait longer with `input.wait_for`\n"
        "\n"
        "error: no file matched `other/*.csv` by 04:00\n"
        f"  --> {here.project.job_file}:6:5\n"
        "   |\n"
        " 6 |   - other/*.csv\n"
        "   |     ^\n"
        "hint: run the job when it is there; or wait longer with `input.wait_for`"
    )
    assert here.now_s == 7200


def test_a_file_that_never_stops_growing_is_refused(night: Make) -> None:
    here = night(until="30s")
    for second in range(0, 60, 5):
        here.at(second, "in.jsonl", "x" * second)
    [problem] = here.refused().problems
    assert problem.message == "`in.jsonl` still changed at 02:00:30"
    assert here.now_s == 30


def test_a_run_that_is_too_late_to_wait_fails_at_once_without_its_input(night: Make) -> None:
    """Caught up at 05:00: the 04:00 that was meant has passed, and tomorrow's is not meant."""
    moment = datetime(2026, 11, 21, 2, tzinfo=UTC)
    here = night(began="2026-11-21 05:00")
    [problem] = here.refused(moment).problems
    assert problem.message == "there was no file `in.jsonl` by 04:00"
    assert (here.now_s, here.said) == (0, [])
    here.began_us = us("2026-11-24 05:00")
    [problem] = here.refused(moment).problems
    assert problem.message == "there was no file `in.jsonl` by 2026-11-21 04:00"


def test_a_run_that_is_too_late_to_wait_still_sees_whether_its_input_is_complete(night: Make) -> None:
    here = night(began="2026-11-21 05:00")
    here.file("in.jsonl", age_s=3)
    assert here.wait(moment=datetime(2026, 11, 21, 2, tzinfo=UTC)) == 8, "at the first look after 7 seconds"


@pytest.mark.parametrize(
    ("place", "until", "moment", "began", "at"),
    [
        ("UTC", "04:00", "2026-11-21 02:00", "2026-11-21 02:00", "2026-11-21 04:00"),
        ("UTC", "04:00", "2026-11-21 23:00", "2026-11-21 23:02", "2026-11-22 04:00"),
        ("UTC", "04:00", "2026-11-21 02:00", "2026-11-21 05:00", "2026-11-21 04:00"),
        ("UTC", "04:00", None, "2026-11-21 05:00", "2026-11-22 04:00"),
        ("Europe/Berlin", "04:00", "2026-11-21 01:00", "2026-11-21 01:00", "2026-11-21 03:00"),
        ("Europe/Berlin", "04:00", "2026-03-29 00:00", "2026-03-29 00:00", "2026-03-29 02:00"),  # 23 hours
        ("Europe/Berlin", "02:30", "2026-03-29 00:00", "2026-03-29 00:00", "2026-03-29 01:00"),  # skipped
        ("Europe/Berlin", "04:00", "2026-10-25 00:00", "2026-10-25 00:00", "2026-10-25 03:00"),  # 25 hours
        ("UTC", "2h", "2026-11-21 02:00", "2026-11-21 05:00", "2026-11-21 07:00"),
        ("Europe/Berlin", "2026-11-21T04:00", None, "2026-11-21 00:00", "2026-11-21 03:00"),
        ("Europe/Berlin", "2026-11-21T04:00Z", None, "2026-11-21 00:00", "2026-11-21 04:00"),
    ],
)
def test_until_when(place: str, until: str, moment: str | None, began: str, at: str) -> None:
    deadline = Deadline.read(until)
    assert deadline is not None
    aware = None if moment is None else datetime.fromisoformat(f"{moment}+00:00")
    assert until_us(WaitSpec(until=deadline), us(began), aware, ZoneInfo(place)) == us(at)


def test_the_clock_is_that_of_the_schedule(night: Make) -> None:
    here = night(schedule={"cron": "0 2 * * *", "timezone": "Asia/Kathmandu"}, began="2026-11-21 20:15")
    here.refused()
    assert here.said[0] == (0, "waiting for in.jsonl until 04:00")
    assert here.now_s == 2 * 3600


def test_what_no_waiting_mends_is_said_at_once(night: Make) -> None:
    here = night("in.txt")
    with pytest.raises(SpecErrors, match=r"the name `in\.txt` does not tell what kind of file it is"):
        here.arrival()
    here.project.change(input={"path": "folder.jsonl"})
    (here.project.folder / "folder.jsonl").mkdir()
    with pytest.raises(SpecErrors, match=r"`folder\.jsonl` is a folder"):
        here.arrival()


def test_a_stop_ends_the_waiting(night: Make) -> None:
    here, stop = night(), Stop()
    here.coming.append((100, stop.request))
    with pytest.raises(KeyboardInterrupt):
        here.wait(stop)
    assert here.now_s == 100
    stop = Stop()
    stop.request(FatalError("enough", kind="enough"))
    with pytest.raises(FatalError, match="enough"):
        here.wait(stop)


def test_a_pause_ends_when_a_stop_is_requested() -> None:
    stop = Stop()
    threading.Timer(0.01, stop.request).start()
    stop.pause(20)
    assert stop.requested


# Runs -----------------------------------------------------------------------------------------------------------------


def test_a_run_begins_when_its_input_is_there(tmp_path: Path) -> None:
    here = Project(tmp_path / "project", input={"wait_for": {"until": "1m", "settle": "0.05s"}})
    threading.Timer(0.1, here.rows, [3]).start()
    assert here.work().ok == 3


def test_who_waits_holds_the_job_and_a_signal_ends_the_waiting(tmp_path: Path) -> None:
    here = Project(tmp_path / "project", input={"wait_for": {"until": "1m"}})
    first = here.start("run", here.job_file)
    until(lambda: is_locked(here.folder / "outputs" / "job"))
    assert "another run of this job is going on: runner run " in here.run(exits=Exit.LOCKED).error
    first.send_signal(signal.SIGTERM)
    done = here.end(first, exits=Exit.INTERRUPTED)
    assert done.stderr.startswith("waiting for rows.jsonl until ")
    assert done.stderr.endswith("\ninterrupted\n")
    assert not here.has_begun()


def test_a_program_that_waits_can_be_cancelled(tmp_path: Path) -> None:
    here = Project(tmp_path / "project", input={"wait_for": {"until": "1m"}})

    async def cancelled() -> None:
        running = asyncio.create_task(run_job_async(here.job_file, progress=False))
        await asyncio.to_thread(until, lambda: is_locked(here.folder / "outputs" / "job"))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancelled())
    assert not here.has_begun()


def test_a_mistake_in_the_job_is_told_before_the_waiting(tmp_path: Path) -> None:
    here = Project(tmp_path / "project", input={"wait_for": {"until": "1m"}}, evaluate={"expected": {"no": "text"}})
    with pytest.raises(SpecErrors, match="`evaluate"):
        here.work()


def test_input_that_does_not_come_is_a_failure_that_people_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hooks() as hook:
        monkeypatch.setenv("ALERT_URL", f"{hook.url}/x")
        here = Project(tmp_path / "project", input={"wait_for": {"until": "0.01s"}})
        here.change(notify={"to": [{"url": "${ALERT_URL}"}], "rehearsals": True})
        with pytest.raises(SpecErrors, match=r"there was no file `rows\.jsonl` by "):
            here.work()
        here.rows(2)
        here.change(input={"wait_for": None, "min_rows": 3})
        with pytest.raises(SpecErrors, match="asks for 3"):
            here.work()
    assert [each["event"] for each in hook.messages] == ["failure"], "once per change of state"
    assert "there was no file `rows.jsonl` by " in str(hook.messages[0])


def test_nothing_else_waits(tmp_path: Path) -> None:
    here = Project(tmp_path / "project", input={"wait_for": {"until": "1m"}})
    with pytest.raises(SpecErrors, match=r"there is no file `rows\.jsonl`"):
        make_plan(load_job(here.job_file))


def test_a_run_can_be_resumed_whatever_its_waiting_was(tmp_path: Path) -> None:
    here = Project(tmp_path / "project")
    jobs = []
    for settings in ({}, {"min_rows": 3, "wait_for": {"until": "04:00"}}, {"wait_for": {"until": "05:00"}}):
        here.change(input=settings)
        jobs.append(as_run(load_job(here.job_file)))
    old = {key: value for key, value in jobs[0]["input"].items() if key not in ("min_rows", "wait_for")}
    jobs.append({**jobs[0], "input": old})  # by a version that did not know them
    assert all(changed(one, other) == [] for one in jobs for other in jobs)


# Too few rows ---------------------------------------------------------------------------------------------------------


def test_too_few_rows_are_refused_at_the_key(tmp_path: Path) -> None:
    here = Project(tmp_path / "project", input={"min_rows": 4})
    here.rows(3)
    with pytest.raises(SpecErrors) as caught:
        here.work()
    assert str(caught.value) == (
        "the input (rows.jsonl) has 3 rows to use, and `input.min_rows` asks for 4\n"
        f"  --> {here.job_file}:4:13\n"
        "   |\n"
        " 4 |   min_rows: 4\n"
        "   |             ^\n"
        "hint: see whether it is complete, and run the job again; or lower `min_rows`"
    )
    assert caught.value.exit_code == Exit.USAGE
    assert not here.has_begun()
    here.rows(4)
    assert here.work().ok == 4


@pytest.mark.parametrize(
    ("settings", "usable"),
    [
        ({}, 5),
        ({"limit": 1}, 5),  # a trial run is no short input
        ({"offset": 2}, 3),
        ({"offset": 2, "limit": 1}, 3),
        ({"offset": 9, "limit": 1}, 0),
    ],
)
def test_rows_are_counted_after_the_offset_and_before_the_limit(
    tmp_path: Path, settings: dict[str, int], usable: int
) -> None:
    here = Project(tmp_path / "project", input=settings)
    here.rows(5)
    for fewest in range(1, 7):
        here.change(input={"min_rows": fewest})
        plan = make_plan(load_job(here.job_file))
        if fewest <= usable:
            assert plan.survey().rows == min(usable, settings.get("limit", 5))
        else:
            with pytest.raises(SpecErrors, match=f"rows? to use, and `input.min_rows` asks for {fewest}"):
                plan.survey()


@pytest.mark.parametrize("how", ["skip", "error_row"])
def test_rows_that_cannot_be_used_do_not_count(tmp_path: Path, how: str) -> None:
    here = Project(tmp_path / "project", input={"min_rows": 2, "on_bad_row": how})
    here.rows([{"id": "", "text": "a"}, {"id": "r1", "text": "b"}])
    for limit in (None, 1):
        here.change(input={"limit": limit})
        with pytest.raises(SpecErrors) as caught:
            make_plan(load_job(here.job_file)).survey()
        assert caught.value.message == "the input (rows.jsonl) has 1 row to use, and `input.min_rows` asks for 2"
        assert (caught.value.hint or "").endswith(
            "; the first row that cannot be used is rows.jsonl:1: the id column `id` is empty"
        )
