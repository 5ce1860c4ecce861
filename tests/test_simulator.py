"""The simulator over real HTTP: its faults, its refusals, and what it counts."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError

from runner.errors import RunnerError
from runner.simulator import Simulator, SimulatorSettings

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
CHAT = "/chat/completions"
RESPONSES = "/responses"


def chat(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **fields}


def with_schema(text: str = "hello") -> dict[str, Any]:
    held = {"name": "answer", "schema": SCHEMA}
    return chat(text, response_format={"type": "json_schema", "json_schema": held})


class Client:
    """A bare HTTP client of one simulator."""

    def __init__(self, base_url: str, session: aiohttp.ClientSession) -> None:
        self.base_url = base_url
        self.session = session

    async def post(self, body: Any, path: str = CHAT, key: str | None = None) -> tuple[int, dict[str, str], bytes]:
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        async with self.session.post(self.base_url + path, data=json.dumps(body), headers=headers) as response:
            return response.status, {k.lower(): v for k, v in response.headers.items()}, await response.read()

    async def ask(self, body: Any, path: str = CHAT) -> Any:
        status, _, content = await self.post(body, path)
        assert status == 200, content
        return json.loads(content)

    async def error(self, body: Any, path: str = CHAT, key: str | None = None) -> tuple[int, Any, Any]:
        status, _, content = await self.post(body, path, key)
        error = json.loads(content)["error"]
        return status, error["type"], error["code"]


def against(story: Callable[[Client, Simulator], Awaitable[None]], **settings: Any) -> dict[str, Any]:
    """Run a story against a simulator, and return its statistics."""

    async def main() -> dict[str, Any]:
        simulator = Simulator(SimulatorSettings.model_validate({"latency_s": 0, **settings}))
        async with simulator, aiohttp.ClientSession() as session:
            await story(Client(simulator.base_url, session), simulator)
        return simulator.stats()

    return asyncio.run(main())


async def until_in_flight(simulator: Simulator, number: int) -> None:
    """Let the event loop go on until so many requests are in flight."""
    async with asyncio.timeout(5):
        while simulator.stats()["in_flight"] != number:  # noqa: ASYNC110 - the server has no reason to tell
            await asyncio.sleep(0.001)


def test_an_answer_over_http():
    async def story(client: Client, _: Simulator) -> None:
        status, headers, content = await client.post(chat())
        assert status == 200
        assert headers["content-type"].startswith("application/json")
        assert headers["x-request-id"].startswith("req_")
        assert "openai-processing-ms" in headers
        assert json.loads(content)["object"] == "chat.completion"
        assert (await client.ask({"model": "m", "input": "hi"}, RESPONSES))["object"] == "response"

    stats = against(story)
    assert stats["requests"] == 2
    assert stats["statuses"] == {"200": 2}
    assert stats["in_flight"] == 0
    assert stats["connections"] == 1
    assert stats["tokens"]["input"] == 3
    assert stats["first_request_at"] <= stats["last_request_at"]


def test_anything_else_is_404_in_the_error_envelope():
    async def story(client: Client, _: Simulator) -> None:
        assert await client.error(chat(), "/embeddings") == (404, "invalid_request_error", None)
        async with client.session.get(client.base_url + CHAT) as response:
            assert response.status == 404
            assert set(await response.json()) == {"error"}

    assert against(story)["statuses"] == {"404": 2}


def test_only_the_right_key_opens():
    async def story(client: Client, _: Simulator) -> None:
        assert (await client.post(chat(), key="sk-right"))[0] == 200
        assert await client.error(chat(), key="sk-wrong") == (401, "invalid_request_error", "invalid_api_key")
        assert await client.error(chat()) == (401, "invalid_request_error", "invalid_api_key")
        _, _, content = await client.post(chat(), key="sk-wrong")
        assert b"sk-" not in content

    against(story, api_keys=["sk-right"])


def test_the_quota_runs_out_after_so_many_answers():
    async def story(client: Client, _: Simulator) -> None:
        for number in range(3):
            assert (await client.post(chat(str(number))))[0] == 200
        for _ in range(2):
            assert await client.error(chat("more")) == (429, "insufficient_quota", "insufficient_quota")

    assert against(story, quota_after=3)["statuses"] == {"200": 3, "429": 2}


def test_a_quota_is_not_overdrawn_by_requests_in_flight():
    async def story(client: Client, _: Simulator) -> None:
        answers = await asyncio.gather(*(client.post(chat(str(number))) for number in range(20)))
        assert [status for status, _, _ in answers].count(200) == 5

    against(story, quota_after=5, latency_s=0.02)


def test_limits_refuse_with_429_and_say_when_to_come_back():
    time = 0.0

    async def main() -> None:
        nonlocal time
        settings = SimulatorSettings(latency_s=0, requests_per_minute=60, tokens_per_minute=6000)
        async with aiohttp.ClientSession() as session:
            simulator = Simulator(settings, now=lambda: time)
            client = Client(await simulator.start(), session)
            status, headers, _ = await client.post(chat("x" * 40, max_tokens=30))
            assert status == 200
            assert headers["x-ratelimit-limit-requests"] == "60"
            assert headers["x-ratelimit-remaining-requests"] == "0"
            assert headers["x-ratelimit-reset-requests"] == "1s"
            assert headers["x-ratelimit-remaining-tokens"] == "60"
            time = 0.25
            status, headers, content = await client.post(chat())
            assert status == 429
            assert (headers["retry-after"], headers["retry-after-ms"]) == ("0.75", "750")
            error = json.loads(content)["error"]
            assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
            time = 1.0
            assert (await client.post(chat()))[0] == 200
            time = 2.0
            assert (await client.post(chat("x", max_tokens=5000)))[0] == 200
            time = 3.0
            assert await client.error(chat()) == (429, "tokens", "rate_limit_exceeded")
            await simulator.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "status", "error_type", "code"),
    [
        ("rate_limit", 429, "requests", "rate_limit_exceeded"),
        ("server_error", 500, "server_error", None),
        ("unavailable", 503, "server_error", "server_overloaded"),
        ("bad_request", 400, "invalid_request_error", "simulated_bad_request"),
    ],
)
def test_faults_with_an_error_status(kind: str, status: int, error_type: str, code: str | None):
    async def story(client: Client, _: Simulator) -> None:
        assert await client.error(chat()) == (status, error_type, code)
        _, headers, _ = await client.post(chat())
        assert headers.get("retry-after") == ("2.5" if kind in ("rate_limit", "unavailable") else None)

    stats = against(story, faults={kind: 1}, retry_after_s=2.5)
    assert stats["faults"] == {kind: 2}
    assert stats["statuses"] == {str(status): 2}
    assert stats["answered_more_than_once"] == 0


def test_retry_after_can_be_left_out():
    async def story(client: Client, _: Simulator) -> None:
        _, headers, _ = await client.post(chat())
        assert "retry-after" not in headers
        assert "retry-after-ms" not in headers

    against(story, faults={"rate_limit": 1}, retry_after_s=None)


def test_cut_connections_break_off_before_and_within_the_answer(caplog: pytest.LogCaptureFixture):
    kinds: set[type[Exception]] = set()

    async def story(client: Client, _: Simulator) -> None:
        for number in range(12):
            with pytest.raises(aiohttp.ClientError) as caught:
                await client.post(chat(str(number)))
            kinds.add(type(caught.value))

    stats = against(story, faults={"cut": 1})
    assert kinds == {aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError}
    assert stats["faults"] == {"cut": 12}
    assert caplog.text == "", "a rehearsal shows no traceback for it"
    assert (stats["statuses"], stats["abandoned"], stats["in_flight"]) == ({}, 0, 0)


def test_a_hang_is_silent_until_the_client_gives_up():
    async def story(client: Client, simulator: Simulator) -> None:
        asked = asyncio.create_task(client.post(chat()))
        await until_in_flight(simulator, 1)
        asked.cancel()
        await until_in_flight(simulator, 0)

    stats = against(story, faults={"hang": 1})
    assert (stats["faults"], stats["abandoned"], stats["statuses"]) == ({"hang": 1}, 1, {})
    assert stats["max_in_flight"] == 1


def test_a_hang_ends_after_hang_s():
    async def story(client: Client, _: Simulator) -> None:
        assert (await client.post(chat()))[0] == 200

    against(story, faults={"hang": 1}, hang_s=0.01)


def test_invalid_json():
    async def story(client: Client, _: Simulator) -> None:
        for number in range(10):
            status, headers, content = await client.post(chat(str(number)))
            assert status == 200
            assert headers["content-type"].startswith("application/json")
            with pytest.raises(json.JSONDecodeError):
                json.loads(content)

    assert against(story, faults={"invalid_json": 1})["tokens"]["output"] == 0


@pytest.mark.parametrize(("kind", "content_type"), [("html", "text/html"), ("sse", "text/event-stream")])
def test_answers_of_another_type(kind: str, content_type: str):
    async def story(client: Client, _: Simulator) -> None:
        for path, body in ((CHAT, chat()), (RESPONSES, {"model": "m", "input": "hi"})):
            status, headers, content = await client.post(body, path)
            assert status == 200
            assert headers["content-type"].split(";")[0] == content_type
            assert b"<h1>" in content if kind == "html" else b"data: {" in content

    against(story, faults={kind: 1})


def test_invalid_replies_come_in_a_sound_envelope():
    texts: list[str] = []

    async def story(client: Client, _: Simulator) -> None:
        answers = [await client.ask(with_schema(str(number))) for number in range(20)]
        texts.extend(answer["choices"][0]["message"]["content"] for answer in answers)
        assert (await client.ask(chat()))["choices"][0]["message"]["content"]

    assert against(story, faults={"invalid_reply": 1})["faults"] == {"invalid_reply": 20}
    assert len({text[:3] for text in texts}) > 2
    for text in texts:
        try:
            assert not isinstance(json.loads(text), dict)
        except json.JSONDecodeError:
            continue


@pytest.mark.parametrize("kind", ["refusal", "no_usage", "null_content", "no_choices"])
def test_answers_that_lack_something(kind: str):
    async def story(client: Client, _: Simulator) -> None:
        completion = await client.ask(chat())
        response = await client.ask({"model": "m", "input": "hi"}, RESPONSES)
        if kind == "no_usage":
            assert "usage" not in completion
            assert "usage" not in response
        elif kind == "no_choices":
            assert completion["choices"] == []
            assert response["output"] == []
        elif kind == "refusal":
            assert completion["choices"][0]["message"]["content"] is None
            assert completion["choices"][0]["message"]["refusal"]
            assert response["output"][0]["content"][0]["type"] == "refusal"
        else:
            assert completion["choices"][0]["message"]["content"] is None
            assert completion["choices"][0]["message"]["refusal"] is None
            assert response["output"][0]["content"][0]["text"] is None

    assert against(story, faults={kind: 1})["faults"] == {kind: 2}


def test_bad_requests_are_decided_by_the_body_for_good():
    async def story(client: Client, _: Simulator) -> None:
        statuses = [[(await client.post(chat(str(number))))[0] for _ in range(3)] for number in range(40)]
        assert all(len(set(each)) == 1 for each in statuses)
        assert 5 < [each[0] for each in statuses].count(400) < 35

    against(story, faults={"bad_request": 0.5}, max_faults_per_body=1)


def test_faults_depend_on_seed_body_and_attempt_alone():
    async def statuses(order: list[str], seed: int) -> dict[str, list[int]]:
        settings = SimulatorSettings.model_validate({"latency_s": 0, "seed": seed, "faults": {"server_error": 0.5}})
        async with Simulator(settings) as simulator, aiohttp.ClientSession() as session:
            client = Client(simulator.base_url, session)
            return {text: [(await client.post(chat(text)))[0] for _ in range(8)] for text in order}

    texts = ["a", "b", "c"]
    first = asyncio.run(statuses(texts, seed=1))
    assert asyncio.run(statuses(texts[::-1], seed=1)) == first
    assert asyncio.run(statuses(texts, seed=2)) != first
    assert {status for each in first.values() for status in each} == {200, 500}


def test_a_body_is_not_faulted_for_ever():
    async def story(client: Client, _: Simulator) -> None:
        assert [(await client.post(chat()))[0] for _ in range(4)] == [500, 500, 200, 200]

    against(story, faults={"server_error": 1}, max_faults_per_body=2)


def test_faults_come_about_as_often_as_asked():
    async def story(client: Client, _: Simulator) -> None:
        for number in range(1000):
            await client.post(chat(str(number)))

    faults = against(story, faults={"rate_limit": 0.1, "server_error": 0.05, "refusal": 0.02})["faults"]
    assert 70 < faults["rate_limit"] < 130
    assert 30 < faults["server_error"] < 70
    assert 8 < faults["refusal"] < 35


def test_bodies_answered_more_than_once_are_counted():
    async def story(client: Client, simulator: Simulator) -> None:
        for text in ("a", "b", "b", "c", "c", "c"):
            await client.ask(chat(text))
        stats = simulator.stats()
        assert (stats["distinct_bodies"], stats["answered_more_than_once"], stats["extra_answers"]) == (3, 2, 3)
        async with client.session.get(client.base_url.removesuffix("/v1") + "/stats") as response:
            assert await response.json() == stats
        async with client.session.post(client.base_url.removesuffix("/v1") + "/stats/reset") as response:
            assert response.status == 200
        assert simulator.stats()["requests"] == 0

    stats = against(story)
    assert (stats["distinct_bodies"], stats["extra_answers"], stats["statuses"]) == (0, 0, {})


@pytest.mark.parametrize("kind", ["invalid_json", "html", "sse", "invalid_reply", "null_content", "no_choices"])
def test_a_200_that_a_client_cannot_use_is_no_answer(kind: str):
    async def story(client: Client, _: Simulator) -> None:
        for _ in range(3):
            await client.post(with_schema())

    stats = against(story, faults={kind: 1}, max_faults_per_body=2)
    assert stats["statuses"] == {"200": 3}
    assert (stats["answered_more_than_once"], stats["distinct_bodies"]) == (0, 1)


def test_a_request_whose_client_went_away_is_abandoned_not_answered():
    async def story(client: Client, simulator: Simulator) -> None:
        asked = [asyncio.create_task(client.post(chat(str(number)))) for number in range(5)]
        await until_in_flight(simulator, 5)
        for task in asked[:3]:
            task.cancel()
        await until_in_flight(simulator, 2)
        assert [status for status, _, _ in await asyncio.gather(*asked[3:])] == [200, 200]

    stats = against(story, latency_s=0.15)
    assert (stats["requests"], stats["abandoned"], stats["statuses"]) == (5, 3, {"200": 2})
    assert (stats["in_flight"], stats["max_in_flight"], stats["answered_more_than_once"]) == (0, 5, 0)


def test_an_abandoned_request_gives_its_quota_back():
    async def story(client: Client, simulator: Simulator) -> None:
        asked = asyncio.create_task(client.post(chat("abandoned")))
        await until_in_flight(simulator, 1)
        assert (await client.post(chat("too many")))[0] == 429
        asked.cancel()
        await until_in_flight(simulator, 0)
        assert (await client.post(chat("first")))[0] == 200
        assert (await client.post(chat("second")))[0] == 429

    against(story, quota_after=1, latency_s=0.08)


def test_stopping_does_not_wait_for_those_that_wait():
    async def main() -> None:
        simulator = Simulator(SimulatorSettings(latency_s=3600))
        async with aiohttp.ClientSession() as session:
            client = Client(await simulator.start(), session)
            asked = asyncio.create_task(client.post(chat()))
            await until_in_flight(simulator, 1)
            async with asyncio.timeout(2):
                await simulator.stop()
                with pytest.raises(aiohttp.ClientError):
                    await asked
        assert simulator.stats()["in_flight"] == 0

    asyncio.run(main())


def test_a_port_in_use_is_one_clear_message():
    async def main(port: int) -> None:
        await Simulator(SimulatorSettings()).start(port=port)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RunnerError) as caught:
            asyncio.run(main(port))
    assert str(caught.value) == (
        f"port {port} on 127.0.0.1 is in use by another program\nhint: choose another port, or 0 for any free one"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"speed": 1},
        {"latency_s": -1},
        {"latency_s": {"median": 2, "p95": 1}},
        {"faults": {"cut": 1.5}},
        {"faults": {"cut": 0.6, "hang": 0.6}},
        {"requests_per_minute": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]):
    with pytest.raises(ValidationError):
        SimulatorSettings.model_validate(settings)
