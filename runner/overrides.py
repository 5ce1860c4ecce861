"""What the command line changes of a job file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from runner.errors import SpecError


def read_settings(settings: Iterable[str], strategy: str | None = None) -> dict[str, str]:
    """Return what `--set KEY=VALUE` and `--strategy NAME` change: dotted key to YAML text.

    Raises:
        SpecError: one is not of this form.
    """
    overrides = {} if strategy is None else {"strategy": json.dumps(strategy)}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise SpecError(f"--set takes KEY=VALUE, got `{setting}`", hint="for instance --set limits.concurrency=8")
        overrides[key.strip()] = value
    return overrides


def redirected(overrides: dict[str, str], endpoint: str | None, rehearse: bool) -> dict[str, str]:
    """Return the overrides with another endpoint, where one is asked for."""
    if endpoint is not None and rehearse:
        raise SpecError("--rehearse and --endpoint exclude each other")
    if rehearse:
        endpoint = "simulator"
    return overrides if endpoint is None else {**overrides, "endpoint": json.dumps(endpoint)}


def full_run() -> dict[str, str]:
    """Return what `--full` changes: rows that were answered before are taken in again."""
    return {"incremental": "null"}


def is_trial(overrides: Mapping[str, str]) -> bool:
    """Whether a run takes only a part of its input because somebody asked for that: it says nothing of the job."""
    return any(key in overrides for key in ("input.limit", "input.offset"))
