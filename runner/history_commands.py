"""The commands that look at what was done, and keep it in order. Heavy modules are imported where they are used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from runner.errors import Exit
from runner.options import find_run, names, outputs_option, run_argument, say_error
from runner.stdio import complain, say


@click.command()
@click.argument("job", required=False)
@click.option("--since", metavar="TIME", help="Only those that began since: 7d, 12h, 2026-11-01 (UTC).")
@click.option("--status", metavar="A,B", help="Only those that came out like this: success, partial, stopped, failed …")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
@outputs_option
def runs(job: str | None, since: str | None, status: str | None, as_json: bool, outputs: Path | None) -> int:
    """List the runs of all jobs, or of one, the newest last: JOB is its name, file or folder under outputs/."""
    from runner.listing import list_runs

    say(list_runs(job, outputs, as_json=as_json, since=since, statuses=names(status)))
    return Exit.OK


@click.command()
@run_argument
@click.option("--json", "as_json", is_flag=True, help="Print the run's record as JSON on stdout.")
@outputs_option
def show(run: str | None, as_json: bool, outputs: Path | None) -> int:
    """Explain one RUN: how it went, what it was made from, what to type next."""
    from runner.listing import show_run

    say(show_run(find_run(run, outputs), as_json=as_json))
    return Exit.OK


@click.command()
@click.argument("run")
@click.argument("other", required=False, metavar="[RUN2]")
@click.option(
    "--rows",
    default=20,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="How many of the rows to show whose answer changed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
@outputs_option
def diff(run: str, other: str | None, rows: int, as_json: bool, outputs: Path | None) -> int:
    """Say what differs between two runs, or between the last two of a job: RUN is then the job's name or file."""
    from runner.run_diff import compare_runs, last_two

    two = last_two(run, outputs) if other is None else (find_run(run, outputs), find_run(other, outputs))
    found = compare_runs(*two, rows)
    say(json.dumps(found.as_json(), indent=2, ensure_ascii=False) if as_json else found.text())
    return Exit.OK


@click.command()
@run_argument
@click.option("--format", "format_", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option(
    "--to", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write here instead of to stdout."
)
@click.option(
    "--needs-review", is_flag=True, help="Only rows that are less sure than the job's `accept_at`, or that failed."
)
@outputs_option
def export(run: str | None, format_: str, target: Path | None, needs_review: bool, outputs: Path | None) -> int:
    """Write the rows of a RUN out, in input order."""
    from runner.export import export_run

    export_run(find_run(run, outputs), format_, target, needs_review=needs_review)
    return Exit.OK


@click.command()
@click.argument("job")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["parquet", "csv", "jsonl"]),
    help="Default: what the name of FILE says, or CSV.",
)
@click.option(
    "--to", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write here instead of to stdout."
)
@click.option("--as-of", metavar="RUN", help="As it was after this run.")
@outputs_option
def dataset(job: str, format_: str | None, target: Path | None, as_of: str | None, outputs: Path | None) -> int:
    """Write the whole current dataset of a JOB: the latest answer to each row, over all its runs."""
    from runner.export import export_dataset
    from runner.latest import latest_of

    with latest_of(job, as_of, outputs) as latest:
        rows = export_dataset(latest, format_, target)
    complain("\n".join(latest.notes(rows)))
    return Exit.OK


@click.command()
@click.argument("job", required=False)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted; delete nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
@outputs_option
def prune(job: str | None, dry_run: bool, as_json: bool, outputs: Path | None) -> int:
    """Delete the runs of a JOB that its `keep` does not, but none that something needs; without JOB of every job."""
    from runner.retention import prune_named

    done = prune_named(job, outputs, dry_run=dry_run)
    for error in done.refused:
        say_error(error)
    say(json.dumps(done.as_json(), indent=2) if as_json else done.text())
    return done.refused[0].exit_code if done.refused else Exit.OK


@click.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@click.option("--max-age", metavar="SPAN", help="Such as 26h; default: `notify.late_after` of each job, else 26h.")
@click.option("--tell", is_flag=True, help="Tell those who asked for `late` in the job file, once.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
@outputs_option
def check(jobs: tuple[str, ...], max_age: str | None, tell: bool, as_json: bool, outputs: Path | None) -> int:
    """Say whether each JOB has succeeded lately; exit with 3 where one has not. Default: all jobs that have run."""
    from runner import checkup
    from runner.clock import SystemClock

    checked, code = checkup.check_jobs(jobs, max_age, outputs, SystemClock().now_us())
    if tell:
        checkup.tell(checked, SystemClock(), os.environ, lambda text: complain(f"warning: {text}"))
    say(checkup.as_json(checked) if as_json else checkup.text(checked))
    return code


ALL = (runs, show, diff, export, dataset, prune, check)
