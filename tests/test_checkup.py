"""`runner check`: how long ago a job succeeded, what counts as success, and the exit code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from hooks import hooks
from project import Project

from runner.checkup import as_json, check_jobs, text
from runner.cli import cli
from runner.errors import Exit, SpecError
from runner.freshness import last_success
from runner.manifest import Manifest, Session, encode_schema, utc_text

NOW_US = 1_800_000_000_000_000
HOUR_US = 3_600_000_000


def add(outputs: Path, job: str, run: str, hours_ago: float, failed: int = 0, **changes: Any) -> Path:
    """Leave a run of 100 rows that finished so long ago."""
    at = utc_text(NOW_US - round(hours_ago * HOUR_US))
    made = Manifest(
        run=run, job=job, status="finished", rehearsal="-rehearsal" in run, root="/", job_file="/job.yaml",
        overrides={}, spec={"model": "m", "output": {}}, input={"rows": 100, "files": []}, columns={},
        arrow_schema=encode_schema(pa.schema([])), copied_columns=[], sessions=[Session(at, at, "finished")],
        summary={"rows": 100, "ok": 100 - failed, "failed": failed},
    )  # fmt: skip
    for key, value in changes.items():
        setattr(made, key, value)
    folder = outputs / job / run
    folder.mkdir(parents=True)
    made.save(folder)
    return folder


def check(outputs: Path, *names: str, max_age: str | None = None) -> tuple[str, Exit]:
    checked, code = check_jobs(names, max_age, outputs, NOW_US)
    return text(checked), code


def test_a_line_for_each_job_and_3_where_one_is_late(tmp_path: Path) -> None:
    add(tmp_path, "daily", "20270115T0200", 3.2)
    add(tmp_path, "other", "20270113T0200", 30)
    add(tmp_path, "other", "20270114T0200", 6, status="stopped", stopped_by={"kind": "bad_key"})
    add(tmp_path, "tried", "20270114T0200-rehearsal", 6)
    assert check(tmp_path) == (
        "ok    daily: last success 3 h 12 min ago (20270115T0200)\n"
        "LATE  other: last success 1 d 6 h ago, more than 26h (20270113T0200); the newest run: stopped (bad_key)",
        Exit.SOME_FAILED,
    )
    assert check(tmp_path, "daily")[1] is Exit.OK
    assert check(tmp_path, max_age="2d")[1] is Exit.OK
    assert check(tmp_path, "daily", max_age="3h")[1] is Exit.SOME_FAILED
    assert check(tmp_path, "tried") == ("LATE  tried: no success yet", Exit.SOME_FAILED)


def test_the_job_says_how_old_is_too_old(tmp_path: Path) -> None:
    add(tmp_path, "weekly", "20270110T0200", 150, spec={"model": "m", "output": {}, "notify": {"late_after": "8d"}})
    assert check(tmp_path)[1] is Exit.OK
    assert check(tmp_path, max_age="26h")[1] is Exit.SOME_FAILED


@pytest.mark.parametrize(
    ("failed", "notify", "code"),
    [(5, None, Exit.OK), (6, None, Exit.SOME_FAILED), (6, {"max_error_rate": 0.1}, Exit.OK),
     (1, {"max_error_rate": 0.0}, Exit.SOME_FAILED)],
)  # fmt: skip
def test_a_success_may_have_a_few_failed_rows(
    tmp_path: Path, failed: int, notify: dict[str, Any] | None, code: Exit
) -> None:
    add(tmp_path, "job", "r", 1, failed, spec={"model": "m", "output": {}, "notify": notify})
    assert check(tmp_path)[1] is code


def test_an_empty_input_is_a_success(tmp_path: Path) -> None:
    add(tmp_path, "job", "r", 1, summary={"rows": 0, "ok": 0, "failed": 0})
    assert check(tmp_path)[1] is Exit.OK


def test_a_retry_does_not_make_an_old_run_young(tmp_path: Path) -> None:
    old, new = (utc_text(NOW_US - hours * HOUR_US) for hours in (50, 1))
    sessions = [Session(old, old, "insufficient_quota"), Session(old, old, "finished"), Session(new, new, "finished")]
    add(tmp_path, "job", "r", 0, sessions=sessions)
    assert check(tmp_path)[1] is Exit.SOME_FAILED


def test_the_youngest_success_counts_whichever_run_began_last(tmp_path: Path) -> None:
    folders = [add(tmp_path, "job", "r1", 1), add(tmp_path, "job", "r2", 9), tmp_path / "job" / "r3"]
    folders[-1].mkdir()
    (folders[-1] / "run.json").write_text("torn {")
    found = last_success(folders)
    assert found is not None
    assert (found.run, found.at_us) == ("r1", NOW_US - HOUR_US)
    assert check(tmp_path, max_age="30m")[0].endswith("; the newest run: unreadable")


def test_a_trial_is_no_success_of_the_job(tmp_path: Path) -> None:
    add(tmp_path, "job", "r1", 30)
    add(tmp_path, "job", "r2", 1, overrides={"input.limit": "20"})
    assert check(tmp_path)[1] == Exit.SOME_FAILED


def test_json_says_the_same(tmp_path: Path) -> None:
    add(tmp_path, "job", "r", 30)
    checked, _ = check_jobs((), None, tmp_path, NOW_US)
    assert json.loads(as_json(checked)) == [
        {"job": "job", "ok": False, "age_s": 108000.0, "max_age": "26h", "run": "r", "latest": "finished"}
    ]


def test_a_job_file_that_has_not_run_is_late_and_a_name_that_nobody_knows_is_a_mistake(tmp_path: Path) -> None:
    job = tmp_path / "nightly.yaml"
    job.write_text("model: m\n")
    assert check(tmp_path / "outputs", str(job)) == ("LATE  nightly: no success yet", Exit.SOME_FAILED)
    with pytest.raises(SpecError, match="there is no run or job `nihgtly`"):
        check(tmp_path, "nihgtly")
    with pytest.raises(SpecError, match="there are no runs yet"):
        check(tmp_path)
    with pytest.raises(SpecError, match='--max-age must be a time span such as 26h or 8d, got "26"'):
        check(tmp_path, max_age="26")


def test_the_command_tells_those_who_asked_for_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with hooks() as hook:
        project = Project(tmp_path / "p", notify={"to": [{"url_env": "ALERT_URL", "on": ["late"]}]})
        outputs = project.folder / "outputs"
        add(outputs, "job", "20200101T0200", 24 * 365 * 10, job_file=str(project.job_file))
        with patch.dict(os.environ, {"ALERT_URL": f"{hook.url}/x"}):
            for arguments in (["--json"], ["--json", "--tell"], ["--json", "--tell"]):
                assert cli.main(["check", "job", "--output", str(outputs), *arguments], standalone_mode=False) == 3
                assert json.loads(capsys.readouterr().out)[0]["run"] == "20200101T0200"
        assert [(each["event"], each["job"], each["run"]) for each in hook.messages] == [
            ("late", "job", "20200101T0200")
        ]
    project.job_file.write_text("")
    assert cli.main(["check", "--output", str(outputs), "--tell"], standalone_mode=False) == 3
    assert capsys.readouterr().err == "warning: nobody was told of job: the job file is empty\n"
