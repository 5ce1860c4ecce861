"""Draws a comparison: total times, response times, and when each request ran.

What was measured, and the words and tables around the figures, are others' business.
"""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from runner.compare.metrics import percentile
from runner.drawing import FAILED, GRID, INK, LANES, MUTED, font_size, printable, settled, sheet, text_width
from runner.progress import duration

_WIDTH = 400.0  # points, as all lengths here: 10-point text is still 9 CSS pixels high on a screen 400 pixels wide
_MOST = 200  # dots or bars drawn for a lane; more of them show nothing more, and make the file large
_MOST_CROSSES = 40


@dataclass(frozen=True, slots=True)
class Timing:
    """One request, in seconds since its lane's round began."""

    start_s: float
    end_s: float
    ok: bool


@dataclass(frozen=True, slots=True)
class Lane:
    """One contestant: a strategy, at one concurrency, with one model.

    Attributes:
        walls_s: the total time of each round.
        latencies_s: the response times of all rounds.
        waterfall: the requests of the round with the median total time.
    """

    name: str
    walls_s: Sequence[float]
    latencies_s: Sequence[float]
    waterfall: Sequence[Timing]


def total_times(lanes: Sequence[Lane]) -> Figure:
    """Draw the median total time of each lane as a bar, and each round as a tick."""
    return _alone("total-times", _describe("Total time, median of the rounds", lanes, _total), lanes, 38, _bars)


def latencies(lanes: Sequence[Lane]) -> Figure:
    """Draw each response time as a dot, and write p50 and p95 beside them."""
    label = _describe("Response times, p50 and p95", lanes, lambda lane: " and ".join(_percentiles(lane)))
    return _alone("response-times", label, lanes, 38, _dots)


def waterfall(lanes: Sequence[Lane]) -> Figure:
    """Draw each request of a round as a bar from its start to its end, one below the other."""
    high = 76 + 100 / len(lanes)  # as high as the other two together, which stand beside it on a wide screen
    return _alone("requests", _describe("When each request of a round ran", lanes, _round), lanes, high, _stairs)


def slide(lanes: Sequence[Lane], title: str) -> Figure:
    """Draw all three beside each other, a lane in each row, 16:9."""
    wide, high, edge, gap, tall = 960.0, 540.0, 28.0, 24.0, min(384.0, 150.0 * len(lanes))
    with settled(size=11):
        figure = sheet("comparison", _describe(f"{title}. Total times", lanes, _total), wide, high)
        headline = textwrap.shorten(printable(title), 64, placeholder=" …")
        figure.text(edge / wide, 1 - 34 / high, headline, fontsize=18, weight="bold", va="center")
        names = _Names(lanes, tall / len(lanes), letters=20)
        left = edge + names.width
        room = wide - left - edge - 2 * gap - 2 * _column(lanes)
        bottom = high - 82 - tall
        for draw, share, after in ((_bars, 0.29, gap), (_dots, 0.28, gap + 2 * _column(lanes)), (_stairs, 0.43, 0)):
            panel = _Panel(figure, (left, bottom, room * share, tall), lanes)
            names.write(panel) if draw is _bars else None
            draw(panel)
            left += room * share + after
    return figure


# ------------------------------------------------------------------------------------------------ the three drawings


def _bars(panel: _Panel) -> None:
    axes, lanes = panel.axes, panel.lanes
    unit_s, unit = _unit([wall for lane in lanes for wall in lane.walls_s])
    fastest, praise = _fastest(lanes)
    for number, lane, color in panel.rows():
        walls, middle = [wall / unit_s for wall in lane.walls_s], number + 0.5
        if walls:
            axes.barh(middle, statistics.median(walls), height=15 / panel.row, color=color, clip_on=False)
        if len(walls) > 1:
            axes.plot(walls, [middle] * len(walls), "|", color=INK, markersize=9, markeredgewidth=1, clip_on=False)
        total, *failed = _total(lane).split(", ")
        won = number in fastest
        panel.write_end(number, max(walls, default=0.0), "\n".join([total, *([praise] if won else []), *failed]), won)
    rounds = max(len(lane.walls_s) for lane in lanes)
    panel.finish("Total time", unit, f"Bar: median of {rounds} rounds. Ticks: each round." if rounds > 1 else "")


def _dots(panel: _Panel) -> None:
    axes, lanes = panel.axes, panel.lanes
    all_s = sorted(latency for lane in lanes for latency in lane.latencies_s)
    unit_s, unit = _unit(all_s)
    # One answer that took a minute would press all others against the axis.
    logarithmic = bool(all_s) and all_s[-1] > 30 * percentile(all_s, 0.5) > 0
    lowest_s = all_s[-1] / 1e4 if logarithmic else 0.0
    panel.write_columns(0, ("p50", "p95"), above=8)
    for number, lane, color in panel.rows():
        panel.write_columns(number + 0.5, _percentiles(lane))
        found = [max(latency, lowest_s) / unit_s for latency in sorted(lane.latencies_s)]
        if not found:
            axes.text(0, number + 0.5, "no answers", transform=axes.get_yaxis_transform(), va="center", color=MUTED)
            continue
        last = min(len(found), _MOST) - 1
        shown = [found[round(step * (len(found) - 1) / max(last, 1))] for step in range(last + 1)]
        # Steps of the golden ratio spread the dots evenly, and the same way each time.
        y = [number + 0.25 + 0.5 * (index * 0.618034 % 1) for index in range(len(shown))]
        axes.plot(shown, y, "o", color=color, markersize=3.2, alpha=0.75, markeredgewidth=0, clip_on=False)
        for share, pattern in ((0.50, "-"), (0.95, ":")):
            x = [percentile(found, share)] * 2
            axes.plot(x, [number + 0.12, number + 0.88], pattern, color=INK, linewidth=1.5, clip_on=False)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if all_s[0] * 300 > all_s[-1] else (1.0,)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, max(all_s, default=0.0) / unit_s * 1.02 or 1)
    most = max(len(lane.latencies_s) for lane in lanes)
    thinned = f" At most {_MOST} dots a lane are drawn." if most > _MOST else ""
    unit += ", logarithmic" if logarithmic else ""
    panel.finish("Response times", unit, f"Line: p50. Dotted: p95.{thinned}", beyond=2 * panel.column)


def _stairs(panel: _Panel) -> None:
    axes, lanes = panel.axes, panel.lanes
    unit_s, unit = _unit([timing.end_s for lane in lanes for timing in lane.waterfall])
    each = math.ceil(max(len(lane.waterfall) for lane in lanes) / _MOST) or 1
    for number, lane, color in panel.rows():
        bars = _grouped(lane.waterfall, each)
        step = min(0.84 / max(len(bars), 1), 8 / panel.row)
        # A gap or a bar that is too thin to see only dims the colour.
        thick = step * 0.8 if step * panel.row > 2 else max(step, 0.8 / panel.row)
        top = number + 0.5 - step * len(bars) / 2
        boxes = [(bar.start_s / unit_s, bar.end_s / unit_s, top + n * step, bar.ok) for n, bar in enumerate(bars)]
        for ok, paint in ((True, color), (False, FAILED)):
            # One outline for all: with a patch for each, a thousand requests took seconds and megabytes.
            corners = [
                [(a, y), (b, y), (b, y + thick), (a, y + thick), (a, y)] for a, b, y, fine in boxes if fine is ok
            ]
            if corners:
                outline = Outline.make_compound_path(*(Outline(box, closed=True) for box in corners))
                axes.add_patch(PathPatch(outline, facecolor=paint, linewidth=0, clip_on=False))
        crosses = [(end, y + thick / 2) for _, end, y, fine in boxes if not fine]
        for x, y in crosses[:: math.ceil(len(crosses) / _MOST_CROSSES) or 1]:
            axes.plot(x, y, "x", color=INK, markersize=4.5, markeredgewidth=1, clip_on=False)
        end_s = max((bar.end_s for bar in bars), default=0.0)
        panel.write_end(number, end_s / unit_s, _span(end_s) if bars else "no requests")
    for number in range(1, len(lanes)):
        axes.axhline(number, color=GRID, linewidth=0.8)
    notes = ["Number: when the last one ended."]
    notes += ["Red with a cross: failed."] if any(_failures(lane) for lane in lanes) else []
    notes += [f"A bar stands for {each} requests, failed if one did."] if each > 1 else []
    panel.finish("Requests over time", f"{unit} since the round began", " ".join(notes))


def _grouped(timings: Sequence[Timing], each: int) -> list[Timing]:
    """Return neighbours together, from the first start to the last end: no failure and no end is lost."""
    ordered = sorted(timings, key=lambda timing: (timing.start_s, timing.end_s))
    groups = [ordered[index : index + each] for index in range(0, len(ordered), each)]
    return [Timing(group[0].start_s, max(t.end_s for t in group), all(t.ok for t in group)) for group in groups]


# ------------------------------------------------------------------------------------------ numbers and their words


def _fastest(lanes: Sequence[Lane]) -> tuple[set[int], str]:
    """Return which lanes won, and what to call them: a failure is often quick, so it does not compete."""
    fair = {n: statistics.median(lane.walls_s) for n, lane in enumerate(lanes) if lane.walls_s and not _failures(lane)}
    won = {number for number, wall_s in fair.items() if wall_s == min(fair.values())} if len(lanes) > 1 else set()
    return won, "fastest, 0 failed" if any(map(_failures, lanes)) else "fastest"


def _failures(lane: Lane) -> int:
    return sum(not timing.ok for timing in lane.waterfall)


def _total(lane: Lane) -> str:
    total = _span(statistics.median(lane.walls_s)) if lane.walls_s else "not measured"
    return f"{total}, {_failures(lane):,} of {len(lane.waterfall):,} failed" if _failures(lane) else total


def _percentiles(lane: Lane) -> tuple[str, str]:
    found = sorted(lane.latencies_s)
    return (_span(percentile(found, 0.50)), _span(percentile(found, 0.95))) if found else ("–", "–")


def _round(lane: Lane) -> str:
    end_s = max((timing.end_s for timing in lane.waterfall), default=0.0)
    return f"{len(lane.waterfall):,} requests in {_span(end_s)}, {_failures(lane):,} failed"


def _describe(what: str, lanes: Sequence[Lane], words: Callable[[Lane], str]) -> str:
    """Return a drawing in words, for those who cannot see it."""
    return printable(f"{what}: {'; '.join(f'{lane.name} {words(lane)}' for lane in lanes)}.")


def _span(seconds: float) -> str:
    """Return three digits or so: `4.2 ms`, `205 ms`, `1.40 s`, `10.6 s`, `4 min 10 s`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.{1 if seconds < 0.00995 else 0}f} ms"
    return f"{seconds:.2f} s" if seconds < 9.995 else duration(seconds)


def _unit(spans_s: Sequence[float]) -> tuple[float, str]:
    """Return the unit of an axis, in seconds and by name."""
    longest_s = max(spans_s, default=1.0)
    if longest_s < 1:
        return 0.001, "milliseconds"
    return (1.0, "seconds") if longest_s < 300 else (60.0, "minutes")


# ------------------------------------------------------------------------------------------------ paper, axes, text


def _alone(name: str, label: str, lanes: Sequence[Lane], row: float, draw: Callable[[_Panel], None]) -> Figure:
    """Return a figure with one drawing, as high as its lanes need."""
    with settled():
        top, bottom, right, tall = 24.0, 60.0, 2 * _column(lanes) if draw is _dots else 6.0, row * len(lanes)
        figure = sheet(name, label, _WIDTH, top + tall + bottom)
        names = _Names(lanes, row, letters=16)
        panel = _Panel(figure, (names.width, bottom, _WIDTH - names.width - right, tall), lanes)
        names.write(panel)
        draw(panel)
    return figure


class _Names:
    """The names of the lanes, on as many lines as a row has room for. The page says them in full."""

    def __init__(self, lanes: Sequence[Lane], row: float, letters: int) -> None:
        lines = max(int(row / (1.25 * font_size())), 1)
        self._texts = [_wrapped(printable(lane.name), letters, lines) for lane in lanes]
        self.width = max(text_width(text) for text in self._texts) + 10

    def write(self, panel: _Panel) -> None:
        panel.axes.set_yticks([number + 0.5 for number in range(len(self._texts))], self._texts)


def _wrapped(name: str, letters: int, lines: int) -> str:
    if len(name) <= letters:
        return name
    parts = [line for part in name.split(" · ") for line in textwrap.wrap(part, letters)]
    if len(parts) > lines:
        parts = textwrap.wrap(name, letters, max_lines=lines, placeholder="…")
    return "\n".join(parts)


class _Panel:
    """One drawing: a row for each lane, from the top, and time to the right.

    Args:
        box: left, bottom, width and height in the figure.
    """

    def __init__(self, figure: Figure, box: tuple[float, float, float, float], lanes: Sequence[Lane]) -> None:
        wide, high = figure.get_figwidth() * 72, figure.get_figheight() * 72
        self.lanes = lanes
        self.row = box[3] / len(lanes)
        self._width = box[2]
        self._limit = 0.0
        self.column = _column(lanes)
        place = (box[0] / wide, box[1] / high, box[2] / wide, box[3] / high)
        self.axes = axes = figure.add_axes(place, facecolor="none")
        axes.set_ylim(len(lanes), 0)
        axes.set_yticks([])
        axes.tick_params(length=0, pad=5, labelcolor=INK, labelsize=font_size())
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)

    def rows(self) -> Iterator[tuple[int, Lane, str]]:
        for number, lane in enumerate(self.lanes):
            yield number, lane, LANES[number % len(LANES)]

    def write_end(self, number: int, x: float, text: str, bold: bool = False) -> None:
        """Write to the right of where a lane ends, and make the axis so long that the text fits."""
        weight = "bold" if bold else "normal"
        self.axes.annotate(text, (x, number + 0.5), (6, 0), "data", "offset points", va="center", weight=weight)
        room = self._width - 8 - text_width(text) * (1.12 if bold else 1)
        self._limit = max(self._limit, x * self._width / max(room, self._width / 4))
        self.axes.set_xlim(0, self._limit or 1)

    def write_columns(self, y: float, texts: tuple[str, str], above: float = 0.0) -> None:
        """Write two figures to the right of the drawing."""
        for column, text in enumerate(texts, 1):
            self.axes.annotate(
                text, (1, y), (column * self.column, above), self.axes.get_yaxis_transform(), "offset points",
                ha="right", va="baseline" if above else "center",
            )  # fmt: skip

    def finish(self, title: str, unit: str, note: str, beyond: float = 0.0) -> None:
        """Write what is around the drawing; `beyond` its right end the note may go on."""
        self.axes.set_title(title, loc="left", fontsize=font_size() * 1.1, weight="bold", pad=8)
        if self.axes.get_xscale() == "linear":
            self.axes.xaxis.set_major_locator(MaxNLocator(max(int(self._width / 40), 2), steps=[1, 2, 2.5, 5, 10]))
        self.axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        lines = [unit, *textwrap.wrap(note, int((self._width + beyond) / (0.54 * font_size())))]
        self.axes.annotate(
            "\n".join(lines), (0, 0), (0, -font_size() - 10), "axes fraction", "offset points", va="top", color=MUTED
        )


def _column(lanes: Sequence[Lane]) -> float:
    """Return the room for p50, and as much for p95."""
    return max(text_width(text) for lane in lanes for text in ("p50", *_percentiles(lane))) + 14
