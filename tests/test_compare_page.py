"""The drawing and the page of a comparison: what they promise whatever was measured."""

from __future__ import annotations

import functools
import re
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure

from runner.compare.figures import (
    Lane,
    Timing,
    latencies,
    slide,
    total_times,
    waterfall,
)
from runner.compare.metrics import percentile
from runner.compare.page import page
from runner.drawing import THEME, save_png, save_svg, svg_text

Draw = Callable[[Sequence[Lane]], Figure]
DRAWINGS: list[Draw] = [total_times, latencies, waterfall]
NASTY = '<script>alert(\'&"\')</script> ]]> $x_1$ id="a" #1c1c1e \x00\ud800'


def lane(name: str, requests: int = 10, at_once: int = 1, failed: int = 0, took_s: float = 0.2) -> Lane:
    """Return a lane whose requests run in waves of `at_once`; the first ones fail."""
    timings = [
        Timing(number // at_once * took_s, (number // at_once + 1) * took_s, number >= failed)
        for number in range(requests)
    ]
    wall_s = timings[-1].end_s
    answers = [took_s * (1 + number / requests) for number in range(failed, requests)]
    return Lane(name, [wall_s, wall_s * 1.1, wall_s * 0.9], answers, timings)


USUAL = [lane("sequential"), lane("asyncio", at_once=10)]
STRANGE = {
    "one lane": [lane("asyncio")],
    "three rows": [lane("sequential", 3), lane("asyncio", 3, 3)],
    "all failed": [lane("sequential"), lane("asyncio", failed=10)],
    "nothing measured": [lane("sequential"), Lane("asyncio", [], [], [])],
    "nothing at all": [Lane("", [], [], [])],
    "no time at all": [Lane("asyncio", [0.0], [0.0], [Timing(0.0, 0.0, True)])],
    "one very slow answer": [Lane("asyncio", [60.0], [0.0, 0.2, 0.2, 0.2, 60.0], [Timing(0.0, 60.0, True)])],
    "hours": [lane("sequential", 100, took_s=100.0), lane("asyncio", 100, 100, took_s=100.0)],
    "long names": [
        lane("a_model_name_of_forty_letters_without_end"),
        lane("asyncio · gpt-6-sol-2026-11-01 · 16 at once"),
    ],
    "nasty names": [lane(NASTY), lane("日本語のモデル")],
    "more lanes than colours": [lane(f"asyncio · {number} at once", at_once=number) for number in range(1, 15)],
}


def written(lanes: Sequence[Lane], text: str = "A comparison") -> str:
    return page(text, [("job", text)], text, ["strategy", text], [[lane.name, text] for lane in lanes], [text], lanes)


@functools.cache
def usual() -> str:
    """The page that most tests look at."""
    return written(USUAL)


def drawn(figure: Figure) -> list[str]:
    """Return the texts in a drawing, in order."""
    return [
        text.text or "" for text in ElementTree.fromstring(svg_text(figure)).iter("{http://www.w3.org/2000/svg}text")
    ]


class Tags(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value for found, value in self.attributes if found == name]


@pytest.mark.parametrize("lanes", STRANGE.values(), ids=STRANGE)
def test_whatever_was_measured_there_is_a_page_and_a_slide(lanes: Sequence[Lane], tmp_path: Path) -> None:
    document = written(lanes)
    labels = [" ".join(label.split()) for label in Tags(document).values("aria-label")]
    names = [" ".join(re.sub("[\x00\ud800]", " ", lane.name).split()) for lane in lanes]
    assert all(name in label for name in names for label in labels if label != "The numbers")
    for svg in re.findall(r"<svg.*?</svg>", document, re.DOTALL):
        ElementTree.fromstring(svg)
    figure = slide(lanes, NASTY)
    save_svg(figure, tmp_path / "comparison.svg")
    save_png(figure, tmp_path / "comparison.png")
    assert ElementTree.parse(tmp_path / "comparison.svg").getroot().get("role") == "img"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.png", "comparison.svg"]


def test_text_stays_text() -> None:
    seen = Tags(written([lane(NASTY), lane("asyncio")], NASTY))
    assert "script" not in seen.tags
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert seen.text.count('<script>alert(\'&"\')</script> ]]> $x_1$ id="a" #1c1c1e') == 9
    assert drawn(total_times([lane("$x$ #1c1c1e")])).count("$x$ #1c1c1e") == 1  # neither a formula nor a colour


def test_the_page_needs_nothing_but_itself() -> None:
    document = usual()
    addresses = set(re.findall(r"https?://[^\"'\s<)]*", document))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    seen = Tags(document)
    assert {"script", "img", "iframe", "object", "base", "form"}.isdisjoint(seen.tags)
    links = seen.values("href") + seen.values("xlink:href") + seen.values("src")
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert "@import" not in document
    assert "default-src 'none'" in document  # and if it did ask for something, it would not get it


def test_the_page_suits_phones_readers_and_the_dark() -> None:
    document = usual()
    assert '<html lang="en">' in document
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in document
    assert "color-scheme:light dark" in document
    assert "prefers-color-scheme:dark" in document
    seen = Tags(document)
    assert seen.values("role").count("img") == 3
    assert [label.split(":")[0] for label in seen.values("aria-label")] == [
        "Total time, median of the rounds",
        "Response times, p50 and p95",
        "When each request of a round ran",
        "The numbers",
    ]


def test_drawings_on_a_page_share_no_ids_and_find_their_own() -> None:
    seen = Tags(usual())
    ids = seen.values("id")
    assert len(ids) == len(set(ids))
    assert all(found.startswith(("total-times-", "response-times-", "requests-")) for found in ids)
    referred = {link[1:] for link in seen.values("xlink:href") + seen.values("href") if link.startswith("#")}
    referred |= {found for _, value in seen.attributes for found in re.findall(r"url\(#([^)]+)\)", value)}
    assert referred
    assert referred == set(ids)


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    for number in (1, 2):
        save_svg(slide(USUAL, "A comparison"), tmp_path / f"{number}.svg")
        save_png(slide(USUAL, "A comparison"), tmp_path / f"{number}.png")
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    assert written(USUAL) == usual()


def test_the_settings_of_the_user_are_neither_used_nor_changed() -> None:
    before = usual()
    with matplotlib.rc_context({"font.size": 30.0, "svg.fonttype": "path", "axes.grid": True, "lines.linewidth": 9.0}):
        mine = dict(matplotlib.rcParams)
        assert written(USUAL) == before
        assert dict(matplotlib.rcParams) == mine


def test_ink_turns_in_the_dark_and_colours_stay(tmp_path: Path) -> None:
    inline = svg_text(total_times(USUAL))
    assert "fill: #1c1c1e; fill: var(--ink)" in inline  # the first is for programs that know no variables
    assert "#ffffff" not in inline  # the page is the paper
    save_svg(slide(USUAL, "A comparison"), tmp_path / "comparison.svg")
    alone = (tmp_path / "comparison.svg").read_text("utf-8")
    assert f"<style>{THEME}</style>" in alone
    assert "fill: #ffffff; fill: var(--paper)" in alone
    assert "#3182ce" in inline
    assert "#3182ce" in alone


def test_a_slide_is_16_to_9_with_200_dots_per_inch(tmp_path: Path) -> None:
    save_png(slide(USUAL, "A comparison"), tmp_path / "comparison.png")
    header = (tmp_path / "comparison.png").read_bytes()[16:24]
    wide, high = int.from_bytes(header[:4]), int.from_bytes(header[4:])
    assert high == 1500
    assert wide / high == pytest.approx(16 / 9, rel=0.001)


def test_the_fastest_is_named() -> None:
    texts = drawn(total_times(USUAL))
    assert texts.count("fastest") == 1
    assert texts[texts.index("fastest") - 1] == "200 ms"
    assert "fastest" not in drawn(total_times(USUAL[:1]))  # of one


def test_failing_quickly_is_not_being_fast() -> None:
    texts = drawn(total_times([lane("sequential"), lane("asyncio", at_once=10, failed=2)]))
    assert texts[texts.index("fastest, 0 failed") - 1] == "2.00 s"
    assert "2 of 10 failed" in texts
    assert not [text for text in drawn(total_times([lane("a", failed=1), lane("b", failed=2)])) if "fastest" in text]


def test_failures_differ_by_more_than_their_colour() -> None:
    spotless, failed = svg_text(waterfall([lane("asyncio")])), svg_text(waterfall([lane("asyncio", failed=3)]))
    assert "Red with a cross: failed." in failed
    assert "Red with a cross" not in spotless
    assert failed.count("<use") - spotless.count("<use") == 3


def test_thinning_loses_no_failure_and_is_said() -> None:
    one = lane("asyncio", requests=1000, failed=1)
    texts = drawn(waterfall([one]))
    assert "A bar stands for 5 requests, failed if one did." in " ".join(texts)
    assert "#d9381e" in svg_text(waterfall([one]))
    assert "At most 200 dots a lane are drawn." in " ".join(drawn(latencies([one])))


def test_percentiles_are_measured_values() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.95), percentile([7.0], 0.95)) == (50.0, 95.0, 7.0)
    assert drawn(latencies([Lane("asyncio", [], [0.1, 0.2, 1.5], [])])).count("200 ms") == 1


@pytest.mark.parametrize("draw", DRAWINGS)
def test_every_lane_is_named_in_every_drawing(draw: Draw) -> None:
    assert {"sequential", "asyncio"} <= set(drawn(draw(USUAL)))


def test_a_thousand_requests_in_twelve_lanes_are_quick_and_small() -> None:
    lanes = [lane(f"asyncio · {number} at once", 1000, number, failed=number) for number in range(1, 13)]
    began = time.perf_counter()
    document = written(lanes)
    assert time.perf_counter() - began < 20  # it takes about one
    assert len(document) < 1_000_000
