"""Rows that wait for the answer to an identical request: any number of them, for any time."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from stored import NOW_US, OUTPUT, table

from runner import twins
from runner.answer import PlainText
from runner.clock import SystemClock
from runner.dialects import dialect
from runner.known import open_known
from runner.pipeline import Pipeline
from runner.records import Item, Request, Result
from runner.requests import RequestBuilder
from runner.stop import Stop
from runner.store import ResultStore
from runner.strategies import Emit, NoOptions, Requests
from runner.tally import Tally
from runner.template import PromptTemplate
from runner.twins import Outcome, Twins

ODD = {
    "text": "\ud800 é \u2028",
    "none": None,
    "yes": True,
    "big": 2**80,
    "float": 1.0,
    "inside": {"list": [1, 1.0, "1", [None]]},
}


@pytest.fixture
def opened() -> Iterator[Twins]:
    made = Twins()
    yield made
    made.close()


def request(index: int, key: int, fields: dict[str, Any] | None = None) -> Request:
    return Request(Item(index, f"r{index}", fields or {}, "rows.jsonl", index + 1, index % 3), b"", f"{key:032x}", 1)


def outcome(text: str) -> Outcome:
    return ["ok", {"label": text}], 0.5


def answered(opened: Twins, most: int = 10**9) -> list[tuple[int, str]]:
    return [(item.index, shared[1]["label"]) for item, _, (shared, _) in opened.answered(most)]


@pytest.mark.parametrize("rows", [3, 10, twins._MOST_ROWS + 10, 3 * twins._MOST_ROWS])
def test_rows_that_waited_come_back_once_as_they_were_and_in_order(opened: Twins, rows: int) -> None:
    assert opened.join(request(0, 1)) is False
    assert all(opened.join(request(index, 1, ODD)) is True for index in range(1, rows))
    assert list(opened.answered(5)) == [], "there is no answer yet"
    opened.settle(f"{1:032x}", outcome("a"), keep=True)
    found = list(chain(opened.answered(2), opened.answered(0), opened.answered(rows)))
    assert [item for item, _, _ in found] == [request(index, 1, ODD).item for index in range(1, rows)]
    assert all(repr(item.fields) == repr(ODD) for item, _, _ in found), "1.0 is not 1"
    assert {(fingerprint, str(shared)) for _, fingerprint, shared in found} == {(f"{1:032x}", str(outcome("a")))}
    assert list(opened.answered(5)) == []


def test_more_requests_in_flight_than_are_kept_in_memory(opened: Twins) -> None:
    sent = twins._MOST_FLYING * 2 + 100
    for key in range(sent):
        assert opened.join(request(key, key)) is False
    for key in range(sent):
        assert opened.join(request(sent + key, key)) is True, "it is in flight"
    for key in range(sent):
        opened.settle(f"{key:032x}", outcome(str(key)), keep=True)
        assert answered(opened) == [(sent + key, str(key))]
    for key in range(0, sent, 50):
        assert opened.join(request(9, key)) == outcome(str(key)), "and later ones need not wait"


def test_a_failure_is_shared_by_those_that_waited_and_the_next_row_is_sent(opened: Twins) -> None:
    many = twins._MOST_ROWS
    opened.join(request(0, 1))
    for index in range(1, many + 11):
        opened.join(request(index, 1))
    opened.settle(f"{1:032x}", outcome("failed"), keep=False)
    assert answered(opened, 5) == [(index, "failed") for index in range(1, 6)]
    assert opened.join(request(many + 11, 1)) is False, "while others are still being told"
    for index in range(many + 12, 3 * many):
        assert opened.join(request(index, 1)) is True
    assert answered(opened) == [(index, "failed") for index in range(6, many + 11)]
    opened.settle(f"{1:032x}", outcome("a"), keep=True)
    assert answered(opened) == [(index, "a") for index in range(many + 12, 3 * many)]


def test_a_failure_of_one_that_was_answered_before_does_not_take_the_answer_away(opened: Twins) -> None:
    for key in range(2 * twins._MOST_OUTCOMES - 1):
        opened.settle(f"{key:032x}", outcome("a"), keep=True)
        opened.settle(f"{key:032x}", outcome("failed"), keep=False)
    assert opened.join(request(1, 1)) == outcome("a")
    assert opened.join(request(1, 2 * twins._MOST_OUTCOMES - 2)) == outcome("a")


def test_a_request_that_failed_after_it_was_put_away_is_sent_again(opened: Twins) -> None:
    for key in range(twins._MOST_FLYING + 1):
        opened.join(request(key, key))
    opened.settle(f"{0:032x}", outcome("failed"), keep=False)
    assert opened.join(request(1, 0)) is False


WAITING = """
import resource, sys
from runner.records import Item, Request
from runner.twins import Twins

def wait(rows):
    opened = Twins()
    for index in range(rows):
        fields = {"text": f"{index} " + "x" * 2000}
        opened.join(Request(Item(index, str(index), fields, "rows.jsonl", index), b"", f"{index % 10:032x}", 1))
    for key in range(10):
        opened.settle(f"{key:032x}", (["ok"], None), keep=True)
    assert sum(1 for _ in opened.answered(rows)) == rows - 10
    opened.close()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

wait(100)
print(wait(25_000), wait(75_000))
"""


def test_memory_does_not_grow_with_the_rows_that_wait() -> None:
    done = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True, check=True)
    few, many = map(float, done.stdout.split())
    assert many - few < 30, f"{few:.0f} MB with 25,000 rows, {many:.0f} MB with 75,000: the rows have 100 MB more"


def test_a_full_disk_ends_the_run_with_one_message() -> None:
    program = WAITING.replace("wait(100)\n", "from runner.errors import FatalError\ntry: wait(25_000)\n").replace(
        "print(wait(25_000), wait(75_000))", "except FatalError as error: print(error.kind); print(error)"
    )
    limit = 1 << 20
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    kind, message, hint = done.stdout.splitlines()
    assert kind == "disk"
    assert message.startswith("identical requests cannot be kept track of: ")
    assert hint == (
        "hint: make room in the folder for temporary files (TMPDIR), then resume: everything finished so far is kept"
    )


# In a run -------------------------------------------------------------------------------------------------------------


class Late:
    """A strategy that has every request before it has an answer, as with a batch.

    Args:
        stop: asked to stop when the first answer is there.
        fails: what the answer is instead.
    """

    Options = NoOptions
    in_flight = 1

    def __init__(self, stop: Stop | None = None, fails: str | None = None) -> None:
        self._stop = stop
        self._fails = fails
        self.sent: list[int] = []

    async def run(self, requests: Requests, calls: Any, emit: Emit) -> None:
        sent = [request for request in requests if request is not None]
        self.sent = [request.item.index for request in sent]
        for each in sent:
            result = Result(each.item, fingerprint=each.fingerprint, attempts=1, queued_at=NOW_US, finished_at=NOW_US)
            if self._fails is None:
                result.status, result.raw = "ok", each.item.fields["text"]
                result.answer = {"label": result.raw}
            else:
                result.error_type, result.error = self._fails, "no luck"
            emit(result)
            if self._stop is not None:
                self._stop.request()
        await asyncio.sleep(0)


def work(folder: Path, rows: int, texts: int, strategy: Late, stop: Stop | None = None) -> Tally:
    """Do the rows of a run that have no result; return what was counted."""

    async def run() -> Tally:
        tally = Tally()
        builder = RequestBuilder(PromptTemplate([("user", "{{ text }}")]), dialect("responses"), ["m"], {}, None)
        items = (Item(i, f"r{i}", {"text": f"text {i % texts}"}, "rows.jsonl", i + 1) for i in range(rows))
        clock = SystemClock()
        opened = open_known(
            folder, OUTPUT.schema, PlainText("label"), clock, pytest.fail, reuse=False, dedupe=True, retry=False
        )
        store = ResultStore(folder, OUTPUT, 1000, {}, soon=asyncio.get_running_loop().call_soon)
        with opened as known, store:
            calls: Any = None  # `Late` sends nothing
            await Pipeline(items, builder, store, strategy, calls, stop or Stop(), tally, clock, known=known).run()
        return tally

    return asyncio.run(run())


def test_answers_that_come_after_all_rows_were_read_reach_every_row(tmp_path: Path) -> None:
    strategy = Late()
    tally = work(tmp_path, 7_500, 50, strategy)
    assert strategy.sent == list(range(50))
    assert tally.done == 7_500
    assert [row["_index"] for row in table(tmp_path)] == list(range(7_500))
    assert all(row["label"] == row["text"] for row in table(tmp_path))


def test_a_run_that_stops_while_it_hands_out_an_answer_does_not_pay_for_it_again(tmp_path: Path) -> None:
    stop = Stop()
    tally = work(tmp_path, 7_500, 1, Late(stop), stop)
    assert 1 < tally.done < 200, "an answer for many does not hold up the end"
    again = Late()
    tally = work(tmp_path, 7_500, 1, again)
    assert again.sent == []
    assert [row["label"] for row in table(tmp_path)] == ["text 0"] * 7_500


def test_a_failure_that_cost_nothing_is_asked_once_more_by_those_that_were_not_told(tmp_path: Path) -> None:
    stop = Stop()
    told = work(tmp_path, 7_500, 1, Late(stop, "server_error"), stop).done
    again = Late()
    work(tmp_path, 7_500, 1, again)
    assert again.sent == [told]
    assert [row["_status"] for row in table(tmp_path)] == ["error"] * told + ["ok"] * (7_500 - told)


def test_an_answer_for_many_rows_leaves_others_their_turn(tmp_path: Path) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    class Counted(Late):
        async def run(self, requests: Requests, calls: Any, emit: Emit) -> None:
            self.counting = asyncio.create_task(count())
            await super().run(requests, calls, emit)

    work(tmp_path, 7_500, 1, Counted())
    assert turns > 7_500 / 100
