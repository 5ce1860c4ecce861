"""Real files: every row of each, in order. They are not in the repository: without them there is nothing to test."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from test_dataset import dataset

from runner.dataset.columns import to_array
from runner.dataset.survey import survey
from runner.errors import InputError
from runner.records import Item

DATA = Path(__file__).parents[1].parent / "shared" / "data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")

LABELLED = {"format": "tsv", "columns": ("text", "label"), "quote": "none"}
STAR_WARS = {"columns": tuple(f"c{n}" for n in range(38)), "header": 2, "encoding": "cp1252"}
DAILY = {"05-05": 620, "05-12": 643, "06-25": 26, "06-26": 332, "06-27": 332, "06-28": 332, "06-29": 230, "06-30": 674}
POLLSTER = {"columns": tuple(f"c{n}" for n in range(25)), "header": 1}

FILES: list[tuple[str, int, int, dict[str, Any]]] = [
    ("arxiv/arxiv_kaggle_2000.csv", 2000, 14, {"id": "id"}),
    ("arxiv/arxiv-metadata-oai-snapshot.200.jsonl", 200, 14, {"id": "id"}),
    *[(f"arxiv/daily/2026-{day}.jsonl", rows, 8, {"id": "id"}) for day, rows in (DAILY | {"07-01": 371}).items()],
    ("tweets/mayweather_mcgregor_tweets.csv", 12_118, 7, {"id": "id"}),
    ("reviews/yelp_labelled.txt", 1000, 2, LABELLED),
    ("reviews/amazon_cells_labelled.txt", 1000, 2, LABELLED),
    ("nasty/castle-solutions.csv", 1349, 11, {}),
    ("nasty/StarWars.csv", 1186, 38, STAR_WARS),  # 1,187 with its second header row
    ("nasty/StarWars.csv", 1187, 38, STAR_WARS | {"header": 1}),
    ("nasty/bachelorette.csv", 921, 23, {}),
    ("nasty/pollster-ratings-2019.csv", 430, 25, POLLSTER),
    ("nasty/women-stem.csv", 76, 9, {}),
    ("openai/text_message_tasks.jsonl", 5, 4, {"id": "custom_id"}),
    ("openai/openai_text_message_batch_output.jsonl", 5, 4, {"id": "custom_id"}),
]


@pytest.mark.parametrize(
    ("name", "rows", "columns", "settings"), FILES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_row_and_column(name: str, rows: int, columns: int, settings: dict[str, Any]) -> None:
    found = dataset(DATA, name, **settings)
    items = list(found.rows())
    assert len(items) == rows
    assert [item for item in items if not isinstance(item, Item)] == []
    assert [item.index for item in items] == list(range(rows))
    told = survey(found)
    assert (told.rows, told.bad, len(told.columns)) == (rows, 0, columns)
    for field in told.schema:
        values = [item.fields.get(field.name) for item in items]
        stored = to_array(values, field)
        assert len(stored) == rows
        if not field.metadata:
            assert stored.to_pylist() == values
    if name.endswith(".csv") or settings is LABELLED:
        assert set(told.schema.types) == {pa.string()}
        assert [list(item.fields.values()) for item in items] == plain_csv(DATA / name, settings)
    else:
        lines = (DATA / name).read_bytes().split(b"\n")
        assert [item.fields for item in items] == [json.loads(line) for line in lines if line.strip()]


def plain_csv(path: Path, settings: dict[str, Any]) -> list[list[str]]:
    """The same rows by the shortest way: the whole file in memory."""
    with path.open(encoding=settings.get("encoding", "utf-8-sig"), newline="") as file:
        if settings is LABELLED:
            return [line.rstrip("\r\n").split("\t") for line in file.read().split("\n") if line]
        rows = [row for row in csv.reader(file) if row]
    return rows[settings.get("header", 1) :]


SPECTRUM = sorted((DATA / "csv-spectrum" / "csvs").glob("*.csv")) if DATA.is_dir() else []


@pytest.mark.parametrize("path", SPECTRUM, ids=lambda path: path.stem)
def test_csv_spectrum(path: Path, tmp_path: Path) -> None:
    answer = (DATA / "csv-spectrum" / "json" / f"{path.stem}.json").read_text()
    # As stored, the files named crlf have lost their CRs: the answer is right once they have them again.
    (tmp_path / path.name).write_bytes(path.read_bytes().replace(b"\n", b"\r\n" if "crlf" in path.stem else b"\n"))
    assert [row.fields for row in dataset(tmp_path, path.name).rows()] == json.loads(answer)
    stored = [row.fields for row in dataset(DATA, f"csv-spectrum/csvs/{path.name}").rows()]
    assert stored == json.loads(answer.replace("\\r\\n", "\\n"))


def test_csv_spectrum_is_complete() -> None:
    assert len(SPECTRUM) == 11


def test_arxiv_as_csv_and_as_jsonl_are_the_same_papers() -> None:
    table = list(dataset(DATA, "arxiv/arxiv_kaggle_2000.csv", id="id", limit=200).rows())
    lines = list(dataset(DATA, "arxiv/arxiv-metadata-oai-snapshot.200.jsonl", id="id").rows())
    assert table[0].id == "704.0001"  # as the file has it: it was lost before
    assert lines[0].id == "0704.0001"
    for left, right in zip(table, lines, strict=True):
        for name in ("title", "abstract", "submitter", "authors", "categories", "comments", "doi"):
            assert left.fields[name] == (right.fields[name] or ""), (right.id, name)


def test_first_and_last_rows() -> None:
    tweets = list(dataset(DATA, "tweets/mayweather_mcgregor_tweets.csv", id="id").rows())
    assert tweets[0].id == "901656910939770881"
    yelp = list(dataset(DATA, "reviews/yelp_labelled.txt", **LABELLED).rows())
    assert yelp[0].fields == {"text": "Wow... Loved this place.", "label": "1"}
    assert yelp[-1].line == 1000
    stem = list(dataset(DATA, "nasty/women-stem.csv").rows())
    assert stem[-1].fields["Major"] == "ZOOLOGY"
    show = list(dataset(DATA, "nasty/bachelorette.csv").rows())
    assert list(show[-1].fields.values())[:4] == ["Bachelor", "01", "01_WENDI_X", "E"]
    assert show[1].fields["CONTESTANT"] == "13_BRYAN_A"


def test_daily_crawls_repeat_ids() -> None:
    found = survey(dataset(DATA, "arxiv/daily/*.jsonl", id="id"))
    assert (found.rows, found.rows - found.repeated_ids) == (3560, 2387)
    assert [stamp.path for stamp in found.files] == [f"arxiv/daily/2026-{day}.jsonl" for day in [*DAILY, "07-01"]]
    assert found.schema.field("authors").type == pa.list_(pa.string())


def test_star_wars_says_what_is_wrong_step_by_step() -> None:
    def message(**settings: Any) -> str:
        with pytest.raises(InputError) as caught:
            list(dataset(DATA, "nasty/StarWars.csv", **settings).rows())
        return str(caught.value)

    assert message().endswith("add `encoding: cp1252`")
    doubled = message(encoding="cp1252")
    assert "column names are empty or doubled in `nasty/StarWars.csv`: column 5 is empty" in doubled
    assert doubled.endswith("name all 38 columns with `columns:`, and add `header: 1` to skip the file's own")


def test_pollster_ratings_have_a_name_twice() -> None:
    with pytest.raises(InputError) as caught:
        list(dataset(DATA, "nasty/pollster-ratings-2019.csv").rows())
    assert caught.value.message.startswith("1 column name is empty or doubled in `nasty/pollster-ratings-2019.csv`")
