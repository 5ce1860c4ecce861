"""Shows the queue, and what a task has said."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from runner import runs
from runner.errors import SpecError
from runner.lock import is_locked
from runner.manifest import utc_text
from runner.service.book import HOME, Book, Task
from runner.service.work import LOG, home_of, is_waiting

RECENT = 10
"""How many of the tasks that have ended are shown."""

_LOOK_S = 0.2


def table(book: Book, outputs: Path, now_us: int, *, as_json: bool, every: bool = False) -> str:
    """Return the queue: what has ended lately, what is going on, and what is to come.

    Args:
        every: all that have ended.
    """
    ended = book.last_ended(1 << 62 if every else RECENT)
    going = sorted(book.tasks("running"), key=lambda task: task.started_us or 0)
    queued = book.tasks("queued")
    tasks = [*ended, *going, *queued]
    if as_json:
        return json.dumps([_as_json(task, outputs) for task in tasks], indent=2, ensure_ascii=False)
    if not tasks:
        return "the queue is empty: `runner submit JOB` puts a job into it"
    head = ("ID", "JOB", "STATUS", "WHEN (UTC)", "FROM", "PRIORITY", "RUN")
    lines = [head, *(_line(task, now_us, outputs) for task in tasks)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)  # fmt: skip
    waiting = queued or going
    return text if not waiting or is_served(outputs) else f"{text}\n{NOT_SERVED}"


NOT_SERVED = "no service is running here: `runner serve` works through the queue"


def is_served(outputs: Path) -> bool:
    """Whether a service works on this `outputs/`."""
    return is_locked(outputs / HOME)


def _line(task: Task, now_us: int, outputs: Path) -> Sequence[str]:
    at_us = {"queued": task.begins_us, "running": task.started_us, "ended": task.ended_us}[task.state] or 0
    word = {"queued": "queued", "running": "running", "ended": task.outcome or "ended"}[task.state]
    if task.state == "queued" and task.begins_us > now_us:
        word = "later"
    if task.state == "running" and is_waiting(outputs, task.id):
        word = "waiting"
    if task.state == "running" and task.cancelled:
        word = "ending"
    run = task.run or (_run_name(task, outputs) if task.started_us else None)
    where = "-" if run is None else run
    return (
        str(task.id), task.job, word, utc_text(at_us)[:19].replace("T", " "), task.source,
        str(task.priority) if task.priority else "-", where if task.outcome != "failed" or run else task.message or "-",
    )  # fmt: skip


def _run_name(task: Task, outputs: Path) -> str | None:
    found = runs.of_task(outputs / task.job, task.id)
    return None if found is None else found.name


def _as_json(task: Task, outputs: Path) -> dict[str, object]:
    shown = asdict(task)
    for hidden in ("spec", "token"):
        del shown[hidden]
    for key in ("moment_us", "submitted_us", "begins_us", "started_us", "ended_us"):
        at_us = shown.pop(key)
        name = {"moment_us": "moment"}.get(key, key.replace("_us", "_at"))
        shown[name] = None if at_us is None else utc_text(at_us)
    shown["run"] = task.run or (_run_name(task, outputs) if task.started_us else None)
    return shown


def log(book: Book, outputs: Path, number: int, *, follow: bool) -> Iterator[str]:
    """Yield what a task has said, piece by piece; with `follow` until it ends.

    Raises:
        SpecError: there is no such task, or it has said nothing yet.
    """
    task = book.task(number)
    path = home_of(outputs, task.id) / LOG
    while not path.exists():
        task = book.task(number)
        if not follow or task.state == "ended":
            said = f": {task.message}" if task.message else ""
            raise SpecError(
                f"task {number} has said nothing: it is {task.outcome or task.state}{said}", where=str(path)
            )
        time.sleep(_LOOK_S)
    with open(path, encoding="utf-8", errors="replace") as file:
        while True:
            ended = book.task(number).state == "ended"  # before reading: what it said last is there by now
            if piece := file.read():
                yield piece
            if ended or not follow:
                return
            time.sleep(_LOOK_S)
