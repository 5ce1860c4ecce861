"""The command `runner`. Heavy modules are imported where they are used, so that `--help` answers at once."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runner import __version__, history_commands
from runner.errors import Exit, RunnerError, SpecError
from runner.options import find_run, names, outputs_option, run_argument, say_error, settings_option
from runner.overrides import full_run
from runner.overrides import read_settings as _overrides
from runner.overrides import redirected as _redirected
from runner.schedule.commands import schedule
from runner.service import commands as service
from runner.stdio import complain, finish, say, use_utf8

if TYPE_CHECKING:
    from datetime import date

    from runner.execution import Outcome
    from runner.progress import Console

F = TypeVar("F", bound=Callable[..., Any])


class _Group(click.Group):
    """Suggests a command for a mistyped one, and lists all of them in whole sentences."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if near:
                raise click.UsageError(f"{error.message} Did you mean '{near[0]}'?") from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List each command with its whole first sentence; click cuts it off at the end of a line."""
        shown = [(name, command) for name, command in sorted(self.commands.items()) if not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit=1000)) for name, command in shown])


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Run a dataset through an LLM API, as one YAML file says, into Parquet."""


for command in (schedule, *history_commands.ALL, *service.ALL):
    cli.add_command(command)


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_strategy = click.option(
    "--strategy",
    metavar="NAME",
    help="How to carry the requests out: asyncio, threads, processes, batch_api …",
)
_shown = _options(
    click.option("--quiet", "-q", is_flag=True, help="Show nothing but errors."),
    click.option("--json", "as_json", is_flag=True, help="Print the run's record as JSON on stdout."),
)
_date = click.option(
    "--date", "day", metavar="DATE", help="The date that it is for: 2026-01-05, today or yesterday; default: today."
)


@cli.command()
@click.argument("job", type=click.Path(path_type=Path))
@settings_option
@_strategy
@click.option("--endpoint", metavar="NAME", help="Send to this endpoint instead of the job's.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take only the first N rows.")
@click.option("--rehearse", is_flag=True, help="Send to the embedded simulator: no key, no cost, no real answers.")
@click.option("--full", is_flag=True, help="Send every row, though the job says `incremental`.")
@click.option("--dry-run", is_flag=True, help="Show rows, first request, tokens, cost and time; send nothing.")
@click.option("--detach", is_flag=True, help="Batch API: submit, and come back later with `runner resume`.")
@click.option("--scheduled", is_flag=True, help="As schedulers start it: marked so, and `reuse` is on by default.")
@click.option(
    "--date",
    "day",
    metavar="DATE",
    help="Make the run for this date, unless it is there: 2026-01-05, today or yesterday. Unfinished, it goes on.",
)
@click.option("--force", is_flag=True, help="With --date: make another run, whatever there is.")
@outputs_option
@_shown
def run(
    job: Path,
    settings: tuple[str, ...],
    strategy: str | None,
    endpoint: str | None,
    limit: int | None,
    rehearse: bool,
    full: bool,
    dry_run: bool,
    detach: bool,
    scheduled: bool,
    day: str | None,
    force: bool,
    outputs: Path | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run a JOB file from its first row."""
    if force and day is None:
        raise SpecError("--force goes with --date", hint="without --date every run is a new one")
    run_date = _read_date(job, day, "--date")
    overrides = _redirected(_overrides(settings, strategy), endpoint, rehearse)
    if limit is not None:
        overrides["input.limit"] = str(limit)
    if full:
        overrides |= full_run()
    if scheduled and day is not None:
        raise SpecError("--scheduled and --date exclude each other: a moment of a schedule has its date")
    if scheduled and not dry_run:
        from runner.service.own_turn import run_scheduled

        outcome = run_scheduled(job, overrides, outputs, _console(quiet, as_json), detach=detach)
        if outcome.idle and not as_json:  # which was said
            return outcome.exit_code
        return _show_outcome(outcome, quiet, as_json, detach=detach)
    if dry_run:
        from runner.dry_run import dry_run as estimate

        if scheduled:
            from runner.service.submission import unattended

            overrides = dict(unattended(job, overrides).overrides)

        shown = estimate(job, overrides, outputs=outputs, run_date=run_date)
        say(json.dumps(shown.as_json(), indent=2, ensure_ascii=False) if as_json else shown.text())
        return Exit.OK
    from runner import app, detached
    from runner.batches.office import Errand
    from runner.load import load_job

    loaded = load_job(job, overrides=overrides, environ=os.environ, run_date=run_date)
    if detach:
        detached.refuse_to_detach(loaded)
    console, errand = _console(quiet, as_json), Errand(wait=not detach)
    if run_date is None:
        outcome = app.start(loaded, outputs=outputs, console=console, errand=errand)
    else:
        from runner.dated import nothing_to_do, run_for_date

        outcome = run_for_date(loaded, force=force, outputs=outputs, console=console, errand=errand)
        if outcome.idle and not as_json:
            if not quiet:
                say(nothing_to_do(loaded, outcome))
            return outcome.exit_code
    return _show_outcome(outcome, quiet, as_json, detach=detach)


@cli.command()
@click.argument("job", type=click.Path(path_type=Path))
@click.option("--from", "first", required=True, metavar="DATE", help="The first date: 2026-01-01, today or yesterday.")
@click.option("--to", "last", required=True, metavar="DATE", help="The last date, inclusive.")
@click.option(
    "--missing", "mode", flag_value="missing", default=True, help="Dates without a finished run; the default."
)
@click.option("--failed", "mode", flag_value="failed", help="Dates whose newest run is no success.")
@click.option("--all", "mode", flag_value="all", help="Every date; those that are a success do nothing.")
@click.option("--force", is_flag=True, help="With --all: a new run for every date, whatever there is.")
@click.option(
    "--max-active", default=1, show_default=True, type=click.IntRange(1, 64), metavar="N", help="Runs at a time."
)
@click.option("--dry-run", is_flag=True, help="List what would be done for each date; begin nothing.")
@settings_option
@_strategy
@click.option("--endpoint", metavar="NAME", help="Send to this endpoint instead of the job's.")
@click.option("--rehearse", is_flag=True, help="Send to the embedded simulator: no key, no cost, no real answers.")
@outputs_option
@_shown
def backfill(
    job: Path,
    first: str,
    last: str,
    mode: str,
    force: bool,
    max_active: int,
    dry_run: bool,
    settings: tuple[str, ...],
    strategy: str | None,
    endpoint: str | None,
    rehearse: bool,
    outputs: Path | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Make the runs of a JOB for a range of dates: those of its schedule, or else every day."""
    from runner.backfill import Backfill, Order, mode_named

    from_, to = _read_date(job, first, "--from"), _read_date(job, last, "--to")
    assert from_ is not None
    assert to is not None
    overrides = _redirected(_overrides(settings, strategy), endpoint, rehearse)
    work = Backfill(Order(job, from_, to, mode_named(mode), force, max_active, overrides, outputs))
    if dry_run:
        say("\n".join(work.foreseen()))
        return Exit.OK
    spoken = not quiet and not as_json
    ended = work.run(_console(quiet, as_json), lambda one: say(one.text()) if spoken else None)
    if as_json:
        say(json.dumps(ended.as_json(), indent=2, ensure_ascii=False))
    elif spoken:
        say(ended.text())
    return ended.exit_code


@cli.command()
@click.argument("job", type=click.Path(path_type=Path))
@settings_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def plan(job: Path, settings: tuple[str, ...], as_json: bool) -> int:
    """Compare the models that fit a JOB, at each service tier: cost and earliest finish. Nothing is sent."""
    from runner.offers import compare_offers

    found = compare_offers(job, _overrides(settings))
    say(json.dumps(found.as_json(), indent=2, ensure_ascii=False) if as_json else found.text())
    return Exit.OK


@cli.command()
@run_argument
@settings_option
@_strategy
@click.option(
    "--wait/--no-wait",
    default=None,
    help="Batch API: wait until all batches have ended, or look once and leave. Default: as in the last session.",
)
@outputs_option
@_shown
def resume(
    run: str | None,
    settings: tuple[str, ...],
    strategy: str | None,
    wait: bool | None,
    outputs: Path | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Continue a RUN that stopped: only rows without a result are sent.

    RUN is a run's folder, or a job's name, file or folder (its newest run); default: the newest run of all.
    """
    from runner import app, detached
    from runner.batches.office import Errand

    folder = find_run(run, outputs)
    errand = Errand(wait=detached.to_wait(folder, wait))
    outcome = app.resume(folder, _overrides(settings, strategy), console=_console(quiet, as_json), errand=errand)
    return _show_outcome(outcome, quiet, as_json)


@cli.command()
@run_argument
@settings_option
@_strategy
@outputs_option
@_shown
def retry(
    run: str | None, settings: tuple[str, ...], strategy: str | None, outputs: Path | None, quiet: bool, as_json: bool
) -> int:
    """Send only the failed rows of a finished RUN again, and put the new results in their place."""
    from runner import app

    folder = find_run(run, outputs)
    outcome = app.resume(folder, _overrides(settings, strategy), retry=True, console=_console(quiet, as_json))
    return _show_outcome(outcome, quiet, as_json)


@cli.command()
@click.argument("job", type=click.Path(path_type=Path))
@click.option("--strategies", metavar="A,B", help="Which to compare; default: all, unless --concurrency or --models.")
@click.option("--concurrency", metavar="N,M", help="How many requests in flight; default: what the job says.")
@click.option("--models", metavar="A,B", help="Which models; default: the job's.")
@click.option("--n", "rows", default=10, show_default=True, type=click.IntRange(min=1), help="How many rows.")
@click.option(
    "--rounds", default=3, show_default=True, type=click.IntRange(1, 100), help="How often each has its turn."
)
@settings_option
@click.option("--endpoint", metavar="NAME", help="Send to this endpoint instead of the job's.")
@click.option("--rehearse", is_flag=True, help="Send to the embedded simulator: no key, no cost, no real answers.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before requests that cost money.")
@click.option(
    "--output", "folder", type=click.Path(path_type=Path), metavar="DIR",
    help="Write here; default: outputs/compare/NAME-TIME/.",
)  # fmt: skip
@click.option("--quiet", "-q", is_flag=True, help="Show nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON on stdout.")
def compare(
    job: Path,
    strategies: str | None,
    concurrency: str | None,
    models: str | None,
    rows: int,
    rounds: int,
    settings: tuple[str, ...],
    endpoint: str | None,
    rehearse: bool,
    yes: bool,
    folder: Path | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Measure strategies, concurrencies or models against each other, on the first rows of a JOB."""
    from runner.compare import Choice
    from runner.compare import compare as contest

    choice = Choice(names(strategies), _numbers(concurrency, "--concurrency"), names(models))
    comparison, code = contest(
        job,
        _redirected(_overrides(settings), endpoint, rehearse),
        choice,
        rows=rows,
        rounds=rounds,
        folder=folder,
        console=_console(quiet, as_json),
        confirm=(lambda cost: True) if yes else _confirm,
    )
    if comparison is not None and as_json:
        say(json.dumps(comparison.as_json(), indent=2, default=str))
    elif comparison is not None and not quiet:
        say(comparison.text())
    return code


def _numbers(listed: str | None, option: str) -> list[int]:
    try:
        numbers = [int(name) for name in names(listed)]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers):
        raise SpecError(
            f"{option} takes whole numbers from 1 up, got `{listed}`", hint=f"for instance {option} 1,16,64"
        )
    return numbers


def _confirm(cost: str) -> bool:
    if not sys.stdin.isatty():
        raise SpecError(f"nobody is here to confirm that {cost}", hint="add `--yes`, or `--rehearse` for no cost")
    return click.confirm(f"{cost}. Send them?", err=True)


@cli.command()
@run_argument
@click.option("--cancel", is_flag=True, help="Cancel those that have not ended, and collect what they finished.")
@outputs_option
@_shown
def batches(run: str | None, cancel: bool, outputs: Path | None, quiet: bool, as_json: bool) -> int:
    """List the batches of a RUN at the Batch API, or cancel them."""
    from runner import app, detached
    from runner.batches import ledger, listing
    from runner.batches.office import Errand
    from runner.clock import SystemClock

    folder = find_run(run, outputs)
    if cancel and ledger.has_open(folder):
        outcome = app.resume(folder, {}, console=_console(quiet, as_json), errand=Errand(cancel=True))
        code = _show_outcome(outcome, quiet, as_json)
        return Exit.OK if outcome.stopped_by is None and not outcome.open_batches else code
    entries = detached.batches(folder)
    say(listing.as_json(entries) if as_json else listing.table(entries, SystemClock().now_us()))
    return Exit.OK


@cli.command()
@click.argument("job", type=click.Path(path_type=Path))
@click.option("--row", "row_id", required=True, metavar="ID", help="Which row of the input.")
@settings_option
@click.option("--endpoint", metavar="NAME", help="As if sent to this endpoint instead of the job's.")
@click.option("--rehearse", is_flag=True, help="As if sent to the embedded simulator.")
@_date
@outputs_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def explain(
    job: Path,
    row_id: str,
    settings: tuple[str, ...],
    endpoint: str | None,
    rehearse: bool,
    day: str | None,
    outputs: Path | None,
    as_json: bool,
) -> int:
    """Say which earlier answer a row of a JOB would get, or why it would be sent again."""
    from runner.explain import explain as look

    overrides = _redirected(_overrides(settings), endpoint, rehearse)
    rows = look(job, row_id, overrides, outputs, run_date=_read_date(job, day, "--date"))
    say(
        json.dumps([row.as_json() for row in rows], indent=2, ensure_ascii=False)
        if as_json
        else "\n".join(row.text() for row in rows)
    )
    return Exit.OK


@cli.command()
@click.argument("job", type=click.Path(path_type=Path))
@click.option("--test", is_flag=True, help="Send each target a message that says it is a test.")
@settings_option
@outputs_option
def notify(job: Path, test: bool, settings: tuple[str, ...], outputs: Path | None) -> int:
    """Show whom a JOB tells of what, and what they know; or, with --test, whether messages arrive."""
    from runner.load import load_job
    from runner.notify import listing

    loaded = load_job(job, overrides=_overrides(settings))
    if not test:
        say(listing.known(loaded, os.environ, outputs))
        return Exit.OK
    text, code = listing.send_tests(loaded, os.environ)
    say(text)
    return code


@cli.command()
def schema() -> int:
    """Print the JSON Schema of job files, for editors."""
    from runner.spec import job_schema

    say(json.dumps(job_schema(), indent=2))
    return Exit.OK


@cli.command()
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free port.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--settings", default="{}", metavar="YAML", help="What an endpoint's `simulator:` block may hold.")
def simulate(port: int, host: str, settings: str) -> int:
    """Start a local OpenAI-compatible server, and keep it running until Ctrl-C."""
    from runner.problems import SpecErrors
    from runner.simulator import SimulatorSettings, serve
    from runner.validation import check
    from runner.yaml_source import parse

    source = parse(settings, "--settings", what="value of --settings", may_be_empty=True)
    wanted, problems = check(SimulatorSettings, source, source.data)
    if wanted is None or source.problems:
        raise SpecErrors([*source.problems, *problems])

    def announce(base_url: str) -> None:
        click.echo(base_url)
        click.echo("simulating until Ctrl-C; what it saw: GET /stats", err=True)

    serve(wanted, host, port, announce)
    return Exit.OK


def _read_date(job: Path, text: str | None, option: str) -> date | None:
    """Return the date that an option names; None: it was not given."""
    if text is None:
        return None
    from runner.clock import SystemClock
    from runner.run_date import Calendar

    return Calendar.of(job, SystemClock().now_us(), os.environ).read(text, option)


def _console(quiet: bool, as_json: bool) -> Console:
    from runner.progress import Console, is_terminal

    return Console(quiet=quiet, live=is_terminal() and not as_json)


def _show_outcome(outcome: Outcome, quiet: bool, as_json: bool, *, detach: bool = False) -> int:
    if outcome.stopped_by is not None:
        say_error(outcome.stopped_by)
    try:
        if as_json or not quiet:
            say(_outcome_text(outcome, as_json))
    except SpecError as error:
        say_error(error)  # but how the run ended is what the exit code tells
    return Exit.OK if detach and outcome.manifest.status == "waiting" else outcome.exit_code


def _outcome_text(outcome: Outcome, as_json: bool) -> str:
    from dataclasses import asdict

    from runner.report import report

    if as_json:
        record = {**asdict(outcome.manifest), "folder": str(outcome.folder), "exit_code": int(outcome.exit_code)}
        return json.dumps(record, indent=2, ensure_ascii=False, default=str)
    if outcome.idle:
        more = "`runner retry` sends the failed ones again" if outcome.exit_code else "`runner show` tells more"
        return f"nothing to do: every row of {outcome.folder.name} has a result; {more}"
    return report(outcome.manifest, outcome.folder)


def main() -> None:
    """Run the command line and exit with one of the codes in `runner.errors.Exit`."""
    # Before pyarrow is imported: its own allocator keeps 20 MB more, and 40 at the end of a large run.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    use_utf8()
    try:
        code = cli.main(standalone_mode=False)
    except RunnerError as error:
        say_error(error)
        code = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = Exit.USAGE
    except click.ClickException as error:
        say_error(error.format_message())
        complain("hint: `runner --help` lists the commands, `runner COMMAND --help` its options")
        code = Exit.USAGE
    except PermissionError as error:  # wherever it comes from, it is no bug, and only the user can mend it
        hint = "check its permissions, and those of the folders above it"
        say_error(SpecError(error.strerror or str(error), where=error.filename, hint=hint))
        code = Exit.USAGE
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted")
        code = Exit.INTERRUPTED
    finish()
    _exit(int(code or 0))


def _exit(code: int) -> None:
    """Exit; threads that still wait for a server, after a run that was told to stop at once, do not hold it up."""
    if all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate()):
        sys.exit(code)
    os._exit(code)  # what was said has been written by `finish`
