"""The simulator through the openai SDK: each answer is what the SDK's own type says, no more and no less."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, BaseModel
from openai.types import Decision, Model
from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from runner.simulator import Simulator, SimulatorSettings

SCHEMA = {
    "type": "object",
    "properties": {
        "topic": {"type": "string", "enum": ["ml", "physics"], "description": "ml: machine learning"},
        "topic_confidence": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "required": ["topic", "topic_confidence"],
    "additionalProperties": False,
}
QUESTIONS: list[Any] = [
    {
        "type": "choice",
        "name": "topic",
        "instructions": "What is the paper about?",
        "choices": [{"value": "ml", "description": "machine learning"}, {"value": "physics"}, {"value": True}],
    },
    {"type": "predicate", "name": "applied", "instructions": "The paper reports an experiment."},
    {"type": "score", "instructions": "How new is it?", "levels": [{"label": "old"}, {"label": "new"}]},
]
MESSAGES: list[Any] = [
    {"role": "system", "content": "You sort papers."},
    {"role": "user", "content": "We train learning machines on real data, and much more can be said about them."},
]


def strictly(kind: type[BaseModel], raw: str) -> BaseModel:
    """Check a raw answer against a type of the SDK: nothing missing, nothing unknown, nothing of another type."""
    parsed = kind.model_validate_json(raw, strict=True)
    assert list(unknown(parsed, kind.__name__)) == []
    assert parsed.model_dump(mode="json", by_alias=True, exclude_unset=True) == json.loads(raw)
    return parsed


def unknown(value: Any, path: str) -> Iterator[str]:
    """The fields that the SDK's types do not know; it keeps them without a word."""
    if isinstance(value, BaseModel):
        for name in value.model_extra or ():
            yield f"{path}.{name}"
        for name in type(value).model_fields:
            yield from unknown(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for each in value:
            yield from unknown(each, f"{path}[]")


def with_client(story: Callable[[AsyncOpenAI], Awaitable[None]], **settings: Any) -> dict[str, Any]:
    """Run a story with an SDK client of a simulator, and return the statistics."""

    async def main() -> dict[str, Any]:
        simulator = Simulator(SimulatorSettings.model_validate({"latency_s": 0, **settings}))
        async with simulator, AsyncOpenAI(api_key="key-a", base_url=simulator.base_url, max_retries=0) as client:
            await story(client)
        return simulator.stats()

    return asyncio.run(main())


def test_the_check_is_strict() -> None:
    answer = {"id": "m", "created": 1, "object": "model", "owned_by": "us"}
    strictly(Model, json.dumps(answer))
    for wrong in ({**answer, "created": "1"}, {**answer, "nonsense": 1}, {"id": "m", "object": "model", "created": 1}):
        with pytest.raises((ValueError, AssertionError)):
            strictly(Model, json.dumps(wrong))


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "schema": ({"schema": SCHEMA}, {}),
    "refusal": ({}, {"faults": {"refusal": 1}}),
    "refused schema": ({"schema": SCHEMA}, {"faults": {"refusal": 1}}),
    "truncated": ({"most": 3}, {}),
    "truncated schema": ({"schema": SCHEMA, "most": 3}, {}),
    "cached": ({}, {"cached_share": 0.5, "cache_write_share": 0.25}),
}


@pytest.mark.parametrize("case", CASES)
def test_chat_completions(case: str) -> None:
    asked, settings = CASES[case]

    async def story(client: AsyncOpenAI) -> None:
        fields: dict[str, Any] = {"model": "gpt-6-luna", "messages": MESSAGES}
        if "schema" in asked:
            held = {"name": "answer", "schema": asked["schema"], "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": held}
        if "most" in asked:
            fields["max_completion_tokens"] = asked["most"]
        answer = await client.chat.completions.with_raw_response.create(**fields)
        strictly(ChatCompletion, answer.text)
        chat = answer.parse()
        choice = chat.choices[0]
        assert choice.finish_reason == ("length" if "most" in asked else "stop")
        assert (choice.message.refusal is not None) == (choice.message.content is None) == ("refus" in case)
        if case == "schema":
            value = json.loads(choice.message.content or "")
            assert value["topic"] == "ml"
            assert 0 <= value["topic_confidence"] <= 1
        assert chat.usage is not None
        details = chat.usage.prompt_tokens_details
        assert details is not None
        if case == "cached":
            read = chat.usage.prompt_tokens
            assert (details.cached_tokens, details.cache_write_tokens) == (read // 2, read // 4)
        else:
            assert (details.cached_tokens, details.cache_write_tokens) == (0, 0)

    with_client(story, **settings)


@pytest.mark.parametrize("case", CASES)
def test_responses(case: str) -> None:
    asked, settings = CASES[case]

    async def story(client: AsyncOpenAI) -> None:
        fields: dict[str, Any] = {"model": "gpt-6-luna", "input": MESSAGES}
        if "schema" in asked:
            held = {"type": "json_schema", "name": "answer", "schema": asked["schema"], "strict": True}
            fields["text"] = {"format": held}
        if "most" in asked:
            fields["max_output_tokens"] = asked["most"]
        answer = await client.responses.with_raw_response.create(**fields)
        strictly(Response, answer.text)
        response = answer.parse()
        assert response.status == ("incomplete" if "most" in asked else "completed")
        output = response.output[0]
        assert output.type == "message"
        assert output.content[0].type == ("refusal" if "refus" in case else "output_text")
        if case == "schema":
            assert json.loads(response.output_text)["topic"] == "ml"
        assert response.usage is not None
        details = response.usage.input_tokens_details
        read = response.usage.input_tokens if case == "cached" else 0
        assert (details.cached_tokens, details.cache_write_tokens) == (read // 2, read // 4)

    with_client(story, **settings)


DECISIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "refusal": {"faults": {"refusal": 1}},
    "one refused": {"faults": {"refuse_question": 0.5}, "seed": 2},
    "cached": {"cached_share": 0.5, "cache_write_share": 0.25},
}


@pytest.mark.parametrize("case", DECISIONS)
def test_decisions(case: str) -> None:
    async def story(client: AsyncOpenAI) -> None:
        answer = await client.decisions.with_raw_response.create(
            model="gpt-6-luna", input=MESSAGES, questions=QUESTIONS
        )
        strictly(Decision, answer.text)
        decision = answer.parse()
        assert [each.name for each in decision.answers] == ["topic", "applied", None]
        kinds = [each.type for each in decision.answers]
        if case == "refusal":
            assert kinds == ["refusal"] * 3
        elif case == "one refused":
            assert kinds.count("refusal") in (1, 2)
        else:
            assert kinds == ["choice", "predicate", "score"]
            assert decision.answers[0].type == "choice"
            assert decision.answers[0].choice == "ml"
        details = decision.usage.input_tokens_details
        read = decision.usage.input_tokens if case == "cached" else 0
        assert (details.cached_tokens, details.cache_write_tokens) == (read // 2, read // 4)

    with_client(story, **DECISIONS[case])


def test_models() -> None:
    async def story(client: AsyncOpenAI) -> None:
        listed = await client.models.with_raw_response.list()
        page = json.loads(listed.text)
        assert set(page) == {"object", "data"}
        assert page["object"] == "list"
        for each in page["data"]:
            strictly(Model, json.dumps(each))
        assert [model.id async for model in client.models.list()] == ["gpt-6-luna", "org/another"]
        strictly(Model, (await client.models.with_raw_response.retrieve("org/another")).text)

    with_client(story, models=["gpt-6-luna", "org/another"])


def test_an_organization_goes_with_its_key() -> None:
    from openai import AuthenticationError

    async def story(client: AsyncOpenAI) -> None:
        right = client.with_options(organization="org-a")
        assert (await right.models.list()).data
        with pytest.raises(AuthenticationError) as caught:
            await client.with_options(organization="org-b").models.list()
        assert caught.value.code == "mismatched_organization"

    stats = with_client(story, accounts=[{"key": "key-a", "organization": "org-a"}])
    assert stats["accounts"]["org-a"]["statuses"] == {"200": 1, "401": 1}
