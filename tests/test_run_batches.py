"""Whole runs through the Batch API, against the simulator as its own process, judged by what the server saw."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from project import Project, simulator, until

from runner import read_results, resume_run, run_job
from runner.app import resume, start
from runner.batches import ledger
from runner.batches.desk import BatchEndpoint, Desk
from runner.batches.office import Errand
from runner.errors import TransientError
from runner.load import load_job
from runner.manifest import Manifest
from runner.progress import Console
from runner.report import next_steps
from runner.simulator import SimulatorProcess
from runner.stop import Stop

Make = Callable[..., Project]

# What may differ between an answer that came live and one that came in a batch.
TIMES = {
    "_queued_at", "_started_at", "_finished_at", "_throttle_s", "_backoff_s", "_latency_s", "_total_s", "_server_ms",
    "_collected_at", "_batch", "_request_id", "_cost_usd",
}  # fmt: skip
PRICE = {"gpt-6-luna": {"input": 100.0, "cached_input": 10.0, "cache_write": 100.0, "output": 500.0}}
KEY = "sk-test-0123456789"
# A tenth of a second in progress, and half a second until what has not finished expires.
FAST: dict[str, Any] = {"speed": 20_000, "duration_s": 1800, "window_s": 10_000}
# Four seconds, in which something else can happen.
SLOW: dict[str, Any] = {"speed": 1000, "duration_s": 3600, "window_s": 86_400}


def batching(rows: int = 60, **settings: Any) -> SimulatorProcess:
    batches = {**FAST, **settings.pop("batches", {})}
    return simulator(batches=batches, **settings)


@pytest.fixture
def batched(project: Make) -> Make:
    """Makes a project whose job goes through the Batch API."""

    def make(server: SimulatorProcess, rows: Any = 60, **job: Any) -> Project:
        here = project(server.base_url, rows=rows, **{"strategy": "batch_api", **job})
        here.prices(**PRICE)
        return here

    return make


def entries(here: Project) -> list[ledger.Entry]:
    return list(ledger.read(here.latest))


def assert_whole(here: Project, rows: int) -> None:
    table = here.table()
    assert table.column("_index").to_pylist() == list(range(rows))
    assert not [path for path in (here.latest / "batches").iterdir() if path.suffix != ".json"], "nothing is left over"
    assert all(entry.state == "collected" for entry in entries(here))


def assert_paid_once(server: SimulatorProcess) -> None:
    stats = server.stats()
    assert stats["answered_more_than_once"] == 0
    assert stats["batches"]["batches_with_same_metadata"] == 0


def same_but_times(one: pa.Table, other: pa.Table) -> None:
    assert one.schema.equals(other.schema)
    for name in one.column_names:
        if name not in TIMES:
            assert one.column(name).to_pylist() == other.column(name).to_pylist(), name


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_a_batch_brings_what_live_requests_do_at_half_the_price(batched: Make, api: str) -> None:
    with batching(faults={"bad_request": 0.05, "refusal": 0.05}) as server:
        live = batched(server, rows=120, strategy="asyncio", api=api)
        assert live.work().status == "finished"
        one, one_usd = live.table(), live.manifest()["summary"]["cost_usd"]
    with batching(faults={"bad_request": 0.05, "refusal": 0.05}) as server:
        live.endpoint["base_url"] = server.base_url
        live.change(strategy="batch_api")
        assert live.work().status == "finished"
        other, summary = live.table(), live.manifest()["summary"]
        assert_whole(live, 120)
        assert_paid_once(server)
        stats = server.stats()
        assert stats["tokens"]["input"] == 0, "nothing went live"
        assert (stats["files"]["uploads_present"], stats["files"]["results_never_downloaded"]) == (0, 0)
    same_but_times(one, other)
    assert summary["cost_usd"] == pytest.approx(one_usd / 2)
    assert summary["failed"] > 0
    assert summary["rows_in_batches"] == 120
    assert other.column("_latency_s").null_count == 120
    for row in other.to_pylist():
        assert row["_queued_at"] <= row["_started_at"] <= row["_finished_at"]
        assert row["_total_s"] == (row["_finished_at"] - row["_queued_at"]).total_seconds()
        assert row["_batch"].startswith("batch_")
        assert row["_collected_at"] is not None


def test_rows_are_split_by_number_and_by_what_may_be_enqueued(batched: Make) -> None:
    with batching(batches={"enqueued_tokens": 2_000}) as server:
        here = batched(server, rows=300, limits={"concurrency": 8, "enqueued_tokens": 2_000})
        assert here.work().ok == 300
        stats = server.stats()["batches"]
        assert_whole(here, 300)
        assert_paid_once(server)
    assert stats["states"] == {"completed": stats["created"]}, "the server never had to refuse one"
    assert stats["created"] > 3
    assert 1_000 < stats["max_enqueued_tokens"] <= 2_000


def test_a_batch_is_sent_though_many_rows_wait_for_its_answers(batched: Make) -> None:
    rows = [{"id": f"r{number:05d}", "text": f"paper {number % 40}"} for number in range(1200)]
    with batching() as server:
        here = batched(server, rows=rows, dedupe=True)
        assert here.work().ok == 1200
        stats = server.stats()["batches"]
        assert_whole(here, 1200)
        assert_paid_once(server)
    assert stats["answered"] == 40


def test_two_models_go_into_files_of_their_own(batched: Make) -> None:
    with batching() as server:
        here = batched(server, rows=40, model=["gpt-6-luna", "gpt-6-sol"])
        here.prices(**PRICE, **{"gpt-6-sol": PRICE["gpt-6-luna"]})
        assert here.work().ok == 80
        assert [(entry.model, entry.requests) for entry in entries(here)] == [(0, 40), (1, 40)]
        assert here.table().column("_model").to_pylist() == ["gpt-6-luna", "gpt-6-sol"] * 40


def test_an_expired_batch_keeps_what_was_done_and_the_rest_is_sent_again(batched: Make) -> None:
    with batching(batches={"script": [{"expire_at": 0.6}]}) as server:
        here = batched(server, rows=100)
        assert here.work().ok == 100
        first, second = entries(here)
        assert (first.status, first.done, second.requests) == ("expired", 60, 40)
        stats = server.stats()["batches"]
        assert (stats["answered"], stats["expired_requests"]) == (100, 40)
        assert_whole(here, 100)
        assert_paid_once(server)


def test_a_batch_that_always_expires_ends_in_failed_rows(batched: Make) -> None:
    with batching(batches={"script": [{"expire_at": 0.5}, {"expire_at": 0}, {"expire_at": 0}]}) as server:
        here = batched(server, rows=10, retry={"max_attempts": 3})
        assert here.work().failed == 5
        failed = [row for row in here.table().to_pylist() if row["_status"] == "error"]
        assert {(row["_error_type"], row["_error"]) for row in failed} == {
            ("expired", "the batch expired before it was answered")
        }
        assert_whole(here, 10)


def test_a_batch_with_an_error_file_alone(batched: Make) -> None:
    with batching(batches={"script": [{"only_errors": 400}]}) as server:
        here = batched(server, rows=10, stop={"max_error_rate": None})
        assert here.work().failed == 10
        assert {row["_error_type"] for row in here.table().to_pylist()} == {"bad_request"}
        assert len(entries(here)) == 1
        assert_whole(here, 10)


def test_permanent_errors_become_rows_and_transient_ones_are_sent_again(batched: Make) -> None:
    with batching(faults={"bad_request": 0.2, "server_error": 0.3, "invalid_reply": 0.1}) as server:
        here = batched(server, rows=100, retry={"max_attempts": 8})
        summary = here.work()
        stats = server.stats()
        table = here.table().to_pylist()
        errors = {row["_error_type"] for row in table if row["_status"] == "error"}
        assert errors <= {"bad_request", "invalid_reply"}
        assert summary.failed >= 8
        assert len(entries(here)) > 2
        assert sum(row["_attempts"] for row in table) == stats["batches"]["batch_requests"]
        assert max(row["_attempts"] for row in table) > 1
        assert_whole(here, 100)
        assert_paid_once(server)


def test_answers_that_do_not_fit_are_paid_for_and_counted(batched: Make) -> None:
    with batching(faults={"invalid_reply": 0.5}) as server:
        here = batched(server, rows=40, budget={"max_usd": 1000.0}, parameters={"max_output_tokens": 20})
        here.work()
        tokens = server.stats()["batches"]["tokens"]
        table = here.table()
        assert sum(table.column("_input_tokens").to_pylist()) == tokens["input"]
        assert sum(table.column("_output_tokens").to_pylist()) == tokens["output"]
        [session] = here.manifest()["sessions"]
        assert session["spent_usd"] == pytest.approx(sum(table.column("_cost_usd").to_pylist()))


@pytest.mark.parametrize(
    ("script", "sent_again"),
    [
        ({"duplicate_lines": 3}, 0),
        ({"unknown_lines": 3}, 0),
        ({"missing_lines": 3}, 3),
        ({"truncate_download": 2}, 0),
        ({"truncate_download": 1, "only_errors": 500}, 50),
        ({"lose_create_answer": True}, 0),
    ],
)
def test_files_that_are_not_as_they_should_be(batched: Make, script: dict[str, Any], sent_again: int) -> None:
    with batching(batches={"script": [script]}) as server:
        here = batched(server, rows=50)
        assert here.work().ok == 50
        assert sum(entry.requests for entry in entries(here)) == 50 + sent_again
        assert server.stats()["batches"]["created"] == (2 if sent_again else 1)
        assert_whole(here, 50)
        if "missing_lines" not in script:  # these were paid for, and nobody can know what they said
            assert_paid_once(server)


def test_strange_lines_are_told_of(batched: Make) -> None:
    with batching(batches={"script": [{"unknown_lines": 3, "missing_lines": 1}]}) as server:
        here = batched(server, rows=50)
        here.work()
    warnings = here.manifest()["sessions"][0]["warnings"]
    assert [warning.replace(entries(here)[0].batch_id or "", "B") for warning in warnings] == [
        "batch B has 3 lines that belong to none of its rows"
    ]


def test_what_a_lost_answer_may_have_cost_stays_out_of_a_budget(batched: Make) -> None:
    with batching(batches={"script": [{"missing_lines": 10}]}) as server:
        here = batched(server, rows=20, budget={"max_usd": 1000.0}, parameters={"max_output_tokens": 20})
        assert here.work().ok == 20
        first, second = entries(here)
        assert (first.requests, second.requests) == (20, 10)
        [session] = here.manifest()["sessions"]
        known = sum(here.table().column("_cost_usd").to_pylist())
        assert session["spent_usd"] == pytest.approx(known + first.most_usd / 2)


def test_a_full_queue_at_the_server_is_waited_for(batched: Make) -> None:
    full = {"fail": "token_limit_exceeded"}
    with batching(batches={"script": [full, full, full]}) as server:
        here = batched(server, rows=20)
        assert here.work().ok == 20
        stats = server.stats()["batches"]
        assert stats["states"] == {"completed": 2, "failed": 3}, "the third time it is sent in two halves"
        assert [entry.requests for entry in entries(here)] == [20, 10, 10]
        assert {row["_attempts"] for row in here.table().to_pylist()} == {1}
        assert_whole(here, 20)
        assert server.stats()["files"]["uploads_present"] == 0


def test_an_upload_that_is_too_large_is_sent_in_halves(batched: Make) -> None:
    with batching(batches={"max_file_bytes": 20_000}) as server:
        here = batched(server, rows=200)
        assert here.work().ok == 200
        assert len(entries(here)) > 3
        assert_whole(here, 200)
        assert_paid_once(server)


def test_a_row_that_is_too_large_alone_fails(batched: Make) -> None:
    rows = [{"id": "small", "text": "one"}, {"id": "large", "text": "x" * 30_000}, {"id": "little", "text": "two"}]
    with batching(batches={"max_file_bytes": 20_000}) as server:
        here = batched(server, rows=rows)
        assert here.work().failed == 1
        [failed] = [row for row in here.table().to_pylist() if row["_status"] == "error"]
        assert (failed["id"], failed["_error_type"]) == ("large", "bad_request")
        assert "too large for the Batch API" in failed["_error"]


@pytest.mark.parametrize("code", ["too_many_tasks", "model_mismatch"])
def test_a_batch_that_is_refused_as_a_whole_stops_the_run_and_loses_nothing(batched: Make, code: str) -> None:
    with batching(batches={"script": [{"fail": code}]}) as server:
        here = batched(server, rows=20)
        summary = here.work()
        assert summary.status == "stopped"
        assert here.manifest()["stopped_by"]["kind"] == "batch_refused"
        assert here.work_on().ok == 20
        assert_whole(here, 20)


def test_a_budget_bounds_what_is_submitted(batched: Make) -> None:
    with batching() as server:
        here = batched(server, rows=400, budget={"max_usd": 0.5}, parameters={"max_output_tokens": 20})
        summary = here.work()
        assert summary.status == "stopped"
        assert here.manifest()["stopped_by"]["kind"] == "budget"
        tokens = server.stats()["batches"]["tokens"]
        paid = (tokens["input"] * 100 + tokens["output"] * 500) / 2e6
        assert 0.4 < paid <= 0.5
        assert len(entries(here)) < 20, "no batch is spent on the last crumbs"
        assert summary.cost_usd == pytest.approx(paid)
        here.change(budget={"max_usd": 0.7})
        here.work_on()
        tokens = server.stats()["batches"]["tokens"]
        assert 0.6 < (tokens["input"] * 100 + tokens["output"] * 500) / 2e6 <= 0.7
        assert_paid_once(server)


# Coming back ----------------------------------------------------------------------------------------------------------


def test_detach_and_come_back(batched: Make) -> None:
    with batching(batches=SLOW) as server:
        here = batched(server, rows=60, limits={"requests_per_minute": 60})
        done = here.run("--detach")
        assert "its batches are being carried out" in done.stdout
        assert f"look again:   runner resume {here.latest.relative_to(here.folder)}" in done.stdout
        assert here.manifest()["status"] == "waiting"
        assert here.manifest()["sessions"][0]["use"]["requests_per_minute"] == 0, "batches have limits of their own"
        interrupted = replace(Manifest.load(here.latest), status="interrupted")
        assert next_steps(interrupted, here.latest)[1] == (
            f"see them:     runner batches {here.latest}          (they go on at the server; --cancel ends them)"
        )
        assert "validating" in here.runner("batches").stdout or "in_progress" in here.runner("batches").stdout
        here.runner("resume", exits=4)
        assert here.runner("resume", "--wait").returncode == 0
        assert_whole(here, 60)
        assert_paid_once(server)
        assert server.stats()["batches"]["created"] == 1


def test_a_program_submits_and_comes_back(batched: Make) -> None:
    with batching(batches={"speed": 2000, "duration_s": 3600}) as server:
        here = batched(server, rows=20)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in here.environ.items():
                patch.setenv(name, value)
            assert run_job(here.job_file, progress=False, wait=False).status == "waiting"
            assert resume_run(here.latest, progress=False, wait=False).status == "waiting"
            assert resume_run(here.latest, progress=False).ok == 20
        assert server.stats()["batches"]["created"] == 1


def test_batches_of_a_rehearsal_are_lost_with_its_simulator_and_sent_again_at_once(batched: Make) -> None:
    with batching() as server:
        here = batched(server, rows=20)
    here.endpoint = {"simulator": {"latency_s": 0, "batches": FAST}}
    here.change()
    left = start(load_job(here.job_file), console=Console(quiet=True), errand=Errand(wait=False))
    assert (left.manifest.status, left.open_batches) == ("waiting", 1)
    began = time.monotonic()
    assert resume_run(left.folder, progress=False).ok == 20
    assert time.monotonic() - began < 20
    [warning] = here.manifest(left.folder)["sessions"][1]["warnings"]
    assert warning == "batch 1 is lost with its simulator; its rows are sent again"


def test_cancelling_collects_what_was_finished(batched: Make) -> None:
    with batching(batches={**SLOW, "script": [{}, {"duration_s": 60}]}) as server:
        here = batched(server, rows=200)
        here.run("--detach")
        until(lambda: server.stats()["batches"]["batch_requests"] > 50)
        here.runner("batches", "--cancel")
        assert server.stats()["batches"]["states"] == {"cancelled": 1}
        answered = server.stats()["batches"]["answered"]
        assert 50 < read_results(here.latest).num_rows == answered < 200
        here.runner("resume", "--wait")
        assert_whole(here, 200)
        assert_paid_once(server)


def test_a_run_in_batches_goes_on_live(batched: Make) -> None:
    with batching(batches=SLOW) as server:
        here = batched(server, rows=200)
        here.run("--detach")
        until(lambda: server.stats()["batches"]["batch_requests"] > 50)
        here.runner("resume", "--strategy", "asyncio")
        stats = server.stats()
        assert stats["batches"]["states"] == {"cancelled": 1}
        assert stats["distinct_bodies"] == 200
        assert 0 < stats["batches"]["answered"] < 200
        assert_whole(here, 200)
        assert_paid_once(server)


def test_a_live_run_goes_on_in_batches(batched: Make) -> None:
    with batching(latency_s=0.05) as server:
        here = batched(server, rows=300, strategy="asyncio")
        process = here.start("run", here.job_file, "--quiet")
        until(lambda: server.stats()["requests"] > 40)
        process.send_signal(signal.SIGINT)
        here.end(process, exits=130)
        here.runner("resume", "--strategy", "batch_api")
        stats = server.stats()
        assert stats["distinct_bodies"] == 300
        assert 0 < stats["batches"]["answered"] < 300
        assert_whole(here, 300)
        assert_paid_once(server)


def test_the_ledger_can_be_read_by_people(batched: Make) -> None:
    with batching() as server:
        here = batched(server, rows=10)
        here.work()
    entry = json.loads((here.latest / "batches" / "batch-00001.json").read_text())
    assert (entry["state"], entry["status"], entry["rows"], entry["requests"]) == (
        "collected",
        "completed",
        [[0, 9]],
        10,
    )
    assert Path(here.latest / "batches").stat().st_mode & 0o777


def test_an_interrupted_run_leaves_its_batches_to_the_server(batched: Make) -> None:
    with batching(batches={"speed": 2000, "duration_s": 3600}) as server:
        here = batched(server, rows=60)
        process = here.start("run", here.job_file)
        until(lambda: server.stats()["batches"]["created"])
        until(lambda: entries(here)[0].state == "submitted")
        process.send_signal(signal.SIGINT)
        done = here.end(process, exits=130)
        assert f"see them:     runner batches {here.latest.relative_to(here.folder)}" in done.stdout
        here.runner("resume", "--quiet")
        assert_whole(here, 60)
        assert_paid_once(server)
        assert server.stats()["batches"]["created"] == 1


def test_failed_rows_are_tried_again_in_a_batch(batched: Make) -> None:
    with batching(batches={"script": [{"only_errors": 500}]}) as server:
        here = batched(server, rows=100, retry={"max_attempts": 1}, stop={"max_error_rate": None})
        assert here.work().failed == 100
        assert here.work_on(retry=True).ok == 100
        assert_whole(here, 100)
        assert_paid_once(server)


def test_identical_requests_are_sent_once_and_earlier_answers_not_at_all(batched: Make) -> None:
    rows = [{"id": str(number), "text": f"paper {number % 30} on physics"} for number in range(90)]
    with batching() as server:
        here = batched(server, rows=rows, dedupe=True, reuse=True)
        assert here.work().ok == 90
        assert server.stats()["batches"]["batch_requests"] == 30
        here.rows([*rows, {"id": "new", "text": "a theorem"}])
        assert here.work().ok == 91
        assert server.stats()["batches"]["batch_requests"] == 31
        assert_paid_once(server)


def test_rows_that_cannot_be_asked_stand_among_the_others(batched: Make) -> None:
    with batching() as server:
        here = batched(server, rows=20, input={"on_bad_row": "error_row"})
        with here.rows_file.open("a") as file:
            file.write('{"id": "bad"\n{"id": "less", "number": 7}\n{"id": "last", "text": "cheese"}\n')
        summary = here.work()
        assert (summary.ok, summary.failed) == (21, 2)
        assert_whole(here, 23)


def test_a_pool_shares_the_batches(batched: Make) -> None:
    accounts = [{"key": "sk-a-0123456789", "organization": "a"}, {"key": "sk-b-0123456789", "organization": "b"}]
    with batching(accounts=accounts, batches={"enqueued_tokens": 2_000}) as server:
        here = batched(server, rows=200, limits={"concurrency": 8, "enqueued_tokens": 2_000}, endpoint=["a", "b"])
        for name in "ab":
            here.endpoints[name] = {"base_url": server.base_url, "api_key_env": f"KEY_{name}"}
            here.environ[f"KEY_{name}"] = f"sk-{name}-0123456789"
        here.change()
        assert here.work().ok == 200
        assert {entry.endpoint for entry in entries(here)} == {"a", "b"}
        assert_whole(here, 200)
        assert_paid_once(server)


class Silent:
    """A client whose server never answers."""

    speed = 1.0

    async def retrieve(self, batch_id: str) -> None:
        raise TransientError("connection failed", kind="connection")


def test_a_server_that_stays_silent_is_told_of_once(tmp_path: Path) -> None:
    notes: list[str] = []
    client: Any = Silent()
    desk = Desk(ledger.Ledger(tmp_path), [BatchEndpoint("there", client)], "/v1/responses", {}, Stop(), notes.append)
    entry = ledger.Entry(1, "there", 0, 10, 100, [[0, 9]], state="submitted", batch_id="batch_1")

    async def look() -> None:
        for seen in range(1, 6):
            assert await desk.look(entry) is None
            assert len(notes) == (seen >= 3)

    asyncio.run(look())
    assert notes == ["the server fails, and is asked again until it answers: connection failed"]


# When the server is not as it was -------------------------------------------------------------------------------------


def refused(batched: Make, server: SimulatorProcess, **job: Any) -> Project:
    """A project whose run the server refused at once, and will not refuse again."""
    here = batched(server, rows=20, **job)
    here.environ["TEST_KEY"] = "sk-wrong-0123456789"
    assert here.work().status == "stopped"
    here.environ["TEST_KEY"] = KEY
    return here


def half_submitted(here: Project) -> None:
    """Make it look as if the session was killed while it asked for a batch, long ago: the file is gone by now."""
    path = here.latest / "batches" / "batch-00001.json"
    entry = json.loads(path.read_text()) | {"state": "submitting", "key": "0123", "file_id": "file-gone"}
    path.write_text(json.dumps(entry))


def test_a_batch_that_was_refused_goes_live_without_the_batch_api(batched: Make) -> None:
    with batching(api_keys=[KEY]) as server:
        here = refused(batched, server)
        assert [entry.state for entry in entries(here)] == ["packed"]
        here.runner("resume", "--strategy", "asyncio")
        assert_whole(here, 20)
        stats = server.stats()
        assert (stats["batches"]["created"], stats["distinct_bodies"]) == (0, 20)


@pytest.mark.parametrize(("strategy", "created"), [("batch_api", 1), ("asyncio", 0)])
def test_a_batch_that_was_never_created_and_whose_file_is_gone(batched: Make, strategy: str, created: int) -> None:
    with batching(api_keys=[KEY]) as server:
        here = refused(batched, server)
        half_submitted(here)
        here.runner("resume", "--strategy", strategy)
        assert_whole(here, 20)
        stats = server.stats()
        assert (stats["batches"]["created"], stats["distinct_bodies"]) == (created, 20)
        assert stats["files"]["uploads_present"] == 0


def test_a_batch_that_the_server_does_not_know_can_be_given_up(batched: Make) -> None:
    with batching(api_keys=[KEY]) as server:
        here = refused(batched, server)
        half_submitted(here)
        path = here.latest / "batches" / "batch-00001.json"
        path.write_text(path.read_text().replace('"submitting"', '"submitted"').replace("null", '"batch_gone"', 1))
        assert here.runner("resume", exits=4).error.splitlines() == [
            "error: the server does not know batch batch_gone: HTTP 404: No batch found with id 'batch_gone'.",
            "  --> endpoint `there`",
            "hint: it may belong to another project: check the key and `base_url` in configs/endpoints.yaml; "
            f"if it is gone for good, delete {path} to have its rows sent, and paid, again",
        ]
        path.unlink()
        here.runner("resume")
        assert_whole(here, 20)


def test_cancelling_the_batches_of_a_run_that_has_none_sends_nothing(
    batched: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with batching(api_keys=[KEY]) as server:
        here = refused(batched, server, strategy="asyncio")
        assert here.runner("batches", "--cancel").stdout == "this run has no batches\n"
        monkeypatch.setenv("TEST_KEY", KEY)
        assert resume(here.latest, {}, errand=Errand(cancel=True)).exit_code == 4  # they came home just now
        assert server.stats()["statuses"].keys() == {"401"}


def test_input_files_are_deleted_although_the_server_fails_at_times(batched: Make) -> None:
    with batching(batches={"faults": {"unavailable": 0.4}}) as server:
        here = batched(server, rows=20)
        assert here.work().ok == 20
        assert server.stats()["files"]["uploads_present"] == 0


def test_a_file_that_is_missing_and_one_that_is_too_many(batched: Make) -> None:
    with batching(api_keys=[KEY]) as server:
        here = refused(batched, server)
        folder = here.latest / "batches"
        for name in ("batch-00001", "batch-00001.rows"):
            [path] = folder.glob(f"{name}.json*")
            path.with_stem(f"{path.stem} (copy)").write_bytes(path.read_bytes())
            path.with_name(path.name.replace(".", " (copy).", 1)).write_bytes(path.read_bytes())
        rows = folder / "batch-00001.rows.jsonl"
        rows.rename(folder / "moved")
        assert here.runner("resume", exits=4).error.splitlines() == [
            "error: a file of batch 1 is missing, which has not been collected",
            f"  --> {rows}",
            f"hint: restore it from a copy, or delete {folder / 'batch-00001.json'} "
            "to have its rows sent, and paid, again",
        ]
        (folder / "moved").rename(rows)
        here.runner("resume")
        assert here.table().num_rows == 20
        assert server.stats()["batches"]["created"] == 1


def test_the_deadline_of_a_retry_counts_from_its_own_beginning(batched: Make) -> None:
    deadline = {"name": "batch_api", "deadline": "12h"}
    with batching(batches={"script": [{"only_errors": 500}]}) as server:
        here = batched(server, rows=20, strategy=deadline, retry={"max_attempts": 1}, stop={"max_error_rate": None})
        assert here.work().failed == 20
        record = here.latest / "run.json"
        began = here.manifest()["sessions"][0]["started_at"]
        record.write_text(record.read_text().replace(began, "2026-01-01T00:00:00.000Z"))
        assert here.work_on(retry=True).ok == 20
        assert server.stats()["tokens"]["input"] == 0, "nothing went live"


def test_a_line_that_no_json_reader_takes_is_none(batched: Make) -> None:
    with batching(batches={**SLOW, "script": [{}, {"duration_s": 60}]}) as server:
        here = batched(server, rows=20)
        here.run("--detach")
        (here.latest / "batches" / "batch-00001.output.jsonl").write_bytes(b"[" * 100_000 + b"\n" + b"{}\n" * 30)
        here.runner("resume", "--wait")
        assert server.stats()["batches"]["batch_requests"] == 40, "what was answered cannot be read"
