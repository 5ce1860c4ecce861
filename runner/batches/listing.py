"""Shows the batches of a run as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from runner.batches.ledger import Entry
from runner.progress import duration

_HEAD = ("#", "BATCH", "STATE", "DONE", "FAILED", "OF", "SUBMITTED", "AGE", "EXPIRES IN")
_STATES = {"packed": "waiting for room", "submitting": "being submitted", "collected": "collected"}


def table(entries: Sequence[Entry], now_us: int) -> str:
    """Return the batches of a run, one a line."""
    if not entries:
        return "this run has no batches"
    rows = [_HEAD, *(_row(entry, now_us) for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def as_json(entries: Sequence[Entry]) -> str:
    """Return the batches of a run as JSON: what the ledger says of them."""
    return json.dumps([asdict(entry) for entry in entries], indent=2)


def line(entry: Entry, now_us: int) -> str:
    """Return how a batch is, in one line."""
    number, _, state, done, failed, total, _, age, expires = _row(entry, now_us)
    parts = [f"batch {number}", state, f"{done} of {total} done"]
    parts += [f"{failed} failed"] if entry.failed else []
    if entry.ended_at is not None:
        parts.append(f"took {age}")
    elif entry.submitted_at is not None:
        parts += [f"{age} old", f"expires in {expires}"]
    return " · ".join(parts)


def _row(entry: Entry, now_us: int) -> tuple[str, ...]:
    submitted = entry.submitted_at
    end_us = now_us if entry.ended_at is None else entry.ended_at
    over = entry.ended_at is not None or entry.expires_at is None
    return (
        str(entry.number),
        entry.batch_id or "-",
        _state(entry),
        f"{entry.done:,}",
        f"{entry.failed:,}",
        f"{entry.requests:,}",
        "-" if submitted is None else f"{datetime.fromtimestamp(submitted / 1e6, UTC):%Y-%m-%d %H:%M}Z",
        "-" if submitted is None else duration(max(0.0, (end_us - submitted) / 1e6)),
        "-" if over or entry.expires_at is None else duration(max(0.0, (entry.expires_at - now_us) / 1e6)),
    )


def _state(entry: Entry) -> str:
    if entry.state == "collected":
        return f"{entry.status}, collected" if entry.status else "given back"
    return _STATES.get(entry.state, entry.status or entry.state)
