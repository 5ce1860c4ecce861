"""A disk that fails, and files that are not what they were: one clear message, and nothing that was done is lost."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from project import Project, parts, simulator, until

from runner.simulator import SimulatorProcess
from runner.store import disk_error

Make = Callable[..., Project]
_LIBC = ctypes.CDLL(None)


@pytest.fixture
def server() -> Iterator[SimulatorProcess]:
    with simulator(latency_s=0.02) as started:
        yield started


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB; the ballast alone takes 4 of them."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(project: Make, server: SimulatorProcess, small_disk: Path) -> None:
    rows = [{"id": f"r{i:05d}", "text": f"row {i} " + "x" * 12_000} for i in range(400)]
    here = project(server.base_url, rows=rows, output={"rows_per_part": 400})
    done = here.run("--output", small_disk, exits=4)
    assert "error: cannot write results: No space left on device" in done.error
    assert "hint: make room" in done.error
    run = (small_disk / "job" / "latest").resolve()
    assert here.runner("resume", run, exits=4).error.startswith("error: cannot write")
    asked = server.stats()["requests"]
    assert asked < 400, "it stopped when the disk was full"
    moved = here.folder / "outputs" / "job" / "latest"
    shutil.copytree(run, moved)
    here.runner("resume", moved, "-q")
    assert server.stats()["extra_answers"] == 0, "the space kept back was enough for what was in flight"
    here.assert_whole(400)


def test_a_disk_that_is_full_when_a_part_is_sealed(project: Make, server: SimulatorProcess) -> None:
    """A limit on the size of files stands for it: the journals fit, and the last part does not."""
    rows = [{"id": f"r{i:05d}", "text": os.urandom(30_000).hex()} for i in range(100)]  # nothing to compress
    here = project(server.base_url, rows=rows, output={"rows_per_part": 100})
    limit = 4 << 20
    done = here.run(exits=4, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert "error: cannot write results: " in done.error
    assert "File too large" in done.error
    stats = server.stats()
    here.runner("resume", "-q")
    # What was in flight, and what was sent in the same turn of the loop: here no space kept back can save them.
    assert server.stats()["extra_answers"] <= 2 * 8
    assert server.stats()["requests"] >= stats["requests"]
    here.assert_whole(100)


def files_open(soft: int, hard: int) -> dict[str, Callable[[], None]]:
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))}


@pytest.mark.parametrize("strategy", ["asyncio", "threads"])
def test_more_connections_than_files_may_be_open_at_first(project: Make, strategy: str) -> None:
    with simulator(latency_s=2) as server:
        here = project(server.base_url, rows=300, limits={"concurrency": 300}, strategy=strategy)
        here.run("-q", **files_open(200, 400))
        assert server.stats()["max_in_flight"] > 250
    here.assert_whole(300)


def test_more_connections_than_files_may_ever_be_open(project: Make, server: SimulatorProcess) -> None:
    here = project(server.base_url, rows=300)
    done = here.run("--set", "limits.concurrency=1000", exits=2, **files_open(200, 400))
    said = "error: `limits.concurrency` is 1,000, and this process may have only 400 files open, connections included"
    assert done.error.startswith(said)
    assert "--> job.yaml" in done.error
    assert "hint: set it to 304 or less, or raise the limit: `ulimit -n 1096`" in done.error
    assert server.stats()["requests"] == 0
    assert not (here.folder / "outputs").exists()
    here.run("--set", "limits.concurrency=304", "-q", **files_open(200, 400))


def test_too_many_open_files_are_no_full_disk(tmp_path: Path) -> None:
    error = disk_error(OSError(errno.EMFILE, "Too many open files"), tmp_path)
    assert "lower `limits.concurrency`, or raise the limit on open files (`ulimit -n`), then resume" in str(error)
    assert "make room" not in str(error)


def as_anyone() -> None:
    """Give up the right to read and write whatever the permissions say, which root has."""
    for right in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        _LIBC.prctl(24, right, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.fixture
def locked_away() -> Iterator[Callable[[Path], Path]]:
    """Take all permissions from a file or folder, and give them back at the end."""
    modes: dict[Path, int] = {}

    def lock(path: Path) -> Path:
        modes[path] = path.stat().st_mode
        path.chmod(0)
        if subprocess.run(["test", "-r", path], preexec_fn=as_anyone, check=False).returncode == 0:
            pytest.skip("permissions mean nothing here")
        return path

    yield lock
    for path, mode in modes.items():
        path.chmod(mode)


def test_what_may_not_be_read(project: Make, locked_away: Callable[[Path], Path]) -> None:
    here = project(rows=3)
    here.run("-q")
    run = here.latest

    def refused(*arguments: str | Path) -> str:
        done = here.runner(*arguments, exits=2, preexec_fn=as_anyone)
        assert "Permission denied" in done.error
        assert "hint: check its permissions" in done.error
        return done.error

    part = locked_away(parts(run)[0])
    assert str(part) in refused("export")
    locked_away(run)
    assert str(run) in refused("show", run)
    configs = locked_away(here.folder / "configs")
    assert str(configs) in refused("run", here.job_file)


@pytest.mark.parametrize("outputs", ["rows.jsonl", "/proc/outputs", "/dev/null"])
def test_an_output_folder_that_cannot_be(project: Make, outputs: str) -> None:
    """No run begins, so there is none to resume."""
    done = project(rows=3).run("--output", outputs, exits=2)
    assert done.error.startswith("error: no run can be kept there: ")
    assert f"  --> {outputs}" in done.error
    assert "hint: name another folder with `--output DIR`" in done.error
    assert "resume" not in done.error


def test_an_output_folder_that_may_not_be_written_to(project: Make, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = project(rows=3).run("--output", small_disk, exits=2)
    assert done.error.startswith("error: no run can be kept there: Read-only file system\n")


def test_a_run_folder_that_is_deleted_meanwhile(project: Make, server: SimulatorProcess) -> None:
    here = project(server.base_url, rows=200)
    working = here.start("run", here.job_file)
    until(lambda: server.stats()["statuses"].get("200", 0) >= 20)
    gone = here.latest.rename(here.folder / "gone")  # at once: new files could hold up a deletion
    shutil.rmtree(gone)
    done = here.end(working, exits=4)
    assert "cannot write results: No such file or directory" in done.error


@pytest.mark.parametrize("harm", ["deleted", "cut"])
def test_an_input_that_changes_meanwhile(project: Make, server: SimulatorProcess, harm: str) -> None:
    here = project(server.base_url, rows=[{"id": f"r{i:05d}", "text": f"row {i} " + "x" * 2000} for i in range(400)])
    before = here.rows_file.read_bytes()
    working = here.start("run", here.job_file)
    until(lambda: server.stats()["statuses"].get("200", 0) >= 20)
    if harm == "deleted":
        here.rows_file.unlink()
    else:
        os.truncate(here.rows_file, len(before) * 2 // 3 + 99)
    done = here.end(working, exits=4)
    assert "error: the input changed while it was read: rows.jsonl" in done.error
    assert "hint: put the old file back" in done.error
    here.rows_file.write_bytes(before)
    here.runner("resume", "-q")
    assert server.stats()["extra_answers"] == 0
    here.assert_whole(400)


def test_files_of_a_run_that_are_damaged(project: Make) -> None:
    """One run, from one damage to the next."""
    with simulator(quota_after=70) as broke:
        here = project(broke.base_url)
        here.run("-q", exits=4)
    run = here.latest
    journal = run / "journal-00001.jsonl"
    good = journal.read_bytes()
    lines = good.splitlines(keepends=True)
    with simulator() as server:
        here.endpoint["base_url"] = server.base_url
        here.change()

        def refused(said: str, where: str, exits: int) -> None:
            done = here.runner("resume", run, exits=exits)
            assert said in done.error
            assert where in done.error
            assert "hint: " in done.error
            assert server.stats()["requests"] == 0

        # the endpoint's address may change between sessions: it is not in the job
        journal.write_bytes(b"".join([*lines[:3], b"\0garbage\n", *lines[4:]]))
        refused("this line of the journal is damaged", f"{journal}:4", 4)
        journal.write_bytes(good)
        manifest = (run / "run.json").read_bytes()
        for wrong in (b"{}", manifest.replace(b'arrow_schema": "', b'arrow_schema": "x')):
            (run / "run.json").write_bytes(wrong)
            refused("this run.json cannot be read", str(run / "run.json"), 2)
        assert "unreadable" in here.runner("runs").stdout
        (run / "run.json").write_bytes(manifest)
        part = parts(run)[0]
        sealed = part.read_bytes()
        part.write_bytes(sealed[: len(sealed) // 2])
        refused("this part cannot be read", str(part), 4)
        part.write_bytes(sealed)
        here.runner("resume", run, "-q")
        assert server.stats()["requests"] == 30
    here.assert_whole(100)


def test_a_full_disk_while_a_batch_is_packed_or_collected(project: Make, small_disk: Path) -> None:
    rows = [{"id": f"r{i:05d}", "text": f"row {i} " + "x" * 12_000} for i in range(150)]
    with simulator(batches={"speed": 20_000, "duration_s": 1800}) as server:
        here = project(server.base_url, rows=rows, strategy="batch_api", limits={"enqueued_tokens": 400_000})
        done = here.run("--output", small_disk, exits=4)
        assert "error: cannot write results: No space left on device" in done.error
        run = (small_disk / "job" / "latest").resolve()
        moved = here.folder / "outputs" / "job" / "latest"
        shutil.copytree(run, moved)
        here.runner("resume", moved, "-q")
        stats = server.stats()
        assert stats["answered_more_than_once"] == 0
        assert stats["files"]["uploads_present"] == 0
    here.assert_whole(150)
