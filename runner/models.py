"""The file `configs/models.yaml`: what is known of the models, what they cost and what they take."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from runner.prices import Tariff
from runner.problems import Finding, SpecErrors, complain, in_order
from runner.sections import Many, Section
from runner.validation import check
from runner.yaml_source import read

MODELS_FILE = Path("configs") / "models.yaml"


class Prices(Section):
    """Prices in USD per million tokens, at the standard tier."""

    input: float = Field(ge=0, description="Input tokens.", examples=[0.1])
    cached_input: float | None = Field(
        default=None, ge=0, description="Input tokens that were cached.", examples=[0.01]
    )
    cache_write: float | None = Field(
        default=None, ge=0, description="Input tokens written to the cache.", examples=[0.125]
    )
    output: float = Field(ge=0, description="Output tokens, reasoning included.", examples=[0.5])


class ModelSpec(Prices):
    """What is known of a model. A trait that is not given is not known, and nothing is refused because of it."""

    reasoning: bool | None = Field(
        default=None, description="Whether it reasons; then it takes `temperature` only without effort."
    )
    efforts: Many[str] | None = Field(
        default=None, description="The reasoning efforts it knows.", examples=[["none", "low", "medium", "high"]]
    )
    apis: Many[Literal["responses", "chat", "decisions"]] = Field(
        default=("responses", "chat"), description="The APIs it is on.", examples=[["responses", "chat", "decisions"]]
    )
    flex: bool | None = Field(default=None, description="Whether it is offered at `service_tier: flex`.")
    batch: bool | None = Field(default=None, description="Whether it is offered in the Batch API.")
    shutdown: Annotated[date | None, Field(strict=False)] = Field(
        default=None, description="The announced date of its end.", examples=["2027-01-14"]
    )
    decisions: Prices | None = Field(default=None, description="Its prices on /v1/decisions, where they differ.")

    @field_validator("decisions")
    @classmethod
    def _decisions(cls, decisions: Prices | None, info: ValidationInfo) -> Prices | None:
        if decisions is not None and "decisions" not in info.data.get("apis", ("decisions",)):
            hint = "add it there: `apis: [responses, chat, decisions]`"
            complain([Finding("has prices for an API that `apis` does not list", hint=hint, on_key=True)])
        return decisions

    def prices(self, api: str) -> Prices:
        """What it costs on one of its APIs."""
        return self.decisions if api == "decisions" and self.decisions is not None else self


class LongContext(Section):
    """The surcharge of requests with a long input; it is for the whole request."""

    over_input_tokens: int = Field(ge=1, description="Applies above this many input tokens.", examples=[272000])
    input_factor: float = Field(ge=0, description="Times the input and cache prices.", examples=[2.0])
    output_factor: float = Field(ge=0, description="Times the output price.", examples=[1.5])


class Models(Section):
    """The price table. A model that is not in it costs an unknown amount, never nothing."""

    as_of: Annotated[date | None, Field(strict=False)] = Field(
        default=None, description="The date of these prices.", examples=["2026-11-20"]
    )
    tiers: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="Factors on all prices by service tier.", examples=[{"flex": 0.5}]
    )
    long_context: LongContext | None = Field(default=None, description="The surcharge of requests with a long input.")
    models: dict[str, ModelSpec] = Field(default_factory=dict, description="The models, by their names in the API.")

    def find(self, name: str) -> ModelSpec | None:
        """What is known of a model, also by a dated name such as `gpt-6-luna-2026-10-06`; None: nothing."""
        return self.models.get(name) or self.models.get(re.sub(r"-\d{4}-\d{2}-\d{2}$", "", name))

    def tariff(self, name: str, api: str, asked_tier: str | None = None) -> Tariff:
        """How tokens turn into money with a model, on one of its APIs.

        Args:
            asked_tier: the `service_tier` of the requests.
        """
        found, long = self.find(name), self.long_context
        return Tariff(
            found.prices(api) if found else None,
            dict(self.tiers),
            long.over_input_tokens if long else None,
            long.input_factor if long else 1.0,
            long.output_factor if long else 1.0,
            asked_tier,
        )


def load_models(root: Path) -> Models:
    """The price table of a project, `configs/models.yaml`; an empty one where there is no such file.

    Raises:
        SpecErrors: the file is wrong, with everything that is wrong in it.
    """
    path = root / MODELS_FILE
    if not path.exists():
        return Models()
    source = read(path, what="models file", may_be_empty=True)
    models, problems = check(Models, source, source.data)
    problems = in_order([*source.problems, *problems])
    if models is None or problems:
        raise SpecErrors(problems)
    return models
