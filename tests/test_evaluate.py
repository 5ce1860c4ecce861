"""How good the answers are: numbers worked out by hand, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pyarrow as pa
import pytest
from project import LABELS, Project

from runner.dataset.columns import JSON_TEXT
from runner.errors import SpecError
from runner.evaluate import Evaluation
from runner.evaluate.counts import MOST_VALUES
from runner.evaluate.questions import Question, kind_of, named, question
from runner.evaluate.words import evaluation_lines, percent
from runner.listing import show_run
from runner.load import load_job
from runner.plan import make_plan

ABC = ("a", "b", "c")
Row = tuple[Any, ...]


def evaluated(asked: Question, *tables: pa.Table) -> dict[str, Any]:
    """Return everything that is found out about one question."""
    evaluation = Evaluation([asked])
    for table in tables:
        evaluation.add(table.select(evaluation.columns))
    found: dict[str, Any] = json.loads(json.dumps(evaluation.as_dict()))
    return found


def rows_of(rows: Sequence[Row], right: Any = None, answer: Any = None) -> pa.Table:
    """Make a table of rows: expected, answer, and perhaps confidence, status and model."""
    full = [(*row, *(None, "ok", "m")[len(row) - 2 :]) for row in rows]
    return pa.table(
        {
            "right": pa.array([row[0] for row in full], right or pa.string()),
            "label": pa.array([row[1] for row in full], answer or pa.string()),
            "label_confidence": pa.array([row[2] for row in full], pa.float64()),
            "_status": [row[3] for row in full],
            "_model": [row[4] for row in full],
        }
    )


def found_in(rows: Sequence[Row], asked: Question | None = None, **types: Any) -> dict[str, Any]:
    """Return the numbers of the only model."""
    models = evaluated(asked or CHOICE, rows_of(rows, **types))["label"]["models"]
    assert list(models) == ["m"]
    found: dict[str, Any] = models["m"]
    return found


CHOICE = Question("label", "right", "choice", ABC)
SURE = Question("label", "right", "choice", ABC, "label_confidence")
YES_NO = Question("label", "right", "yes_no", ("yes", "no"), "label")
SEVERAL = Question("label", "right", "several", ABC)
FAILED = (None, "error")
MIXED: list[Row] = [
    *[("a", "a")] * 3, ("a", "b"), *[("b", "b")] * 2, ("c", "b"), ("c", "c"),
    ("a", None, *FAILED), ("", "a"), (None, "b"), ("A", "a"), ("A", None, *FAILED), ("zebra", "b"),
]  # fmt: skip


# The numbers ----------------------------------------------------------------------------------------------------------


def test_accuracy_counts_rows_with_a_label_and_an_answer() -> None:
    found = found_in(MIXED)
    labels, confusion = found.pop("labels"), found.pop("confusion")
    assert found == {
        "rows": 14,
        "unlabelled": 2,
        "not_a_label": {"rows": 3, "values": {"A": 2, "zebra": 1}},
        "labelled": 9,
        "answered": 8,
        "coverage": round(8 / 9, 6),
        "right": 6,
        "accuracy": 0.75,
        "accuracy_low": pytest.approx(0.40927, abs=1e-4),
        "accuracy_high": pytest.approx(0.92853, abs=1e-4),
        "accuracy_of_all": round(6 / 9, 6),
        "macro_f1": round((6 / 7 + 2 / 3 + 2 / 3) / 3, 6),
        "confusion_left_out": 0,
    }
    assert confusion == {"a": {"a": 3, "b": 1}, "b": {"b": 2}, "c": {"b": 1, "c": 1}}
    two_thirds = round(2 / 3, 6)
    keys = ("support", "given", "right", "unanswered", "precision", "recall", "f1")
    assert {name: tuple(label[key] for key in keys) for name, label in labels.items()} == {
        "a": (4, 3, 3, 1, 1.0, 0.75, round(6 / 7, 6)),
        "b": (2, 4, 2, 0, 0.5, 1.0, two_thirds),
        "c": (2, 1, 1, 0, 1.0, 0.5, two_thirds),
    }


def test_it_is_the_same_in_any_number_of_tables_and_for_each_model_apart() -> None:
    rows = rows_of([*MIXED, *((right, answer, None, status, "n") for right, answer, _, status in
                              [(r[0], r[1], None, r[3] if len(r) > 3 else "ok") for r in MIXED])])  # fmt: skip
    whole = evaluated(CHOICE, rows)["label"]
    assert whole == evaluated(CHOICE, *(rows.slice(at, 1) for at in range(len(rows))), rows.slice(0, 0))["label"]
    assert list(whole["models"]) == ["m", "n"]
    assert whole["models"]["m"] == whole["models"]["n"] == found_in(MIXED)


@pytest.mark.parametrize(
    ("rows", "labelled", "answered", "accuracy", "macro_f1"),
    [
        ([("", "a"), (None, "b")], 0, 0, None, None),
        ([("a", None, *FAILED), ("b", None, *FAILED)], 2, 0, None, None),
        ([("a", None)], 1, 0, None, None),  # the model says null
        ([("a", "a")], 1, 1, 1.0, 1.0),
        ([("a", "b")], 1, 1, 0.0, 0.0),
        ([("Z", "a")], 0, 0, None, None),
    ],
    ids=["no label", "all failed", "null", "one right", "one wrong", "no such label"],
)
def test_a_number_that_nothing_can_be_said_of_is_null(
    rows: list[Row], labelled: int, answered: int, accuracy: float | None, macro_f1: float | None
) -> None:
    found = found_in(rows)
    assert (found["labelled"], found["answered"]) == (labelled, answered)
    assert (found["accuracy"], found["macro_f1"]) == (accuracy, macro_f1)


def test_no_rows_at_all() -> None:
    assert evaluated(SURE, rows_of([])) == {"label": {"expected": "right", "kind": "choice", "models": {}}}


def test_a_label_that_never_comes_has_no_score_and_does_not_count() -> None:
    found = found_in([("a", "a"), ("b", "a")])
    assert [label["f1"] for label in found["labels"].values()] == [round(2 / 3, 6), 0.0, None]
    assert [label["precision"] for label in found["labels"].values()] == [0.5, None, None]
    assert found["macro_f1"] == round(1 / 3, 6)


@pytest.mark.parametrize(
    ("right", "kind", "answer", "equal"),
    [
        (1, pa.int64(), "1", True),
        (1.0, pa.float64(), "1", True),
        (1.5, pa.float64(), "1.5", True),
        (True, pa.bool_(), "true", True),
        ("日本語 – ∑", pa.string(), "日本語 – ∑", True),
        ("a", pa.string(), "A", False),
        ("a ", pa.string(), "a", False),
        ('"1"', "json", "1", True),
        ("1", "json", "1", True),
        ('{"x": 1}', "json", '{"x": 1}', True),
    ],
)  # fmt: skip
def test_values_are_compared_as_text(right: Any, kind: Any, answer: str, equal: bool) -> None:
    asked = Question("label", "right", "choice")
    table = rows_of([(right, answer)], pa.string() if kind == "json" else kind)
    if kind == "json":
        table = table.cast(pa.schema([table.schema.field("right").with_metadata(JSON_TEXT), *list(table.schema)[1:]]))
    assert evaluated(asked, table)["label"]["models"]["m"]["accuracy"] == float(equal)


def test_memory_is_bounded_where_the_job_names_no_labels() -> None:
    many = MOST_VALUES + 100
    rows = [(f"v{number}", f"v{number}" if number % 2 else "long " * 50) for number in range(many)]
    found = found_in(rows, Question("label", "right", "choice"))
    assert (found["accuracy"], len(found["labels"])) == (0.5, MOST_VALUES)
    shown = sum(count for row in found["confusion"].values() for count in row.values())
    assert shown + found["confusion_left_out"] == many
    assert found["confusion_left_out"] == 101  # one of the values that are told apart is the long one
    (long,) = (name for name in found["labels"] if name.startswith("long"))
    assert long.startswith(("long " * 50)[:100] + "… (")
    assert len(long) == 112


def test_values_that_are_no_labels_are_counted_to_the_last() -> None:
    found = found_in([(f"v{number}", "a") for number in range(2 * MOST_VALUES)])
    assert found["not_a_label"]["rows"] == 2 * MOST_VALUES
    assert len(found["not_a_label"]["values"]) == 20


# Probabilities --------------------------------------------------------------------------------------------------------


def test_calibration_of_choices_asks_whether_the_answer_is_right() -> None:
    rows = [("a", "a", 0.95), ("b", "b", 0.95), ("c", "a", 0.95), ("a", "b", 0.55), ("b", "b", 0.55)]
    ignored = [("", "a", 0.5), ("Z", "a", 0.5), ("a", None, 0.5, "error"), ("a", "a", None)]
    found = found_in([*rows, *ignored, ("a", "a", 95.0)], SURE)
    calibration = found["calibration"]
    bins = [(each["from"], each["to"], each["rows"], each["mean"], each["true"]) for each in calibration.pop("bins")]
    assert calibration == {
        "probability": "label_confidence",
        "rows": 5,
        "not_a_probability": 1,
        "mean": round((3 * 0.95 + 2 * 0.55) / 5, 6),
        "true": 0.6,
        "ece": round((abs(2 - 2.85) + abs(1 - 1.1)) / 5, 6),
        "brier": round((2 * 0.05**2 + 0.95**2 + 0.55**2 + 0.45**2) / 5, 6),
    }
    assert len(bins) == 10
    assert [each for each in bins if each[2]] == [(0.5, 0.6, 2, 0.55, 0.5), (0.9, 1.0, 3, 0.95, round(2 / 3, 6))]
    assert found["answered"] == 7  # an answer counts whatever its confidence


def test_a_probability_of_yes_is_yes_from_one_half_on() -> None:
    rows = [("yes", 0.9), ("yes", 0.5), ("no", 0.5), ("no", 0.0), ("yes", 0.3), ("no", 1.0), ("", 0.9), ("maybe", 0.9)]
    found = found_in([*rows, ("yes", None), ("yes", 0.9, None, "error"), ("no", 1.5)], YES_NO, answer=pa.float64())
    assert found["confusion"] == {"yes": {"yes": 2, "no": 1}, "no": {"yes": 2, "no": 1}}
    assert (found["labelled"], found["answered"], found["accuracy"]) == (9, 6, 0.5)
    assert found["not_a_label"] == {"rows": 1, "values": {"maybe": 1}}
    calibration = found["calibration"]
    assert calibration["not_a_probability"] == 1
    assert [(each["rows"], each["true"]) for each in calibration["bins"]] == [
        (1, 0), (0, None), (0, None), (1, 1), (0, None), (2, 0.5), (0, None), (0, None), (0, None), (2, 0.5),
    ]  # fmt: skip
    assert calibration["brier"] == round((0.01 + 0.25 + 0.25 + 0 + 0.49 + 1) / 6, 6)
    assert calibration["ece"] == round((0 + abs(1 - 0.3) + abs(1 - 1.0) + abs(1 - 1.9)) / 6, 6)


@pytest.mark.parametrize(
    ("yes", "no", "kind"),
    [
        (True, False, pa.bool_()),
        (1, 0, pa.int64()),
        (1.0, 0.0, pa.float64()),
        ("Yes", "NO", None),
        ("true", "False", None),
        ("1", "0", None),
    ],
)
def test_yes_and_no_may_be_written_in_many_ways(yes: Any, no: Any, kind: Any) -> None:
    found = found_in([(yes, 0.9), (no, 0.1)], YES_NO, right=kind, answer=pa.float64())
    assert found["confusion"] == {"yes": {"yes": 1}, "no": {"no": 1}}
    plain = Question("label", "right", "yes_no", ("yes", "no"))
    found = found_in([(yes, True), (no, True)], plain, right=kind, answer=pa.bool_())
    assert found["confusion"] == {"yes": {"yes": 1}, "no": {"yes": 1}}
    assert "calibration" not in found


# Several labels in a row ----------------------------------------------------------------------------------------------


def test_several_labels_are_right_when_all_of_them_are() -> None:
    texts = pa.list_(pa.string())
    rows: list[Row] = [
        (["a", "b"], ["b", "a"]), (["a"], ["a", "c"]), (["b"], []), ([], []),
        (None, ["a"]), (["a", "X"], ["a"]), (["c"], None, *FAILED),
    ]  # fmt: skip
    found = found_in(rows, SEVERAL, right=texts, answer=texts)
    assert (found["rows"], found["labelled"], found["answered"], found["right"]) == (7, 5, 4, 2)
    assert (found["unlabelled"], found["not_a_label"]) == (1, {"rows": 1, "values": {"X": 1}})
    keys = ("support", "given", "right", "unanswered", "f1")
    assert {name: tuple(label[key] for key in keys) for name, label in found["labels"].items()} == {
        "a": (2, 2, 2, 0, 1.0),
        "b": (2, 1, 1, 0, round(2 / 3, 6)),
        "c": (0, 1, 0, 1, 0.0),
    }
    assert "confusion" not in found


@pytest.mark.parametrize("text", ['["a", "b"]', "a;b", "a; b", "b,a", " a , b "])
def test_several_labels_may_be_written_as_text(text: str) -> None:
    assert found_in([(text, ["a", "b"]), ("", [])], SEVERAL, answer=pa.list_(pa.string()))["right"] == 1


def test_a_label_with_a_comma_is_one_label() -> None:
    asked = Question("label", "right", "several", ("bread, cheese", "wine"))
    rows: list[Row] = [("bread, cheese", ["bread, cheese"]), ("bread, cheese;wine", ["bread, cheese", "wine"])]
    assert found_in(rows, asked, answer=pa.list_(pa.string()))["right"] == 2


# What is compared with what -------------------------------------------------------------------------------------------

FIELDS = [
    pa.field("novelty", pa.float64()), pa.field("about", pa.string(), metadata=JSON_TEXT),
    pa.field("topic", pa.string()), pa.field("topic_confidence", pa.float64()),
    pa.field("tags", pa.list_(pa.string())), pa.field("new", pa.bool_()),
]  # fmt: skip


def test_columns_tell_how_they_are_compared() -> None:
    assert [kind_of(field) for field in FIELDS] == ["yes_no", None, "choice", "yes_no", "several", "yes_no"]
    assert named("right", FIELDS) == {"topic": "right"}
    assert named("right", FIELDS[:2]) == {"novelty": "right"}
    assert named("right", FIELDS[1:2]) == {}
    assert named({"new": "is_new"}, FIELDS) == {"new": "is_new"}


def test_what_may_be_answered_is_read_from_the_schema() -> None:
    schema = {
        "$defs": {"Topic": {"enum": ["a", "b", 1, None]}},
        "properties": {
            "topic": {"$ref": "#/$defs/Topic"},
            "tags": {"type": "array", "items": {"anyOf": [{"enum": ["x", "y"]}, {"type": "null"}]}},
        },
    }
    output = {"labels": None, "schema": schema}
    columns = pa.schema(FIELDS)
    assert question("topic", "r", columns, output) == Question(
        "topic", "r", "choice", ("a", "b", "1"), "topic_confidence"
    )
    assert question("tags", "r", columns, output) == Question("tags", "r", "several", ("x", "y"))
    assert question("novelty", "r", columns, output) == Question("novelty", "r", "yes_no", ("yes", "no"), "novelty")
    assert question("topic", "r", columns, {"labels": ["a", "b"], "schema": None}).labels == ("a", "b")
    assert question("topic", "r", columns, {"labels": None, "schema": None}).labels is None


# In words -------------------------------------------------------------------------------------------------------------


def said(asked: Question, *tables: pa.Table) -> list[str]:
    (lines,) = evaluation_lines(evaluated(asked, *tables))
    return lines


def test_the_summary_says_what_it_counts_and_what_not() -> None:
    rows = [*MIXED, *(("b", "b", 0.85) for _ in range(30))]
    assert said(SURE, rows_of(rows)) == [
        "`label` against `right`: 94.7 % (36 of 38 answers; 95 % interval 82.7 % to 98.5 %)",
        "macro F1 0.831; lowest F1: c 0.667, a 0.857, b 0.970",
        "most confused, expected → answered: a → b 1, c → b 1",
        "calibration of `label_confidence`: ECE 0.150, Brier 0.022; on average 15.0 points too low",
        "1 row without an answer not counted; counted as wrong, it is 92.3 %",
        "left out: 2 rows with nothing in `right`",
        "left out: 2 rows with `A` there, which is no label; did you mean `a`?",
        "left out: 1 row with `zebra` there, which is no label",
    ]


def test_several_models_are_said_side_by_side_and_what_they_share_once() -> None:
    rows = [(right, answer, None, "ok", model) for model, answers in (("luna", "ab"), ("sol-2", "bb"))
            for right, answer in [*zip("ab", answers, strict=True), ("", "a")]]  # fmt: skip
    assert said(CHOICE, rows_of(rows)) == [
        "`label` against `right`",
        "luna   100.0 % (2 of 2 answers; 95 % interval 34.2 % to 100.0 %)",
        "  macro F1 1.000",
        "sol-2  50.0 % (1 of 2 answers; 95 % interval 9.5 % to 90.5 %)",
        "  macro F1 0.333; lowest F1: a 0.000, b 0.667",
        "  most confused, expected → answered: a → b 1",
        "left out: 1 row with nothing in `right`",
    ]


def test_nothing_to_say_is_said() -> None:
    assert said(CHOICE, rows_of([("", "a")])) == [
        "`label` against `right`: nothing to compare",
        "left out: 1 row with nothing in `right`",
    ]
    assert said(CHOICE, rows_of([("a", None, *FAILED)])) == ["`label` against `right`: no answer to any of 1 row"]
    assert said(CHOICE, rows_of([])) == ["`label` against `right`: no rows yet"]
    values = [(f"v{number}", "a") for number in range(6)]
    assert said(CHOICE, rows_of(values))[-1] == "left out: 3 rows with other values there that are no labels"
    odd = rows_of([("yes", 95.0)], answer=pa.float64())
    assert said(YES_NO, odd)[1] == "1 row with a `label` that is not between 0 and 1"
    assert evaluation_lines({}) == []


def test_several_labels_are_said_to_be_all_right() -> None:
    texts = pa.list_(pa.string())
    assert said(SEVERAL, rows_of([(["a"], ["a"]), (["b"], ["b", "c"])], texts, texts)) == [
        "`label` against `right`: 50.0 % (1 of 2 answers have all labels right; 95 % interval 9.5 % to 90.5 %)",
        "macro F1 0.667; lowest F1: c 0.000",
    ]


@pytest.mark.parametrize(
    ("part", "text"),
    [(1.0, "100.0 %"), (0.99999, "99.999 %"), (0.9995, "99.95 %"), (0.5, "50.0 %"), (0.0004, "0.04 %"), (0.0, "0.0 %")],
)
def test_only_all_of_it_is_a_hundred_percent(part: float, text: str) -> None:
    assert percent(part) == text


# Found wrong before anything is sent ----------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("rows.csv").write_text("id,text,category,label\n1,one,a,b\n")

    def write(evaluate: str, output: str = "{labels: [a, b]}") -> Path:
        Path("job.yaml").write_text(
            f"input: {{path: rows.csv, keep: [id]}}\nprompt: {{user: '{{{{ text }}}}'}}\noutput: {output}\n"
            f"model: gpt-6-luna\nendpoint: simulator\nevaluate: {evaluate}\n"
        )
        return Path("job.yaml")

    return write


def wrong(path: Path) -> list[str]:
    """Return message and hint of each problem."""
    with pytest.raises(SpecError) as caught:
        make_plan(load_job(path)).survey()
    shown = [part.splitlines() for part in str(caught.value).split("\n\nerror: ")]
    return [" | ".join([lines[0], *(line for line in lines if line.startswith("hint"))]) for lines in shown]


SCHEMA = "{strict: false, schema: {type: object, properties: {topic: {type: string}, about: {type: object}}}}"
ONLY_OBJECTS = SCHEMA.replace("topic: {type: string}", "other: {type: object}")


@pytest.mark.parametrize(
    ("evaluate", "output", "problems"),
    [
        ("{expected: categry}", None, [
            "`evaluate.expected` names `categry`, and the input has no such column | hint: did you mean `category`?"]),
        ("{expected: {label: categry}}", "{labels: [a, b]}", [
            "`evaluate.expected.label` names `categry`, and the input has no such column "
            "| hint: did you mean `category`?"]),
        ("{expected: {topik: category}}", SCHEMA, [
            "`evaluate.expected.topik` stands for a column of the answer, and there is no `topik` "
            "| hint: did you mean `topic`?"]),
        ("{expected: {about: category}}", SCHEMA, [
            "the answer `about` cannot be compared with an expected one "
            "| hint: text, numbers, true or false, and lists of them can be compared; objects cannot"]),
        ("{expected: category}", ONLY_OBJECTS, [
            "no column of the answer can be compared with an expected one "
            "| hint: text, numbers, true or false, and lists of them can be compared; objects cannot"]),
        ("{expected: label}", None, [
            "`evaluate.expected` names the column `label` of the input, and the answer has a `label` too "
            "| hint: rename the answer's: `output.column`"]),
        ("category", None, ['`evaluate` must be a mapping, got "category" | hint: the keys here are `expected`']),
        ("{}", None, ["`evaluate.expected` is missing | hint: for example `expected: category`"]),
        ("{expected: 3}", None, [
            "`evaluate.expected` must be a column, or columns of the answer with one each, got 3 "
            "| hint: for example `expected: category`, or `expected: {topic: category}`"]),
        ("{expected: ''}", None, [
            '`evaluate.expected` must be a column, or columns of the answer with one each, got "" '
            "| hint: for example `expected: category`, or `expected: {topic: category}`"]),
        ("{expected: {label: [category]}}", None, ["`evaluate.expected.label` must be a column, got a list"]),
        ("{topic: {expected: category}}", None, [
            "`evaluate.topic` is not a known key | hint: the keys here are `expected`",
            "`evaluate.expected` is missing | hint: for example `expected: category`"]),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_said_before_anything_is_sent(
    job: Callable[..., Path], evaluate: str, output: str | None, problems: list[str]
) -> None:
    path = job(evaluate, output) if output else job(evaluate)
    assert sorted(wrong(path)) == sorted(problems)


def test_a_problem_is_shown_at_its_place(job: Callable[..., Path]) -> None:
    with pytest.raises(SpecError) as caught:
        make_plan(load_job(job("{expected: categry}"))).survey()
    assert str(caught.value) == dedent("""
        `evaluate.expected` names `categry`, and the input has no such column
          --> job.yaml:6:22
           |
         6 | evaluate: {expected: categry}
           |                      ^
        hint: did you mean `category`?
    """).strip("\n")


def test_the_expected_column_is_in_the_output_though_keep_leaves_it_out(job: Callable[..., Path]) -> None:
    plan = make_plan(load_job(job("{expected: category}")))
    output = plan.output(plan.survey())
    assert output.copied == ("id", "category")
    assert output.schema.names[:4] == ["id", "category", "label", "_index"]


# A run ----------------------------------------------------------------------------------------------------------------

SORTED = ("learning networks", "quantum physics", "a theorem of mathematics", "cheese")


def papers(rows: int) -> list[dict[str, Any]]:
    """Return an input with labels, except that every 6th is empty and every other 6th is misspelt; the first is bad."""
    labels = [*LABELS, "Physics", None]
    made = [
        {"id": f"r{i:05d}", "text": f"paper {i} on {SORTED[i % 4]}", "category": labels[i % 6], "other": "physics"}
        for i in range(rows)
    ]
    return [{key: value for key, value in made[0].items() if key != "text"}, *made[1:]]


def test_a_run_tells_how_good_its_answers_are(project: Callable[..., Project]) -> None:
    there = project(
        rows=papers(60), evaluate={"expected": "category"}, input={"on_bad_row": "error_row", "keep": ["id"]}
    )
    there.job["output"]["rows_per_part"] = 25
    there.change()
    summary = there.work()
    evaluation = there.manifest()["summary"]["evaluation"]["label"]
    (numbers,) = evaluation["models"].values()
    assert list(evaluation["models"]) == ["gpt-6-luna"]
    rows = [row for row in there.table().to_pylist() if row["category"] in LABELS]
    answered = [row for row in rows if row["_status"] == "ok"]
    right = sum(row["label"] == row["category"] for row in answered)
    assert (
        (numbers["labelled"], numbers["answered"], numbers["right"])
        == (40, 39, right)
        == (len(rows), len(answered), right)
    )
    assert (numbers["unlabelled"], numbers["not_a_label"]) == (10, {"rows": 10, "values": {"Physics": 10}})
    text = str(summary)
    assert (
        f"\n  accuracy  `label` against `category`: {percent(right / 39)} ({right} of 39 answers; 95 % interval" in text
    )
    assert "\n            1 row without an answer not counted; counted as wrong, it is " in text
    assert "\n            left out: 10 rows with `Physics` there, which is no label; did you mean `physics`?\n" in text
    assert "(part-*.parquet, run.json, evaluation.svg)" in text
    assert (there.latest / "evaluation.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert show_run(there.latest, as_json=False).startswith(text)

    killed = {**there.manifest(), "status": "running", "summary": {}}  # and counted again, as far as it is
    (there.latest / "run.json").write_text(json.dumps(killed))
    assert json.loads(show_run(there.latest, as_json=True))["summary"]["evaluation"] == {"label": evaluation}


def test_what_is_evaluated_may_change_between_sessions(project: Callable[..., Project]) -> None:
    there = project(rows=papers(30), input={"on_bad_row": "error_row", "keep": ["id", "other"]})
    there.work()
    picture = there.latest / "evaluation.svg"
    assert "evaluation" not in there.manifest()["summary"]
    assert not picture.exists()

    there.change(evaluate={"expected": "other"})
    there.work_on(retry=True)
    assert there.manifest()["summary"]["evaluation"]["label"]["expected"] == "other"
    assert there.manifest()["spec"]["evaluate"] == {"expected": "other"}
    assert picture.exists()

    there.change(evaluate={"expected": {"label": "category"}})
    again = there.work_on(retry=True)
    assert there.manifest()["summary"]["evaluation"] == {"label": {"expected": "category", "missing": True}}
    assert (
        "  accuracy  `label` against `category`: not known, because this run's rows lack `category`; "
        "a new run will have it\n"
    ) in str(again)
    assert not picture.exists()

    picture.mkdir()  # a picture that cannot be written is left out
    there.change(evaluate={"expected": "other"})
    assert there.work_on(retry=True).status == "finished"
    assert "other" in str(there.manifest()["summary"]["evaluation"])
