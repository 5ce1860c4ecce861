"""What a run amounts to, counted from its folder: right also after crashes, resumes and retries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from runner import parts, stats
from runner.answer_stats import AnswerStats

_BATCH_ROWS = 20_000


def summarize(folder: Path, schema: pa.Schema, wall_s: float) -> dict[str, Any]:
    """Return the numbers of a run. Its cost is null where that of some rows is unknown.

    Args:
        schema: of the whole output.
        wall_s: time spent on it, over all its sessions.

    Raises:
        FatalError: a part or journal is damaged.
    """
    total = stats.Stats()
    answers = AnswerStats(schema)
    few = pa.schema([schema.field(name) for name in (*stats.COLUMNS, *answers.columns)])
    for table in parts.stored(folder, few, _BATCH_ROWS):
        total.add(table)
        answers.add(table)
    known = total.without_price + total.without_usage == 0
    return {
        "rows": total.rows,
        "ok": total.rows - total.failed,
        "failed": total.failed,
        "errors": total.errors,
        "attempts": total.attempts,
        **answers.as_json(),
        "tokens": total.tokens,
        "cost_usd": round(total.cost_usd, 6) if known else None,
        "cost_at_least_usd": round(total.cost_usd, 6),
        "rows_without_price": total.without_price,
        "rows_without_usage": total.without_usage,
        "timing": total.timing(wall_s),
    }
