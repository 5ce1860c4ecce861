"""What a run keeps of its job, to be resumed with the same one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runner.load import Job
from runner.problems import At, dotted
from runner.yaml_dialect import dump

ANSWER_KEYS = ("input", "prompt", "output", "model", "api", "parameters", "endpoint")
"""The keys of a job that decide what its answers are, and which rows and parts they stand in."""

# About the answers: the first is how soon they come, and for how much; the others are whether the run begins.
_SAYS_NOTHING = (("parameters", "service_tier"), ("input", "min_rows"), ("input", "wait_for"))


def as_run(job: Job) -> dict[str, Any]:
    """The job as plain data, with all defaults, and with the text of the prompt and schema files it refers to."""
    data = job.spec.model_dump(mode="json", by_alias=True)
    texts = [text for _, text in job.prompts]
    prompt = data["prompt"]
    if prompt["messages"] is not None:
        for message, text in zip(prompt["messages"], texts, strict=True):
            message["content"] = text
    else:
        for role, text in job.prompts:
            prompt[role] = text
    data["output"]["schema"] = job.json_schema
    return data


def snapshot(job: Job) -> str:
    """The job as run, as YAML: a job file that needs no other file, and holds no secret.

    `load_job` reads it back from any folder. Its paths stay relative to the project root: where the file lies outside
    the project, pass `root`.
    """
    return dump(_without_none(as_run(job)))


def _without_none(data: Mapping[str, Any], depth: int = 2) -> dict[str, Any]:
    """Without the keys that are not set. `stop.max_error_rate: null` says something, and what the user wrote stays."""
    kept: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and depth and key not in ("parameters", "schema"):
            inner = _without_none(value, depth - 1)
            if inner:
                kept[key] = inner
        elif value is not None or key == "max_error_rate":
            kept[key] = value
    return kept


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The dotted keys, among those that decide the answers, in which two dumped jobs differ.

    Args:
        old: a job as `as_run` gave it (or `JobSpec.model_dump(mode="json")`), perhaps read back from a file.
        new: the same of the other job.
    """
    return [
        dotted(at)
        for key in ANSWER_KEYS
        for at in _differences(old.get(key, _ABSENT), new.get(key, _ABSENT), (key,))
        if at[:2] not in _SAYS_NOTHING
    ]


_ABSENT = object()


def _differences(old: Any, new: Any, at: At) -> Iterator[At]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key, _ABSENT), new.get(key, _ABSENT), (*at, key))
    elif old is _ABSENT or new is _ABSENT or not _same(old, new):
        yield at


def _same(old: Any, new: Any) -> bool:
    """Equal, where 60 and 60.0 are one number; 1 and true are not."""
    return bool(old == new) and isinstance(old, bool) == isinstance(new, bool)
