"""The forks that most tests use in place of new processes are no different from them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from forked import stand_in
from project import Project, simulator, until

Make = Callable[..., Project]


@pytest.mark.parametrize(
    ("arguments", "exits"),
    [("--version", 0), ("rnu", 2), ("run job.yaml --dry-run", 0), ("run job.yaml --quiet --set limits=8", 2)],
)
def test_a_fork_says_and_ends_as_a_start_from_nothing_does(project: Make, arguments: str, exits: int) -> None:
    here = project(rows=3)
    forked, fresh = (here.runner(*arguments.split(), exits=exits, fresh=fresh) for fresh in (False, True))
    assert (forked.stdout, forked.stderr) == (fresh.stdout, fresh.stderr)


def test_a_fork_is_a_process_of_its_own(project: Make) -> None:
    with simulator(faults={"hang": 1}) as server:
        here = project(server.base_url)
        one, other = here.start("run", here.job_file), here.start("run", here.job_file, "--output", "elsewhere")
        until(lambda: server.stats()["in_flight"] == 16)
        assert psutil.Process(one.pid).cwd() == str(here.folder.resolve())
        here.kill(one)
        assert one.returncode == -signal.SIGKILL
        assert other.poll() is None
        here.kill(other)
        until(lambda: server.stats()["in_flight"] == 0)


SAYS = """
import os, sys
print(__name__, sys.argv, os.getcwd(), os.environ["SAID"], repr(sys.stdin.read()), sys.path[0] == os.getcwd())
sys.stdout.flush()
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "sys.exit('no')", "os.kill(os.getpid(), 9)", "os.abort()", "1 / 0"])
def test_the_stand_in_for_python_says_and_ends_as_python_does(tmp_path: Path, end: str) -> None:
    def run(python: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, *options, "-c", SAYS + end, "a b", '"c"'],
            cwd=tmp_path, env={"SAID": "é", "PATH": os.environ["PATH"]},
            input="hello\n", capture_output=True, text=True, check=False,
        )  # fmt: skip

    fork, fresh = (run(python, "-P") for python in (stand_in(), sys.executable))
    assert fork.stdout == fresh.stdout != ""
    assert fork.returncode == fresh.returncode
    assert fork.stderr.splitlines()[-1:] == fresh.stderr.splitlines()[-1:]


def test_a_fork_starts_forks_and_goes_with_its_stand_in() -> None:
    code = (
        "import os, sys, time\n"
        "print(os.getpid(), sys.executable, 'runner.cli' in sys.modules, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([stand_in(), "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, *said = process.stdout.readline().split()
        assert said == [stand_in(), "True"]
        assert int(pid) != process.pid
        process.kill()
        until(lambda: not psutil.pid_exists(int(pid)))
