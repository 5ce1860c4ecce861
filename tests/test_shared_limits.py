"""Several processes at one endpoint keep its limits together."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from project import Project, simulator
from test_limits import _admitted, _most_in_a_minute, _ones
from virtual_time import run

from runner.limits import Limiter
from runner.shared_limits import SharedLimits

Make = Callable[..., Project]


def shared(path: Path) -> SharedLimits:
    """Return the limits as another process would open them; it sees the loop's time."""
    return SharedLimits(path, asyncio.get_running_loop().time)


@pytest.mark.parametrize("rpm", [60, 600, 6000])
def test_three_use_one_limit_to_99_percent_and_no_minute_exceeds_it(tmp_path: Path, rpm: int) -> None:
    async def main() -> list[list[tuple[float, int]]]:
        limiters = [Limiter(requests_per_minute=rpm, shared=shared(tmp_path / "limits")) for _ in range(3)]
        return await asyncio.gather(*(_admitted(limiter, 16, 120, _ones()) for limiter in limiters))

    each = run(main())
    together = sorted(moment for admitted in each for moment in admitted)
    assert _most_in_a_minute(together, 0) <= rpm
    assert len(together) >= 0.99 * rpm * 2 - 1
    assert min(map(len, each)) > 0.5 * max(map(len, each)), "nobody is left out"


def test_tokens_are_shared_too(tmp_path: Path) -> None:
    async def main() -> list[tuple[float, int]]:
        limiters = [Limiter(tokens_per_minute=60_000, shared=shared(tmp_path / "limits")) for _ in range(2)]
        sizes = iter(lambda: 700, None)
        both = await asyncio.gather(*(_admitted(limiter, 8, 120, sizes) for limiter in limiters))  # type: ignore[arg-type]
        return sorted(moment for admitted in both for moment in admitted)

    admitted = run(main())
    assert _most_in_a_minute(admitted, 1) <= 60_000 + 2 * 700
    assert sum(amount for _, amount in admitted) >= 0.98 * 120_000


def test_a_pause_that_one_is_asked_for_holds_for_all(tmp_path: Path) -> None:
    async def main() -> float:
        one, other = (Limiter(requests_per_minute=600, shared=shared(tmp_path / "limits")) for _ in range(2))
        one.pause(30)
        assert not other.ready(1)
        await other.acquire(1)
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(30, abs=0.01)


def test_what_was_there_before_the_machine_was_started_anew_holds_nobody_up(tmp_path: Path) -> None:
    """The clock that all processes see alike begins again then."""
    (tmp_path / "limits").write_bytes(struct.pack("=5d", 50.0, 1e7, 5e6, 1e7, 1e7))

    async def main() -> float:
        await Limiter(requests_per_minute=600, tokens_per_minute=60_000, shared=shared(tmp_path / "limits")).acquire(10)
        return asyncio.get_running_loop().time()

    assert run(main()) < 2


def test_runs_of_two_jobs_at_once_keep_the_limit_of_their_endpoint(project: Make) -> None:
    with simulator(requests_per_minute=1800, latency_s=0.05) as server:
        here = project(server.base_url, rows=30)
        here.endpoint["limits"] = {"requests_per_minute": 1800}
        here.change()
        jobs = []
        for name in ("one", "two", "three"):
            path = here.folder / f"{name}.yaml"
            path.write_text(json.dumps({**here.job, "name": name}))
            jobs.append(here.start("run", path, "--quiet"))
        for process in jobs:
            here.end(process)
        stats = server.stats()
    assert stats["statuses"] == {"200": 90}, "nobody was told to slow down"
    seconds = stats["last_request_at"] - stats["first_request_at"]
    assert 89 / seconds * 60 >= 0.85 * 1800


def test_a_limit_of_the_job_itself_is_its_own(project: Make) -> None:
    with simulator() as server:
        here = project(server.base_url, rows=5, limits={"requests_per_minute": 6000})
        here.endpoint["limits"] = {"requests_per_minute": 600}
        here.change()
        here.work()
        [file] = (here.folder / "outputs" / ".limits").iterdir()
        level, *_ = struct.unpack("=5d", file.read_bytes())
    assert level == 0, "nothing was taken of what others share"
    assert here.folder.joinpath("outputs", "job").is_dir()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e300, -1e300])
def test_a_damaged_file_holds_up_nobody(tmp_path: Path, number: float) -> None:
    async def main() -> float:
        (tmp_path / "limits").write_bytes(struct.pack("=5d", number, 0.0, number, 0.0, 0.0))
        for _ in range(2):
            limiter = Limiter(requests_per_minute=60, tokens_per_minute=6_000, shared=shared(tmp_path / "limits"))
            await limiter.acquire(100)
        await limiter.acquire(100)
        return asyncio.get_running_loop().time()

    assert 1.5 < run(main()) < 5
