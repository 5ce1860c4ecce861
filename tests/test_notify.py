"""Alerts: who is told what and when, what it says, that nothing secret gets anywhere, and that no run suffers."""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hooks import Hooks, hooks
from project import Project

from runner.errors import Exit, InputError, LockedError, SpecError
from runner.execution import Outcome
from runner.load import Job, load_job
from runner.manifest import Manifest, Session, encode_schema, utc_text
from runner.notify import message, sending
from runner.notify.sending import Message, NotSentError, Round
from runner.notify.state import JobState, held, look
from runner.notify.watch import Watch, tell_if_late, tell_of_broken_file
from runner.notify_section import Target

SECRET = "T024BE7LDabcDEF123"
NOON_US = 1_800_000_000_000_000
HOUR_US = 3_600_000_000


class Noon:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.us = NOON_US

    def now_us(self) -> int:
        return self.us

    def steady_s(self) -> float:
        return self.us / 1e6


@pytest.fixture
def hook() -> Iterator[Hooks]:
    with hooks() as found:
        yield found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(sending, "_WAITS_S", (0.0, 0.0))


# When -----------------------------------------------------------------------------------------------------------------


def told(target: Target, *states: str) -> list[str | None]:
    """What a target hears of runs after which the job is so."""
    known, heard = JobState(), list[str | None]()
    for state in states:
        known.turn(state, "now", "run")  # type: ignore[arg-type]
        heard.append(known.event_for(target))
        known.settle(target, delivered=True)
    return heard


def test_a_failure_is_told_once_until_the_job_is_well_again() -> None:
    target = Target(url_env="A")
    nights = ("ok", "failing", "failing", "failing", "ok", "ok", "failing", "ok")
    assert told(target, *nights) == [None, "failure", None, None, "recovered", None, "failure", "recovered"]


def test_another_kind_of_trouble_is_news_and_the_same_one_coming_back_is_not() -> None:
    target = Target(url_env="A", on=("failure", "recovered", "budget", "late"))
    nights = ("partial", "failing", "partial", "failing", "budget", "late", "failing", "late", "ok", "partial")
    heard = ["failure", "failure", None, None, "budget", "late", None, None, "recovered", "failure"]
    assert told(target, *nights) == heard


def test_only_what_was_asked_for_is_told() -> None:
    nights = ("ok", "budget", "failing", "late", "ok")
    assert told(Target(url_env="A", on=("success",)), *nights) == ["success", None, None, None, "success"]
    assert told(Target(url_env="A", on=("budget",)), *nights) == [None, "budget", None, None, None]
    assert told(Target(url_env="A", on=("late",)), *nights) == [None, None, None, "late", None]
    assert told(Target(url_env="A", on=("recovered",)), *nights) == [None, None, None, None, "recovered"]
    assert told(Target(url_env="A", on=("failure", "success")), "failing", "ok", "ok") == ["failure", *["success"] * 2]


def test_who_does_not_ask_for_budget_hears_of_it_as_a_failure() -> None:
    assert told(Target(url_env="A", on=("failure",)), "budget", "budget") == ["failure", None]


def test_what_was_not_delivered_is_told_after_the_next_run() -> None:
    known, target = JobState(), Target(url_env="A")
    for delivered, heard in ((False, "failure"), (True, "failure"), (True, None)):
        known.turn("failing", "now", None)
        assert known.event_for(target) == heard
        known.settle(target, delivered=delivered)


def test_a_year_of_nights_is_told_once_for_each_change() -> None:
    draw = random.Random(7)
    nights = [draw.choices(("ok", "failing"), (9, 1))[0] for _ in range(365)]
    changes = [after for before, after in zip(["ok", *nights], nights, strict=False) if before != after]
    heard = [event for event in told(Target(url_env="A"), *nights) if event is not None]
    assert heard == ["failure" if change == "failing" else "recovered" for change in changes]


def test_the_state_is_kept_beside_the_runs_and_only_written_when_it_changes(tmp_path: Path) -> None:
    with held(tmp_path, rehearsal=False) as known:
        known.turn("failing", "2027-01-15T08:00:00.000Z", "r1")
        known.settle(Target(url_env="A"), delivered=True)
    path = tmp_path / "alerts.json"
    assert json.loads(path.read_text()) == {
        "state": "failing", "since": "2027-01-15T08:00:00.000Z", "run": "r1", "told": {"${A}": ["failing"]}
    }  # fmt: skip
    before = path.stat().st_mtime_ns, path.stat().st_ino
    with held(tmp_path, rehearsal=False) as known:
        assert known == look(tmp_path, rehearsal=False)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert look(tmp_path, rehearsal=True) == JobState()
    path.write_text("torn {")
    assert look(tmp_path, rehearsal=False) == JobState()


# What -----------------------------------------------------------------------------------------------------------------


def manifest(root: Path, run: str = "20270115T080000Z", **changes: Any) -> Manifest:
    import pyarrow as pa

    made = Manifest(
        run=run, job="job", status="finished", rehearsal=False, root=str(root), job_file=str(root / "job.yaml"),
        overrides={}, spec={"model": "m", "output": {}, "notify": None}, input={"rows": 100, "files": []}, columns={},
        arrow_schema=encode_schema(pa.schema([])), copied_columns=[],
        sessions=[Session(utc_text(NOON_US - 90_000_000), utc_text(NOON_US), "finished", wall_s=90.0)],
        summary={"rows": 100, "ok": 100, "failed": 0, "errors": {}, "cost_usd": 0.5, "cost_at_least_usd": 0.5,
                 "tokens": {"input": 900, "output": 100}},
    )  # fmt: skip
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def with_failed(made: Manifest, failed: int) -> Manifest:
    kinds = {"timeout": 4, "bad_request": 3, "refusal": 2, "truncated": 1}
    made.summary |= {
        "ok": made.summary["rows"] - failed,
        "failed": failed,
        "errors": {
            kind: {"rows": rows, "example_id": f"r{rows}", "example": f"{kind}!\nmore"} for kind, rows in kinds.items()
        },
    }
    return made


def test_a_message_says_what_happened_and_what_to_type(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "job" / "20270115T080000Z"
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(1000)))
    report = message.of_run(with_failed(manifest(tmp_path), 10), folder, log)
    assert report.subject("failure") == "FAILED: job: finished, 10 of 100 rows failed"
    assert report.body().startswith(
        "run       20270115T080000Z\n"
        "status    finished, 10 of 100 rows failed\n"
        "rows      90 ok, 10 failed\n"
        "cost      $0.5000\n"
        "time      1 min 30 s\n"
        "error     4 × timeout, row r4: timeout!\n"
        "error     3 × bad_request, row r3: bad_request!\n"
        "error     2 × refusal, row r2: refusal!\n"
        "          and 1 more kinds of errors\n"
        f"folder    {folder}\n"
        f"type      cd {tmp_path} && runner retry outputs/job/20270115T080000Z\n"
        "\n"
        "the last it said:\n"
        "  line 980\n"
    )
    assert report.body().endswith("  line 999")


def test_a_success_leaves_nothing_to_type(tmp_path: Path) -> None:
    report = message.of_run(manifest(tmp_path), tmp_path / "run", None)
    assert report.subject("success") == "OK: job: finished, all 100 rows ok"
    assert report.subject("recovered") == "RECOVERED: job: finished, all 100 rows ok"
    one = manifest(tmp_path, summary={"rows": 1, "ok": 1, "failed": 0})
    assert message.of_run(one, tmp_path, None).what == "finished, 1 row ok"
    assert report.command is None
    empty = manifest(tmp_path, summary={"rows": 0, "ok": 0, "failed": 0})
    assert message.of_run(empty, tmp_path, None).what == "finished, the input is empty"


@pytest.mark.parametrize(
    ("key", "cap", "enough"),
    [("max_usd", 0.5, "1.20"), ("max_usd", 5.0, "10.00"), ("max_tokens", 1000, "2400"), ("daily_usd", 1.0, "2.20")],
)
def test_a_budget_stop_says_how_much_would_be_enough(tmp_path: Path, key: str, cap: float, enough: str) -> None:
    """Half of the rows took $0.50 and 1,000 tokens."""
    made = manifest(tmp_path, status="stopped")
    made.input["rows"] = 200
    made.spec["budget"] = {key: cap}
    hint = f"raise it to go on: `runner resume --set budget.{key}=VALUE`"
    made.stopped_by = {"kind": "budget", "message": "the budget is reached", "hint": hint}
    report = message.of_run(made, tmp_path / "outputs" / "job" / "r", None)
    assert report.what == "stopped (budget): the budget is reached"
    assert ("rows", "100 ok, 0 failed, 100 still to do") in report.facts
    assert report.command == f"cd {tmp_path} && runner resume outputs/job/r --set budget.{key}={enough}"


def test_a_run_that_could_not_begin_says_why(tmp_path: Path) -> None:
    project = Project(tmp_path, notify={"to": [{"url_env": "A"}]})
    error = InputError("no rows", where="rows.jsonl", hint="add")
    report = message.of_no_run("job", project.job_file, tmp_path, error, None)
    assert report.subject("failure") == "FAILED: job: could not begin: no rows"
    assert "error     no rows\n            --> rows.jsonl\n          hint: add\n" in report.body()
    assert report.command == f"cd {tmp_path} && runner run job.yaml"
    bug = message.of_no_run("job", project.job_file, tmp_path, KeyError(SECRET), None)
    assert bug.what == "ended early: a bug in the runner: KeyError"


# Sending --------------------------------------------------------------------------------------------------------------

HELLO = Message("subject", "body", {"text": "subject\nbody"}, good=True)


def test_a_webhook_is_sent_json(hook: Hooks) -> None:
    sending.send(f"{hook.url}/hook?x=1", HELLO)
    assert hook.asked == [("POST", "/hook?x=1", {"text": "subject\nbody"})]


def test_a_server_in_trouble_is_asked_three_times(hook: Hooks, quick: None) -> None:
    hook.answers = [503, 429]
    sending.send(f"{hook.url}/{SECRET}", HELLO)
    assert len(hook.asked) == 3
    hook.answers = [500, 500, 500]
    with pytest.raises(NotSentError, match=r"^it answered HTTP 500$"):
        sending.send(f"{hook.url}/{SECRET}", HELLO)
    hook.answers = [404]
    with pytest.raises(NotSentError, match=r"^it answered HTTP 404$"):
        sending.send(f"{hook.url}/{SECRET}", HELLO)
    assert len(hook.asked) == 7


IMGHDR = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # a plug-in's affair


@IMGHDR
@pytest.mark.parametrize(
    ("address", "why"),
    [
        (f"http://127.0.0.1:1/{SECRET}", "it cannot be reached: connection refused"),
        (f"http://127.0.0.1:{SECRET}/", "it is no address that can be asked"),
        (f"nonsense://{SECRET}", "Apprise knows no such service, or the address lacks a part of it"),
        (f"jsons://127.0.0.1:1/{SECRET}", "JSON did not take it; `apprise -vv` shows why"),
    ],
)
def test_why_it_was_not_sent_holds_no_part_of_the_address(
    quick: None, capfd: pytest.CaptureFixture[str], address: str, why: str
) -> None:
    with pytest.raises(NotSentError) as caught:
        sending.send(address, HELLO)
    assert str(caught.value) == why
    assert capfd.readouterr() == ("", "")


@IMGHDR
def test_other_services_are_reached_through_apprise(hook: Hooks) -> None:
    sending.send(hook.url.replace("http://", "json://") + "/there", HELLO)
    [(method, path, content)] = hook.asked
    assert (method, path) == ("POST", "/there")
    assert (content["title"], content["message"], content["type"]) == ("subject", "body", "success")


def test_without_apprise_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(NotSentError) as caught:
        sending.send(f"slack://{SECRET}", HELLO)
    assert str(caught.value) == "this service needs the package apprise: pip install 'llm-batch-runner[alerts]'"


@pytest.mark.parametrize(
    ("base", "ending", "asked"),
    [
        ("/id", "", "/id"),
        ("/id", "/start", "/id/start"),
        ("/id/", "/fail", "/id/fail"),
        ("/id?a=b", "/fail", "/id/fail?a=b"),
    ],
)
def test_a_ping_has_an_ending(hook: Hooks, base: str, ending: str, asked: str) -> None:
    sending.ping(hook.url + base, ending)
    assert hook.asked == [("GET", asked, {})]


def test_nobody_waits_for_one_that_does_not_answer() -> None:
    sent, began = Round(), time.monotonic()
    sent.begin("slow", lambda: time.sleep(2))
    sent.begin("wrong", lambda: {}[SECRET])
    sent.begin("fine", lambda: None)
    assert sent.failures(0.05) == {"slow": "no answer in time", "wrong": "KeyError"}
    assert time.monotonic() - began < 1


# Watching a run -------------------------------------------------------------------------------------------------------


class Nights:
    """A job whose runs end as a test says, watched."""

    def __init__(self, folder: Path, notify: dict[str, Any], environ: dict[str, str]) -> None:
        project = Project(folder, notify=notify)
        self.job: Job = load_job(project.job_file, run_date=date(2027, 1, 15))
        self.base = folder / "outputs" / "job"
        self.base.mkdir(parents=True)
        self.environ = environ
        self.clock = Noon()
        self.said: list[str] = []
        self.count = 0

    def run(self, **changes: Any) -> Manifest:
        self.count += 1
        name = f"20270115T08{self.count:04}Z-rehearsal"
        failed = changes.pop("failed", 0)
        made = manifest(self.job.root, name, **changes)
        return self.end(with_failed(made, failed) if failed else made)

    def end(self, made: Manifest) -> Manifest:
        folder = self.base / made.run
        folder.mkdir(exist_ok=True)
        made.save(folder)
        watch = self.watch()
        watch.begin()
        watch.ended(Outcome(folder, made, Exit.OK))
        return Manifest.load(folder)

    def watch(self) -> Watch:
        return Watch(self.job, self.base, self.clock, self.environ, self.said.append)


Make = Callable[..., Nights]


@pytest.fixture
def nights(tmp_path: Path, hook: Hooks) -> Make:
    def make(rehearsals: bool = True, **notify: Any) -> Nights:
        if not notify:
            notify = {"to": [{"url": "${ALERT_URL}", "on": ["failure", "recovered", "budget", "late"]}]}
        environ = {"ALERT_URL": f"{hook.url}/{SECRET}", "PING_URL": f"{hook.url}/ping"}
        return Nights(tmp_path / "project", {**notify, "rehearsals": rehearsals}, environ)

    return make


STOPPED = {"status": "stopped", "stopped_by": {"kind": "bad_key", "message": "refused", "hint": None}}


def test_it_is_told_by_webhook_once_for_each_change(nights: Make, hook: Hooks) -> None:
    job = nights()
    job.run()
    job.run(**STOPPED)
    job.run(**STOPPED)
    job.run(failed=50)
    job.run(status="interrupted")
    job.run()
    found = hook.take()
    assert [(each["event"], each["state"], each["job"]) for each in found] == [
        ("failure", "failing", "job"), ("failure", "partial", "job"), ("recovered", "ok", "job")
    ]  # fmt: skip
    assert found[0]["subject"] == "FAILED: job: stopped (bad_key): refused"
    assert found[0]["text"] == f"{found[0]['subject']}\n```\n{found[0]['body']}\n```"
    assert (found[0]["ok"], found[0]["failed"], found[0]["cost_usd"], found[0]["stopped_by"]) == (
        100,
        0,
        0.5,
        "bad_key",
    )
    assert job.said == []


@pytest.mark.parametrize(("failed", "events"), [(5, []), (6, ["failure"])])
def test_a_few_failed_rows_wake_nobody(nights: Make, hook: Hooks, failed: int, events: list[str]) -> None:
    nights().run(failed=failed)
    assert [each["event"] for each in hook.take()] == events


def test_none_may_fail_where_the_job_says_so(nights: Make, hook: Hooks) -> None:
    job = nights(to=[{"url_env": "ALERT_URL"}], max_error_rate=0.0)
    made = manifest(job.job.root, "20270115T080001Z-rehearsal")
    made.spec["notify"] = {"max_error_rate": 0.0}
    job.end(with_failed(made, 1))
    assert [each["event"] for each in hook.take()] == ["failure"]


@pytest.mark.parametrize("changes", [{"status": "interrupted"}, {"status": "waiting"}])
def test_ctrl_c_and_batches_on_their_way_are_no_failure(nights: Make, hook: Hooks, changes: dict[str, Any]) -> None:
    nights().run(**changes)
    assert hook.asked == []


def test_an_old_run_that_is_mended_says_nothing_of_tonight(nights: Make, hook: Hooks) -> None:
    job = nights()
    old = job.run(**STOPPED)
    job.run(**STOPPED)
    hook.take()
    job.end(manifest(job.job.root, old.run))
    assert hook.take() == []
    assert look(job.base, rehearsal=True).state == "failing"


def test_a_run_that_cannot_begin_is_a_failure_and_one_that_is_locked_out_is_none(nights: Make, hook: Hooks) -> None:
    job = nights()
    job.watch().failed(LockedError("another run"))
    assert hook.take() == []
    job.watch().failed(InputError("no rows"))
    job.watch().failed(InputError("no rows"))
    [found] = hook.take()
    assert (found["event"], found["run"], found["status"]) == ("failure", None, "could not begin")


def test_rehearsals_tell_nobody_unless_they_are_asked_to(nights: Make, hook: Hooks) -> None:
    job = nights(rehearsals=False)
    job.run(**STOPPED)
    job.watch().failed(InputError("no rows"))
    assert hook.asked == []
    assert not list(job.base.glob("alerts*"))


def test_a_trial_tells_nobody(nights: Make, hook: Hooks) -> None:
    job = nights()
    job.job = replace(job.job, overrides={"input.limit": "20"})
    job.run(**STOPPED)
    assert hook.asked == []


def test_pings_frame_the_run(nights: Make, hook: Hooks) -> None:
    job = nights(ping="${PING_URL}")
    job.run()
    job.run(**STOPPED)
    job.run(status="interrupted")
    for _ in range(100):  # nobody waits for a start
        if len(hook.asked) == 5:
            break
        time.sleep(0.01)
    assert hook.paths == ["/ping/start", "/ping", "/ping/start", "/ping/fail", "/ping/start"]


def test_what_cannot_be_sent_is_a_warning_and_is_kept_without_the_address(
    nights: Make, hook: Hooks, quick: None
) -> None:
    job = nights()
    hook.answers = [404]
    made = job.run(**STOPPED)
    assert job.said == made.sessions[-1].warnings == ["notify.to[0] was not told: it answered HTTP 404"]
    job.run(**STOPPED)
    assert [each["event"] for each in hook.take()] == ["failure", "failure"]
    assert SECRET not in "".join(path.read_text() for path in job.base.rglob("*.json"))


def test_a_variable_that_is_not_set_is_said_at_once(nights: Make, hook: Hooks) -> None:
    job = nights()
    del job.environ["ALERT_URL"]
    made = job.run(**STOPPED)
    assert job.said == [
        "notify.to[0] will not be told: the environment variable ALERT_URL is not set",
        "notify.to[0] was not told: the environment variable ALERT_URL is not set",
    ]
    assert made.sessions[-1].warnings == job.said[1:]


def test_a_full_disk_does_not_keep_the_message_back(nights: Make, hook: Hooks) -> None:
    job = nights()
    made = manifest(job.job.root, "20270115T080001Z-rehearsal", **STOPPED)
    with patch("runner.notify.state.write_text", side_effect=OSError(28, "No space left on device")):
        job.end(made)
    assert [each["event"] for each in hook.take()] == ["failure"]
    assert job.said == ["what was told cannot be kept, and may be told again: No space left on device"]


def test_a_mistake_of_ours_does_not_fail_a_run(nights: Make) -> None:
    job = nights()
    job.run(**STOPPED, summary={"rows": "many"})
    assert job.said == ["nobody was told: TypeError"]


def test_a_job_file_that_cannot_be_read_as_a_job_is_told_as_far_as_it_says_whom(nights: Make, hook: Hooks) -> None:
    job = nights()
    text = job.job.path.read_text()
    job.job.path.write_text(text + "modle: gpt\n")
    options = (None, job.clock, job.environ, job.said.append)
    with pytest.raises(SpecError) as caught:
        load_job(job.job.path)
    tell_of_broken_file(job.job.path, caught.value, *options)
    tell_of_broken_file(job.job.path, caught.value, *options)
    [found] = hook.take()
    assert found["subject"] == "FAILED: job: could not begin: `modle` is not a known key"
    for worse in (text + "notify: {to: 3}\n", text.replace("notify:", "notifi:"), "- no: job", ""):
        job.job.path.write_text(worse)
        tell_of_broken_file(job.job.path, caught.value, *options)
    assert (hook.asked, job.said) == ([], [])


def test_lateness_is_told_once(nights: Make, hook: Hooks) -> None:
    job = nights()

    def look_again(**options: Any) -> bool:
        return tell_if_late(job.job, job.base, job.clock, job.environ, job.said.append, **options)

    assert not look_again()  # it never ran, and nobody expects it to have
    assert not look_again(since_us=NOON_US - HOUR_US)
    assert look_again(since_us=NOON_US - 27 * HOUR_US)
    assert [each["subject"] for each in hook.take()] == ["LATE: job: no success yet"]
    folder = job.base / "20270115T080001Z"
    folder.mkdir()
    manifest(job.job.root, folder.name).save(folder)
    job.clock.us = NOON_US + 25 * HOUR_US
    assert not look_again()
    with held(job.base, rehearsal=False) as known:
        known.turn("ok", "now", folder.name)
        known.settle(job.job.spec.notify.to[0], delivered=True)  # type: ignore[union-attr]
    assert look_again(allowed=timedelta(hours=24))
    job.clock.us = NOON_US + 30 * HOUR_US
    assert look_again()
    [found] = hook.take()
    assert found["subject"] == "LATE: job: no success for 1 d 1 h"
    assert "status    no success for 1 d 1 h; 24 h is allowed\nlast      20270115T080001Z\n" in found["body"]


# The whole way --------------------------------------------------------------------------------------------------------


def test_a_run_tells_how_it_ended_and_nothing_it_leaves_holds_the_address(
    project: Callable[..., Project], hook: Hooks, capfd: pytest.CaptureFixture[str]
) -> None:
    notify = {"to": [{"url": "${ALERT_URL}"}], "ping": "${PING_URL}", "rehearsals": True}
    made = project(rows=20, notify=notify)
    made.environ |= {"ALERT_URL": f"{hook.url}/{SECRET}", "PING_URL": f"{hook.url}/ping-{SECRET}"}
    rows = made.rows_file.read_text()
    made.rows_file.unlink()
    with pytest.raises(SpecError, match="there is no file"):
        made.work()
    [found] = hook.take()
    assert found["subject"].startswith("FAILED: job: could not begin: ")
    assert re.search(r"type +cd \S+ && runner run job.yaml", found["body"])
    hook.answers = [200, 404, 404]  # the start; ping and message, whichever comes first
    made.rows_file.write_text(rows)
    summary = made.work()
    assert (summary.status, summary.ok) == ("finished", 20)
    assert made.manifest()["sessions"][-1]["warnings"]
    summary = made.work()
    assert made.manifest()["sessions"][-1]["warnings"] == []
    assert [each["event"] for each in hook.take()] == ["recovered", "recovered"]
    made.assert_whole(20)
    left = [path.read_bytes() for path in (made.folder / "outputs").rglob("*") if path.is_file()]
    assert len(left) > 4
    assert not any(SECRET.encode() in content for content in left)
    assert SECRET not in str(capfd.readouterr())


def test_a_test_says_how_each_target_took_it(
    tmp_path: Path, hook: Hooks, capsys: pytest.CaptureFixture[str], quick: None
) -> None:
    from runner.cli import cli

    targets = [{"url": "${ALERT_URL}", "on": ["failure", "late"]}, {"url_env": "OTHER"}]
    made = Project(tmp_path, notify={"to": targets, "ping": "${PING_URL}"})
    made.environ |= {"ALERT_URL": f"{hook.url}/{SECRET}", "PING_URL": f"{hook.url}/ping"}
    with patch.dict(os.environ, made.environ):
        assert cli.main(["notify", str(made.job_file), "--test"], standalone_mode=False) == Exit.SOME_FAILED
        assert capsys.readouterr().out == (
            "notify.to[0]  sent\nnotify.to[1]  FAILED: the environment variable OTHER is not set\nnotify.ping  sent\n"
        )
        os.environ["OTHER"] = f"{hook.url}/other"
        assert cli.main(["notify", str(made.job_file), "--test"], standalone_mode=False) == Exit.OK
        assert {each["subject"] for each in hook.take()} == {"TEST: job: a test message"}
        capsys.readouterr()
        assert cli.main(["notify", str(made.job_file)], standalone_mode=False) == Exit.OK
        assert capsys.readouterr().out == (
            "job: ok, no run was told yet\n"
            "  notify.to[0]  on failure, late\n"
            "  notify.to[1]  on failure, recovered\n"
            "  notify.ping  on every run\n"
        )
    assert not (made.folder / "outputs").exists()


def test_the_page_shows_what_is_said(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "alerts.md").read_text(encoding="utf-8")
    source = Project(tmp_path, notify={"to": [{"url": "A"}]})
    address = "https://hooks.slack.com/services/T024BE7LD/B024BE7LE/abcDEF123ghiJKL456mnoPQR"
    lines = ["input: {path: x}", "prompt: {user: x}", "model: m", "notify:", "  to:", f"    - url: {address}"]
    source.job_file.write_text("\n".join(lines) + "\n")
    with pytest.raises(SpecError) as caught:
        load_job(source.job_file)
    shown = str(caught.value).replace(str(source.job_file), "jobs/nightly.yaml")
    assert shown in page
    for word in ("partial", "budget", "failing", "late", "ok"):
        assert f"| `{word}` |" in page
    keys = set(re.findall(r"`(\w+)`", page[page.index("The JSON of a webhook") : page.index("## Secrets")]))
    sent = message.of_run(manifest(tmp_path), tmp_path, None).as_json("failure", "failing")
    assert set(sent) <= keys
