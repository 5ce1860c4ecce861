"""What the formats of `runner schedule export` have in common: the job as another scheduler sees it, and its notes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from runner.load import Job
from runner.problems import SpecErrors
from runner.schedule.cron import Cron
from runner.schedule.moments import clock_changes
from runner.schedule.section import ScheduleSpec

PACKAGE = "llm-batch-runner"
"""The name of the runner's own distribution."""


@dataclass(frozen=True)
class Exported:
    """What a format makes of a job.

    Attributes:
        files: name to content.
        notes: what is different from the job's schedule there; also said in the files.
        then: what to do with the files, a line each.
    """

    files: Mapping[str, str]
    notes: tuple[str, ...]
    then: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """A job that another scheduler is to start.

    Attributes:
        program: the command `runner` on this machine, as words.
        image: the container image that holds the runner and the project.
        now: what clock changes are looked up from.
    """

    job: Job
    schedule: ScheduleSpec
    program: tuple[str, ...]
    image: str
    now: datetime

    @property
    def name(self) -> str:
        return self.job.spec.name

    @property
    def root(self) -> Path:
        return self.job.root.absolute()

    @property
    def cron(self) -> Cron:
        return self.schedule.cron

    @property
    def arguments(self) -> tuple[str, ...]:
        """What follows `runner`, in the project root."""
        return "run", self.job.path.absolute().relative_to(self.root).as_posix(), "--scheduled"

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that the job's endpoints and alerts need."""
        named = [name for endpoint in self.job.pool for name in endpoint.variables]
        alerts = self.job.spec.notify.variables if self.job.spec.notify is not None else ()
        return tuple(dict.fromkeys([*named, *alerts]))

    @property
    def skips(self) -> str | None:
        """When the clock next jumps over a time of the schedule, as a date."""
        return self._change(skips=True)

    @property
    def repeats(self) -> str | None:
        """When the clock next shows a time of the schedule twice, as a date."""
        return self._change(skips=False)

    def _change(self, *, skips: bool) -> str | None:
        changes = clock_changes(self.schedule, self.now)
        dates = (change.at.astimezone(self.schedule.zone) for change in changes if change.skips is skips)
        return next((f"{date:%Y-%m-%d}" for date in dates), None)

    def key_file_notes(self) -> Iterator[str]:
        """Say which keys are read from files, which must be there too."""
        for endpoint in self.job.pool:
            if endpoint.api_key_file is not None:
                yield f"The key of endpoint `{endpoint.name}` is read from {endpoint.api_key_file}: put it there."

    def refuse(self, key: str, what: str, hint: str) -> NoReturn:
        """Raise that a key of the schedule cannot be expressed in the format."""
        raise SpecErrors([self.job.source.problem(("schedule", key), what, hint)])

    def refuse_disabled(self) -> None:
        """Refuse where a format has no way to say that a schedule is switched off."""
        if not self.schedule.enabled:
            self.refuse("enabled", "the schedule is disabled", "set `enabled: true` to export it")

    def refuse_all(self, place: str) -> None:
        """Refuse `catch_up: all` where missed moments leave no trace."""
        if self.schedule.catch_up == "all":
            what = f"`catch_up: all` cannot be expressed: {place} does not run every moment that was missed"
            self.refuse("catch_up", what, "`latest` or `none`")

    def five_fields(self, place: str) -> str:
        """Return the cron line in what every cron reads: numbers, lists, ranges and `*`.

        Raises:
            SpecErrors: it says what they cannot, such as the last day of a month.
        """
        days = [day for day in self.cron.weekdays if not isinstance(day, int)]
        if min(self.cron.days) < 1 or days:
            what = f"`{self.cron}` cannot be expressed: {place} knows no `L`, `W` or `#`"
            self.refuse("cron", what, "name days of the month, such as 28, or use `--format systemd`")
        texts = self.cron.fields
        values = (self.cron.minutes, self.cron.hours, self.cron.days, self.cron.months, self.cron.weekdays)
        return " ".join(
            text if text == "*" or (text.startswith("*/") and "," not in text) else ranges(numbers)
            for text, numbers in zip(texts, values, strict=True)
        )

    def refuse_both_days(self, place: str) -> None:
        """Refuse a line that asks for both days where other crons would take either."""
        _, _, day, _, weekday = self.cron.fields
        if self.cron.both_days and "*" not in (day, weekday):
            what = f"`{self.cron}` cannot be expressed: {place} runs when either day fits, and it asks for both"
            self.refuse("cron", what, "begin neither day with `*`, or use `--format systemd`")


def ranges(values: object, dots: str = "-", width: int = 1) -> str:
    """Return numbers as a list with ranges: `1-5,7`."""
    numbers = sorted(value for value in values if isinstance(value, int))  # type: ignore[attr-defined]
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(
        f"{run[0]:0{width}}{dots}{run[-1]:0{width}}"
        if len(run) > 2
        else ",".join(f"{number:0{width}}" for number in run)
        for run in runs
    )


def comments(target: Target, notes: tuple[str, ...]) -> str:
    """Return the head of a file: where it comes from, and what is different there."""
    zone = target.schedule.zone_name
    said = [f"Made by `runner schedule export` from {target.arguments[1]}: `{target.cron}`, {zone}.", *notes]
    return "".join(f"# {line}\n" for text in said for line in textwrap.wrap(text, 110, break_on_hyphens=False))
