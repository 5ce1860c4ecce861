"""What is queued and what became of every moment of a schedule: an SQLite file beside the runs.

Several processes read and write it at once (a service, `runner submit`, `runner run --scheduled`). What belongs
together is written in one transaction, so that a moment never has a record without its task or the other way round.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from runner import manifest, runs
from runner.errors import FatalError, SpecError

HOME = ".service"
"""The folder under `outputs/` that holds the book, and for each task a folder with its job and its log."""

NAME = "queue.sqlite"

FOLDER = "task-"
"""What the name of a task's folder begins with; its number follows."""

_VERSION = 1
_WAIT_S = 20.0

NOT_BEGUN = "its run has not begun"
"""Why a moment has no run that another scheduler started: until it has, and for ever where the process was killed."""

State = Literal["queued", "running", "ended"]
Source = Literal["submit", "schedule", "inbox"]

_TABLES = f"""
    CREATE TABLE task (
        id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, job_file TEXT NOT NULL, root TEXT NOT NULL,
        spec TEXT NOT NULL, overrides TEXT NOT NULL, run_date TEXT NOT NULL, source TEXT NOT NULL, moment_us INTEGER,
        priority INTEGER NOT NULL, submitted_us INTEGER NOT NULL, begins_us INTEGER NOT NULL, token TEXT UNIQUE,
        state TEXT NOT NULL DEFAULT 'queued', started_us INTEGER, ended_us INTEGER, kills INTEGER NOT NULL DEFAULT 0,
        cancelled INTEGER NOT NULL DEFAULT 0, outcome TEXT, message TEXT, run TEXT
    );
    CREATE INDEX task_state ON task (state);
    CREATE TABLE moment (
        job TEXT NOT NULL, at_us INTEGER NOT NULL, verdict TEXT NOT NULL, why TEXT NOT NULL, noted_us INTEGER NOT NULL,
        task INTEGER REFERENCES task (id), PRIMARY KEY (job, at_us)
    ) WITHOUT ROWID;
    CREATE TABLE schedule (
        job TEXT PRIMARY KEY, job_file TEXT NOT NULL, line TEXT NOT NULL, since_us INTEGER NOT NULL,
        last_us INTEGER NOT NULL
    ) WITHOUT ROWID;
    PRAGMA user_version = {_VERSION};
"""


@dataclass(frozen=True, slots=True)
class NewTask:
    """A job that is to be queued.

    Attributes:
        job: its name.
        job_file: what it was made from; it may change or vanish meanwhile.
        root: the project root, which the job's paths are relative to.
        spec: the job itself, as `snapshot` gives it.
        overrides: what was asked for besides the file; the snapshot has them in.
        run_date: the logical date of its run, as ISO text.
        moment_us: the moment of its schedule that it is for.
        begins_us: when it may begin, in microseconds since 1970.
        priority: higher goes first.
        token: tells it from all others: one with the same token is not queued again.
    """

    job: str
    job_file: str
    root: str
    spec: str
    run_date: str
    source: Source
    begins_us: int
    overrides: Mapping[str, str] = field(default_factory=dict)
    moment_us: int | None = None
    priority: int = 0
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A job in the queue; the first fields as in `NewTask`.

    Attributes:
        started_us: when it was last begun or continued.
        kills: how often its process was killed, not counting the ends of the service itself.
        cancelled: whether somebody asked to end it.
        outcome: how it ended, in the words of the history; None: it has not.
        message: why no run came of it, or why it ended early.
        run: the name of its run; None: none is known.
    """

    id: int
    job: str
    job_file: str
    root: str
    spec: str
    overrides: dict[str, str]
    run_date: str
    source: Source
    moment_us: int | None
    priority: int
    submitted_us: int
    begins_us: int
    token: str | None
    state: State
    started_us: int | None
    ended_us: int | None
    kills: int
    cancelled: bool
    outcome: str | None
    message: str | None
    run: str | None


@dataclass(frozen=True, slots=True)
class Moment:
    """The record of a moment of a schedule.

    Attributes:
        at_us: which moment, in microseconds since 1970.
        verdict: `run`, `missed`, `skipped`; `failed` or `cancelled` where it could not begin.
        why: the reason, where there is one.
        task: the task that it became; None: none, or a run that another scheduler started.
    """

    job: str
    at_us: int
    verdict: str
    why: str
    noted_us: int
    task: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How far the moments of a job's schedule have been judged.

    Attributes:
        line: the schedule's cron line and time zone.
        since_us: when it was first seen.
        last_us: the last moment that has a verdict, or when this line was first seen.
    """

    job: str
    job_file: str
    line: str
    since_us: int
    last_us: int


class Book:
    """The tasks and moments of all jobs under one `outputs/`. Use it as a context manager, in one thread at a time.

    Args:
        to_read: change nothing, and make no file: for those who may not, or only look.

    Raises:
        FatalError: (each method) the file cannot be written to.
        SpecError: it is damaged, or of another version.
    """

    def __init__(self, outputs: Path, *, to_read: bool = False) -> None:
        self.path = outputs / HOME / NAME
        self._to_read = to_read
        with self._surely():
            self._connection = self._opened_to_read() if to_read else self._opened()
            self._connection.row_factory = sqlite3.Row
            with self.changing():
                version = self._connection.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:
                    for statement in filter(str.strip, _TABLES.split(";")):
                        self._connection.execute(statement)
                    self._connection.execute("INSERT INTO sqlite_sequence VALUES ('task', ?)", (_last_number(outputs),))
        if version not in (0, _VERSION):
            self._connection.close()
            raise SpecError(
                "this queue was made by another version of the runner",
                where=str(self.path),
                hint="use that version, or move the file away: queued tasks and records of moments are in it",
            )

    def _opened(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a record of what began must survive the power
        return connection

    def _opened_to_read(self) -> sqlite3.Connection:
        """Open the file as it is; without one, or while it is being made, an empty book that nobody keeps."""
        if self.path.is_file() and self.path.stat().st_size:
            address = f"{self.path.absolute().as_uri()}?mode=ro"
            with suppress(sqlite3.OperationalError):
                return self._looked_into(address)
            # The folder may not be written to either, and nobody has the file open: it will not change meanwhile.
            return self._looked_into(f"{address}&immutable=1")
        return sqlite3.connect(":memory:", isolation_level=None)

    def _looked_into(self, address: str) -> sqlite3.Connection:
        connection = sqlite3.connect(address, uri=True, timeout=_WAIT_S, isolation_level=None)
        try:
            connection.execute("SELECT count(*) FROM task").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def __enter__(self) -> Book:
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Make one transaction of what is done inside; inside another one it is part of that."""
        if self._connection.in_transaction:
            yield
            return
        with self._surely():
            self._connection.execute("BEGIN" if self._to_read else "BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    @contextmanager
    def _surely(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            busy = getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")
            held = f"another process has held it for {_WAIT_S:.0f} s: see which, and try again"
            raise FatalError(
                f"the queue cannot be used: {error}",
                kind="disk",
                where=str(self.path),
                hint=held if busy else "make room there, or mend its permissions; nothing that was queued is lost",
            ) from error
        except sqlite3.DatabaseError as error:
            raise SpecError(
                f"the queue cannot be read: {error}",
                where=str(self.path),
                hint="move the file away to begin with an empty queue; the runs are not in it and stay",
            ) from error

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._surely():
            return self._connection.execute(query, values).fetchall()

    def _write(self, query: str, values: Sequence[Any] = ()) -> int:
        with self.changing():
            return self._connection.execute(query, values).rowcount

    # Tasks ------------------------------------------------------------------------------------------------------------

    def submit(self, new: NewTask, now_us: int) -> Task | None:
        """Queue a job; None where one with its token is there already."""
        row = {name: getattr(new, name) for name in new.__dataclass_fields__} | {"submitted_us": now_us}
        row["overrides"] = json.dumps(dict(new.overrides))
        names = ", ".join(row)
        query = f"INSERT INTO task ({names}) VALUES ({', '.join('?' * len(row))}) ON CONFLICT (token) DO NOTHING"
        with self.changing():
            made = self._connection.execute(query, list(row.values()))
            return self.task(made.lastrowid) if made.rowcount and made.lastrowid else None

    def task(self, number: int) -> Task:
        """Return a task.

        Raises:
            SpecError: there is none with this number.
        """
        found = self._tasks("WHERE id = ?", (number,))
        if not found:
            raise SpecError(f"there is no task {number}", where=str(self.path), hint="`runner queue` lists them")
        return found[0]

    def with_token(self, token: str) -> Task | None:
        """Return the task that has a token; None: there is none."""
        return next(iter(self._tasks("WHERE token = ?", (token,))), None)

    def tasks(self, *states: State) -> list[Task]:
        """Return the tasks in these states, in the order in which they would be begun."""
        return self._tasks(
            f"WHERE state IN ({', '.join('?' * len(states))}) ORDER BY priority DESC, begins_us, id", states
        )

    def next_of_jobs(self, now_us: int) -> list[Task]:
        """Return of each job the task that would be begun next, in order, of those that may begin or were cancelled."""
        query = """
            WHERE id IN (
                SELECT id FROM (
                    SELECT id, ROW_NUMBER() OVER (PARTITION BY job ORDER BY priority DESC, begins_us, id) AS place
                    FROM task WHERE state = 'queued' AND (begins_us <= ? OR cancelled)
                ) WHERE place = 1
            ) ORDER BY priority DESC, begins_us, id"""
        return self._tasks(query, (now_us,))

    @property
    def has_open_tasks(self) -> bool:
        """Whether a task is queued or going on."""
        return bool(self._all("SELECT 1 FROM task WHERE state IN ('queued', 'running') LIMIT 1"))

    def last_ended(self, count: int) -> list[Task]:
        """Return the tasks that ended last, the newest last."""
        return self._tasks("WHERE state = 'ended' ORDER BY ended_us DESC, id DESC LIMIT ?", (count,))[::-1]

    def _tasks(self, where: str, values: Sequence[Any] = ()) -> list[Task]:
        return [_task(row) for row in self._all(f"SELECT * FROM task {where}", values)]

    def begin(self, task: Task, now_us: int) -> bool:
        """Mark a queued task as running; False where it is not queued any more."""
        query = "UPDATE task SET state = 'running', started_us = ? WHERE id = ? AND state = 'queued' AND NOT cancelled"
        return self._write(query, (now_us, task.id)) == 1

    def put_back(self, task: Task, begins_us: int, *, killed: bool = False) -> None:
        """Queue a running task again: its run is continued where it has one."""
        query = "UPDATE task SET state = 'queued', begins_us = ?, kills = kills + ? WHERE id = ? AND state = 'running'"
        self._write(query, (begins_us, int(killed), task.id))

    def end(self, task: Task, now_us: int, outcome: str, message: str | None = None, run: str | None = None) -> None:
        """Note how a task ended. Its job is forgotten: the run has it, and years of nights would add up."""
        query = (
            "UPDATE task SET state = 'ended', spec = '', ended_us = ?, outcome = ?, message = ?, run = ? WHERE id = ?"
        )
        self._write(query, (now_us, outcome, message, run, task.id))

    def cancel(self, number: int, now_us: int) -> Task:
        """Ask for a task's end. One that is queued ends at once; one that is running when its process has.

        Returns:
            The task as it is then.

        Raises:
            SpecError: there is none with this number.
        """
        with self.changing():
            self._write("UPDATE task SET cancelled = 1 WHERE id = ? AND state != 'ended'", (number,))
            task = self.task(number)
            if task.state == "queued":
                self.end(task, now_us, "cancelled", "cancelled while it was queued", task.run)
        return self.task(number)

    # Schedules --------------------------------------------------------------------------------------------------------

    def plan(self, job: str) -> Plan | None:
        """Return how far a job's schedule has been judged; None: it was never seen."""
        rows = self._all("SELECT * FROM schedule WHERE job = ?", (job,))
        return Plan(**dict(rows[0])) if rows else None

    def keep(self, plan: Plan) -> None:
        """Write down how far a job's schedule has been judged."""
        self._write(
            "INSERT OR REPLACE INTO schedule (job, job_file, line, since_us, last_us) VALUES (?, ?, ?, ?, ?)",
            (plan.job, plan.job_file, plan.line, plan.since_us, plan.last_us),
        )

    def note(self, moments: Iterable[Moment]) -> None:
        """Write down what becomes of moments; the last word on each counts."""
        rows = [(each.job, each.at_us, each.verdict, each.why, each.noted_us, each.task) for each in moments]
        with self.changing():
            self._connection.executemany("INSERT OR REPLACE INTO moment VALUES (?, ?, ?, ?, ?, ?)", rows)

    def moment(self, job: str, at_us: int) -> Moment | None:
        """Return the record of a moment; None: it has none."""
        rows = self._all("SELECT * FROM moment WHERE job = ? AND at_us = ?", (job, at_us))
        return Moment(**dict(rows[0])) if rows else None

    def moments(self, job: str | None = None) -> list[Moment]:
        """Return the records of moments, of one job or of all, in order."""
        where, values = ("", ()) if job is None else ("WHERE job = ?", (job,))
        return [Moment(**dict(row)) for row in self._all(f"SELECT * FROM moment {where} ORDER BY at_us, job", values)]


def _last_number(outputs: Path) -> int:
    """Return the last number that was given to a task here, by a queue that was moved away.

    The run of a task is found by its number: given again, a new task would be taken for one that is done.
    """
    given = [0]
    for folder in (outputs / HOME).glob(f"{FOLDER}*"):
        with suppress(ValueError):
            given.append(int(folder.name.removeprefix(FOLDER)))
    for run in runs.all_runs(outputs):
        with suppress(OSError, ValueError, AttributeError):
            given.append(int(json.loads((run / manifest.NAME).read_text(encoding="utf-8")).get("task") or 0))
    return max(given)


def _task(row: sqlite3.Row) -> Task:
    found = dict(row)
    found["overrides"] = json.loads(found["overrides"])
    found["cancelled"] = bool(found["cancelled"])
    return Task(**found)
