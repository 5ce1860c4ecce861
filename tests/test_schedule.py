"""Schedules: what may be written, which moments are meant (over changes of the clock too), and what becomes of each."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from runner.problems import SpecErrors
from runner.schedule.cron import Cron, read_cron
from runner.schedule.moments import Judged, Verdict, clock_changes, due, jitter, latest, moments, next_start, said
from runner.schedule.section import ScheduleSpec
from runner.schedule.zones import local_zone
from runner.spec import JobSpec
from runner.validation import check
from runner.yaml_source import parse

HOUR = timedelta(hours=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def utc(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def schedule(cron: str = "0 2 * * *", timezone: str = "UTC", **more: Any) -> ScheduleSpec:
    return ScheduleSpec.model_validate({"cron": cron, "timezone": timezone, **more})


def between(cron: str, zone: str, after: str, until: str) -> list[str]:
    """The moments of a line, in UTC."""
    found = read_cron(cron).after(at(after), ZoneInfo(zone))
    return [utc(moment) for moment in takewhile(lambda moment: moment <= at(until), found)]


# Moments --------------------------------------------------------------------------------------------------------------


# All moments are in UTC. Berlin is an hour ahead, from 28 March 2027 01:00 to 25 October 2026 01:00 two.
@pytest.mark.parametrize(
    ("cron", "spring", "autumn"),
    [
        # by the clock's face: what is skipped runs once, at the jump; what is shown twice runs the first time
        ("0 2 * * *", ["01:00"], ["00:00"]),
        ("30 2 * * *", ["01:00"], ["00:30"]),
        ("0,30 2 * * *", ["01:00"], ["00:00", "00:30"]),
        ("0 2,3 * * *", ["01:00"], ["00:00", "02:00"]),
        ("30 3 * * *", ["01:30"], ["02:30"]),
        ("0 */2 * * *", ["01:00", "02:00"], ["00:00", "03:00"]),
        # every hour: by elapsed time, with nothing added and nothing left out
        ("5 * * * *", ["00:05", "01:05", "02:05"], ["00:05", "01:05", "02:05", "03:05"]),
        ("5 0-23 * * *", ["00:05", "01:05", "02:05"], ["00:05", "01:05", "02:05", "03:05"]),
        # `*` in the minute: goes on through the hour that is shown twice, and is not lost with the one that is skipped
        ("*/30 2 * * *", ["01:00"], ["00:00", "00:30", "01:00", "01:30"]),
    ],
)
def test_what_happens_when_the_clock_changes(cron: str, spring: list[str], autumn: list[str]) -> None:
    nights = (("2027-03-28", "00:00", "02:30", spring), ("2026-10-25", "-", "03:30", autumn))
    for day, begin, end, expected in nights:
        after = f"{day} {begin}" if begin != "-" else "2026-10-24 23:59"
        assert between(cron, "Europe/Berlin", after, f"{day} {end}") == [f"{day} {time}" for time in expected]


def fits(cron: Cron, shown: datetime) -> bool:
    """Whether a line fits what a clock shows."""
    day, weekday = shown.day in cron.days, (shown.weekday() + 1) % 7 in cron.weekdays
    fitting = (day and weekday) if cron.both_days else (day or weekday)
    return shown.minute in cron.minutes and shown.hour in cron.hours and shown.month in cron.months and fitting


def by_definition(cron: Cron, zone: ZoneInfo, after: datetime, until: datetime) -> Iterator[datetime]:
    """Every moment of a line, minute by minute, as docs/schedule.md defines them."""
    minute = timedelta(minutes=1)
    moment = after
    while (moment := moment + minute) <= until:
        shown = moment.astimezone(zone)
        goes_on = cron.every_hour or cron.text.startswith("*")
        if goes_on and fits(cron, shown.replace(tzinfo=None)):
            yield moment
        if cron.every_hour or (goes_on and fits(cron, shown.replace(tzinfo=None))):
            continue
        before = (moment - minute).astimezone(zone)
        face = shown.replace(tzinfo=None)
        jumped = int((face - before.replace(tzinfo=None)) / minute)
        if shown.fold == 0 and any(fits(cron, face - minute * back) for back in range(max(jumped, 1))):
            yield moment


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Europe/Berlin", "2026-03-28"),
        ("Europe/Berlin", "2026-10-24"),
        ("America/New_York", "2026-10-31"),
        ("Australia/Lord_Howe", "2026-10-03"),  # half an hour
        ("Australia/Lord_Howe", "2026-04-04"),
        ("Africa/Cairo", "2026-04-23"),  # at midnight
        ("Africa/Cairo", "2026-10-29"),
        ("Asia/Kathmandu", "2026-01-01"),
    ],
)
def test_the_moments_are_those_of_the_definition(zone: str, day: str) -> None:
    lines = ("30 2 * * *", "0,30 2-3 * * *", "*/15 * * * *", "20 * * * *", "*/20 0-5 * * *", "30 0 * * *",
             "30 23 * * *", "0 */3 * * *", "15 2 * * 0,1", "*/45 2 1-30 * *", "10 0 24,30 * 5")  # fmt: skip
    for begin in ("09:00", "23:15"):
        after, where = at(f"{day} {begin}"), ZoneInfo(zone)
        until = after + 20 * HOUR
        for line in lines:
            cron = read_cron(line)
            found = between(line, zone, utc(after), utc(until))
            assert found == [utc(moment) for moment in by_definition(cron, where, after, until)], line


def test_asked_in_the_hour_that_is_shown_again_nothing_comes_twice() -> None:
    assert between("30 2 * * *", "Europe/Berlin", "2026-10-25 01:10", "2026-10-26 02:00") == ["2026-10-26 01:30"]
    assert between("30 2 * * *", "Europe/Berlin", "2026-10-25 00:30", "2026-10-26 02:00") == ["2026-10-26 01:30"]
    assert between("0 2 * * *", "Europe/Berlin", "2027-03-28 01:00", "2027-03-29 02:00") == ["2027-03-29 00:00"]


def test_a_year_of_nights_has_one_moment_each() -> None:
    for line in ("0 2 * * *", "30 2 * * *", "59 2 * * *"):
        found = list(moments(schedule(line, "Europe/Berlin"), "job", at("2026-01-01"), at("2027-01-01")))
        assert [moment.local.date().toordinal() for moment in found] == list(range(739617, 739617 + 365))


@pytest.mark.parametrize(
    ("cron", "first"),
    [
        ("0 2 1 * 1", ["2026-11-23", "2026-11-30", "2026-12-01"]),  # either day: neither begins with `*`
        ("0 2 */2 * 1", ["2026-11-23", "2026-12-07", "2026-12-21"]),  # both, as one begins with `*`
        ("0 2 * * MON#2", ["2026-12-14", "2027-01-11", "2027-02-08"]),
        ("0 2 L * *", ["2026-11-30", "2026-12-31", "2027-01-31"]),
        ("0 2 * * 7", ["2026-11-22", "2026-11-29", "2026-12-06"]),
        ("0 2 29 2 *", ["2028-02-29", "2032-02-29", "2036-02-29"]),
        ("0 2 * * mon-wed", ["2026-11-23", "2026-11-24", "2026-11-25"]),
    ],
)
def test_days(cron: str, first: list[str]) -> None:
    found = read_cron(cron).after(at("2026-11-21 12:00"), UTC)
    assert [f"{next(found):%Y-%m-%d}" for _ in first] == first


def test_the_changes_of_the_clock_that_a_schedule_falls_into() -> None:
    def changes(cron: str, zone: str = "Europe/Berlin") -> list[tuple[str, bool]]:
        found = clock_changes(schedule(cron, zone), at("2026-11-21"))
        return [(utc(change.at), change.skips) for change in found]

    both = [("2027-03-28 01:00", True), ("2027-10-31 01:00", False)]
    assert changes("30 2 * * *") == changes("0 * * * *") == changes("0 2 * * 0") == both
    assert changes("0 3 * * *") == changes("59 1 * * *") == changes("0 2 * * 1") == changes("0 2 * * *", "UTC") == []


# Which of them run ----------------------------------------------------------------------------------------------------


def verdicts(judged: list[Judged]) -> list[tuple[str, str, str]]:
    return [(utc(each.moment.at)[5:], each.verdict, each.why) for each in judged]


def test_a_moment_runs_when_it_comes_and_not_before() -> None:
    nightly = schedule()
    assert due(nightly, "job", at("2026-11-20 02:00"), at("2026-11-21 01:59:59")) == []
    assert verdicts(due(nightly, "job", at("2026-11-20 02:00"), at("2026-11-21 02:00"))) == [("11-21 02:00", "run", "")]
    assert due(nightly, "job", at("2026-11-21 02:00"), at("2026-11-21 02:00")) == []
    coming = next_start(nightly, "job", at("2026-11-21 02:00"))
    assert coming is not None
    assert utc(coming.begins) == "2026-11-22 02:00"


THREE_NIGHTS_OFF = (at("2026-11-18 02:00"), at("2026-11-21 07:30"))


def test_the_latest_runs_in_place_of_those_before_it() -> None:
    assert verdicts(due(schedule(), "job", *THREE_NIGHTS_OFF)) == [
        ("11-19 02:00", "missed", "2 d 5 h late, and a later moment runs in its place"),
        ("11-20 02:00", "missed", "1 d 5 h late, and a later moment runs in its place"),
        ("11-21 02:00", "run", "5 h 30 min late"),
    ]


def test_what_is_too_late_is_missed() -> None:
    reason = "late, which is more than `grace: 2h`"
    assert verdicts(due(schedule(grace="2h"), "job", *THREE_NIGHTS_OFF)) == [
        ("11-19 02:00", "missed", f"2 d 5 h {reason}"),
        ("11-20 02:00", "missed", f"1 d 5 h {reason}"),
        ("11-21 02:00", "missed", f"5 h 30 min {reason}"),
    ]
    assert [each.verdict for each in due(schedule(grace="30h"), "job", *THREE_NIGHTS_OFF)] == [
        "missed",
        "missed",
        "run",
    ]
    all_of_them = due(schedule(grace="30h", catch_up="all"), "job", *THREE_NIGHTS_OFF)
    assert [each.verdict for each in all_of_them] == ["missed", "run", "run"]
    assert [each.verdict for each in due(schedule(catch_up="all"), "job", *THREE_NIGHTS_OFF)] == ["run"] * 3


def test_none_is_caught_up_but_what_is_on_time_runs() -> None:
    strict = schedule(catch_up="none")
    assert verdicts(due(strict, "job", *THREE_NIGHTS_OFF))[-1] == (
        "11-21 02:00", "missed", "5 h 30 min late, and `catch_up: none`",
    )  # fmt: skip
    assert verdicts(due(strict, "job", THREE_NIGHTS_OFF[0], at("2026-11-21 02:00:59")))[-1] == (
        "11-21 02:00",
        "run",
        "",
    )


def test_a_grace_that_is_shorter_than_waking_up_takes_does_not_lose_moments_on_time() -> None:
    judged = due(schedule(grace="1s"), "job", at("2026-11-20 02:00"), at("2026-11-21 02:00:05"))
    assert [each.verdict for each in judged] == [Verdict.RUN]


def test_a_disabled_schedule_skips_and_leaves_nothing_to_catch_up() -> None:
    reason = "the schedule is disabled"
    off = due(schedule(enabled=False), "job", *THREE_NIGHTS_OFF)
    assert verdicts(off) == [(f"11-{day} 02:00", "skipped", reason) for day in (19, 20, 21)]
    assert due(schedule(), "job", off[-1].moment.at, THREE_NIGHTS_OFF[1]) == []


@pytest.mark.parametrize("options", [{}, {"grace": "2h"}, {"catch_up": "all"}, {"catch_up": "none"}, {"jitter": "3h"}])
@pytest.mark.parametrize("cron", ["30 2 * * *", "*/40 1-3 * * *", "7 * * * *"])
def test_every_moment_gets_one_verdict_however_often_one_asks(cron: str, options: dict[str, Any]) -> None:
    """Over a spring night, asked at odd intervals, with pauses: the service was off."""
    asked = schedule(cron, "Europe/Berlin", **options)
    first, end = at("2027-03-27 12:00"), at("2027-03-29 12:00")
    last, now, given = first, first, []
    for number in range(200):
        now += timedelta(minutes=7 if number % 20 else 400, seconds=number % 60)
        judged = due(asked, "job", last, now)
        assert all(each.moment.begins <= now for each in judged)
        given += [each.moment.at for each in judged]
        last = given[-1] if given else last
    assert [moment for moment in given if moment <= end] == [each.at for each in moments(asked, "job", first, end)]


def test_jitter_is_the_same_whenever_it_is_asked_and_differs_between_jobs_and_moments() -> None:
    some = schedule(jitter="5m")
    drawn = [jitter(some, job, at(f"2026-11-{day:02} 02:00")) for job in ("a", "b") for day in range(1, 31)]
    assert drawn == [jitter(some, job, at(f"2026-11-{day:02} 02:00")) for job in ("a", "b") for day in range(1, 31)]
    assert jitter(some, "nightly", at("2026-11-22 01:30")) == timedelta(seconds=66)  # also in the next release
    assert all(timedelta(0) <= each <= timedelta(minutes=5) for each in drawn)
    assert len(set(drawn)) > 45
    assert jitter(schedule(), "a", at("2026-11-21 02:00")) == timedelta(0)


def test_a_moment_that_waits_for_the_jitter_of_the_one_before_is_not_late_by_that() -> None:
    some = schedule("* * * * *", jitter="10m", catch_up="none")
    last, found = at("2026-11-21 02:00"), []
    for seconds in range(0, 1800, 30):
        found += due(some, "job", last, at("2026-11-21 02:00") + timedelta(seconds=seconds))
        last = found[-1].moment.at if found else last
    assert len(found) > 15
    assert {each.verdict for each in found} == {Verdict.RUN}


def test_a_moment_waits_for_its_jitter() -> None:
    some = schedule(jitter="5m")
    coming = next_start(some, "job", at("2026-11-20 03:00"))
    assert coming is not None
    assert coming.begins > coming.at
    assert due(some, "job", at("2026-11-20 03:00"), coming.begins - timedelta(seconds=1)) == []
    assert [each.verdict for each in due(some, "job", at("2026-11-20 03:00"), coming.begins)] == [Verdict.RUN]


@pytest.mark.parametrize(
    ("cron", "now", "newest"),
    [
        ("*/5 * * * *", "2026-11-21 12:04", "2026-11-21 12:00"),
        ("0 2 * * *", "2026-11-21 01:30", "2026-11-21 01:00"),
        ("0 2 * * *", "2026-11-21 00:59", "2026-11-20 01:00"),
        ("30 2 * * *", "2027-03-28 01:00", "2027-03-28 01:00"),  # at the jump
        ("30 2 * * *", "2026-10-25 01:30", "2026-10-25 00:30"),  # the clock shows it again
        ("0 2 1 * *", "2026-11-21 12:00", "2026-11-01 01:00"),
        ("0 2 29 2 *", "2026-11-21 12:00", "2024-02-29 01:00"),
    ],
)
def test_the_newest_moment_that_has_come(cron: str, now: str, newest: str) -> None:
    found = latest(schedule(cron, "Europe/Berlin"), "job", at(now))
    assert found is not None
    assert utc(found.at) == newest


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (90_000, "1 d 1 h"),
        (86_460, "1 d"),
    ],
)
def test_spans_in_words(seconds: int, text: str) -> None:
    assert said(timedelta(seconds=seconds)) == text


# In a job file --------------------------------------------------------------------------------------------------------

JOB = "input: {path: x.csv}\nprompt: {user: hi}\nmodel: m\nschedule: "


def read(written: str) -> ScheduleSpec | None:
    source = parse(JOB + written, "job.yaml")
    found, problems = check(JobSpec, source, source.data)
    if found is None:
        raise SpecErrors(problems)
    return found.schedule


def test_the_short_form_and_the_defaults() -> None:
    short = read('"0 2 * * *"')
    assert short is not None
    assert short == read("{cron: 0 2 * * *}")
    assert short.model_dump(mode="json") == {
        "cron": "0 2 * * *", "timezone": None, "catch_up": "latest", "grace": None, "overlap": "skip", "jitter": None,
        "enabled": True,
    }  # fmt: skip


def test_all_keys() -> None:
    full = read(
        "{cron: '0  2 * *  mon', timezone: Europe/Berlin, catch_up: all, grace: 1h30m, overlap: queue, jitter: 5m, "
        "enabled: false}"
    )
    assert full is not None
    assert (str(full.cron), full.zone_name, str(full.grace), str(full.jitter)) == (
        "0 2 * * MON", "Europe/Berlin", "1h30m", "5m",
    )  # fmt: skip
    assert pickle.loads(pickle.dumps(full)) == full
    assert ScheduleSpec.model_validate(full.model_dump(mode="json")) == full


FIVE = "must have five fields (minute, hour, day of the month, month and day of the week)"
ALSO = "also a list such as 1,3, a range such as 1-5, or a step such as */2"


@pytest.mark.parametrize(
    ("written", "place", "message", "hint"),
    [
        ('"0 25 * * *"', "4:11", '`schedule` has a wrong hour: "25"', f"an hour is 0 to 23; {ALSO}"),
        ('{cron: "0 25 * * *"}', "4:18", '`schedule.cron` has a wrong hour: "25"', f"an hour is 0 to 23; {ALSO}"),
        ('{cron: "60 2 * * *"}', "4:18", '`schedule.cron` has a wrong minute: "60"', f"a minute is 0 to 59; {ALSO}"),
        (
            '{cron: "0 2 0 * *"}', "4:18", '`schedule.cron` has a wrong day of the month: "0"',
            f"a day of the month is 1 to 31, or L for the last; {ALSO}",
        ),
        (
            '{cron: "0 2 * 2-x *"}', "4:18", '`schedule.cron` has a wrong month: "2-X"',
            f"a month is 1 to 12, or JAN to DEC; {ALSO}",
        ),
        (
            '{cron: "0 2 * * 8"}', "4:18", '`schedule.cron` has a wrong day of the week: "8"',
            f"a day of the week is 0 (Sunday) to 7 (Sunday), or SUN to SAT; {ALSO}",
        ),
        (
            '{cron: "*/90 * * * *"}', "4:18", '`schedule.cron` has a wrong minute: "*/90" steps over all of its values',
            "a minute field counts within the hour; a step of 90 never comes around",
        ),
        ('{cron: "0 2 * *"}', "4:18", f'`schedule.cron` {FIVE}, got 4: "0 2 * *"', 'for example "0 2 * * *"'),
        (
            '{cron: "0 0 2 * * *"}', "4:18", f'`schedule.cron` {FIVE}, got 6: "0 0 2 * * *"',
            "there are no seconds: leave the first field out",
        ),
        (
            '{cron: "@daily"}', "4:18", '`schedule.cron` must be a cron line of five fields, got "@daily"',
            'write "0 0 * * *"',
        ),
        (
            '{cron: "0 2 31 2,4 *"}', "4:18", '`schedule.cron` never comes: "0 2 31 2,4 *"',
            "the months that it names have no such day",
        ),
        (
            '{cron: "0 2 */30 2 MON#5"}', "4:18", '`schedule.cron` never comes: "0 2 */30 2 MON#5"',
            "the months that it names have no such day",
        ),
        (
            "{cron: 2}", "4:18", "`schedule.cron` must be a cron line, got 2",
            'for example "0 2 * * *": every night at two',
        ),
        (
            "7", "4:11", "`schedule` must be a cron line or a mapping with `cron`, got 7",
            'for example `schedule: "0 2 * * *"`: every night at two',
        ),
        (
            "{cron: 0 2 * * *, timezone: Europe/Berlim}", "4:39",
            '`schedule.timezone` is not a time zone, got "Europe/Berlim"', "did you mean `Europe/Berlin`?",
        ),
        (
            "{cron: 0 2 * * *, timezone: berlin}", "4:39", '`schedule.timezone` is not a time zone, got "berlin"',
            "did you mean `Europe/Berlin`?",
        ),
        (
            "{cron: 0 2 * * *, timezone: new york}", "4:39", '`schedule.timezone` is not a time zone, got "new york"',
            "did you mean `America/New_York`?",
        ),
        (
            "{cron: 0 2 * * *, timezone: +01:00}", "4:39", '`schedule.timezone` is not a time zone, got "+01:00"',
            "name a place, such as `Europe/Berlin`: it knows when its clocks change",
        ),
        (
            "{cron: 0 2 * * *, grace: 2}", "4:36",
            "`schedule.grace` must be a time span such as 90s, 5m, 2h or 1h30m, got 2", "with its unit: `2m`",
        ),
        (
            "{cron: 0 2 * * *, jitter: 0s}", "4:37",
            '`schedule.jitter` must be a time span such as 90s, 5m, 2h or 1h30m, got "0s"', None,
        ),
        (
            "{cron: 0 2 * * *, overlap: qeue}", "4:38",
            '`schedule.overlap` must be one of `skip`, `queue` or `cancel`, got "qeue"', "did you mean `queue`?",
        ),
        (
            "{cron: 0 2 * * *, tz: UTC}", "4:29", "`schedule.tz` is not a known key", "did you mean `timezone`?",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_shown_at_its_place(written: str, place: str, message: str, hint: str | None) -> None:
    with pytest.raises(SpecErrors) as caught:
        read(written)
    [problem] = caught.value.problems
    assert (problem.message, problem.where, problem.hint) == (message, f"job.yaml:{place}", hint)


# This machine's zone --------------------------------------------------------------------------------------------------


def test_the_machine_says_its_zone_by_variable_or_by_link(tmp_path: Path) -> None:
    link = tmp_path / "localtime"
    target = tmp_path / "zoneinfo" / "Europe" / "Berlin"
    target.parent.mkdir(parents=True)
    target.touch()
    assert local_zone({}, link) == "UTC"
    link.symlink_to(target)
    assert local_zone({}, link) == "Europe/Berlin"
    assert local_zone({"TZ": "America/New_York"}, link) == "America/New_York"
    assert local_zone({"TZ": ":Asia/Tokyo"}, link) == "Asia/Tokyo"
    assert local_zone({"TZ": "CET-1CEST"}, link) == "UTC"  # a rule, which has no name
    target.with_name("Atlantis").touch()
    link.unlink()
    link.symlink_to(target.with_name("Atlantis"))
    assert local_zone({}, link) == "UTC"
