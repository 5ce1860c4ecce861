"""What a model or an API refuses is found when the job is loaded, with what to write instead."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from runner.load import load_job
from runner.models import Models, load_models
from runner.problems import SpecErrors
from runner.spec import JobSpec
from runner.traits import ending, findings, problems
from runner.validation import check
from runner.yaml_source import parse

PROJECT = Path(__file__).parent.parent
SHIPPED = load_models(PROJECT)


def said(api: str, model: str, parameters: dict[str, Any], models: Models = SHIPPED) -> list[str]:
    """`place text | hint` of what is refused; `{Finding.at}` without `parameters`."""
    return [
        f"{'.'.join(map(str, finding.at))} {finding.text} | {finding.hint}".removeprefix("parameters.")
        for finding in findings(model, api, parameters, models)
    ]


# At load --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for a job, in a project that knows the shipped models."""
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    shutil.copy(PROJECT / "configs" / "models.yaml", "configs")
    return Path("job.yaml")


def shown(job_file: Path, text: str, **overrides: str) -> str:
    job_file.write_text("input: {path: x.csv}\nprompt: {user: hi}\n" + dedent(text).lstrip("\n"))
    with pytest.raises(SpecErrors) as caught:
        load_job(job_file, overrides=overrides)
    return f"error: {caught.value}"


def test_what_a_model_refuses_is_shown_at_its_place(job_file: Path) -> None:
    assert shown(
        job_file,
        """
        model: gpt-6-luna
        parameters:
          temperature: 0
          reasoning: {effort: minimal}
        """,
    ) == dedent("""
        error: `parameters.temperature` is refused by `gpt-6-luna` while it reasons
          --> job.yaml:5:3
           |
         5 |   temperature: 0
           |   ^
        hint: leave it out, or turn reasoning off: `reasoning: {effort: none}`

        error: `parameters.reasoning.effort` must be `none`, `low`, `medium`, `high`, `xhigh` or `max` for `gpt-6-luna`, got "minimal"
          --> job.yaml:6:23
           |
         6 |   reasoning: {effort: minimal}
           |                       ^
    """).strip("\n")  # noqa: E501 - as it is printed


def test_what_an_option_asks_for_is_shown_as_that_option(job_file: Path) -> None:
    assert shown(job_file, "model: gpt-4o-mini\n", **{"parameters.service_tier": "flex"}) == dedent("""
        error: `parameters.service_tier` is `flex`, at which `gpt-4o-mini` is not offered
          --> --set parameters.service_tier=flex
        hint: leave it out
    """).strip("\n")


def test_it_is_said_together_with_all_else_that_is_wrong(job_file: Path) -> None:
    text = "model: gpt-6-luna\nendpoint: opnai\nparameters: {temperature: 0}\n"
    assert shown(job_file, text).count("error: ") == 2


def test_a_job_whose_parameters_the_model_takes_loads(job_file: Path) -> None:
    job_file.write_text(
        "input: {path: x.csv}\nprompt: {user: hi}\nmodel: gpt-6-luna\n"
        "parameters: {temperature: 0, reasoning: {effort: none}, max_output_tokens: 5, service_tier: flex}\n"
    )
    assert load_job(job_file).spec.parameters["temperature"] == 0


def test_nothing_is_known_of_models_without_a_models_file(job_file: Path) -> None:
    Path("configs/models.yaml").unlink()
    job_file.write_text("input: {path: x.csv}\nprompt: {user: hi}\nmodel: gpt-6-luna\nparameters: {temperature: 0}\n")
    assert load_job(job_file).spec.model == "gpt-6-luna"


# What each model refuses ----------------------------------------------------------------------------------------------

# API, model and parameters; and what is said of them.
REFUSALS = """
responses gpt-6-luna {temperature: 0}
    temperature is refused by `gpt-6-luna` while it reasons
    hint: leave it out, or turn reasoning off: `reasoning: {effort: none}`

responses gpt-6-luna {top_p: 0.5}
    top_p is refused by `gpt-6-luna` while it reasons
    hint: leave it out, or turn reasoning off: `reasoning: {effort: none}`

responses gpt-6-luna {temperature: 1, reasoning: {effort: low}}
    temperature is refused by `gpt-6-luna` while it reasons
    hint: leave it out, or turn reasoning off: `reasoning: {effort: none}`

chat gpt-6-luna {temperature: 0}
    temperature is refused by `gpt-6-luna` while it reasons
    hint: leave it out, or turn reasoning off: `reasoning_effort: none`

chat gpt-6-luna {logprobs: true}
    logprobs is refused by `gpt-6-luna` while it reasons
    hint: leave it out, or turn reasoning off: `reasoning_effort: none`

chat gpt-6.1-sol {top_p: 1}
    top_p is refused by `gpt-6.1-sol` while it reasons
    hint: leave it out: this model always reasons

chat gpt-6-luna-2026-10-06 {temperature: 0}
    temperature is refused by `gpt-6-luna-2026-10-06` while it reasons
    hint: leave it out, or turn reasoning off: `reasoning_effort: none`

chat gpt-6-luna {max_tokens: 50}
    max_tokens is an old name that `gpt-6-luna` refuses
    hint: write `max_completion_tokens: 50`

chat gpt-6-luna {reasoning_effort: hihg}
    reasoning_effort must be `none`, `low`, `medium`, `high`, `xhigh` or `max` for `gpt-6-luna`, got "hihg"
    hint: did you mean `high`?

chat gpt-6-luna {reasoning_effort: off}
    reasoning_effort must be `none`, `low`, `medium`, `high`, `xhigh` or `max` for `gpt-6-luna`, got false
    hint: write `none`

responses gpt-6.1-sol {reasoning: {effort: none}}
    reasoning.effort must be `low`, `medium`, `high`, `xhigh` or `max` for `gpt-6.1-sol`, got "none"
    hint: None

chat gpt-6-luna {reasoning: {effort: high}}
    reasoning is not a parameter of chat completions
    hint: did you mean `reasoning_effort: high`?

responses gpt-4o-mini {reasoning: {effort: none}}
    reasoning is refused by `gpt-4o-mini`, which does not reason
    hint: leave it out

chat gpt-4o-mini {reasoning_effort: low}
    reasoning_effort is refused by `gpt-4o-mini`, which does not reason
    hint: leave it out

chat gpt-4o-mini {service_tier: flex}
    service_tier is `flex`, at which `gpt-4o-mini` is not offered
    hint: leave it out

decisions gpt-6-sol {}
    api `gpt-6-sol` is not on `api: decisions`
    hint: `gpt-6-luna` is; or take `api: responses`
"""


@pytest.mark.parametrize("case", REFUSALS.strip().split("\n\n"))
def test_each_refusal(case: str) -> None:
    given, text, hint = case.split("\n")
    api, model, parameters = given.split(" ", 2)
    assert said(api, model, yaml.safe_load(parameters)) == [f"{text.strip()} | {hint.strip().removeprefix('hint: ')}"]


@pytest.mark.parametrize(
    ("api", "model", "parameters"),
    [
        ("responses", "gpt-6-luna", "{temperature: 0, top_p: 1, reasoning: {effort: none}}"),
        ("chat", "gpt-6-luna", "{temperature: 0, logprobs: true, reasoning_effort: none}"),
        ("chat", "gpt-6-luna", "{temperature: null, logprobs: false, max_completion_tokens: 5}"),
        ("responses", "gpt-6-luna", "{reasoning: {effort: null, summary: auto}}"),
        ("chat", "gpt-4o-mini", "{temperature: 0, max_tokens: 5, service_tier: priority}"),
        ("responses", "gpt-4o-mini", "{temperature: 0, reasoning: null}"),
        ("decisions", "gpt-6-luna", "{prompt_cache_key: a}"),
        ("chat", "gpt-7", "{temperature: 0, max_tokens: 5, reasoning_effort: huge, service_tier: flex}"),
        ("decisions", "gpt-7", "{}"),
    ],
)
def test_nothing_is_said_of_what_the_model_takes_or_of_models_that_are_not_known(
    api: str, model: str, parameters: str
) -> None:
    assert said(api, model, yaml.safe_load(parameters)) == []


def test_a_trait_that_is_not_given_refuses_nothing() -> None:
    models = Models.model_validate({"models": {"mine": {"input": 1.0, "output": 2.0}}})
    parameters = {"temperature": 0, "max_tokens": 5, "reasoning_effort": "huge", "service_tier": "flex"}
    assert said("chat", "mine", parameters, models) == []
    assert said("decisions", "mine", {}, models) == ["api `mine` is not on `api: decisions` | take `api: responses`"]


def test_a_hint_for_a_model_whose_efforts_are_not_known() -> None:
    models = Models.model_validate({"models": {"mine": {"input": 1.0, "output": 2.0, "reasoning": True}}})
    [refusal] = said("chat", "mine", {"temperature": 0, "reasoning_effort": "huge"}, models)
    assert refusal.endswith(
        "by `mine` while it reasons | leave it out, or turn reasoning off: `reasoning_effort: none`"
    )


# What each API refuses of every model ---------------------------------------------------------------------------------


def of_the_api(api: str, parameters: str, *names: str) -> list[str]:
    text = f"input: {{path: x.csv}}\nprompt: {{user: hi}}\nmodel: m\nparameters: {parameters}\n"
    source = parse(text, "job.yaml")
    spec, found = check(JobSpec, source, {**source.data, "parameters": {}})
    assert spec is not None, found
    given = spec.model_copy(update={"api": api, "parameters": source.data["parameters"]})
    return [f"{p.line}:{p.column} {p.message} | {p.hint}" for p in problems(given, names, SHIPPED, source)]


ALL_IT_TAKES = "leave it out; all it takes is `prompt_cache_key`, `prompt_cache_options` and `safety_identifier`"


@pytest.mark.parametrize("parameter", ["temperature", "max_output_tokens", "tools", "text", "reasoning", "top_p"])
def test_decisions_take_next_to_no_parameters(parameter: str) -> None:
    assert of_the_api("decisions", f"{{prompt_cache_key: a, {parameter}: 1}}", "gpt-6-luna", "gpt-7") == [
        f"4:35 `parameters.{parameter}` is not a parameter of the Decisions API | {ALL_IT_TAKES}"
    ]


def test_all_models_of_a_job_are_looked_at() -> None:
    assert of_the_api("decisions", "{}", "gpt-6-luna", "gpt-6-sol", "gpt-6.1-sol") == [
        "1:1 `gpt-6-sol` is not on `api: decisions` | `gpt-6-luna` is; or take `api: responses`",
        "1:1 `gpt-6.1-sol` is not on `api: decisions` | `gpt-6-luna` is; or take `api: responses`",
    ]


def test_how_the_responses_api_spells_the_effort() -> None:
    meant = "`reasoning: {effort: low}`"
    assert of_the_api("responses", "{reasoning_effort: low}", "gpt-7") == [
        f"4:14 `parameters.reasoning_effort` is not a parameter of the Responses API | did you mean {meant}?"
    ]
    assert of_the_api("responses", "{reasoning: low}", "gpt-7") == [
        f'4:25 `parameters.reasoning` must be a mapping, got "low" | write {meant}'
    ]


def test_a_service_tier_is_text() -> None:
    assert of_the_api("chat", "{service_tier: [flex]}", "gpt-7") == [
        "4:28 `parameters.service_tier` must be text, got a list | for example `service_tier: flex`"
    ]


# The end of a model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "today", "sentence"),
    [
        ("gpt-4o-mini", date(2026, 11, 14), None),  # 61 days before
        ("gpt-4o-mini", date(2026, 11, 15), "gpt-4o-mini ends on 2027-01-14"),
        ("gpt-4o-mini", date(2027, 1, 13), "gpt-4o-mini ends on 2027-01-14"),
        ("gpt-4o-mini", date(2027, 1, 14), "gpt-4o-mini ended on 2027-01-14"),
        ("gpt-6-luna", date(2030, 1, 1), None),
        ("gpt-7", date(2030, 1, 1), None),
    ],
)
def test_a_model_that_ends_soon_or_has_ended(model: str, today: date, sentence: str | None) -> None:
    assert ending(model, SHIPPED, today) == sentence
