"""Writes a comparison as one HTML page that needs nothing besides itself: no network, no script, no other file."""

from __future__ import annotations

import html
from collections.abc import Sequence

from runner.compare.figures import Lane, latencies, total_times, waterfall
from runner.drawing import THEME, svg_text

# Names, notes and error messages come from elsewhere. They are escaped; should one slip through, it still cannot run
# or fetch anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_STYLE = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
main{max-width:1240px;margin:0 auto;padding:24px 12px 48px}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 12px}
.conclusion{font-size:1.15rem;max-width:48em;margin:0 0 24px}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:12px 24px;margin:0 0 24px}
dt,ul{color:var(--muted);font-size:.9rem}
dd{margin:0}
.figures{display:grid;gap:24px 32px;justify-content:center;grid-template-columns:minmax(0,640px)}
.figures svg{display:block;width:100%;height:auto}
.table{overflow-x:auto;margin:32px 0 24px}
table{border-collapse:collapse;min-width:100%;font-variant-numeric:tabular-nums;overflow-wrap:normal}
th,td{padding:6px 12px;border-bottom:1px solid var(--grid);text-align:right;white-space:nowrap}
th{font-weight:600;vertical-align:bottom}
th:first-child{text-align:left;padding-left:0;position:sticky;left:0;background:var(--paper)}
tbody th{font-weight:400}
ul{margin:0;padding-left:1.2em;max-width:60em}
@media (max-width:599px){th:first-child{white-space:normal;min-width:7.5em;overflow-wrap:anywhere}}
@media (min-width:1000px){
.figures{grid-template-columns:repeat(2,minmax(0,1fr));grid-template-rows:auto 1fr}
.figures>:last-child{grid-column:2;grid-row:1/3}
}
@media print{svg,tr{break-inside:avoid}}
"""


def page(
    title: str,
    facts: Sequence[tuple[str, str]],
    conclusion: str,
    table_head: Sequence[str],
    table_rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    lanes: Sequence[Lane],
) -> str:
    """Return a comparison as an HTML document, light or dark as its reader prefers.

    Args:
        facts: what was compared, and how: names and values.
        conclusion: the result in a sentence.
        table_rows: of cells, as many as `table_head`; the first of each is the lane.
        notes: what one should know before believing the numbers.
    """
    figures = [svg_text(draw(lanes)) for draw in (total_times, latencies, waterfall)]
    document = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{THEME}:root{{color-scheme:light dark}}{_STYLE}</style>
</head>
<body>
<main>
<h1>{html.escape(title)}</h1>
<p class="conclusion">{html.escape(conclusion)}</p>
{_facts(facts)}
<div class="figures">
{"".join(figures)}
</div>
{_table(table_head, table_rows)}
{_notes(notes)}
</main>
</body>
</html>
"""
    # A message from a server may hold half a surrogate pair, which cannot be written as UTF-8.
    return document.encode("utf-8", "replace").decode("utf-8")


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    entries = [f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>" for name, value in facts]
    return f"<dl>{''.join(entries)}</dl>" if entries else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # The box scrolls when the table is wider than a phone; tabindex lets the keyboard scroll it as well.
    columns = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    lines = [
        f'<tr><th scope="row">{html.escape(name)}</th>{"".join(f"<td>{html.escape(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in rows
    ]
    return (
        '<div class="table" role="region" aria-label="The numbers" tabindex="0">'
        f"<table><thead><tr>{columns}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _notes(notes: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(note)}</li>' for note in notes)}</ul>" if notes else ""
