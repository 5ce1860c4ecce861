"""Draws how good the answers are: who was taken for whom, F1 by label, and whether probabilities can be believed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from runner.drawing import FAILED, GRID, INK, LANES, MUTED, font_size, printable, settled, sheet, text_width
from runner.evaluate.words import percent

_MOST_LABELS = 25
_WIDEST = 1500.0  # points, as all lengths here; beyond it, models stand below each other
_EDGE, _GAP = 20.0, 34.0
_PLOT = 150.0  # the side of the calibration, and the width of the bars
_RIGHT, _WRONG = "#3182ce", FAILED
_NONE = "#8e8e96"
_CELLS = ((3, 52.0), (8, 38.0), (9, 32.0), (15, 29.0), (18, 26.0), (_MOST_LABELS, 23.0))  # sides, by labels at most
_REHEARSAL = "This was a rehearsal: the answers come from the embedded simulator and mean nothing."
_NO_ANSWER = 0.4  # cells between the labels and the column of rows without an answer


def figure(evaluation: Mapping[str, Any], *, rehearsal: bool = False) -> Figure | None:
    """Return a drawing of all questions, one below the other; None where nothing was compared.

    Args:
        evaluation: as it stands in `run.json`, under `summary`.
        rehearsal: the answers are made up, and the drawing says so.
    """
    with settled(size=9):
        blocks = [_Block(answer, found) for answer, found in evaluation.items() if _is_drawable(found)]
        if not blocks:
            return None
        wide = max(block.wide for block in blocks) + 2 * _EDGE
        notes = " ".join(dict.fromkeys(note for block in blocks for note in block.notes))
        across = int((wide - 2 * _EDGE) / (0.53 * font_size()))
        lines = [*(textwrap.wrap(_REHEARSAL, across) if rehearsal else ()), *textwrap.wrap(notes, across)]
        high = sum(block.high for block in blocks) + 13 * len(lines) + 2 * _EDGE
        page = _Page(sheet("evaluation", " ".join(block.words for block in blocks), wide, high), wide, high)
        top = high - _EDGE
        for block in blocks:
            block.draw(page, top)
            top -= block.high
        page.write(_EDGE, top, "\n".join(lines), color=MUTED, va="top", linespacing=1.3)
    return page.figure


def _is_drawable(found: Mapping[str, Any]) -> bool:
    return any(model["answered"] for model in found.get("models", {}).values())


@dataclass(frozen=True)
class _Page:
    """A figure that is drawn on in points, from its bottom left corner."""

    figure: Figure
    wide: float
    high: float

    def axes(self, left: float, bottom: float, wide: float, high: float) -> Axes:
        box = (left / self.wide, bottom / self.high, wide / self.wide, high / self.high)
        axes = self.figure.add_axes(box, facecolor="none")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, pad=4, labelcolor=INK, labelsize=font_size())
        axes.set_axisbelow(True)
        return axes

    def write(self, left: float, bottom: float, text: str, **looks: Any) -> None:
        self.figure.text(left / self.wide, bottom / self.high, text, **looks)


class _Block:
    """The drawings of one question.

    Attributes:
        wide, high: what it takes.
        words: the same for those who cannot see it.
        notes: what to know to read it.
    """

    def __init__(self, answer: str, found: Mapping[str, Any]) -> None:
        self._models: dict[str, Any] = {name: model for name, model in found["models"].items() if model["answered"]}
        self._title = printable(f"{answer} against {found['expected']}")
        self._labels, self._all = _labels(list(self._models.values()))
        self._unanswered = any(self._no_answer(model) for model in self._models.values())
        self._matrices = found["kind"] != "several"
        self._calibrated = [model for model in self._models.values() if model.get("calibration", {}).get("rows")]
        sizes = [size for most, size in _CELLS if most >= self._count]
        for size in [*(size for size in sizes if size >= 26), sizes[0]]:  # with several models smaller, if that helps
            self._measure(size)
            if self._lines == 1:
                break
        told = (f"{name} {percent(model['accuracy'])} right" for name, model in self._models.items())
        self.words = printable(f"{self._title}: {', '.join(told)}.")

    @property
    def _count(self) -> int:
        return max(len(self._labels), 1)

    def _measure(self, cell: float) -> None:
        self._cell = cell
        self._names = [_wrapped(label, 26, 2 if cell > 25 else 1) for label in self._labels]
        self._left = max(map(text_width, [*self._names, "other"])) + 10
        self._tall = self._count * self._cell
        columns = self._count + (_NO_ANSWER + 1 if self._unanswered else 0)
        heads = [text for name, model in self._models.items() for text in _head(name, model)]
        self._matrix = max(columns * self._cell, max(map(text_width, heads)) * 1.1) if self._matrices else 0.0
        # Names below a matrix are level where they fit, else they slant.
        self._slant = max(map(text_width, [*self._names, *(["no answer"] if self._unanswered else [])]))
        self._is_level = self._slant <= self._cell - 4
        below = 14.0 if self._is_level else self._slant * 0.71 + 14
        side = _PLOT + 46 + (_GAP + _PLOT + 30 if self._calibrated else 0)
        room = _WIDEST - self._left - side
        self._in_line = max(1, min(len(self._models), int(room // (self._matrix + _GAP)))) if self._matrices else 1
        self._lines = -(-len(self._models) // self._in_line) if self._matrices else 1
        legend = 40 + 13 * len(self._models)
        body = max(self._tall, _PLOT if self._calibrated else 0.0)
        self._line = max(self._tall + below, body + legend) + 46
        self._side = self._left + (self._in_line * (self._matrix + _GAP) if self._matrices else 0)
        self.wide = max(self._side + side, text_width(self._title) * 1.4, 420.0)
        self.high = 26 + self._lines * self._line + 16

    def draw(self, page: _Page, top: float) -> None:
        page.write(_EDGE, top - 12, self._title, fontsize=13, weight="bold")
        first = top - 26 - 38
        for number, (name, model) in enumerate(self._models.items() if self._matrices else ()):
            line, column = divmod(number, self._in_line)
            left = _EDGE + self._left + column * (self._matrix + _GAP)
            self._draw_matrix(page, left, first - line * self._line, name, model, named=column == 0)
        left = _EDGE + self._side
        self._draw_bars(page, left, first, named=not self._matrices)
        if self._calibrated:
            self._draw_calibration(page, left + _PLOT + 46 + _GAP, first)

    def _draw_matrix(
        self, page: _Page, left: float, top: float, name: str, model: Mapping[str, Any], *, named: bool
    ) -> None:
        columns = self._count + (_NO_ANSWER + 1 if self._unanswered else 0)
        axes = page.axes(left, top - self._tall, columns * self._cell, self._tall)
        axes.set_xlim(0, columns)
        axes.set_ylim(self._count, 0)
        head, accuracy = _head(name, model)
        page.write(left, top + 20, head, weight="bold")
        page.write(left, top + 7, accuracy)
        for y, x, rows, share in self._cells(model):
            color = _NONE if x > self._count else _RIGHT if x == y else _WRONG
            axes.add_artist(Rectangle((x, y), 1, 1, facecolor=color, alpha=0.1 + 0.72 * share, linewidth=0))
            size = font_size() if self._cell > 25 else 7
            axes.text(x + 0.5, y + 0.5, _amount(rows), ha="center", va="center", fontsize=size, color=INK)
        edges = range(self._count + 1)
        axes.hlines(edges, 0, self._count, color=GRID, linewidth=0.6, clip_on=False)
        axes.vlines(edges, 0, self._count, color=GRID, linewidth=0.6, clip_on=False)
        places = [number + 0.5 for number in range(self._count)]
        axes.set_yticks(places, self._names if named else [""] * self._count)
        ends = [self._count + _NO_ANSWER + 0.5] if self._unanswered else []
        axes.set_xticks([*places, *ends], [*self._names, *(["no answer"] if ends else [])])
        if not self._is_level:
            for text in axes.get_xticklabels():
                text.set(rotation=45, ha="right", va="top", rotation_mode="anchor")

    def _cells(self, model: Mapping[str, Any]) -> Iterator[tuple[int, float, int, float]]:
        """Yield row, column, count, and its share of the rows that expect the label."""
        place = {label: number for number, label in enumerate(self._labels)}
        for label, y in place.items():
            unanswered, support = _of(model, label, "unanswered"), _of(model, label, "support")
            for given, rows in model["confusion"].get(label, {}).items():
                if given in place:
                    yield y, place[given], rows, rows / support
            if unanswered:
                yield y, self._count + _NO_ANSWER, unanswered, unanswered / (unanswered + support)

    def _draw_bars(self, page: _Page, left: float, top: float, *, named: bool) -> None:
        axes = page.axes(left, top - self._tall, _PLOT, self._tall)
        axes.set_ylim(self._count, 0)
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([number + 0.5 for number in range(self._count)], self._names if named else [""] * self._count)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        thick = min(0.76 / len(self._models), 14 / self._cell)
        for number, model in enumerate(self._models.values()):
            for row, label in enumerate(self._labels):
                score = model["labels"].get(label, {}).get("f1")
                if score is None:
                    continue
                middle = row + 0.5 + (number - (len(self._models) - 1) / 2) * thick
                axes.barh(middle, score, height=thick * 0.88, color=LANES[number % len(LANES)], clip_on=False)
                if thick * self._cell >= 8:
                    size = min(font_size(), thick * self._cell)
                    axes.annotate(f"{score:.2f}", (score, middle), (4, 0), textcoords="offset points",
                                  va="center_baseline", fontsize=size, color=INK)  # fmt: skip
        page.write(left, top + 7, "F1 by label", weight="bold")
        scores = [f"macro F1 {model['macro_f1']:.3f}" for model in self._models.values()]
        if named:  # no matrix says it
            scores = [
                f"{score}, {_head('', model)[1]}" for score, model in zip(scores, self._models.values(), strict=True)
            ]
        self._draw_legend(page, left, top - self._tall - 22, scores)

    def _draw_calibration(self, page: _Page, left: float, top: float) -> None:
        axes = page.axes(left, top - _PLOT, _PLOT, _PLOT)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.grid(color=GRID, linewidth=0.8)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        scores = []
        for number, model in enumerate(self._models.values()):
            found = model.get("calibration", {})
            scores.append(f"ECE {found['ece']:.3f}" if found.get("rows") else "no probabilities")
            bins = [each for each in found.get("bins", ()) if each["rows"]]
            most = max((each["rows"] for each in bins), default=1)
            x, y = [each["mean"] for each in bins], [each["true"] for each in bins]
            color = LANES[number % len(LANES)]
            axes.plot(x, y, color=color, linewidth=1.2, alpha=0.7, clip_on=False)
            sizes = [12 + 70 * each["rows"] / most for each in bins]
            axes.scatter(x, y, s=sizes, color=color, alpha=0.85, linewidths=0, clip_on=False, zorder=3)
        page.write(left, top + 7, "Calibration", weight="bold")
        self._draw_legend(page, left, top - _PLOT - 22, scores)

    def _draw_legend(self, page: _Page, left: float, top: float, words: Sequence[str]) -> None:
        for number, (name, text) in enumerate(zip(self._models, words, strict=True)):
            bottom = top - 13 * (number + 1)
            if len(self._models) == 1:
                page.write(left, bottom, text)
            else:
                page.write(left, bottom, "■", color=LANES[number % len(LANES)])
                page.write(left + 12, bottom, f"{_wrapped(name, 20, 1)}: {text}")

    def _no_answer(self, model: Mapping[str, Any]) -> bool:
        return any(_of(model, label, "unanswered") for label in self._labels)

    @property
    def notes(self) -> list[str]:
        parts = []
        if self._matrices:
            parts.append(
                "Each line of a matrix is a label that was expected, each column one that was answered. "
                "The number is rows, the colour their share of the line: blue is right, red is wrong."
            )
        if self._unanswered and self._matrices:
            parts.append("Grey has no answer.")
        if self._all > len(self._labels):
            parts.append(f"The {len(self._labels)} most frequent of {self._all:,} labels are drawn.")
        if self._calibrated:
            parts.append(
                "Calibration: across, how probable the answers were said to be; up, how many of them came true. "
                "A larger dot stands for more rows; below the dashed line they were said to be too probable."
            )
        return parts


def _labels(models: Sequence[Mapping[str, Any]]) -> tuple[list[str], int]:
    """Return the labels to draw, in order, and how many there are that were seen."""
    seen: dict[str, int] = {}
    for model in models:
        for label, found in model["labels"].items():
            seen[label] = seen.get(label, 0) + found["support"] + found["given"] + found["unanswered"]
    there = [label for label, rows in seen.items() if rows]
    kept = set(sorted(there, key=lambda label: -seen[label])[:_MOST_LABELS])
    return [label for label in there if label in kept], len(there)


def _of(model: Mapping[str, Any], label: str, what: str) -> int:
    return int(model["labels"].get(label, {}).get(what, 0))


def _head(name: str, model: Mapping[str, Any]) -> tuple[str, str]:
    return _wrapped(name, 32, 1), f"{percent(model['accuracy'])} of {model['answered']:,} right"


def _wrapped(name: str, letters: int, lines: int) -> str:
    name = " ".join(printable(name).split()) or "(nothing)"
    parts = textwrap.wrap(name, letters, break_on_hyphens=False) if lines > 1 else [name]
    if len(parts) <= lines and all(len(part) <= letters for part in parts):
        return "\n".join(parts)
    return f"{name[: letters - letters // 3]}…{name[1 - letters // 3 :]}"  # what tells names apart is often their end


def _amount(rows: int) -> str:
    """Return a count in at most four characters."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if rows >= size * 0.9995:
            size = 1e3 if unit == "k" else size
            return f"{rows / size:.0f}{unit}" if rows / size >= 9.95 else f"{rows / size:.1f}{unit}"
    return str(rows)
