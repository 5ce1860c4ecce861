"""Lists runs and explains one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from runner import parts
from runner.clock import SystemClock
from runner.errors import RunnerError
from runner.lock import is_locked
from runner.manifest import Manifest
from runner.report import report, show_path
from runner.runs import all_runs, of_job, outputs_here
from runner.sessions import close_killed, measure_running
from runner.summary import summary_of


def status(manifest: Manifest, folder: Path) -> str:
    """Return the status as it is now: a run that says it works, but that nobody holds, was killed."""
    if manifest.status == "running" and not is_locked(folder.parent):
        return "killed"
    return manifest.status


def list_runs(job: str | None, outputs: Path | None, *, as_json: bool) -> str:
    """Return a table of runs, oldest first.

    Raises:
        SpecError: there are none of this job.
    """
    folders = all_runs(outputs or outputs_here()) if job is None else of_job(job, outputs)
    rows: list[dict[str, object]] = []
    for folder in sorted(folders, key=lambda folder: folder.name):
        try:
            manifest = Manifest.load(folder)
        except RunnerError:
            rows.append({"run": str(folder), "status": "unreadable"})
            continue
        rows.append(
            {
                "run": show_path(folder),
                "status": status(manifest, folder),
                "rehearsal": manifest.rehearsal,
                "rows": manifest.results,
                "ok": manifest.summary.get("ok"),
                "failed": manifest.summary.get("failed"),
                "cost_usd": manifest.summary.get("cost_usd"),
                "model": ", ".join(manifest.models),
            }
        )
    if as_json:
        return json.dumps(rows, indent=2)
    if not rows:
        return "no runs yet: start one with `runner run JOB`"
    head = ("RUN", "STATUS", "ROWS", "OK", "FAILED", "COST", "MODEL")
    table = [head, *((str(r["run"]), str(r["status"]), _n(r.get("rows")), _n(r.get("ok")), _n(r.get("failed")),
                      _usd(r.get("cost_usd")), str(r.get("model", ""))) for r in rows)]  # fmt: skip
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
    )


def show_run(folder: Path, *, as_json: bool) -> str:
    """Return what there is to know of a run; one without an end is counted from its folder, as far as it is."""
    manifest = Manifest.load(folder)
    manifest.status = status(manifest, folder)
    if manifest.status in ("killed", "running"):
        if manifest.status == "killed":
            close_killed(manifest, folder)
        else:
            measure_running(manifest, folder, SystemClock().now_us())
        manifest.summary = summary_of(folder, manifest)
    if as_json:
        return json.dumps({**asdict(manifest), "folder": str(folder)}, indent=2, ensure_ascii=False)
    files = "".join(f"\n            {f['path']} ({f['size']:,} bytes)" for f in manifest.input["files"])
    places = ", ".join(f"{each['name']} ({each['base_url']})" for each in manifest.endpoints)
    ours = tuple(f"{model}._" for model in manifest.models)
    theirs = [name for name in manifest.columns if not name.startswith(("_", *ours))]
    made = [
        "",
        f"made from   {manifest.job_file}",
        f"input       {manifest.input['rows']:,} rows{files}",
        f"model       {', '.join(manifest.models)} at {places}",
        f"columns     {', '.join(theirs)} (and the runner's own)",
        f"parts       {len(parts.sealed(folder))} sealed",
        f"versions    {', '.join(f'{name} {version}' for name, version in manifest.versions.items())}",
    ]
    made += [
        f"session     {session.started_at}: {session.ended or 'running'}, {_count(session.rows, 'rows')}, "
        f"{_count(session.attempts, 'requests')}, {session.wall_s:,.1f} s"
        for session in manifest.sessions
    ]
    return report(manifest, folder) + "\n" + "\n".join(made)


def _count(number: int | None, what: str) -> str:
    return f"an unknown number of {what}" if number is None else f"{number:,} {what}"


def _n(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "-"


def _usd(value: object) -> str:
    return f"${value:.4f}" if isinstance(value, float | int) else "-"
