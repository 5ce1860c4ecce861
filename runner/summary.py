"""What a run amounts to, counted from its folder: right also after crashes, resumes and retries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from runner import parts, stats
from runner.evaluate import Evaluation

_BATCH_ROWS = 20_000


def summarize(
    folder: Path,
    schema: pa.Schema,
    wall_s: float,
    counted: str | None = None,
    evaluation: Evaluation | None = None,
) -> dict[str, Any]:
    """Return the numbers of a run. Its cost is null where that of some rows is unknown.

    Args:
        wall_s: time spent on it, over all its sessions.
        counted: a column with few different values, such as labels, to count.
        evaluation: compares the answers with expected ones; new, as it counts what it is given.

    Raises:
        FatalError: a part or journal is damaged.
    """
    total = stats.Stats()
    answers: dict[str, int] = {}
    columns = [*stats.COLUMNS, *([counted] if counted else []), *(evaluation.columns if evaluation else [])]

    few = pa.schema([schema.field(name) for name in dict.fromkeys(columns)])
    for table in parts.stored(folder, few, _BATCH_ROWS):
        total.add(table)
        if evaluation:
            evaluation.add(table)
        if counted:
            for entry in pc.value_counts(table.column(counted).drop_null()).to_pylist():
                answers[entry["values"]] = answers.get(entry["values"], 0) + entry["counts"]
    known = total.without_price + total.without_usage == 0
    return {
        "rows": total.rows,
        "ok": total.rows - total.failed,
        "failed": total.failed,
        "errors": total.errors,
        "attempts": total.attempts,
        "answers": dict(sorted(answers.items(), key=lambda entry: (-entry[1], entry[0]))),
        **({"evaluation": evaluation.as_dict()} if evaluation else {}),
        "tokens": total.tokens,
        "cost_usd": round(total.cost_usd, 6) if known else None,
        "cost_at_least_usd": round(total.cost_usd, 6),
        "rows_without_price": total.without_price,
        "rows_without_usage": total.without_usage,
        "timing": total.timing(wall_s),
    }
