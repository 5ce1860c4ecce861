"""Writes a comparison down: numbers as JSON, requests as Parquet, pictures as HTML, SVG and PNG; and as a table."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median_low
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runner.atomic import replacing, write_text
from runner.compare.contest import Trial
from runner.compare.metrics import Metrics, agreement, conclude, measure
from runner.dataset.survey import Survey
from runner.errors import Exit
from runner.manifest import utc_text, versions
from runner.output import to_table
from runner.report import show_path
from runner.snapshot import as_run
from runner.store import disk_error

_SPEED = ("total", "rows/s", "speed-up", "saved", "of ideal", "failed")
_ANSWERS = ("mean", "p50", "p95", "p99", "tokens", "cost")
_SHOWN = 8  # rows with different answers


class Comparison:
    """What a contest came to.

    Args:
        unmeasured: what was paid for besides.
        stopped: not all rounds were run.
    """

    def __init__(
        self, folder: Path, trials: Sequence[Trial], unmeasured: Sequence[Trial], found: Survey, *, stopped: bool
    ) -> None:
        self.folder = folder
        self.metrics = measure(trials)
        self.conclusion = conclude(self.metrics)
        self._trials = trials
        self._unmeasured = unmeasured
        self._found = found
        self._stopped = stopped
        self._agreement = agreement(trials)
        self._job = trials[0].contestant.plan.job
        self._rounds = max(trial.round for trial in trials)

    @property
    def exit_code(self) -> Exit:
        return Exit.SOME_FAILED if any(each.failed for each in self.metrics) else Exit.OK

    # Words ------------------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """Return the comparison for a terminal."""
        rows = [self._cells(each) for each in self.metrics]
        rounds = "1 round" if self._rounds == 1 else f"{self._rounds} rounds"
        out = [f"{self._title()}: {self.metrics[0].rows:,} rows, {rounds} each", ""]
        count = 1 + len(_SPEED)  # two tables: on a terminal all columns do not fit beside each other
        out += _table(("", *_SPEED), [cells[:count] for cells in rows])
        out += ["", *_table(("", *_ANSWERS), [(cells[0], *cells[count:]) for cells in rows])]
        out += ["", self.conclusion, *self._notes()]
        out += ["", f"picture:      {show_path(self.folder / 'comparison.html')}  (also .svg, .png, .json)"]
        return "\n".join(out)

    def _title(self) -> str:
        rehearsal = " (rehearsal)" if self._job.rehearsal else ""
        return f"{self._job.spec.name}{rehearsal}"

    def _cells(self, each: Metrics) -> tuple[str, ...]:
        return (
            each.name,
            _seconds(each.total_s),
            f"{each.rows_per_s:,.1f}",
            f"{each.speedup:.2f}x",
            f"{each.saved:.0%}",
            "–" if each.ideal_share is None else f"{each.ideal_share:.0%}",
            f"{each.failed:,}",
            *(_seconds(value) for value in (each.mean_s, each.p50_s, each.p95_s, each.p99_s)),
            f"{each.input_tokens + each.output_tokens:,}",
            "unknown" if each.cost_usd is None else f"${each.cost_usd:.4f}",
        )

    def _notes(self) -> list[str]:
        """Return what one should know before believing the numbers."""
        notes = []
        if self._job.rehearsal:
            notes.append("This was a rehearsal: answers and costs are the embedded simulator's, times are real.")
        if self._stopped:
            notes.append(f"It was stopped early: only the {self._rounds} complete rounds count.")
        notes.append(
            "Total: median of the rounds, with connecting and starting processes. Speed-up and saved: against "
            f"{self._baseline()}. Of ideal: rows x mean response time / requests in flight. "
            "Tokens and cost: of one round."
        )
        everything = (*self._trials, *self._unmeasured)
        costs = [result.cost_usd for trial in everything for result in trial.results if result.attempts]
        if None not in costs:
            total = sum(cost for cost in costs if cost is not None)
            notes.append(f"All of it, one row each to warm up included, cost ${total:.4f}.")
        found = self._agreement
        if found is not None:
            notes.append(f"The models agree on {found.same} of the {found.rows} rows that all of them answered.")
            for row_id, answers in found.different[:_SHOWN]:
                notes.append(f"Row {row_id}: " + ", ".join(f"{model} {_brief(a)}" for model, a in answers.items()))
            if len(found.different) > _SHOWN:
                notes.append(f"… and {len(found.different) - _SHOWN} more, in comparison.json")
        return notes

    def _baseline(self) -> str:
        names = [each.name for each in self.metrics if each.strategy == "sequential"]
        return "sequential" if names else max(self.metrics, key=lambda each: each.total_s).name

    # Files ------------------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Write everything.

        Raises:
            FatalError: the folder cannot be written to.
        """
        trials = sorted((*self._trials, *self._unmeasured), key=lambda trial: trial.round)
        write_requests(self.folder, trials, self._found)  # first: they are what was paid for
        try:
            write_text(self.folder / "comparison.json", json.dumps(self.as_json(), indent=2, default=str) + "\n")
            self._draw()
        except OSError as error:
            raise disk_error(error, self.folder) from error

    def as_json(self) -> dict[str, Any]:
        """Return everything that is known of the comparison."""
        found = self._agreement
        return {
            "created_at": utc_text(self._trials[0].began_at),
            "job": self._job.spec.name,
            "job_file": str(self._job.path),
            "rehearsal": self._job.rehearsal,
            "endpoints": [{"name": each.name, "base_url": each.base_url} for each in self._job.pool],
            "spec": as_run(self._job),
            "versions": versions(),
            "machine": {"cores": os.cpu_count(), "system": platform.platform()},
            "rounds": self._rounds,
            "stopped_early": self._stopped,
            "conclusion": self.conclusion,
            "contestants": [asdict(each) for each in self.metrics],
            "agreement": None if found is None else asdict(found),
            "requests": [entry for trial in self._trials for entry in _requests(trial)],
        }

    def _draw(self) -> None:
        from runner import drawing
        from runner.compare import figures
        from runner.compare.page import page

        lanes = [self._lane(each, figures) for each in self.metrics]
        facts = [
            ("Job", self._job.spec.name),
            ("Endpoint", self._title_of_endpoint()),
            ("Model", ", ".join(dict.fromkeys(each.model for each in self.metrics))),
            ("Rows", f"{self.metrics[0].rows:,} in each of {self._rounds} rounds"),
            ("Concurrency", ", ".join(dict.fromkeys(f"{each.concurrency}" for each in self.metrics))),
            ("When", utc_text(self._trials[0].began_at)[:19].replace("T", " ") + " UTC"),
        ]
        rows = [self._cells(each) for each in self.metrics]
        title = f"{self._title()}: {len(lanes)} ways compared"
        write_text(
            self.folder / "comparison.html",
            page(title, facts, self.conclusion, ("", *_SPEED, *_ANSWERS), rows, self._notes(), lanes),
        )
        slide = figures.slide(lanes, title)
        drawing.save_svg(slide, self.folder / "comparison.svg")
        drawing.save_png(slide, self.folder / "comparison.png")

    def _title_of_endpoint(self) -> str:
        names = ", ".join(endpoint.name for endpoint in self._job.pool)
        return "the embedded simulator" if self._job.rehearsal else names

    def _lane(self, each: Metrics, figures: Any) -> Any:
        trials = [trial for trial in self._trials if trial.contestant.name == each.name]
        middle = median_low(trial.wall_s for trial in trials)
        shown = next(trial for trial in trials if trial.wall_s == middle)
        timings = [
            figures.Timing((result.started_at - shown.began_at) / 1e6, (result.finished_at - shown.began_at) / 1e6,
                           result.status == "ok")
            for result in shown.results if result.started_at is not None and result.finished_at is not None
        ]  # fmt: skip
        latencies = [r.latency_s for trial in trials for r in trial.results if r.latency_s is not None]
        return figures.Lane(each.name, each.walls_s, latencies, timings)


def write_requests(folder: Path, trials: Sequence[Trial], found: Survey) -> None:
    """Write every reply that was paid for, those that are not measured too: the rounds of a warm-up are 0.

    Raises:
        FatalError: the folder cannot be written to.
    """
    schema = trials[0].contestant.plan.output(found).schema
    tables = []
    for trial in trials:
        output = trial.contestant.plan.output(found)
        table = to_table([output.row(result) for result in trial.results], schema)
        about = {
            "contestant": trial.contestant.name,
            "strategy": trial.contestant.strategy_name,
            "concurrency": trial.in_flight,
            "round": trial.round,
        }
        for number, (name, value) in enumerate(about.items()):
            kind = pa.string() if isinstance(value, str) else pa.int64()
            table = table.add_column(number, f"_{name}", pa.array([value] * table.num_rows, kind))
        tables.append(table)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "requests.parquet") as temporary:
            pq.write_table(pa.concat_tables(tables), temporary, compression="zstd")
    except OSError as error:
        raise disk_error(error, folder) from error


def _requests(trial: Trial) -> list[dict[str, Any]]:
    """Return each request of a trial; times in seconds since the trial began."""

    def since(moment_us: int | None) -> float | None:
        return None if moment_us is None else round((moment_us - trial.began_at) / 1e6, 6)

    return [
        {
            "contestant": trial.contestant.name,
            "round": trial.round,
            "index": result.item.index,
            "id": result.item.id,
            "status": result.status,
            "error": result.error,
            "attempts": result.attempts,
            "queued_s": since(result.queued_at),
            "started_s": since(result.started_at),
            "finished_s": since(result.finished_at),
            "latency_s": result.latency_s,
            "throttle_s": result.throttle_s,
            "backoff_s": result.backoff_s,
            "input_tokens": result.input_tokens,
            "output_tokens": result.output_tokens,
            "cost_usd": result.cost_usd,
            "reply": result.raw,
        }
        for result in trial.results
    ]


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def _brief(answer: Mapping[str, Any]) -> str:
    values = list(answer.values())
    text = str(values[0]) if len(values) == 1 else json.dumps(answer, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:59] + "…"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in (head, *rows)
    ]
