"""Faults, signals and everything else that ends a run early: what is done is kept, and it can be continued."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psutil
import pytest
from project import Project, simulator, until

from runner import journal

Make = Callable[..., Project]


# Faults ---------------------------------------------------------------------------------------------------------------


def test_faults_that_pass_leave_no_trace_in_the_rows(project: Make) -> None:
    faults = {
        "rate_limit": 0.05,
        "server_error": 0.02,
        "unavailable": 0.01,
        "cut": 0.01,
        "invalid_json": 0.005,
        "hang": 0.005,
    }
    with simulator(faults=faults, retry_after_s=0.02, latency_s=0.005, hang_s=20) as server:
        here = project(server.base_url, rows=1500, limits={"concurrency": 32}, retry={"timeout_s": 1.0})
        here.run("--quiet")
        stats = server.stats()
    here.assert_whole(1500)
    assert stats["distinct_bodies"] == 1500
    assert stats["max_in_flight"] <= 32
    assert set(stats["faults"]) == set(faults)
    assert stats["statuses"]["429"] >= 40
    table = here.table()
    assert sum(table.column("_attempts").to_pylist()) == stats["requests"]
    retried = [row for row in table.to_pylist() if row["_attempts"] > 1]
    assert len(retried) > 80
    for row in retried:
        assert row["_total_s"] >= row["_backoff_s"] + row["_latency_s"] - 0.001
        assert row["_finished_at"] > row["_started_at"] >= row["_queued_at"]
    assert here.manifest()["sessions"][0]["rate_limited"] == stats["faults"]["rate_limit"]


def test_a_permanent_400_gets_one_attempt_and_is_a_row(project: Make) -> None:
    with simulator(faults={"bad_request": 0.2}) as server:
        here = project(server.base_url)
        done = here.run(exits=3)
        stats = server.stats()
    here.assert_whole(100, status=None)
    bad = [row for row in here.table().to_pylist() if row["_status"] == "error"]
    assert stats["requests"] == 100
    assert stats["statuses"]["400"] == len(bad) > 5
    for row in bad:
        assert (row["_error_type"], row["_attempts"], row["label"]) == ("bad_request", 1, None)
        assert row["_error"] == "HTTP 400: The simulator refuses this body for good."
        assert row["text"]
    assert f"{len(bad)} × bad_request, for instance row {bad[0]['_id']}" in done.stdout
    assert "try again:    runner retry" in done.stdout


def test_a_spent_quota_stops_within_seconds_and_the_run_goes_on_later(project: Make) -> None:
    with simulator(quota_after=37) as server:
        here = project(server.base_url)
        began = time.monotonic()
        done = here.run(exits=4)
        assert time.monotonic() - began < 8
        stats = server.stats()
    assert done.error.startswith("error: HTTP 429: You exceeded your current quota")
    assert "hint: add credit or raise the limit, then resume" in done.error
    assert stats["requests"] <= 37 + 8
    assert here.manifest()["summary"]["rows"] == 37
    port = int(server.base_url.split(":")[2].split("/")[0])
    with simulator(port=port) as healthy:
        here.runner("resume", fresh=True)
        assert healthy.stats()["requests"] == 100 - 37
    here.assert_whole(100)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"api_keys": ["sk-another"]}, "HTTP 401: Incorrect API key provided."),
        ({"models": ["gpt-5.6-luna"]}, "HTTP 404: The model `gpt-6-luna` does not exist"),
    ],
)
def test_a_wrong_key_or_model_stops_at_once(project: Make, settings: dict[str, Any], said: str) -> None:
    with simulator(**settings) as server:
        here = project(server.base_url)
        done = here.run(exits=4)
        assert server.stats()["requests"] <= 8
    assert said in done.error
    assert "hint: check" in done.error
    assert here.manifest()["status"] == "stopped"
    assert here.manifest()["summary"]["rows"] == 0


LIES = ["refusal", "null_content", "no_choices", "html", "sse"]


@pytest.mark.parametrize(("lie", "api"), [(lie, ("responses", "chat")[i % 2]) for i, lie in enumerate(LIES)])
def test_a_server_that_only_lies_ends_the_run_by_its_error_rate(project: Make, lie: str, api: str) -> None:
    with simulator(faults={lie: 1}) as server:
        here = project(
            server.base_url, api=api, stop={"after": 20}, retry={"invalid_attempts": 2}, limits={"concurrency": 4}
        )
        done = here.run(exits=4)
    assert "20 of 20 rows failed, more than `stop.max_error_rate` (0.5) allows" in done.error
    rows = [row for rows in journal.read(here.latest / "journal-00000.jsonl") for row in rows]
    assert 20 <= len(rows) < 30
    for row in rows:
        assert (row["_status"], row.get("label")) == ("error", None)
        assert row["_error"]
        assert row["_error_type"] == ("refusal" if lie == "refusal" else "invalid_reply")
        assert row["_attempts"] == (1 if lie == "refusal" else 2)


# Signals --------------------------------------------------------------------------------------------------------------


def children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_what_is_in_flight_finish(project: Make, signum: signal.Signals) -> None:
    with simulator(latency_s=0.3) as server:
        here = project(server.base_url)
        working = here.start("run", here.job_file)
        until(lambda: server.stats()["in_flight"] == 8 and server.stats()["statuses"].get("200", 0) >= 8)
        working.send_signal(signum)
        done = here.end(working, exits=130)
        stats = server.stats()
        assert stats["abandoned"] == 0
        assert here.manifest()["status"] == "interrupted"
        assert here.manifest()["summary"]["ok"] == stats["statuses"]["200"]
        assert "stopping: waiting for the answers that are on their way" in done.stderr
        assert "continue:     runner resume" in done.stdout
        here.runner("resume", "--set", "limits.concurrency=50", "-q")
        assert server.stats()["requests"] == 100
    here.assert_whole(100)


def test_a_second_signal_stops_at_once(project: Make) -> None:
    with simulator(latency_s=0, faults={"hang": 1}) as server:
        here = project(server.base_url)
        working = here.start("run", here.job_file)
        until(lambda: server.stats()["in_flight"] == 8)
        working.send_signal(signal.SIGINT)
        assert working.stderr is not None
        assert working.stderr.readline().startswith("stopping")
        working.send_signal(signal.SIGINT)
        began = time.monotonic()
        here.end(working, exits=130)
        assert time.monotonic() - began < 3
    assert here.manifest()["status"] == "interrupted"


@pytest.mark.parametrize("display", ["live", "plain"])
def test_a_terminal_that_closes_lets_what_is_in_flight_finish(project: Make, display: str) -> None:
    """The run can say nothing any more, and must not stumble over that."""
    with simulator(latency_s=0.3) as server:
        here = project(server.base_url)
        terminal, inside = os.openpty()
        working = subprocess.Popen(
            [sys.executable, "-m", "runner", "run", here.job_file],
            cwd=here.folder,
            env=here.environ | {"TERM": "xterm"},
            stdin=inside,
            stdout=inside,
            stderr=inside if display == "live" else subprocess.PIPE,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(inside)
        until(lambda: server.stats()["in_flight"] == 8 and server.stats()["statuses"].get("200", 0) >= 8)
        if working.stderr is not None:
            working.stderr.close()
        os.close(terminal)
        assert working.wait(20) == 130
        stats = server.stats()
    assert stats["abandoned"] == 0
    assert here.manifest()["status"] == "interrupted"
    assert here.manifest()["summary"]["ok"] == stats["statuses"]["200"]


def test_nohup_lets_a_run_go_on_without_its_terminal(project: Make) -> None:
    with simulator(latency_s=0.05) as server:
        here = project(server.base_url)
        ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
        working = here.start("run", here.job_file, **ignore)
        until(lambda: server.stats()["in_flight"] == 8)
        working.send_signal(signal.SIGHUP)
        here.end(working)
    here.assert_whole(100)


def test_ctrl_c_while_the_command_is_being_loaded(project: Make) -> None:
    here = project(rows=1)
    (here.folder / "click.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)\n")
    assert here.runner("--help", exits=130, fresh=True).stderr == "interrupted\n"


def test_a_run_that_is_at_work_or_was_killed_is_explained(project: Make) -> None:
    """Its first session has left no summary, and nobody wrote down what it did."""
    with simulator(latency_s=0.05) as server:
        here = project(server.base_url, rows=300)

        def shown() -> tuple[str, dict[str, Any]]:
            return here.runner("show").stdout, json.loads(here.runner("show", "--json").stdout)

        working = here.start("run", here.job_file, "-q")
        until(lambda: server.stats()["statuses"].get("200", 0) >= 60)
        text, record = shown()
        assert "still running; so far" in text
        assert "still to do" in text
        assert "look again:   runner show outputs/job/" in text
        assert record["status"] == "running"
        assert record["sessions"][0]["rows"] >= 50
        assert record["sessions"][0]["wall_s"] > 0
        here.kill(working)
        text, record = shown()
        [session] = record["sessions"]
        assert "killed, or the machine went down" in text
        assert f": killed, {session['rows']} rows, an unknown number of requests, " in text
        assert "continue:     runner resume outputs/job/" in text
        assert record["status"] == "killed"
        assert 50 <= session["rows"] == record["summary"]["rows"] < 300
        assert session["attempts"] is None
        assert session["wall_s"] == record["summary"]["timing"]["wall_s"] > 0
        here.runner("resume", "-q")
    sessions, summary = here.manifest()["sessions"], here.manifest()["summary"]
    assert [each["rows"] for each in sessions] == [session["rows"], 300 - session["rows"]]
    assert (sessions[0]["ended"], sessions[0]["wall_s"]) == ("killed", session["wall_s"])
    assert summary["timing"]["wall_s"] == pytest.approx(sum(each["wall_s"] for each in sessions), abs=0.001)


def test_a_run_that_was_killed_before_any_answer_is_explained(project: Make) -> None:
    with simulator(faults={"hang": 1}) as server:
        here = project(server.base_url)
        working = here.start("run", here.job_file, "-q")
        until(lambda: server.stats()["in_flight"] == 8)
        here.kill(working)
    shown = here.runner("show").stdout
    assert "0 ok, 0 failed, 100 still to do" in shown
    assert ": killed, 0 rows, " in shown


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_embedded_simulator_is_never_left_behind(project: Make, how: signal.Signals) -> None:
    here = project(rows=400)
    here.endpoint = {"simulator": {"latency_s": 0.1}}
    here.change()
    working = here.start("run", here.job_file, "--quiet")
    until(lambda: list(here.folder.glob("outputs/job/latest/journal-*")))
    simulators = children(working.pid)
    assert simulators
    working.send_signal(how)
    working.communicate()
    until(lambda: not any(each.is_running() for each in simulators))
    here.endpoint = {"simulator": {"latency_s": 0}}
    here.change()
    here.runner("resume", "-q")
    here.assert_whole(400)


# Secrets --------------------------------------------------------------------------------------------------------------


@contextmanager
def echoing_server() -> Iterator[str]:
    """A server that repeats what it was sent, key and all, in every way it can."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        seen = 0
        lock = threading.Lock()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            key = self.headers["Authorization"]
            with self.lock:
                kind, Handler.seen = Handler.seen % 5, Handler.seen + 1
            error = {"error": {"message": f"no: {key} {self.headers['x-team']}", "code": key}}
            status, content = [
                (400, json.dumps(error)),
                (503, f"<html>{key} {self.headers['x-team']}</html>"),
                (422, f"plain {key}"),
                (200, f"<html>{key}</html>"),
                (200, json.dumps({"error": key, "choices": [{"message": {"content": key}}]})),
            ][kind]
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("x-request-id", "req-1")
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_secrets_reach_no_file_and_no_output(project: Make) -> None:
    key, team = "sk-recognisable-4711-key", "team-secret-4712"
    with echoing_server() as base_url:
        here = project("http://127.0.0.1:${TEST_PORT}/v1", rows=40, stop={"max_error_rate": 1})
        here.environ |= {"TEST_KEY": key, "TEST_TEAM": team, "TEST_PORT": base_url.split(":")[2].split("/")[0]}
        here.endpoint["headers"] = {"x-team": "${TEST_TEAM}"}
        here.change(retry={"invalid_attempts": 1, "max_attempts": 1})
        said = [
            here.run(exits=3),
            here.runner("show"),
            here.runner("runs", "--json"),
            here.runner("resume", "--json", exits=3),
        ]
    everything = "".join(done.stdout + done.stderr for done in said) + str(here.table().to_pylist())
    for path in here.folder.rglob("*"):
        if path.is_file() and path.name != "endpoints.yaml":
            everything += path.read_bytes().decode("latin-1")
    assert "recognisable" not in everything
    assert "team-secret" not in everything
    assert f":{here.environ['TEST_PORT']}" not in everything  # five digits alone may stand in any number
    assert "***" in everything


# Nobody there ---------------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_ends_the_run_by_its_error_rate(project: Make) -> None:
    here = project("http://127.0.0.1:9", rows=30, retry={"max_attempts": 1}, stop={"after": 10})
    done = here.run(exits=4)
    assert "rows failed, more than `stop.max_error_rate`" in done.error
    assert "connection failed" in done.error
