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
from runner.lock import is_locked
from runner.manifest import Manifest, utc_text
from runner.money import usd
from runner.problems import listed, suggest
from runner.progress import duration
from runner.report import report, show_path
from runner.runs import all_runs, of_job, of_moment, outputs_here
from runner.service.book import NOT_BEGUN, Book
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
    here = outputs or outputs_here()
    without = _without_run(here)
    folders = list(all_runs(here)) if job is None else _of_job(job, outputs, {str(row["job"]) for row in without})
    if job is not None:
        jobs = {folder.parent.name for folder in folders} or {Path(job).stem}
        without = [row for row in without if row["job"] in jobs]
    found, unreadable = in_order(folders)
    found.sort(key=lambda run: (run.began_us, run.name))  # the list tells what was done when
    rows: list[dict[str, object]] = [{"run": show_path(folder), "status": UNREADABLE, "outcome": UNREADABLE}
                                     for folder in sorted(unreadable)]  # fmt: skip
    dated = sorted([*map(_about, found), *without], key=lambda row: str(row["began_at"]))
    rows += [row for row in dated if earliest is None or str(row["began_at"]) >= utc_text(earliest)]
    if statuses:
        rows = [row for row in rows if is_one_of(str(row["outcome"]), statuses)]
    if as_json:
        return json.dumps(rows, indent=2)
    if not rows:
        return "no such runs" if dated or unreadable else "no runs yet: start one with `runner run JOB`"
    return _table(rows)


def _refuse_unknown(statuses: Collection[str]) -> None:
    known = (*OUTCOMES, *UNFINISHED, UNREADABLE)
    for word in statuses:
        if word.partition("(")[0] not in known:
            hint = suggest(word, known) or f"there is {listed(known)}"
            raise SpecError(f"--status takes a word of the list of runs, got `{word}`", hint=hint)


def _of_job(job: str, outputs: Path | None, planned: Collection[str]) -> list[Path]:
    """Return the runs of a job; none of one that was planned and has never begun."""
    try:
        return of_job(job, outputs)
    except SpecError:
        if Path(job).stem in planned:
            return []
        raise


def _without_run(outputs: Path) -> list[dict[str, object]]:
    """Return the moments of schedules that no run came of."""
    found: list[dict[str, object]] = []
    with Book(outputs, to_read=True) as book:
        for moment in book.moments():
            outcome, why = moment.verdict, moment.why
            if moment.why == NOT_BEGUN:
                base = outputs / moment.job
                if is_locked(base) or of_moment(base, utc_text(moment.at_us)) is not None:
                    continue
                outcome = "killed"
            elif moment.verdict == "run":
                task = None if moment.task is None else book.task(moment.task)
                if task is None or task.run is not None or task.outcome is None:
                    continue
                outcome, why = task.outcome, task.message or ""
            at = utc_text(moment.at_us)
            found.append({"run": None, "job": moment.job, "status": outcome, "outcome": outcome, "why": why,
                          "run_date": at[:10], "began_at": at})  # fmt: skip
    return found


def _about(run: Past) -> dict[str, object]:
    manifest, summary = run.manifest, run.manifest.summary
    return {
        "run": show_path(run.folder),
        "job": manifest.job,
        "status": status(manifest, run.folder),
        "outcome": run.outcome,
        "rehearsal": manifest.rehearsal,
        "run_date": run.run_date,
        "began_at": utc_text(run.began_us),
        "took_s": round(run.took_s, 3),
        "rows": manifest.results,
        "ok": summary.get("ok"),
        "failed": summary.get("failed"),
        "cost_usd": summary.get("cost_usd"),
        "model": ", ".join(manifest.models),
    }


def _line(row: Mapping[str, object]) -> tuple[str, ...]:
    began = str(row.get("began_at", "-"))[:16].replace("T", " ")
    counts = (_n(row.get("rows")), _n(row.get("ok")), _n(row.get("failed")))
    run = str(row["run"] or f"- ({row['job']})")
    said = str(row.get("model", row.get("why", "")))
    return (
        run, str(row.get("run_date", "-")), str(row["outcome"]), began, _time(row.get("took_s")), *counts,
        _usd(row.get("cost_usd")), said,
    )  # fmt: skip


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    dated = any(row["run_date"] != str(row["began_at"])[:10] for row in rows if "began_at" in row)
    head = ("RUN", "DATE", "STATUS", "BEGAN (UTC)", "TIME", "ROWS", "OK", "FAILED", "COST", "MODEL")
    table = [head, *map(_line, rows)]
    if not dated:
        table = [(run, *others) for run, _, *others in table]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
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
        f"date        {Past.load(folder).run_date}",
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
    return usd(value) if isinstance(value, float | int) else "-"
