"""The picture of an evaluation: what it promises whatever was answered."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from runner.drawing import save_svg, settled, svg_text
from runner.evaluate import Evaluation
from runner.evaluate.figure import figure
from runner.evaluate.questions import Kind, Question

NASTY = ("<script>alert('&\"')</script> $x_1$ #1c1c1e \x00\ud800", "日本語のラベル", "", "a" * 300, "a" * 299 + "b")


def found(
    labels: Sequence[str], models: Sequence[str] = ("gpt-6-luna",), *, kind: Kind = "choice", sure: bool = True
) -> dict[str, Any]:
    """Evaluate made-up answers: some wrong, some missing."""
    draw = random.Random(1)
    rows = []
    for model in models:
        for number in range(40 * len(labels)):
            right = labels[number % len(labels)]
            given = draw.choice(labels) if draw.random() < 0.2 else right
            rows.append((model, right, given, draw.random(), "error" if number % 17 == 0 else "ok"))
    columns = dict(
        zip(("_model", "right", "label", "sure", "_status"), map(list, zip(*rows, strict=True)), strict=True)
    )
    if kind == "several":
        columns["label"] = [[label] for label in columns["label"]]
    table = pa.table({name: pa.array(_plain(values)) for name, values in columns.items()})
    evaluation = Evaluation([Question("label", "right", kind, tuple(_plain(labels)), "sure" if sure else None)])
    evaluation.add(table)
    return evaluation.as_dict()


def _plain(values: Sequence[Any]) -> list[Any]:
    return [value.replace("\ud800", "\\ud800") if isinstance(value, str) else value for value in values]


def texts(evaluation: dict[str, Any]) -> list[str]:
    drawing = figure(evaluation)
    assert drawing is not None
    return [
        text.text or "" for text in ElementTree.fromstring(svg_text(drawing)).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_it_shows_labels_counts_scores_and_calibration(tmp_path: Path) -> None:
    evaluation = found(["physics", "other"])
    model = evaluation["label"]["models"]["gpt-6-luna"]
    shown = texts(evaluation)
    assert shown.count("physics") == shown.count("other") == 2  # beside the matrix and below it
    for text in ("label against right", "gpt-6-luna", "no answer", "F1 by label", "Calibration"):
        assert shown.count(text) == 1, text
    for row in model["confusion"].values():
        assert {str(count) for count in row.values()} <= set(shown)
    for label in model["labels"].values():
        assert f"{label['f1']:.2f}" in shown
        assert str(label["unanswered"]) in shown
    assert f"macro F1 {model['macro_f1']:.3f}" in shown
    assert f"ECE {model['calibration']['ece']:.3f}" in shown
    drawing = figure(evaluation)
    assert drawing is not None
    save_svg(drawing, tmp_path / "evaluation.svg")
    root = ElementTree.parse(tmp_path / "evaluation.svg").getroot()
    assert "This was a rehearsal" not in " ".join(shown)
    made_up = figure(evaluation, rehearsal=True)
    assert made_up is not None
    assert "This was a rehearsal" in svg_text(made_up)
    accuracy = f"{100 * model['accuracy']:.1f} % right"
    assert root.attrib["aria-label"] == f"label against right: gpt-6-luna {accuracy}."


def test_models_stand_side_by_side() -> None:
    shown = texts(found(["a", "b", "c"], ["luna", "sol", "terra"]))
    assert [text for text in shown if text in ("luna", "sol", "terra")] == ["luna", "sol", "terra"]
    assert [text.split(":")[0] for text in shown if "macro F1" in text] == ["luna", "sol", "terra"]


def test_of_many_labels_the_most_frequent_are_drawn() -> None:
    shown = texts(found([f"label {number}" for number in range(30)], sure=False))
    assert len({text for text in shown if text.startswith("label ") and text[6:].isdigit()}) == 25
    assert "The 25 most frequent of 30 labels are drawn." in " ".join(shown)


@pytest.mark.parametrize(
    "evaluation",
    [
        found(["a", "b"], sure=False),
        found(NASTY, NASTY[:2]),
        found(["only"], ["m" * 200]),
        found(["a", "b"], kind="several", sure=False),
        {**found(["a", "b"]), "other": {"expected": "x", "missing": True}, "third": {"expected": "x", "models": {}}},
        found([f"physics, {number}th branch of it, experimental" for number in range(20)], ["luna", "sol"]),
    ],
    ids=["no probabilities", "nasty", "one label", "several labels a row", "others missing", "large"],
)
def test_anything_can_be_drawn_and_stays_on_the_paper(evaluation: dict[str, Any]) -> None:
    drawing = figure(evaluation)
    assert drawing is not None
    ElementTree.fromstring(svg_text(drawing))
    edges, labels = (
        drawing.bbox,
        [text for axes in drawing.axes for text in (*axes.get_xticklabels(), *axes.get_yticklabels())],
    )
    with settled():
        for text in (*drawing.texts, *labels):
            box = text.get_window_extent()
            assert edges.x0 <= box.x0, text
            assert box.x1 <= edges.x1, text
            assert edges.y0 <= box.y0, text


def test_nothing_compared_is_no_picture() -> None:
    assert figure({}) is None
    assert figure({"label": {"expected": "right", "missing": True}}) is None
    failed = Evaluation([Question("label", "right", "choice", ("a", "b"))])
    failed.add(
        pa.table({"_model": ["m"], "_status": ["error"], "right": ["a"], "label": pa.array([None], pa.string())})
    )
    assert figure(failed.as_dict()) is None
