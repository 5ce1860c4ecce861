"""The section `incremental` of a job file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from runner.problems import Finding, complain, say
from runner.sections import Section


class IncrementalSpec(Section):
    """Send only the rows that no earlier run of this job has answered as they are now."""

    by: Literal["id", "content"] = Field(
        default="id",
        description=(
            "How an earlier answer is found: `id`, the newest under the row's `input.id` is to the same request; or "
            "`content`, the same request was answered, under whatever id."
        ),
    )


def short_form(value: object) -> object:
    """`incremental: id` is short for `incremental: {by: id}`."""
    if isinstance(value, str):
        return {"by": value}
    if value is not None and not isinstance(value, Mapping | IncrementalSpec):
        hint = "leave the key out to send every row" if value is False else "for example `incremental: id`"
        complain([Finding(f"must be `id`, `content` or a mapping with `by`, got {say(value)}", hint=hint)])
    return value
