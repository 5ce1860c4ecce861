"""`run.json`: what a run is, what it was made from, and how it went. Readable by people, enough to resume from."""

from __future__ import annotations

import base64
import json
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner import __version__, atomic, selection
from runner.errors import SpecError
from runner.layout import Layout
from runner.selection import Selection

NAME = "run.json"

EMBEDDED = "the embedded simulator"
"""What stands for the base URL of the simulator that a rehearsal starts."""

_PACKAGES = ("openai", "aiohttp", "aiolimiter", "tenacity", "pyarrow", "pydantic")


@dataclass
class Session:
    """One process's work on a run; a run that was resumed has several.

    Attributes:
        ended: `finished`, `interrupted`, or the kind of what stopped it; None while it works or if it was killed.
        retry: it sends failed rows of a finished run again.
        rows: results stored; None: unknown, because a retry was killed.
        attempts: HTTP exchanges; None: unknown, because the session was killed.
        use: share of each limit that was used, 1.0 being all of it.
        spent_usd: what its requests cost, those included whose rows have no result; only counted under a budget.
        spent_tokens: the same in tokens.
        warnings: what went wrong without ending it.
    """

    started_at: str
    finished_at: str | None = None
    ended: str | None = None
    retry: bool = False
    wall_s: float = 0.0
    rows: int | None = 0
    attempts: int | None = 0
    max_in_flight: int = 0
    rate_limited: int = 0
    strategy: str = ""
    limits: dict[str, Any] = field(default_factory=dict)
    use: dict[str, float] = field(default_factory=dict)
    spent_usd: float = 0.0
    spent_tokens: int = 0
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a run was started by.

    Attributes:
        scheduled: a scheduler, rather than a person.
        moment: the moment of the job's schedule that it is for (UTC, ISO 8601).
        task: its number in the queue.
    """

    scheduled: bool = False
    moment: str | None = None
    task: int | None = None


BY_HAND = Origin()


@dataclass
class Manifest:
    """The content of `run.json`.

    Attributes:
        status: `running`, `finished`, `stopped` or `interrupted`.
        spec: the job as run, defaults included.
        overrides: what `--set` and its relatives changed.
        input: rows, files with fingerprints, repeated ids; of a run that takes in what is new, `all_rows` there are.
        columns: name and type of every output column.
        arrow_schema: the same, exactly (base64 of Arrow's IPC form).
        summary: counted from the rows on disk when the run last ended.
        choice: what `strategy: auto` chose, from which alternatives, and why; None: the job names its strategy.
        scheduled: a scheduler started it (`runner run --scheduled`, or the service), rather than a person.
        moment: the moment of the job's schedule that it is for (UTC, ISO 8601); None: it is for none.
        task: its number in the queue; None: it was not queued.
        run_date: the date that it is for (ISO 8601); empty: it is older than such dates.
    """

    run: str
    job: str
    status: str
    rehearsal: bool
    root: str
    job_file: str
    overrides: dict[str, str]
    spec: dict[str, Any]
    input: dict[str, Any]
    columns: dict[str, str]
    arrow_schema: str
    copied_columns: list[str]
    endpoints: list[dict[str, Any]] = field(default_factory=list)
    stopped_by: dict[str, Any] | None = None
    sessions: list[Session] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    choice: dict[str, Any] | None = None
    scheduled: bool = False
    moment: str | None = None
    task: int | None = None
    run_date: str = ""

    @property
    def schema(self) -> pa.Schema:
        """The columns of the results as an Arrow schema; those of the files may stand side by side (`layout`)."""
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.arrow_schema)))

    @property
    def models(self) -> tuple[str, ...]:
        """The models that each row is asked of."""
        named = self.spec["model"]
        return (named,) if isinstance(named, str) else tuple(named)

    @property
    def results(self) -> int:
        """How many results the run has when it is finished."""
        return int(self.input["rows"]) * len(self.models)

    def selection(self, folder: Path) -> Selection | None:
        """Return which rows of the input the run takes in; None: all."""
        return Selection(folder / selection.NAME, self.input["rows"]) if "all_rows" in self.input else None

    @property
    def layout(self) -> Layout:
        """How the results lie in the files."""
        wide = self.spec["output"].get("layout") == "wide"
        return Layout.for_job(self.models, self.copied_columns, wide=wide)

    def save(self, folder: Path) -> None:
        """Replace `run.json` in `folder`, durably."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, default=str)
        try:
            text.encode()
        except UnicodeEncodeError:  # a file name or a server's message that is no Unicode
            text = json.dumps(asdict(self), indent=2, default=str)
        atomic.write_text(folder / NAME, text + "\n")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read `run.json`.

        Raises:
            SpecError: there is none, or it is not one of ours.
        """
        path = folder / NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content["sessions"] = [Session(**session) for session in content["sessions"]]
            found = cls(**content)
            _ = found.schema, found.input["rows"] + 0, found.input["files"], found.spec["model"]
            return found
        except FileNotFoundError:
            raise SpecError("this folder is not a run: it has no run.json", where=str(folder)) from None
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else error
            raise SpecError(
                f"this run.json cannot be read: {what}",
                where=str(path),
                hint="the parts are plain Parquet and still readable; start the job afresh to go on",
            ) from None


def encode_schema(schema: pa.Schema) -> str:
    """Return an Arrow schema as text."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def versions() -> dict[str, str]:
    """Return the versions of what this run is made with."""
    found = {"runner": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def utc_text(now_us: int) -> str:
    """Return a time in microseconds since 1970 as ISO 8601 text."""
    return datetime.fromtimestamp(now_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
