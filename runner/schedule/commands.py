"""The commands `runner schedule …`. Heavy modules are imported where they are used."""

from __future__ import annotations

import json
from pathlib import Path

import click

from runner.errors import Exit
from runner.stdio import complain, say


@click.group()
def schedule() -> None:
    """See when jobs run by themselves, and tell other schedulers."""


@schedule.command("next")
@click.argument("jobs", nargs=-1, metavar="[JOB]...", type=click.Path(path_type=Path))
@click.option("--count", default=5, show_default=True, type=click.IntRange(1, 10_000), help="How many moments of each.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def next_(jobs: tuple[Path, ...], count: int, as_json: bool) -> int:
    """Show the next moments of JOB files; default: of all in jobs/ that have a schedule."""
    from runner.clock import SystemClock
    from runner.problems import SpecErrors
    from runner.schedule.upcoming import upcoming

    found, problems = upcoming(jobs, count, SystemClock())
    if as_json:
        say(json.dumps([each.as_json() for each in found], indent=2, ensure_ascii=False))
    elif found:
        say("\n\n".join(each.text() for each in found))
    elif not problems:
        say('no job in jobs/ has a schedule: add one, such as `schedule: "0 2 * * *"`')
    if problems:
        raise SpecErrors(problems)
    return Exit.OK


@schedule.command()
@click.argument("job", type=click.Path(path_type=Path))
@click.option(
    "--format", "format_", required=True, type=click.Choice(["systemd", "cron", "github-actions", "kubernetes"])
)
@click.option(
    "--output", "folder", type=click.Path(path_type=Path), metavar="DIR", help="Write the files here; default: stdout."
)
@click.option("--image", metavar="NAME", help="Kubernetes: the image that holds the runner and the project.")
def export(job: Path, format_: str, folder: Path | None, image: str | None) -> int:
    """Write the files with which another scheduler runs a JOB."""
    from runner.clock import SystemClock
    from runner.problems import display
    from runner.schedule.export import IMAGE, write
    from runner.schedule.export import export as made

    exported = made(job, format_, SystemClock(), image or IMAGE)
    if folder is None:
        several = len(exported.files) > 1
        say("\n".join(f"# {name}\n{text}" if several else text for name, text in exported.files.items()).rstrip("\n"))
    else:
        say("\n".join(display(path) for path in write(exported, folder)))
    for note in exported.notes:
        complain(f"note: {note}")
    for step in exported.then:
        complain(f"next: {step}")
    return Exit.OK
