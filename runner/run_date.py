"""The date that a run is for: which one it is, and what `{{ run_date }}` stands for in the paths of a job file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from runner.errors import SpecError
from runner.problems import At, Problem, dotted, say, suggest
from runner.schedule.zones import local_zone, zone_named
from runner.yaml_source import Source, read

DATES = ("run_date", "yesterday", "tomorrow")
"""The dates that templates know; prompts know them where the row has no such column."""

SPAN = "days"
"""The function that makes a number of days something to add: `run_date - days(7)`."""

_SECTIONS = ("input", "output")
_EXPRESSION = re.compile(r"\{\{[-+]?(.*?)[-+]?\}\}", re.DOTALL)
_ABOUT_DATES = re.compile(rf"(?<![\w.'\"])(?:{'|'.join(DATES)})(?!\w)")
_EXAMPLE = "for example {{ run_date.strftime('%Y/%m/%d') }} or {{ (run_date - days(7)).isoformat() }}"
_WRITTEN = re.compile(r"\d{4}-\d{2}-\d{2}")
_EARLIEST = date(1900, 1, 1)


def today(zone: object, now_us: int, environ: Mapping[str, str]) -> date:
    """Return the date on a clock.

    Args:
        zone: the name of its time zone; anything else: this machine's.
        now_us: the time, in microseconds since 1970.
        environ: usually `os.environ`; `TZ` in it is this machine's zone.
    """
    named = zone_named(zone) if isinstance(zone, str) else None
    return datetime.fromtimestamp(now_us / 1e6, named or ZoneInfo(local_zone(environ))).date()


def zone_of(tree: object) -> object:
    """Return what a job file, as it was read, says of its schedule's time zone; whatever it is, it was not checked."""
    schedule = tree.get("schedule") if isinstance(tree, Mapping) else None
    return schedule.get("timezone") if isinstance(schedule, Mapping) else None


def values(run_date: date) -> dict[str, Any]:
    """Return what the names stand for that templates know."""
    day = timedelta(days=1)
    return {"run_date": run_date, "yesterday": run_date - day, "tomorrow": run_date + day, SPAN: _days}


def _days(number: float) -> timedelta:
    return timedelta(days=number)


# What a person asks for -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Calendar:
    """Reads dates as options have them, `today` being that of a job."""

    today: date

    @classmethod
    def of(cls, job_file: Path, now_us: int, environ: Mapping[str, str]) -> Calendar:
        """Return the calendar of a job.

        Raises:
            SpecErrors: the job file cannot be read.
        """
        return cls(today(zone_of(read(job_file).data), now_us, environ))

    def read(self, text: str, option: str) -> date:
        """Return a date.

        Args:
            option: where it was asked for, such as `--date`.

        Raises:
            SpecError: it is none, or nobody can have meant it.
        """
        word = text.strip()
        if word in ("today", "yesterday"):
            return self.today - timedelta(days=word == "yesterday")
        try:
            found = date.fromisoformat(word) if _WRITTEN.fullmatch(word) else None
        except ValueError:  # 2026-02-30
            found = None
        if found is None:
            raise SpecError(
                f"{option} takes a date, got {say(text)}",
                hint=f"for instance {option} {self.today.isoformat()}, or `today` or `yesterday`",
            )
        if not _EARLIEST <= found <= self.today + timedelta(days=1):  # tomorrow: elsewhere it has begun
            when = "in the future" if found > self.today else "too long ago"
            raise SpecError(f"{option} {found} is {when}", hint=f"today is {self.today}")
        return found


def date_of_us(at_us: int) -> str:
    """Return the date of a moment (UTC), in microseconds since 1970, as ISO text."""
    return datetime.fromtimestamp(at_us / 1e6, UTC).date().isoformat()


# Filling it in --------------------------------------------------------------------------------------------------------


def fill_in(source: Source, run_date: date) -> list[Problem]:
    """Put a date where the sections `input` and `output` of a job file ask for it, and return what is wrong with that.

    Only `{{ … }}` with one of `DATES` in it is an expression. All other text stays as it is, braces too; but for
    paths, in which none can be meant.
    """
    return [
        problem
        for section in _SECTIONS
        if section in source.data
        for problem in _fill(source.data, section, (section,), source, values(run_date))
    ]


def _fill(holder: Any, key: Any, at: At, source: Source, known: Mapping[str, Any]) -> Iterator[Problem]:
    """Replace what a mapping or a list holds under a key, and all that is in it."""
    value = holder[key]
    if isinstance(value, dict | list):
        for inner in value if isinstance(value, dict) else range(len(value)):
            yield from _fill(value, inner, (*at, inner), source, known)
    if not isinstance(value, str) or "{{" not in value:
        return
    wrong: list[Problem] = []

    def filled(found: re.Match[str]) -> str:
        if not _ABOUT_DATES.search(found[1]):
            if at[:2] == ("input", "path"):
                wrong.append(_unknown(found, at, source))
            return found[0]
        try:
            return _value_of(found[1].strip(), known)
        except ValueError as error:
            wrong.append(source.problem(at, f"`{dotted(at)}` cannot be filled in: {error}", _EXAMPLE))
            return found[0]

    holder[key] = _EXPRESSION.sub(filled, value)
    yield from wrong


def _unknown(found: re.Match[str], at: At, source: Source) -> Problem:
    message = f"`{dotted(at)}` has `{found[0]}`, and a path knows only {', '.join(f'`{name}`' for name in DATES)}"
    return source.problem(at, message, suggest(found[1].strip(), DATES) or _EXAMPLE)


def _value_of(expression: str, known: Mapping[str, Any]) -> str:
    """Return what an expression is, as text.

    Raises:
        ValueError: it is no expression, or comes to nothing that a path can hold; the message says why.
    """
    import jinja2  # here, because it takes a while, and few jobs need it
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    environment.globals.clear()
    try:
        value = environment.compile_expression(expression, undefined_to_none=False)(**known)
        if isinstance(value, jinja2.Undefined):
            str(value)  # raises, and says why
    except Exception as error:  # noqa: BLE001 - the expression is the user's code: `{{ run_date / 0 }}`
        raise ValueError(getattr(error, "message", None) or str(error) or type(error).__name__) from None
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bool) or not isinstance(value, str | int):
        what = "function: add `()`" if callable(value) else type(value).__name__
        raise ValueError(f"`{expression}` is no text, date or number but a {what}")
    return str(value)
