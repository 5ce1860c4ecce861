"""Says in a few lines how good the answers are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runner.problems import suggest

_SHOWN = 3


def evaluation_lines(evaluation: Mapping[str, Any]) -> list[list[str]]:
    """Return the lines for each column of answers; the first of each is the headline.

    Args:
        evaluation: as it stands in `run.json`, under `summary`.
    """
    return [_question(answer, found) for answer, found in evaluation.items()]


def _question(answer: str, found: Mapping[str, Any]) -> list[str]:
    what = f"`{answer}` against `{found['expected']}`"
    if found.get("missing"):
        return [f"{what}: not known, because this run's rows lack `{found['expected']}`; a new run will have it"]
    if not found["models"]:
        return [f"{what}: no rows yet"]
    answers = "answers have all labels right" if found["kind"] == "several" else "answers"
    blocks = {name: list(_numbers(model, answers)) for name, model in found["models"].items()}
    notes = {name: list(_notes(model, found)) for name, model in found["models"].items()}
    if len(blocks) == 1:
        (name,) = blocks
        first, *more = blocks[name]
        return [f"{what}: {first}", *more, *notes[name]]
    lines = [what]
    same = len({tuple(each) for each in notes.values()}) == 1
    width = max(map(len, blocks))
    for name, (first, *more) in blocks.items():
        lines += [f"{name:<{width}}  {first}", *(f"  {line}" for line in [*more, *([] if same else notes[name])])]
    return [*lines, *(notes[name] if same else [])]


def _numbers(model: Mapping[str, Any], answers: str) -> Iterator[str]:
    if not model["labelled"]:
        yield "nothing to compare"
        return
    if not model["answered"]:
        yield f"no answer to any of {_rows(model['labelled'])}"
        return
    yield (
        f"{percent(model['accuracy'])} ({model['right']:,} of {model['answered']:,} {answers}; 95 % interval "
        f"{percent(model['accuracy_low'])} to {percent(model['accuracy_high'])})"
    )
    scored = [(label["f1"], name) for name, label in model["labels"].items() if label["f1"] is not None]
    worst = [f"{_short(name)} {score:.3f}" for score, name in sorted(scored) if score < 1][:_SHOWN]
    yield f"macro F1 {model['macro_f1']:.3f}" + (f"; lowest F1: {', '.join(worst)}" if worst else "")
    wrong = [
        (-rows, expected, given)
        for expected, row in model.get("confusion", {}).items()
        for given, rows in row.items()
        if expected != given
    ]
    if wrong:
        pairs = (f"{_short(expected)} → {_short(given)} {-rows:,}" for rows, expected, given in sorted(wrong)[:_SHOWN])
        yield f"most confused, expected → answered: {', '.join(pairs)}"
    if model.get("calibration", {}).get("rows"):
        yield _calibration(model["calibration"])


def _calibration(found: Mapping[str, Any]) -> str:
    points = 100 * (found["mean"] - found["true"])
    text = f"calibration of `{found['probability']}`: ECE {found['ece']:.3f}, Brier {found['brier']:.3f}"
    if abs(points) < 0.5:
        return f"{text}; on average it is right"
    return f"{text}; on average {abs(points):.1f} points too {'high' if points > 0 else 'low'}"


def _notes(model: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Say what the accuracy does not count."""
    missed = model["labelled"] - model["answered"]
    if missed and model["answered"]:
        yield (
            f"{_rows(missed)} without an answer not counted; counted as wrong, it is "
            f"{percent(model['accuracy_of_all'])}"
        )
    if model["unlabelled"]:
        yield f"left out: {_rows(model['unlabelled'])} with nothing in `{found['expected']}`"
    strange = model["not_a_label"]
    for value, rows in list(strange["values"].items())[:_SHOWN]:
        near = suggest(value, model["labels"])
        yield f"left out: {_rows(rows)} with `{_short(value)}` there, which is no label" + (f"; {near}" if near else "")
    more = strange["rows"] - sum(list(strange["values"].values())[:_SHOWN])
    if more > 0:
        yield f"left out: {_rows(more)} with other values there that are no labels"
    stray = model.get("calibration", {}).get("not_a_probability", 0)
    if stray:
        yield f"{_rows(stray)} with a `{model['calibration']['probability']}` that is not between 0 and 1"


def percent(part: float) -> str:
    """Return a share in percent, with so many digits that only all of it is 100 % and only nothing 0 %."""
    shown = [f"{100 * part:.{digits}f}" for digits in (1, 2, 3, 4)]
    return next((text for text in shown if float(text) not in (0, 100) or part in (0, 1)), shown[-1]) + " %"


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= 40 else f"{name[:26]}…{name[-13:]}"  # what tells names apart is often their end
