"""The forks that most tests use in place of new processes are no different from them."""

from __future__ import annotations

import signal
from collections.abc import Callable

import psutil
import pytest
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
