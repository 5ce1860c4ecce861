"""The simulator as a process of its own: it starts, stops, and never outlives its parent."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from runner.errors import RunnerError
from runner.simulator import SimulatorProcess, SimulatorSettings

COMMAND = [sys.executable, "-m", "runner.simulator", "--settings", '{"latency_s": 0}', "--port", "0"]
SETTINGS = SimulatorSettings(latency_s=0)


def listens(base_url: str) -> bool:
    port = int(base_url.removesuffix("/v1").rpartition(":")[2])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_process_serves_until_the_block_ends():
    with SimulatorProcess(SETTINGS) as simulator:
        assert simulator.stats()["requests"] == 0
        with urllib.request.urlopen(f"{simulator.base_url}/models", timeout=5) as response:
            assert response.status == 200
        assert simulator.stats()["requests"] == 1
        simulator.reset_stats()
        assert simulator.stats()["requests"] == 0
    assert not listens(simulator.base_url)
    simulator.stop()  # a second time is no error


def test_settings_reach_the_process():
    settings = SimulatorSettings(api_keys=["sk-x"])
    with SimulatorProcess(settings) as simulator, pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{simulator.base_url}/models", timeout=5)
    assert caught.value.code == 401
    caught.value.close()


def test_a_child_that_dies_at_the_start_says_why():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RunnerError, match=f"the simulator did not start: port {port} on 127.0.0.1 is in use"):
            SimulatorProcess(SETTINGS, port=port).start()


def test_it_prints_one_line_and_ends_with_standard_input():
    with subprocess.Popen(
        [*COMMAND, "--until-stdin-closes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        base_url = process.stdout.readline().decode().strip()
        assert base_url.startswith("http://127.0.0.1:")
        assert base_url.endswith("/v1")
        assert listens(base_url)
        process.stdin.close()
        assert process.wait(5) == 0
        assert (process.stdout.read(), process.stderr.read()) == (b"", b"")
    assert not listens(base_url)


def test_it_ends_when_its_parent_is_killed():
    program = (
        "import time; from runner.simulator import SimulatorProcess, SimulatorSettings;"
        "print(SimulatorProcess(SimulatorSettings()).start(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        base_url = parent.stdout.readline().decode().strip()
        assert listens(base_url)
        parent.kill()
        parent.wait()
    for _ in range(500):
        if not listens(base_url):
            break
        with subprocess.Popen([sys.executable, "-c", ""]) as pause:
            pause.wait()
    assert not listens(base_url)


def upload(base_url: str, content: bytes) -> None:
    """Send a file, as a browser's form would."""
    head = '--part\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
    form = head.format("purpose", "").encode() + b"batch\r\n"
    form += head.format("file", '; filename="a"').encode() + content + b"\r\n--part--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=part"}
    request = urllib.request.Request(f"{base_url}/files", form, headers)
    with urllib.request.urlopen(request, timeout=20) as response:
        assert json.load(response)["bytes"] == len(content)


def test_uploads_go_to_disk_and_are_gone_when_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    size = 100_000_000
    with SimulatorProcess(SETTINGS) as simulator:
        assert simulator._process is not None
        child = psutil.Process(simulator._process.pid)
        before = child.memory_info().rss
        upload(simulator.base_url, b"x" * size)
        assert child.memory_info().rss - before < size / 5
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) == size
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_it_cleanly(signum: signal.Signals):
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        os.kill(process.pid, signum)
        assert process.wait(5) == 0
        assert process.stderr.read() == b""


def test_bad_settings_end_in_one_message():
    done = subprocess.run(
        [sys.executable, "-m", "runner.simulator", "--settings", '{"latncy_s": 0}'],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the simulator's settings are wrong: `latncy_s`: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            "{latncy_s: 1}",
            "error: `latncy_s` is not a known key\n  --> --settings:1:2\n   |\n 1 | {latncy_s: 1}\n   |  ^\n"
            "hint: did you mean `latency_s`?\n",
        ),
        (
            "{latency_s: {median: 0.5, p95: 0.2}}",
            "error: `latency_s.p95` must be at least `median`, which is 0.5, got 0.2\n  --> --settings:1:32\n   |\n"
            " 1 | {latency_s: {median: 0.5, p95: 0.2}}\n   |                                ^\n",
        ),
        (
            "garbage",
            "error: the value of --settings must be a mapping (`key: value` lines), got text\n  --> --settings:1:1\n"
            "   |\n 1 | garbage\n   | ^\n",
        ),
        (
            "{seed: 1, seed: 2}",
            "error: `seed` is given twice\n  --> --settings:1:11\n   |\n 1 | {seed: 1, seed: 2}\n   |           ^\n"
            "hint: it is first given in line 1\n",
        ),
    ],
)
def test_bad_settings_of_the_command_are_shown_as_in_a_file(settings: str, said: str):
    command = [sys.executable, "-m", "runner", "simulate", "--settings", settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def test_the_settings_alone_do_not_bring_in_the_server():
    program = "import sys; from runner.simulator import SimulatorSettings; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=20, check=False).returncode == 0
