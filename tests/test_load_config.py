"""The files in configs/: endpoints and their secrets, models and their prices."""

from __future__ import annotations

import os
import pickle
from datetime import date
from pathlib import Path
from textwrap import dedent

import pytest

from runner.config import Endpoints, ResolvedEndpoint, load_endpoints
from runner.errors import SpecError
from runner.load import load_job
from runner.models import load_models
from runner.problems import SpecErrors
from runner.records import Usage
from runner.simulator.settings import Latency, SimulatorSettings
from runner.snapshot import as_run, snapshot

PROJECT = Path(__file__).parent.parent
KEY = "sk-proj-Ab1Cd2Ef3Gh4Ij5Kl6Mn7Op8"


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()


def endpoints(text: str) -> Endpoints:
    Path("configs/endpoints.yaml").write_text(dedent(text).lstrip("\n"), encoding="utf-8")
    return load_endpoints(Path.cwd())


def said(text: str) -> str:
    with pytest.raises(SpecErrors) as caught:
        endpoints(text)
    return f"error: {caught.value}"


def expect(shown: str) -> str:
    return dedent(shown).strip("\n")


# Which there are ----------------------------------------------------------------------------------------------------


def test_without_a_file_there_are_openai_and_the_simulator() -> None:
    found = load_endpoints(Path.cwd())
    assert list(found.specs) == ["openai", "simulator"]
    assert found["openai"].base_url == "https://api.openai.com/v1"
    assert found["openai"].api_key_env == "OPENAI_API_KEY"
    assert found["simulator"].is_simulator


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_an_empty_file_changes_nothing(text: str) -> None:
    assert list(endpoints(text).specs) == ["openai", "simulator"]


def test_entries_add_to_the_built_in_ones_or_replace_them() -> None:
    found = endpoints("""
        openai: {base_url: http://gateway:8000/v1}
        vllm: {base_url: http://localhost:8000/v1, limits: {concurrency: 256}}
    """)
    assert list(found.specs) == ["openai", "simulator", "vllm"]
    assert found["openai"].api_key_env is None
    assert found["vllm"].name == "vllm"
    assert found["vllm"].limits.concurrency == 256


def test_an_unknown_endpoint_suggests_one() -> None:
    found = endpoints("vllm: {base_url: http://localhost:8000/v1}\n")
    with pytest.raises(SpecError) as caught:
        found["vlm"]
    assert str(caught.value) == expect("""
        there is no endpoint `vlm` in configs/endpoints.yaml
          --> configs/endpoints.yaml
        hint: did you mean `vllm`?
    """)


def test_the_shipped_files_load() -> None:
    found = load_endpoints(PROJECT)
    assert list(found.specs) == ["openai", "simulator", "openai-org-a", "openai-org-b"]
    assert found["simulator"].simulator == SimulatorSettings(latency_s=Latency(median=0.2, p95=0.5))


def test_the_examples_in_the_shipped_file_load_too() -> None:
    lines = (PROJECT / "configs" / "endpoints.yaml").read_text(encoding="utf-8").splitlines()
    examples = [line[2:] for line in lines if line.startswith(("#   ", "# ")) and not line.endswith(".")]
    start = next(number for number, line in enumerate(examples) if line == "vllm:")
    names = list(endpoints("\n".join(examples[start:])).specs)
    assert names == ["openai", "simulator", "vllm", "ollama", "openai-research", "azure"]


# What is refused ----------------------------------------------------------------------------------------------------


def test_all_errors_of_the_file_come_at_once_and_values_are_never_shown() -> None:
    assert said(f"""
        openai:
          base_url: api.openai.com
          api_key_env: {KEY}
          headers: {{Authorization: Bearer 12345, x-team: a}}
          api_key: 12345
        local:
          limits: {{concurrency: 0}}
        both: {{base_url: http://a/v1, simulator: {{}}}}
    """) == expect("""
        error: `openai.base_url` must begin with `http://` or `https://`
          --> configs/endpoints.yaml:2:13
           |
         2 |   base_url: …
           |             ^
        hint: for example `http://localhost:8000/v1`

        error: `openai.api_key_env` holds what looks like an API key
          --> configs/endpoints.yaml:3:16
           |
         3 |   api_key_env: …
           |                ^
        hint: put the key in an environment variable, and name it: `api_key_env: OPENAI_API_KEY`

        error: `openai.headers.Authorization` looks like a secret
          --> configs/endpoints.yaml:4:28
        hint: put it in an environment variable, and write `${NAME}` here

        error: `openai.api_key` is not a known key
          --> configs/endpoints.yaml:5:3
           |
         5 |   api_key: …
           |   ^
        hint: did you mean `api_key_env`?

        error: `local.limits.concurrency` must be at least 1, got 0
          --> configs/endpoints.yaml:7:25
        hint: leave the key out for 64

        error: `both.simulator` and `base_url` exclude each other
          --> configs/endpoints.yaml:8:31
        hint: keep one of them
    """)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{}", "`x` needs `base_url`"),
        ("{name: x, base_url: http://a/v1}", "`x.name` is not a known key"),
        ("{base_url: http://a/v1, api_key_env: my key}", "`x.api_key_env` must be the name of an environment variable"),
        ("{base_url: http://a, api_key_env: A, api_key_file: b}", "`x.api_key_file` and `api_key_env` exclude"),
        ("{base_url: 'http://me:pass@a/v1'}", "`x.base_url` holds a password"),
        ("{base_url: 'http://${}/v1'}", "`x.base_url` has a `${` that is not followed by a name and `}`"),
        ("{base_url: 'http://${A:-b}/v1'}", "`x.base_url` has a `${` that is not followed by a name and `}`"),
        ("{base_url: 3}", "`x.base_url` must be text, got 3"),
        ("{base_url: http://a/v1, organization: [secret]}", "`x.organization` must be text, got a list"),
        ("{simulator: {}, limits: {concurrency: secret}}", "`x.limits.concurrency` must be a whole number, got text"),
        ("{base_url: http://a/v1, headers: {x-api-key: abc}}", "`x.headers.x-api-key` looks like a secret"),
        ("{base_url: http://a/v1, headers: {'a b': c}}", "`x.headers.a b` is not a name that a header can have"),
        ('{base_url: http://a/v1, headers: {a: "b\\nc"}}', "`x.headers.a` must be a single line"),
        (f"{{base_url: http://a/v1, headers: {{a: Bearer {KEY}}}}}", "`x.headers.a` holds what looks like an API key"),
        (f"{{base_url: http://a/v1, project: {KEY}}}", "`x.project` holds what looks like an API key"),
        (f"{{simulator: {{api_keys: [{KEY}]}}}}", "this looks like an API key"),
        ("{simulator: {latncy_s: 1}}", "`x.simulator.latncy_s` is not a known key"),
        ("{simulator: {latency_s: secret}}", "`x.simulator.latency_s` must be a number, got text"),
        ("{simulator: {latency_s: {median: 2, p95: 1}}}", "`x.simulator.latency_s.p95` must be at least `median`"),
        ("{simulator: {faults: {cut: 2}}}", "`x.simulator.faults.cut` must be at most 1, got 2"),
        ("{simulator: {faults: {cut: 0.6, hang: 0.6}}}", "`x.simulator.faults` must add up to at most 1"),
        ("http://a/v1", "`x` must be a mapping, got text"),
        ("null", "`x` must be a mapping, got nothing"),
    ],
)  # fmt: skip
def test_each_mistake_in_an_endpoint(entry: str, message: str) -> None:
    shown = said(f"x: {entry}\n")
    assert shown.splitlines()[0].startswith(f"error: {message}")
    assert shown.count("error: ") == 1
    assert KEY not in shown
    assert "secret" not in shown.replace("looks like a secret", "")


@pytest.mark.parametrize(
    "text",
    [
        f"x: {{key: {KEY}\n",
        f'x:\n  key: "{KEY}\n',
        f"x: a: {KEY}\n",
        f"- {KEY}\n",
        f"x: *{KEY}\n",
        f"x: &a {KEY}\ny: &a {KEY}\n",
        f"x: !{KEY} a\n",
        f"x: !{KEY}!{KEY} a\n",
        f"x: !!int {KEY}\n",
        f"x: {{a: {KEY}, b: [{KEY}}}\n",
    ],
)
def test_malformed_yaml_shows_no_value_either(text: str) -> None:
    assert KEY[-6:] not in said(text)
    assert "s3cret" not in said(text.replace(KEY, "s3cret"))


def test_errors_of_the_job_and_of_the_configs_come_together() -> None:
    Path("configs/endpoints.yaml").write_text("x: {base_uri: http://a/v1}\n")
    Path("configs/models.yaml").write_text("tiers: {flex: much}\n")
    Path("job.yaml").write_text("input: {path: x}\nprompt: {user: x}\nmodel: m\nnmae: x\n")
    with pytest.raises(SpecErrors) as caught:
        load_job(Path("job.yaml"))
    assert [problem.where for problem in caught.value.problems] == [
        "job.yaml:4:1",
        "configs/endpoints.yaml:1:5",
        "configs/models.yaml:1:15",
    ]


# The environment ----------------------------------------------------------------------------------------------------

FULL = """
    lab:
      base_url: https://${HOST}.example.com/v1
      api_key_env: LAB_KEY
      organization: ${ORG}
      project: p-${ORG}-${HOST}
      headers: {Authorization: "Bearer ${TOKEN}", x-team: research}
"""
ENVIRON = {"HOST": "h0st", "LAB_KEY": KEY, "ORG": "0rg", "TOKEN": "t0ken"}


def test_variables_are_looked_up_when_resolved() -> None:
    resolved = endpoints(FULL)["lab"].resolve(ENVIRON)
    assert resolved.base_url == "https://h0st.example.com/v1"
    assert resolved.api_key() == KEY
    assert resolved.organization == "0rg"
    assert resolved.project == "p-0rg-h0st"
    assert resolved.headers == {"Authorization": "Bearer t0ken", "x-team": "research"}
    assert not resolved.rotates
    copy = pickle.loads(pickle.dumps(resolved))
    assert isinstance(copy, ResolvedEndpoint)
    assert copy.api_key() == KEY


def test_no_secret_is_ever_printed() -> None:
    found = endpoints(FULL)
    resolved = found["lab"].resolve(ENVIRON)
    Path("job.yaml").write_text("input: {path: x}\nprompt: {user: x}\nmodel: m\nendpoint: lab\n")
    job = load_job(Path("job.yaml"), environ=ENVIRON)
    shown = [
        repr(resolved),
        str(resolved),
        f"{resolved}",
        repr(found),
        str(found["lab"]),
        found["lab"].model_dump_json(),
    ]
    shown += [repr(job), snapshot(job), str(as_run(job))]
    for text in shown:
        for secret in ENVIRON.values():
            assert secret not in text
    assert repr(resolved) == (
        "ResolvedEndpoint('lab', base_url='https://${HOST}.example.com/v1', "
        "headers=['Authorization', 'x-team'], key='set')"
    )


def test_all_missing_variables_are_named_at_their_places() -> None:
    with pytest.raises(SpecErrors) as caught:
        endpoints(FULL)["lab"].resolve({"ORG": "o", "TOKEN": " ", "LAB_KEY": "k"})
    assert f"error: {caught.value}" == expect("""
        error: endpoint `lab` needs the environment variable HOST, which is not set
          --> configs/endpoints.yaml:2:13
        hint: export HOST=…

        error: endpoint `lab` needs the environment variable TOKEN, which is empty
          --> configs/endpoints.yaml:6:28
        hint: export TOKEN=…
    """)


def test_a_missing_key_of_a_built_in_endpoint() -> None:
    with pytest.raises(SpecErrors) as caught:
        load_endpoints(Path.cwd())["openai"].resolve({})
    assert str(caught.value) == expect("""
        endpoint `openai` needs the environment variable OPENAI_API_KEY, which is not set
          --> the built-in endpoint `openai`
        hint: export OPENAI_API_KEY=…
    """)


def test_a_key_of_several_lines_is_refused() -> None:
    with pytest.raises(SpecErrors) as caught:
        load_endpoints(Path.cwd())["openai"].resolve({"OPENAI_API_KEY": f"{KEY}\nmore"})
    assert (
        caught.value.message == "endpoint `openai`: the environment variable OPENAI_API_KEY holds a control character"
    )


def test_loading_a_job_checks_the_environment_only_when_asked() -> None:
    Path("job.yaml").write_text("input: {path: x}\nprompt: {user: x}\nmodel: m\n")
    assert load_job(Path("job.yaml")).pool[0].name == "openai"
    with pytest.raises(SpecErrors, match="OPENAI_API_KEY, which is not set"):
        load_job(Path("job.yaml"), environ={})
    assert load_job(Path("job.yaml"), environ={"OPENAI_API_KEY": KEY}).spec.model == "m"


def test_a_key_in_a_file_is_read_again_when_it_changes() -> None:
    found = endpoints("lab: {base_url: http://a/v1, api_key_file: key.txt}\n")
    Path("key.txt").write_text("first\n")
    resolved = found["lab"].resolve({})
    assert resolved.rotates
    assert resolved.api_key() == "first"
    Path("new.txt").write_text("second\n")
    os.replace("new.txt", "key.txt")  # noqa: PTH105 - as those who rotate keys do it
    assert resolved.api_key() == "second"
    assert "second" not in repr(resolved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "endpoint `lab`: the key file key.txt cannot be read: no such file or directory"),
        ("", "endpoint `lab`: the key file key.txt does not hold one key"),
        ("one\ntwo\n", "endpoint `lab`: the key file key.txt does not hold one key"),
    ],
)
def test_a_key_file_must_hold_one_key(content: str | None, message: str) -> None:
    if content is not None:
        Path("key.txt").write_text(content)
    found = endpoints("lab: {base_url: http://a/v1, api_key_file: key.txt}\n")
    with pytest.raises(SpecErrors) as caught:
        found["lab"].resolve({})
    assert caught.value.message == message
    assert caught.value.where == "configs/endpoints.yaml:1:44"


# Models -------------------------------------------------------------------------------------------------------------


def test_the_shipped_prices() -> None:
    models = load_models(PROJECT)
    assert models.as_of == date(2026, 11, 20)
    assert models.tiers == {"flex": 0.5, "batch": 0.5, "priority": 2.0, "fast": 2.0}
    assert models.long_context is not None
    assert models.long_context.over_input_tokens == 272_000
    prices = {name: (m.input, m.cached_input, m.cache_write, m.output) for name, m in models.models.items()}
    assert prices == {
        "gpt-6-astra": (10, 1, 12.5, 50),
        "gpt-6-sol": (2, 0.2, 2.5, 10),
        "gpt-6.1-sol": (2, 0.1, None, 10),
        "gpt-6-luna": (0.1, 0.01, 0.125, 0.5),
        "gpt-5.6-terra": (2, 0.2, None, 12),
        "gpt-5.6-luna": (0.2, 0.02, None, 1.2),
        "gpt-4o-mini": (0.15, 0.075, None, 0.6),
    }
    assert models.models["gpt-4o-mini"].shutdown == date(2027, 1, 14)


def test_the_shipped_traits() -> None:
    models = load_models(PROJECT).models
    none_too = ("none", "low", "medium", "high", "xhigh", "max")
    always = none_too[1:]
    traits = {name: (m.reasoning, m.efforts, m.flex, m.batch) for name, m in models.items()}
    assert traits == {
        "gpt-6-astra": (True, always, True, True),
        "gpt-6-sol": (True, none_too, True, True),
        "gpt-6.1-sol": (True, always, True, True),
        "gpt-6-luna": (True, none_too, True, True),
        "gpt-5.6-terra": (True, none_too, True, True),
        "gpt-5.6-luna": (True, none_too, True, True),
        "gpt-4o-mini": (False, None, False, True),
    }
    assert [name for name, model in models.items() if "decisions" in model.apis] == ["gpt-6-luna"]
    assert all({"responses", "chat"} <= set(model.apis) for model in models.values())


def test_a_model_has_prices_for_each_of_its_apis() -> None:
    luna = load_models(PROJECT).models["gpt-6-luna"]
    assert luna.prices("responses") is luna.prices("chat") is luna
    decisions = luna.prices("decisions")
    assert (decisions.input, decisions.cached_input, decisions.cache_write, decisions.output) == (0.1, 0, 0, 0)
    sol = load_models(PROJECT).models["gpt-6-sol"]
    assert sol.prices("decisions") is sol


def test_the_tariff_of_a_job_is_that_of_its_api() -> None:
    models = load_models(PROJECT)
    usage = Usage(1000, 400, 100, 0, 200)
    assert models.tariff("gpt-6-luna", "responses").cost_usd(usage) == pytest.approx(0.000_119)
    assert models.tariff("gpt-6-luna", "decisions").cost_usd(usage) == pytest.approx(0.000_04)
    assert models.tariff("gpt-6-luna-2026-10-06", "responses", "priority").asked_tier == "priority"
    assert models.tariff("gpt-7", "responses").cost_usd(usage) is None


def test_prices_for_an_api_that_the_model_is_not_on_are_an_error() -> None:
    prices = "{input: 1, output: 0}"
    Path("configs/models.yaml").write_text(f"models:\n  a: {{input: 1, output: 2, decisions: {prices}}}\n")
    with pytest.raises(SpecErrors) as caught:
        load_models(Path.cwd())
    assert f"error: {caught.value}" == expect("""
        error: `models.a.decisions` has prices for an API that `apis` does not list
          --> configs/models.yaml:2:28
           |
         2 |   a: {input: 1, output: 2, decisions: {input: 1, output: 0}}
           |                            ^
        hint: add it there: `apis: [responses, chat, decisions]`
    """)


def test_an_unknown_model_has_no_price() -> None:
    models = load_models(PROJECT)
    assert models.find("gpt-7") is None
    assert models.find("gpt-6-luna-2026-10-06") == models.find("gpt-6-luna") != None  # noqa: E711
    assert load_models(Path.cwd()).find("gpt-6-luna") is None


def test_an_error_in_the_models_file_is_shown_at_its_line() -> None:
    Path("configs/models.yaml").write_text("as_of: yesterday\nmodels:\n  a: {input: 1, ouput: 2}\n")
    with pytest.raises(SpecErrors) as caught:
        load_models(Path.cwd())
    assert f"error: {caught.value}" == expect("""
        error: `as_of` must be a date such as 2026-11-20, got "yesterday"
          --> configs/models.yaml:1:8
           |
         1 | as_of: yesterday
           |        ^

        error: `models.a.ouput` is not a known key
          --> configs/models.yaml:3:17
           |
         3 |   a: {input: 1, ouput: 2}
           |                 ^
        hint: did you mean `output`?
    """)
