"""Lists runs and explains one."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from runner import parts
from runner.clock import SystemClock
from runner.errors import SpecError
from runner.history import OUTCOMES, UNFINISHED, Past, in_order, is_one_of, since_us, status
from runner.manifest import Manifest, utc_text
from runner.problems import listed, suggest
from runner.progress import duration
from runner.report import report, show_path
from runner.runs import all_runs, of_job, outputs_here
from runner.sessions import close_killed, measure_running
from runner.summary import summary_of

UNREADABLE = "unreadable"
"""What a run is whose record cannot be read."""


def list_runs(
    job: str | None,
    outputs: Path | None,
    *,
    as_json: bool,
    since: str | None = None,
    statuses: Collection[str] = (),
    now_us: int | None = None,
) -> str:
    """Return a table of runs, the newest last. Finished runs are not counted again: their records have the numbers.

    Args:
        since: only those that began after this, as `history.since_us` reads it.
        statuses: only those that came out like this; default: all.

    Raises:
        SpecError: there are none of this job, or the time or a status is none.
    """
    _refuse_unknown(statuses)
    earliest = None if since is None else since_us(since, SystemClock().now_us() if now_us is None else now_us)
    folders = all_runs(outputs or outputs_here()) if job is None else of_job(job, outputs)
    found, unreadable = in_order(folders)
    rows: list[dict[str, object]] = [{"run": show_path(folder), "status": UNREADABLE, "outcome": UNREADABLE}
                                     for folder in sorted(unreadable)]  # fmt: skip
    rows += [_about(run) for run in found if earliest is None or run.began_us >= earliest]
    if statuses:
        rows = [row for row in rows if is_one_of(str(row["outcome"]), statuses)]
    if as_json:
        return json.dumps(rows, indent=2)
    if not rows:
        return "no such runs" if found or unreadable else "no runs yet: start one with `runner run JOB`"
    return _table(rows)


def _refuse_unknown(statuses: Collection[str]) -> None:
    known = (*OUTCOMES, *UNFINISHED, UNREADABLE)
    for word in statuses:
        if word.partition("(")[0] not in known:
            hint = suggest(word, known) or f"there is {listed(known)}"
            raise SpecError(f"--status takes a word of the list of runs, got `{word}`", hint=hint)


def _about(run: Past) -> dict[str, object]:
    manifest, summary = run.manifest, run.manifest.summary
    return {
        "run": show_path(run.folder),
        "status": status(manifest, run.folder),
        "outcome": run.outcome,
        "rehearsal": manifest.rehearsal,
        "began_at": utc_text(run.began_us),
        "took_s": round(run.took_s, 3),
        "rows": manifest.results,
        "ok": summary.get("ok"),
        "failed": summary.get("failed"),
        "cost_usd": summary.get("cost_usd"),
        "model": ", ".join(manifest.models),
    }


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    head = ("RUN", "STATUS", "BEGAN (UTC)", "TIME", "ROWS", "OK", "FAILED", "COST", "MODEL")
    table = [head, *((str(r["run"]), str(r["outcome"]), str(r.get("began_at", "-"))[:16].replace("T", " "),
                      _time(r.get("took_s")), _n(r.get("rows")), _n(r.get("ok")), _n(r.get("failed")),
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
        f"input       {manifest.input.get('all_rows', manifest.input['rows']):,} rows{files}",
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


def _time(value: object) -> str:
    return duration(value) if isinstance(value, float) and value else "-"


def _usd(value: object) -> str:
    return f"${value:.4f}" if isinstance(value, float | int) else "-"
