"""A year of nights, on a clock that stands still: runs, records, answers and alerts are real."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
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
    special = draws.sample(range(2, NIGHTS - 1, 2), (KILLED + MISSED + BAD + OVERLAPPED) * NIGHTS // 365)
    share = [count * NIGHTS // 365 for count in (KILLED, MISSED, BAD, OVERLAPPED)]
    killed, missed, bad, overlapped = (set(special[sum(share[:at]) : sum(share[: at + 1])]) for at in range(4))
    rows: list[dict[str, Any]] = []

    with simulator() as server, hooks() as hook:
        nights = Nights(project(server.base_url, rows=[]), "2025-12-31T12:00+00:00")
        nights.project.environ["ALERT_URL"] = hook.url
        nights.job("nightly", schedule=SCHEDULE, reuse=True, notify={"to": [{"url_env": "ALERT_URL"}]},
                   limits={"concurrency": 1})  # fmt: skip
        nights.work()
        deaths = iter([*killed])

        def lasts(task: Task) -> timedelta:
            return timedelta(hours=30) if night in overlapped else timedelta(minutes=5)

        def launch(task: Task) -> InProcess | Dying:
            if night in killed and task.kills == 0:
                return Dying(nights, task, draws.uniform(0, 0.15))
            return InProcess(nights, task, lasts(task))

        nights.launch = launch
        for night in range(NIGHTS):
            rows += [
                {"id": f"{night}-{number}", "text": f"paper {night}.{number}"} for number in range(draws.randrange(3))
            ]
            nights.project.rows(rows)
            if night in bad:
                nights.project.rows_file.write_text("{ this is no JSON\n", encoding="utf-8")
            noon = datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(days=night)
            if night in missed:
                nights.wall.now = noon  # the machine was off
                nights.start()
            elif night % 7 == 0:
                nights.until((noon - timedelta(hours=10, minutes=10)).isoformat(), timedelta(hours=4))
                nights.start()  # the service was killed
            nights.until(noon.isoformat(), timedelta(hours=4))
        nights.until((noon + timedelta(days=1)).isoformat())
        stats, told = server.stats(), [message["event"] for message in hook.messages]
        records = nights.records()
    assert len(records) >= NIGHTS
    expected = Counter(
        success=NIGHTS - len(missed) - len(bad) - len(overlapped),
        missed=len(missed),
        failed=len(bad),
        skipped=len(overlapped),
    )
    assert Counter(outcome for _, outcome in records[:NIGHTS]) == expected
