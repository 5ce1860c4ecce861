"""What other schedulers are told: every format by its documentation, what it cannot express, and the real tools."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from project import Project

from runner.cli import cli
from runner.errors import Exit
from runner.load import load_job
from runner.problems import SpecErrors
from runner.schedule.cron import read_cron
from runner.schedule.export import FORMATS, IMAGE, schedule_of
from runner.schedule.systemd import on_calendar
from runner.schedule.target import Exported, Target
from runner.schedule.upcoming import upcoming

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PROGRAM = ("/opt/runner/bin/runner",)


@pytest.fixture
def made(tmp_path: Path) -> Project:
    return Project(tmp_path / "project", "https://llm.example/v1")


def export(made: Project, name: str, cron: str = "30 2 * * *", **schedule: Any) -> Exported:
    made.change(schedule={"cron": cron, "timezone": "Europe/Berlin", **schedule})
    job = load_job(made.job_file)
    return FORMATS[name](Target(job, schedule_of(job), PROGRAM, IMAGE, NOW))


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


# systemd --------------------------------------------------------------------------------------------------------------


def test_systemd_units(made: Project) -> None:
    files = export(made, "systemd", grace="2h", jitter="5m").files
    assert list(files) == ["job.service", "job.timer"]
    assert lines(files["job.timer"]) == [
        "[Unit]",
        "Description=When the job job runs",
        "[Timer]",
        "OnCalendar=*-*-* 02:30:00 Europe/Berlin",
        "Persistent=true",
        "RandomizedDelaySec=300",
        "AccuracySec=1s",
        "[Install]",
        "WantedBy=timers.target",
    ]
    assert lines(files["job.service"]) == [
        "[Unit]",
        "Description=Run the job job",
        "Wants=network-online.target",
        "After=network-online.target",
        "[Service]",
        "Type=oneshot",
        f"WorkingDirectory={made.folder}",
        "EnvironmentFile=%E/runner/job.env",
        "ExecStart=/opt/runner/bin/runner run job.yaml --scheduled",
        "SuccessExitStatus=3 5",
        "TimeoutStopSec=10min",
        "TimeoutStartSec=infinity",
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_the_addresses_of_alerts_are_among_the_keys(made: Project, name: str) -> None:
    to = [{"url": "${ALERT_URL}"}, {"url": "mailto://${MAIL}:${ALERT_URL}@llm.example"}]
    made.change(notify={"to": to, "ping": "https://llm.example/${PING}"})
    exported = export(made, name, "0 4 * * *")
    assert any("TEST_KEY, ALERT_URL, MAIL, PING" in note for note in exported.notes)
    if name in ("github-actions", "kubernetes"):
        [file] = exported.files.values()
        assert all(re.search(rf"^ +(- name: |){key}\b", file, re.M) for key in ("ALERT_URL", "MAIL", "PING"))


def test_a_path_with_signs_that_mean_something_to_systemd(tmp_path: Path) -> None:
    made = Project(tmp_path / 'a "b" 100% $c')
    made.change(schedule="0 2 * * *")
    service = export(made, "systemd").files["job.service"]
    escaped = str(made.folder).replace("%", "%%")
    assert f"WorkingDirectory={escaped}\n" in service
    assert "EnvironmentFile" not in service  # the simulator needs no key
    made.job_file.rename(made.folder / "the $job.yaml")
    job = load_job(made.folder / "the $job.yaml")
    service = FORMATS["systemd"](Target(job, schedule_of(job), PROGRAM, IMAGE, NOW)).files["job.service"]
    assert 'ExecStart=/opt/runner/bin/runner run "the $$job.yaml" --scheduled\n' in service


@pytest.mark.parametrize(
    ("cron", "calendar"),
    [
        ("30 2 * * *", ["*-*-* 02:30:00"]),
        ("*/15 * * * *", ["*-*-* *:00,15,30,45:00"]),
        ("* 9-17 * * 1-5", ["Mon,Tue,Wed,Thu,Fri *-*-* 09..17:*:00"]),
        ("0 2 1,15 1-6 *", ["*-01..06-01,15 02:00:00"]),
        ("0 2 1 * 1", ["*-*-01 02:00:00", "Mon *-*-* 02:00:00"]),  # either: two times
        ("0 2 */10 * 1", ["Mon *-*-01,11,21,31 02:00:00"]),  # both
        ("0 2 L * *", ["*-*~01 02:00:00"]),
        ("0 2 1,L 2 *", ["*-02-01 02:00:00", "*-02~01 02:00:00"]),
        ("0 2 * * 5L", ["Fri *-*~07/1 02:00:00"]),
        ("0 2 * * 7,3#2", ["Sun *-*-* 02:00:00", "Wed *-*-08..14 02:00:00"]),
        ("0 2 */2 * 1#2", None),
    ],
)
def test_cron_lines_as_systemd_writes_them(cron: str, calendar: list[str] | None) -> None:
    assert on_calendar(read_cron(cron)) == calendar


LINES = ("30 2 * * *", "*/15 * * * *", "*/7 8-18/3 * * 1-5", "0 2 1,15 1-6 *", "0 2 1 * 1", "0 2 */10 * 1", "0 2 L * *",
         "0 2 1,L 2 *", "0 2 * * 5L", "0 2 * * 7,3#2", "0 2 * * MON#5", "0 0 29 2 *", "5 4 31 * 6,0")  # fmt: skip


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_reads_the_same_moments() -> None:
    """Those of systemd-analyze, in a zone without changes of the clock."""
    zone, count = "Asia/Kathmandu", 12
    for line in LINES:
        cron = read_cron(line)
        found = on_calendar(cron)
        assert found is not None
        command = ["systemd-analyze", "calendar", f"--iterations={count}", f"--base-time={NOW:%Y-%m-%d %H:%M:%S} UTC"]
        done = subprocess.run([*command, *(f"{each} {zone}" for each in found)], capture_output=True, text=True,
                              env={**os.environ, "TZ": "UTC"}, check=False)  # fmt: skip
        if "base-time" in done.stderr:
            pytest.skip("this systemd is too old")
        assert done.returncode == 0, done.stderr
        shown = re.findall(r"(?:Next elapse|Iter\. #\d+|Iteration #\d+): \w+ (\S+ \S+) UTC", done.stdout)
        ours = [f"{at:%Y-%m-%d %H:%M:%S}" for at in islice(cron.after(NOW, ZoneInfo(zone)), count)]
        assert sorted(set(shown))[:count] == ours, line


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_takes_the_units(made: Project, tmp_path: Path) -> None:
    made.change(schedule={"cron": "0 2 1 * 1", "timezone": "Europe/Berlin", "jitter": "90s"})
    job = load_job(made.job_file)
    for name, text in FORMATS["systemd"](Target(job, schedule_of(job), ("/bin/true",), IMAGE, NOW)).files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / "job.service", tmp_path / "job.timer"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def service_unit() -> str:
    """Return the unit of the service as the page has it."""
    page = (Path(__file__).parents[1] / "docs" / "schedule.md").read_text("utf-8")
    [unit] = re.findall(r"```ini\n(.*?)```", page, re.S)
    return str(unit)


def test_the_service_alone_is_told_to_stop() -> None:
    """A run that is told twice, by the service and by systemd, may end at once."""
    said = lines(service_unit())
    assert {"KillMode=mixed", "TimeoutStopSec=10min", "Restart=on-failure"} <= set(said)
    assert f"RestartPreventExitStatus={Exit.USAGE} {Exit.LOCKED}" in said
    [command] = [line for line in said if line.startswith("ExecStart=")]
    assert command.endswith("/bin/runner serve")
    assert "serve" in cli.commands


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_takes_the_unit_of_the_service(tmp_path: Path) -> None:
    unit = tmp_path / "runner.service"
    command = ["systemd-analyze", "verify", unit]
    unit.write_text(re.sub(r"(?m)^(ExecStart=)\S+", r"\1/bin/true", service_unit()), encoding="utf-8")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    unit.write_text(unit.read_text("utf-8").replace("KillMode=", "KilMode="), encoding="utf-8")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "'KilMode'" in done.stderr, "it looks"


# cron -----------------------------------------------------------------------------------------------------------------


def test_a_crontab(made: Project, zone: Any) -> None:
    zone("UTC")
    [(name, text)] = export(made, "cron").files.items()
    assert name == "job.crontab"
    assert lines(text) == [
        "CRON_TZ=Europe/Berlin",
        f"30 2 * * * cd {made.folder} && set -a && . \"$HOME/.config/runner/job.env\" && set +a && "
        "/opt/runner/bin/runner run job.yaml --scheduled --quiet",
    ]  # fmt: skip
    zone("Europe/Berlin")
    assert lines(export(made, "cron").files[name])[0].startswith("30 2 * * * cd ")


def test_a_percent_sign_in_a_crontab_is_no_line_end(tmp_path: Path) -> None:
    made = Project(tmp_path / "100%")
    [text] = export(made, "cron").files.values()
    assert r"/100\%' &&" in text or r"/100\% &&" in text


@pytest.mark.parametrize(
    ("cron", "written"),
    [
        ("*/15 8-18/2 * jan-mar mon-fri", "*/15 8,10,12,14,16,18 * 1-3 1-5"),
        ("5/20 2 * * 7", "5,25,45 2 * * 0"),
        ("0 2 1-31 * 1", "0 2 1-31 * 1"),  # it must not become `*`, which would ask for both days
    ],
)
def test_lines_are_written_as_every_cron_reads_them(made: Project, cron: str, written: str) -> None:
    [text] = export(made, "cron", cron).files.values()
    assert lines(text)[-1].startswith(f"{written} cd ")
    assert read_cron(written).minutes == read_cron(cron).minutes
    assert read_cron(written).weekdays == read_cron(cron).weekdays


def crontab_check(path: Path) -> bool:
    """Whether the `crontab` of this machine reads a file; it changes nothing."""
    done = subprocess.run(["crontab", "-n", path], capture_output=True, text=True, check=False)
    if "invalid option" in done.stderr or "unrecognized" in done.stderr:
        pytest.skip("this crontab cannot check a file without installing it")
    return done.returncode == 0


@pytest.mark.skipif(shutil.which("crontab") is None, reason="cron is not here")
def test_cron_takes_the_lines(made: Project, tmp_path: Path) -> None:
    path = tmp_path / "crontab"
    for line in ("30 2 * * *", "*/15 8-18/2 * jan-mar mon-fri", "5/20 2 * * 7", "0 2 1-31 * 1"):
        [text] = export(made, "cron", line).files.values()
        path.write_text(text, encoding="utf-8")
        assert crontab_check(path), line
    path.write_text(text.replace("0 2 ", "0 25 "), encoding="utf-8")
    assert not crontab_check(path), "it looks"


# GitHub Actions -------------------------------------------------------------------------------------------------------


def test_a_workflow(made: Project) -> None:
    [(name, text)] = export(made, "github-actions").files.items()
    found = yaml.load(text, Loader=yaml.BaseLoader)  # to YAML 1.1 `on` is true
    assert name == "job.yml"
    assert found["on"] == {"schedule": [{"cron": "30 2 * * *", "timezone": "Europe/Berlin"}], "workflow_dispatch": {}}
    assert found["concurrency"] == {"group": "runner-job", "cancel-in-progress": "false"}
    steps = found["jobs"]["run"]["steps"]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    [run] = [step for step in steps if step.get("name") == "Run"]
    assert "runner run job.yaml --scheduled || code=$?\n" in run["run"]
    assert run["env"] == {"TEST_KEY": "${{ secrets.TEST_KEY }}"}
    assert "install llm-batch-runner\n" in text
    cancelling = yaml.safe_load(next(iter(export(made, "github-actions", overlap="cancel").files.values())))
    assert cancelling["concurrency"]["cancel-in-progress"] is True


def test_the_shell_of_a_workflow_takes_some_failed_rows_for_a_warning(made: Project, tmp_path: Path) -> None:
    [text] = export(made, "github-actions").files.values()
    [script] = [step["run"] for step in yaml.safe_load(text)["jobs"]["run"]["steps"] if step.get("name") == "Run"]
    assert [_exit(script, code, tmp_path) for code in (0, 3, 4, 130)] == [0, 0, 4, 130]


def _exit(script: str, code: int, folder: Path) -> int:
    """The exit code of a script in which `runner` ends with this one."""
    stand_in = folder / "runner"
    stand_in.write_text(f"#!/bin/sh\nexit {code}\n", encoding="utf-8")
    stand_in.chmod(0o755)
    environ = {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(["/bin/sh", "-ec", script], env=environ, capture_output=True, check=False).returncode


# Kubernetes -----------------------------------------------------------------------------------------------------------


def cron_job(exported: Exported) -> dict[str, Any]:
    [text] = exported.files.values()
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_a_cron_job(made: Project) -> None:
    found = cron_job(export(made, "kubernetes", grace="2h"))
    assert (found["apiVersion"], found["kind"], found["metadata"]["name"]) == ("batch/v1", "CronJob", "job")
    spec = found["spec"]
    template = spec.pop("jobTemplate")["spec"]
    assert spec == {
        "schedule": "30 2 * * *",
        "timeZone": "Europe/Berlin",
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 7200,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 3,
    }
    assert template["backoffLimit"] == 0
    pod = template["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    [container] = pod["containers"]
    assert container["image"] == "llm-batch-runner:latest"
    assert container["command"] == ["/bin/sh", "-c"]
    assert container["args"][0].startswith("runner run job.yaml --scheduled &\n")
    key = {"secretKeyRef": {"name": "job-keys", "key": "TEST_KEY"}}
    assert container["env"] == [{"name": "TEST_KEY", "valueFrom": key}]
    assert [volume["name"] for volume in pod["volumes"]] == [mount["name"] for mount in container["volumeMounts"]]


@pytest.mark.parametrize(
    ("schedule", "key", "value"),
    [
        ({"overlap": "cancel"}, "concurrencyPolicy", "Replace"),
        ({"overlap": "queue"}, "concurrencyPolicy", "Forbid"),
        ({"catch_up": "none"}, "startingDeadlineSeconds", 60),
        ({"grace": "3s"}, "startingDeadlineSeconds", 10),
        ({}, "startingDeadlineSeconds", None),
        ({"enabled": False}, "suspend", True),
        ({"cron": "0 2 * * 7"}, "schedule", "0 2 * * 0"),
    ],
)
def test_keys_of_the_schedule_as_kubernetes_has_them(
    made: Project, schedule: dict[str, Any], key: str, value: object
) -> None:
    assert cron_job(export(made, "kubernetes", **schedule))["spec"].get(key) == value


def test_a_name_that_kubernetes_does_not_take(made: Project) -> None:
    made.change(name="My_Nightly.Job-" + "x" * 60)
    name = cron_job(export(made, "kubernetes"))["metadata"]["name"]
    assert name == "my-nightly-job-" + "x" * 37
    assert len(name) == 52


def test_the_shell_of_a_pod_takes_some_failed_rows_for_success(made: Project, tmp_path: Path) -> None:
    pod = cron_job(export(made, "kubernetes"))["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    script = pod["containers"][0]["args"][0]
    assert [_exit(script, code, tmp_path) for code in (0, 3, 4)] == [0, 0, 4]


# The published schemas ------------------------------------------------------------------------------------------------

VARIANTS: list[dict[str, Any]] = [
    {},
    {"cron": "*/15 8-18/2 1,15 * mon", "grace": "2h", "jitter": "5m", "overlap": "queue"},
    {"catch_up": "none", "overlap": "cancel", "timezone": "UTC"},
]


@pytest.mark.skipif(shutil.which("check-jsonschema") is None, reason="check-jsonschema is not installed")
def test_workflows_fit_the_published_schema(made: Project, tmp_path: Path) -> None:
    for number, schedule in enumerate(VARIANTS):
        [text] = export(made, "github-actions", **schedule).files.values()
        path = tmp_path / f"{number}.yml"
        path.write_text(text, encoding="utf-8")
        command = ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", path]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(shutil.which("kubernetes-validate") is None, reason="kubernetes-validate is not installed")
def test_cron_jobs_fit_the_published_schema(made: Project, tmp_path: Path) -> None:
    for number, schedule in enumerate([*VARIANTS, {"enabled": False}]):
        [text] = export(made, "kubernetes", **schedule).files.values()
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        command = ["kubernetes-validate", "--strict", path]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


# What cannot be expressed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "schedule", "message", "hint"),
    [
        (
            "systemd", {"cron": "0 2 LW * *"},
            "`0 2 LW * *` cannot be expressed: systemd knows no last weekday of a month",
            "`L` is the last day, and 5L the last Friday",
        ),
        (
            "systemd", {"cron": "0 2 */2 * 1#2"},
            "`0 2 */2 * 1#2` cannot be expressed: systemd cannot ask for both of these days", "leave one of them `*`",
        ),
        (
            "systemd", {"overlap": "queue"},
            "`overlap: queue` cannot be expressed: a timer does nothing while its service runs",
            "`skip`, or `--format kubernetes`",
        ),
        (
            "systemd", {"catch_up": "all"},
            "`catch_up: all` cannot be expressed: systemd does not run every moment that was missed",
            "`latest` or `none`",
        ),
        ("systemd", {"enabled": False}, "the schedule is disabled", "set `enabled: true` to export it"),
        (
            "cron", {"cron": "0 2 L * *"}, "`0 2 L * *` cannot be expressed: cron knows no `L`, `W` or `#`",
            "name days of the month, such as 28, or use `--format systemd`",
        ),
        (
            "cron", {"overlap": "cancel"},
            "`overlap: cancel` cannot be expressed: under cron a run that finds another one ends",
            "`skip`, or `--format kubernetes`",
        ),
        (
            "github-actions", {"cron": "*/3 * * * *"},
            "`*/3 * * * *` cannot be expressed: GitHub starts a workflow every 5 minutes at most",
            "for example `*/5 * * * *`",
        ),
        (
            "kubernetes", {"cron": "0 2 */2 * 1"},
            "`0 2 */2 * 1` cannot be expressed: Kubernetes runs when either day fits, and it asks for both",
            "begin neither day with `*`, or use `--format systemd`",
        ),
    ],
)  # fmt: skip
def test_what_a_format_cannot_express_is_refused_at_its_place(
    made: Project, name: str, schedule: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(SpecErrors) as caught:
        export(made, name, **schedule)
    [problem] = caught.value.problems
    assert (problem.message, problem.hint) == (message, hint)
    [key] = schedule
    assert (problem.excerpt or "").strip().startswith(f"{key}: ")


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_different_there_is_said_in_the_file_too(made: Project, name: str) -> None:
    exported = export(made, name)
    assert exported.notes
    for text in exported.files.values():
        head = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))
        assert all(note in head for note in exported.notes)
        assert made.environ["TEST_KEY"] not in text


def test_changes_of_the_clock_are_foretold_where_the_scheduler_takes_them_otherwise(made: Project) -> None:
    skipped = "leaves out a time that the clock skips: nothing runs for it, next on 2027-03-28."
    assert f"systemd {skipped}" in export(made, "systemd").notes
    assert f"Kubernetes {skipped}" in export(made, "kubernetes").notes
    twice = "Kubernetes runs twice where the clock shows a time twice, next on 2027-10-31."
    assert twice in export(made, "kubernetes").notes
    for name in FORMATS:
        assert not any("clock" in note for note in export(made, name, "0 5 * * *").notes if "CRON_TZ" not in note)


# The commands ---------------------------------------------------------------------------------------------------------


class At:
    """A clock that stands still."""

    def now_us(self) -> int:
        return round(NOW.timestamp() * 1e6)

    def steady_s(self) -> float:
        return 0.0


def command(made: Project, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.chdir(made.folder)
    code: int = cli.main(["schedule", *arguments], standalone_mode=False)
    return code


def test_next_shows_the_jobs_that_have_a_schedule(
    made: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made.folder / "jobs"
    folder.mkdir()
    for name, schedule in (
        ("a", None),
        ("b", "0 0 29 2 *"),
        ("c", {"cron": "0 12 29 2 *", "enabled": False, "jitter": "2m"}),
    ):
        zone = {"timezone": "Europe/Berlin"}
        full = {"cron": schedule, **zone} if isinstance(schedule, str) else {**(schedule or {}), **zone}
        job = {**made.job, "name": name, **({"schedule": full} if schedule else {})}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    monkeypatch.chdir(made.folder)
    found, problems = upcoming([], 2, At())
    assert problems == []
    assert "\n\n".join(each.text() for each in found) == (
        "b (jobs/b.yaml): 0 0 29 2 *, Europe/Berlin\n"
        "  Tue 2028-02-29 00:00 CET    2028-02-28 23:00 UTC  in 464 d 11 h\n"
        "  Sun 2032-02-29 00:00 CET    2032-02-28 23:00 UTC  in 1925 d 11 h\n"
        "\n"
        "c (jobs/c.yaml): 0 12 29 2 *, Europe/Berlin; disabled, nothing will run\n"
        "  Tue 2028-02-29 12:00 CET    2028-02-29 11:00 UTC  in 464 d 23 h, begins 12:01:47\n"
        "  Sun 2032-02-29 12:00 CET    2032-02-29 11:00 UTC  in 1925 d 23 h, begins 12:01:52\n"
    ).removesuffix("\n")
    assert command(made, monkeypatch, "next", "jobs/b.yaml", "--count", "1", "--json") == 0
    [shown] = json.loads(capsys.readouterr().out)
    assert (shown["job"], shown["cron"], shown["timezone"], shown["enabled"]) == (
        "b", "0 0 29 2 *", "Europe/Berlin", True,
    )  # fmt: skip
    assert [sorted(each) for each in shown["next"]] == [["begins", "in_s", "local", "moment"]]


def test_a_job_that_cannot_be_loaded_does_not_hide_the_others(made: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (made.folder / "jobs").mkdir()
    for name, schedule in (("good", "0 2 * * *"), ("wrong", "0 25 * * *")):
        job = {**made.job, "name": name, "schedule": schedule}
        (made.folder / "jobs" / f"{name}.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    monkeypatch.chdir(made.folder)
    found, problems = upcoming([], 1, At())
    assert [each.job.spec.name for each in found] == ["good"]
    assert [problem.place for problem in problems] == ["jobs/wrong.yaml"]


def test_next_of_a_job_without_a_schedule(made: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecErrors) as caught:
        command(made, monkeypatch, "next", "job.yaml")
    [problem] = caught.value.problems
    assert (problem.message, problem.hint) == ("the job has no schedule", 'add one, such as `schedule: "0 2 * * *"`')


def test_next_without_any_schedule(
    made: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(made, monkeypatch, "next") == 0
    assert capsys.readouterr().out == 'no job in jobs/ has a schedule: add one, such as `schedule: "0 2 * * *"`\n'


def test_export_writes_the_files(
    made: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made.change(schedule="0 2 * * *")
    assert command(made, monkeypatch, "export", "job.yaml", "--format", "systemd", "--output", "units") == 0
    shown = capsys.readouterr()
    assert shown.out == "units/job.service\nunits/job.timer\n"
    assert "next: copy both to ~/.config/systemd/user/, then: systemctl --user enable --now job.timer\n" in shown.err
    assert command(made, monkeypatch, "export", "job.yaml", "--format", "systemd") == 0
    service, timer = ((made.folder / "units" / name).read_text("utf-8") for name in ("job.service", "job.timer"))
    assert capsys.readouterr().out == f"# job.service\n{service}\n# job.timer\n{timer}"


# runner run --scheduled -----------------------------------------------------------------------------------------------


def test_a_scheduled_run_is_marked_and_reuses_answers(tmp_path: Path) -> None:
    made = Project(tmp_path / "project")
    made.rows(5)
    made.work()
    assert not made.manifest()["scheduled"]

    def scheduled() -> dict[str, Any]:
        assert cli.main(["run", str(made.job_file), "--scheduled", "--quiet"], standalone_mode=False) == 0
        return made.manifest()

    manifest = scheduled()
    assert (manifest["scheduled"], manifest["spec"]["reuse"]) == (True, True)
    assert manifest["summary"]["saved"]["reused_rows"] == 5
    made.change(reuse=False)
    manifest = scheduled()
    assert (manifest["scheduled"], manifest["spec"]["reuse"]) == (True, False)
