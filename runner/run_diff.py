"""Says what differs between two runs of a job: the job, the input, the numbers, the answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runner.differences import change, job_changes, prompt_diff
from runner.errors import SpecError
from runner.history import Past, in_order
from runner.money import usd
from runner.report import show_path
from runner.row_diff import ChangedRow, RowDiff, compare_rows
from runner.runs import of_job
from runner.summary import summary_of

_MOST_LABELS = 20


@dataclass(frozen=True)
class RunDiff:
    """What differs between two runs.

    Attributes:
        job: each dotted key of the job that changed, with both values; None: it was, or is, not there.
        prompt: a unified diff of the messages; empty where they are the same.
        files: what became of each input file: `same`, `changed`, `new` or `gone`.
        numbers: both values of rows, ok, failed, tokens, cost …; None: unknown.
        answers: of the labels (under "") and of each question how often each answer was given, both times.
        means: of each question that is answered with a number the mean, both times.
    """

    old: Past
    new: Past
    job: list[tuple[str, Any, Any]]
    prompt: list[str]
    files: dict[str, str]
    numbers: dict[str, tuple[Any, Any]]
    answers: dict[str, dict[str, tuple[int, int]]]
    means: dict[str, tuple[float | None, float | None]]
    rows: RowDiff

    def as_json(self) -> dict[str, Any]:
        return {
            "old": str(self.old.folder), "new": str(self.new.folder),
            "job": {key: {"old": before, "new": now} for key, before, now in self.job},
            "prompt": self.prompt,
            "files": self.files,
            "numbers": {name: {"old": before, "new": now} for name, (before, now) in self.numbers.items()},
            "answers": {
                question: {"drift": drift(counts), "counts": {answer: list(both) for answer, both in counts.items()}}
                for question, counts in self.answers.items()
            },
            "means": {question: list(both) for question, both in self.means.items()},
            "rows": asdict(self.rows),
        }  # fmt: skip

    def text(self) -> str:
        sections = {
            "job": self._job(), "input": self._input(), "rows": self._counts(), "answers": self._answers(),
            "tokens": self._both("input_tokens", "{:,} in".format), "": self._both("output_tokens", "{:,} out".format),
            "cost": self._both("cost_usd", usd), "changed": self._changed(),
        }  # fmt: skip
        lines = [f"{self.old.manifest.job}: {show_path(self.old.folder)} -> {show_path(self.new.folder)}", ""]
        for name, found in sections.items():
            for number, line in enumerate(found):
                lines.append(f"  {'' if number else name:<9} {line}".rstrip())
        return "\n".join(lines)

    def _job(self) -> Iterator[str]:
        for key, before, now in self.job:
            yield f"`{key}`: {change(before, now)}"
        if self.prompt:
            yield "the prompt:"
            yield from (f"  {line}" for line in self.prompt)
        if not self.job and not self.prompt:
            yield "the same"

    def _input(self) -> Iterator[str]:
        changed = [f"{path} {what}" for path, what in self.files.items() if what != "same"]
        yield ", ".join(changed) or "the same files"
        part = any("all_rows" in run.manifest.input for run in (self.old, self.new))  # a run over what was new to it
        added, gone = ("only in the later run", "only in the earlier one") if part else ("new", "gone")
        for count, what, ids in ((self.rows.added, added, self.rows.added_ids), (self.rows.gone, gone,
                                                                                 self.rows.gone_ids)):  # fmt: skip
            if count:
                more = ", …" if count > len(ids) else ""
                yield f"{count:,} {'row' if count == 1 else 'rows'} {what}: {', '.join(ids)}{more}"

    def _counts(self) -> Iterator[str]:
        yield " · ".join(
            f"{word}{_arrow(self.numbers[name], '{:,}'.format)}"
            for name, word in (("rows", ""), ("ok", "ok "), ("failed", "failed "), ("reused_rows", "reused "))
            if name == "rows" or any(self.numbers[name])
        )

    def _answers(self) -> Iterator[str]:
        for question, counts in self.answers.items():
            share = drift(counts)
            if share is not None:
                yield f"{question or 'label'}: drift {share:.1%}"
            totals = [sum(both[side] for both in counts.values()) for side in (0, 1)]
            width = max(map(len, counts), default=0)
            for answer, both in list(counts.items())[:_MOST_LABELS]:
                shares = [count / total if total else 0.0 for count, total in zip(both, totals, strict=True)]
                old, new = (f"{count:,} ({part:.1%})" for count, part in zip(both, shares, strict=True))
                yield f"  {answer:<{width}}  {old} -> {new}  {100 * (shares[1] - shares[0]):+.1f}"
            if len(counts) > _MOST_LABELS:
                yield f"  and {len(counts) - _MOST_LABELS:,} more"
        for question, means in self.means.items():
            yield f"{question}: {_arrow(means, '{:g}'.format)} on average"

    def _both(self, name: str, form: Callable[[Any], str]) -> Iterator[str]:
        if any(self.numbers[name]):
            yield _arrow(self.numbers[name], form)

    def _changed(self) -> Iterator[str]:
        rows = self.rows
        if not rows.columns:
            yield "the runs have no column of the answer in common"
        else:
            share = f" ({rows.changed / rows.both_ok:.1%})" if rows.both_ok else ""
            yield f"{rows.changed:,} of {rows.both_ok:,} answers that both have{share}"
        if rows.mended:
            yield f"{rows.mended:,} failed then and {'is' if rows.mended == 1 else 'are'} answered now"
        if rows.broke:
            yield f"{rows.broke:,} answered then and failed now"
        alone = len({row.model for row in rows.rows}) < 2
        yield from (f"  {_row(row, alone)}" for row in rows.rows)
        left = rows.changed + rows.mended + rows.broke - len(rows.rows)
        if rows.rows and left:
            yield f"  and {left:,} more: `--rows N` shows more of them"


def drift(counts: Mapping[str, tuple[int, int]]) -> float | None:
    """Return by how much a distribution moved, from 0 to 1: the total variation distance of the shares.

    It is the share of rows that would have to be answered differently for the two to be alike: half the sum of the
    differences. None where a side has no answers.
    """
    old, new = (sum(both[side] for both in counts.values()) for side in (0, 1))
    if not old or not new:
        return None
    return round(sum(abs(then / old - now / new) for then, now in counts.values()) / 2, 6)


def last_two(job: str, outputs: Path | None) -> tuple[Path, Path]:
    """Return the last two finished runs of a job that a person names as for `runs.of_job`; rehearsals if there are no
    others.

    Raises:
        SpecError: there are not two.
    """
    folders = of_job(job, outputs)
    finished = [run for run in in_order(folders)[0] if run.manifest.status == "finished"]
    real = [run for run in finished if not run.is_rehearsal]
    found = real if len(real) > 1 else finished
    if len(found) < 2:
        raise SpecError(
            f"two finished runs are needed, and `{job}` has {len(found) or 'none'}",
            where=str(folders[0].parent),
            hint="name the runs to look at unfinished ones: `runner diff RUN1 RUN2`",
        )
    return found[-2].folder, found[-1].folder


def compare_runs(old: Path, new: Path, rows: int = 20) -> RunDiff:
    """Compare two runs.

    Args:
        rows: how many of the rows to show whose answer changed.

    Raises:
        SpecError: a folder is no run.
        FatalError: a part or journal is damaged, or there is no room for temporary files.
    """
    both = Past.load(old), Past.load(new)
    specs = [run.manifest.spec for run in both]
    then, now = (_summary(run) for run in both)
    return RunDiff(
        *both,
        job=list(job_changes(*specs)),
        prompt=prompt_diff(*specs),
        files=_files(*(run.manifest.input["files"] for run in both)),
        numbers=_numbers(then, now),
        answers=_answers(then, now),
        means=_means(then, now),
        rows=compare_rows((old, both[0].manifest), (new, both[1].manifest), rows),
    )


def _summary(run: Past) -> dict[str, Any]:
    """Return the numbers of a run; one without an end is counted from its folder, as far as it is."""
    return run.manifest.summary or summary_of(run.folder, run.manifest)


def _files(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> dict[str, str]:
    then, now = ({stamp["path"]: stamp["sha256"] for stamp in stamps} for stamps in (old, new))
    return {
        path: "gone" if path not in now else "new" if path not in then
        else "same" if then[path] == now[path] else "changed"
        for path in [*then, *(path for path in now if path not in then)]
    }  # fmt: skip


def _numbers(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    def of(summary: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: summary.get(name) for name in ("rows", "ok", "failed", "attempts")}
        found["reused_rows"] = summary.get("saved", {}).get("reused_rows")
        found |= {f"{kind}_tokens": summary["tokens"].get(kind) for kind in ("input", "cached", "output", "reasoning")}
        return {**found, "cost_usd": summary.get("cost_usd"), "wall_s": summary.get("timing", {}).get("wall_s")}

    then, now = of(old), of(new)
    return {name: (then[name], now[name]) for name in then}


def _answers(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, dict[str, tuple[int, int]]]:
    """Return how often each answer was given, then and now, the most frequent of now first."""
    found = {}
    then, now = (_distributions(summary) for summary in (old, new))
    for question in [*now, *(each for each in then if each not in now)]:
        was, is_ = then.get(question, {}), now.get(question, {})
        answers = [*is_, *(answer for answer in was if answer not in is_)]
        found[question] = {answer: (was.get(answer, 0), is_.get(answer, 0)) for answer in answers}
    return found


def _distributions(summary: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    labels = {"": summary["answers"]} if summary.get("answers") else {}
    questions = summary.get("questions", {})
    return labels | {name: each["answers"] for name, each in questions.items() if each.get("answers")}


def _means(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    then, now = (
        {name: each["mean"] for name, each in summary.get("questions", {}).items() if each.get("mean") is not None}
        for summary in (old, new)
    )
    return {name: (then.get(name), now.get(name)) for name in [*now, *(each for each in then if each not in now)]}


def _arrow(both: tuple[Any, Any], form: Callable[[Any], str]) -> str:
    old, new = ("unknown" if value is None else form(value) for value in both)
    return old if old == new else f"{old} -> {new}"


def _row(row: ChangedRow, alone: bool) -> str:
    who = row.id if alone else f"{row.id} ({row.model})"
    if "_error_type" in row.old or "_error_type" in row.new:
        return f"{who}: {_said(row.old)} -> {_said(row.new)}"
    moved = [name for name in row.new if row.new[name] != row.old[name]]
    if len(row.new) == 1:
        return f"{who}: {change(row.old[moved[0]], row.new[moved[0]])}"
    return f"{who}: {', '.join(f'{name} {change(row.old[name], row.new[name])}' for name in moved)}"


def _said(answer: dict[str, Any]) -> str:
    if "_error_type" in answer:
        return f"failed ({answer['_error_type']})"
    return ", ".join(json.dumps(value, ensure_ascii=False) for value in answer.values()) or "answered"
