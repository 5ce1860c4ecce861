"""How questions are put to each API, and how the same columns come out of their answers."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from openai.types import decision_create_params
from openai.types.decision import Decision
from pydantic import TypeAdapter

from runner.answer import Answer, OneLabel, accept
from runner.answer_stats import AnswerStats, says_what_needs_review
from runner.dialects import dialect, understand
from runner.errors import InvalidReply
from runner.output import to_table
from runner.output_section import OutputSpec
from runner.questionnaire import questionnaire
from runner.records import Item, Reply, Usage
from runner.requests import RequestBuilder
from runner.schema_rules import schema_findings
from runner.template import PromptTemplate

QUESTIONS: dict[str, Any] = {
    "topic": {"choice": {"ml": "Learning from data.", "other": None}, "ask": "What is it about?", "accept_at": 0.8},
    "fields": {"choice": ["a.b", "b", "c"], "ask": "Which fields?", "multi": True},
    "applied": {"yes_no": "It reports an experiment.", "accept_at": 0.6},
    "novelty": {"score": {"low": None, "high": "New to all."}, "ask": "How new?"},
}
OUTPUT = OutputSpec.model_validate({"questions": QUESTIONS})
DECISIONS = questionnaire(OUTPUT, "decisions")
SCHEMA = questionnaire(OUTPUT, "responses")

ANSWERS: list[dict[str, Any]] = [
    {
        "type": "choice",
        "name": "topic",
        "choice": "ml",
        "confidence": 0.9,
        "probabilities": [{"value": "ml", "probability": 0.95}, {"value": "other", "probability": 0.05}],
    },
    {"type": "predicate", "name": "fields-1", "probability": 0.5},
    {"type": "predicate", "name": "fields-2", "probability": 0.2},
    {"type": "predicate", "name": "fields-3", "probability": 1},
    {"type": "predicate", "name": "applied", "probability": 0.25},
    {
        "type": "score",
        "name": "novelty",
        "score": 0.5,
        "confidence": 0.0,
        "probabilities": [
            {"label": "low", "value": 0, "probability": 0.5},
            {"label": "high", "value": 1, "probability": 0.5},
        ],
    },
]
READ = {
    "topic": "ml",
    "topic_confidence": 0.9,
    "topic_probabilities": {"ml": 0.95, "other": 0.05},
    "fields": ["a.b", "c"],
    "fields_confidence": 0.5,
    "fields_probabilities": {"a.b": 0.5, "b": 0.2, "c": 1.0},
    "applied": 0.25,
    "novelty": 0.5,
    "novelty_level": "low",
    "novelty_confidence": 0.0,
    "novelty_probabilities": {"low": 0.5, "high": 0.5},
    "refused": [],
    "needs_review": False,
}


def but(position: int, **changes: Any) -> str:
    """The answers, one of them changed."""
    answers = [dict(answer) for answer in ANSWERS]
    answers[position] |= changes
    return json.dumps(answers)


def refusal(name: str) -> dict[str, Any]:
    return {"type": "refusal", "name": name}


def refusing(*positions: int) -> str:
    return json.dumps([refusal(a["name"]) if i in positions else a for i, a in enumerate(ANSWERS)])


def answer(api: str, **output: Any) -> Any:
    return questionnaire(OutputSpec.model_validate(output), api)


def body(asked: Answer, api: str) -> dict[str, Any]:
    messages = [("system", "Be brief."), ("user", "{{ text }}")]
    builder = RequestBuilder(PromptTemplate(messages), dialect(api), ["gpt-6-luna"], {}, asked.asked)
    sent: dict[str, Any] = json.loads(builder.build(Item(0, "a", {"text": "So it is."}, "f", 1)).body)
    return sent


# Asking the Decisions API ---------------------------------------------------------------------------------------------


def test_all_questions_are_one_request() -> None:
    sent = body(DECISIONS, "decisions")
    assert sent == {
        "model": "gpt-6-luna",
        "input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "So it is."}],
        "questions": [
            {
                "type": "choice",
                "name": "topic",
                "instructions": "What is it about?",
                "choices": [{"value": "ml", "description": "Learning from data."}, {"value": "other"}],
            },
            {"type": "predicate", "name": "fields-1", "instructions": "Which fields?\nThe following applies: a.b"},
            {"type": "predicate", "name": "fields-2", "instructions": "Which fields?\nThe following applies: b"},
            {"type": "predicate", "name": "fields-3", "instructions": "Which fields?\nThe following applies: c"},
            {"type": "predicate", "name": "applied", "instructions": "It reports an experiment."},
            {
                "type": "score",
                "name": "novelty",
                "instructions": "How new?",
                "levels": [{"label": "low"}, {"label": "high", "description": "New to all."}],
            },
        ],
    }
    assert list(sent) == ["input", "model", "questions"], "what differs between rows comes first"
    TypeAdapter(decision_create_params.DecisionCreateParams).validate_python(sent)
    assert len(sent["questions"]) == sum(question.decisions for question in OUTPUT.asked.values())


def test_labels_are_a_question_too() -> None:
    asked = answer("decisions", labels={"a": "First.", "b": None}, column="odd name").asked
    assert asked == [
        {
            "type": "choice",
            "name": "label",
            "instructions": "Which of these labels is the answer to what the messages ask?",
            "choices": [{"value": "a", "description": "First."}, {"value": "b"}],
        }
    ]
    several = answer("decisions", labels={"a": "First.", "b": None}, multi=True).asked
    assert [(each["type"], each["name"]) for each in several] == [("predicate", "label-1"), ("predicate", "label-2")]
    assert several[0]["instructions"].endswith("\nThe following applies: a (First.)")


# Asking for JSON ------------------------------------------------------------------------------------------------------


def test_a_schema_asks_the_same_in_few_tokens() -> None:
    share = {"type": "number", "minimum": 0, "maximum": 1}

    def right(name: str) -> dict[str, Any]:
        return {**share, "description": f"How probable it is, from 0 to 1, that `{name}` is right."}

    assert SCHEMA.asked == {
        "type": "object",
        "properties": {
            "topic": {
                "type": "string",
                "enum": ["ml", "other"],
                "description": "What is it about?\n- ml: Learning from data.",
            },
            "topic_confidence": right("topic"),
            "fields": {
                "type": "array",
                "items": {"type": "string", "enum": ["a.b", "b", "c"]},
                "description": "Which fields?\nList all that apply.",
            },
            "fields_confidence": right("fields"),
            "applied": {
                **share,
                "description": "How probable it is, from 0 to 1, that this is true: It reports an experiment.",
            },
            "novelty": {
                "type": "string",
                "enum": ["low", "high"],
                "description": "How new?\nFrom the lowest to the highest: low, high.\n- high: New to all.",
            },
            "novelty_confidence": right("novelty"),
        },
        "required": [
            "topic",
            "topic_confidence",
            "fields",
            "fields_confidence",
            "applied",
            "novelty",
            "novelty_confidence",
        ],
        "additionalProperties": False,
    }
    assert schema_findings(SCHEMA.asked, strict=True) == []
    assert body(SCHEMA, "responses")["text"]["format"]["schema"] == SCHEMA.asked
    assert body(SCHEMA, "chat")["response_format"]["json_schema"]["strict"] is True


def test_descriptions_of_labels_are_sent_and_labels_without_are_asked_for_as_ever() -> None:
    plain = OneLabel(("a", "b"), "label")
    assert plain.asked["properties"] == {"label": {"type": "string", "enum": ["a", "b"]}}
    assert OneLabel({"a": None, "b": " "}, "label").asked == plain.asked
    assert OneLabel({"a": None, "b": "Second."}, "label").asked["properties"] == {
        "label": {"type": "string", "enum": ["a", "b"], "description": "- b: Second."}
    }


def test_the_shortest_answer() -> None:
    shortest = '{"topic":"ml","topic_confidence":1,"fields":[],"fields_confidence":1,"applied":1,"novelty":"low",'
    shortest += '"novelty_confidence":1}'
    SCHEMA.read(shortest)
    assert SCHEMA.shortest_tokens == round(len(shortest) / 4)
    assert DECISIONS.shortest_tokens == 0, "nothing is written, and nothing paid for it"


# The columns ----------------------------------------------------------------------------------------------------------


def test_the_columns_and_their_types_are_the_same_whoever_answers() -> None:
    number, text = pa.float64(), pa.string()
    expected = {
        "topic": text,
        "topic_confidence": number,
        "topic_probabilities": pa.struct([("ml", number), ("other", number)]),
        "fields": pa.list_(text),
        "fields_confidence": number,
        "fields_probabilities": pa.struct([("a.b", number), ("b", number), ("c", number)]),
        "applied": number,
        "novelty": number,
        "novelty_level": text,
        "novelty_confidence": number,
        "novelty_probabilities": pa.struct([("low", number), ("high", number)]),
        "refused": pa.list_(text),
        "needs_review": pa.bool_(),
    }
    assert {field.name: field.type for field in DECISIONS.fields} == expected
    assert pa.schema(SCHEMA.fields).equals(pa.schema(DECISIONS.fields), check_metadata=True)
    assert [field.name for field in DECISIONS.fields] == list(expected)
    for name, question in OUTPUT.asked.items():
        assert set(question.columns(name)) <= set(expected), "what the job file refuses to have twice"


@pytest.mark.parametrize("more", [{}, {"multi": True}, {"accept_at": 0.5}, {"multi": True, "accept_at": 0.5}])
def test_labels_have_the_columns_of_a_question_once_they_ask_for_more_than_a_label(more: dict[str, Any]) -> None:
    output = {"labels": ["a", "b"], "column": "verdict", **more}
    decided = [field.name for field in answer("decisions", **output).fields]
    if not more:
        assert decided == ["verdict"] == [field.name for field in OneLabel(("a", "b"), "verdict").fields]
        return
    assert decided == [field.name for field in answer("chat", **output).fields]
    review = ["needs_review"] if "accept_at" in more else []
    assert decided == ["verdict", "verdict_confidence", "verdict_probabilities", "refused", *review]


def test_a_choice_may_be_called_anything() -> None:
    names = ["a.b", "b", "list", 'quo"ted', "é 😀", "item"]
    field = answer("decisions", labels=names, multi=True).fields[2]
    table = to_table([{field.name: dict.fromkeys(names[:-1], 0.5)}, {}], pa.schema([field]))
    assert table.column(0).to_pylist() == [{**dict.fromkeys(names[:-1], 0.5), "item": None}, None]


# Reading decisions ----------------------------------------------------------------------------------------------------


def test_decisions_become_columns() -> None:
    assert DECISIONS.read(json.dumps(ANSWERS)) == READ


def test_a_reply_as_the_sdk_knows_it_is_read() -> None:
    usage = {
        "input_tokens": 120,
        "input_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 0},
        "output_tokens": 6,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 126,
    }
    reply = Decision.model_validate({"answers": ANSWERS, "model": "gpt-6-luna", "usage": usage}, strict=True)
    completion = understand(dialect("decisions"), Reply(reply.model_dump_json().encode()))
    assert json.loads(completion.text or "") == ANSWERS
    assert (completion.finish_reason, completion.refusal) == ("stop", None)
    counted = completion.usage
    assert (counted.input, counted.cached, counted.output, counted.reasoning) == (120, 100, 6, 0)
    assert accept(DECISIONS, completion) == READ


def test_a_reply_without_answers_is_none() -> None:
    for payload, said in [
        ({"answers": None}, "the reply has no `answers`"),
        ({"output": []}, "the reply has no `answers`"),
        ({"error": {"message": "no room"}}, "the server answered with an error: no room"),
    ]:
        with pytest.raises(InvalidReply, match=said):
            understand(dialect("decisions"), Reply(json.dumps(payload).encode()))
    assert understand(dialect("decisions"), Reply(b'{"answers": []}')).usage == Usage()


def test_an_answer_without_a_name_is_known_by_its_place() -> None:
    assert DECISIONS.read(json.dumps([{**each, "name": None} for each in ANSWERS])) == READ
    assert DECISIONS.read(json.dumps([{k: v for k, v in each.items() if k != "name"} for each in ANSWERS])) == READ


WRONG = {
    "one too few": json.dumps(ANSWERS[:-1]),
    "one too many": json.dumps([*ANSWERS, ANSWERS[-1]]),
    "another order": json.dumps([*ANSWERS[1:], ANSWERS[0]]),
    "another name": but(4, name="novelty"),
    "another type": but(4, type="score", score=0, confidence=1, probabilities=[]),
    "no type": json.dumps([{"name": "topic", "choice": "ml"}, *ANSWERS[1:]]),
    "a choice that is none": but(0, choice="Ml"),
    "a choice that is true": but(0, choice=True),
    "no choice": but(0, choice=None),
    "a confidence above 1": but(0, confidence=1.01),
    "a confidence below 0": but(0, confidence=-0.01),
    "a confidence in words": but(0, confidence="high"),
    "a probability above 1": but(4, probability=1.5),
    "a probability of no choice": but(0, probabilities=[{"value": "x", "probability": 0.5}]),
    "two probabilities of one choice": but(0, probabilities=[{"value": "ml", "probability": 0.5}] * 2),
    "a share above 1": but(0, probabilities=[{"value": "ml", "probability": 2}]),
    "a score beyond the scale": but(5, score=1.5),
    "a score below it": but(5, score=-0.5),
    "a level that is none": but(5, probabilities=[{"label": "x", "value": 0, "probability": 1}]),
    "an object": json.dumps({"answers": ANSWERS}),
    "not a number": json.dumps(ANSWERS).replace("0.25", "NaN"),
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_what_does_not_answer_the_questions_is_asked_for_again(text: str) -> None:
    with pytest.raises(InvalidReply) as caught:
        DECISIONS.read(text)
    assert (caught.value.kind, caught.value.retryable) == ("invalid_reply", True)


def test_the_most_probable_level_is_named_and_of_two_the_lower() -> None:
    def level(low: float, high: float) -> Any:
        shares = [{"label": "high", "value": 1, "probability": high}, {"label": "low", "value": 0, "probability": low}]
        return DECISIONS.read(but(5, probabilities=shares))["novelty_level"]

    assert (level(0.4, 0.6), level(0.6, 0.4), level(0.5, 0.5)) == ("high", "low", "low")
    assert DECISIONS.read(but(5, probabilities=[]))["novelty_level"] is None


# Refusals -------------------------------------------------------------------------------------------------------------


def test_a_refused_question_leaves_the_others_standing() -> None:
    found = DECISIONS.read(refusing(0))
    assert found == {
        **{k: v for k, v in READ.items() if not k.startswith("topic")},
        "refused": ["topic"],
        "needs_review": True,
    }
    assert DECISIONS.read(refusing(5))["needs_review"] is False, "nobody said how sure that answer must be"
    assert DECISIONS.read(refusing(4, 5))["refused"] == ["applied", "novelty"]


def test_a_choice_that_was_refused_leaves_open_which_apply() -> None:
    found = DECISIONS.read(refusing(2))
    assert found["refused"] == ["fields"]
    assert "fields" not in found
    assert "fields_confidence" not in found
    assert found["fields_probabilities"] == {"a.b": 0.5, "c": 1.0}


@pytest.mark.parametrize(
    ("asked", "answers", "said"),
    [
        (DECISIONS, ANSWERS, "the model refused to answer every question"),
        (answer("decisions", labels=["a", "b"]), [{"name": "label"}], "the model refused to answer the question"),
        (
            answer("decisions", labels=["a", "b"], accept_at=0.5),
            [{"name": None}],
            "the model refused to answer the quest",
        ),
    ],
)
def test_a_row_whose_questions_are_all_refused_fails(asked: Any, answers: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(InvalidReply, match=said) as caught:
        asked.read(json.dumps([refusal(each["name"]) for each in answers]))
    assert (caught.value.kind, caught.value.retryable) == ("refusal", False)


# Reading JSON ---------------------------------------------------------------------------------------------------------

SAID = {
    "topic": "ml",
    "topic_confidence": 0.9,
    "fields": ["c", "a.b", "c"],
    "fields_confidence": 1,
    "applied": 0,
    "novelty": "high",
    "novelty_confidence": 0.5,
}


def test_json_becomes_the_same_columns() -> None:
    assert SCHEMA.read(json.dumps(SAID)) == {
        "topic": "ml",
        "topic_confidence": 0.9,
        "fields": ["a.b", "c"],
        "fields_confidence": 1.0,
        "applied": 0.0,
        "novelty": 1.0,
        "novelty_level": "high",
        "novelty_confidence": 0.5,
        "refused": [],
        "needs_review": False,
    }


@pytest.mark.parametrize(
    "change", [{"topic": "x"}, {"applied": 1.1}, {"novelty": 1}, {"fields": ["x"]}, {"fields": "b"}, {"why": "so"}]
)
def test_json_that_does_not_fit_is_asked_for_again(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidReply) as caught:
        SCHEMA.read(json.dumps({**SAID, **change}))
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"topic_confidence": 0.8}, False),
        ({"topic_confidence": 0.79}, True),
        ({"applied": 0.6}, False),
        ({"applied": 0.59}, True),
        ({"applied": 0.41}, True),
        ({"applied": 0.4}, False),
        ({"fields_confidence": 0, "novelty_confidence": 0}, False),
    ],
)
def test_an_answer_less_sure_than_is_accepted_needs_review(change: dict[str, Any], expected: bool) -> None:
    assert SCHEMA.read(json.dumps({**SAID, **change}))["needs_review"] is expected


def test_answers_agree_however_sure_they_are() -> None:
    decided, said = DECISIONS.read(json.dumps(ANSWERS)), SCHEMA.read(json.dumps({**SAID, "novelty": "low"}))
    assert DECISIONS.verdict(decided) == SCHEMA.verdict(said)
    assert DECISIONS.verdict(decided) == {"topic": "ml", "fields": ["a.b", "c"], "applied": False, "novelty": "low"}
    assert DECISIONS.verdict(DECISIONS.read(refusing(0, 4)))["applied"] is None
    label = answer("decisions", labels=["a", "b"], column="verdict")
    assert label.verdict({"verdict": "a"}) == OneLabel(("a", "b"), "verdict").verdict({"verdict": "a"})


# What a run's answers amount to ---------------------------------------------------------------------------------------


def test_answers_are_counted_batch_by_batch() -> None:
    schema = pa.schema([pa.field("text", pa.string()), *DECISIONS.fields])
    stats = AnswerStats(schema)
    assert stats.columns == ["topic", "fields", "applied", "novelty", "novelty_level", "refused", "needs_review"]
    for rows in ([], [READ, READ], [DECISIONS.read(refusing(0, 4)), {}]):
        stats.add(to_table(rows, schema))
    assert stats.as_json() == {
        "answers": {},
        "questions": {
            "topic": {"answers": {"ml": 2}},
            "fields": {"answers": {"a.b": 3, "c": 3}},
            "applied": {"mean": 0.25},
            "novelty": {"mean": 0.5, "answers": {"low": 3}},
        },
        "refused": {"applied": 1, "topic": 1},
        "needs_review": 1,
    }


def test_a_run_with_no_answers_yet_has_no_mean() -> None:
    found = AnswerStats(pa.schema(DECISIONS.fields)).as_json()
    assert found["questions"]["applied"] == {"mean": None}


def test_input_columns_that_are_called_as_ours_are_not_counted() -> None:
    ours = [pa.field("refused", pa.list_(pa.string())), pa.field("needs_review", pa.bool_())]
    stats = AnswerStats(pa.schema([*ours, *OneLabel(("a", "b"), "label").fields]))
    assert (stats.columns, stats.as_json()) == (["label"], {"answers": {}})
    assert not says_what_needs_review(pa.schema(ours))
    assert says_what_needs_review(pa.schema(DECISIONS.fields))


def test_labels_are_counted_as_answers() -> None:
    fields = answer("chat", labels=["a", "b"], multi=True, accept_at=0.5).fields
    stats = AnswerStats(pa.schema(fields))
    stats.add(
        to_table([{"label": ["a", "b"], "needs_review": True}, {"label": ["b"]}, {"label": []}], pa.schema(fields))
    )
    assert stats.as_json() == {"answers": {"b": 2, "a": 1}, "refused": {}, "needs_review": 1}
