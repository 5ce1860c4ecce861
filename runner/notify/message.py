"""What people are told: how the job is, how the run went, and what to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import Exit, RunnerError
from runner.freshness import Success
from runner.manifest import Manifest
from runner.money import usd
from runner.notify.state import State
from runner.notify_section import Event
from runner.problems import mask
from runner.progress import duration
from runner.report import why_empty

_ERRORS = 3
_TAIL_LINES = 20
_TAIL_BYTES = 8192
_LONGEST = 300


@dataclass(frozen=True)
class Report:
    """How a run went, or why there is none, in words.

    Attributes:
        what: a few words that follow the job's name: `stopped (bad_key)`.
        facts: name and value of each line.
        command: what to type now; None: nothing needs to be done.
        said: the last lines of what the run said.
        numbers: the same for programs.
    """

    job: str
    what: str
    facts: Sequence[tuple[str, str]]
    command: str | None
    said: Sequence[str] = ()
    numbers: dict[str, Any] | None = None

    def subject(self, event: Event | None) -> str:
        """Return one line.

        Args:
            event: None: it is a test.
        """
        word = {None: "TEST", "recovered": "RECOVERED", "success": "OK", "late": "LATE"}.get(event, "FAILED")
        return f"{word}: {self.job}: {self.what}"

    def body(self) -> str:
        """Return the lines under the subject."""
        facts = [*self.facts, *([("type", self.command)] if self.command else [])]
        lines = [f"{name:<9} {value}".rstrip() for name, value in facts]
        if self.said:
            lines += ["", "the last it said:", *(f"  {line}" for line in self.said)]
        return "\n".join(lines)

    def as_json(self, event: Event | None, state: State) -> dict[str, Any]:
        """Return what a webhook is sent. `text` is what Slack, Mattermost and their like show."""
        subject, body = self.subject(event), self.body()
        return {
            "event": event or "test",
            "state": state,
            "job": self.job,
            **(self.numbers or {}),
            "command": self.command,
            "subject": subject,
            "body": body,
            "text": f"{subject}\n```\n{body}\n```",
        }


def of_run(manifest: Manifest, folder: Path, log: Path | None) -> Report:
    """Return what to say of a run that has ended."""
    summary, wall_s = manifest.summary, sum(session.wall_s for session in manifest.sessions)
    failed, rows = summary.get("failed", 0), summary.get("rows", 0)
    stopped = manifest.stopped_by if manifest.status != "finished" else None
    if stopped:
        what = f"stopped ({stopped['kind']}): {_line(stopped['message'])}"
    elif manifest.status != "finished":
        what = "stopped early"
    elif failed:
        what = f"finished, {failed:,} of {rows:,} rows failed"
    else:
        ok = f"all {rows:,} rows ok" if rows > 1 else "1 row ok"
        what = f"finished, {ok if rows else why_empty(manifest)}"
    todo = manifest.results - rows
    facts = [
        ("run", manifest.run + (" (rehearsal)" if manifest.rehearsal else "")),
        ("status", what),
        ("rows", f"{summary.get('ok', 0):,} ok, {failed:,} failed" + (f", {todo:,} still to do" if todo else "")),
        ("cost", _cost(summary)),
        ("time", duration(wall_s)),
    ]
    errors = sorted(summary.get("errors", {}).items(), key=lambda entry: -entry[1]["rows"])
    for kind, entry in errors[:_ERRORS]:
        facts.append(("error", f"{entry['rows']:,} × {kind}, row {entry['example_id']}: {_line(entry['example'])}"))
    if len(errors) > _ERRORS:
        facts.append(("", f"and {len(errors) - _ERRORS} more kinds of errors"))
    facts.append(("folder", str(folder)))
    numbers = {
        "run": manifest.run,
        "status": manifest.status,
        "stopped_by": stopped["kind"] if stopped else None,
        "rehearsal": manifest.rehearsal,
        "rows": manifest.results,
        "ok": summary.get("ok", 0),
        "failed": failed,
        "cost_usd": summary.get("cost_usd"),
        "wall_s": round(wall_s, 3),
        "folder": str(folder),
    }
    return Report(manifest.job, what, facts, _command(manifest, folder), _tail(log), numbers)


def of_no_run(job: str, job_file: Path, root: Path, error: Exception, log: Path | None) -> Report:
    """Return what to say of a run that could not begin, or that ended without writing down why."""
    root = root.resolve()
    if isinstance(error, RunnerError):
        said = mask(str(error)).splitlines()
        status = "could not begin" if error.exit_code == Exit.USAGE else "ended early"
    else:
        said, status = [f"a bug in the runner: {type(error).__name__}"], "ended early"
    facts = [("status", status), ("error", said[0]), *(("", line) for line in said[1:10]), ("folder", str(root))]
    command = f"cd {shlex.quote(str(root))} && runner run {_typed(job_file.resolve(), root)}"
    numbers = {"run": None, "status": status, "folder": None}
    return Report(job, f"{status}: {_line(said[0])}", facts, command, _tail(log), numbers)


def of_lateness(job: str, base: Path, last: Success | None, age_s: float | None, allowed: str) -> Report:
    """Return what to say of a job that has not succeeded for too long.

    Args:
        age_s: how long ago the last success was, in seconds; None: there was none.
        allowed: how long that may be.
    """
    what = "no success yet" if age_s is None else f"no success for {duration(age_s)}"
    facts = [("status", f"{what}; {allowed} is allowed"), *([("last", last.run)] if last else [])]
    command = f"runner runs {shlex.quote(job)} --output {shlex.quote(str(base.parent))}"
    numbers = {"run": None if last is None else last.run, "status": "late", "age_s": age_s, "folder": str(base)}
    return Report(job, what, [*facts, ("folder", str(base))], command, (), numbers)


def _command(manifest: Manifest, folder: Path) -> str | None:
    root = Path(manifest.root)
    run = f"cd {shlex.quote(str(root))} && runner {{}} {_typed(folder, root)}"
    if manifest.status == "waiting":
        return run.format("resume")
    if manifest.status != "finished":
        return run.format("resume") + _raised(manifest)
    return run.format("retry") if manifest.summary.get("failed") else None


def _raised(manifest: Manifest) -> str:
    """Return the option that lets a run go on that its budget stopped: at the pace so far it is enough."""
    stopped = manifest.stopped_by or {}
    key = re.search(r"budget\.(\w+)=", stopped.get("hint") or "")
    cap = (manifest.spec.get("budget") or {}).get(key[1]) if key else None
    if stopped.get("kind") != "budget" or key is None or cap is None:
        return ""
    summary = manifest.summary
    done = summary.get("rows", 0) / manifest.results if manifest.results else 0.0
    tokens = summary.get("tokens", {})
    used = tokens.get("input", 0) + tokens.get("output", 0) if key[1] == "max_tokens" else summary["cost_at_least_usd"]
    whole = 1.2 * used / done if done else 0.0
    enough = max(2 * cap, whole, cap + whole if key[1] == "daily_usd" else 0.0)
    shown = f"{enough:.0f}" if key[1] == "max_tokens" else f"{enough:.2g}" if enough < 1 else f"{enough:.2f}"
    return f" --set budget.{key[1]}={shown}"


def _cost(summary: dict[str, Any]) -> str:
    if summary.get("cost_usd") is not None:
        return usd(summary["cost_usd"])
    known = summary.get("cost_at_least_usd")
    return f"at least {usd(known)}" if known else "unknown"


def _typed(path: Path, root: Path) -> str:
    """Return a path as it can be typed in the project's folder."""
    return shlex.quote(str(path.relative_to(root)) if path.is_relative_to(root) else str(path))


def _line(text: str | None) -> str:
    """Return the first of several lines, and not too much of it."""
    first = (text or "").strip().partition("\n")[0]
    return first if len(first) <= _LONGEST else f"{first[: _LONGEST - 1]}…"


def _tail(log: Path | None) -> list[str]:
    """Return the last lines of a log; none where there is none, or it cannot be read: the message goes out anyway."""
    if log is None:
        return []
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    return [mask(line[:_LONGEST]) for line in lines if line.strip()][-_TAIL_LINES:]
