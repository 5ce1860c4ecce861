"""The runner as a library: the page about it is run, and so is what it promises in other words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import forking
from project import Project, simulator, until

import runner
from runner.errors import SpecError

ROOT = Path(__file__).parents[1]
Make = Callable[..., Project]


def test_the_page_about_python_is_true(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    for name in ("jobs", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "page.py").write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "finished 12 of 12" in done.stdout
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"review-sentiment", "first", "second"}


@pytest.fixture
def here(project: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Project]:
    def make(*args: Any, **kwargs: Any) -> Project:
        made = project(*args, **kwargs)
        for name, value in made.environ.items():
            monkeypatch.setenv(name, value)
        return made

    return make


@pytest.mark.parametrize("strategy", ["asyncio", "threads", "to_thread", "sequential", "processes"])
def test_every_strategy_runs_inside_a_running_event_loop(here: Make, strategy: str) -> None:
    with simulator() as server:
        made = here(
            server.base_url, rows=20, strategy=strategy, limits={"concurrency": 1 if strategy == "processes" else 8}
        )

        async def both() -> tuple[runner.RunSummary, runner.RunSummary]:
            job = runner.load_job(made.job_file)
            return await runner.run_job_async(job, progress=False), runner.run_job(made.job_file, progress=False)

        with forking():
            summaries = asyncio.run(both())
        for summary in summaries:
            assert (summary.status, summary.rows, summary.ok, summary.failed) == ("finished", 20, 20, 0)
            assert summary.folder.parent == made.folder / "outputs" / "job"
            table = runner.read_results(summary.folder)
            assert table.column("_index").to_pylist() == list(range(20))
            assert "20: 20 ok, 0 failed" in str(summary)


def test_cancelling_lets_what_is_in_flight_finish(here: Make) -> None:
    with simulator(latency_s=0.2) as server:
        made = here(server.base_url)

        async def main() -> None:
            running = asyncio.create_task(runner.run_job_async(made.job_file, progress=False))
            await asyncio.to_thread(until, lambda: server.stats()["statuses"].get("200", 0) >= 8)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

        asyncio.run(main())
        stats = server.stats()
        assert stats["abandoned"] == 0
        partly = runner.read_results(made.latest)
        assert partly.num_rows == stats["statuses"]["200"] < 100
        assert partly.schema.names == runner.read_results(made.latest).schema.names
        done = runner.resume_run(made.latest, progress=False)
        assert server.stats()["requests"] == 100
    assert (done.status, done.ok) == ("finished", 100)
    made.assert_whole(100)


def test_a_run_that_stops_is_a_summary_and_not_an_exception(here: Make) -> None:
    with simulator(quota_after=5) as server:
        summary = runner.run_job(here(server.base_url).job_file, progress=False)
    assert (summary.status, summary.ok) == ("stopped", 5)
    assert summary.stopped_by is not None
    assert summary.stopped_by.startswith("HTTP 429: You exceeded your current quota")


def test_what_is_wrong_is_raised(here: Make, tmp_path: Path) -> None:
    made = here("http://127.0.0.1:9/v1")
    with pytest.raises(SpecError, match=r"`limits.concurrency` must be at least 1, got 0"):
        runner.load_job(made.job_file, {"limits.concurrency": 0})
    with pytest.raises(SpecError, match="this folder is not a run"):
        runner.read_results(tmp_path)
    with pytest.raises(AttributeError, match="has no attribute 'run_jobs'"):
        _ = runner.run_jobs


def test_importing_the_package_loads_nothing_heavy_and_the_schema_no_sdk() -> None:
    code = (
        "import sys, runner\n"
        "print([name for name in ('openai', 'pyarrow', 'pydantic') if name in sys.modules])\n"
        "from runner.spec import job_schema\n"
        "print('batch_api' in str(job_schema()), 'openai' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "[]\nTrue False\n"


def test_the_display_in_a_notebook_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    from runner.clock import SystemClock
    from runner.progress import Console, Moment

    display = Console(notebook=True).open("job", SystemClock())
    display.show(Moment(1, 10, 0, 0, 8, 2.0, 100, 0.1, True, "waiting for answers", None))
    display.note("a note")
    display.show(Moment(10, 10, 0, 0, 0, 2.0, 100, 0.1, True, "waiting for answers", None))
    display.close()
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.startswith("\rjob: 1 / 10 rows")
    assert out.endswith("\r")
