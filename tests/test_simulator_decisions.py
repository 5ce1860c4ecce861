"""Decisions of the simulator: typed answers that depend on the request alone, refusals on demand, and bad requests."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from runner.simulator.judgement import Judge, options
from runner.simulator.service import Answer, Service
from runner.simulator.settings import SimulatorSettings
from runner.simulator.words import words

TEXT = "We train neural networks and report experiments on real data."
TOPIC: dict[str, Any] = {
    "type": "choice",
    "name": "topic",
    "instructions": "What is the paper mainly about?",
    "choices": [
        {"value": "ml", "description": "machine learning, neural networks"},
        {"value": "physics"},
        {"value": "mathematics", "description": "proofs and theories"},
        {"value": "other"},
    ],
}
APPLIED: dict[str, Any] = {
    "type": "predicate",
    "name": "applied",
    "instructions": "The paper reports an experiment on real data.",
}
NOVELTY: dict[str, Any] = {
    "type": "score",
    "name": "novelty",
    "instructions": "How new is the main idea?",
    "levels": [{"label": "incremental"}, {"label": "solid", "description": "sound work"}, {"label": "striking"}],
}
QUESTIONS = [TOPIC, APPLIED, NOVELTY]


def service(**settings: Any) -> Service:
    return Service(SimulatorSettings.model_validate({"latency_s": 0, **settings}), lambda: 0.0)


def body(given: Any = TEXT, questions: Any = QUESTIONS, **fields: Any) -> bytes:
    return json.dumps({"model": "gpt-6-luna", "input": given, "questions": questions, **fields}).encode()


def ask(asked: bytes, to: Service | None = None) -> Answer:
    to = to or service()
    answer = to.answer("POST", "/v1/decisions", None, asked)
    to.sent(answer)
    return answer


def answers(asked: bytes, to: Service | None = None) -> list[dict[str, Any]]:
    answer = ask(asked, to)
    assert answer.status == 200, answer.content
    given: list[dict[str, Any]] = json.loads(answer.content)["answers"]
    return given


def problem(question: dict[str, Any], answer: dict[str, Any]) -> str | None:
    """How an answer fails to fit its question; None if it fits."""
    if (answer["type"], answer["name"]) != (question["type"], question.get("name")):
        return "another type or name"
    if question["type"] == "predicate":
        return None if 0 <= answer["probability"] <= 1 else "out of bounds"
    shares = [each["probability"] for each in answer["probabilities"]]
    if abs(sum(shares) - 1) > 1e-9 or min(shares) < 0:
        return "no probabilities"
    if answer["confidence"] != max(shares):
        return "another confidence"
    if question["type"] == "choice":
        if [each["value"] for each in answer["probabilities"]] != [each["value"] for each in question["choices"]]:
            return "other choices"
        likeliest = answer["probabilities"][shares.index(max(shares))]["value"]
        return None if answer["choice"] is likeliest or answer["choice"] == likeliest else "another choice"
    labels = [each["label"] for each in question["levels"]]
    if [(each["label"], each["value"]) for each in answer["probabilities"]] != [(x, n) for n, x in enumerate(labels)]:
        return "other levels"
    return None if answer["score"] == pytest.approx(sum(n * p for n, p in enumerate(shares))) else "another score"


def misfits(questions: list[dict[str, Any]], given: list[dict[str, Any]]) -> bool:
    return len(questions) != len(given) or any(map(problem, questions, given))


def test_every_answer_fits_its_question() -> None:
    many = {**TOPIC, "name": "many", "choices": [{"value": f"choice {number}"} for number in range(255)]}
    long = {**NOVELTY, "levels": [{"label": f"level {number}"} for number in range(20)]}
    typed = {**TOPIC, "choices": [{"value": "true"}, {"value": True}, {"value": False}]}
    unnamed = {"type": "predicate", "instructions": [{"type": "input_text", "text": "It is long."}]}
    questions = [*QUESTIONS, many, long, typed, unnamed]
    for number in range(60):
        given = answers(body(f"{TEXT} {number}", questions))
        assert [problem(*pair) for pair in zip(questions, given, strict=True)] == [None] * 7
        assert given[-1]["name"] is None


def test_there_is_an_answer_a_model_and_usage_and_nothing_else() -> None:
    answer = ask(body(model="gpt-6-luna-2026-10-06"))
    whole = json.loads(answer.content)
    assert set(whole) == {"answers", "model", "usage"}
    assert whole["model"] == "gpt-6-luna-2026-10-06"
    read = math.ceil((len(TEXT) + len(json.dumps(QUESTIONS, separators=(",", ":")))) / 4)
    assert whole["usage"] == {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + 3,
    }
    assert answer.tokens[:2] == (read, 3)


def test_the_same_seed_and_body_give_the_same_answers() -> None:
    to = service()
    assert ask(body(), to).content == ask(body(), to).content == ask(body()).content
    assert ask(body(), service(seed=1)).content != ask(body()).content


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        (TEXT, "ml"),
        ("The proof of a mathematical theorem", "mathematics"),
        ("Physical properties of glass", "physics"),
        ([{"role": "user", "content": [{"type": "input_text", "text": "on learning machines"}]}], "ml"),
        ([{"role": "system", "content": "On physics."}, {"role": "user", "content": "A new proof"}], "mathematics"),
        ([{"role": "user", "content": [{"type": "input_json", "data": {"title": "Networks"}}]}], "ml"),
    ],
)
def test_words_and_descriptions_choose(text: Any, topic: str) -> None:
    assert answers(body(text))[0]["choice"] == topic


def test_what_the_instructions_say_about_a_choice_counts_as_its_description() -> None:
    told = "Which? ml: machine learning, neural networks; physics: matter\nmathematics - proofs\n- *other*: the rest"
    bare = [{"value": each["value"]} for each in TOPIC["choices"]]
    question = {**TOPIC, "instructions": told, "choices": bare}
    assert answers(body("Neural networks", [question]))[0]["choice"] == "ml"
    assert answers(body("A state of matter", [question]))[0]["choice"] == "physics"
    assert answers(body("Two proofs", [question]))[0]["choice"] == "mathematics"
    assert answers(body("For the rest of us", [question]))[0]["choice"] == "other"


def test_of_two_choices_in_a_list_the_longer_is_meant() -> None:
    listed = options(("learning", "machine learning"), (), "machine learning: statistics. learning: pupils")
    assert [set(each) for each in listed] == [{"learn", "pupil"}, {"machi", "learn", "stati"}]


def test_a_likely_statement_is_one_whose_words_are_there() -> None:
    likely = [answers(body(f"{TEXT} {number}"))[1]["probability"] for number in range(30)]
    unlikely = [answers(body(f"An essay about nothing, number {number}"))[1]["probability"] for number in range(30)]
    assert min(likely) > 0.7
    assert max(unlikely) < 0.4
    assert len(set(likely)) > 20


def test_what_words_speak_for_is_chosen_with_more_confidence() -> None:
    clear = [answers(body(f"{TEXT} {number}"))[0]["confidence"] for number in range(30)]
    open_ = [answers(body(f"xyzzy {number}"))[0]["confidence"] for number in range(30)]
    assert sum(clear) / 30 > 0.65 > 0.55 > sum(open_) / 30
    assert len({answers(body(f"xyzzy {number}"))[0]["choice"] for number in range(30)}) == 4


PROPERTIES = {
    "topic": {
        "type": "string",
        "enum": ["ml", "physics", "mathematics", "other"],
        "description": "What is the paper mainly about? ml: machine learning, neural networks; "
        "mathematics: proofs and theories",
    },
    "topic_confidence": {"type": "number", "minimum": 0, "maximum": 1},
    "applied": {"type": "number", "minimum": 0, "maximum": 1, "description": APPLIED["instructions"]},
    "novelty": {"type": "string", "enum": ["incremental", "solid", "striking"], "description": "solid: sound work"},
}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": [*PROPERTIES], "additionalProperties": False}


def structured(api: str, text: str, schema: Any = SCHEMA) -> Any:
    fields: dict[str, Any] = {"model": "gpt-6-luna"}
    held = {"name": "answer", "schema": schema, "strict": True}
    if api == "chat/completions":
        fields["messages"] = [{"role": "user", "content": text}]
        fields["response_format"] = {"type": "json_schema", "json_schema": held}
    else:
        fields["input"] = text
        fields["text"] = {"format": {"type": "json_schema", **held}}
    answer = json.loads(service().answer("POST", f"/v1/{api}", None, json.dumps(fields).encode()).content)
    if api == "chat/completions":
        return json.loads(answer["choices"][0]["message"]["content"])
    return json.loads(answer["output"][0]["content"][0]["text"])


@pytest.mark.parametrize("api", ["chat/completions", "responses"])
def test_the_same_questions_as_a_schema_get_the_same_answers(api: str) -> None:
    for text in (TEXT, "A mathematical proof", *(f"xyzzy {number}" for number in range(30))):
        topic, applied, novelty = answers(body(text))
        assert structured(api, text) == {
            "topic": topic["choice"],
            "topic_confidence": topic["confidence"],
            "applied": applied["probability"],
            "novelty": max(novelty["probabilities"], key=lambda each: each["probability"])["label"],
        }


def test_another_model_may_choose_otherwise_where_words_do_not() -> None:
    texts = [f"xyzzy {number}" for number in range(30)]
    among = options(("ml", "physics", "other"))

    def chosen(model: str) -> list[int]:
        return [Judge(0, model, text, words(text)).choose("topic", among) for text in texts]

    assert chosen("gpt-6-luna") == chosen("gpt-6-luna") != chosen("gpt-6-sol")


def test_several_labels_are_those_that_the_text_speaks_for() -> None:
    labels = {"type": "array", "items": {"type": "string", "enum": ["vision", "language", "robots", "theory"]}}

    def chosen(text: str, **bounds: int) -> list[str]:
        schema = {"type": "object", "properties": {"topics": {**labels, **bounds}}, "required": ["topics"]}
        topics: list[str] = structured("responses", text, schema)["topics"]
        assert len(set(topics)) == len(topics)
        return topics

    assert chosen("Robots with vision and a language") == ["vision", "language", "robots"]
    assert chosen("A theory of vision") == ["vision", "theory"]
    assert len(chosen("Nothing of it")) == 1
    assert len(chosen("Nothing of it", minItems=2)) == 2
    assert len(chosen("Robots with vision and a language", maxItems=1)) == 1


def test_yes_or_no_goes_with_its_confidence() -> None:
    properties = {
        "applied": {"type": "boolean", "description": APPLIED["instructions"]},
        "applied_confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "share": {"type": "number", "minimum": 0, "maximum": 1},
    }
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    for text, yes in ((TEXT, True), ("An essay about nothing", False)):
        value = structured("responses", text, schema)
        assert value["applied"] is yes
        assert 0.5 <= value["applied_confidence"] <= 1
        assert 0 <= value["share"] <= 1


# Refusals and faults --------------------------------------------------------------------------------------------------


def test_single_questions_are_refused_on_demand_for_good() -> None:
    to = service(faults={"refuse_question": 0.1}, max_faults_per_body=1)
    refused = 0
    for number in range(200):
        asked = body(f"{TEXT} {number}")
        given = answers(asked, to)
        assert given == answers(asked, to)
        for question, answer in zip(QUESTIONS, given, strict=True):
            if answer["type"] == "refusal":
                assert answer == {"type": "refusal", "name": question["name"]}
                refused += 1
            else:
                assert problem(question, answer) is None
    assert 35 < refused < 90
    assert to.stats.snapshot()["faults"] == {"refuse_question": 2 * refused}
    assert to.stats.snapshot()["extra_answers"] == 200


def test_a_refusal_refuses_every_question() -> None:
    to = service(faults={"refusal": 1})
    assert answers(body(), to) == [{"type": "refusal", "name": each["name"]} for each in QUESTIONS]
    assert to.stats.snapshot()["faults"] == {"refusal": 1}


def test_invalid_replies_do_not_fit_their_questions() -> None:
    to = service(faults={"invalid_reply": 1, "refuse_question": 0.1})
    counts = set()
    for number in range(60):
        given = answers(body(f"{TEXT} {number}"), to)
        counts.add(len(given))
        standing = [each for each in QUESTIONS if {"type": "refusal", "name": each["name"]} not in given]
        assert misfits(standing, [each for each in given if each["type"] != "refusal"])
    assert counts == {2, 3}
    assert to.stats.snapshot()["answered_more_than_once"] == 0


@pytest.mark.parametrize("kind", ["no_usage", "null_content", "no_choices"])
def test_answers_that_lack_something(kind: str) -> None:
    whole = json.loads(ask(body(), service(faults={kind: 1})).content)
    if kind == "null_content":
        assert whole["answers"] is None
    else:
        assert ("answers" in whole, "usage" in whole) == (kind != "no_choices", kind != "no_usage")


def test_events_that_nobody_asked_for() -> None:
    answer = ask(body(), service(faults={"sse": 1}))
    assert answer.content_type == "text/event-stream"
    assert answer.content.startswith(b'data: {"answers":[')


def test_the_settings_of_faults_that_the_body_decides_do_not_add_up() -> None:
    service(faults={"refuse_question": 1, "bad_request": 1, "refusal": 1})
    with pytest.raises(ValueError, match="must add up to at most 1"):
        service(faults={"refusal": 1, "cut": 0.1})


# Bad requests ---------------------------------------------------------------------------------------------------------


def choice(**fields: Any) -> bytes:
    return body(questions=[{**TOPIC, **fields}])


BAD: dict[str, tuple[bytes, str, str | None]] = {
    "not JSON": (b"{", "None", None),
    "no model": (b'{"input":"x","questions":[]}', "missing_required_parameter", "model"),
    "another model": (body(model="gpt-6-sol"), "unsupported_model", "model"),
    "a model that sounds like it": (body(model="gpt-6-luna-mini"), "unsupported_model", "model"),
    "temperature": (body(temperature=0), "unknown_parameter", "temperature"),
    "tools": (body(tools=[]), "unknown_parameter", "tools"),
    "text": (body(text={"format": {"type": "text"}}), "unknown_parameter", "text"),
    "max_output_tokens": (body(max_output_tokens=5), "unknown_parameter", "max_output_tokens"),
    "stream": (body(stream=True), "unknown_parameter", "stream"),
    "no input": (b'{"model":"gpt-6-luna","questions":[]}', "missing_required_parameter", "input"),
    "a number as input": (body(3), "invalid_type", "input"),
    "no messages": (body([]), "empty_array", "input"),
    "a message without role": (body([{"content": "x"}]), "missing_required_parameter", "input[0].role"),
    "an unknown role": (body([{"role": "tool", "content": "x"}]), "invalid_value", "input[0].role"),
    "a message without content": (body([{"role": "user"}]), "missing_required_parameter", "input[0].content"),
    "an unknown part": (
        body([{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]),
        "invalid_value",
        "input[0].content[0].type",
    ),
    "no questions": (b'{"model":"gpt-6-luna","input":"x"}', "missing_required_parameter", "questions"),
    "an empty list of questions": (body(questions=[]), "empty_array", "questions"),
    "too many questions": (body(questions=[APPLIED] * 401), "array_above_max_length", "questions"),
    "a question that is text": (body(questions=["What?"]), "invalid_type", "questions[0]"),
    "a question without type": (
        body(questions=[{"instructions": "x"}]),
        "missing_required_parameter",
        "questions[0].type",
    ),
    "an unknown type": (body(questions=[{**APPLIED, "type": "rank"}]), "invalid_value", "questions[0].type"),
    "no instructions": (
        body(questions=[APPLIED, {"type": "predicate"}]),
        "missing_required_parameter",
        "questions[1].instructions",
    ),
    "empty instructions": (choice(instructions=""), "empty_string", "questions[0].instructions"),
    "a name that is a number": (choice(name=3), "invalid_type", "questions[0].name"),
    "choices of a predicate": (
        body(questions=[{**APPLIED, "choices": []}]),
        "unknown_parameter",
        "questions[0].choices",
    ),
    "levels of a choice": (choice(levels=[]), "unknown_parameter", "questions[0].levels"),
    "one choice": (choice(choices=[{"value": "a"}]), "array_below_min_length", "questions[0].choices"),
    "too many choices": (
        choice(choices=[{"value": str(number)} for number in range(256)]),
        "array_above_max_length",
        "questions[0].choices",
    ),
    "a choice that is text": (choice(choices=["a", "b"]), "invalid_type", "questions[0].choices[0]"),
    "a choice without value": (
        choice(choices=[{"description": "a"}, {"value": "b"}]),
        "missing_required_parameter",
        "questions[0].choices[0].value",
    ),
    "a choice with a label": (
        choice(choices=[{"label": "a"}, {"label": "b"}]),
        "unknown_parameter",
        "questions[0].choices[0].label",
    ),
    "a number to choose": (
        choice(choices=[{"value": 1}, {"value": 2}]),
        "invalid_type",
        "questions[0].choices[0].value",
    ),
    "the same choice twice": (
        choice(choices=[{"value": "a"}, {"value": "b"}, {"value": "a"}]),
        "invalid_value",
        "questions[0].choices[2].value",
    ),
    "one level": (
        body(questions=[{**NOVELTY, "levels": [{"label": "a"}]}]),
        "array_below_min_length",
        "questions[0].levels",
    ),
    "a level that is a truth value": (
        body(questions=[{**NOVELTY, "levels": [{"label": True}, {"label": "b"}]}]),
        "invalid_type",
        "questions[0].levels[0].label",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_say_what_is_wrong(name: str) -> None:
    asked, code, param = BAD[name]
    to = service()
    answer = ask(asked, to)
    assert answer.status == 400
    error = json.loads(answer.content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], str(error["code"]), error["param"]) == ("invalid_request_error", code, param)
    assert to.stats.snapshot()["tokens"]["input"] == 0


def test_the_messages_of_bad_requests() -> None:
    def message(asked: bytes) -> str:
        said: str = json.loads(ask(asked).content)["error"]["message"]
        return said

    assert message(body(temperature=0)) == "Unknown parameter: 'temperature'."
    assert (
        message(body(questions=[{"type": "predicate"}])) == "Missing required parameter: 'questions[0].instructions'."
    )
    assert message(body(model="gpt-6-sol")) == (
        "The model 'gpt-6-sol' is not supported by this endpoint. Supported models are: 'gpt-6-luna'."
    )
    assert message(body(questions=[{"type": "rank"}])) == (
        "Invalid value for 'questions[0].type'. Supported values are: 'predicate', 'choice', and 'score'."
    )


def test_the_largest_request_that_is_allowed() -> None:
    widest = {**TOPIC, "choices": [{"value": str(number)} for number in range(255)]}
    assert len(answers(body(questions=[widest, *[APPLIED] * 399]))) == 400


def test_all_kinds_of_input_are_read() -> None:
    given = [
        {"type": "message", "role": "developer", "content": "abcd"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "abcd"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no!!"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": "https://example.org/a.png"}]},
        {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}.."},
        {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "abcd"}]},
    ]
    plain = ask(body("", [APPLIED])).tokens.input
    assert ask(body(given, [APPLIED])).tokens.input == plain + 6
    assert ask(body(TEXT, safety_identifier="me", prompt_cache_key="k")).status == 200


def test_lone_surrogates_pass() -> None:
    odd = {**TOPIC, "name": "\udfff", "choices": [{"value": "\ud800"}, {"value": "b"}]}
    assert answers(body("\ud800 text", [odd]))[0]["choice"] in ("\ud800", "b")
