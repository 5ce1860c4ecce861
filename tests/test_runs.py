"""How a person refers to a run, and from where."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from project import Project, simulator

from runner.runs import find

Make = Callable[..., Project]


def test_a_run_is_found_by_its_folder_and_by_its_jobs_name_file_and_folder(
    project: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = project(rows=2, name="mine")
    here.run("-q")
    here.run("-q")
    here.job.pop("name")
    here.change()  # its name is now that of its file
    time.sleep(1 - time.time() % 1)  # the names of runs tell seconds
    here.run("-q", "--set", "name=elsewhere")
    outputs, job_file = here.folder / "outputs", here.job_file
    older, newest = sorted((outputs / "mine").glob("*-rehearsal*"))
    [other] = (outputs / "elsewhere").glob("*-rehearsal")

    monkeypatch.chdir(here.folder)
    assert find(None, None) == other
    for name in ("mine", "mine.yaml", "outputs/mine", "outputs/mine/latest"):
        assert find(name, None) == newest
    assert find(f"mine/{older.name}", None) == find(str(older), None) == older

    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    assert find("mine", outputs) == find(str(outputs / "mine"), None) == newest
    assert find(str(job_file), None) == other, "the newest that was made from it"
    job_file.write_text("{", encoding="utf-8")
    assert find(str(job_file), None) == other, "though it cannot be read now"
    here.change(name="mine")
    assert find(str(job_file), None) == find(str(job_file), outputs) == newest
    here.folder = away
    assert here.runner("export", job_file).stdout.count("\n") == 3
    for command in ("resume", "retry"):
        assert f"every row of {newest.name} has a result" in here.runner(command, job_file).stdout
    assert str(newest) in here.runner("show", job_file).stdout
    listed = json.loads(here.runner("runs", job_file, "--json").stdout)
    assert [row["run"] for row in listed] == [str(older), str(newest)]


def test_a_job_that_has_no_runs(project: Make) -> None:
    here = project(rows=1)
    for command in ("show", "runs"):
        done = here.runner(command, here.job_file, exits=2)
        assert done.error.startswith("error: there is no run of job.yaml yet\n")
        assert "hint: start one with `runner run job.yaml`" in done.error
        assert "hint: there are no runs yet" in here.runner(command, "nope", exits=2).error
    assert here.runner("runs").stdout == "no runs yet: start one with `runner run JOB`\n"
    here.run("-q")
    for command in ("show", "runs"):
        done = here.runner(command, "jbo", exits=2)
        assert done.error.startswith("error: there is no run or job `jbo`\n")
        assert "hint: did you mean `job`? jobs with runs: job" in done.error


def test_a_rehearsal_does_not_take_latest_from_a_real_run(project: Make) -> None:
    with simulator() as server:
        here = project(server.base_url, rows=3)
        here.work()
        real = here.latest
        here.run("--rehearse", "--quiet")
        assert here.latest == real
        here.work()
        assert here.latest != real
