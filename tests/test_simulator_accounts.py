"""Several accounts at one simulator, and the cached input that it reports."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from runner.simulator.service import Answer, Service
from runner.simulator.settings import SimulatorSettings
from runner.validation import check
from runner.yaml_source import parse

TWO = [{"key": "key-a", "organization": "org-a"}, {"key": "key-b", "organization": "org-b"}]


class Clients:
    """Asks one simulated API, by key, on a clock that the test turns by hand."""

    def __init__(self, **settings: Any) -> None:
        self.time = 0.0
        self.service = Service(SimulatorSettings.model_validate({"latency_s": 0, **settings}), lambda: self.time)

    def ask(
        self, key: str | None, text: str = "hello", organization: str | None = None, path: str = "responses"
    ) -> Answer:
        messages = [{"role": "user", "content": text}]
        fields: dict[str, Any] = {"model": "gpt-6-luna", "messages" if "chat" in path else "input": messages}
        if path == "decisions":
            fields["questions"] = [{"type": "predicate", "instructions": "It is short."}]
        authorization = None if key is None else f"Bearer {key}"
        self.service.began()
        answer = self.service.answer("POST", f"/v1/{path}", authorization, json.dumps(fields).encode(), organization)
        self.service.sent(answer)
        self.service.stats.ended()
        return answer

    def code(self, *asked: Any, **named: Any) -> tuple[int, str | None]:
        answer = self.ask(*asked, **named)
        error = json.loads(answer.content)["error"] or {}  # the Responses API has it also where there is none
        return answer.status, error.get("code")

    @property
    def stats(self) -> dict[str, Any]:
        return self.service.stats.snapshot()

    def statuses(self) -> dict[str, dict[str, int]]:
        return {name: counts["statuses"] for name, counts in self.stats["accounts"].items()}


def test_each_account_has_limits_of_its_own() -> None:
    slow = {"key": "key-a", "organization": "org-a", "requests_per_minute": 60}
    fast = {"key": "key-b", "organization": "org-b", "requests_per_minute": 120, "tokens_per_minute": 60_000}
    clients = Clients(accounts=[slow, fast])
    assert [clients.code("key-a") for _ in range(2)] == [(200, None), (429, "rate_limit_exceeded")]
    assert [clients.ask("key-b").status for _ in range(3)] == [200, 200, 429]
    clients.time = 0.5
    assert (clients.ask("key-a").status, clients.ask("key-b").status) == (429, 200)
    clients.time = 1.0
    answers = clients.ask("key-a"), clients.ask("key-b")
    assert [answer.headers["x-ratelimit-limit-requests"] for answer in answers] == ["60", "120"]
    assert ["x-ratelimit-limit-tokens" in answer.headers for answer in answers] == [False, True]
    assert clients.statuses() == {"org-a": {"200": 2, "429": 2}, "org-b": {"200": 4, "429": 1}}


def test_each_account_has_a_quota_of_its_own() -> None:
    clients = Clients(accounts=[{**TWO[0], "quota_after": 2}, TWO[1]], quota_after=0)
    assert [clients.code("key-a")[1] for _ in range(3)] == [None, None, "insufficient_quota"]
    assert clients.ask("key-b").status == 200
    clients.service.reset()
    assert clients.statuses() == {"org-a": {}, "org-b": {}}
    assert clients.ask("key-a").status == 200


def test_an_answer_that_is_not_delivered_goes_back_to_its_accounts_quota() -> None:
    clients = Clients(accounts=[{**TWO[0], "quota_after": 1}, {**TWO[1], "quota_after": 1}])
    body = json.dumps({"model": "m", "input": "hello"}).encode()
    answer = clients.service.answer("POST", "/v1/responses", "Bearer key-a", body)
    clients.service.abandoned(answer)
    assert clients.ask("key-b").status == 200
    assert [clients.ask(key).status for key in ("key-a", "key-a", "key-b")] == [200, 429, 429]


def test_a_key_goes_with_its_organization() -> None:
    clients = Clients(accounts=[*TWO, {"key": "key-c"}])
    assert clients.ask("key-a", organization="org-a").status == 200
    assert clients.ask("key-a").status == 200
    assert clients.code("key-a", organization="org-b") == (401, "mismatched_organization")
    assert clients.ask("key-c", organization="whatever").status == 200
    error = json.loads(clients.ask("key-a", organization="org-b").content)["error"]
    assert error["message"] == "OpenAI-Organization header should match organization for API key"
    assert error["type"] == "invalid_request_error"


def test_keys_that_are_unknown_disabled_or_missing_are_refused() -> None:
    clients = Clients(accounts=[TWO[0], {**TWO[1], "disabled": True}])
    for key in ("key-b", "key-c", None):
        assert clients.code(key) == (401, "invalid_api_key")
        assert b"key-" not in clients.ask(key).content
    assert clients.service.answer("GET", "/v1/models", "Bearer key-c", b"").status == 401
    assert clients.service.answer("GET", "/v1/models", "Bearer key-a", b"").status == 200
    # A disabled key is still its account's; nobody can be told the others' requests.
    assert clients.statuses() == {"org-a": {}, "org-b": {"401": 2}}
    assert clients.stats["statuses"] == {"401": 6}


def test_api_keys_and_limits_beside_accounts_are_everybody_elses() -> None:
    clients = Clients(accounts=TWO, api_keys=["key-c"], requests_per_minute=60)
    assert [clients.ask("key-c").status for _ in range(2)] == [200, 429]
    assert [clients.ask("key-a").status for _ in range(3)] == [200] * 3
    assert clients.ask("key-d").status == 401
    assert clients.stats["accounts"]["org-a"]["requests"] == 3


def test_statistics_name_accounts_without_their_keys() -> None:
    clients = Clients(accounts=[*TWO, {"key": "key-c"}, {"key": "key-d", "organization": "org-b"}])
    for key in ("key-a", "key-b", "key-b", "key-c", "key-d"):
        clients.ask(key, "12345678")
    accounts = clients.stats["accounts"]
    assert {name: counts["requests"] for name, counts in accounts.items()} == {"org-a": 1, "#2": 2, "#3": 1, "#4": 1}
    assert accounts["#2"]["tokens"]["input"] == 4
    assert "key-" not in json.dumps(clients.stats)
    for kind in ("input", "output", "cached", "cache_write"):
        assert sum(counts["tokens"][kind] for counts in accounts.values()) == clients.stats["tokens"][kind]


def test_without_accounts_there_are_none() -> None:
    clients = Clients()
    assert clients.ask("any", organization="any").status == 200
    assert clients.stats["accounts"] == {}


@pytest.mark.parametrize(
    "settings",
    [
        {"accounts": [{"key": ""}]},
        {"accounts": [{"organization": "org-a"}]},
        {"accounts": [{"key": "key-a", "requests_per_minute": 0}]},
        {"accounts": [{"key": "key-a", "limit": 1}]},
        {"accounts": [{"key": "key-a"}, {"key": "key-a", "organization": "org-b"}]},
        {"accounts": [{"key": "key-a"}], "api_keys": ["key-a"]},
        {"cached_share": 1.1},
        {"cached_share": 0.6, "cache_write_share": 0.6},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SimulatorSettings.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            "{accounts: [{key: key-a}, {key: key-a}]}",
            "`accounts[1].key` is given twice\n  --> --settings:1:33\n   |\n"
            " 1 | {accounts: [{key: key-a}, {key: key-a}]}\n   |                                 ^\n"
            "hint: give each account a key of its own, which is not among `api_keys`",
        ),
        (
            "{cached_share: 0.6, cache_write_share: 0.6}",
            "`cache_write_share` must be at most 0.4, what `cached_share` leaves, got 0.6\n"
            "  --> --settings:1:40\n   |\n"
            " 1 | {cached_share: 0.6, cache_write_share: 0.6}\n   |                                        ^",
        ),
    ],
)
def test_what_is_wrong_with_settings_is_shown_where_it_stands(settings: str, said: str) -> None:
    source = parse(settings, "--settings")
    _, problems = check(SimulatorSettings, source, source.data)
    assert [str(problem) for problem in problems] == [said]


# Cached input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["chat/completions", "responses", "decisions"])
@pytest.mark.parametrize(("cached", "written"), [(0, 0), (0.29, 0.5), (0.75, 0.25), (1, 0), (0, 1)])
def test_shares_of_the_input_are_reported_as_cached(path: str, cached: float, written: float) -> None:
    clients = Clients(cached_share=cached, cache_write_share=written)
    answer = clients.ask(None, "x" * 400, path=path)
    usage = json.loads(answer.content)["usage"]
    chat = path == "chat/completions"
    read = usage["prompt_tokens" if chat else "input_tokens"]
    details = usage["prompt_tokens_details" if chat else "input_tokens_details"]
    assert read >= 100
    shares = int(read * cached + 1e-6), int(read * written + 1e-6)
    assert (details["cached_tokens"], details["cache_write_tokens"]) == shares
    assert sum(shares) <= read
    assert clients.stats["tokens"] == {
        "input": read,
        "output": usage["completion_tokens" if chat else "output_tokens"],
        "cached": shares[0],
        "cache_write": shares[1],
    }


def test_the_money_that_was_spent_can_be_told_from_the_statistics() -> None:
    clients = Clients(cached_share=0.5, cache_write_share=0.1)
    usages = [json.loads(clients.ask(None, "x" * number).content)["usage"] for number in range(1, 60)]
    tokens = clients.stats["tokens"]
    for kind in ("input", "output"):
        assert tokens[kind] == sum(usage[f"{kind}_tokens"] for usage in usages)
    for kind in ("cached", "cache_write"):
        assert tokens[kind] == sum(usage["input_tokens_details"][f"{kind}_tokens"] for usage in usages)
