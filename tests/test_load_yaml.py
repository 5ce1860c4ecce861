"""Malformed YAML: each kind ends in one clear message at its place. The exact text is interface."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from textwrap import dedent

import pytest

from runner.load import load_job
from runner.problems import SpecErrors
from runner.yaml_dialect import dump
from runner.yaml_source import parse, read

REST = "input: {path: x.csv}\nprompt: {user: hi}\nmodel: m\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def said(text: str | bytes, name: str = "job.yaml") -> str:
    """What a person sees of a job file with this content."""
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(SpecErrors) as caught:
        load_job(Path(name))
    return f"error: {caught.value}"


def expect(shown: str) -> str:
    return dedent(shown).strip("\n")


# Each: what is wrong, the file, and the whole text that the user sees.
BROKEN = {
    "a tab": (
        "input:\n\tpath: x.csv\n",
        """
        error: a tab cannot be used for indentation
          --> job.yaml:2:1
           |
         2 |  path: x.csv
           | ^
        hint: use spaces
        """,
    ),
    "bad indentation": (
        "input:\n  path: x.csv\n format: csv\n",
        """
        error: the indentation does not fit the lines above
          --> job.yaml:3:2
           |
         3 |  format: csv
           |  ^
        hint: keys of one level begin in the same column
        """,
    ),
    "a double quote that is not closed": (
        'name: "nightly\n' + REST,
        """
        error: this quote is not closed
          --> job.yaml:1:7
           |
         1 | name: "nightly
           |       ^
        """,
    ),
    "a single quote that is not closed": (
        "model: m\nname: 'nightly\n",
        """
        error: this quote is not closed
          --> job.yaml:2:7
           |
         2 | name: 'nightly
           |       ^
        """,
    ),
    "text after a quote": (
        "prompt:\n  user: 'don't'\n",
        """
        error: text after a closing quote cannot stand here
          --> job.yaml:2:14
           |
         2 |   user: 'don't'
           |              ^
        hint: put the whole value in quotes
        """,
    ),
    "an unknown escape": (
        'prompt: {user: "a\\qb"}\n',
        """
        error: unknown escape character 'q' in double quotes
          --> job.yaml:1:19
           |
         1 | prompt: {user: "a\\qb"}
           |                   ^
        hint: use single quotes, or double the backslash
        """,
    ),
    "a list at the top": (
        "- a\n- b\n",
        """
        error: the job file must be a mapping (`key: value` lines), got a list
          --> job.yaml:1:1
           |
         1 | - a
           | ^
        """,
    ),
    "text at the top": (
        "hello\n",
        """
        error: the job file must be a mapping (`key: value` lines), got text
          --> job.yaml:1:1
           |
         1 | hello
           | ^
        """,
    ),
    "an empty file": (
        "",
        """
        error: the job file is empty
          --> job.yaml
        hint: the keys are listed in docs/job-file.md
        """,
    ),
    "only comments": (
        "# later\n",
        """
        error: the job file is empty
          --> job.yaml
        hint: the keys are listed in docs/job-file.md
        """,
    ),
    "two documents": (
        REST + "---\nname: b\n",
        """
        error: there is a second document here
          --> job.yaml:4:1
           |
         4 | ---
           | ^
        hint: keep one: a `---` starts another
        """,
    ),
    "a key given twice": (
        REST + "limits: {concurrency: 1, concurrency: 2}\n",
        """
        error: `limits.concurrency` is given twice
          --> job.yaml:4:26
           |
         4 | limits: {concurrency: 1, concurrency: 2}
           |                          ^
        hint: it is first given in line 4
        """,
    ),
    "an alias without anchor": (
        "name: *base\n",
        """
        error: the alias `*base` has no anchor `&base` above it
          --> job.yaml:1:7
           |
         1 | name: *base
           |       ^
        hint: text that starts with `*` needs quotes
        """,
    ),
    "an anchor given twice": (
        "name: &a x\nmodel: &a y\n",
        """
        error: the anchor `&a` is defined twice
          --> job.yaml:2:8
           |
         2 | model: &a y
           |        ^
        """,
    ),
    "an anchor in itself": (
        "parameters: &a {x: *a}\n",
        """
        error: this `&` anchor holds an alias to itself
          --> job.yaml:1:13
           |
         1 | parameters: &a {x: *a}
           |             ^
        """,
    ),
    "an unknown tag": (
        REST + "name: !secret x\n",
        """
        error: the tag `!secret` is not known here
          --> job.yaml:4:7
           |
         4 | name: !secret x
           |       ^
        hint: leave the tag out
        """,
    ),
    "a Python object": (
        REST + "name: !!python/object/apply:os.getcwd []\n",
        """
        error: the tag `!!python/object/apply:os.getcwd` is not known here
          --> job.yaml:4:7
           |
         4 | name: !!python/object/apply:os.getcwd []
           |       ^
        hint: leave the tag out
        """,
    ),
    "a brace that is not closed": (
        "limits: {concurrency: 1\nname: x\n",
        """
        error: this `{` is not closed
          --> job.yaml:1:9
           |
         1 | limits: {concurrency: 1
           |         ^
        hint: end the mapping with `}`
        """,
    ),
    "a bracket that is not closed": (
        "output:\n  labels: [a, b\n",
        """
        error: this `[` is not closed
          --> job.yaml:2:11
           |
         2 |   labels: [a, b
           |           ^
        hint: end the list with `]`
        """,
    ),
    "a bracket too many": (
        "output: {labels: [a, b]]}\n",
        """
        error: a `,` or `}` is missing before this
          --> job.yaml:1:24
           |
         1 | output: {labels: [a, b]]}
           |                        ^
        hint: the mapping begins in line 1
        """,
    ),
    "a colon in text": (
        "name: classify: papers\n",
        """
        error: a second `:` cannot stand here
          --> job.yaml:1:15
           |
         1 | name: classify: papers
           |               ^
        hint: check the indentation; text that holds `: ` needs quotes
        """,
    ),
    "a key without a colon": (
        "name: x\nmodel\nprompt: y\n",
        """
        error: a `:` is missing after this key
          --> job.yaml:2:1
           |
         2 | model
           | ^
        hint: write `key: value`, with a space after the colon
        """,
    ),
    "a list item without a space": (
        "input:\n  path:\n  -a\n  - b\n",
        """
        error: a space is missing after this `-`
          --> job.yaml:3:3
           |
         3 |   -a
           |   ^
        hint: write `- item`
        """,
    ),
    "a template without quotes": (
        "input: {path: x.csv}\nmodel: m\nprompt:\n  user: {{ title }}\n",
        """
        error: a key must be text, not a mapping or a list
          --> job.yaml:4:10
           |
         4 |   user: {{ title }}
           |          ^
        hint: put a value that starts with a template in quotes: "{{ … }}"
        """,
    ),
    "two templates without quotes": (
        "prompt:\n  user: {{ title }} and {{ x }}\n",
        """
        error: this cannot stand here
          --> job.yaml:2:21
           |
         2 |   user: {{ title }} and {{ x }}
           |                     ^
        hint: put a value that starts with a template in quotes: "{{ … }}"
        """,
    ),
    "a reserved character": (
        "name: @nightly\n",
        """
        error: text cannot start with `@`
          --> job.yaml:1:7
           |
         1 | name: @nightly
           |       ^
        hint: put it in quotes
        """,
    ),
    "a key that is no text": (
        REST + "yes: 1\n",
        """
        error: the key `yes` must be text
          --> job.yaml:4:1
           |
         4 | yes: 1
           | ^
        hint: `yes` is read as true by YAML: write "yes"
        """,
    ),
    "nested too deeply": (
        "a:\n  " + "[" * 5000 + "\n",
        """
        error: the job file is nested more than 100 levels deep
          --> job.yaml:2:102
           |
         2 | …[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[…
           |                                                    ^
        """,
    ),
    "a control character": (
        "name: a\x07b\n",
        """
        error: the character U+0007 cannot stand in YAML
          --> job.yaml:1:8
           |
         1 | name: a?b
           |        ^
        hint: write it as "\\x07" in double quotes
        """,
    ),
    "an escape that names no character": (
        'name: "\\UFFFFFFFF"\n',
        """
        error: this escape names no character
          --> job.yaml:1:10
           |
         1 | name: "\\UFFFFFFFF"
           |          ^
        """,
    ),
    "half a character": (
        REST + 'name: "\\ud800"\n',
        """
        error: half a character (a lone surrogate) cannot stand in a job file
          --> job.yaml:4:7
           |
         4 | name: "\\ud800"
           |       ^
        """,
    ),
    "a number that JSON has not": (
        REST + "parameters: {temperature: .nan}\n",
        """
        error: `.nan` is not a number that JSON can hold
          --> job.yaml:4:27
           |
         4 | parameters: {temperature: .nan}
           |                           ^
        """,
    ),
    "a merge of no mapping": (
        REST + "limits: {<<: 3}\n",
        """
        error: `<<` takes an alias of a mapping, such as `<<: *defaults`
          --> job.yaml:4:10
           |
         4 | limits: {<<: 3}
           |          ^
        """,
    ),
    "Latin-1": (
        b"model: m\nname: caf\xe9\n",
        """
        error: the job file is not UTF-8 text: the byte 0xe9 cannot stand here
          --> job.yaml:2:10
        hint: save it as UTF-8
        """,
    ),
    "UTF-16": (
        "name: x\n".encode("utf-16"),
        """
        error: the job file is not UTF-8 text: the byte 0xff cannot stand here
          --> job.yaml:1:1
        hint: save it as UTF-8
        """,
    ),
    "too large": (
        "# " + "x" * 1_000_000,
        """
        error: the job file is larger than 1 MB
          --> job.yaml
        hint: is this the dataset?
        """,
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_each_kind_of_malformed_yaml_ends_in_one_clear_message(kind: str) -> None:
    text, shown = BROKEN[kind]
    assert said(text) == expect(shown)


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [" + ", ".join(["x"] * 10) + "]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    begin = time.process_time()
    shown = said("\n".join(lines))
    assert time.process_time() - begin < 3
    assert shown.startswith("error: the aliases of this file unfold to more than 100,000 values\n  --> job.yaml:")
    assert shown.endswith("hint: write it without `*` aliases")


WHOLE = """
name: arxiv-topics
input: {path: [data/papers.jsonl, "b\\u0041"], id: id, keep: [id, 'title']}
prompt:
  messages:
    - {role: system, content: You sort papers.}
    - role: user
      content: |
        Title: {{ title }}
output:
  schema: &schema
    type: object
    properties: {a: {type: [string, "null"]}, b: {anyOf: [{type: "null"}, {type: object}]}}
  strict: false
model: gpt-6-luna
parameters: {max_output_tokens: 50, metadata: {<<: *schema, x: 1.5e3}}
limits: {concurrency: 64, requests_per_minute: 3000}
stop: {max_error_rate: null}
"""


def test_no_damage_ends_in_anything_but_a_clear_message() -> None:
    """Jobs with a few characters struck out, doubled or replaced."""
    Path("job.yaml").write_text(WHOLE, encoding="utf-8")
    assert load_job(Path("job.yaml")).spec.name == "arxiv-topics"
    chance = random.Random(7)
    for _ in range(400):
        text = list(WHOLE)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(text))
            text[at] = chance.choice(["", text[at] * 2, *":-[]{}\"'|>&*!%@`#,?\t\n \\x0<~", "<<: ", "!!int ", "\u2028"])
        Path("job.yaml").write_text("".join(text), encoding="utf-8")
        with contextlib.suppress(SpecErrors):
            load_job(Path("job.yaml"))


def test_a_missing_file_suggests_its_neighbour() -> None:
    Path("nightly.yaml").write_text(REST)
    with pytest.raises(SpecErrors) as caught:
        load_job(Path("nigthly.yaml"))
    assert str(caught.value) == expect("""
        there is no such job file
          --> nigthly.yaml
        hint: did you mean `nightly.yaml`?
    """)


def test_a_folder_is_not_a_job_file() -> None:
    Path("jobs").mkdir()
    Path("jobs/a.yaml").write_text(REST)
    Path("jobs/b.yaml").write_text(REST)
    with pytest.raises(SpecErrors) as caught:
        load_job(Path("jobs"))
    assert str(caught.value) == expect("""
        this is a folder, not a job file
          --> jobs
        hint: it holds `a.yaml` and `b.yaml`
    """)


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(SpecErrors, match="the job file cannot be read"):
        load_job(Path("a\0b.yaml"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_are_counted_whatever_ends_them(end: str) -> None:
    shown = said(end.join(["input: {path: x.csv}", "prompt: {user: hi}", "model: m", "nmae: x", ""]))
    assert shown == expect("""
        error: `nmae` is not a known key
          --> job.yaml:4:1
           |
         4 | nmae: x
           | ^
        hint: did you mean `name`?
    """)


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    Path("job.yaml").write_bytes(b"\xef\xbb\xbf" + REST.encode())
    assert load_job(Path("job.yaml")).spec.model == "m"


def test_long_lines_are_cut_around_the_place() -> None:
    shown = said(REST + "parameters: {a: [" + "x, " * 200 + "], n: 2}\n")
    *_, excerpt, caret, _ = shown.splitlines()
    assert len(excerpt) < 130
    assert excerpt[caret.index("^")] == "2"


def test_wide_characters_take_two_cells() -> None:
    shown = said(REST + "parameters: {分类: 1, n: 2}\n")
    assert shown.splitlines()[3:5] == [" 4 | parameters: {分类: 1, n: 2}", "   |                          ^"]


def test_aliases_and_merge_keys_work() -> None:
    source = parse(
        dedent("""
            base: &base {a: 1, b: 2}
            more: &more {b: 3, c: 4}
            one: {<<: *base, b: 5}
            both: {<<: [*base, *more]}
            same: *base
        """),
        "x.yaml",
    )
    assert source.data["one"] == {"a": 1, "b": 5}
    assert source.data["both"] == {"a": 1, "b": 2, "c": 4}
    assert source.data["same"] == {"a": 1, "b": 2}
    assert source.problems == []


def test_plain_values_hold_no_surprises() -> None:
    text = "[2026-11-20, 12:30, 007, 1e3, 1_000, 0x1F, .5, 3., yes, 'yes', ~, =, 1.2.3, '', 08, -1]"
    assert parse(f"a: {text}", "x.yaml").data["a"] == [
        "2026-11-20", "12:30", "007", 1000.0, 1000, 31, 0.5, 3.0, True, "yes", None, "=", "1.2.3", "", "08", -1,
    ]  # fmt: skip


def test_text_between_brackets_may_hold_question_marks() -> None:
    text = (
        "{ask: What is it about?, at: 0.8, list: [a ?, b??, c? d ?e, x?#y, z? # comment\n ], really?: 1, ? k : l?\n m}"
    )
    assert parse(text, "x.yaml").data == {
        "ask": "What is it about?", "at": 0.8, "list": ["a ?", "b??", "c? d ?e", "x?#y", "z?"], "really?": 1,
        "k": "l? m",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "a", "yes", "null", "1e3", "007", "12:30", "2026-11-20", "0x1F", "=", "<<", "a: b", "# no", "- x",
        "{{ a }}", "a\n", "a\n\n", "\na", "  a\n b\n", "a\r\nb", "a\rb", "a\x85b\n", "a\u2028b\n", "\ufeffa",
        "tab\there\n", "trailing \nx\n", "\x00\x07\x1b", "😀\n😀", "'", '"', "\\n", "a" * 500, "…", "%s", "@x", "*x",
        "&x", "!x", "word " * 100 + "\n" + "word " * 100,
    ],
)  # fmt: skip
def test_what_is_written_reads_back_exactly(text: str) -> None:
    tree = {"plain": text, "list": [text, {"deep": text}], text or "empty": 1}
    assert parse(dump(tree), "x.yaml").data == tree


def test_reading_notes_every_place(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a:\n  b: [1, two]\n")
    source = read(path)
    assert (source.keys[("a", "b")].line, source.keys[("a", "b")].column) == (2, 3)
    assert (source.values[("a", "b", 1)].line, source.values[("a", "b", 1)].column) == (2, 10)
