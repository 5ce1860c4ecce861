"""The command `runner`. Heavy modules are imported where they are used, so that `--help` answers at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runner import __version__
from runner.errors import Exit, RunnerError, SpecError
from runner.stdio import complain, finish, say, use_utf8

if TYPE_CHECKING:
    from runner.execution import Outcome
    from runner.progress import Console

F = TypeVar("F", bound=Callable[..., Any])


class _Group(click.Group):
    """Suggests a command for a mistyped one."""

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


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Run a dataset through an LLM API, as one YAML file says, into Parquet."""


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_set = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the job file: limits.concurrency=8."
)
_shown = _options(
    click.option("--quiet", "-q", is_flag=True, help="Show nothing but errors."),
    click.option("--json", "as_json", is_flag=True, help="Print the run's record as JSON on stdout."),
)
_outputs = click.option(
    "--output",
    "outputs",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where run folders are; default: outputs/.",
)
_run_argument = click.argument("run", required=False)


@cli.command()
@click.argument("job", type=click.Path(path_type=Path))
@_set
@click.option("--endpoint", metavar="NAME", help="Send to this endpoint instead of the job's.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Take only the first N rows.")
@click.option("--rehearse", is_flag=True, help="Send to the embedded simulator: no key, no cost, no real answers.")
@click.option("--dry-run", is_flag=True, help="Show rows, first request, tokens, cost and time; send nothing.")
@_outputs
@_shown
def run(
    job: Path,
    settings: tuple[str, ...],
    endpoint: str | None,
    limit: int | None,
    rehearse: bool,
    dry_run: bool,
    outputs: Path | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run a JOB file from its first row."""
    overrides = _overrides(settings)
    if endpoint is not None:
        if rehearse:
            raise SpecError("--rehearse and --endpoint exclude each other")
        overrides["endpoint"] = json.dumps(endpoint)
    if limit is not None:
        overrides["input.limit"] = str(limit)
    if dry_run:
        from runner.dry_run import dry_run as estimate

        shown = estimate(job, overrides, rehearse=rehearse)
        say(json.dumps(shown.as_json(), indent=2, ensure_ascii=False) if as_json else shown.text())
        return Exit.OK
    from runner import app

    outcome = app.start(job, overrides, rehearse=rehearse, outputs=outputs, console=_console(quiet, as_json))
    return _show_outcome(outcome, quiet, as_json)


@cli.command()
@_run_argument
@_set
@_outputs
@_shown
def resume(run: str | None, settings: tuple[str, ...], outputs: Path | None, quiet: bool, as_json: bool) -> int:
    """Continue a RUN that stopped: only rows without a result are sent.

    RUN is a run's folder, or a job's name, file or folder (its newest run); default: the newest run of all.
    """
    from runner import app

    folder = _find(run, outputs)
    outcome = app.resume(folder, _overrides(settings), console=_console(quiet, as_json))
    return _show_outcome(outcome, quiet, as_json)


@cli.command()
@_run_argument
@_set
@_outputs
@_shown
def retry(run: str | None, settings: tuple[str, ...], outputs: Path | None, quiet: bool, as_json: bool) -> int:
    """Send only the failed rows of a finished RUN again, and put the new results in their place."""
    from runner import app

    folder = _find(run, outputs)
    outcome = app.resume(folder, _overrides(settings), retry=True, console=_console(quiet, as_json))
    return _show_outcome(outcome, quiet, as_json)


@cli.command()
@click.argument("job", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
@_outputs
def runs(job: str | None, as_json: bool, outputs: Path | None) -> int:
    """List the runs of all jobs, or of one: JOB is its name, file or folder under outputs/."""
    from runner.listing import list_runs

    say(list_runs(job, outputs, as_json=as_json))
    return Exit.OK


@cli.command()
@_run_argument
@click.option("--json", "as_json", is_flag=True, help="Print the run's record as JSON on stdout.")
@_outputs
def show(run: str | None, as_json: bool, outputs: Path | None) -> int:
    """Explain one RUN: how it went, what it was made from, what to type next."""
    from runner.listing import show_run

    say(show_run(_find(run, outputs), as_json=as_json))
    return Exit.OK


@cli.command()
@_run_argument
@click.option("--format", "format_", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option(
    "--to", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write here instead of to stdout."
)
@_outputs
def export(run: str | None, format_: str, target: Path | None, outputs: Path | None) -> int:
    """Write the rows of a RUN out, in input order."""
    from runner.export import export_run

    export_run(_find(run, outputs), format_, target)
    return Exit.OK


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
    import yaml
    from pydantic import ValidationError

    from runner.simulator import SimulatorSettings, serve

    try:
        wanted = SimulatorSettings.model_validate(yaml.safe_load(settings) or {})
    except yaml.YAMLError as error:
        raise SpecError(f"--settings is not YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise SpecError(f"--settings: `{place}`: {first['msg']}", hint="see docs/simulator.md") from None

    def announce(base_url: str) -> None:
        click.echo(base_url)
        click.echo("simulating until Ctrl-C; what it saw: GET /stats", err=True)

    serve(wanted, host, port, announce)
    return Exit.OK


def _overrides(settings: tuple[str, ...]) -> dict[str, str]:
    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise SpecError(f"--set takes KEY=VALUE, got `{setting}`", hint="for instance --set limits.concurrency=8")
        overrides[key.strip()] = value
    return overrides


def _find(name: str | None, outputs: Path | None) -> Path:
    from runner.runs import find

    return find(name, outputs)


def _console(quiet: bool, as_json: bool) -> Console:
    from runner.progress import Console, is_terminal

    return Console(quiet=quiet, live=is_terminal() and not as_json)


def _show_outcome(outcome: Outcome, quiet: bool, as_json: bool) -> int:
    if outcome.stopped_by is not None:
        _say_error(outcome.stopped_by)
    try:
        if as_json or not quiet:
            say(_outcome_text(outcome, as_json))
    except SpecError as error:
        _say_error(error)  # but how the run ended is what the exit code tells
    return outcome.exit_code


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


def _say_error(error: object) -> None:
    complain(f"error: {error}")


def main() -> None:
    """Run the command line and exit with one of the codes in `runner.errors.Exit`."""
    use_utf8()
    try:
        code = cli.main(standalone_mode=False)
    except RunnerError as error:
        _say_error(error)
        code = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = Exit.USAGE
    except click.ClickException as error:
        _say_error(error.format_message())
        complain("hint: `runner --help` lists the commands, `runner COMMAND --help` its options")
        code = Exit.USAGE
    except PermissionError as error:  # wherever it comes from, it is no bug, and only the user can mend it
        hint = "check its permissions, and those of the folders above it"
        _say_error(SpecError(error.strerror or str(error), where=error.filename, hint=hint))
        code = Exit.USAGE
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted")
        code = Exit.INTERRUPTED
    finish()
    sys.exit(int(code or 0))
