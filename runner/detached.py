"""Runs that are left alone with their batches: which may be, how their batches are, and whether to wait for them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from runner.batches import ledger
from runner.batches.desk import look_up
from runner.batches.ledger import Entry
from runner.connect import connected
from runner.errors import SpecError
from runner.event_loop import run_loop
from runner.load import Job
from runner.manifest import EMBEDDED, Manifest
from runner.same_job import same_job


def batches(folder: Path) -> list[Entry]:
    """Return the batches of a run as they are now: those that are still open are asked after.

    Raises:
        SpecError: the job cannot be loaded any more.
        FatalError: the server refuses, or the ledger is damaged.
    """
    entries = list(ledger.read(folder))
    asked = [entry for entry in entries if entry.state in ("submitted", "ended")]
    manifest = Manifest.load(folder)
    if not asked or any(each["base_url"] == EMBEDDED for each in manifest.endpoints):
        return entries
    with connected(same_job(manifest, folder, manifest.overrides)) as connections:
        run_loop(partial(look_up, asked, connections))
    return entries


def refuse_to_detach(job: Job) -> None:
    """Refuse to leave batches alone where nobody would carry them out.

    Raises:
        SpecError: the strategy makes no batches, or the server ends with the run.
    """
    if job.spec.strategy_name != "batch_api":
        raise SpecError("--detach is for the Batch API", hint="add `--strategy batch_api`")
    if job.rehearsal:
        raise SpecError(
            "a rehearsal cannot be left alone: its simulator ends with it",
            hint="start `runner simulate` in another terminal, and name it in configs/endpoints.yaml",
        )


def to_wait(folder: Path, wanted: bool | None) -> bool:
    """Return whether resuming a run waits for its batches: as wanted, else unless it was left alone with them.

    Raises:
        SpecError: the server ends with the session.
    """
    manifest = Manifest.load(folder)
    if wanted is False and any(each["base_url"] == EMBEDDED for each in manifest.endpoints):
        raise SpecError("a rehearsal cannot be left alone: its simulator ends with it", hint="leave `--no-wait` out")
    return manifest.status != "waiting" if wanted is None else wanted
