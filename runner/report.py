"""Says in words how a run went and what to type next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.evaluate import PICTURE
from runner.evaluate.words import evaluation_lines
from runner.manifest import Manifest
from runner.money import usd
from runner.progress import duration

_ANSWERS_SHOWN = 12
_QUESTIONS_SHOWN = 20
# What the server has not heard of has no status of its, but a state of ours.
_WITHOUT_STATUS = {"packed": "waiting for room", "submitting": "being submitted", "collected": "given back"}


def report(manifest: Manifest, folder: Path) -> str:
    """Return the summary of a run, for a terminal or a log.

    Args:
        manifest: its `status` may also be `killed`, which no run can say of itself.
    """
    summary, timing = manifest.summary, manifest.summary.get("timing", {})
    out = [_headline(manifest)]
    if manifest.rehearsal:
        out.append(
            "this was a rehearsal: the answers come from the embedded simulator and mean nothing, costs are what if"
        )
    out.append("")
    if "all_rows" in manifest.input:
        out += _table([("new", news(manifest))])
    out += _table([("rows", _rows(summary, manifest))])
    for kind, entry in summary.get("errors", {}).items():
        out.append(
            f"            {entry['rows']:,} × {kind}, for instance row {entry['example_id']}: {entry['example']}"
        )
    if manifest.input.get("repeated_ids"):
        out += _table([("ids", f"{_repeats(manifest.input['repeated_ids'])}; each row is kept")])
    if summary.get("answers"):
        out += _table([("answers", _answers(summary["answers"]))])
    out += _models(summary)
    if len(manifest.endpoints) > 1:
        shares = [f"{name} {rows:,}" for name, rows in summary.get("endpoints", {}).items()]
        out += _table([("endpoints", ", ".join(shares))])
    if manifest.choice is not None:
        out += _table([("auto", f"{manifest.choice['way']}: {manifest.choice['reason']}")])
        out += _table([("warning", manifest.choice["warning"])])
    out += _table([("warning", text) for text in manifest.sessions[-1].warnings] if manifest.sessions else [])
    for first, *more in evaluation_lines(summary.get("evaluation", {})) if manifest.results else ():
        out += [*_table([("accuracy", first)]), *(f"            {line}" for line in more)]
    out += _questions(summary.get("questions", {}))
    if summary.get("refused"):
        out += _table([("refused", _answers(summary["refused"]))])
    if summary.get("needs_review"):
        out += _table([("review", f"{_rows_need(summary['needs_review'])} it, by `accept_at`")])
    live = timing.get("latency_p50_s") is not None
    if live or summary.get("batches"):
        out += _table([("time", _time(timing, manifest))])
    if live:
        latency = " · ".join(f"p{p} {timing[f'latency_p{p}_s']:.3f} s" for p in (50, 95, 99))
        out += _table([("latency", latency), ("limits", _limits(manifest))])
    if summary.get("batches"):
        out += _table([("batches", _batches(summary["batches"], summary["rows_in_batches"]))])
    if live or summary.get("batches"):
        out += _table([("tokens", _tokens(summary)), ("cost", _cost(summary, manifest.models))])
    out += _table([("saved", _saved(summary.get("saved", {}), dedupe=bool(manifest.spec.get("dedupe"))))])
    picture = f", {PICTURE}" if (folder / PICTURE).exists() else ""
    out += _table([("files", f"{show_path(folder)}/  (part-*.parquet, run.json{picture})")])
    out.append("")
    out += next_steps(manifest, folder)
    return "\n".join(out)


def next_steps(manifest: Manifest, folder: Path) -> list[str]:
    """Return the commands that make sense now, one a line."""
    path = shlex.quote(show_path(folder))
    if manifest.status == "running":
        return [f"look again:   runner show {path}"]
    if manifest.status == "waiting":
        return [
            f"look again:   runner resume {path}          (collects what has ended; --wait stays until all has)",
            f"see them:     runner batches {path}",
        ]
    if manifest.status != "finished":
        used_up = manifest.status == "stopped" and (manifest.stopped_by or {}).get("kind") == "budget"
        more = " --set budget.KEY=VALUE" if used_up else ""
        steps = [f"continue:     runner resume {path}{more}"]
        if manifest.summary.get("batches", {}).get("open") and not manifest.rehearsal:  # its server is gone
            steps.append(f"see them:     runner batches {path}          (they go on at the server; --cancel ends them)")
        return steps
    failed = manifest.summary.get("failed", 0)
    retry = [f"try again:    runner retry {path}"] if failed else []
    review = [f"review:       runner export {path} --needs-review"] if manifest.summary.get("needs_review") else []
    return [*retry, f"read it:      runner export {path} --format csv > answers.csv", *review]


def _headline(manifest: Manifest) -> str:
    name = f"{manifest.job} / {manifest.run}"
    if manifest.stopped_by and manifest.status == "stopped":
        return f"{name}: stopped early ({manifest.stopped_by['kind']}): {manifest.stopped_by['message']}"
    said = {
        "running": "still running; so far",
        "killed": "killed, or the machine went down; what was done until then is kept",
        "stopped": "not finished",
        "waiting": "its batches are being carried out",
    }
    return f"{name}: {said.get(manifest.status, manifest.status)}"


def _rows(summary: dict[str, Any], manifest: Manifest) -> str:
    source, models = manifest.input, len(manifest.models)
    total = manifest.results
    done = summary.get("rows", 0)
    if total == 0:
        return "none" if source.get("all_rows") else f"none: {why_empty(manifest)}"
    parts = [f"{summary.get('ok', 0):,} ok", f"{summary.get('failed', 0):,} failed"]
    if done < total:
        parts.append(f"{total - done:,} still to do")
    if source.get("skipped_rows"):
        parts.append(f"{source['skipped_rows']:,} bad ones left out")
    asked = f"{total:,}" if models == 1 else f"{source['rows']:,} × {models} models = {total:,}"
    return f"{asked}: {', '.join(parts)}"


def why_empty(manifest: Manifest) -> str:
    """Return why a run has no rows."""
    if manifest.input.get("skipped_rows"):
        return "all rows of the input are bad, and were left out"
    if manifest.input.get("all_rows"):
        return "earlier runs have answered every row of the input"
    if offset := manifest.spec.get("input", {}).get("offset"):
        return f"the input has none after the {offset:,} that `input.offset` skips"
    return "the input is empty"


def news(manifest: Manifest) -> str:
    """Say how many rows of the input a run takes in that sends only what is new; nothing of an empty input."""
    new, rows = manifest.input["rows"], manifest.input["all_rows"]
    if rows == 0:
        return ""
    if new == 0:
        return f"none of {_counted(rows)} is new: earlier runs have answered {'it' if rows == 1 else 'them all'}"
    return f"{new:,} of {_counted(rows)} {'is' if new == 1 else 'are'} new"


def _repeats(count: int) -> str:
    return "1 row repeats the id of an earlier one" if count == 1 else f"{count:,} rows repeat the id of an earlier one"


def _answers(answers: dict[str, int]) -> str:
    shown = list(answers.items())[:_ANSWERS_SHOWN]
    more = f", and {len(answers) - len(shown)} more" if len(answers) > len(shown) else ""
    return ", ".join(f"{label} {count:,}" for label, count in shown) + more


def _models(summary: dict[str, Any]) -> list[str]:
    """Return the models side by side, and where they agree."""
    of_model = summary.get("models", {})
    width = max(map(len, of_model), default=0)
    lines = []
    for model, found in of_model.items():
        p50 = found["timing"]["latency_p50_s"]
        parts = [f"{model:<{width}}", f"{found['ok']:,} ok", f"{found['failed']:,} failed", _cost(found, [model])]
        lines.append(" · ".join([*parts, *([] if p50 is None else [f"p50 {p50:.3f} s"])]))
    out = _table([("models" if number == 0 else "", line) for number, line in enumerate(lines)])
    for column, pairs in summary.get("agreement", {}).items():
        for pair in pairs:
            one, other = pair["models"]
            share = f" ({pair['same'] / pair['rows']:.0%})" if pair["rows"] else ""
            where = "" if len(summary["agreement"]) == 1 else f" in `{column}`"
            said = f"{one} and {other} agree on {pair['same']:,} of {pair['rows']:,} rows{where}{share}"
            out += _table([("agreement", said)])
        for example in summary["disagreements"][column][:1]:
            answers = ", ".join(f"{model} says {answer}" for model, answer in example.items() if model != "id")
            out.append(f"            for instance row {example['id']}: {answers}")
    return out


def _questions(questions: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each question that was answered."""
    lines = []
    for name, found in questions.items():
        said = [f"{found['mean']:g} on average"] if found.get("mean") is not None else []
        said += [_answers(found["answers"])] if found.get("answers") else []
        if said:
            lines.append(f"{name}: {' · '.join(said)}")
    if len(lines) > _QUESTIONS_SHOWN:
        lines[_QUESTIONS_SHOWN:] = [f"and {len(lines) - _QUESTIONS_SHOWN} more questions"]
    return _table([("" if number else "answers", line) for number, line in enumerate(lines)])


def _rows_need(count: int) -> str:
    return "1 row needs" if count == 1 else f"{count:,} rows need"


def _time(timing: dict[str, Any], manifest: Manifest) -> str:
    text = duration(timing["wall_s"])
    measured = not manifest.summary.get("batches")  # their time is the server's, and passes outside of sessions too
    if measured and timing["items_per_s"] is not None:
        text += f" · {timing['items_per_s']:,.1f} rows/s"
    if measured and (timing.get("speedup_over_one_by_one") or 0) >= 1.05:
        text += f" · {timing['speedup_over_one_by_one']:,.1f} times as fast as one by one"
    if len(manifest.sessions) > 1:
        text += f" · in {len(manifest.sessions)} sessions"
    return text


def _batches(batches: dict[str, Any], rows: int) -> str:
    ends = [f"{count:,} {_WITHOUT_STATUS.get(status, status)}" for status, count in batches["statuses"].items()]
    parts = [f"{batches['batches']:,}: {', '.join(ends)}", f"{_counted(rows)} answered in them"]
    if batches["longest_s"] is not None:
        parts.append(f"the longest took {duration(batches['longest_s'])}")
    return " · ".join(parts)


def _limits(manifest: Manifest) -> str:
    session = manifest.sessions[-1]
    parts = [
        f"{name.replace('_', ' ')} {session.limits[name]:,.10g}: {share:.0%} used"
        for name, share in session.use.items()
    ]
    if session.rate_limited:
        parts.append(f"{session.rate_limited:,} answers were 429")
    return " · ".join(parts)


def _tokens(summary: dict[str, Any]) -> str:
    tokens = summary["tokens"]
    cache = [f"{tokens['cached']:,} cached"] if tokens["cached"] else []
    cache += [f"{tokens['cache_write']:,} written to the cache"] if tokens.get("cache_write") else []
    aside = f" ({', '.join(cache)})" if cache else ""
    return f"{tokens['input']:,} in{aside}, {tokens['output']:,} out"


def _cost(summary: dict[str, Any], models: Sequence[str]) -> str:
    cost_usd, rows = summary["cost_usd"], summary["rows"]
    if cost_usd is not None:
        per_thousand = f" · {usd(cost_usd / rows * 1000)} per 1,000 rows" if rows else ""
        return usd(cost_usd) + per_thousand
    known = summary.get("cost_at_least_usd")
    why = []
    if summary.get("rows_without_price"):
        names = " or ".join(f"`{model}`" for model in models)
        why.append(f"{names} has no price in configs/models.yaml")
    if summary.get("rows_without_usage"):
        why.append(f"the server reported no usage for {summary['rows_without_usage']:,} of {rows:,} rows")
    return (f"at least {usd(known)}" if known else "unknown") + (f": {' and '.join(why)}" if why else "")


def _saved(saved: dict[str, Any], *, dedupe: bool) -> str:
    parts = []
    if saved.get("reused_rows"):
        parts.append(f"{_counted(saved['reused_rows'])} answered by earlier runs: {usd(saved['reuse_usd'])}")
    if saved.get("deduped_rows"):
        parts.append(f"{_counted(saved['deduped_rows'])} with the request of another: {usd(saved['dedupe_usd'])}")
    if saved.get("identical_rows") and not dedupe:  # with it, these are rows that were sent again after a failure
        parts.append(f"{_counted(saved['identical_rows'])} sent the request of another: `dedupe: true` would not")
    if saved.get("cache_usd"):
        parts.append(f"caching: {usd(saved['cache_usd'])}")
    return " · ".join(parts)


def _counted(number: int) -> str:
    return f"{number:,} {'row' if number == 1 else 'rows'}"


def _table(rows: list[tuple[str, str]]) -> list[str]:
    return [f"  {name:<9} {text}" for name, text in rows if text]


def show_path(path: Path) -> str:
    """Return a path as short as it can be typed from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
