"""A job file becomes a `Job`: read, checked with everything it refers to, and ready to run.

Everything that is wrong is reported at once, each problem with its place.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from runner import run_date as dates
from runner import strategies, traits
from runner.clock import SystemClock
from runner.config import Endpoints, EndpointSpec, load_endpoints
from runner.models import MODELS_FILE, Models, load_models
from runner.problems import At, Mark, Problem, SpecErrors, display, dotted, in_order, listed, suggest
from runner.schema_rules import schema_findings
from runner.sections import DEFAULT_CONCURRENCY, LimitsSpec, PromptFile, PromptSpec, Section
from runner.simulator.settings import SimulatorSettings
from runner.spec import JobSpec, job_name
from runner.text_file import read_text
from runner.validation import check
from runner.yaml_source import Source, parse, read

T = TypeVar("T")

SIMULATOR = "simulator"
"""The built-in endpoint of rehearsals."""
PROMPTS = Path("configs") / "prompts"

# Long, mixed and with a digit: a key rather than a word such as `sk-learn`.
_API_KEY = re.compile(r"(?:^|[^A-Za-z0-9])sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}")


@dataclass(frozen=True)
class Job:
    """A job that can be run.

    Attributes:
        path: the job file.
        root: the project root; all paths in the job are relative to it.
        prompts: role and template of each message, in order; with the text of the files they refer to.
        json_schema: the schema of the answers as `output.schema` has it, read from its file; None without one.
        options: the options of the strategy.
        overrides: what was asked for besides the job file: dotted key to YAML text.
        source: the job file as it was read, for what is only found wrong later.
        run_date: the date that a run of it is for.
        rehearsed: the endpoints of the job file's pool, where the simulator stands in for each of them.
    """

    spec: JobSpec
    path: Path
    root: Path
    endpoints: Endpoints
    models: Models
    prompts: tuple[tuple[str, str], ...]
    json_schema: dict[str, Any] | None
    options: Section
    overrides: Mapping[str, str]
    source: Source = field(repr=False)
    run_date: date
    rehearsed: tuple[str, ...] = ()

    @cached_property
    def pool(self) -> tuple[EndpointSpec, ...]:
        """The endpoints that requests may go to."""
        found = tuple(self.endpoints[name] for name in self.rehearsed or self.spec.endpoints)
        return tuple(map(self._stand_in, found)) if self.rehearsed else found

    def _stand_in(self, endpoint: EndpointSpec) -> EndpointSpec:
        """Return a simulator under the name of an endpoint, which enforces its limits."""
        limits = endpoint.limits
        settings = self.endpoints[SIMULATOR].simulator or SimulatorSettings()
        enqueued = limits.enqueued_tokens or settings.batches.enqueued_tokens
        settings = settings.model_copy(
            update={
                "batches": settings.batches.model_copy(update={"enqueued_tokens": enqueued}),
                "requests_per_minute": limits.requests_per_minute and math.ceil(limits.requests_per_minute),
                "tokens_per_minute": limits.tokens_per_minute and math.ceil(limits.tokens_per_minute),
            }
        )
        return EndpointSpec(name=endpoint.name, limits=limits, simulator=settings)

    @property
    def endpoint_kind(self) -> str:
        """What sort of servers answer: another sort answers differently."""
        return "+".join(sorted({endpoint.kind for endpoint in self.pool}))

    @property
    def rehearsal(self) -> bool:
        """Whether it sends to the embedded simulator."""
        return any(endpoint.is_simulator for endpoint in self.pool)

    @cached_property
    def limits(self) -> LimitsSpec:
        """The limits that hold: the job's, else the endpoint's, else 64 requests in flight.

        Of a pool they hold for all endpoints together, and without the job's own they are the sums of theirs.
        """
        mine, pool = self.spec.limits, self.endpoint_limits
        return LimitsSpec(
            concurrency=mine.concurrency or int(_sum(limits.concurrency for limits in pool) or 0),
            requests_per_minute=mine.requests_per_minute or _sum(limits.requests_per_minute for limits in pool),
            tokens_per_minute=mine.tokens_per_minute or _sum(limits.tokens_per_minute for limits in pool),
            enqueued_tokens=mine.enqueued_tokens,
        )

    @property
    def endpoint_limits(self) -> tuple[LimitsSpec, ...]:
        """The limits that each endpoint of the pool has for itself."""
        default = DEFAULT_CONCURRENCY
        return tuple(
            each.limits.model_copy(
                update={
                    "concurrency": each.limits.concurrency or default,
                    "enqueued_tokens": self.spec.limits.enqueued_tokens or each.limits.enqueued_tokens,
                }
            )
            for each in self.pool
        )


def load_job(
    path: Path,
    *,
    overrides: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    root: Path | None = None,
    run_date: date | None = None,
) -> Job:
    """Read and check a job file.

    Args:
        overrides: dotted key to YAML text, as in ``--set limits.concurrency=8``; they replace what the file says.
        environ: where given, the variables that the endpoint needs must be set in it.
        root: the project root, for a job file that lies elsewhere; default: found from the file's place.
        run_date: the date that a run is for; default: today's, on the clock of the job's schedule.

    Raises:
        SpecErrors: everything that is wrong with the job and with the files it refers to.
    """
    root = root or find_root(path)
    source = read(path)
    here = _Problems()
    written = _names(source.data.get("endpoint"))
    for key, text in (overrides or {}).items():
        here.gather(partial(source.set, key, text))
    source.data.setdefault("name", job_name(path.stem))
    run_date = run_date or dates.today(dates.zone_of(source.data), SystemClock().now_us(), os.environ)
    here += dates.fill_in(source, run_date)
    spec, found = check(JobSpec, source, source.data)
    here += [*source.problems, *found, *_literal_keys(source)]
    options = here.gather(partial(_strategy_options, spec, source)) if spec else None
    files = _Files(root, source, here)
    prompts = files.prompts(spec.prompt) if spec else ()
    schema = files.schema(spec.output.json_schema, strict=spec.output.strict) if spec else None

    elsewhere = _Problems()
    endpoints = elsewhere.gather(partial(load_endpoints, root))
    models = elsewhere.gather(partial(load_models, root))
    here += traits.problems(spec, spec.models, models, source) if spec and models else []
    if endpoints is not None:
        unfit = list(_pool_problems(source, _names(source.data.get("endpoint", "openai")), endpoints))
        here += unfit
        if environ is not None and spec is not None and not unfit:
            for name in spec.endpoints:
                elsewhere.gather(partial(endpoints[name].resolve, environ))
    if here or elsewhere or spec is None or options is None or endpoints is None or models is None:
        raise SpecErrors([*in_order(here), *elsewhere])
    rehearsed = written if spec.endpoint == SIMULATOR and len(written) > 1 else ()
    if any(name not in endpoints for name in rehearsed):
        rehearsed = ()
    job = Job(
        spec, path, root, endpoints, models, prompts, schema, options, dict(overrides or {}), source, run_date,
        rehearsed,
    )  # fmt: skip
    _refuse_idle_workers(job, source)
    _refuse_blind_budget(job, source)
    return job


def _strategy_options(spec: JobSpec, source: Source) -> Section:
    """The options of the strategy, checked by what it says itself."""
    options, problems = check(strategies.load(spec.strategy_name).Options, source, spec.strategy_options, ("strategy",))
    if options is None:
        raise SpecErrors(problems)
    return options


def _refuse_idle_workers(job: Job, source: Source) -> None:
    """More workers than may be in flight would only wait for each other."""
    most = job.limits.concurrency or DEFAULT_CONCURRENCY
    for key in ("workers", "processes"):
        count = getattr(job.options, key, None)
        if isinstance(count, int) and count > most:
            raise SpecErrors(
                [
                    source.problem(
                        ("strategy", key),
                        f"`strategy.{key}` must be at most {most:,}, which is `limits.concurrency`, got {count:,}",
                        "raise `limits.concurrency`, or leave the key out",
                    )
                ]
            )


def _refuse_blind_budget(job: Job, source: Source) -> None:
    """A cap holds only where it is known what a request may cost at most."""
    budget = job.spec.budget
    priced = [key for key in ("max_usd", "daily_usd") if getattr(budget, key) is not None]
    problems = []
    for model in job.spec.models:
        if priced and job.models.find(model) is None:
            message = f"`budget.{priced[0]}` cannot be kept: the price of `{model}` is not known"
            problems.append(source.problem(("budget", priced[0]), message, f"add it to {MODELS_FILE.as_posix()}"))
    longest = {"responses": "max_output_tokens", "chat": "max_completion_tokens"}.get(job.spec.api)
    bounds = [job.spec.parameters.get(key) for key in (longest, "max_tokens") if key is not None]
    bounded = any(type(bound) is int and bound > 0 for bound in bounds)  # null and "500" bound nothing
    if not budget.unlimited and longest is not None and not bounded:
        message = "`budget` cannot be kept: nothing bounds the length of an answer"
        problems.append(source.problem(("budget",), message, f"for example `parameters: {{{longest}: 500}}`"))
    if problems:
        raise SpecErrors(problems)


def find_root(path: Path) -> Path:
    """The project root: the nearest folder above the job file that has `configs/`, else the job file's own folder."""
    folder = path.absolute().parent
    return next((above for above in (folder, *folder.parents) if (above / "configs").is_dir()), folder)


def _names(value: object) -> tuple[str, ...]:
    """The endpoints that a job file names, whatever else is wrong with it."""
    names = value if isinstance(value, list | tuple) else [value]
    return tuple(name for name in names if isinstance(name, str) and name)


def _pool_problems(source: Source, names: tuple[str, ...], endpoints: Endpoints) -> Iterator[Problem]:
    for index, name in enumerate(names):
        at: At = ("endpoint", index) if isinstance(source.data.get("endpoint"), list) else ("endpoint",)
        if name not in endpoints:
            yield source.problem(at, endpoints.unknown(name), endpoints.hint(name))
        elif endpoints[name].is_simulator != (names[0] in endpoints and endpoints[names[0]].is_simulator):
            message = "a simulator and real endpoints cannot share a job: made-up answers would stand among real ones"
            yield source.problem(at, message, "rehearse the whole pool with `--rehearse`")


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum of limits; None where one of them is not limited."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total


class _Problems(list[Problem]):
    def gather(self, step: Callable[[], T]) -> T | None:
        """What the step returns; or None, and its problems added here."""
        try:
            return step()
        except SpecErrors as error:
            self += error.problems
            return None


def _literal_keys(source: Source) -> Iterator[Problem]:
    """API keys in a job file would be copied into every run's folder. Prompts and labels are text, and may hold any."""

    def look(tree: Any, at: At) -> Iterator[Problem]:
        if isinstance(tree, str) and _API_KEY.search(tree):
            hint = "put it in an environment variable, and name that in configs/endpoints.yaml"
            yield source.problem(at, f"`{dotted(at)}` holds what looks like an API key", hint)
        elif isinstance(tree, dict):
            for key, value in tree.items():
                yield from look(value, (*at, key))
        elif isinstance(tree, list):
            for index, value in enumerate(tree):
                yield from look(value, (*at, index))

    for key, tree in source.data.items():
        if key not in ("prompt", "output"):
            yield from look(tree, (key,))


class _Files:
    """Reads the files that a job file refers to."""

    def __init__(self, root: Path, source: Source, problems: list[Problem]) -> None:
        self._root = root
        self._source = source
        self._problems = problems

    def prompts(self, prompt: PromptSpec) -> tuple[tuple[str, str], ...]:
        """Role and text of each message."""
        if prompt.messages is not None:
            return tuple(
                (message.role, self._text(message.content, ("prompt", "messages", index, "content")))
                for index, message in enumerate(prompt.messages)
            )
        parts = (("system", prompt.system), ("user", prompt.user))
        return tuple((role, self._text(text, ("prompt", role))) for role, text in parts if text is not None)

    def _text(self, text: str | PromptFile, at: At) -> str:
        if isinstance(text, str):
            return text
        at = (*at, "file")
        folder = self._root / PROMPTS
        path = folder / text.file
        if not path.resolve().is_relative_to(folder.resolve()):
            self._wrong(at, f"`{dotted(at)}` leads out of {PROMPTS.as_posix()}/", "prompts are kept there")
            return ""
        if not path.is_file():
            there = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
            hint = suggest(text.file, there) or (f"there are {listed(there[:8])}" if there else None)
            self._wrong(at, f"there is no file {display(path)}", hint)
            return ""
        return self._read(path, at, "prompt file") or ""

    def schema(self, schema: dict[str, Any] | str | None, *, strict: bool) -> dict[str, Any] | None:
        """The schema itself. What stands in the job file was checked with it."""
        if not isinstance(schema, str):
            return schema
        at = ("output", "schema")
        path = self._root / schema
        if not path.is_file():
            near = suggest(path.name, sorted(file.name for file in path.parent.glob("*.json")))
            hint = near or "the path is relative to the project root"
            self._wrong(at, f"there is no file {display(path)}", hint)
            return None
        text = self._read(path, at, "schema file")
        if text is None:
            return None
        file = Source(display(path), text)
        try:
            tree = json.loads(text)
        except json.JSONDecodeError as error:
            mark = Mark(error.lineno, error.colno)
            self._problems.append(file.problem_at(mark, f"this is not JSON: {error.msg.lower()}"))
            return None
        except (RecursionError, ValueError):
            self._wrong(at, f"{display(path)} cannot be read as JSON")
            return None
        if not isinstance(tree, dict):
            self._problems.append(file.problem((), "a schema file must hold a JSON object"))
            return None
        with suppress(SpecErrors):  # JSON is all but YAML: then each problem can be shown at its line
            file = parse(text, file.name)
        for finding in schema_findings(tree, strict=strict):
            name = f"`{dotted(finding.at)}`" if finding.at else "the schema"
            self._problems.append(
                file.problem(finding.at, f"{name} {finding.text}", finding.hint, on_key=finding.on_key)
            )
        return tree

    def _read(self, path: Path, at: At, what: str) -> str | None:
        try:
            return read_text(path, what=what)
        except SpecErrors as error:
            self._problems += error.problems
            return None

    def _wrong(self, at: At, message: str, hint: str | None = None) -> None:
        self._problems.append(self._source.problem(at, message, hint))
