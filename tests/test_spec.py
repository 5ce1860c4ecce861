"""The rules of the job file: what each section refuses, and in which words."""

from __future__ import annotations

import json
import pickle
from typing import Any

import jsonschema_rs
import pytest
import yaml
from pydantic import ValidationError

from runner.output_section import OutputSpec
from runner.snapshot import changed
from runner.spec import JobSpec, job_name, job_schema
from runner.validation import check
from runner.yaml_source import parse

MINIMAL = "input: {path: x.csv}\nprompt: {user: hi}\nmodel: m\n"


def problems(text: str) -> list[str]:
    """`message | hint` of all that is wrong with a job of these lines; what it lacks is filled in."""
    given = {line.split(":")[0] for line in text.splitlines()}
    rest = [line for line in MINIMAL.splitlines() if line.split(":")[0] not in given]
    source = parse("\n".join([text, *rest]), "job.yaml")
    _, found = check(JobSpec, source, source.data)
    return [f"{problem.message} | {problem.hint}" for problem in found]


def job(text: str = "") -> JobSpec:
    source = parse(MINIMAL + text, "job.yaml")
    spec, found = check(JobSpec, source, source.data)
    assert spec is not None, found
    return spec


def test_a_small_job_has_the_defaults() -> None:
    spec = job()
    assert spec.input.path == ("x.csv",)
    assert (spec.api, spec.endpoint, spec.strategy, spec.transport) == ("responses", "openai", "asyncio", "aiohttp")
    assert (spec.retry.max_attempts, spec.retry.invalid_attempts) == (6, 3)
    assert (spec.retry.timeout_s, spec.retry.deadline_s) == (60, 600)
    assert (spec.stop.max_error_rate, spec.stop.after) == (0.5, 100)
    assert spec.output.rows_per_part == 5000
    assert spec.limits.concurrency is None
    assert spec.parameters == {}


def test_a_job_is_frozen_and_can_be_pickled() -> None:
    spec = job("output: {labels: [a, b]}\n")
    with pytest.raises(ValidationError):
        spec.model = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(spec)) == spec


# The file (what it lacks is filled in), and what is said of it.
MISTAKES = r"""
# types

model: 3
    error: `model` must be a name or a list of names, got 3
    hint: put it in quotes

model:
    error: `model` must be a name or a list of names, got nothing

name: true
    error: `name` must be text, got true
    hint: `true` is read as true by YAML: write "true"

limits: {concurrency: many}
    error: `limits.concurrency` must be a whole number, got "many"

limits: {concurrency: 1.5}
    error: `limits.concurrency` must be a whole number, got 1.5

limits: {concurrency: true}
    error: `limits.concurrency` must be a whole number, got true

retry: {timeout_s: "60"}
    error: `retry.timeout_s` must be a number, got "60"
    hint: write it without quotes

retry: {timeout_s: [1]}
    error: `retry.timeout_s` must be a number, got a list

output: {strict: 1}
    error: `output.strict` must be true or false, got 1

input: {path: x, keep: title}
    error: `input.keep` must be a list, got "title"
    hint: write [title]

input: {path: 3}
    error: `input.path` must be a path or a list of paths, got 3

input: {path: [a, 3]}
    error: `input.path[1]` must be text, got 3
    hint: `3` is read as a number by YAML: write "3"

parameters: [a]
    error: `parameters` must be a mapping, got a list

retry:
    error: `retry` must be a mapping, got nothing
    hint: the keys here are `max_attempts`, `invalid_attempts`, `timeout_s`, `deadline_s` and `flex_fallback`

# bounds

limits: {concurrency: 0}
    error: `limits.concurrency` must be at least 1, got 0
    hint: leave the key out for 64

limits: {concurrency: 100001}
    error: `limits.concurrency` must be at most 100,000, got 100001
    hint: leave the key out for 64

limits: {requests_per_minute: 0}
    error: `limits.requests_per_minute` must be more than 0, got 0
    hint: leave the key out for no limit

input: {path: x, limit: 0}
    error: `input.limit` must be at least 1, got 0
    hint: leave the key out to read all rows

input: {path: []}
    error: `input.path` must not be empty

retry: {max_attempts: 0}
    error: `retry.max_attempts` must be at least 1, got 0
    hint: 1 sends each request once

stop: {max_error_rate: 2}
    error: `stop.max_error_rate` must be at most 1, got 2
    hint: `null` never stops; 0.5 stops when half of the rows fail

output: {rows_per_part: 0}
    error: `output.rows_per_part` must be at least 1, got 0

# choices

api: response
    error: `api` must be one of `responses`, `chat` or `decisions`, got "response"
    hint: did you mean `responses`?

input: {path: x, format: cvs}
    error: `input.format` must be one of `csv`, `tsv`, `jsonl`, `json` or `parquet`, got "cvs"
    hint: did you mean `csv`?

strategy: ray
    error: `strategy` must be one of `sequential`, `threads`, `to_thread`, `asyncio`, `processes`, `batch_api` or `auto`, got "ray"
    hint: docs/strategies.md tells what each is for

strategy: hybrid
    error: `strategy` must be one of `sequential`, `threads`, `to_thread`, `asyncio`, `processes`, `batch_api` or `auto`, got "hybrid"
    hint: write `{name: batch_api, deadline: "06:00"}`

strategy: asyncoi
    error: `strategy` must be one of `sequential`, `threads`, `to_thread`, `asyncio`, `processes`, `batch_api` or `auto`, got "asyncoi"
    hint: did you mean `asyncio`?

strategy: {name: tread, workers: 3}
    error: `strategy.name` must be one of `sequential`, `threads`, `to_thread`, `asyncio`, `processes`, `batch_api` or `auto`, got "tread"
    hint: did you mean `threads`?

strategy: {workers: 3}
    error: `strategy` lacks `name`
    hint: for example `{name: threads, workers: 8}`

strategy: [threads]
    error: `strategy` must be a name, or a mapping with `name`, got a list
    hint: there is `sequential`, `threads`, `to_thread`, `asyncio`, `processes`, `batch_api` and `auto`

# keys

temperature: 0
    error: `temperature` is not a known key
    hint: did you mean `parameters.temperature`?

concurrency: 8
    error: `concurrency` is not a known key
    hint: did you mean `limits.concurrency`?

rpm: 8
    error: `rpm` is not a known key
    hint: did you mean `limits.requests_per_minute`?

labels: [a, b]
    error: `labels` is not a known key
    hint: did you mean `output.labels`?

stop: {xyz: 1}
    error: `stop.xyz` is not a known key
    hint: the keys here are `max_error_rate` and `after`

modle: x
model: m
    error: `modle` is not a known key
    hint: did you mean `model`?

# names

name: a b/c
    error: `name` may hold letters, digits and `.` `_` `-` only, got "a b/c"
    hint: for example `a-b-c`

name: ".."
    error: `name` may hold letters, digits and `.` `_` `-` only, got ".."
    hint: for example `job`

name: ""
    error: `name` may hold letters, digits and `.` `_` `-` only, got ""
    hint: leave the key out for the file's name

# csv

input: {path: x, delimiter: '\t'}
    error: `input.delimiter` must be one character, got "\\t"
    hint: write "\t" in double quotes for a tab

input: {path: x, quote: ab}
    error: `input.quote` must be one character or `none`, got "ab"

input: {path: x, encoding: utf8x}
    error: `input.encoding` is not an encoding that Python knows, got "utf8x"
    hint: did you mean `utf-8`?

input: {path: x, columns: [a, b, a]}
    error: `input.columns[2]` is the same as item [0]: "a"

# prompt

prompt: {system: x}
    error: `prompt` needs `user`, or `messages`

prompt: {}
    error: `prompt` needs `user`, or `messages`

prompt: {user: 3}
    error: `prompt.user` must be text or `{file: NAME}`, got 3
    hint: put it in quotes

prompt: {user: [a]}
    error: `prompt.user` must be text or `{file: NAME}`, got a list

prompt: {user: {file: 3}}
    error: `prompt.user.file` must be text, got 3
    hint: `3` is read as a number by YAML: write "3"

prompt: {user: {fil: a}}
    error: `prompt.user.fil` is not a known key
    hint: did you mean `file`?

prompt: {user: a, messages: [{role: user, content: b}]}
    error: `prompt.messages` and `user` exclude each other
    hint: keep one of them

prompt: {messages: [{role: usr, content: b}]}
    error: `prompt.messages[0].role` must be one of `system`, `developer`, `user` or `assistant`, got "usr"
    hint: did you mean `user`?

prompt: {messages: [{role: user}]}
    error: `prompt.messages[0].content` is missing
    hint: for example `content: 'Title: {{ title }}'`

prompt: {messages: []}
    error: `prompt.messages` must not be empty

# labels

output: {labels: [a]}
    error: `output.labels` must hold at least 2, got 1

output: {labels: [a, b, a]}
    error: `output.labels[2]` is the same as item [0]: "a"

output: {labels: [a, b, 'b ']}
    error: `output.labels[2]` is but for spaces the same as item [1]: "b "

output: {labels: [a, ' ']}
    error: `output.labels[1]` must not be empty

output: {labels: [a, no]}
    error: `output.labels[1]` must be text, got false
    hint: `no` is read as false by YAML: write "no"

output: {labels: [a, 1]}
    error: `output.labels[1]` must be text, got 1
    hint: `1` is read as a number by YAML: write "1"

output: {labels: [a, null]}
    error: `output.labels[1]` must be text, got nothing
    hint: `null` is read as nothing by YAML: write "null"

output: {labels: a}
    error: `output.labels` must be a list or a mapping, got "a"
    hint: write [a]

output: {labels: 3}
    error: `output.labels` must be a list or a mapping, got 3
    hint: write [first, second]

output: {labels: {a: first}}
    error: `output.labels` must hold at least 2, got 1

output: {labels: {a: first, b: 2}}
    error: `output.labels.b` must be text, got 2
    hint: `2` is read as a number by YAML: write "2"

output: {labels: {a: first, 'a ': second}}
    error: `output.labels.a ` is but for spaces the same as item [0]: "a "

output: {multi: true}
    error: `output.multi` needs `output.labels`
    hint: with questions, write it as `output.questions.NAME.multi`

output: {accept_at: 0.8, schema: x.json}
    error: `output.accept_at` needs `output.labels`
    hint: with questions, write it as `output.questions.NAME.accept_at`

output: {labels: [a, b], accept_at: 80}
    error: `output.accept_at` must be at most 1, got 80
    hint: 0.8 has all that is less sure than 80 % reviewed

output: {labels: [a, b], multi: true, column: refused}
    error: `output.column` must be another name: the output has a column "refused" of its own

output: {column: _x}
    error: `output.column` must not begin with an underscore, got "_x"
    hint: names that begin with an underscore are the runner's own

# questions

output: {questions: {}}
    error: `output.questions` must not be empty

output: {questions: [a]}
    error: `output.questions` must be a mapping, got a list

output: {questions: {q: [a, b]}}
    error: `output.questions.q` must be a mapping, got a list
    hint: the keys here are `choice`, `yes_no`, `score`, `ask`, `multi` and `accept_at`

output: {questions: {q: {}}}
    error: `output.questions.q` needs `choice`, `yes_no` or `score`
    hint: for example `{choice: [a, b], ask: Which one is it?}`

output: {questions: {q: {choices: [a, b], ask: which}}}
    error: `output.questions.q.choices` is not a known key
    hint: did you mean `choice`?

output: {questions: {q: {statement: it is so}}}
    error: `output.questions.q.statement` is not a known key
    hint: did you mean `yes_no`?

output: {questions: {q: {choice: [a, b], yes_no: it is so}}}
    error: `output.questions.q.yes_no` and its `choice` exclude each other
    hint: keep one of them, or make two questions of them

output: {questions: {q: {choice: [a, b]}}}
    error: `output.questions.q` with `choice` needs `ask`
    hint: for example `ask: Which of them is it?`

output: {questions: {q: {score: [a, b]}}}
    error: `output.questions.q` with `score` needs `ask`
    hint: for example `ask: How much of it is there?`

output: {questions: {q: {yes_no: it is so, ask: is it}}}
    error: `output.questions.q.ask` has no meaning with `yes_no`
    hint: the statement of `yes_no` is what is asked: write all of it there

output: {questions: {q: {yes_no: it is so, multi: true}}}
    error: `output.questions.q.multi` has no meaning with `yes_no`
    hint: it is for `choice`

output: {questions: {q: {yes_no: ' '}}}
    error: `output.questions.q.yes_no` must not be empty

output: {questions: {q: {yes_no: 'The {{ title }} is good'}}}
    error: `output.questions.q.yes_no` is no template: `{{ title }}` would be sent as it stands
    hint: what differs from row to row goes into `prompt`; every row is asked the same

output: {labels: [{a: first}, {b: second}]}
    error: `output.labels[0]` must be text, got a mapping
    hint: with descriptions it is one mapping, without the `-`: `{first: what it means, second: …}`

output: {questions: {q: {yes_no: true}}}
    error: `output.questions.q.yes_no` must be text, got true
    hint: `true` is read as true by YAML: write "true"

output: {questions: {q: {choice: [a], ask: which}}}
    error: `output.questions.q.choice` must hold at least 2, got 1
    hint: a question with one answer needs no model

output: {questions: {q: {score: [1, high], ask: how}}}
    error: `output.questions.q.score[0]` must be text, got 1
    hint: `1` is read as a number by YAML: write "1"

output: {questions: {q: {choice: [a, b, a], ask: which}}}
    error: `output.questions.q.choice[2]` is the same as item [0]: "a"

output: {questions: {q: {yes_no: it is so, accept_at: 0}}}
    error: `output.questions.q.accept_at` must be more than 0, got 0
    hint: 0.8 has all that is less sure than 80 % reviewed

output: {questions: {q: {yes_no: it is so, accept_at: 0.5}}}
    error: `output.questions.q.accept_at` must be above 0.5 with `yes_no`, got 0.5
    hint: yes or no is always at least half sure; 0.8 has all between 20 % and 80 % reviewed

output: {questions: {_q: {yes_no: it is so}}}
    error: `output.questions._q` must not begin with an underscore
    hint: names that begin with an underscore are the runner's own columns

output: {questions: {'is it so?': {yes_no: it is so}}}
    error: `output.questions.is it so?` must be up to 60 letters, digits and `_`, a letter first: it becomes a column
    hint: for example `is_it_so`

output: {questions: {refused: {yes_no: it is so}}}
    error: `output.questions.refused` makes a column `refused`, and the output has one too
    hint: give it another name

output: {questions: {q: {choice: [a, b], ask: which}, q_confidence: {yes_no: it is so}}}
    error: `output.questions.q_confidence` makes a column `q_confidence`, and `output.questions.q` has one too
    hint: give it another name

output: {questions: {q: {yes_no: it is so}}, labels: [a, b]}
    error: `output.questions` and `output.labels` exclude each other
    hint: keep one of them: labels are a `choice` question too

output: {questions: {q: {yes_no: it is so}}, schema: x.json}
    error: `output.schema` and `output.questions` exclude each other
    hint: questions make their own schema; keep one of them

output: {questions: {q: {yes_no: it is so}}, column: answer}
    error: `output.column` has no meaning with `output.questions`
    hint: the name of each question is its column

output: {questions: {q: {yes_no: it is so}}, multi: true}
    error: `output.multi` needs `output.labels`
    hint: with questions, write it as `output.questions.NAME.multi`

output: {choice: [a, b]}
    error: `output.choice` is not a known key
    hint: did you mean `output.questions.NAME.choice`?

api: decisions
    error: `api: decisions` answers questions, and `output` asks none
    hint: write `output.labels` or `output.questions`; plain text and a `schema` take `api: responses`

# schema

output: {schema: [a]}
    error: `output.schema` must be a JSON Schema or the path of a .json file, got a list

output: {schema: x.yaml}
    error: `output.schema` must be a JSON Schema or the path of a .json file, got "x.yaml"

output: {labels: [a, b], schema: x.json}
    error: `output.schema` and `output.labels` exclude each other
    hint: labels make their own schema; keep one of them

output: {column: a, schema: x.json}
    error: `output.column` has no meaning with `output.schema`
    hint: each property of the schema is a column by its own name

# parameters

parameters: {model: x}
    error: `parameters.model` cannot be set here
    hint: write it as `model`, at the top of the job file

parameters: {messages: []}
    error: `parameters.messages` cannot be set here
    hint: write it as `prompt.messages`

parameters: {input: x}
    error: `parameters.input` cannot be set here
    hint: write it as `prompt.user` or `prompt.messages`

parameters: {instructions: x}
    error: `parameters.instructions` cannot be set here
    hint: write it as `prompt.system`

parameters: {prompt: x}
    error: `parameters.prompt` cannot be set here
    hint: write it as `prompt.user` or `prompt.messages`

parameters: {stream: false}
    error: `parameters.stream` cannot be set here
    hint: leave it out: the runner reads whole replies

parameters: {response_format: x}
    error: `parameters.response_format` cannot be set here
    hint: write it as `output.schema` or `output.labels`

parameters: {text: {format: x}}
    error: `parameters.text.format` cannot be set here
    hint: write it as `output.schema` or `output.labels`

parameters: {n: 2}
    error: `parameters.n` must be 1, got 2
    hint: each row gets one answer; leave it out

parameters: {max_tokens: 2}
    error: `parameters.max_tokens` is not a parameter of the Responses API
    hint: did you mean `max_output_tokens`?

parameters: {max_completion_tokens: 2}
    error: `parameters.max_completion_tokens` is not a parameter of the Responses API
    hint: did you mean `max_output_tokens`?

api: chat
parameters: {max_output_tokens: 2}
    error: `parameters.max_output_tokens` is not a parameter of chat completions
    hint: did you mean `max_completion_tokens`?
"""  # noqa: E501


def cases() -> list[tuple[str, str]]:
    blocks = [block for block in MISTAKES.strip().split("\n\n") if not block.startswith("#")]
    return [tuple(block.split("\n    error: ")) for block in blocks]  # type: ignore[misc]


@pytest.mark.parametrize(("text", "said"), cases())
def test_each_mistake_is_said_once_and_in_words(text: str, said: str) -> None:
    assert problems(text) == [said.replace("\n    hint: ", " | ") if "hint: " in said else f"{said} | None"]


@pytest.mark.parametrize(
    "text",
    [
        "api: chat\nparameters: {max_tokens: 5}\n",
        "api: chat\nparameters: {max_completion_tokens: 5, n: 1}\n",
        "parameters: {max_output_tokens: 5, text: {verbosity: low}, temperature: 0}\n",
        "stop: {max_error_rate: null}\n",
        "limits: {requests_per_minute: 0.5, tokens_per_minute: 1e6}\n",
        "output: {labels: ['yes', 'no']}\n",
        "output: {labels: {a: first, b: null}, multi: false}\n",
        "output: {labels: [a, b], multi: true, accept_at: 1, column: odd name}\n",
        "output: {labels: [a, b]}\napi: decisions\nparameters: {safety_identifier: x}\n",
        "output: {questions: {q: {yes_no: it is so, choice: null, multi: false, ask: null}}}\napi: decisions\n",
        "output: {schema: answers.json, strict: false}\n",
    ],
)
def test_what_is_meant_to_pass_passes(text: str) -> None:
    assert problems(text) == []


def asking(**questions: Any) -> str:
    return yaml.safe_dump({"output": {"questions": questions}}, width=1_000_000)


def test_there_are_only_so_many_questions_and_choices() -> None:
    one = {"yes_no": "it is so"}
    assert problems(asking(**{f"q{number}": one for number in range(400)})) == []
    [said] = problems(asking(**{f"q{number}": one for number in range(401)}))
    assert said == "`output.questions` must hold at most 400, got 401 | None"

    def choice(count: int, **more: Any) -> dict[str, Any]:
        return {"choice": [f"c{number}" for number in range(count)], "ask": "which", **more}

    assert problems(asking(q=choice(255))) == []
    assert problems(asking(q=choice(256))) == ["`output.questions.q.choice` must hold at most 255, got 256 | None"]
    two = {"p": choice(200, multi=True), "q": choice(201, multi=True)}
    assert problems(asking(**two)) == []
    assert problems(asking(**two) + "api: decisions") == [
        "`api: decisions` takes at most 400 questions a request, and these make 401 | each choice of a `multi` "
        "question is one; `api: responses` asks them all in one schema"
    ]
    labels = f"output: {{labels: {[f'l{number}' for number in range(256)]}}}\n"
    assert problems(labels) == []
    assert problems(labels + "api: decisions") == [
        "`api: decisions` takes at most 255 labels, and there are 256 | `api: responses` takes more"
    ]


def test_questions_are_kept_as_they_were_written() -> None:
    questions = {
        "topic": {"choice": {"ml": "Learning.", "other": None}, "ask": "What is it?", "multi": True, "accept_at": 0.5},
        "novelty": {"score": ["low", "high"], "ask": "How new?"},
        "applied": {"yes_no": "It is."},
    }
    spec = job("output:\n  questions: " + json.dumps(questions) + "\n")
    assert spec.model_dump(mode="json", by_alias=True)["output"]["questions"] == questions
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_labels_are_one_question() -> None:
    [(column, question)] = job("output: {labels: {a: first, b: null}, accept_at: 0.9}\n").output.asked.items()
    assert (column, question.choice, question.accept_at) == ("label", {"a": "first", "b": None}, 0.9)
    assert job("output: {labels: [a, b]}\n").output.one_label
    assert not job("output: {labels: [a, b], multi: true}\n").output.one_label
    assert job().output.asked == {}


def test_mistakes_in_different_sections_are_all_found() -> None:
    text = "api: respones\nlimits: {concurrency: 0}\noutput: {labels: [yes, no]}\nparameters: {model: x, n: 3}\nxyz: 1"
    assert len(problems(text)) == 7


# Schemas ------------------------------------------------------------------------------------------------------------


def refused(schema: object, strict: bool = True) -> list[tuple[str, str | None]]:
    source = parse("", "job.yaml", may_be_empty=True)
    _, found = check(OutputSpec, source, {"schema": schema, "strict": strict}, ("output",))
    return [(problem.message, problem.hint) for problem in found]


def an_object(**properties: object) -> dict[str, Any]:
    required = list(properties)
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def test_a_strict_schema_passes() -> None:
    assert refused(an_object(topic={"type": "string"}, inner=an_object(a={"enum": [1]}))) == []


def test_a_schema_must_be_a_schema() -> None:
    [(message, _)] = refused(an_object(a={"type": "strin"}))
    assert message.startswith("`output.schema.properties.a.type` is not valid JSON Schema: ")


@pytest.mark.parametrize("schema", [{"type": "string"}, {"type": "object"}, {"type": "object", "properties": {}}, {}])
def test_a_schema_must_be_an_object_with_properties(schema: object) -> None:
    assert refused(schema, strict=False) == [
        (
            "`output.schema` must be an object with properties at its top level",
            "write `type: object`, and the fields of the answer under `properties`",
        )
    ]


def test_strictness_names_each_place_and_what_to_add() -> None:
    loose = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object"}}, "b": {}}}
    assert refused(loose) == [
        (
            "`output.schema` needs `additionalProperties: false`",
            "add it, or set `output.strict: false`",
        ),
        (
            "`output.schema` must require all its properties",
            "add `a` and `b` to `required`, or set `output.strict: false`",
        ),
        (
            "`output.schema.properties.a.items` needs `additionalProperties: false`",
            "add it, or set `output.strict: false`",
        ),
    ]
    assert refused(loose, strict=False) == []


def test_strictness_reaches_definitions_and_alternatives() -> None:
    schema = an_object(a={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/x"}, {"type": ["object", "null"]}]})
    schema["$defs"] = {"x": {"properties": {}}}
    assert [message.split("`")[1] for message, _ in refused(schema)] == [
        "output.schema.properties.a.anyOf[2]",
        "output.schema.$defs.x",
    ] or sorted(message.split("`")[1] for message, _ in refused(schema)) == [
        "output.schema.$defs.x",
        "output.schema.properties.a.anyOf[2]",
    ]


def test_underscores_are_the_runners_own() -> None:
    assert refused(an_object(_id={"type": "string"})) == [
        (
            "`output.schema.properties._id` must not begin with an underscore",
            "names that begin with an underscore are the runner's own columns",
        )
    ]


def test_a_schema_stands_alone() -> None:
    assert refused(an_object(a={"$ref": "https://example.com/x.json"})) == [
        (
            '`output.schema.properties.a.$ref` must point inside the schema, got "https://example.com/x.json"',
            "write what it refers to under `$defs`",
        )
    ]
    [(message, _)] = refused(an_object(a={"$ref": "#/$defs/nowhere"}))
    assert message.startswith("`output.schema` cannot be used: ")


# For editors, and for resuming ----------------------------------------------------------------------------------------


def test_the_job_schema_is_valid_and_describes_every_key() -> None:
    schema = job_schema()
    jsonschema_rs.meta.validate(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == "Job file"
    for part in (schema, *schema["$defs"].values()):
        assert part["description"]
        assert part["additionalProperties"] is False
        for key, field in part["properties"].items():
            assert field.get("description") or "$ref" in field, key


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (MINIMAL, True),
        ("input: {path: [a, b]}\nprompt: {messages: [{role: user, content: {file: x}}]}\nmodel: m\n", True),
        (MINIMAL + "output: {schema: {type: object}}\n", True),
        (MINIMAL + "output: {schema: x.json}\n", True),
        (MINIMAL + "output: {labels: [a, b]}\nname: x-1\n", True),
        ("input: {path: 3}\nprompt: {user: x}\nmodel: m\n", False),
        ("prompt: {user: x}\nmodel: m\n", False),
        (MINIMAL + "name: a b\n", False),
        (MINIMAL + "strategy: ray\n", False),
        (MINIMAL + "strategy: threads\n", True),
        (MINIMAL + "strategy: {name: threads, workers: 8}\n", True),
        (MINIMAL + "strategy: {name: threads, workers: 0}\n", False),
        (MINIMAL + "strategy: {name: asyncio, workers: 8}\n", False),
        (MINIMAL + "strategy: auto\n", True),
        (MINIMAL + "strategy: {name: auto, deadline: 06:00}\n", True),
        (MINIMAL + "strategy: {name: auto, deadline: 8}\n", False),
        (MINIMAL + "limits: {concurrency: 0}\n", False),
        (MINIMAL + "nmae: x\n", False),
    ],
)
def test_the_job_schema_agrees_with_the_models(text: str, fits: bool) -> None:
    assert jsonschema_rs.validator_for(job_schema()).is_valid(parse(text, "x").data) is fits


def test_changed_names_what_decides_the_answers() -> None:
    def dumped(text: str = "") -> dict[str, Any]:
        return job(text).model_dump(mode="json", by_alias=True)

    old = dumped("parameters: {temperature: 0, seed: 1}\noutput: {labels: [a, b]}\n")
    assert changed(old, old) == []
    new = dumped("parameters: {temperature: 0.0, top_p: 1}\noutput: {labels: [b, a], rows_per_part: 10}\nendpoint: x\n")
    assert changed(old, new) == [
        "output.labels",
        "output.rows_per_part",
        "parameters.seed",
        "parameters.top_p",
        "endpoint",
    ]
    other_speed = dumped("limits: {concurrency: 3}\nretry: {max_attempts: 1}\ntransport: sdk\nname: other\n")
    assert changed(dumped(), other_speed) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [("my job", "my-job"), ("a/b", "a-b"), ("..", "job"), ("", "job"), ("ä", "job"), ("x_1.y", "x_1.y")],
)
def test_any_text_makes_a_job_name(text: str, name: str) -> None:
    assert job_name(text) == name
