"""Runs of the past, made without running anything: a record and a part or journal, as a run leaves them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runner.journal import Journal
from runner.manifest import Manifest, Session, encode_schema, utc_text
from runner.output import Output, to_table
from runner.parts import journal_path, part_path, retry_path

TEXT = pa.field("text", pa.string())
LABEL = pa.field("label", pa.string())
DAY_US = 86_400_000_000


def day_us(day: float) -> int:
    """Return a moment in microseconds since 1970: so many days into 2026 (UTC)."""
    return int(datetime(2026, 1, 1, 2, tzinfo=UTC).timestamp() * 1e6 + day * DAY_US)


def row(name: object, label: Any = "a", **columns: Any) -> dict[str, Any]:
    """Return an answered row; without a label one that failed."""
    ok = {"_status": "ok", "label": label}
    failed = {"_status": "error", "_error_type": "server_error", "_error": "no luck"}
    fingerprint = blake2b(str(name).encode(), digest_size=16).hexdigest()
    return {"_id": str(name), "_fingerprint": fingerprint, **(failed if label is None else ok), **columns}


def run(
    base: Path,
    day: float,
    rows: Iterable[Mapping[str, Any]] = (),
    *,
    inputs: Sequence[pa.Field] = (TEXT,),
    answers: Sequence[pa.Field] = (LABEL,),
    id_: str | None = "id",
    models: Sequence[str] = ("m",),
    status: str = "finished",
    stopped_by: str | None = None,
    rehearsal: bool = False,
    kind: str = "part",
    spec: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    files: Sequence[Mapping[str, Any]] = (),
    run_date: str = "",
) -> Path:
    """Make a run that began so many days into 2026.

    Args:
        kind: where its rows are: in a `part`, or still in a `journal`.
    """
    began = utc_text(day_us(day))
    name = datetime.fromtimestamp(day_us(day) / 1e6, UTC).strftime("%Y%m%dT%H%M%SZ") + "-rehearsal" * rehearsal
    folder = base / name
    folder.mkdir(parents=True)
    numbered = [{"_index": number, "_model": models[0], **each} for number, each in enumerate(rows)]
    output = Output.of(inputs, answers, models)
    failed = sum(each["_status"] == "error" for each in numbered)
    counted = {"rows": len(numbered), "ok": len(numbered) - failed, "failed": failed, "cost_usd": 0.5,
               "tokens": {"input": 10, "cached": 0, "output": 2, "reasoning": 0}}  # fmt: skip
    Manifest(
        run=name, job=base.name, status=status, rehearsal=rehearsal, root=str(base), job_file=str(base / "none.yaml"),
        overrides={}, input={"rows": len(numbered), "files": list(files)}, columns={},
        copied_columns=list(output.copied),
        spec={"input": {"id": id_}, "prompt": {"user": "Sort {{ text }}"}, "output": {"layout": "long"},
              "model": models[0] if len(models) == 1 else list(models), **(spec or {})},
        arrow_schema=encode_schema(output.schema), summary={**counted, **(summary or {})},
        stopped_by={"kind": stopped_by, "message": "", "hint": None} if stopped_by else None,
        sessions=[Session(began, finished_at=began, ended=status, wall_s=60.0)], run_date=run_date,
    ).save(folder)  # fmt: skip
    if kind == "part":
        pq.write_table(to_table(numbered, output.schema), part_path(folder, 0))
    else:
        write_journal(journal_path(folder, 0), numbered)
    return folder


def write_journal(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    made = Journal(path)
    for each in rows:
        made.add({"_index": each["_index"], **each})
    made.close()


def retried(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Leave behind what a retry leaves that was killed."""
    write_journal(retry_path(folder, 0), ({"_model": "m", **each} for each in rows))
