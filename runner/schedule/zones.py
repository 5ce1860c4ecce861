"""Time zones by their names: this machine's, and what was meant by a name that is none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

from runner.problems import suggest

UTC = "UTC"


def zone_named(name: str) -> ZoneInfo | None:
    """Return the zone with a name of the tz database; None where there is none."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError):  # `Europe` is a folder, "../x" leads out of the database
        return None
    except LookupError:
        return None


def meant(name: str) -> str:
    """Return a hint for a name that is no zone."""
    known = sorted(available_timezones())
    word = name.strip().replace(" ", "_").lower()
    city = [zone for zone in known if zone.lower() == word or zone.lower().rpartition("/")[2] == word]
    if city:
        return f"did you mean `{city[0]}`?"
    if re.fullmatch(r"(?:utc|gmt)?[+-]?\d{1,2}(?::?\d{2})?|c?es?t|[pmc][sd]t|cest|bst|ist|jst", word):
        return "name a place, such as `Europe/Berlin`: it knows when its clocks change"
    return suggest(name, known) or "a name of the tz database, such as `Europe/Berlin` or `UTC`"


def local_zone(environ: Mapping[str, str], link: Path = Path("/etc/localtime")) -> str:
    """Return the name of this machine's time zone, where that can be found, else `UTC`.

    Args:
        environ: `TZ` in it goes first, as everywhere.
        link: the symbolic link into the tz database that most systems keep.
    """
    named = environ.get("TZ", "").removeprefix(":")
    if named:
        return named if zone_named(named) is not None else UTC
    try:
        parts = link.resolve(strict=True).parts
    except OSError:
        return UTC
    if "zoneinfo" not in parts:
        return UTC
    name = "/".join(parts[parts.index("zoneinfo") + 1 :])
    return name if zone_named(name) is not None else UTC
