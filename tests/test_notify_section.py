"""The section `notify`: what may be written, and that no message about a mistake repeats a secret."""

from __future__ import annotations

import re

import pytest

from runner.addresses import masked, secret_parts
from runner.notify_section import NotifySpec, Target, UnsetVariable, resolve
from runner.problems import SpecErrors
from runner.spec import JobSpec
from runner.validation import check
from runner.yaml_source import parse

JOB = "input: {path: rows.jsonl}\nprompt: {user: hi}\nmodel: m\n"
SECRETS = ("T024BE7LD", "abcDEF123ghiJKL456mnoPQR", "hunter", "3f2a9c1d-1234")
SLACK = "https://hooks.slack.com/services/T024BE7LD/B024BE7LE/abcDEF123ghiJKL456mnoPQR"
CHECK = "https://hc-ping.com/3f2a9c1d-1234-4abc-9def-0123456789ab"


def read(text: str) -> NotifySpec:
    source = parse(JOB + text, "job.yaml")
    found, problems = check(JobSpec, source, source.data)
    if found is None or source.problems:
        raise SpecErrors([*source.problems, *problems])
    assert found.notify is not None
    return found.notify


def refused(text: str) -> str:
    with pytest.raises(SpecErrors) as caught:
        read(text)
    said = str(caught.value)
    assert not any(secret in said for secret in SECRETS), said
    return said


# What looks like a secret ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "hidden"),
    [
        (SLACK, "https://hooks.slack.com/services/*********/*********/************************"),
        (CHECK, "https://hc-ping.com/************************************"),
        ("https://me:hunter@host.org/x", "https://me:******@host.org/x"),
        ("mailto://me:hunter@gmail.com", "mailto://me:******@gmail.com"),
        ("tgram://123456789:AAH2dk3jx9-Q/12", "tgram://123456789:************/12"),
        ("https://x.org/y?token=abc&b=c", "https://x.org/y?token=***&b=c"),
        ("https://x.org/#key=abc", "https://x.org/#key=***"),
        ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", "discord://4174216298/****************************"),
    ],
)
def test_the_secret_parts_of_an_address_are_found(address: str, hidden: str) -> None:
    assert masked(f"[url: {address}, on: x]") == f"[url: {hidden}, on: x]"
    assert masked(address) == hidden


@pytest.mark.parametrize(
    "address",
    ["http://localhost:8000/v1", "http://127.0.0.1:9000/hook", "https://my-gpt4-host2024.openai.azure.com/openai/v1",
     "https://hc-ping.com/${PING_KEY}/nightly", "mailto://${USER}:${PASSWORD}@example.org?to=me@example.org",
     "https://api.openai.com/v1", "s3://bucket/2026/part-00001.parquet", "no address: a/b1234567c", "https://ntfy.sh/my-topic"],
)  # fmt: skip
def test_other_addresses_are_left_as_they_are(address: str) -> None:
    assert masked(address) == address
    assert secret_parts(address) == []


# In the job file ------------------------------------------------------------------------------------------------------


def test_what_is_not_said_has_a_default() -> None:
    spec = read("notify: {to: [{url_env: ALERT_URL}]}\n")
    assert spec.to == (Target(url_env="ALERT_URL"),)
    assert (spec.to[0].on, spec.to[0].written) == (("failure", "recovered"), "${ALERT_URL}")
    assert (spec.max_error_rate, spec.late_after, spec.rehearsals, spec.ping) == (0.05, "26h", False, None)
    assert spec.late_after_span.total_seconds() == 26 * 3600


def test_a_secret_is_refused_at_its_place_and_not_repeated() -> None:
    assert refused(f"notify:\n  to:\n    - url: {SLACK}\n      on: [failure]\n") == (
        "`notify.to[0].url` holds what looks like a secret\n"
        "  --> job.yaml:6:12\n"
        "   |\n"
        " 6 |     - url: https://hooks.slack.com/services/*********/*********/************************\n"
        "   |            ^\n"
        "hint: put the whole address in an environment variable, and write its name: `url: ${ALERT_URL}`"
    )
    assert "write its name: `ping: ${PING_URL}`" in refused(f"notify: {{ping: '{CHECK}'}}\n")


@pytest.mark.parametrize(
    "written",
    [
        f"notify: {{to: [{{url: '{SLACK}', on: [failur]}}]}}",  # another mistake in the same line
        f"notify: {{to: [{{url: '{SLACK}', extra: 1}}]}}",
        f"notify: {{to: '{SLACK}'}}",
        f"notify: {{to: ['{SLACK}']}}",
        f"notify: ['{SLACK}']",
        f"notify: '{SLACK}'",
        f"notify: {{to: [{{url_env: '{SLACK}'}}]}}",
        f"notify: {{webhook: '{SLACK}'}}",
        f"alerts: '{SLACK}'",
        f"notify: {{to: [{{url: '{SLACK}'}}]",  # no YAML at all
        "notify: {to: [{url: 'mailto://me:hunter@example.org'}]}",
        "notify: {to: [{url: 'https://me:hunter@example.org'}]}",
        "notify: {to: [{url: '${BASE}/services/T024BE7LD/x'}]}",
    ],
)
def test_no_mistake_whatever_shows_it(written: str) -> None:
    assert refused(written + "\n")


def test_nor_does_one_in_an_option() -> None:
    source = parse(JOB, "job.yaml")
    source.set("notify.ping", CHECK)
    [problem] = check(JobSpec, source, source.data)[1]
    assert str(problem) == (
        "`notify.ping` holds what looks like a secret\n"
        "  --> --set notify.ping=https://hc-ping.com/************************************\n"
        "hint: put the whole address in an environment variable, and write its name: `ping: ${PING_URL}`"
    )


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("[{url: 'slack://tokens/go/here'}]",
         "`notify.to[0].url` holds what may be a secret: with services such as this, the address is the key"),
        ("[{url: 'ALERT_URL'}]", "`notify.to[0].url` must be an address such as `https://…`, or `${NAME}`"),
        ("[{url: '${ALERT URL}'}]", "`notify.to[0].url` has a `${` that is not followed by a name and `}`"),
        ("[{on: [failure]}]", "a target of `notify` needs `url`, or `url_env`"),
        ("[{url: '${A}', url_env: A}]", "`notify.to[0].url_env` and `url` exclude each other"),
        ("[{url_env: 'a b'}]", "`notify.to[0].url_env` must be the name of an environment variable"),
        ("[{url: '${A}'}, {url_env: A}]", "`notify.to[1]` has the address of an earlier one"),
        ("[{url: '${A}', on: []}]", "`notify.to[0].on` must not be empty"),
        ("[{url: '${A}', on: [failed]}]",
         '`notify.to[0].on[0]` must be one of `failure`, `recovered`, `success`, `late` or `budget`, got "failed"'),
    ],
)  # fmt: skip
def test_other_mistakes(written: str, message: str) -> None:
    assert refused(f"notify: {{to: {written}}}\n").partition("\n")[0] == message


def test_the_list_belongs_under_to() -> None:
    said = refused("notify:\n  - url: ${ALERT_URL}\n")
    assert said.startswith("`notify` must be a mapping, got a list\n")
    assert said.endswith("hint: write the list of targets as `notify: {to: […]}`")


@pytest.mark.parametrize(("written", "hint"), [("26", "hint: with its unit: `26h`"), ("06:00", ""), ("soon", "")])
def test_late_after_is_a_time_span(written: str, hint: str) -> None:
    said = refused(f"notify: {{late_after: {written}}}\n")
    assert said.startswith("`notify.late_after` must be a time span such as 26h or 8d, got ")
    assert said.endswith(hint)


# Looked up ------------------------------------------------------------------------------------------------------------


def test_variables_are_looked_up_when_a_message_is_sent() -> None:
    environ = {"KEY": " abc ", "WHOLE": SLACK}
    assert resolve("https://hc-ping.com/${KEY}/x", environ) == "https://hc-ping.com/abc/x"
    assert resolve("${WHOLE}", environ) == SLACK


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "the environment variable URL is not set"),
        ({"URL": " "}, "the environment variable URL is empty"),
        ({"URL": "hunter"}, "the environment variable URL does not hold an address"),
        ({"URL": "https://hunter\nhunter"}, "the environment variable URL does not hold an address"),
    ],
)
def test_one_that_holds_no_address_is_named_and_not_shown(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UnsetVariable, match=f"^{re.escape(message)}") as caught:
        resolve("${URL}", environ)
    assert "hunter" not in str(caught.value)
