"""Deadlines: what may be written, which moment is meant (over changes of the clock too), and what is said of others."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from pydantic import Field

from runner.deadline import Deadline, at_us, parse
from runner.problems import SpecErrors
from runner.sections import Section
from runner.validation import check
from runner.yaml_source import parse as parse_yaml

Zone = Callable[[str], None]


def us(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1e6)


def utc(moment_us: int) -> str:
    return datetime.fromtimestamp(moment_us / 1e6, UTC).isoformat(" ").removesuffix("+00:00")


# All moments are in UTC. In 2026 Berlin is an hour ahead, from 29 March 01:00 to 25 October 01:00 two; New York is
# five hours behind, from 8 March 07:00 to 1 November 06:00 four; Lord Howe is 11 hours ahead, from 4 April 15:00 to
# 3 October 15:30 ten and a half; Cairo two, from 23 April 22:00 to 29 October 21:00 three; Kathmandu always 5:45.
@pytest.mark.parametrize(
    ("place", "text", "began", "at"),
    [
        ("UTC", "06:00", "2026-11-21 22:00", "2026-11-22 06:00:00"),
        ("UTC", "06:00", "2026-11-21 05:59:59.999999", "2026-11-21 06:00:00"),
        ("UTC", "06:00", "2026-11-21 06:00", "2026-11-22 06:00:00"),  # this moment itself is not after it
        ("UTC", "6:00", "2026-12-31 23:00", "2027-01-01 06:00:00"),
        ("UTC", "00:00", "2026-11-21 23:59", "2026-11-22 00:00:00"),
        ("Europe/Berlin", "06:00", "2026-11-21 22:00", "2026-11-22 05:00:00"),
        ("Europe/Berlin", "06:00", "2026-11-22 04:30", "2026-11-22 05:00:00"),
        ("Europe/Berlin", "00:30", "2026-11-21 23:15", "2026-11-21 23:30:00"),  # there it is the next day already
        ("Asia/Kathmandu", "06:00", "2026-11-21 22:00", "2026-11-22 00:15:00"),
        # the night that has 23 hours, and the one that has 25
        ("Europe/Berlin", "06:00", "2026-03-28 22:00", "2026-03-29 04:00:00"),
        ("Europe/Berlin", "06:00", "2026-10-24 22:00", "2026-10-25 05:00:00"),
        # skipped: at the jump, from 02:00 to 03:00
        ("Europe/Berlin", "02:30", "2026-03-28 22:00", "2026-03-29 01:00:00"),
        ("Europe/Berlin", "02:00", "2026-03-28 22:00", "2026-03-29 01:00:00"),
        ("Europe/Berlin", "03:00", "2026-03-28 22:00", "2026-03-29 01:00:00"),
        ("Europe/Berlin", "01:59", "2026-03-28 22:00", "2026-03-29 00:59:00"),
        ("Europe/Berlin", "02:30", "2026-03-29 01:00", "2026-03-30 00:30:00"),
        # shown twice: the first that is still to come
        ("Europe/Berlin", "02:30", "2026-10-24 22:00", "2026-10-25 00:30:00"),
        ("Europe/Berlin", "02:30", "2026-10-25 00:30", "2026-10-25 01:30:00"),
        ("Europe/Berlin", "02:30", "2026-10-25 01:30", "2026-10-26 01:30:00"),
        ("America/New_York", "02:30", "2026-03-08 05:00", "2026-03-08 07:00:00"),
        ("America/New_York", "01:30", "2026-11-01 05:45", "2026-11-01 06:30:00"),
        ("Australia/Lord_Howe", "02:15", "2026-10-03 15:00", "2026-10-03 15:30:00"),  # half an hour is skipped
        ("Africa/Cairo", "00:30", "2026-04-23 20:00", "2026-04-23 22:00:00"),  # from midnight to 01:00
        ("Africa/Cairo", "23:30", "2026-10-29 20:45", "2026-10-29 21:30:00"),  # from midnight back to 23:00
        ("Africa/Cairo", "00:00", "2026-10-29 20:45", "2026-10-29 22:00:00"),
    ],
)
def test_a_time_of_day_is_the_first_such_moment_after_the_beginning(
    zone: Zone, place: str, text: str, began: str, at: str
) -> None:
    zone(place)
    assert utc(at_us(text, us(f"{began}+00:00"))) == at
    zone("Pacific/Auckland")
    assert utc(at_us(text, us(f"{began}+00:00"), ZoneInfo(place))) == at, "a clock that is named goes before ours"


def test_every_time_of_day_is_met_within_a_day_and_is_what_the_clock_shows(zone: Zone) -> None:
    """Round the clock, over both changes: what the clock skips is the only exception."""
    zone("Europe/Berlin")
    for first in ("2026-03-28 00:17+00:00", "2026-10-24 00:17+00:00"):
        for began in range(us(first), us(first) + 48 * 3_600_000_000, 7_000_000_000):
            for minutes in range(0, 24 * 60, 45):
                text = f"{minutes // 60:02}:{minutes % 60:02}"
                at = parse(text).at_us(began)
                assert 0 < at - began <= 25 * 3_600_000_000
                shown = datetime.fromtimestamp(at / 1e6).strftime("%H:%M")
                assert shown == text or (text == "02:15" and shown == "03:00"), (text, utc(began), utc(at))


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-22T06:00+01:00", "2026-11-22 05:00:00"),
        ("2026-11-22T06:00:30Z", "2026-11-22 06:00:30"),
        ("2026-11-22 06:00-05:00", "2026-11-22 11:00:00"),
        ("2026-11-22T06:00", "2026-11-22 05:00:00"),
        ("2026-07-22T06:00", "2026-07-22 04:00:00"),
        ("2026-03-29T02:30", "2026-03-29 01:00:00"),  # skipped
        ("2026-10-25T02:30", "2026-10-25 00:30:00"),  # the first of two
        ("2026-10-25T02:30+01:00", "2026-10-25 01:30:00"),
    ],
)
def test_a_date_with_a_time_is_that_moment_whenever_the_run_began(zone: Zone, text: str, at: str) -> None:
    zone("Europe/Berlin")
    for began in ("2026-01-01 00:00+00:00", "2026-12-01 00:00+00:00"):
        assert utc(parse(text).at_us(us(began))) == at
    zone("Pacific/Auckland")
    assert utc(at_us(parse(text), us("2026-01-01 00:00+00:00"), ZoneInfo("Europe/Berlin"))) == at


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("8h", timedelta(hours=8)),
        ("90m", timedelta(minutes=90)),
        ("1h30m", timedelta(minutes=90)),
        ("1h 30m", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("2d", timedelta(days=2)),
        ("2w", timedelta(weeks=2)),
        ("1w2d12h", timedelta(days=9, hours=12)),
        ("45s", timedelta(seconds=45)),
        ("1d2h3m4.5s", timedelta(days=1, hours=2, minutes=3, seconds=4.5)),
    ],
)
def test_a_time_span_is_counted_from_the_beginning_over_changes_of_the_clock(
    zone: Zone, text: str, after: timedelta
) -> None:
    zone("Europe/Berlin")
    began = us("2026-03-28 22:00:00.123456+00:00")
    assert parse(text).at_us(began) - began == after / timedelta(microseconds=1)


def test_it_gives_back_what_was_written_and_can_be_sent_to_another_process() -> None:
    for text in ("06:00", "2026-11-22T06:00", "1h 30m"):
        found = parse(f" {text} ")
        assert str(found) == text
        assert pickle.loads(pickle.dumps(found)) == found


FORMS = 'must be a time such as "06:00", a date with a time such as "2026-11-22T06:00", or a time span such as 8h'


@pytest.mark.parametrize(
    "text",
    ["", "six", "6am", "06:60", "24:00", "06:00:00", "06:00Z", "2026-11-22", "2026-02-30T06:00", "2026-11-22T25:00",
     "1066-10-14T09:00", "2026-11-22T06:00+25:00", "8", "8 hours", "-8h", "0h", "0h0m", "m", "h30m", "30m1h", "1e3h",
     "9999999d", "100000w", "2d1w", "1..5h"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a time such as") as caught:
        at_us(text, 0)
    assert str(caught.value) == f'{FORMS}, got "{text}"'


# In a configuration file ----------------------------------------------------------------------------------------------


class Settings(Section):
    deadline: Deadline | None = Field(default=None)


def read(written: str) -> Deadline | None:
    source = parse_yaml(f"deadline: {written}\n", "job.yaml")
    found, problems = check(Settings, source, source.data)
    if found is None:
        raise SpecErrors(problems)
    return found.deadline


@pytest.mark.parametrize("written", ["06:00", '"06:00"', "6:00", "22:30", "2026-11-22T06:00", "8h"])
def test_quotes_are_not_needed(written: str) -> None:
    """YAML 1.1 would read 22:30 as the number 1350, and the date with a time as a timestamp."""
    assert str(read(written)) == written.strip('"')


@pytest.mark.parametrize(
    ("written", "got", "hint"),
    [
        ("8", "8", "with its unit: `8h`"),
        ("1.5", "1.5", "with its unit: `1.5h`"),
        ("true", "true", None),
        ("[8h]", "a list", None),
        ("2026-11-22", '"2026-11-22"', 'with a time: "2026-11-22T06:00"'),
        ("0600", '"0600"', 'did you mean "06:00"?'),
        ('"24:00"', '"24:00"', 'midnight is "00:00"'),
        ("soon", '"soon"', None),
    ],
)
def test_a_mistake_is_shown_at_its_place(written: str, got: str, hint: str | None) -> None:
    with pytest.raises(SpecErrors) as caught:
        read(written)
    [problem] = caught.value.problems
    assert (problem.message, problem.where) == (f"`deadline` {FORMS}, got {got}", "job.yaml:1:11")
    assert problem.hint == hint


def test_it_is_text_in_the_json_schema_and_when_dumped() -> None:
    assert Settings.model_json_schema()["properties"]["deadline"]["anyOf"][0] == {"type": "string", "minLength": 1}
    assert Settings(deadline=parse("8h")).model_dump(mode="json") == {"deadline": "8h"}
