"""The file `configs/endpoints.yaml`: where requests can go.

An `EndpointSpec` holds `${NAME}` as it was written, so it can be written into any output. Only `resolve` looks at the
environment, and what it returns shows no secret when printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PrivateAttr, ValidationInfo, field_validator

from runner.errors import SpecError
from runner.problems import At, Finding, Problem, SpecErrors, complain, display, in_order, listed, suggest
from runner.sections import LimitsSpec, Section
from runner.simulator.settings import SimulatorSettings
from runner.validation import check
from runner.yaml_source import Source, read

_OPENAI = "https://api.openai.com"
ENDPOINTS_FILE = Path("configs") / "endpoints.yaml"

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LITERAL_KEY = re.compile(r"(?:^|[^A-Za-z0-9])sk-[A-Za-z0-9_-]{6,}")
_SECRET_HEADER = re.compile(r"auth|key|token|secret|cookie|password", re.IGNORECASE)


def _plain(value: str) -> str:
    """Text of an endpoint: with whole `${NAME}` references, and without a key."""
    complain(list(_text_findings(value)))
    return value


def _text_findings(value: str) -> Iterator[Finding]:
    if _LITERAL_KEY.search(value):
        hint = "put the key in an environment variable, and name it: `api_key_env: OPENAI_API_KEY`"
        yield Finding("holds what looks like an API key", hint=hint)
    elif "${" in _VARIABLE.sub("", value):
        yield Finding("has a `${` that is not followed by a name and `}`", hint="write `${NAME}`")


Plain = Annotated[str, AfterValidator(_plain)]


class EndpointSpec(Section):
    """One server that requests can go to."""

    name: str = Field(default="", exclude=True, description="The name of the endpoint: the key of its entry.")
    base_url: Plain | None = Field(
        default=None,
        min_length=1,
        description="The address, up to and with `/v1`.",
        examples=["http://localhost:8000/v1"],
    )
    api_key_env: Plain | None = Field(
        default=None,
        min_length=1,
        description="The NAME of the environment variable that holds the key; never the key itself.",
        examples=["OPENAI_API_KEY"],
    )
    api_key_file: Plain | None = Field(
        default=None,
        min_length=1,
        description="A file that holds the key, relative to the project root; read again whenever it changes.",
        examples=["/run/secrets/llm-key"],
    )
    organization: Plain | None = Field(
        default=None, description="The OpenAI organization.", examples=["${OPENAI_ORG_ID}"]
    )
    project: Plain | None = Field(default=None, description="The OpenAI project.", examples=["${OPENAI_PROJECT_ID}"])
    headers: dict[str, Plain] = Field(
        default_factory=dict, description="Further headers of every request.", examples=[{"x-team": "research"}]
    )
    limits: LimitsSpec = Field(
        default_factory=LimitsSpec,
        description="The limits of jobs that set none; the keys are those of `limits` in a job file.",
    )
    azure_api_version: Plain | None = Field(
        default=None, min_length=1, description="Use Azure's addresses with this API version.", examples=["2026-10-01"]
    )
    simulator: SimulatorSettings | None = Field(
        default=None,
        description="Start the built-in simulator with these settings, in place of `base_url`.",
        examples=[{"latency_s": {"median": 0.2, "p95": 0.5}}],
    )

    _places: dict[str, str] = PrivateAttr(default_factory=dict)
    _root: Path = PrivateAttr(default_factory=Path)

    @field_validator("base_url")
    @classmethod
    def _base_url(cls, url: str | None) -> str | None:
        if url is None or url.startswith("${"):
            return url
        if not re.match(r"https?://[^/\s]", url):
            complain(
                [Finding("must begin with `http://` or `https://`", hint="for example `http://localhost:8000/v1`")]
            )
        if "@" in url.split("/")[2] and "${" not in url:
            complain([Finding("holds a password", hint="put the address in an environment variable: `${NAME}`")])
        return url

    @field_validator("api_key_env")
    @classmethod
    def _api_key_env(cls, name: str | None) -> str | None:
        if name is not None and not _NAME.fullmatch(name):
            hint = "for example `api_key_env: OPENAI_API_KEY`"
            complain([Finding("must be the name of an environment variable", hint=hint)])
        return name

    @field_validator("api_key_file")
    @classmethod
    def _one_key(cls, file: str | None, info: ValidationInfo) -> str | None:
        if file is not None and info.data.get("api_key_env") is not None:
            complain([Finding("and `api_key_env` exclude each other", hint="keep one of them", on_key=True)])
        return file

    @field_validator("headers")
    @classmethod
    def _headers(cls, headers: dict[str, str]) -> dict[str, str]:
        findings = []
        for name, value in headers.items():
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
                findings.append(Finding("is not a name that a header can have", (name,), on_key=True))
            elif _SECRET_HEADER.search(name) and not _VARIABLE.search(value):
                hint = "put it in an environment variable, and write `${NAME}` here"
                findings.append(Finding("looks like a secret", (name,), hint))
            elif re.search(r"[\r\n\0]", value):
                findings.append(Finding("must be a single line", (name,)))
        complain(findings)
        return headers

    @field_validator("simulator")
    @classmethod
    def _one_place(cls, simulator: SimulatorSettings | None, info: ValidationInfo) -> SimulatorSettings | None:
        if simulator is not None and info.data.get("base_url") is not None:
            complain([Finding("and `base_url` exclude each other", hint="keep one of them", on_key=True)])
        return simulator

    @property
    def is_simulator(self) -> bool:
        return self.simulator is not None

    @property
    def is_limited(self) -> bool:
        """Whether it has rates of its own that others may use up as well; a simulator in the run has nobody else."""
        return not self.is_simulator and (self.limits.requests_per_minute or self.limits.tokens_per_minute) is not None

    @property
    def kind(self) -> str:
        """What sort of server it is: another sort answers differently, and a simulator makes its answers up."""
        if self.simulator is not None:
            return "simulator"
        if self.azure_api_version is not None:
            return "azure"
        return "openai" if (self.base_url or "").startswith(f"{_OPENAI}/") else "compatible"

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that it needs, in the order in which they are written."""
        texts = (self.base_url, self.api_key_file, self.organization, self.project, *self.headers.values())
        named = [name for text in texts if text is not None for name in _VARIABLE.findall(text)]
        return tuple(dict.fromkeys([*([self.api_key_env] if self.api_key_env else []), *named]))

    def resolve(self, environ: Mapping[str, str]) -> ResolvedEndpoint:
        """Look up the key and every `${NAME}`.

        Args:
            environ: usually `os.environ`.

        Raises:
            SpecErrors: a variable is not set or empty, or the key's file cannot be read; all of them at once.
        """
        problems: list[Problem] = []
        asked: set[str] = set()

        def variable(name: str, key: str) -> str:
            value = environ.get(name, "").strip()
            if name in asked:
                return value
            asked.add(name)
            if not value:
                state = "is empty" if name in environ else "is not set"
                message = f"endpoint `{self.name}` needs the environment variable {name}, which {state}"
                problems.append(self._problem(key, message, f"export {name}=…"))
            elif not value.isprintable():
                message = f"endpoint `{self.name}`: the environment variable {name} holds a control character"
                problems.append(self._problem(key, message))
            return value

        def expand(text: str | None, key: str) -> str | None:
            return None if text is None else _VARIABLE.sub(lambda match: variable(match[1], key), text)

        key_file = expand(self.api_key_file, "api_key_file")
        resolved = ResolvedEndpoint(
            name=self.name,
            base_url=expand(self.base_url, "base_url"),
            key=variable(self.api_key_env, "api_key_env") if self.api_key_env else None,
            key_file=KeyFile(self._root / Path(key_file).expanduser()) if key_file else None,
            organization=expand(self.organization, "organization"),
            project=expand(self.project, "project"),
            headers={name: expand(value, f"headers.{name}") or "" for name, value in self.headers.items()},
            azure_api_version=expand(self.azure_api_version, "azure_api_version"),
            simulator=self.simulator,
            written_url=self.base_url,
        )
        if resolved.key_file is not None and not problems:
            try:
                resolved.key_file.read()
            except SpecError as error:
                problems.append(self._problem("api_key_file", f"endpoint `{self.name}`: {error.message}", error.hint))
        if problems:
            raise SpecErrors(problems)
        return resolved

    def _problem(self, key: str, message: str, hint: str | None = None) -> Problem:
        place = self._places.get(key) or self._places.get("") or f"the built-in endpoint `{self.name}`"
        return Problem(message, place, hint=hint)


class KeyFile:
    """A key in a file, read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._key = ""

    def read(self) -> str:
        """The key as the file holds it now.

        Raises:
            SpecError: the file is missing, empty, or holds more than one line.
        """
        try:
            stat = self.path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen != self._seen:
                key = self.path.read_text(encoding="utf-8").strip()
                if not key or not key.isprintable():
                    raise self._unusable()
                self._key, self._seen = key, seen
        except UnicodeDecodeError:
            raise self._unusable() from None
        except OSError as error:
            reason = (error.strerror or "unknown reason").lower()
            raise SpecError(f"the key file {display(self.path)} cannot be read: {reason}") from None
        return self._key

    def _unusable(self) -> SpecError:
        return SpecError(f"the key file {display(self.path)} does not hold one key", hint="one line, one key")

    def __repr__(self) -> str:
        return f"KeyFile({str(self.path)!r})"


@dataclass(frozen=True, slots=True, repr=False)
class ResolvedEndpoint:
    """An endpoint with everything looked up. It holds secrets, and shows none when printed.

    Attributes:
        base_url: None for a simulator that is still to be started.
        key: the key from the environment; `api_key` also covers a key in a file.
        written_url: the address as the configuration has it, with its `${NAME}`.
    """

    name: str
    base_url: str | None
    key: str | None
    key_file: KeyFile | None
    organization: str | None
    project: str | None
    headers: dict[str, str] = field(default_factory=dict)
    azure_api_version: str | None = None
    simulator: SimulatorSettings | None = None
    written_url: str | None = None

    @property
    def rotates(self) -> bool:
        """Whether the key can change during the run: then ask for it at each request."""
        return self.key_file is not None

    def api_key(self) -> str | None:
        """The key as it is now; None where the endpoint needs none."""
        return self.key_file.read() if self.key_file is not None else self.key

    def __repr__(self) -> str:
        shown = {"base_url": self.written_url, "headers": sorted(self.headers), "key": self.api_key_state}
        return f"ResolvedEndpoint({self.name!r}, {', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @property
    def api_key_state(self) -> str:
        return "in a file" if self.key_file is not None else "set" if self.key else "none"


BUILT_IN: tuple[EndpointSpec, ...] = (
    EndpointSpec(name="openai", base_url=f"{_OPENAI}/v1", api_key_env="OPENAI_API_KEY"),
    EndpointSpec(name="simulator", simulator=SimulatorSettings()),
)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """All endpoints there are: the built-in ones, and those of the file.

    Attributes:
        place: the file as shown to the user; None where there is none.
    """

    specs: Mapping[str, EndpointSpec] = field(default_factory=lambda: {spec.name: spec for spec in BUILT_IN})
    place: str | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.specs

    def __getitem__(self, name: str) -> EndpointSpec:
        """The endpoint of that name.

        Raises:
            SpecError: there is none.
        """
        if name not in self.specs:
            raise SpecError(self.unknown(name), where=self.place, hint=self.hint(name))
        return self.specs[name]

    def unknown(self, name: str) -> str:
        place = self.place or f"{ENDPOINTS_FILE.as_posix()} (which does not exist)"
        return f"there is no endpoint `{name}` in {place}"

    def hint(self, name: str) -> str:
        return suggest(name, self.specs) or f"there are {listed(self.specs)}"


def load_endpoints(root: Path) -> Endpoints:
    """The endpoints of a project: the built-in ones, with those of `configs/endpoints.yaml` added or in their place.

    Raises:
        SpecErrors: the file is wrong, with everything that is wrong in it.
    """
    path = root / ENDPOINTS_FILE
    if not path.exists():
        return Endpoints()
    source = read(path, what="endpoints file", private=True, may_be_empty=True)
    problems = list(source.problems)
    specs = {spec.name: spec for spec in BUILT_IN}
    for name, entry in source.data.items():
        at = (name,)
        if isinstance(entry, dict) and "name" in entry:
            hint = "the key of the entry is its name"
            problems.append(source.problem((name, "name"), f"`{name}.name` is not a known key", hint, on_key=True))
            entry = {key: value for key, value in entry.items() if key != "name"}
        spec, found = check(EndpointSpec, source, entry, at)
        if spec is None:
            problems += found
            continue
        if spec.base_url is None and spec.simulator is None:
            hint = "for example `base_url: http://localhost:8000/v1`"
            problems.append(source.problem(at, f"`{name}` needs `base_url`", hint, on_key=True))
        problems += _literal_keys(source, entry.get("simulator"), (name, "simulator"))
        spec = spec.model_copy(update={"name": name})
        spec._places.update(_places(source, name))
        spec._root = root
        specs[name] = spec
    if problems:
        raise SpecErrors(in_order(problems))
    return Endpoints(specs, source.name)


def _literal_keys(source: Source, tree: Any, at: At) -> Iterator[Problem]:
    if isinstance(tree, str) and _LITERAL_KEY.search(tree):
        yield source.problem(at, "this looks like an API key", "put the key in an environment variable")
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _literal_keys(source, value, (*at, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _literal_keys(source, value, (*at, index))


def _places(source: Source, name: str) -> dict[str, str]:
    """Where each key of an endpoint stands, for errors that are only found later."""
    return {
        ".".join(str(step) for step in at[1:]): f"{source.name}:{mark.line}:{mark.column}"
        for at, mark in {**source.keys, **source.values}.items()
        if at[:1] == (name,)
    }
