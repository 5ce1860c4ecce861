"""The commands of the queue and the service. Heavy modules are imported where they are used."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import click

from runner.errors import Exit, SpecError
from runner.options import outputs_option, settings_option
from runner.stdio import complain, say, stdout


@click.command()
@click.argument("job", type=click.Path(path_type=Path))
@click.option("--at", metavar="TIME", help="Not before: 02:00, 2026-12-01T02:00+01:00, or a span such as 2h.")
@click.option(
    "--priority",
    default=0,
    type=click.IntRange(-1_000_000, 1_000_000),
    metavar="N",
    help="Higher goes first; default: 0.",
)
@settings_option
@click.option("--date", "date_", metavar="DATE", help="The date that it is for: 2026-01-31, today or yesterday.")
@click.option("--full", is_flag=True, help="Also the rows that `incremental` would leave out.")
@click.option("--rehearse", is_flag=True, help="Send to the embedded simulator: no key, no cost, no real answers.")
@outputs_option
def submit(
    job: Path,
    at: str | None,
    priority: int,
    settings: tuple[str, ...],
    date_: str | None,
    full: bool,
    rehearse: bool,
    outputs: Path | None,
) -> int:
    """Put a JOB into the queue, as its file is now; `runner serve` runs it."""
    from runner.clock import SystemClock
    from runner.overrides import full_run, read_settings, redirected
    from runner.run_date import Calendar
    from runner.service.book import Book
    from runner.service.listing import NOT_SERVED, is_served
    from runner.service.submission import begins, prepared

    now_us = SystemClock().now_us()
    overrides = redirected(read_settings(settings), None, rehearse)
    if full:
        overrides |= full_run()
    run_date = None if date_ is None else Calendar.of(job, now_us, os.environ).read(date_, "--date")
    new = prepared(job, begins(at, now_us), "submit", overrides=overrides, priority=priority, run_date=run_date)
    outputs = outputs or Path(new.root) / "outputs"
    with Book(outputs) as book:
        task = book.submit(new, now_us)
    assert task is not None  # only one with a token may be there already
    say(str(task.id))
    complain(f"{task.job} is queued as task {task.id}" + ("" if is_served(outputs) else f"; {NOT_SERVED}"))
    return Exit.OK


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...", type=click.Path(path_type=Path))
@click.option("--workers", default=4, show_default=True, type=click.IntRange(1, 100), help="How many jobs at a time.")
@click.option("--until-idle", is_flag=True, help="End when nothing is queued or going on.")
@outputs_option
def serve(jobs: tuple[Path, ...], workers: int, until_idle: bool, outputs: Path | None) -> int:
    """Run what is queued and what schedules say, until stopped.

    Schedules are those of the JOB files; default: of all in jobs/. Job files dropped into jobs/inbox/ are submitted.
    """
    from runner.clock import SystemClock
    from runner.lock import locked
    from runner.runs import outputs_here
    from runner.service.book import HOME, Book
    from runner.service.folder import ScheduledJobs
    from runner.service.inbox import INBOX, Inbox
    from runner.service.processes import OwnProcesses
    from runner.service.serve import Service
    from runner.signals import at_an_ending

    for job in jobs:
        if not job.is_file():
            raise SpecError(f"there is no job file {job}")
    outputs = outputs or outputs_here()
    folder = outputs.parent / "jobs"
    home = outputs / HOME
    home.mkdir(parents=True, exist_ok=True)
    wake = threading.Event()
    with locked(home, "runner serve", "another service works on this folder"), Book(outputs) as book:
        service = Service(
            outputs,
            book,
            ScheduledJobs(folder, jobs),
            Inbox(folder / INBOX),
            workers=workers,
            launch=OwnProcesses(outputs),
            clock=SystemClock(),
            environ=os.environ,
            say=complain,
        )

        def on_signal() -> None:
            if service.stopping:
                service.kill()
            else:
                service.stopping = True
                complain("stopping: runs finish what is on its way (again to end them at once)")
            wake.set()

        complain(f"serving {outputs} with {workers} {'worker' if workers == 1 else 'workers'}; Ctrl-C stops")
        with at_an_ending(on_signal):
            service.run(wake, until_idle=until_idle)
    return Exit.OK


@click.command()
@click.option("--all", "every", is_flag=True, help="All that have ended, not only the last ten.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
@outputs_option
def queue(every: bool, as_json: bool, outputs: Path | None) -> int:
    """List what is queued, what is going on, and what has ended lately."""
    from runner.clock import SystemClock
    from runner.runs import outputs_here
    from runner.service import listing
    from runner.service.book import Book

    outputs = outputs or outputs_here()
    with Book(outputs, to_read=True) as book:
        say(listing.table(book, outputs, SystemClock().now_us(), as_json=as_json, every=every))
    return Exit.OK


@click.command()
@click.argument("task", type=click.IntRange(1, 1 << 53), metavar="ID")
@outputs_option
def cancel(task: int, outputs: Path | None) -> int:
    """End a task of the queue: what it has on its way is finished, and `runner resume` could go on with its run."""
    from runner.clock import SystemClock
    from runner.runs import outputs_here
    from runner.service.book import Book
    from runner.service.listing import is_served

    outputs = outputs or outputs_here()
    with Book(outputs) as book:
        if book.task(task).state == "ended":
            raise SpecError(f"task {task} has ended already: {book.task(task).outcome}")
        found = book.cancel(task, SystemClock().now_us())
        if found.state == "running" and not is_served(outputs):
            book.end(found, SystemClock().now_us(), "cancelled", "cancelled while no service was running")
            found = book.task(task)
    complain(f"task {task} is cancelled" if found.state == "ended" else f"task {task} is asked to end")
    return Exit.OK


@click.command()
@click.argument("task", type=click.IntRange(1, 1 << 53), metavar="ID")
@click.option("--follow", "-f", is_flag=True, help="Go on until the task ends.")
@outputs_option
def logs(task: int, follow: bool, outputs: Path | None) -> int:
    """Show what a task of the queue has said."""
    from runner.runs import outputs_here
    from runner.service import listing
    from runner.service.book import Book

    outputs = outputs or outputs_here()
    with Book(outputs, to_read=True) as book, stdout() as out:
        for piece in listing.log(book, outputs, task, follow=follow):
            out.write(piece)
            out.flush()
    return Exit.OK


@click.command(hidden=True)
@click.argument("task", type=click.IntRange(1, 1 << 53), metavar="ID")
@outputs_option
def work(task: int, outputs: Path | None) -> int:
    """Carry a task of the queue out: what the service starts. It stops when stdin ends."""
    from runner.progress import Console
    from runner.report import report
    from runner.runs import outputs_here
    from runner.service.book import Book
    from runner.service.work import stop_with_parent
    from runner.service.work import work as carry_out
    from runner.stop import Stop

    outputs = outputs or outputs_here()
    stop = Stop()
    stop_with_parent(stop)
    with Book(outputs) as book:
        found = book.task(task)
    outcome = carry_out(
        found,
        outputs,
        os.environ,
        stop=stop,
        console=Console(live=False),
        warn=lambda text: complain(f"warning: {text}"),
    )
    if outcome.stopped_by is not None:
        complain(f"error: {outcome.stopped_by}")
    say(report(outcome.manifest, outcome.folder))
    sys.stdout.flush()
    return outcome.exit_code


ALL = (submit, serve, queue, cancel, logs, work)
