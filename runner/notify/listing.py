"""Whom a job tells of what, what they know, and whether a test reaches them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runner import runs
from runner.errors import Exit, SpecError
from runner.load import Job
from runner.notify.message import Report
from runner.notify.state import look
from runner.notify.watch import addresses, send_test
from runner.notify_section import NotifySpec, UnsetVariable, resolve
from runner.problems import display


def known(job: Job, environ: Mapping[str, str], outputs: Path | None) -> str:
    """Return a table: how the job is, each target, what it asks for, and which troubles it knows of.

    Raises:
        SpecError: the job tells nobody.
    """
    spec = _spec(job)
    state = look((outputs or job.root / runs.OUTPUTS) / job.spec.name, rehearsal=job.rehearsal)
    lines = [f"{job.spec.name}: {state.state}" + (f" since {state.since}" if state.since else ", no run was told yet")]
    asked = [(", ".join(target.on), ", ".join(state.told.get(target.written, []))) for target in spec.to]
    for (name, written), (on, told) in zip(addresses(spec), [*asked, ("every run", "")], strict=False):
        try:
            resolve(written, environ)
            unset = ""
        except UnsetVariable as error:
            unset = f"; {error.message}"
        lines.append(f"  {name}  on {on}{f'; knows: {told}' if told else ''}{unset}")
    return "\n".join(lines)


def send_tests(job: Job, environ: Mapping[str, str]) -> tuple[str, Exit]:
    """Send a test to each target, and return how it went: a line for each, and the exit code.

    It is 3 where one did not take it: all were tried, and some failed.

    Raises:
        SpecError: the job tells nobody.
    """
    spec = _spec(job)
    facts = [("status", "this is a test: so you will hear of this job"), ("folder", str(job.root.resolve()))]
    report = Report(job.spec.name, "a test message", facts, None)
    wrong = send_test(spec, report, environ)
    lines = [f"{name}  {'sent' if why is None else f'FAILED: {why}'}" for name, why in wrong.items()]
    return "\n".join(lines), Exit.SOME_FAILED if any(wrong.values()) else Exit.OK


def _spec(job: Job) -> NotifySpec:
    if job.spec.notify is None or job.spec.notify.idle:
        raise SpecError(
            "this job tells nobody how it goes",
            where=display(job.path),
            hint="add `notify: {to: [{url: '${ALERT_URL}'}]}`",
        )
    return job.spec.notify
