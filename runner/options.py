"""What several commands take, and say, alike."""

from __future__ import annotations

from pathlib import Path

import click

from runner.stdio import complain

settings_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the job file: limits.concurrency=8."
)
outputs_option = click.option(
    "--output",
    "outputs",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where run folders are; default: outputs/.",
)
run_argument = click.argument("run", required=False)


def names(listed: str | None) -> list[str]:
    """Return the words of a list with commas."""
    return [] if listed is None else [name.strip() for name in listed.split(",") if name.strip()]


def find_run(name: str | None, outputs: Path | None) -> Path:
    """Return the run that a person means, as `runs.find` does."""
    from runner.runs import find

    return find(name, outputs)


def say_error(error: object) -> None:
    """Write an error to stderr."""
    complain(f"error: {error}")
