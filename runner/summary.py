"""What a run amounts to, counted from its folder: right also after crashes, resumes and retries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from runner import agreement, parts, stats
from runner.budget import NOTHING, Amount
from runner.output import RUNNER_FIELDS

_BATCH_ROWS = 20_000
_SPENT = ("_finished_at", "_cost_usd", "_input_tokens", "_output_tokens")


def spent_in(folder: Path, since_us: int = 0) -> Amount:
    """Return what the requests of a run took that were finished at `since_us` (microseconds since 1970) or later.

    Raises:
        FatalError: a part or journal is damaged.
    """
    if max((path.stat().st_mtime_ns for path in folder.iterdir()), default=0) < since_us * 1000:
        return NOTHING
    since = pa.scalar(since_us, pa.int64())
    spent = NOTHING
    for table in parts.stored(folder, pa.schema([f for f in RUNNER_FIELDS if f.name in _SPENT]), _BATCH_ROWS):
        table = table.filter(pc.greater_equal(table.column("_finished_at").cast(pa.int64()), since))
        usd, *tokens = (pc.sum(table.column(name)).as_py() or 0 for name in _SPENT[1:])
        spent += Amount(usd, sum(tokens))
    return spent


def summarize(
    folder: Path, schema: pa.Schema, wall_s: float, counted: str | None = None, models: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the numbers of a run. Its cost is null where that of some rows is unknown.

    Args:
        models: the job's models; where there are several, each has numbers of its own, and they are compared.
        wall_s: time spent on it, over all its sessions.
        counted: a column with few different values, such as labels, to count.

    Raises:
        FatalError: a part or journal is damaged.
    """
    total = stats.Stats()
    answers: dict[str, int] = {}
    columns = [*stats.COLUMNS, *([counted] if counted else [])]

    of_model = {model: stats.Stats() for model in models} if len(models) > 1 else {}
    alike = agreement.Agreement(models, [counted] if counted else []) if of_model else None
    columns += agreement.COLUMNS if of_model else []
    few = pa.schema([schema.field(name) for name in dict.fromkeys(columns)])
    for table in parts.stored(folder, few, _BATCH_ROWS):
        total.add(table)
        for model, mine in of_model.items():
            mine.add(table.filter(pc.equal(table.column("_model"), model)))
        if alike is not None:
            alike.add(table)
        if counted:
            for entry in pc.value_counts(table.column(counted).drop_null()).to_pylist():
                answers[entry["values"]] = answers.get(entry["values"], 0) + entry["counts"]
    found = {
        **_numbers(total, wall_s),
        "answers": dict(sorted(answers.items(), key=lambda entry: (-entry[1], entry[0]))),
    }
    if alike is not None:
        found["models"] = {model: _numbers(mine, wall_s) for model, mine in of_model.items()}
        found["agreement"] = alike.as_dict()
        found["disagreements"] = alike.examples()
    return found


def _numbers(total: stats.Stats, wall_s: float) -> dict[str, Any]:
    known = total.without_price + total.without_usage == 0
    return {
        "rows": total.rows,
        "ok": total.rows - total.failed,
        "failed": total.failed,
        "errors": total.errors,
        "attempts": total.attempts,
        "tokens": total.tokens,
        "cost_usd": round(total.cost_usd, 6) if known else None,
        "cost_at_least_usd": round(total.cost_usd, 6),
        "rows_without_price": total.without_price,
        "rows_without_usage": total.without_usage,
        "timing": total.timing(wall_s),
    }
