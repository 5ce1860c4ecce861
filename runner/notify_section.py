"""The section `notify` of the job file: who is told how the job goes, and of what."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from runner.addresses import VARIABLE, secret_parts
from runner.errors import SpecError
from runner.problems import Finding, complain, say
from runner.sections import Many, Section
from runner.timespan import read_span

Event = Literal["failure", "recovered", "success", "late", "budget"]
"""What a target can be told of."""

MAX_ERROR_RATE = 0.05
LATE_AFTER = "26h"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INSTEAD = "put the whole address in an environment variable, and write its name: `{key}: ${{{name}}}`"


class UnsetVariable(SpecError):  # noqa: N818 - it says what is the matter
    """An address needs an environment variable that is not there, or holds no address."""


def _address(key: str, name: str) -> AfterValidator:
    def check(value: str) -> str:
        complain(list(_address_findings(value, _INSTEAD.format(key=key, name=name))))
        return value

    return AfterValidator(check)


def _address_findings(value: str, instead: str) -> Iterator[Finding]:
    """What is wrong with an address. None of it says the address: whoever knows it may post there."""
    rest = VARIABLE.sub("", value)
    if "${" in rest:
        yield Finding("has a `${` that is not followed by a name and `}`", hint="write `${NAME}`")
    elif not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://\S|\$\{", value) or re.search(r"\s", value):
        yield Finding("must be an address such as `https://…`, or `${NAME}`", hint=instead)
    elif secret_parts(value):
        yield Finding("holds what looks like a secret", hint=instead)
    elif rest == value and not re.match(r"https?://", value, re.IGNORECASE):
        yield Finding("holds what may be a secret: with services such as this, the address is the key", hint=instead)


def _span_text(value: object) -> object:
    if not isinstance(value, str) or read_span(value.strip()) is None:
        unit = isinstance(value, int | float) and not isinstance(value, bool)
        hint = f"with its unit: `{value:g}h`" if unit else None
        complain([Finding(f"must be a time span such as 26h or 8d, got {say(value)}", hint=hint)])
    return value


class Target(Section):
    """Someone to tell."""

    url: Annotated[str, _address("url", "ALERT_URL")] | None = Field(
        default=None,
        description=(
            "Where to send it: `${NAME}` of an environment variable that holds the address. https:// is a webhook; "
            "slack://, mailto://, tgram:// and all others are Apprise's."
        ),
        examples=["${ALERT_URL}"],
    )
    url_env: str | None = Field(
        default=None,
        validate_default=True,
        description="The NAME of the environment variable that holds the address, in place of `url`.",
        examples=["ALERT_URL"],
    )
    on: Many[Event] = Field(
        default=("failure", "recovered"),
        min_length=1,
        description="What to tell: failure, recovered, success, late, budget.",
        examples=[["failure", "recovered", "late"]],
    )

    @field_validator("url_env")
    @classmethod
    def _one_address(cls, name: str | None, info: ValidationInfo) -> str | None:
        if "url" not in info.data:
            return name  # it is wrong, and said so
        if name is not None and info.data["url"] is not None:
            complain([Finding("and `url` exclude each other", hint="keep one of them", on_key=True)])
        if name is None and info.data["url"] is None:
            complain([Finding("a target of `notify` needs `url`, or `url_env`", whole=True, hint="url: ${ALERT_URL}")])
        if name is not None and not _NAME.fullmatch(name):
            complain([Finding("must be the name of an environment variable", hint="for example `url_env: ALERT_URL`")])
        return name

    @property
    def written(self) -> str:
        """The address as it is written: it holds no secret."""
        return self.url if self.url is not None else f"${{{self.url_env}}}"


class NotifySpec(Section):
    """Who is told how the job goes, and of what."""

    meant: ClassVar[Mapping[str, str]] = {
        "url": "notify.to",
        "targets": "notify.to",
        "urls": "notify.to",
        "webhook": "notify.to",
        "on": "notify.to",
    }

    to: Many[Target] = Field(
        default=(),
        description="Whom to tell: a list of targets.",
        examples=[[{"url": "${ALERT_URL}", "on": ["failure", "recovered"]}]],
    )
    ping: Annotated[str, _address("ping", "PING_URL")] | None = Field(
        default=None,
        min_length=1,
        description=(
            "A dead man's switch: `${NAME}` of an environment variable that holds the address of a check. "
            "It is asked for at each success, with `/start` after it when a run begins, with `/fail` when one fails."
        ),
        examples=["${PING_URL}"],
    )
    max_error_rate: float = Field(
        default=MAX_ERROR_RATE,
        ge=0,
        le=1,
        description="A finished run is a success up to this share of failed rows; 0: all rows must be ok.",
        examples=[0.01],
    )
    late_after: Annotated[str, BeforeValidator(_span_text)] = Field(
        default=LATE_AFTER,
        description="The job is late when its last success is older than this.",
        examples=["26h", "8d"],
    )
    rehearsals: bool = Field(default=False, description="Tell of rehearsals too. Their state is kept apart.")

    @field_validator("to")
    @classmethod
    def _different(cls, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        written = [target.written for target in targets]
        complain([Finding("has the address of an earlier one", (index,), hint="one target can have several events")
                  for index, text in enumerate(written) if text in written[:index]])  # fmt: skip
        return targets

    @property
    def idle(self) -> bool:
        """Whether there is nobody to tell."""
        return not self.to and self.ping is None

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that the addresses need, in the order in which they are written."""
        written = (*(target.written for target in self.to), self.ping or "")
        return tuple(dict.fromkeys(name for text in written for name in VARIABLE.findall(text)))

    @property
    def late_after_span(self) -> timedelta:
        found = read_span(self.late_after.strip())
        assert found is not None  # it was checked
        return found


def not_a_list(value: object) -> object:
    """Refuse targets that stand where the section should."""
    if isinstance(value, list | tuple):
        complain([Finding("must be a mapping, got a list", hint="write the list of targets as `notify: {to: […]}`")])
    return value


def resolve(written: str, environ: Mapping[str, str]) -> str:
    """Return an address with every `${NAME}` looked up. It is a secret from then on.

    Raises:
        UnsetVariable: a variable is not set or empty, or what comes out is no address; the message shows none.
    """
    names = VARIABLE.findall(written)
    for name in names:
        if not environ.get(name, "").strip():
            state = "empty" if name in environ else "not set"
            raise UnsetVariable(f"the environment variable {name} is {state}", hint=f"export {name}=…")
    address = VARIABLE.sub(lambda match: environ[match[1]].strip(), written)
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://\S", address) or not address.isprintable():
        raise UnsetVariable(
            f"the environment variable {' or '.join(names)} does not hold an address",
            hint="it begins with https://, slack://, mailto:// …",
        )
    return address
