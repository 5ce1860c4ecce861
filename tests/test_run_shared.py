"""Every real file (of the longest 3,000 rows) goes through a whole run, and comes out with every row once and in order.

That all rows of all of them can be read, test_dataset_shared.py says.
The files lie beside the checkout where there are any; elsewhere these tests are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from project import simulator

from runner import app
from runner.errors import Exit
from runner.load import load_job
from runner.progress import Console

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
SENTENCES = {"format": "tsv", "quote": "none", "columns": ["text", "sentiment"]}
FILES: dict[str, tuple[dict[str, Any], str, int]] = {
    "arxiv/arxiv_kaggle_2000.csv": ({"id": "id"}, "{{ title }} {{ abstract }}", 2000),
    "arxiv/arxiv-metadata-oai-snapshot.200.jsonl": ({"id": "id"}, "{{ title }} {{ authors_parsed }}", 200),
    "arxiv/daily/*.jsonl": ({"id": "id"}, "{{ title }} {{ summary }}", 3560),
    "tweets/mayweather_mcgregor_tweets.csv": ({"id": "id", "limit": 3000}, "{{ text }}", 3000),
    "reviews/yelp_labelled.txt": (SENTENCES, "{{ text }}", 1000),
    "reviews/amazon_cells_labelled.txt": (SENTENCES, "{{ text }}", 1000),
    "nasty/castle-solutions.csv": ({}, "{{ row }}", 1349),
    "nasty/bachelorette.csv": ({}, "{{ row }}", 921),
    "nasty/women-stem.csv": ({}, "{{ Major }}", 76),
    "nasty/pollster-ratings-2019.csv": ({"columns": [f"c{n}" for n in range(25)], "header": 1}, "{{ c1 }}", 430),
    "nasty/StarWars.csv": (
        {"columns": [f"c{n}" for n in range(38)], "header": 2, "encoding": "cp1252"},
        "{{ c1 }}",
        1186,
    ),
}


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with simulator() as server:
        yield server.base_url


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared files are not here")
@pytest.mark.parametrize("name", FILES)
def test_a_real_file_goes_through(name: str, tmp_path: Path, base_url: str) -> None:
    source, prompt, rows = FILES[name]
    job = {
        "name": "real",
        "input": {"path": str(SHARED / name), **source},
        "prompt": {"user": prompt},
        "output": {"labels": ["good", "bad"], "column": "verdict", "rows_per_part": 1000},
        "model": "gpt-6-luna",
        "endpoint": "there",
    }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "endpoints.yaml").write_text(f"there: {{base_url: '{base_url}'}}\n")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    outcome = app.start(load_job(tmp_path / "job.yaml"), console=Console(quiet=True))
    assert outcome.exit_code == Exit.OK
    table = pq.read_table([str(path) for path in sorted(outcome.folder.glob("part-*.parquet"))])
    assert table.column("_index").to_pylist() == list(range(rows))
    assert set(table.column("_status").to_pylist()) == {"ok"}
