"""What a run amounts to, counted from its folder: right also after crashes, resumes and retries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from runner import agreement, parts, stats
from runner.answer_stats import AnswerStats
from runner.batches import ledger
from runner.dataset.repeats import Repeats
from runner.errors import InputError
from runner.evaluate import Evaluation
from runner.manifest import Manifest
from runner.output import RUNNER_FIELDS

_BATCH_ROWS = 20_000


def summary_of(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Return the numbers of a run, with all that its job asks for.

    Raises:
        FatalError: a part or journal is damaged.
    """
    found = summarize(
        folder,
        manifest.schema,
        sum(session.wall_s for session in manifest.sessions),
        models=manifest.models,
        evaluation=Evaluation.of(manifest.spec, manifest.schema, manifest.copied_columns),
    )
    if entries := list(ledger.read(folder)):
        found["batches"] = _batches(entries)
    return found


def _batches(entries: Sequence[ledger.Entry]) -> dict[str, Any]:
    took = [
        (entry.ended_at - entry.submitted_at) / 1e6
        for entry in entries
        if entry.ended_at is not None and entry.submitted_at is not None
    ]
    return {
        "batches": len(entries),
        "open": sum(entry.open for entry in entries),
        "statuses": dict(sorted(Counter(entry.status or entry.state for entry in entries).items())),
        "longest_s": max(took, default=None),
    }


def summarize(
    folder: Path,
    schema: pa.Schema,
    wall_s: float,
    *,
    models: Sequence[str] = (),
    evaluation: Evaluation | None = None,
) -> dict[str, Any]:
    """Return the numbers of a run. Its cost is null where that of some rows is unknown.

    Args:
        schema: of all columns of the results.
        wall_s: time spent on it, over all its sessions.
        models: the job's models; where there are several, each has numbers of its own, and they are compared.
        evaluation: compares the answers with expected ones; new, as it counts what it is given.

    Raises:
        FatalError: a part or journal is damaged.
    """
    total = stats.Stats()
    answers = AnswerStats(schema)
    of_model = {model: stats.Stats() for model in models} if len(models) > 1 else {}
    alike = agreement.Agreement(models, answers.chosen) if of_model else None
    columns = [*stats.COLUMNS, *answers.columns]
    columns += evaluation.columns if evaluation else []
    columns += agreement.COLUMNS if alike else []
    few = pa.schema([schema.field(name) for name in dict.fromkeys(columns)])
    for table in parts.stored(folder, few, _BATCH_ROWS):
        total.add(table)
        answers.add(table)
        for model, mine in of_model.items():
            mine.add(table.filter(pc.equal(table.column("_model"), model)))
        if alike:
            alike.add(table)
        if evaluation:
            evaluation.add(table)
    found = {**_numbers(total, wall_s), **answers.as_json(), "saved": _saved(total, folder.name, _identical(folder))}
    if alike:
        found["models"] = {model: _numbers(mine, wall_s) for model, mine in of_model.items()}
        found["agreement"] = alike.as_dict()
        found["disagreements"] = alike.examples()
    if evaluation:
        found["evaluation"] = evaluation.as_dict()
    return found


def _identical(folder: Path) -> int | None:
    """Return how many requests were sent although another row had the same; None: there is no room to count them."""
    schema = pa.schema([field for field in RUNNER_FIELDS if field.name in ("_model", "_fingerprint", "_reused_from")])
    try:
        with Repeats() as repeats:
            for table in parts.stored(folder, schema, _BATCH_ROWS):
                asked = table.filter(pc.is_null(table.column("_reused_from"))).column("_fingerprint").drop_null()
                repeats.add_digests(bytes.fromhex("".join(pc.utf8_slice_codeunits(asked, 0, 16).to_pylist())))
            return repeats.count()
    except InputError:
        return None


def _saved(total: stats.Stats, run: str, identical: int | None) -> dict[str, Any]:
    """Return what did not have to be paid, by what saved it: cache, earlier runs, identical requests."""
    twins = total.reused.get(run, {"rows": 0, "saved_usd": 0.0})
    earlier = [found for origin, found in total.reused.items() if origin != run]
    return {
        "cache_usd": round(total.saved_by_cache_usd, 6),
        "reused_rows": sum(found["rows"] for found in earlier),
        "reuse_usd": round(sum(found["saved_usd"] for found in earlier), 6),
        "deduped_rows": twins["rows"],
        "dedupe_usd": round(twins["saved_usd"], 6),
        "identical_rows": identical,  # asked, although another row had the same request
    }


def _numbers(total: stats.Stats, wall_s: float) -> dict[str, Any]:
    known = total.without_price + total.without_usage == 0
    return {
        "rows": total.rows,
        "ok": total.rows - total.failed,
        "failed": total.failed,
        "errors": total.errors,
        "attempts": total.attempts,
        "rows_in_batches": total.batched,
        "endpoints": dict(sorted(total.endpoints.items())),
        "tokens": total.tokens,
        "cost_usd": round(total.cost_usd, 6) if known else None,
        "cost_at_least_usd": round(total.cost_usd, 6),
        "rows_without_price": total.without_price,
        "rows_without_usage": total.without_usage,
        "timing": total.timing(wall_s),
    }
