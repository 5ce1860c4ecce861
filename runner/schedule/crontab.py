"""A schedule as a line of a crontab."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

from runner.schedule.target import Exported, Target, comments
from runner.schedule.zones import local_zone


def export(target: Target) -> Exported:
    """Return the crontab.

    Raises:
        SpecErrors: cron cannot do what the schedule asks for.
    """
    target.refuse_disabled()
    target.refuse_all("cron")
    if target.schedule.overlap != "skip":
        what = f"`overlap: {target.schedule.overlap}` cannot be expressed: under cron a run that finds another one ends"
        target.refuse("overlap", what, "`skip`, or `--format kubernetes`")
    notes = tuple(_notes(target))
    zone = target.schedule.zone_name
    lines = [] if zone == local_zone(os.environ) else [f"CRON_TZ={zone}"]
    lines.append(f"{target.five_fields('cron')} {_command(target)}")
    name = f"{target.name}.crontab"
    return Exported(
        {name: comments(target, notes) + "\n".join(lines) + "\n"},
        notes,
        (f"add it to your crontab: (crontab -l 2>/dev/null; cat {name}) | crontab -",),
    )


def _command(target: Target) -> str:
    steps = [f"cd {shlex.quote(str(target.root))}"]
    if target.variables:
        steps.append(f'set -a && . "$HOME/.config/runner/{target.name}.env" && set +a')
    # --quiet leaves errors, which cron mails.
    steps.append(shlex.join((*target.program, *target.arguments, "--quiet")))
    return " && ".join(steps).replace("%", r"\%")  # to cron a plain % is the end of the line


def _notes(target: Target) -> Iterator[str]:
    schedule = target.schedule
    if schedule.zone_name != local_zone(os.environ):
        yield (
            "CRON_TZ is understood by cronie (Fedora, Arch, RHEL) and holds for all lines below it; the cron of Debian "
            "and Ubuntu ignores it and runs by the machine's clock: see `man 5 crontab`."
        )
    if target.variables:
        yield (
            f"The keys stand in ~/.config/runner/{target.name}.env, `NAME=…` in a line for each of "
            f"{', '.join(target.variables)}; let only you read it (chmod 600)."
        )
    yield from target.key_file_notes()
    if schedule.catch_up == "latest":
        yield "cron catches up nothing: a moment at which the machine is off is missed."
    if schedule.jitter is not None:
        yield f"cron has no jitter: `jitter: {schedule.jitter}` is left out."
    if schedule.overlap == "skip":
        yield "A run that finds the one before still going on ends at once, with exit code 5."
    if not target.cron.every_hour and (target.skips or target.repeats):
        yield (
            "A fixed time that the clock skips runs right after the jump, and one that it shows twice runs once, as "
            "here; where the minute or the hour begins with `*`, cron runs by elapsed time."
        )
