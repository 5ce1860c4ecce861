"""What is different between two jobs, or between a result that a run kept and the request that would be sent now."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from runner import __version__
from runner.errors import RunnerError
from runner.load import Job
from runner.manifest import Manifest
from runner.plan import Plan
from runner.problems import At, dotted, listed
from runner.records import Item, Request
from runner.requests import SAYS_NOTHING
from runner.snapshot import as_run

_MOST_LINES = 20
_MOST_CHARACTERS = 100
_NOT_SENT = ("rows_per_part", "column", "layout")  # keys of `output` that no request has anything of


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an answer is missing.

    Attributes:
        kind: `new`, `failed`, `bad_row`, `prompt`, `row`, `date`, `model`, `api`, `parameters`, `output`, `endpoint`,
            `other`.
        diff: lines that begin with `-` (then) and `+` (now); empty where the text says it all.
    """

    kind: str
    text: str
    diff: tuple[str, ...] = ()


def reasons(plan: Plan, model: str, request: Request, manifest: Manifest, then: Mapping[str, Any]) -> Iterator[Reason]:
    """Yield everything for which the answer of then is not the answer to the request of now."""
    if then["_status"] != "ok":
        why = f": {then['_error']}" if then.get("_error") else ""
        yield Reason("failed", f"its earlier answer failed ({then['_error_type']}){_short(why)}")
    if then["_fingerprint"] == request.fingerprint:
        if then["_status"] == "ok":
            yield Reason("other", "its earlier answer cannot be found where it was stored: the part may be damaged")
        return
    found = [*_request_reasons(plan.job, model, manifest, then), *_date_reasons(plan, request.item, manifest),
             *_row_reasons(plan, request.item, then)]  # fmt: skip
    if not found and then["_status"] == "ok":
        found = list(_guesses(plan, manifest, then))
    yield from found


def _request_reasons(job: Job, model: str, manifest: Manifest, then: Mapping[str, Any]) -> Iterator[Reason]:
    old, new = manifest.spec, as_run(job)
    if prompt_lines(old) != prompt_lines(new):
        yield Reason("prompt", "the prompt changed:", _diff(prompt_lines(old), prompt_lines(new)))
    if then["_model"] != model:
        yield Reason("model", f"the model changed: {then['_model']} -> {model}")
    if old["api"] != new["api"]:
        yield Reason("api", f"the API changed: {old['api']} -> {new['api']}")
    for at, before, now in changes(old["parameters"], new["parameters"]):
        if at[0] in SAYS_NOTHING:
            continue
        yield Reason("parameters", f"a parameter changed: `{dotted(at)}`: {change(before, now)}")
    yield from _output_reasons(old["output"], new["output"])
    kinds = _kind_then(job, manifest, then), job.endpoint_kind
    if kinds[0] not in (None, kinds[1]):
        yield Reason("endpoint", f"the kind of endpoint changed: {kinds[0]} -> {kinds[1]}")


def _date_reasons(plan: Plan, item: Item, manifest: Manifest) -> Iterator[Reason]:
    now = plan.job.run_date.isoformat()
    if plan.template.dates - item.fields.keys() and manifest.run_date not in ("", now):
        yield Reason("date", f"the prompt holds the run's date, which changed: {manifest.run_date} -> {now}")


def job_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield each dotted key in which two jobs as run differ, but for the prompt, with both values; None: not there."""
    then, now = ({key: each[key] for key in each if key != "prompt"} for each in (old, new))
    for at, before, after in changes(then, now):
        before, after = (None if value is _ABSENT else value for value in (before, after))
        if before is not None or after is not None:
            yield dotted(at), before, after


def prompt_diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what became of the prompt of a job as run, as a unified diff without its head; empty: nothing."""
    return list(difflib.unified_diff(prompt_lines(old), prompt_lines(new), n=2, lineterm=""))[2:]


def prompt_lines(spec: Mapping[str, Any]) -> list[str]:
    """Return the lines of the messages, each with its role before its first."""
    prompt = spec["prompt"]
    messages = prompt.get("messages") or [
        {"role": role, "content": prompt[role]} for role in ("system", "user") if prompt.get(role) is not None
    ]
    return [line for message in messages for line in f"{message['role']}: {message['content']}".splitlines()]


def _output_reasons(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Reason]:
    labels = old.get("labels") or [], new.get("labels") or []
    if labels[0] != labels[1]:
        added = [label for label in labels[1] if label not in labels[0]]
        gone = [label for label in labels[0] if label not in labels[1]]
        said = [f"{listed(names)} {what}" for names, what in ((added, "new"), (gone, "gone")) if names]
        yield Reason("output", f"the labels changed: {', '.join(said) or 'their order'}")
    kept, wanted = ({key: each[key] for key in each if key not in (*_NOT_SENT, "labels")} for each in (old, new))
    for at, before, now in changes(kept, wanted):
        yield Reason(
            "output", f"what an answer must look like changed: `{dotted(('output', *at))}`: {change(before, now)}"
        )


def _kind_then(job: Job, manifest: Manifest, then: Mapping[str, Any]) -> str | None:
    """Return what kind of server answered then; None where that is not known any more."""
    if manifest.rehearsal:
        return "simulator"
    name = then["_endpoint"]
    return job.endpoints[name].kind if name in job.endpoints else None


def _row_reasons(plan: Plan, item: Item, then: Mapping[str, Any]) -> Iterator[Reason]:
    """Yield the columns of the prompt whose values changed, the last with what that makes of the prompt."""
    found = [
        (name, change(then[name], item.fields.get(name)))
        for name in sorted(plan.template.names | plan.template.dates)
        if name in then and not _same(then[name], item.fields.get(name))
    ]
    diff: tuple[str, ...] = ()
    if any("…" in text for _, text in found):
        with suppress(RunnerError):
            diff = _diff(*(_rendered(plan, {**item.fields, **fields}) for fields in (then, {})))
    for number, (name, text) in enumerate(found, 1):
        yield Reason("row", f"the row changed: `{name}`: {text}", diff if number == len(found) else ())


def _rendered(plan: Plan, fields: Mapping[str, Any]) -> list[str]:
    return [line for role, text in plan.template.render(fields) for line in f"{role}: {text}".splitlines()]


def _guesses(plan: Plan, manifest: Manifest, then: Mapping[str, Any]) -> Iterator[Reason]:
    """Yield what may be different where nothing that was kept is."""
    unknown = sorted(name for name in plan.template.names if name not in then)
    if unknown:
        yield Reason("row", f"the row may have changed in {listed(unknown)}, which that run did not keep")
    version = manifest.versions.get("runner")
    if version != __version__:
        yield Reason("other", f"the runner changed: {version} -> {__version__}")
    if not unknown:
        yield Reason("other", "something changed that runs do not keep, such as a file that the prompt includes")


def _same(old: Any, new: Any) -> bool:
    """Whether a value is the one that was stored."""
    if isinstance(old, str) and isinstance(new, str):
        return old == new.encode(errors="backslashreplace").decode()  # as lone surrogates are stored
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same, old, new))
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return list(old) == list(new) and all(_same(old[key], new[key]) for key in old)
    return bool(old == new) and isinstance(old, bool) == isinstance(new, bool)


_ABSENT = object()


def changes(old: Any, new: Any, at: At = ()) -> Iterator[tuple[At, Any, Any]]:
    """Yield the innermost values in which two trees differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from changes(old.get(key, _ABSENT), new.get(key, _ABSENT), (*at, key))
    elif not _same(old, new):
        yield at, old, new


def change(old: Any, new: Any) -> str:
    """Return what became of a value, from shortly before the first difference on."""
    before, now = (
        "nothing" if each in (_ABSENT, None) else json.dumps(each, ensure_ascii=False) for each in (old, new)
    )
    return " -> ".join(_windows(before, now))


def _diff(old: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    """Return the lines that went and came, those that took each other's place shortened alike."""
    lines: list[str] = []
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if kind == "equal":
            continue
        pairs = [_windows(*pair) for pair in zip(old[i1:i2], new[j1:j2], strict=False)]
        lines += [f"-{line}" for line in [*(before for before, _ in pairs), *map(_short, old[i1 + len(pairs) : i2])]]
        lines += [f"+{line}" for line in [*(now for _, now in pairs), *map(_short, new[j1 + len(pairs) : j2])]]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"… ({len(lines) - _MOST_LINES} more lines)"]
    return tuple(lines)


def _windows(old: str, new: str) -> tuple[str, str]:
    """Return two texts, both from shortly before their first difference on where they are long."""
    start = 0
    if max(len(old), len(new)) > _MOST_CHARACTERS:
        start = max(0, shared_start(old, new) - _MOST_CHARACTERS // 4)
    return _short(old, start), _short(new, start)


def _short(text: str, start: int = 0) -> str:
    end = start + _MOST_CHARACTERS
    return ("…" if start else "") + text[start:end] + ("…" if len(text) > end else "")


def shared_start(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (mine, theirs) in pairs if mine != theirs), min(len(one), len(other)))
