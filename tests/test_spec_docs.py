"""docs/job-file.md lists every key of the models, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from runner import config, incremental_section, models, notify_section, output_section, sections, spec
from runner.schedule import section
from runner.yaml_source import parse

PAGE = Path(__file__).parent.parent / "docs" / "job-file.md"

TABLES: dict[str, type[BaseModel]] = {
    "Top level": spec.JobSpec,
    "`input`": sections.InputSpec,
    "`input.wait_for`": sections.WaitSpec,
    "`prompt`": sections.PromptSpec,
    "`prompt.messages[]`": sections.Message,
    "A template in a file": sections.PromptFile,
    "`output`": output_section.OutputSpec,
    "`output.questions.NAME`": output_section.QuestionSpec,
    "`limits`": sections.LimitsSpec,
    "`budget`": sections.BudgetSpec,
    "`retry`": sections.RetrySpec,
    "`retry.flex_fallback`": sections.FlexFallback,
    "`stop`": sections.StopSpec,
    "`evaluate`": sections.EvaluateSpec,
    "`incremental`": incremental_section.IncrementalSpec,
    "`keep`": sections.KeepSpec,
    "`notify`": notify_section.NotifySpec,
    "`notify.to[]`": notify_section.Target,
    "`schedule`": section.ScheduleSpec,
    "Endpoints": config.EndpointSpec,
    "Models": models.Models,
    "`models.NAME`": models.ModelSpec,
    "`long_context`": models.LongContext,
}


def tables() -> dict[str, list[str]]:
    """Heading to the keys in its table."""
    found: dict[str, list[str]] = {}
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif match := re.match(r"\| `([^`]+)` \|", line):
            found.setdefault(heading, []).append(match[1])
    return found


@pytest.mark.parametrize("heading", TABLES)
def test_every_key_is_in_the_page_and_no_other(heading: str) -> None:
    fields = TABLES[heading].model_fields
    keys = {field.alias or name for name, field in fields.items()}
    if TABLES[heading] is config.EndpointSpec:
        keys.discard("name")  # the key of the entry
    assert sorted(tables()[heading]) == sorted(keys)


def test_every_example_can_be_read() -> None:
    pages = [PAGE.parent.parent / "README.md", *PAGE.parent.glob("*.md")]
    examples = [
        (page, text) for page in pages for text in re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.S)
    ]
    assert len(examples) > 8
    for page, text in examples:
        assert parse(text, page.name).data


def test_every_table_belongs_to_a_model() -> None:
    assert set(tables()) == set(TABLES)


def test_every_field_is_described() -> None:
    for model in TABLES.values():
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
