"""A schedule as a systemd timer, with the service that it starts."""

from __future__ import annotations

from collections.abc import Iterator, Set

from runner.schedule.cron import LAST, LAST_WEEKDAY, Cron, Day
from runner.schedule.target import Exported, Target, comments, ranges

_NAMES = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


def export(target: Target) -> Exported:
    """Return the units.

    Raises:
        SpecErrors: systemd cannot do what the schedule asks for.
    """
    target.refuse_disabled()
    target.refuse_all("systemd")
    if target.schedule.overlap != "skip":
        what = f"`overlap: {target.schedule.overlap}` cannot be expressed: a timer does nothing while its service runs"
        target.refuse("overlap", what, "`skip`, or `--format kubernetes`")
    notes = tuple(_notes(target))
    head, name = comments(target, notes), target.name
    return Exported(
        {f"{name}.service": head + _service(target), f"{name}.timer": head + _timer(target)},
        notes,
        (
            f"copy both to ~/.config/systemd/user/, then: systemctl --user enable --now {name}.timer",
            "so that it runs while you are logged out: loginctl enable-linger",
        ),
    )


def _service(target: Target) -> str:
    lines = [
        "[Unit]",
        f"Description=Run the job {target.name}",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Service]",
        "Type=oneshot",
        f"WorkingDirectory={_escaped(str(target.root))}",
    ]
    if target.variables:
        lines.append(f"EnvironmentFile=%E/runner/{target.name}.env")
    lines += [
        f"ExecStart={' '.join(_quoted(word) for word in (*target.program, *target.arguments))}",
        "# 3: finished, and some rows failed. 5: another run of the job was going on. Anything else is a failure: 4",
        "# (stopped early by budget, quota or key) can be resumed, but not by trying again at once.",
        "SuccessExitStatus=3 5",
        "# A run that is told to stop finishes what is in flight, and keeps it.",
        "TimeoutStopSec=10min",
        "TimeoutStartSec=infinity",
    ]
    return "\n".join(lines) + "\n"


def _timer(target: Target) -> str:
    schedule = target.schedule
    lines = ["[Unit]", f"Description=When the job {target.name} runs", "", "[Timer]"]
    lines += [f"OnCalendar={line} {schedule.zone_name}" for line in _calendars(target)]
    lines.append(f"Persistent={'false' if schedule.catch_up == 'none' else 'true'}")
    if schedule.jitter is not None:
        lines.append(f"RandomizedDelaySec={schedule.jitter.span.total_seconds():g}")
    lines += ["AccuracySec=1s", "", "[Install]", "WantedBy=timers.target"]
    return "\n".join(lines) + "\n"


def _calendars(target: Target) -> list[str]:
    if LAST_WEEKDAY in target.cron.days:
        what = f"`{target.cron}` cannot be expressed: systemd knows no last weekday of a month"
        target.refuse("cron", what, "`L` is the last day, and 5L the last Friday")
    found = on_calendar(target.cron)
    if found is None:
        what = f"`{target.cron}` cannot be expressed: systemd cannot ask for both of these days"
        target.refuse("cron", what, "leave one of them `*`")
    return found


def on_calendar(cron: Cron) -> list[str] | None:
    """Return what a timer says for a cron line: the times of all lines together; None where no lines say it.

    See systemd.time(7), "Calendar events".
    """
    days, weekdays = _days(cron.days), _weekdays(cron.weekdays)
    dates = _both(days, weekdays) if cron.both_days else [*(("", day) for day in days), *weekdays]
    if dates is None:
        return None
    months = "*" if len(cron.months) == 12 else ranges(cron.months, "..", 2)
    hours = "*" if len(cron.hours) == 24 else ranges(cron.hours, "..", 2)
    minutes = "*" if len(cron.minutes) == 60 else ranges(cron.minutes, "..", 2)
    return [
        f"{f'{weekday} ' if weekday else ''}*-{months}{'' if day.startswith('~') else '-'}{day} {hours}:{minutes}:00"
        for weekday, day in dates
    ]


def _days(days: Set[int]) -> list[str]:
    """Return the days of the month in systemd's words: `~01` is the last."""
    plain = {day for day in days if day > 0}
    found = ["*"] if len(plain) == 31 else [ranges(plain, "..", 2)] if plain else []
    return found + (["~01"] if LAST in days else [])


def _weekdays(weekdays: Set[Day]) -> list[tuple[str, str]]:
    """Return the days of the week, each with the days of the month that it has to fall on."""
    plain = {day for day in weekdays if isinstance(day, int)}
    found = [] if not plain else [("" if len(plain) == 7 else ",".join(_NAMES[day] for day in sorted(plain)), "*")]
    for day in sorted(day for day in weekdays if not isinstance(day, int)):
        weekday, number = day
        # The last seven days of a month hold its last Monday, and days 8 to 14 its second.
        fits = "~07/1" if number == LAST else f"{7 * number - 6:02}..{min(7 * number, 31):02}"
        found.append((_NAMES[weekday], fits))
    return found


def _both(days: list[str], weekdays: list[tuple[str, str]]) -> list[tuple[str, str]] | None:
    """Return the dates that fit a day of the month and a day of the week; None where a date cannot say that."""
    if days == ["*"]:
        return weekdays
    if any(fits != "*" for _, fits in weekdays):
        return None
    return [(weekday, day) for weekday, _ in weekdays for day in days]


def _notes(target: Target) -> Iterator[str]:
    schedule = target.schedule
    if target.variables:
        yield (
            f"The keys stand in ~/.config/runner/{target.name}.env (of a system unit: /etc/runner/{target.name}.env), "
            f"`NAME=…` in a line for each of {', '.join(target.variables)}; let only you read it (chmod 600)."
        )
    yield from target.key_file_notes()
    if schedule.grace is not None and schedule.catch_up == "latest":
        yield f"systemd catches up a missed moment however late: it knows no `grace: {schedule.grace}`."
    if target.skips and not target.cron.every_hour:
        yield f"systemd leaves out a time that the clock skips: nothing runs for it, next on {target.skips}."
    if target.repeats and (target.cron.every_hour or target.cron.text.startswith("*")):
        yield f"systemd runs only once where the clock shows a time twice, next on {target.repeats}."


def _escaped(text: str) -> str:
    return text.replace("%", "%%")  # which begins a specifier


def _quoted(word: str) -> str:
    """Return a word of a command line as systemd.service(5) reads it."""
    safe = _escaped(word).replace("$", "$$")
    if all(letter.isalnum() or letter in "%$_-./:=@+," for letter in safe):
        return safe
    return '"' + safe.replace("\\", "\\\\").replace('"', '\\"') + '"'
