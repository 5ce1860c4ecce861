"""The section `schedule` of a job file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field

from runner.problems import Finding, Hint, complain, say
from runner.schedule.cron import Cron
from runner.schedule.zones import local_zone, meant, zone_named
from runner.sections import Section
from runner.timespan import TimeSpan


def _real_zone(name: str) -> str:
    if zone_named(name) is None:
        complain([Finding(f"is not a time zone, got {say(name)}", hint=meant(name))])
    return name


def short_form(value: object) -> object:
    """`schedule: "0 2 * * *"` is short for `schedule: {cron: "0 2 * * *"}`."""
    if isinstance(value, str):
        return {"cron": value}
    if value is not None and not isinstance(value, Mapping | ScheduleSpec):
        hint = 'for example `schedule: "0 2 * * *"`: every night at two'
        complain([Finding(f"must be a cron line or a mapping with `cron`, got {say(value)}", hint=hint)])
    return value


class ScheduleSpec(Section):
    """When the job runs by itself, under whatever starts it then."""

    meant: ClassVar[Mapping[str, str]] = {
        "tz": "timezone",
        "time_zone": "timezone",
        "at": "cron",
        "every": "cron",
        "catchup": "catch_up",
        "misfire_grace_time": "grace",
        "concurrency_policy": "overlap",
        "disabled": "enabled",
    }

    cron: Cron = Field(
        description=(
            "When: minute, hour, day of the month, month, day of the week. Where neither day begins with `*`, "
            "either may fit."
        ),
        examples=["0 2 * * *"],
    )
    timezone: Annotated[str, AfterValidator(_real_zone)] | None = Field(
        default=None,
        description="Whose clock that is: a name of the tz database. Default: this machine's, or UTC.",
        examples=["Europe/Berlin"],
    )
    catch_up: Literal["latest", "all", "none"] = Field(
        default="latest",
        description=(
            "What to do about moments that were missed, because the machine was off: run the `latest` of them, `all` "
            "of them one after the other, or `none`."
        ),
    )
    grace: Annotated[TimeSpan | None, Hint("leave the key out for no limit")] = Field(
        default=None,
        description="How late a run may begin; a moment longer ago is missed. Default: no limit.",
        examples=["2h"],
    )
    overlap: Literal["skip", "queue", "cancel"] = Field(
        default="skip",
        description=(
            "What to do when the run before is still going on: `skip` this moment, `queue` it until then, or `cancel` "
            "the run that is going on."
        ),
    )
    jitter: Annotated[TimeSpan | None, Hint("leave the key out for none")] = Field(
        default=None,
        description=(
            "Begin up to this much later, by a time that differs between jobs and moments: so that not all begin at "
            "once. Default: on time."
        ),
        examples=["5m"],
    )
    enabled: bool = Field(default=True, description="`false`: keep the schedule, and start nothing.")

    @property
    def zone_name(self) -> str:
        """The name of the zone whose clock it is."""
        return self.timezone or local_zone(os.environ)

    @property
    def zone(self) -> ZoneInfo:
        """The zone whose clock it is."""
        return ZoneInfo(self.zone_name)
