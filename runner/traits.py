"""What a model or an API refuses: found in the job file, with what to write instead, before anything is sent.

What a model takes is known from `configs/models.yaml`. Nothing is refused because of a trait that is not given there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from runner.models import Models, ModelSpec
from runner.problems import At, Finding, Problem, dotted, listed, say, suggest
from runner.spec import JobSpec
from runner.yaml_source import Source

_SOON = timedelta(days=60)

# https://developers.openai.com/api/docs/guides/deployment-checklist: remove these unless the effort is `none`.
_SAMPLING = ("temperature", "top_p", "top_logprobs", "logprobs")

# https://developers.openai.com/api/docs/api-reference/decisions: all that a body holds besides what the job asks.
_OF_DECISIONS = ("prompt_cache_key", "prompt_cache_options", "safety_identifier")


def problems(spec: JobSpec, names: Sequence[str], models: Models, source: Source) -> list[Problem]:
    """What the job's API and models refuse of it, each at its place.

    Args:
        names: the models that the job asks.
        source: the job file.
    """
    found = [
        *_of_the_api(spec.api, spec.parameters),
        *(finding for name in names for finding in findings(name, spec.api, spec.parameters, models)),
        *(_of_batches(spec, names, models) if spec.strategy_name == "batch_api" else ()),
    ]
    return [
        source.problem(
            finding.at,
            finding.text if finding.whole else f"`{dotted(finding.at)}` {finding.text}",
            finding.hint,
            on_key=finding.on_key,
        )
        for finding in found
    ]


def findings(name: str, api: str, parameters: Mapping[str, Any], models: Models) -> Iterator[Finding]:
    """What a model refuses of a job's requests; nothing where the model is not known.

    Args:
        parameters: the job's `parameters`.
    """
    model = models.find(name)
    if model is None:
        return
    if api not in model.apis:
        offer = [other for other, spec in models.models.items() if api in spec.apis]
        others = f"{listed(offer)} {'are' if len(offer) > 1 else 'is'}; or " if offer else ""
        hint = f"{others}take `api: {model.apis[0]}`"
        yield Finding(f"`{name}` is not on `api: {api}`", ("api",), hint, whole=True)
    if api != "decisions":  # which takes none of these from any model
        yield from _efforts(name, model, api, parameters)
        yield from _sampling(name, model, api, parameters)
        yield from _old_names(name, model, api, parameters)
        if parameters.get("service_tier") == "flex" and model.flex is False:
            yield _finding("service_tier", f"is `flex`, at which `{name}` is not offered", "leave it out")


def _of_batches(spec: JobSpec, names: Sequence[str], models: Models) -> Iterator[Finding]:
    """What the Batch API does not take (https://platform.openai.com/docs/guides/batch)."""
    live = "take a live strategy such as `asyncio`"
    if spec.api == "decisions":
        hint = f"take `api: responses`, which asks the same questions; or {live}"
        yield Finding("the Batch API does not offer `api: decisions`", ("strategy",), hint, whole=True)
    for name in names:
        model = models.find(name)
        if model is not None and model.batch is False:
            yield Finding(f"the Batch API does not offer `{name}`", ("strategy",), live, whole=True)
    if spec.parameters.get("service_tier") is not None:
        hint = "leave it out: the Batch API has a price of its own"
        yield _finding("service_tier", "and the Batch API exclude each other", hint, on_key=True)


def ending(name: str, models: Models, today: date) -> str | None:
    """A sentence about a model that has ended, or does so within 60 days; None for any other."""
    model = models.find(name)
    if model is None or model.shutdown is None or model.shutdown - today > _SOON:
        return None
    return f"{name} {'ends' if model.shutdown > today else 'ended'} on {model.shutdown.isoformat()}"


def _of_the_api(api: str, parameters: Mapping[str, Any]) -> Iterator[Finding]:
    """What an API refuses of every model. Other names of the longest answer are the job file's own business."""
    for key, value in parameters.items():
        if api == "decisions" and key not in _OF_DECISIONS:
            hint = f"leave it out; all it takes is {listed(_OF_DECISIONS)}"
            yield _finding(key, "is not a parameter of the Decisions API", hint, on_key=True)
        elif api == "responses" and key == "reasoning_effort":
            hint = f"did you mean `reasoning: {{effort: {value}}}`?"
            yield _finding(key, "is not a parameter of the Responses API", hint, on_key=True)
        elif api == "responses" and key == "reasoning" and value is not None and not isinstance(value, Mapping):
            hint = f"write `reasoning: {{effort: {value}}}`" if isinstance(value, str) else "write `{effort: low}`"
            yield _finding(key, f"must be a mapping, got {say(value)}", hint)
        elif key == "service_tier" and value is not None and not isinstance(value, str):
            yield _finding(key, f"must be text, got {say(value)}", "for example `service_tier: flex`")


def _efforts(name: str, model: ModelSpec, api: str, parameters: Mapping[str, Any]) -> Iterator[Finding]:
    """An effort that the model does not know, or any at all where it does not reason."""
    key = "reasoning_effort" if api == "chat" else "reasoning"
    if parameters.get(key) is not None and model.reasoning is False:
        yield _finding(key, f"is refused by `{name}`, which does not reason", "leave it out", on_key=True)
        return
    if api == "chat" and "reasoning" in parameters and model.reasoning:
        meant = f"did you mean `reasoning_effort: {_effort('responses', parameters) or 'low'}`?"
        yield _finding("reasoning", "is not a parameter of chat completions", meant, on_key=True)
    effort = _effort(api, parameters)
    if effort is not None and model.efforts is not None and effort not in model.efforts:
        at: At = (key,) if api == "chat" else (key, "effort")
        off = effort is False and "none" in model.efforts  # YAML's `off` and `no`
        hint = "write `none`" if off else suggest(effort, model.efforts)
        choices = listed(model.efforts, "or")
        yield Finding(f"must be {choices} for `{name}`, got {say(effort)}", ("parameters", *at), hint)


def _sampling(name: str, model: ModelSpec, api: str, parameters: Mapping[str, Any]) -> Iterator[Finding]:
    """Parameters that shape the draw of tokens, which a model that reasons does not let anyone do."""
    if not model.reasoning or _effort(api, parameters) == "none":
        return
    off = "reasoning_effort: none" if api == "chat" else "reasoning: {effort: none}"
    can = model.efforts is None or "none" in model.efforts
    hint = f"leave it out, or turn reasoning off: `{off}`" if can else "leave it out: this model always reasons"
    for key in _SAMPLING:
        value = parameters.get(key)
        if value is not None and value is not False:
            yield _finding(key, f"is refused by `{name}` while it reasons", hint, on_key=True)


def _old_names(name: str, model: ModelSpec, api: str, parameters: Mapping[str, Any]) -> Iterator[Finding]:
    if api == "chat" and model.reasoning and "max_tokens" in parameters:
        hint = f"write `max_completion_tokens: {parameters['max_tokens']}`"
        yield _finding("max_tokens", f"is an old name that `{name}` refuses", hint, on_key=True)


def _effort(api: str, parameters: Mapping[str, Any]) -> Any:
    """The reasoning effort asked for; None: none is."""
    if api == "chat":
        return parameters.get("reasoning_effort")
    reasoning = parameters.get("reasoning")
    return reasoning.get("effort") if isinstance(reasoning, Mapping) else None


def _finding(key: str, text: str, hint: str, *, on_key: bool = False) -> Finding:
    return Finding(text, ("parameters", key), hint, on_key)
