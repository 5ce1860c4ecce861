"""A year of nights, on a clock that stands still: runs, records, answers and alerts are real."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import work_at
from forked import Forked
from hooks import hooks
from nights import InProcess, Nights
from project import Project, simulator

from runner.latest import latest_of
from runner.service.book import Task

NIGHTS = int(os.environ.get("NIGHTS", "365"))
KILLED, MISSED, BAD, OVERLAPPED = 20, 10, 5, 3
SCHEDULE = {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "grace": "6h", "overlap": "skip"}


class Dying:
    """A task in a process that is killed after so many seconds."""

    def __init__(self, nights: Nights, task: Task, after_s: float) -> None:
        arguments = [str(task.id), str(nights.outputs), str(nights.wall.now_us())]
        folder = Path(work_at.__file__).parent
        process = Forked("work_at", arguments, folder, nights.project.environ)
        time.sleep(after_s)
        process.kill()
        process.communicate()
        self._code = process.returncode

    def poll(self) -> int | None:
        return self._code

    def stop(self) -> None:
        pass

    kill = stop


def test_a_year_of_nights(project: Callable[..., Project]) -> None:
    draws = random.Random(2026)
    counts = [-(-count * NIGHTS // 365) for count in (KILLED, MISSED, BAD, OVERLAPPED)]
    drawn = iter(draws.sample(range(2, NIGHTS - 1, 2), sum(counts)))
    killed, missed, bad, overlapped = (set(islice(drawn, count)) for count in counts)
    rows: list[dict[str, Any]] = []

    with simulator() as server, hooks() as hook:
        nights = Nights(project(server.base_url, rows=[]), "2025-12-31T12:00+00:00")
        nights.project.environ["ALERT_URL"] = hook.url
        nights.job("nightly", schedule=SCHEDULE, incremental="id", notify={"to": [{"url_env": "ALERT_URL"}]},
                   limits={"concurrency": 1})  # fmt: skip
        nights.work()

        def launch(task: Task) -> InProcess | Dying:
            if night in killed and task.kills == 0:
                return Dying(nights, task, draws.uniform(0, 0.12))
            return InProcess(nights, task, timedelta(hours=30 if night in overlapped else 0))

        nights.launch = launch
        for night in range(NIGHTS):
            new = range(draws.choice((0, 0, 0, 1, 2)))
            rows += [{"id": f"{night}-{number}", "text": f"paper {night}.{number} on physics"} for number in new]
            nights.project.rows(rows)
            if night in bad:
                nights.project.rows_file.write_text("{ this is no JSON\n", encoding="utf-8")
            noon = datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(days=night)
            if night in missed:
                nights.wall.now = noon  # the machine was off
            if night in missed or night % 9 == 0:
                nights.start()  # as after a kill, also of one whose task is going on
            nights.until(noon.isoformat(), timedelta(hours=14))
        night = NIGHTS
        nights.until((noon + timedelta(hours=12)).isoformat(), timedelta(hours=1))
        stats, told, records = server.stats(), [message["event"] for message in hook.messages], nights.records()

    assert [at for at, _ in records] == [at for at, _ in sorted(records)], "one record for each moment, in order"
    assert len(records) == NIGHTS
    outcomes = [outcome for _, outcome in records]
    skipped = {night + 1 for night in overlapped}
    for kind, when in (("missed", missed), ("failed", bad), ("skipped", skipped)):
        assert [night for night, outcome in enumerate(outcomes) if outcome == kind] == sorted(when), kind
    assert set(outcomes) == {"success", "missed", "failed", "skipped"}

    assert stats["distinct_bodies"] == len(rows)
    assert stats["extra_answers"] <= len(killed), "at most the one request that was on its way when its run was killed"
    with latest_of("nightly", outputs=nights.outputs) as latest:
        answered = [row["_id"] for table in latest.tables() for row in table.to_pylist()]
    assert sorted(answered) == sorted(row["id"] for row in rows)

    turns = [outcome for outcome in outcomes if outcome in ("success", "failed")]
    changes = [new for old, new in pairwise(["success", *turns]) if new != old]
    assert told == ["failure" if new == "failed" else "recovered" for new in changes]
