"""A job file becomes a job: overrides, the project root, prompt and schema files, all errors at once, snapshots."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from runner.errors import SpecError
from runner.load import Job, find_root, load_job
from runner.problems import MAX_SHOWN, SpecErrors
from runner.snapshot import as_run, changed, snapshot

MINIMAL = "input: {path: x.csv}\nprompt: {user: hi}\nmodel: m\n"
KEY = "sk-proj-Ab1Cd2Ef3Gh4Ij5Kl6Mn7Op8"

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["topic"],
    "properties": {"topic": {"type": "string"}},
}


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    Path("configs/prompts").mkdir(parents=True)
    Path("jobs").mkdir()


def write(text: str, path: str = "jobs/nightly.yaml") -> Path:
    Path(path).write_text(dedent(text).lstrip("\n"), encoding="utf-8")
    return Path(path)


def job(text: str = MINIMAL, overrides: Mapping[str, str] | None = None) -> Job:
    return load_job(write(text), overrides=overrides)


def said(text: str = MINIMAL, overrides: Mapping[str, str] | None = None) -> str:
    with pytest.raises(SpecErrors) as caught:
        job(text, overrides)
    return f"error: {caught.value}"


def expect(shown: str) -> str:
    return dedent(shown).strip("\n")


# Errors -------------------------------------------------------------------------------------------------------------


def test_all_errors_of_a_file_come_at_once_in_the_order_of_its_lines() -> None:
    shown = said("""
        name: nightly
        input: {path: x.csv, id: 3}
        prompt:
          system: {file: missing.txt}
          usr: "{{ title }}"
        output: {labels: [yes, no]}
        modle: gpt-6-luna
        limits: {requests_per_minut: 3000, concurrency: many}
    """)
    assert shown == expect("""
        error: `input.id` must be text, got 3
          --> jobs/nightly.yaml:2:26
           |
         2 | input: {path: x.csv, id: 3}
           |                          ^
        hint: `3` is read as a number by YAML: write "3"

        error: `prompt` needs `user`, or `messages`
          --> jobs/nightly.yaml:3:1
           |
         3 | prompt:
           | ^

        error: `prompt.usr` is not a known key
          --> jobs/nightly.yaml:5:3
           |
         5 |   usr: "{{ title }}"
           |   ^
        hint: did you mean `user`?

        error: `output.labels[0]` must be text, got true
          --> jobs/nightly.yaml:6:19
           |
         6 | output: {labels: [yes, no]}
           |                   ^
        hint: `yes` is read as true by YAML: write "yes"

        error: `output.labels[1]` must be text, got false
          --> jobs/nightly.yaml:6:24
           |
         6 | output: {labels: [yes, no]}
           |                        ^
        hint: `no` is read as false by YAML: write "no"

        error: `modle` is not a known key
          --> jobs/nightly.yaml:7:1
           |
         7 | modle: gpt-6-luna
           | ^
        hint: did you mean `model`?

        error: `limits.requests_per_minut` is not a known key
          --> jobs/nightly.yaml:8:10
           |
         8 | limits: {requests_per_minut: 3000, concurrency: many}
           |          ^
        hint: did you mean `requests_per_minute`?

        error: `limits.concurrency` must be a whole number, got "many"
          --> jobs/nightly.yaml:8:49
           |
         8 | limits: {requests_per_minut: 3000, concurrency: many}
           |                                                 ^
    """)


def test_missing_keys_are_shown_where_they_belong() -> None:
    assert said("input: {}\nprompt: {user: hi}\n") == expect("""
        error: `input.path` is missing
          --> jobs/nightly.yaml:1:1
           |
         1 | input: {}
           | ^
        hint: for example `path: data/papers.jsonl`

        error: `model` is missing
          --> jobs/nightly.yaml:1:1
           |
         1 | input: {}
           | ^
        hint: for example `model: gpt-6-luna`
    """)


def test_a_duplicate_key_is_reported_with_the_rest() -> None:
    shown = said(MINIMAL + "limits: {concurrency: 1, concurrency: 2}\napi: respones\n")
    assert shown.count("error: ") == 2
    assert "`limits.concurrency` is given twice" in shown
    assert "did you mean `responses`?" in shown


def test_the_line_number_may_have_many_digits() -> None:
    shown = said("#\n" * 1200 + MINIMAL + "nmae: x\n")
    assert shown.splitlines()[1:5] == [
        "  --> jobs/nightly.yaml:1204:1",
        "     |",
        "1204 | nmae: x",
        "     | ^",
    ]


def test_a_flood_of_errors_is_cut() -> None:
    with pytest.raises(SpecErrors) as caught:
        job(MINIMAL + f"output: {{labels: [{', '.join(['no'] * 500)}]}}\n")
    assert len(caught.value.problems) == 500
    assert str(caught.value).count("\n\nerror: ") == MAX_SHOWN
    assert str(caught.value).endswith("error: and 470 more problems")


def test_errors_are_values_and_survive_pickling() -> None:
    with pytest.raises(SpecError) as caught:
        job(MINIMAL + "nmae: x\n")
    error = pickle.loads(pickle.dumps(caught.value))
    assert str(error) == str(caught.value)
    [problem] = error.problems
    assert (problem.message, problem.where) == ("`nmae` is not a known key", "jobs/nightly.yaml:4:1")
    assert (error.message, error.where, error.hint) == (problem.message, problem.where, problem.hint)
    assert error.exit_code == 2


def test_a_file_outside_the_current_folder_is_shown_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(MINIMAL + "nmae: x\n")
    monkeypatch.chdir(tmp_path / "configs")
    with pytest.raises(SpecErrors) as caught:
        load_job(tmp_path / "jobs" / "nightly.yaml")
    assert caught.value.where == f"{tmp_path}/jobs/nightly.yaml:4:1"


# Overrides ----------------------------------------------------------------------------------------------------------


def test_overrides_replace_and_add_values() -> None:
    changes = {
        "limits.concurrency": "8",
        "input.limit": "5",
        "endpoint": "simulator",
        "output.labels": "[a, b]",
        "parameters.reasoning.effort": "low",
        "stop.max_error_rate": "",
    }
    spec = job(MINIMAL + "limits: {concurrency: 64, requests_per_minute: 10}\n", changes).spec
    assert (spec.limits.concurrency, spec.limits.requests_per_minute) == (8, 10)
    assert spec.input.limit == 5
    assert spec.endpoint == "simulator"
    assert spec.output.labels == ("a", "b")
    assert spec.parameters == {"reasoning": {"effort": "low"}}
    assert spec.stop.max_error_rate is None


def test_an_override_mends_a_broken_value_and_an_item_of_a_list() -> None:
    spec = job(MINIMAL + "output: {labels: [a, no]}\napi: 3\n", {"output.labels.1": '"no"', "api": "chat"}).spec
    assert spec.output.labels == ("a", "no")
    assert spec.api == "chat"


@pytest.mark.parametrize(
    ("key", "text", "shown"),
    [
        (
            "limits.concurrency",
            "many",
            """
            error: `limits.concurrency` must be a whole number, got "many"
              --> --set limits.concurrency=many
            """,
        ),
        (
            "limits.concurency",
            "8",
            """
            error: `limits.concurency` is not a known key
              --> --set limits.concurency=8
            hint: did you mean `concurrency`?
            """,
        ),
        (
            "output.labels",
            "[a, no]",
            """
            error: `output.labels[1]` must be text, got false
              --> --set output.labels=[a, no]
            hint: `no` is read as false by YAML: write "no"
            """,
        ),
        (
            "name",
            "no",
            """
            error: `name` must be text, got false
              --> --set name=no
            hint: `no` is read as false by YAML: write "no"
            """,
        ),
        (
            "limits",
            "{concurrency: 1",
            """
            error: this `{` is not closed
              --> --set limits={concurrency: 1
            hint: end the mapping with `}`
            """,
        ),
        (
            "model.name",
            "x",
            """
            error: `model.name` leads to no key of the job file
              --> --set model.name=x
            """,
        ),
        (
            "endpoint",
            "simulatr",
            """
            error: there is no endpoint `simulatr` in configs/endpoints.yaml (which does not exist)
              --> --set endpoint=simulatr
            hint: did you mean `simulator`?
            """,
        ),
        (
            "",
            "x",
            """
            error: `` leads to no key of the job file
              --> --set =x
            """,
        ),
    ],
)
def test_an_error_in_an_override_is_shown_as_the_option(key: str, text: str, shown: str) -> None:
    assert said(MINIMAL, {key: text}) == expect(shown)


def test_errors_of_options_come_after_those_of_the_file() -> None:
    shown = said(MINIMAL + "nmae: x\n", {"limits.concurrency": "0"})
    assert [line for line in shown.splitlines() if "-->" in line] == [
        "  --> jobs/nightly.yaml:4:1",
        "  --> --set limits.concurrency=0",
    ]


# The project --------------------------------------------------------------------------------------------------------


def test_the_root_is_the_nearest_folder_with_configs(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "deep").mkdir()
    assert find_root(Path("jobs/deep/x.yaml")) == tmp_path
    (tmp_path / "jobs" / "configs").mkdir()
    assert find_root(Path("jobs/deep/x.yaml")) == tmp_path / "jobs"
    assert job().root == tmp_path / "jobs"


def test_without_configs_the_root_is_the_folder_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "configs" / "prompts").rmdir()
    (tmp_path / "configs").rmdir()
    assert find_root(Path("jobs/x.yaml")) == tmp_path / "jobs"


def test_a_job_is_named_after_its_file() -> None:
    assert job().spec.name == "nightly"
    assert load_job(write(MINIMAL, "jobs/my first job.yaml")).spec.name == "my-first-job"
    assert job(MINIMAL + "name: other\n").spec.name == "other"


def test_the_jobs_limits_come_before_the_endpoints() -> None:
    assert job().limits.model_dump() == {
        "concurrency": 64,
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "enqueued_tokens": None,
    }
    write(
        """
        openai:
          base_url: https://api.openai.com/v1
          limits: {concurrency: 4, requests_per_minute: 100, tokens_per_minute: 5000}
        """,
        "configs/endpoints.yaml",
    )
    assert job(MINIMAL + "limits: {requests_per_minute: 7}\n").limits.model_dump() == {
        "concurrency": 4,
        "requests_per_minute": 7,
        "tokens_per_minute": 5000,
        "enqueued_tokens": None,
    }


# Prompts ------------------------------------------------------------------------------------------------------------


def test_prompts_are_read_from_their_files() -> None:
    write("Sort: {{ title }}\n", "configs/prompts/sort.txt")
    loaded = job("input: {path: x}\nprompt: {system: Be brief., user: {file: sort.txt}}\nmodel: m\n")
    assert loaded.prompts == (("system", "Be brief."), ("user", "Sort: {{ title }}\n"))


def test_messages_keep_their_order() -> None:
    write("B", "configs/prompts/b.txt")
    loaded = job("""
        input: {path: x}
        prompt:
          messages:
            - {role: developer, content: A}
            - {role: user, content: {file: b.txt}}
            - {role: assistant, content: C}
        model: m
    """)
    assert loaded.prompts == (("developer", "A"), ("user", "B"), ("assistant", "C"))


@pytest.mark.parametrize("name", ["../endpoints.yaml", "/etc/hostname", "a/../../models.yaml", "link.txt"])
def test_a_prompt_file_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("x")
    Path("configs/prompts/link.txt").symlink_to(tmp_path / "secret.txt")
    shown = said(f"input: {{path: x}}\nprompt: {{user: {{file: {name}}}}}\nmodel: m\n")
    assert shown.splitlines()[:2] == [
        "error: `prompt.user.file` leads out of configs/prompts/",
        "  --> jobs/nightly.yaml:2:23",
    ]


def test_a_missing_prompt_file_suggests_one_that_is_there() -> None:
    write("x", "configs/prompts/sort-papers.txt")
    assert said("input: {path: x}\nprompt: {user: {file: sort-paper.txt}}\nmodel: m\n") == expect("""
        error: there is no file configs/prompts/sort-paper.txt
          --> jobs/nightly.yaml:2:23
           |
         2 | prompt: {user: {file: sort-paper.txt}}
           |                       ^
        hint: did you mean `sort-papers.txt`?
    """)


def test_a_prompt_file_that_is_no_text_is_one_error() -> None:
    Path("configs/prompts/x.txt").write_bytes(b"a\xffb")
    shown = said("input: {path: x}\nprompt: {user: {file: x.txt}}\nmodel: m\n")
    assert shown.startswith("error: the prompt file is not UTF-8 text: the byte 0xff cannot stand here\n")


# Schemas ------------------------------------------------------------------------------------------------------------


def test_a_schema_is_read_from_its_file() -> None:
    Path("configs/paper.json").write_text(json.dumps(SCHEMA))
    assert job(MINIMAL + "output: {schema: configs/paper.json}\n").json_schema == SCHEMA
    assert job(MINIMAL).json_schema is None


def test_an_error_in_a_schema_file_is_shown_at_its_line() -> None:
    Path("configs/paper.json").write_text('{"type": "object",\n "properties": {\n  "a": {"type": "string"}\n }\n}\n')
    assert said(MINIMAL + "output: {schema: configs/paper.json}\n") == expect("""
        error: the schema needs `additionalProperties: false`
          --> configs/paper.json:1:1
           |
         1 | {"type": "object",
           | ^
        hint: add it, or set `output.strict: false`

        error: the schema must require all its properties
          --> configs/paper.json:1:1
           |
         1 | {"type": "object",
           | ^
        hint: add `a` to `required`, or set `output.strict: false`
    """)


@pytest.mark.parametrize(
    ("content", "message", "where"),
    [
        ('{"a": }', "this is not JSON: expecting value", "configs/x.json:1:7"),
        ("[1]", "a schema file must hold a JSON object", "configs/x.json"),
        ("", "this is not JSON: expecting value", "configs/x.json:1:1"),
        ("[" * 100_000, "configs/x.json cannot be read as JSON", "jobs/nightly.yaml:4:18"),
    ],
)
def test_a_schema_file_must_be_json(content: str, message: str, where: str) -> None:
    Path("configs/x.json").write_text(content)
    with pytest.raises(SpecErrors) as caught:
        job(MINIMAL + "output: {schema: configs/x.json}\n")
    assert (caught.value.message, caught.value.where) == (message, where)


def test_a_missing_schema_file_suggests_one_that_is_there() -> None:
    Path("configs/paper.json").write_text(json.dumps(SCHEMA))
    shown = said(MINIMAL + "output: {schema: configs/papers.json}\n")
    assert shown.splitlines()[0] == "error: there is no file configs/papers.json"
    assert shown.splitlines()[-1] == "hint: did you mean `paper.json`?"


# What a run keeps ---------------------------------------------------------------------------------------------------


def test_a_snapshot_needs_no_other_file_and_reads_back_as_the_same_job(tmp_path: Path) -> None:
    write("  odd\nprompt {{ x }}\u2028 \n\n", "configs/prompts/a.txt")
    Path("configs/paper.json").write_text(json.dumps(SCHEMA))
    first = job("""
        input: {path: [a.csv, b.csv], limit: 3, delimiter: "\\t"}
        prompt: {system: {file: a.txt}, user: "yes"}
        output: {schema: configs/paper.json}
        model: gpt-6-luna
        parameters: {stop: null, seed: 1, top_p: 0.5}
        stop: {max_error_rate: null}
    """)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "copy.yaml").write_text(snapshot(first), encoding="utf-8")
    second = load_job(elsewhere / "copy.yaml", root=elsewhere)
    assert second.spec.name == "nightly"
    assert second.prompts == first.prompts
    assert second.json_schema == first.json_schema == SCHEMA
    assert as_run(second) == as_run(first)
    assert changed(as_run(first), as_run(second)) == []
    assert snapshot(second) == snapshot(first)


def test_a_snapshot_of_messages_has_their_texts() -> None:
    write("B", "configs/prompts/b.txt")
    loaded = job("input: {path: x}\nprompt: {messages: [{role: user, content: {file: b.txt}}]}\nmodel: m\n")
    assert as_run(loaded)["prompt"]["messages"] == [{"role": "user", "content": "B"}]


def test_a_changed_prompt_file_is_a_change() -> None:
    text = "input: {path: x}\nprompt: {user: {file: a.txt}}\nmodel: m\n"
    write("one", "configs/prompts/a.txt")
    old = as_run(job(text))
    write("two", "configs/prompts/a.txt")
    assert changed(old, as_run(job(text, {"limits.concurrency": "3"}))) == ["prompt.user"]


def test_a_job_survives_pickling() -> None:
    loaded = job()
    copy = pickle.loads(pickle.dumps(loaded))
    assert (copy.spec, copy.prompts, copy.limits) == (loaded.spec, loaded.prompts, loaded.limits)


# Secrets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        f"parameters: {{api_key: {KEY}}}",
        f"parameters: {{metadata: [{{a: {KEY}}}]}}",
        f"endpoint: {KEY}",
        f"{KEY}: 3",
        f"limits: {{concurrency: {KEY}}}",
        f"api: {KEY}",
        f"name: {KEY} {KEY} [",
        f'name: "{KEY}',
    ],
)
def test_a_key_in_a_job_file_is_refused_and_never_shown(line: str) -> None:
    shown = said(MINIMAL + line + "\n")
    assert KEY not in shown
    assert KEY[3:] not in shown


def test_a_key_in_an_option_is_not_shown() -> None:
    for key in ("parameters.key", "endpoint", "limits.concurrency", KEY):
        assert KEY not in said(MINIMAL, {key: KEY})


def test_a_key_is_named_as_what_it_is() -> None:
    assert said(MINIMAL + f"parameters: {{user: {KEY}}}\n") == expect("""
        error: `parameters.user` holds what looks like an API key
          --> jobs/nightly.yaml:4:20
           |
         4 | parameters: {user: sk-***}
           |                    ^
        hint: put it in an environment variable, and name that in configs/endpoints.yaml
    """)


def test_words_that_begin_like_a_key_are_fine() -> None:
    loaded = job(MINIMAL + "parameters: {user: sk-learn-tutorials-for-beginners}\noutput: {labels: [sk-1, sk-2]}\n")
    assert loaded.spec.parameters == {"user": "sk-learn-tutorials-for-beginners"}
