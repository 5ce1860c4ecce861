"""A small project in a temporary folder, and the command line run in it as a user would: a process of its own.

Most of these processes are forks of one that has the imports behind it, see `forked.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from forked import Forked, forking

from runner import RunSummary, resume_run, run_job
from runner.manifest import Manifest
from runner.parts import stored
from runner.simulator import SimulatorProcess, SimulatorSettings

Process = subprocess.Popen[str] | Forked

LABELS = ["machine learning", "physics", "mathematics", "other"]


def until(condition: Callable[[], Any], deadline_s: float = 20.0) -> Any:
    """Wait for a condition, and return what made it true."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.015)  # asking costs the server as much as a request does
    return value


class ForkedSimulator(SimulatorProcess):
    """The simulator in a process that is a fork; its start from nothing is for its own tests."""

    def start(self) -> str:
        arguments = ["--settings", self._settings.model_dump_json(), "--port", str(self._port), "--until-stdin-closes"]
        self._forked = Forked("runner.simulator", arguments, Path.cwd(), dict(os.environ), stderr=2)
        self.base_url = self._forked.stdout.readline().strip()
        assert self.base_url, "the simulator did not start"
        return self.base_url

    def stop(self) -> None:
        self._forked.stdin.close()
        self._forked.communicate()


def simulator(port: int = 0, **settings: Any) -> SimulatorProcess:
    """Return a simulator that answers at once, unless told otherwise; to be entered."""
    return ForkedSimulator(SimulatorSettings.model_validate({"latency_s": 0, **settings}), port=port)


class Done(subprocess.CompletedProcess[str]):
    """A process that ended; what it said never holds a traceback."""

    @property
    def error(self) -> str:
        """The one message that starts with `error:`, up to the end of stderr."""
        assert self.stderr.count("error: ") == 1, self.stderr
        return self.stderr[self.stderr.index("error: ") :]


class Project:
    """A project folder with one job, `job`.

    Args:
        base_url: where its endpoint is; None: the embedded simulator, which answers at once.
    """

    def __init__(self, folder: Path, base_url: str | None = None, **job: Any) -> None:
        self.folder = folder
        self.endpoint: dict[str, Any] = (
            {"simulator": {"latency_s": 0}} if base_url is None else {"base_url": base_url, "api_key_env": "TEST_KEY"}
        )
        self.endpoints: dict[str, Any] = {}  # others
        self.job: dict[str, Any] = {
            "name": "job",
            "input": {"path": "rows.jsonl", "id": "id"},
            "prompt": {"user": "Sort this: {{ text }}"},
            "output": {"labels": LABELS, "rows_per_part": 50},
            "model": "gpt-6-luna",
            "endpoint": "there",
            "limits": {"concurrency": 8},
        }
        self.environ = {"TEST_KEY": "sk-test-0123456789", "PATH": os.environ.get("PATH", "")}
        (folder / "configs").mkdir(parents=True)
        self.change(**job)

    # What it is made of -----------------------------------------------------------------------------------------------

    @property
    def job_file(self) -> Path:
        return self.folder / "job.yaml"

    @property
    def rows_file(self) -> Path:
        return self.folder / "rows.jsonl"

    def change(self, **job: Any) -> None:
        """Change keys of the job (a mapping into a mapping), and write all files."""
        for key, value in job.items():
            old = self.job.get(key)
            self.job[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
        self.job_file.write_text(yaml.safe_dump(self.job), encoding="utf-8")
        endpoints = yaml.safe_dump({"there": self.endpoint} | self.endpoints)
        (self.folder / "configs" / "endpoints.yaml").write_text(endpoints, encoding="utf-8")

    def rows(self, rows: int | Iterable[dict[str, Any]]) -> None:
        """Write the input: so many rows, or these."""
        made = rows
        if isinstance(made, int):
            words = ("learning networks", "quantum physics", "a theorem of mathematics", "cheese")
            made = [{"id": f"r{i:05d}", "text": f"paper {i} on {words[i % 4]}", "number": i} for i in range(made)]
        with self.rows_file.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in made)

    def prices(self, **models: dict[str, Any]) -> None:
        """Write the price table; default: one in which `gpt-6-luna` costs what it does."""
        known = models or {"gpt-6-luna": {"input": 0.1, "cached_input": 0.01, "cache_write": 0.125, "output": 0.5}}
        table = yaml.safe_dump({"tiers": {"flex": 0.5, "batch": 0.5}, "models": known})
        (self.folder / "configs" / "models.yaml").write_text(table, encoding="utf-8")

    # Running it -------------------------------------------------------------------------------------------------------

    def start(self, *arguments: str | Path, fresh: bool = False, **options: Any) -> Process:
        """Start `runner` with these arguments.

        Args:
            fresh: from nothing, so that the imports count as well.
            options: of `subprocess.Popen`; with any the start is from nothing.
        """
        words = [str(argument) for argument in arguments]
        if not fresh and not options and not any(name.startswith("PYTHON") for name in self.environ):
            forked = Forked("runner", words, self.folder, self.environ)
            forked.stdin.close()
            return forked
        return subprocess.Popen(
            [sys.executable, "-m", "runner", *words],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            **options,
        )

    def runner(self, *arguments: str | Path, exits: int = 0, timeout_s: float = 60, **options: Any) -> Done:
        """Run `runner` with these arguments to its end."""
        return self.end(self.start(*arguments, **options), exits, timeout_s)

    def work(self, *, fresh: bool = False) -> RunSummary:
        """Run the job in this process, which saves the second that a new one takes to start.

        Args:
            fresh: what it starts is started from nothing.
        """
        with patch.dict(os.environ, self.environ), nullcontext() if fresh else forking():
            return run_job(self.job_file, progress=False)

    def work_on(self, *, retry: bool = False) -> RunSummary:
        """Resume or retry the latest run in this process."""
        with patch.dict(os.environ, self.environ), forking():
            return resume_run(self.latest, retry=retry, progress=False)

    def run(self, *arguments: str | Path, exits: int = 0, **options: Any) -> Done:
        """`runner run` the job."""
        return self.runner("run", self.job_file, *arguments, exits=exits, **options)

    @staticmethod
    def end(process: Process, exits: int = 0, timeout_s: float = 60) -> Done:
        """Wait for a process that was started."""
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        assert "Traceback" not in err, err
        assert process.returncode == exits, f"exit code {process.returncode}, not {exits}\n{out}\n{err}"
        return Done(process.args, process.returncode, out, err)

    @staticmethod
    def kill(process: Process) -> None:
        """End a process as `kill -9` does."""
        process.send_signal(signal.SIGKILL)
        process.communicate()

    # What came out ----------------------------------------------------------------------------------------------------

    @property
    def latest(self) -> Path:
        return (self.folder / "outputs" / "job" / "latest").resolve()

    def has_begun(self) -> bool:
        return (self.folder / "outputs" / "job" / "latest" / "run.json").exists()

    def manifest(self, run: Path | None = None) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(((run or self.latest) / "run.json").read_text(encoding="utf-8"))
        return found

    def table(self, run: Path | None = None) -> pa.Table:
        """All rows of the sealed parts, in the order of the parts."""
        return pa.concat_tables([pq.read_table(part) for part in parts(run or self.latest)])

    def long_table(self) -> pa.Table:
        """The results of the latest run, one row for each model, however they lie in its files."""
        return pa.concat_tables(stored(self.latest, self.schema, 1000))

    @property
    def schema(self) -> pa.Schema:
        """The columns of the latest run's results."""
        return Manifest.load(self.latest).schema

    def assert_whole(self, rows: int, status: str | None = "ok") -> None:
        """Every row is there once, in order, with this status, and nothing but the run is left in its folder."""
        table = self.table()
        assert table.column("_index").to_pylist() == list(range(rows))
        assert table.column("_id").to_pylist() == [f"r{i:05d}" for i in range(rows)]
        if status is not None:
            assert set(table.column("_status").to_pylist()) == {status}
        left = {path.name for path in self.latest.iterdir() if not path.name.startswith("part-")}
        assert left - {"batches"} == {"job.yaml", "run.json"}


def parts(run: Path) -> list[Path]:
    return sorted(run.glob("part-*.parquet"))
