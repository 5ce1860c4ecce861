"""Files and batches of the simulator through the openai SDK, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from openai import APIConnectionError, APIStatusError, AsyncOpenAI
from openai.types import Batch, FileDeleted, FileObject
from openai.types.chat import ChatCompletion
from openai.types.responses import Response
from pydantic import BaseModel
from test_simulator_sdk import SCHEMA, strictly

from runner.simulator import Simulator, SimulatorSettings
from runner.simulator.settings import BatchFaults, BatchScript, BatchSettings

RESPONSES = "/v1/responses"
CHAT = "/v1/chat/completions"
VALIDATING_S, DURATION_S, FINALIZING_S, CANCELLING_S = 60, 1000, 30, 20
DEADLINE_S = 86400


class World:
    """A simulator, its clients, and its clock."""

    def __init__(self, **settings: Any) -> None:
        batches = {
            "speed": 1,
            "validating_s": VALIDATING_S,
            "duration_s": DURATION_S,
            "finalizing_s": FINALIZING_S,
            "cancelling_s": CANCELLING_S,
            **settings.pop("batches", {}),
        }
        self.time = 0.0
        given = SimulatorSettings.model_validate({"latency_s": 0, "batches": batches, **settings})
        self.simulator = Simulator(given, now=lambda: self.time)
        self.client = self.of("key-a")

    def of(self, key: str) -> AsyncOpenAI:
        return AsyncOpenAI(api_key=key, base_url=self.simulator.base_url or "http://nowhere", max_retries=0)

    async def __aenter__(self) -> World:
        await self.simulator.start()
        self.client = self.of("key-a")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self.simulator.stop()

    async def upload(self, lines: Sequence[Any] | bytes) -> FileObject:
        content = lines if isinstance(lines, bytes) else b"".join(json.dumps(each).encode() + b"\n" for each in lines)
        return await self.client.files.create(file=("batch.jsonl", content), purpose="batch")

    async def submit(self, lines: Sequence[Any] | bytes, endpoint: Any = RESPONSES, **fields: Any) -> Batch:
        file = await self.upload(lines)
        return await self.client.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h", **fields
        )

    async def after(self, seconds: float, batch: Batch) -> Batch:
        """The batch, so many seconds later."""
        self.time += seconds
        return await self.client.batches.retrieve(batch.id)

    async def ended(self, lines: Sequence[Any] | bytes, endpoint: str = RESPONSES, **fields: Any) -> Batch:
        return await self.after(DEADLINE_S, await self.submit(lines, endpoint, **fields))

    async def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        assert file_id is not None
        content = await self.client.files.content(file_id)
        return [json.loads(line) for line in content.text.splitlines()]

    async def stats(self) -> dict[str, Any]:
        answer = await self.client._client.get(self.simulator.base_url.removesuffix("/v1") + "/stats")
        value: dict[str, Any] = answer.json()
        return value


def story(tell: Callable[[World], Awaitable[None]], **settings: Any) -> None:
    """Run a story in a world with these settings."""

    async def main() -> None:
        async with World(**settings) as world:
            await tell(world)

    asyncio.run(main())


def body(text: str, **fields: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": text}], "model": "gpt-6-luna", **fields}


def line(custom_id: str, asked: dict[str, Any] | None = None, url: str = RESPONSES, **fields: Any) -> dict[str, Any]:
    asked = body(f"about learning machines {custom_id}") if asked is None else asked
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": asked} | fields


def lines(count: int) -> list[dict[str, Any]]:
    return [line(f"r{number}") for number in range(count)]


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_file_is_uploaded_listed_downloaded_and_deleted() -> None:
    async def tell(world: World) -> None:
        files = world.client.files
        raw = await files.with_raw_response.create(file=("a.jsonl", b'{"a":1}\n'), purpose="batch")
        strictly(FileObject, raw.text)
        one = raw.parse()
        assert (one.filename, one.bytes, one.purpose, one.id[:5]) == ("a.jsonl", 8, "batch", "file-")
        strictly(FileObject, (await files.with_raw_response.retrieve(one.id)).text)
        assert (await files.content(one.id)).content == b'{"a":1}\n'
        world.time += 1
        two = await files.create(file=("b.txt", b"b"), purpose="user_data")
        assert [each.id async for each in files.list()] == [two.id, one.id]
        assert [each.id async for each in files.list(limit=1, order="asc")] == [one.id, two.id]
        assert [each.id async for each in files.list(purpose="batch")] == [one.id]
        strictly(FileDeleted, (await files.with_raw_response.delete(one.id)).text)
        with pytest.raises(APIStatusError, match="No such File object") as caught:
            await files.content(one.id)
        assert caught.value.status_code == 404
        assert (await world.stats())["files"] == {
            "uploaded": 2, "deleted": 1, "present": 1, "uploads_present": 1, "results_present": 0,
            "results_never_downloaded": 0,
        }  # fmt: skip

    story(tell)


def test_a_file_that_cannot_be_taken_is_refused() -> None:
    async def tell(world: World) -> None:
        async def refused(content: bytes, purpose: Any) -> tuple[int, str | None, str | None]:
            with pytest.raises(APIStatusError) as caught:
                await world.client.files.create(file=("a.jsonl", content), purpose=purpose)
            return caught.value.status_code, caught.value.code, caught.value.param

        assert await refused(b"x" * 101, "batch") == (413, "file_too_large", "file")
        assert await refused(b"x" * 5_000_000, "batch") == (413, "file_too_large", "file")
        assert await refused(b"x", "nonsense") == (400, "invalid_value", "purpose")
        assert await refused(b"", "batch") == (400, "empty_file", "file")
        assert (await world.client.files.create(file=("a", b"x" * 100), purpose="batch")).bytes == 100
        raw = await world.client._client.post(world.simulator.base_url + "/files", content=b"{}")
        assert raw.status_code == 400
        assert raw.json()["error"]["code"] == "invalid_form"
        assert (await world.stats())["files"]["present"] == 1

    story(tell, batches={"max_file_bytes": 100})


def test_files_and_batches_are_their_accounts_alone() -> None:
    async def tell(world: World) -> None:
        batch = await world.submit(lines(2))
        async with world.of("key-b") as other:
            for call in (
                other.files.retrieve(batch.input_file_id),
                other.files.content(batch.input_file_id),
                other.files.delete(batch.input_file_id),
                other.batches.retrieve(batch.id),
                other.batches.cancel(batch.id),
                other.batches.create(
                    input_file_id=batch.input_file_id, endpoint=RESPONSES, completion_window="24h"
                ),
            ):  # fmt: skip
                with pytest.raises(APIStatusError) as caught:
                    await call
                assert caught.value.status_code == 404
            assert [each async for each in other.files.list()] == []
            assert [each async for each in other.batches.list()] == []
        async with world.of("nobody") as nobody:
            with pytest.raises(APIStatusError) as caught:
                await nobody.batches.list()
            assert caught.value.status_code == 401

    story(tell, accounts=[{"key": "key-a"}, {"key": "key-b"}])


# The life of a batch --------------------------------------------------------------------------------------------------


def test_a_batch_goes_from_state_to_state_by_the_clock() -> None:
    async def tell(world: World) -> None:
        batch = await world.submit(lines(10), metadata={"run": "x"})
        start = batch.created_at
        assert batch.expires_at == start + DEADLINE_S
        assert (batch.status, batch.model, batch.metadata) == ("validating", None, {"run": "x"})
        batch = await world.after(VALIDATING_S, batch)
        assert (batch.status, batch.in_progress_at, batch.model) == ("in_progress", start + 60, "gpt-6-luna")
        counts = batch.request_counts
        assert counts is not None
        assert (counts.total, counts.completed) == (10, 0)
        batch = await world.after(DURATION_S / 2, batch)
        assert batch.request_counts is not None
        assert (batch.status, batch.request_counts.completed) == ("in_progress", 5)
        batch = await world.after(DURATION_S / 2, batch)
        assert (batch.status, batch.finalizing_at, batch.output_file_id) == ("finalizing", start + 1060, None)
        raw = await world.client.batches.with_raw_response.retrieve(batch.id)
        strictly(Batch, raw.text)
        world.time += FINALIZING_S
        raw = await world.client.batches.with_raw_response.retrieve(batch.id)
        strictly(Batch, raw.text)
        assert abs(float(raw.headers["x-simulated-now"]) - (start + 1090)) < 1
        batch = raw.parse()
        assert (batch.status, batch.completed_at) == ("completed", start + 1090)
        assert batch.error_file_id is None
        assert batch.output_file_id is not None
        strictly(FileObject, (await world.client.files.with_raw_response.retrieve(batch.output_file_id)).text)
        found = await world.lines(batch.output_file_id)
        ids = [each["custom_id"] for each in found]
        assert sorted(ids) == sorted(f"r{number}" for number in range(10))
        assert ids != [f"r{number}" for number in range(10)]
        assert batch.usage is not None
        assert batch.usage.total_tokens == sum(each["response"]["body"]["usage"]["total_tokens"] for each in found)

    story(tell)


def test_time_can_be_sped_up() -> None:
    async def tell(world: World) -> None:
        batch = await world.submit(lines(1))
        assert (await world.after(0.25, batch)).status == "in_progress"
        batch = await world.after(0.25, batch)
        assert batch.status == "completed"
        assert batch.completed_at is not None
        assert batch.completed_at - batch.created_at == 1090

    story(tell, batches={"speed": 3600})


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_a_line_gets_the_answer_that_the_request_gets_alone(api: str) -> None:
    async def tell(world: World) -> None:
        text = "We train learning machines on réal data."
        if api == "chat":
            messages: Any = [{"role": "user", "content": text}]
            held: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
            fields = {"model": "gpt-6-luna", "messages": messages, "response_format": held}
            live = (await world.client.chat.completions.with_raw_response.create(**fields)).text
        else:
            form: Any = {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}}
            fields = {"model": "gpt-6-luna", "input": [{"role": "user", "content": text}], "text": form}
            live = (await world.client.responses.with_raw_response.create(**fields)).text
        url = CHAT if api == "chat" else RESPONSES
        batch = await world.ended([line("a", fields, url)], url)
        found = (await world.lines(batch.output_file_id))[0]
        assert list(found) == ["id", "custom_id", "response", "error"]
        assert found["id"].startswith("batch_req_")
        assert found["error"] is None
        assert found["response"]["status_code"] == 200
        assert found["response"]["request_id"].startswith("req_")
        answer = found["response"]["body"]
        strictly(ChatCompletion if api == "chat" else Response, json.dumps(answer))
        alone = json.loads(live)
        for each in (answer, alone):  # an id is an attempt's
            del each["id"]
            if api == "responses":
                del each["output"][0]["id"]
        assert answer == alone
        stats = await world.stats()
        assert stats["answered_more_than_once"] == 1
        assert stats["extra_answers"] == 1
        assert stats["tokens"] == stats["batches"]["tokens"]

    story(tell)


def test_a_batch_is_repeated_with_its_seed() -> None:
    def results(seed: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []

        async def tell(world: World) -> None:
            batch = await world.ended(lines(20))
            found.extend(await world.lines(batch.output_file_id))

        story(tell, seed=seed)
        return found

    assert results(1) == results(1)
    assert [each["custom_id"] for each in results(1)] != [each["custom_id"] for each in results(2)]


def test_batches_are_listed_newest_first_page_by_page() -> None:
    async def tell(world: World) -> None:
        made = []
        for _ in range(5):
            made.append((await world.submit(lines(1))).id)
            world.time += 1
        raw = await world.client.batches.with_raw_response.list(limit=2)
        listed = json.loads(raw.text)
        assert {key: value for key, value in listed.items() if key != "data"} == {
            "object": "list", "first_id": made[4], "last_id": made[3], "has_more": True
        }  # fmt: skip
        for each in listed["data"]:
            strictly(Batch, json.dumps(each))
        assert [each.id async for each in world.client.batches.list(limit=2)] == made[::-1]
        assert [each.id async for each in world.client.batches.list(after=made[1])] == made[:1]
        with pytest.raises(APIStatusError, match="'limit': expected an integer from 1 to 100, but got '101'"):
            await world.client.batches.list(limit=101)

    story(tell)


# Refusals and failures ------------------------------------------------------------------------------------------------


def test_a_request_for_a_batch_is_checked() -> None:
    async def tell(world: World) -> None:
        good = await world.upload(lines(1))
        other = await world.client.files.create(file=("a", b"x"), purpose="user_data")
        wrong: list[tuple[dict[str, Any], int, str | None, str | None]] = [
            ({"input_file_id": "file-none"}, 404, None, "id"),
            ({"input_file_id": other.id}, 400, "invalid_purpose", "input_file_id"),
            ({"endpoint": "/v1/decisions"}, 400, "invalid_value", "endpoint"),
            ({"endpoint": "/v1/embeddings"}, 400, "invalid_value", "endpoint"),
            ({"completion_window": "1h"}, 400, "invalid_value", "completion_window"),
            ({"metadata": {str(n): "" for n in range(17)}}, 400, "object_above_max_properties", "metadata"),
            ({"metadata": {"k" * 65: ""}}, 400, "string_above_max_length", "metadata"),
            ({"metadata": {"k": "v" * 513}}, 400, "string_above_max_length", "metadata.k"),
            ({"metadata": {"k": 1}}, 400, "invalid_type", "metadata"),
            ({"extra_body": {"nonsense": 1}}, 400, "unknown_parameter", "nonsense"),
        ]
        for fields, status, code, param in wrong:
            asked = {"input_file_id": good.id, "endpoint": RESPONSES, "completion_window": "24h", **fields}
            with pytest.raises(APIStatusError) as caught:
                await world.client.batches.create(**asked)
            assert (caught.value.status_code, caught.value.code, caught.value.param) == (status, code, param)
        assert (await world.stats())["batches"]["created"] == 0

    story(tell)


GOOD = json.dumps(line("good")).encode() + b"\n"
BAD_INPUTS: dict[str, tuple[bytes, list[tuple[str, int | None, str | None]]]] = {
    "json": (GOOD + b"{nope\n" + b"[1]\n", [("invalid_json_line", 2, None), ("invalid_json_line", 3, None)]),
    "duplicate": (GOOD + b"\n" + GOOD, [("duplicate_custom_id", 3, "custom_id")]),
    "url": (GOOD + json.dumps(line("b", url=CHAT)).encode(), [("url_mismatch", 2, "url")]),
    "method": (json.dumps(line("b", method="GET")).encode(), [("invalid_method", 1, "method")]),
    "model": (
        GOOD + json.dumps(line("b", body("x", model="gpt-6-sol"))).encode(),
        [("model_mismatch", 2, "body.model")],
    ),
    "unknown model": (
        json.dumps(line("b", body("x", model="gpt-7"))).encode(),
        [("model_not_found", 1, "body.model")],
    ),
    "no model": (
        json.dumps(line("b", {"input": "x"})).encode(),
        [("missing_required_parameter", 1, "body.model")],
    ),
    "no id": (json.dumps(line("")).encode(), [("missing_required_parameter", 1, "custom_id")]),
    "no body": (json.dumps(line("a") | {"body": None}).encode(), [("missing_required_parameter", 1, "body")]),
    "body": (json.dumps(line("a") | {"body": "x"}).encode(), [("invalid_type", 1, "body")]),
    "empty": (b"\n \n", [("empty_file", None, None)]),
    "many": (b"".join(json.dumps(line(str(n))).encode() + b"\n" for n in range(4)), [("too_many_tasks", None, None)]),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_what_is_wrong_with_the_lines_shows_when_they_were_validated(case: str) -> None:
    content, expected = BAD_INPUTS[case]

    async def tell(world: World) -> None:
        batch = await world.submit(content)
        assert (await world.after(VALIDATING_S - 1, batch)).status == "validating"
        world.time += 1
        raw = await world.client.batches.with_raw_response.retrieve(batch.id)
        strictly(Batch, raw.text)
        batch = raw.parse()
        assert (batch.status, batch.failed_at) == ("failed", batch.created_at + VALIDATING_S)
        assert batch.errors is not None
        assert [(each.code, each.line, each.param) for each in batch.errors.data or ()] == expected
        assert (batch.output_file_id, batch.error_file_id, batch.in_progress_at) == (None, None, None)
        assert (await world.stats())["batches"]["batch_requests"] == 0

    story(tell, models=["gpt-6-luna", "gpt-6-sol"], batches={"max_requests": 3})


def test_enqueued_tokens_are_an_accounts_and_a_models_until_a_batch_ends() -> None:
    async def tell(world: World) -> None:
        ten = [line("a", body("x" * 40))]  # forty characters are ten tokens
        first, second = await world.submit(ten), await world.submit(ten)
        other_model = await world.submit([line("a", body("x" * 40, model="gpt-6-sol"))])
        third = await world.submit(ten)
        states = [(await world.after(at, each)).status for at, each in ((VALIDATING_S, first), (0, second), (0, third))]
        assert states == ["in_progress", "in_progress", "failed"]
        assert (await world.after(0, other_model)).status == "in_progress"
        errors = (await world.after(0, third)).errors
        assert errors is not None
        assert errors.data is not None
        assert [(each.code, each.line) for each in errors.data] == [("token_limit_exceeded", None)]
        assert errors.data[0].message == (
            "Enqueued token limit reached for gpt-6-luna. Limit: 25 enqueued tokens. "
            "Please try again once some in_progress batches have been completed."
        )
        await world.client.batches.cancel(first.id)
        assert (await world.after(CANCELLING_S, first)).status == "cancelled"
        assert (await world.after(VALIDATING_S, await world.submit(ten))).status == "in_progress"
        assert (await world.stats())["batches"]["max_enqueued_tokens"] == 20

    story(tell, batches={"enqueued_tokens": 25})


def test_nothing_is_enqueued_once_batches_ended() -> None:
    async def tell(world: World) -> None:
        for _ in range(3):
            assert (await world.ended([line("a", body("x" * 40))])).status == "completed"

    story(tell, batches={"enqueued_tokens": 10})


# Partial results ------------------------------------------------------------------------------------------------------


def test_an_expired_batch_keeps_what_was_done() -> None:
    async def tell(world: World) -> None:
        batch = await world.submit(lines(10))
        assert (await world.after(DEADLINE_S - 1, batch)).status == "in_progress"
        world.time += 1
        raw = await world.client.batches.with_raw_response.retrieve(batch.id)
        strictly(Batch, raw.text)
        batch = raw.parse()
        assert (batch.status, batch.expired_at) == ("expired", batch.created_at + DEADLINE_S)
        done, undone = await world.lines(batch.output_file_id), await world.lines(batch.error_file_id)
        assert (len(done), len(undone)) == (6, 4)
        assert sorted(each["custom_id"] for each in done + undone) == sorted(f"r{number}" for number in range(10))
        for each in undone:
            assert each["response"] is None
            assert each["error"] == {
                "code": "batch_expired",
                "message": "This request could not be executed before the completion window expired.",
            }
        stats = (await world.stats())["batches"]
        assert (stats["batch_requests"], stats["expired_requests"], stats["states"]) == (6, 4, {"expired": 1})

    story(tell, batches={"script": [{"expire_at": 0.6}]})


@pytest.mark.parametrize(("share", "files"), [(0, (False, True)), (1, (True, False))])
def test_a_batch_may_expire_with_nothing_or_all_done(share: int, files: tuple[bool, bool]) -> None:
    async def tell(world: World) -> None:
        batch = await world.submit(lines(7))
        batch = await world.after(DEADLINE_S, batch)
        assert batch.status == "expired"
        assert (batch.output_file_id is not None, batch.error_file_id is not None) == files

    story(tell, batches={"script": [{"expire_at": share}]})


def test_a_slow_batch_expires_by_itself() -> None:
    async def tell(world: World) -> None:
        batch = await world.after(100, await world.submit(lines(10)))
        assert batch.status == "expired"
        assert len(await world.lines(batch.output_file_id)) == 4

    story(tell, batches={"window_s": 100, "duration_s": 100})


def test_a_cancelled_batch_keeps_what_was_done() -> None:
    async def tell(world: World) -> None:
        batch = await world.submit(lines(10))
        world.time += VALIDATING_S + DURATION_S * 0.3
        raw = await world.client.batches.with_raw_response.cancel(batch.id)
        strictly(Batch, raw.text)
        assert raw.parse().status == "cancelling"
        assert (await world.client.batches.cancel(batch.id)).cancelling_at == raw.parse().cancelling_at
        batch = await world.after(CANCELLING_S, batch)
        assert batch.status == "cancelled"
        assert (batch.cancelled_at or 0) - (batch.cancelling_at or 0) == CANCELLING_S
        assert len(await world.lines(batch.output_file_id)) == 3
        undone = await world.lines(batch.error_file_id)
        assert [each["error"]["code"] for each in undone] == ["batch_cancelled"] * 7
        with pytest.raises(APIStatusError, match="Cannot cancel a batch with status 'cancelled'") as caught:
            await world.client.batches.cancel(batch.id)
        assert caught.value.status_code == 409
        stats = (await world.stats())["batches"]
        assert (stats["batch_requests"], stats["cancelled_requests"]) == (3, 7)

    story(tell)


def test_a_batch_that_is_cancelled_before_it_was_validated_has_no_results() -> None:
    async def tell(world: World) -> None:
        batch = await world.client.batches.cancel((await world.submit(lines(3))).id)
        assert batch.status == "cancelling"
        batch = await world.after(DEADLINE_S, batch)
        assert (batch.status, batch.output_file_id, batch.error_file_id) == ("cancelled", None, None)

    story(tell)


def test_a_batch_that_is_cancelled_while_it_is_finalized_has_all_results() -> None:
    async def tell(world: World) -> None:
        batch = await world.after(VALIDATING_S + DURATION_S, await world.submit(lines(5)))
        assert batch.status == "finalizing"
        await world.client.batches.cancel(batch.id)
        cancelled = await world.after(CANCELLING_S, batch)
        assert (cancelled.status, cancelled.finalizing_at) == ("cancelled", batch.finalizing_at)
        assert (cancelled.completed_at, cancelled.error_file_id) == (None, None)
        assert len(await world.lines(cancelled.output_file_id)) == 5

    story(tell)


# Faults ---------------------------------------------------------------------------------------------------------------


def test_a_request_that_failed_is_in_the_error_file_and_gets_another_draw_in_a_next_batch() -> None:
    async def tell(world: World) -> None:
        left = {each["custom_id"]: each for each in lines(40)}
        rounds, paid = 0, 0
        while left:
            batch = await world.ended(list(left.values()))
            assert batch.request_counts is not None
            rounds, paid = rounds + 1, paid + batch.request_counts.completed
            if batch.error_file_id is not None:
                for each in await world.lines(batch.error_file_id):
                    assert each["error"] is None
                    assert each["response"]["status_code"] in (429, 500)
                    assert each["response"]["body"]["error"]["type"] in ("requests", "server_error")
            for each in await world.lines(batch.output_file_id):
                del left[each["custom_id"]]
        assert rounds > 1
        assert paid == 40
        stats = await world.stats()
        assert stats["extra_answers"] == 0
        assert stats["batches"]["answered"] == 40
        assert stats["batches"]["failed_requests"] == stats["faults"]["rate_limit"] + stats["faults"]["server_error"]

    story(tell, faults={"server_error": 0.2, "rate_limit": 0.2})


def test_a_body_that_is_wrong_fails_alone() -> None:
    async def tell(world: World) -> None:
        batch = await world.ended([line("good"), line("bad", {"model": "gpt-6-luna"})])
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
        response = (await world.lines(batch.error_file_id))[0]["response"]
        assert (response["status_code"], response["body"]["error"]["code"]) == (400, "missing_required_parameter")

    story(tell)


def test_faults_of_connections_and_limits_do_not_touch_batches() -> None:
    async def tell(world: World) -> None:
        batch = await world.ended(lines(20))
        assert batch.request_counts is not None
        assert batch.request_counts.completed == 20

    faults = {"cut": 0.2, "hang": 0.2, "invalid_json": 0.2, "html": 0.2, "sse": 0.2}
    story(tell, faults=faults, requests_per_minute=1, tokens_per_minute=1)


def test_the_quota_is_spent_by_batches_too() -> None:
    async def tell(world: World) -> None:
        batch = await world.ended(lines(5))
        assert len(await world.lines(batch.output_file_id)) == 3
        errors = [each["response"]["body"]["error"]["code"] for each in await world.lines(batch.error_file_id)]
        assert errors == ["insufficient_quota"] * 2
        with pytest.raises(APIStatusError) as caught:
            await world.client.responses.create(model="gpt-6-luna", input="more")
        assert caught.value.code == "insufficient_quota"

    story(tell, quota_after=3)


def test_a_batch_without_a_success_has_only_an_error_file() -> None:
    async def tell(world: World) -> None:
        batch = await world.ended(lines(3))
        assert (batch.status, batch.output_file_id) == ("completed", None)
        assert [each["response"]["status_code"] for each in await world.lines(batch.error_file_id)] == [400] * 3

    story(tell, batches={"script": [{"only_errors": 400}]})


def test_a_script_spoils_the_results() -> None:
    async def tell(world: World) -> None:
        batch = await world.ended(lines(10))
        assert batch.output_file_id is not None
        with pytest.raises(APIConnectionError):
            await world.client.files.content(batch.output_file_id)
        ids = [each["custom_id"] for each in await world.lines(batch.output_file_id)]
        known = [each for each in ids if not each.startswith("unknown-")]
        assert len(ids) - len(known) == 2
        assert (len(known), len(set(known))) == (9, 7)
        stats = await world.stats()
        assert stats["batches"]["answered"] == 10
        assert stats["files"]["results_never_downloaded"] == 0
        assert (await world.ended(lines(3))).status == "completed"

    entry = {"truncate_download": 1, "unknown_lines": 2, "duplicate_lines": 2, "missing_lines": 3}
    story(tell, batches={"script": [entry]})


@pytest.mark.parametrize("code", ["token_limit_exceeded", "invalid_json_line"])
def test_a_script_lets_batches_fail(code: str) -> None:
    async def tell(world: World) -> None:
        for _ in range(3):
            batch = await world.after(VALIDATING_S, await world.submit(lines(1)))
            assert batch.status == "failed"
            assert batch.errors is not None
            assert [each.code for each in batch.errors.data or ()] == [code]
        assert (await world.ended(lines(1))).status == "completed"

    story(tell, batches={"script": [{"fail": code}] * 3})


def test_a_batch_whose_creation_was_not_answered_is_there() -> None:
    async def tell(world: World) -> None:
        file = await world.upload(lines(1))
        fields: Any = {"input_file_id": file.id, "endpoint": RESPONSES, "completion_window": "24h"}
        with pytest.raises(APIConnectionError):
            await world.client.batches.create(**fields, metadata={"mine": "1"})
        assert [each.metadata async for each in world.client.batches.list()] == [{"mine": "1"}]
        await world.client.batches.create(**fields, metadata={"mine": "1"})
        stats = (await world.stats())["batches"]
        assert (stats["created"], stats["batches_with_same_metadata"]) == (2, 1)

    story(tell, batches={"script": [{"lose_create_answer": True}]})


def test_batches_go_wrong_as_often_as_is_set() -> None:
    async def tell(world: World) -> None:
        states = [(await world.ended(lines(number + 1))).status for number in range(40)]
        assert 5 <= states.count("failed") <= 20
        assert 5 <= states.count("expired") <= 25
        assert states.count("completed") > 5

    story(tell, batches={"faults": {"fail_tokens": 0.3, "expire": 0.5}})


def test_requests_about_batches_can_be_unavailable() -> None:
    async def tell(world: World) -> None:
        with pytest.raises(APIStatusError) as caught:
            await world.client.batches.list()
        assert caught.value.status_code == 503

    story(tell, batches={"faults": {"unavailable": 1}})


def test_a_deleted_input_is_read_to_its_end_by_its_batch() -> None:
    async def tell(world: World) -> None:
        batch = await world.submit(lines(3))
        await world.client.files.delete(batch.input_file_id)
        batch = await world.after(DEADLINE_S, batch)
        assert len(await world.lines(batch.output_file_id)) == 3
        assert (await world.stats())["files"]["uploads_present"] == 0

    story(tell)


def test_statistics_know_of_batches_that_nobody_looks_at() -> None:
    async def tell(world: World) -> None:
        for _ in range(2):
            await world.submit(lines(250))
        world.time += DEADLINE_S
        stats = await world.stats()
        assert stats["batches"]["states"] == {"completed": 2}
        assert stats["batches"]["batch_requests"] == 500
        assert stats["batches"]["max_unfinished"] == 2
        assert (stats["answered_more_than_once"], stats["extra_answers"]) == (250, 250)
        assert stats["files"]["results_never_downloaded"] == 2

    story(tell)


def test_several_may_look_at_once_and_one_may_go_away() -> None:
    async def tell(world: World) -> None:
        batch = await world.submit(lines(2000))
        world.time += DEADLINE_S
        looking = [asyncio.create_task(world.client.batches.retrieve(batch.id)) for _ in range(5)]
        await asyncio.sleep(0.05)
        looking[0].cancel()
        seen = await asyncio.gather(*looking[1:])
        assert {(each.status, each.output_file_id) for each in seen} == {("completed", seen[0].output_file_id)}
        ids = [each["custom_id"] for each in await world.lines(seen[0].output_file_id)]
        assert (len(ids), len(set(ids))) == (2000, 2000)
        assert (await world.stats())["extra_answers"] == 0

    story(tell)


# Documentation --------------------------------------------------------------------------------------------------------


def test_the_page_names_every_setting_and_every_counter() -> None:
    page = (Path(__file__).parent.parent / "docs" / "simulator.md").read_text("utf-8")
    section = page[page.index("## Files and batches") : page.index("## What it answers")]
    named = set(re.findall(r"`([a-z_]+)(?::[^`]*)?`", section))
    models: list[type[BaseModel]] = [BatchSettings, BatchScript, BatchFaults]
    assert {name for model in models for name in model.model_fields} <= named

    async def tell(world: World) -> None:
        stats = await world.stats()
        assert set(stats["files"]) | set(stats["batches"]) <= named

    story(tell)
