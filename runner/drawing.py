"""Paper and ink of every picture: light and quiet, the same for everybody, as an SVG with text or as a PNG.

With the modules that draw on it, this is the only one that imports matplotlib. That takes most of a second, so import
it when there is something to draw.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from runner.atomic import replacing, write_text

# At least 3 to 1 against both papers. Colours only help the eye: each lane is named wherever it is drawn.
LANES = [
    "#3182ce", "#c07a00", "#159983", "#c45aa5", "#74808c", "#8468d6",
    "#9a7b1c", "#5b8def", "#2e8540", "#a05195", "#5f6f86", "#a66a3f",
]  # fmt: skip
FAILED = "#d9381e"
# Drawn with these; in an SVG they become CSS variables, which turn in the dark. No other colour may equal one of them.
INK, MUTED, GRID, PAPER = "#1c1c1e", "#5a5a60", "#dddde0", "#ffffff"
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"}
THEME = (
    f":root{{--ink:{INK};--muted:{MUTED};--grid:{GRID};--paper:{PAPER}}}"
    "@media (prefers-color-scheme:dark){:root{--ink:#ececee;--muted:#a9a9b0;--grid:#38383c;--paper:#121212}}"
)  # for the page that `svg_text` goes into; `save_svg` brings its own


@contextmanager
def settled(size: float = 10) -> Iterator[None]:
    """Draw the same for everybody: without the user's matplotlibrc, and `$` in a name is a dollar."""
    settings = {"font.size": size, "text.parse_math": False, "text.color": INK, "svg.hashsalt": "runner"}
    with style.context(["default", settings, {"svg.fonttype": "none"}]), warnings.catch_warnings():
        # The font of the PNG lacks some scripts. In the SVG the reader's fonts draw them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def sheet(name: str, label: str, wide: float, high: float) -> Figure:
    """Return an empty figure, in points; `label` says in words what will be on it."""
    figure = Figure(figsize=(wide / 72, high / 72), facecolor=PAPER)
    figure.set_gid(name)
    figure.set_label(label)
    return figure


def svg_text(figure: Figure) -> str:
    """Return an `<svg>` without background for a page that has `THEME`; its ids start with the figure's name."""
    return _svg(figure, paper="none")


def save_svg(figure: Figure, path: Path) -> None:
    """Write an SVG that stands alone; it is light or dark as its viewer is."""
    head, _, rest = _svg(figure, paper=PAPER).partition(">")
    write_text(path, f'<?xml version="1.0" encoding="utf-8"?>\n{head}><style>{THEME}</style>{rest}\n')


def save_png(figure: Figure, path: Path) -> None:
    """Write the light drawing, 200 dots per inch."""
    with settled(), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=200, metadata={"Software": None})


def printable(text: str) -> str:
    """Return the text without what XML does not allow: control characters and half surrogates."""
    return "".join(character if character.isprintable() else " " for character in text)


def font_size() -> float:
    """Return the size of plain text, in points."""
    return float(matplotlib.rcParams["font.size"])


def text_width(text: str) -> float:
    """Return how wide the longest line of a text is in the font of the PNG, which is wider than most."""
    lines = [TextPath((0, 0), line, size=font_size()) for line in text.split("\n") if line.strip()]
    # The points that its curves are drawn with: at most a hair too wide, and ten times as fast as the curves' extents.
    return max((float(line.vertices[:, 0].max(initial=0.0)) for line in lines), default=0.0)


def _svg(figure: Figure, paper: str) -> str:
    with settled(), io.StringIO() as written:
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # the defaults name a version and the time
        figure.savefig(written, format="svg", facecolor=paper, metadata=nothing)
        drawing = written.getvalue()
    drawing = drawing[drawing.index("<svg") :].strip()
    referred = set(re.findall(r"[(\"]#([\w-]+)[)\"]", drawing))
    name = figure.get_gid()

    def rewrite(tag: re.Match[str]) -> str:
        text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in referred else "", tag[0])
        text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", text)
        text = re.sub("font-family: [^;]*sans-serif", "font-family: system-ui, sans-serif", text)
        text = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", text)
        for color, variable in _VARIABLES.items():  # what does not know variables keeps the first of the two
            text = re.sub(rf"(fill|stroke): {color}", rf"\g<0>; \g<1>: var({variable})", text)
        return text

    # matplotlib escapes < and > wherever they do not belong to a tag, so that the words in between stay as they are.
    drawing = re.sub(r"<[^<>]+>", rewrite, drawing)
    label = html.escape(str(figure.get_label()))
    return drawing.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
