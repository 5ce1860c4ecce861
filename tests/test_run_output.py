"""What a run leaves: columns, order, types, exports, listings, and every exit code."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forked import stand_in
from project import LABELS, Project, parts, simulator

Make = Callable[..., Project]

OWN = """
    _index _id _model _status _error_type _error _finish_reason _raw _attempts _queued_at _started_at _finished_at
    _throttle_s _backoff_s _latency_s _total_s _server_ms _input_tokens _cached_tokens _cache_write_tokens
    _output_tokens _reasoning_tokens _cost_usd _saved_usd _request_id _endpoint _fingerprint _reused_from
    _batch _collected_at
""".split()  # noqa: SIM905 - as the design page lists them
TIME = pa.timestamp("us", tz="UTC")
TYPES = {
    "_index": pa.int64(), "_attempts": pa.int32(), "_queued_at": TIME, "_started_at": TIME, "_finished_at": TIME,
    "_collected_at": TIME,
    "_throttle_s": pa.float64(), "_backoff_s": pa.float64(), "_latency_s": pa.float64(), "_total_s": pa.float64(),
    "_server_ms": pa.float64(), "_cost_usd": pa.float64(), "_saved_usd": pa.float64(),
    **{f"_{kind}_tokens": pa.int64() for kind in ("input", "cached", "cache_write", "output", "reasoning")},
}  # fmt: skip


def test_a_whole_run_as_a_user_sees_it(project: Make) -> None:
    odd = 'a "quoted", {{ x }} %s \\alpha\nnew line\r\u2028é'
    rows = [{"id": i // 2, "text": odd if i == 7 else f"row {i}", "tags": ["a", i], "half": i / 2} for i in range(23)]
    with simulator(latency_s=0.01) as server:
        here = project(
            server.base_url,
            rows=rows,
            input={"offset": 3, "limit": 15},
            output={"rows_per_part": 5},
            limits={"requests_per_minute": 1200, "concurrency": 4},
        )
        quiet = here.run("--quiet")
        assert (quiet.stdout, quiet.stderr) == ("", "")
        assert server.stats()["requests"] == 15
    run, table = here.latest, here.table()

    # columns, order, types
    assert table.schema.names == ["id", "text", "tags", "half", "label", *OWN]
    assert {name: table.schema.field(name).type for name in OWN} == {n: TYPES.get(n, pa.string()) for n in OWN}
    assert table.column("_index").to_pylist() == list(range(3, 18))
    assert table.column("_id").to_pylist() == [str(i // 2) for i in range(3, 18)]
    assert table.column("id").type == pa.int64()
    assert table.column("half").to_pylist() == [i / 2 for i in range(3, 18)]
    assert table.column("text")[4].as_py() == odd
    assert set(table.column("label").to_pylist()) <= set(LABELS)
    assert set(table.column("_endpoint").to_pylist()) == {"there"}
    assert all(len(set(table.column(name).to_pylist())) == 15 for name in ("_request_id", "_fingerprint"))
    assert sum(table.column("_throttle_s").to_pylist()) > 0.5, "20 a second, and 15 rows"
    assert set(table.column("_backoff_s").to_pylist()) == {0.0}
    assert set(table.column("_attempts").to_pylist()) == {1}

    # parts and their metadata
    assert [part.name for part in parts(run)] == [f"part-{number:05d}.parquet" for number in range(4)]
    about = [json.loads(pq.read_metadata(part).metadata[b"runner"]) for part in parts(run)]
    assert [each["rows"] for each in about] == [2, 5, 5, 3]
    assert {(each["run"], each["job"], each["rehearsal"]) for each in about} == {(run.name, "job", False)}
    assert (here.folder / "outputs" / "job" / "latest").readlink().name == run.name

    # the manifest, and what the commands say of it
    manifest = here.manifest()
    assert (manifest["status"], manifest["input"]["rows"], manifest["input"]["repeated_ids"]) == ("finished", 15, 7)
    assert manifest["summary"]["ok"] == 15
    assert manifest["summary"]["timing"]["wall_s"] > 0.5
    assert 0 < manifest["sessions"][0]["use"]["requests_per_minute"] <= 1
    [listed] = json.loads(here.runner("runs", "--json").stdout)
    assert (listed["run"], listed["status"], listed["ok"], listed["rows"]) == (
        f"outputs/job/{run.name}",
        "finished",
        15,
        15,
    )
    shown = here.runner("show").stdout
    for said in (
        "finished",
        "15 ok, 0 failed",
        "7 rows repeat the id",
        "rows.jsonl",
        "gpt-6-luna at there",
        "4 sealed",
    ):
        assert said in shown

    # exports round-trip
    exported = [json.loads(line) for line in here.runner("export", "--format", "jsonl").stdout.split("\n")[:-1]]
    plain = table.to_pylist()
    for row, expected in zip(exported, plain, strict=True):
        assert row["text"] == expected["text"]
        assert row["tags"] == ["a", expected["_index"]]
        assert row["_started_at"] == expected["_started_at"].isoformat()
        assert {k: row[k] for k in ("id", "half", "label", "_cost_usd")} == {
            k: expected[k] for k in ("id", "half", "label", "_cost_usd")
        }
    here.runner("export", "--format", "csv", "--to", here.folder / "rows.csv")
    text = (here.folder / "rows.csv").read_bytes().decode()
    cells = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["text"] for row in cells] == [row["text"] for row in plain]
    assert [json.loads(row["tags"]) for row in cells] == [["a", index] for index in range(3, 18)]
    assert here.runner("export", "--to", "/proc/none/rows.csv", exits=2).error.startswith("error: cannot write")
    assert not list(here.folder.rglob("*.tmp"))


def test_a_csv_export_is_read_back_exactly(project: Make) -> None:
    odd = ["x\ry", "\r", "x\n", "\nx", "x\r\ny", "\r\n", 'say "a"', '"', "a,b", ",", "  x", "x ", "a\0b", "\u2028", "é"]
    here = project(rows=[{"id": f"{i} {text}", "text": text} for i, text in enumerate(odd)])
    here.run("-q")
    here.runner("export", "--to", here.folder / "rows.csv")
    with open(here.folder / "rows.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == odd
    assert [row["id"] for row in rows] == [f"{i} {text}" for i, text in enumerate(odd)]


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {}])
def test_what_goes_to_stdout_is_utf_8_whatever_the_locale(project: Make, locale: dict[str, str]) -> None:
    here = project(rows=[{"id": "r00000", "text": "日本 … é", "tags": ["日", 1, "\ud800"]}])
    here.run("-q")
    own, here.environ = here.environ, here.environ | (locale or {"PYTHONIOENCODING": "latin-1"})
    shown = {format_: here.runner("export", "--format", format_).stdout for format_ in ("csv", "jsonl")}
    [row] = map(json.loads, shown["jsonl"].splitlines())
    assert (row["text"], row["tags"]) == ("日本 … é", ["日", 1, "\ud800"])
    assert "日本 … é" in shown["csv"]
    assert "·" in here.runner("show").stdout
    here.environ = own | locale
    for format_, text in shown.items():
        here.runner("export", "--format", format_, "--to", here.folder / "rows")
        assert (here.folder / "rows").read_text("utf-8") == text


@pytest.mark.parametrize("command", ["runs", "show", "schema", "export", "export --format jsonl", "run job.yaml"])
def test_a_stdout_that_cannot_be_written_to(project: Make, command: str) -> None:
    """Nobody has to read to the end; a full disk is told in one message; and a run is what it is without either."""
    here = project(rows=300 if command.startswith("export") else 20)  # more than a pipe holds
    here.run("-q")
    python = sys.executable if command == "show" else stand_in()  # once from nothing: Python's own end has a say
    shell = f'"{python}" -m runner {command}'

    def through(end: str) -> subprocess.CompletedProcess[str]:
        bash = ["bash", "-c", f"{shell} {end}"]
        return subprocess.run(bash, cwd=here.folder, env=here.environ, capture_output=True, text=True, check=False)

    quiet = through("| true; exit ${PIPESTATUS[0]}")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    full = through("> /dev/full")
    assert full.returncode == (0 if command.startswith("run ") else 2)
    assert full.stderr == "error: cannot write to stdout: No space left on device\n"


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({}, "${known:.4f} · $"),
        ({"no_usage": 0.3}, "at least ${known:.4f}: the server reported no usage for {without} of 100 rows\n"),
        ({"no_usage": 1}, "unknown: the server reported no usage for 100 of 100 rows\n"),
        ({"bad_request": 0.3}, "${known:.4f} · $"),
        ({"bad_request": 1}, "$0.0000 · $0.0000 per 1,000 rows\n"),
    ],
)
def test_the_cost_is_what_answers_cost_and_says_what_is_unknown(project: Make, faults: Any, said: str) -> None:
    with simulator(faults=faults) as server:
        here = project(server.base_url, stop={"max_error_rate": None})
        prices = "as_of: 2026-11-20\nmodels: {gpt-6-luna: {input: 2, output: 9}}\n"
        (here.folder / "configs" / "models.yaml").write_text(prices, "utf-8")
        done = here.run(exits=3 if "bad_request" in faults else 0)
    rows, summary = here.table().to_pylist(), here.manifest()["summary"]
    without = [row for row in rows if row["_status"] == "ok" and row["_cost_usd"] is None]
    known = sum(row["_cost_usd"] or 0 for row in rows)
    assert f"cost      {said.format(known=known, without=len(without))}" in done.stdout
    assert summary["cost_usd"] == (None if without else summary["cost_at_least_usd"])
    assert summary["cost_at_least_usd"] == pytest.approx(known, abs=1e-6)
    assert (summary["rows_without_usage"], summary["rows_without_price"]) == (len(without), 0)


def test_the_cost_of_a_model_without_a_price_is_unknown(project: Make) -> None:
    done = project(rows=3).run()
    assert "cost      unknown: `gpt-6-luna` has no price in configs/models.yaml\n" in done.stdout


def test_json_is_the_record(project: Make) -> None:
    here = project(rows=5)
    done = here.run("--json")
    record = json.loads(done.stdout)
    assert (record["status"], record["exit_code"], record["summary"]["ok"]) == ("finished", 0, 5)
    assert record["rehearsal"] is True
    assert record["folder"] == str(here.folder / "outputs" / "job" / record["run"])
    assert record["run"].endswith("-rehearsal")


@pytest.mark.parametrize(
    ("content", "columns", "said"),
    [
        ("", [], "the input is empty"),
        ("id,text\n", ["id", "text"], "the input is empty"),
        (
            "id,text\nonly one\n", ["id", "text"],
            "all rows of the input are bad, and were left out",
        ),
    ],
)  # fmt: skip
def test_an_input_without_rows_is_a_finished_run_that_can_be_read(
    project: Make, content: str, columns: list[str], said: str
) -> None:
    here = project(rows=0, input={"path": "rows.csv", "on_bad_row": "skip"}, evaluate={"expected": "text"})
    (here.folder / "rows.csv").write_text(content)
    shown = here.run().stdout
    assert f"  rows      none: {said}\n" in shown
    assert "accuracy" not in shown
    assert here.manifest()["status"] == "finished"
    assert here.table().num_rows == 0
    assert here.table().schema.names == [*columns, "label", *OWN]
    assert here.table().schema.field("_started_at").type == TIME
    assert here.runner("export").stdout.splitlines() == [",".join([*columns, "label", *OWN])]
    assert here.runner("export", "--format", "jsonl").stdout == ""
    assert "nothing to do" in here.runner("resume").stdout
    assert "nothing to do" in here.runner("retry").stdout
    here.runner("show")
    here.assert_whole(0, status=None)


@pytest.mark.parametrize("how", ["fail", "error_row", "skip"])
def test_bad_rows(project: Make, how: str) -> None:
    here = project(rows=[{"id": "r00000", "text": "a"}, {"id": "r00001"}, {"id": "r00002", "text": "c"}])
    with here.rows_file.open("a", encoding="utf-8") as file:
        file.write('{"id": "r00003", broken\n')
    here.change(input={"on_bad_row": how})
    done = here.run(exits={"fail": 2, "error_row": 3, "skip": 0}[how])
    if how == "fail":
        assert "2 rows of the input are bad" in done.error
        assert "rows.jsonl:2" in done.error
        assert "rows.jsonl:4" in done.error
        assert not (here.folder / "outputs" / "job").exists()
        return
    rows = here.table().to_pylist()
    assert [row["_index"] for row in rows] == ([0, 2] if how == "skip" else [0, 1, 2, 3])
    if how == "skip":
        assert "2 bad ones left out" in done.stdout
        return
    assert [row["_error_type"] for row in rows] == [None, "bad_row", None, "bad_row"]
    assert rows[1]["_error"].startswith("rows.jsonl:2: ")
    assert [row["_attempts"] for row in rows] == [1, 0, 1, 0]


def test_each_exit_code_that_no_other_test_shows(project: Make) -> None:
    """0 and 3, 4, 5, 130 are shown by the others: here 1, a bug, and 2, wrong use."""
    here = project(rows=3)
    program = (
        "import sys; from runner import app, cli\n"
        "def start(*_, **__): raise ZeroDivisionError('a bug')\n"
        "app.start = start; sys.argv = ['runner', 'run', 'job.yaml']; cli.main()"
    )
    bug = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=here.folder)
    assert bug.returncode == 1
    assert "ZeroDivisionError: a bug" in bug.stderr
    here.job["modle"] = here.job.pop("model")
    here.change()
    assert "did you mean `model`?" in here.run(exits=2).stderr
    assert here.runner("rnu", exits=2).error.startswith("error: No such command 'rnu'")
    assert "there are no runs yet" in here.runner("show", exits=2).error
