"""Says why a row would be sent again, or which earlier run has its answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runner import journal, parts, runs
from runner.dataset.columns import as_json_values, is_json_text, is_text_in_json
from runner.dataset.nearest import nearest
from runner.differences import Reason, reasons, shared_start
from runner.earlier import Earlier, EarlierAnswer
from runner.errors import InputError, RunnerError, SpecError
from runner.incremental import are_new
from runner.load import load_job
from runner.manifest import Manifest
from runner.plan import Plan, make_plan
from runner.records import BadRow, Item, Request
from runner.template import MissingField

_MOST_ROWS = 5
_NEAR_IDS = 200


@dataclass(frozen=True, slots=True)
class Explained:
    """One row, asked of one model.

    Attributes:
        where: its place in the input.
        alone: whether it is the only model of the job.
        reuse: whether the job takes earlier answers at all.
        answer: the earlier answer that would be used with `reuse`; None: the reasons tell why there is none.
        compared_with: the newest earlier run that has the row; None: none has, or it does not matter.
        left_out: with `incremental`, the earlier run whose answer makes the row not new; None: it is taken in.
    """

    id: str
    where: str
    model: str
    alone: bool = True
    reuse: bool = True
    answer: EarlierAnswer | None = None
    compared_with: str | None = None
    reasons: tuple[Reason, ...] = ()
    left_out: str | None = None

    def as_json(self) -> dict[str, Any]:
        reused = None
        if self.answer is not None:
            at = _time(self.answer)
            reused = {
                "run": self.answer.run, "kept_by": self.answer.kept_by, "part": self.answer.part,
                "answered_at": at and at.isoformat(),
            }  # fmt: skip
        reasons = [{"kind": each.kind, "text": each.text, "diff": list(each.diff)} for each in self.reasons]
        return {
            "id": self.id, "where": self.where, "model": self.model, "reuse": self.reuse,
            "left_out": self.left_out, "reused_from": reused, "compared_with": self.compared_with, "reasons": reasons,
        }  # fmt: skip

    def text(self) -> str:
        row = f"row {self.id} ({self.where}{'' if self.alone else ', ' + self.model})"
        if self.left_out is not None:
            return f"{row}: would be left out: answered by run {self.left_out}"
        if self.answer is not None:
            at = _time(self.answer)
            when = f": answered {at:%Y-%m-%d %H:%M:%S} UTC" if at else ""
            copied = f" as kept by run {self.answer.kept_by}," if self.answer.kept_by != self.answer.run else ""
            would = "" if self.reuse else "would be sent, as the job does not say `reuse: true`; with it, it "
            return f"{row}: {would}would be reused from run {self.answer.run},{copied} part {self.answer.part}{when}"
        would = "cannot be sent" if self.reasons[0].kind == "bad_row" else "would be sent"
        if self.compared_with is None:
            return f"{row}: {would}: {self.reasons[0].text}"
        lines = [f"{row}: {would}. Since run {self.compared_with}, the newest that has this row:"]
        for reason in self.reasons:
            lines += [f"  {reason.text}", *(f"    {line}" for line in reason.diff)]
        return "\n".join(lines)


def explain(
    job_file: Path,
    row_id: str,
    overrides: Mapping[str, str],
    outputs: Path | None = None,
    *,
    run_date: date | None = None,
) -> list[Explained]:
    """Explain the rows with an id, the first few of them.

    Args:
        run_date: the date that a run would be for; default: today's.

    Raises:
        SpecError, InputError: the job could not be run as it is, or no row has the id.
    """
    job = load_job(job_file, overrides=overrides, run_date=run_date)
    plan = make_plan(job)
    base = (outputs or job.root / runs.OUTPUTS) / job.spec.name
    found = []
    rows = _with_id(plan, row_id)
    with Earlier(base, shared=False) as earlier:
        earlier.update()
        items = [row for row in rows if isinstance(row, Item)]
        new = iter(are_new(plan, base, items)) if job.spec.incremental else repeat(True)
        for row in rows:
            if isinstance(row, BadRow):
                found.append(Explained(row_id, row.where, "", reasons=(Reason("bad_row", row.reason),)))
                continue
            where = f"{row.file}:{row.line}"
            is_new = next(new)
            try:
                for model, request in _requests(plan, row):
                    alone = len(job.spec.models) == 1
                    this = Explained(row.id, where, model, alone, bool(job.spec.reuse))
                    [answer] = earlier.answers([request.fingerprint])
                    if not is_new:
                        found.append(replace(this, left_out=_answered_by(plan, base, request, answer)))
                        continue
                    found.append(replace(this, answer=answer) if answer else _missed(this, plan, base, request))
            except MissingField as error:
                found.append(Explained(row.id, where, "", reasons=(Reason("bad_row", error.message),)))
    return found


def _requests(plan: Plan, item: Item) -> Iterator[tuple[str, Request]]:
    """Yield what is sent for a row, with the model that is asked."""
    for number, model in enumerate(plan.job.spec.models):
        yield model, plan.builder.build(replace(item, model=number))


def _time(answer: EarlierAnswer) -> datetime | None:
    return None if answer.finished_at is None else datetime.fromtimestamp(answer.finished_at / 1e6, UTC)


# The row in the input -------------------------------------------------------------------------------------------------


def _with_id(plan: Plan, row_id: str) -> list[Item | BadRow]:
    """Return the first rows with this id.

    Raises:
        InputError: there is none.
    """
    found: list[Item | BadRow] = []
    near: list[str] = []
    shared = 0
    with closing(plan.dataset.rows()) as rows:
        for row in rows:
            its_id = row.id if isinstance(row, Item) else str(row.fields.get(plan.job.spec.input.id or "", row.index))
            if its_id == row_id:
                found.append(row)
                if len(found) == _MOST_ROWS:
                    break
            elif shared < len(row_id) and its_id.startswith(row_id[: shared + 1]):
                shared, near = shared_start(its_id, row_id), [its_id]
            elif len(near) < _NEAR_IDS and its_id.startswith(row_id[:shared]):
                near.append(its_id)
    if not found:
        column = plan.job.spec.input.id
        of_column = f" in `{column}`" if column else ": without `input.id`, ids are the row numbers from 0"
        names = ", ".join(source.name for source in plan.dataset.sources)
        raise InputError(f"no row has the id `{row_id}`{of_column}", where=names, hint=nearest(row_id, near) or None)
    return found


# The row in the earlier runs ------------------------------------------------------------------------------------------


def _answered_by(plan: Plan, base: Path, request: Request, answer: EarlierAnswer | None) -> str:
    """Return the newest run that has answered a request under its id, or else (`by: content`) under any."""
    for manifest in _manifests(base, rehearsal=plan.job.rehearsal):
        for row in _stored(base / manifest.run, manifest, request.item.id):
            if row["_status"] == "ok" and row["_fingerprint"] == request.fingerprint:
                return manifest.run
    return "unknown" if answer is None else answer.kept_by


def _missed(this: Explained, plan: Plan, base: Path, request: Request) -> Explained:
    """Compare a request that has no earlier answer with the newest one for the same row."""
    for manifest in _manifests(base, rehearsal=plan.job.rehearsal):
        stored = _stored(base / manifest.run, manifest, this.id)
        if stored:
            same = [row for row in stored if row.get("_model") == this.model] or stored
            then = max(
                same, key=lambda row: (row["_fingerprint"] == request.fingerprint, row["_index"] == request.item.index)
            )
            why = tuple(reasons(plan, this.model, request, manifest, then))
            return replace(this, compared_with=manifest.run, reasons=why)
    return replace(this, reasons=(Reason("new", "no earlier run has this row"),))


def _manifests(base: Path, *, rehearsal: bool) -> Iterator[Manifest]:
    """Yield the runs of the job, newest first; those last that only rehearse, or only do not."""
    others = []
    for folder in sorted((path.parent for path in base.glob("*/run.json")), reverse=True):
        with suppress(SpecError):
            if not folder.is_symlink():
                manifest = replace(Manifest.load(folder), run=folder.name)
                if manifest.rehearsal == rehearsal:
                    yield manifest
                else:
                    others.append(manifest)
    yield from others


def _stored(folder: Path, manifest: Manifest, row_id: str) -> list[dict[str, Any]]:
    """Return the results of a run for the rows with an id; what cannot be read is passed over."""
    found: list[dict[str, Any]] = []
    for path in parts.sources(folder):
        with suppress(RunnerError, OSError, pa.ArrowException):
            if path.suffix == ".jsonl":
                found += [row for _, row in journal.standing(path) if row["_id"] == row_id]
            else:
                found += _stored_in_part(path, manifest, row_id)
    return found


def _stored_in_part(path: Path, manifest: Manifest, row_id: str) -> list[dict[str, Any]]:
    wanted = [("_id", "==", row_id)]
    if not pq.read_table(path, columns=["_id"], filters=wanted, partitioning=None).num_rows:
        return []
    table = manifest.layout.unpack(pq.read_table(path, filters=wanted, partitioning=None), manifest.schema)
    columns = {field.name: _as_read(table.column(field.name).combine_chunks(), field) for field in table.schema}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _as_read(column: pa.Array, field: pa.Field) -> list[Any]:
    """Return the values as they were read from the input."""
    values: list[Any] = (as_json_values(column) if is_text_in_json(field.type) else column).to_pylist()
    return [value and json.loads(value) for value in values] if is_json_text(field) else values
