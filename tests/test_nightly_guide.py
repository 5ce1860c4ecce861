"""The guide docs/nightly.md, carried out from its first line to its last, in an empty directory and at the simulator.

A block whose first line is `# PATH` is a file. In a block without a language a line after `$ ` is a command, and what
follows is what it says; a block without `$ ` holds commands alone.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from ast import literal_eval
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from hooks import Hooks, hooks
from project import Done, Project, simulator
from test_command_docs import resolve

from runner.notify import message
from runner.simulator import SimulatorProcess
from runner.yaml_source import parse

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "nightly.md").read_text("utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.S | re.M)

NOT_CARRIED_OUT = {
    "python3 -m venv": "takes seconds; the tests have an environment",
    ". .venv/bin/activate": "there is none",
    "pip install": "needs the network",
    "systemctl": "needs the user's systemd",
    "loginctl": "changes the machine",
    "journalctl": "needs the user's systemd, and never ends",
}
"""How commands begin that cannot be carried out here, and why not."""

EXITS = {"runner backfill jobs/daily.yaml --from 2026-01-05 --to 2026-01-06": 3}
"""The commands that do not end with 0; the page says so."""

BUT_FOR = {"jobs/daily.yaml": "jobs/nightly.yaml"}
"""The files of which the page shows what is different from another one."""


class Newcomer:
    """Someone who types what the page says, in a home of their own."""

    def __init__(self, home: Path, base_url: str, told: Hooks) -> None:
        home.mkdir()
        (home / "llm-batch-runner").symlink_to(ROOT)  # "with this project cloned"
        self.home = home
        self.papers = home / "papers"
        self.environ = {"HOME": str(home), "PWD": str(home), "PATH": os.environ["PATH"]}
        self.said_otherwise = {
            "https://api.openai.com/v1": base_url,
            "https://hooks.slack.com/services/…": f"{told.url}/alert",
            "https://hc-ping.com/…": f"{told.url}/ping",
            "sk-…": "sk-good",
        }

    def write(self, content: str) -> None:
        """Write a block that is a file."""
        name = content.splitlines()[0].removeprefix("# ")
        for shown, here in self.said_otherwise.items():
            content = content.replace(shown, here)
        if name in BUT_FOR:
            content = json.dumps(merged((self.papers / BUT_FOR[name]).read_text("utf-8"), content))
        path = Path(name.replace("~", str(self.home)))
        (self.papers / path).write_text(content, encoding="utf-8")

    def type(self, command: str, exits: int = 0) -> Done:
        """Type a command into the shell."""
        if any(command.startswith(beginning) for beginning in NOT_CARRIED_OUT):
            return Done(command, 0, "", "")
        if not command.startswith("runner "):
            return self._shell(command, exits)
        words = self._shell(f"printf '%s\\n' {command}", 0).stdout.splitlines()
        forked = Forked("runner", words[1:], Path(self.environ["PWD"]), self.environ)
        forked.stdin.close()
        return Project.end(forked, exits)

    def _shell(self, command: str, exits: int) -> Done:
        left = self.home / "environ"  # what the shell's variables are afterwards, for the next command
        script = f'{command}\ncode=$?; env -0 >"{left}"; exit $code'
        done = subprocess.run(
            ["sh", "-c", script], cwd=self.environ["PWD"], env=self.environ, capture_output=True, encoding="utf-8",
            check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (exits, ""), command
        self.environ = dict(line.split("=", 1) for line in left.read_text("utf-8").split("\0") if line)
        return Done(command, done.returncode, done.stdout, done.stderr)

    def compare(self, done: Done, shown: list[str]) -> None:
        """Compare what a command said with what the page shows of it: every line, or those between `…`."""
        said = [plain(text.replace(str(self.papers), "/home/you/papers")) for text in (done.stdout, done.stderr)]
        rest = [list(lines) for lines in said]
        wanted = [line for text in shown if text != "…" for line in plain(text)]
        for line in wanted:
            found = next((lines for lines in rest if line in lines), None)
            assert found is not None, f"{line}\nis not said, or not in this place, by {done.args}:\n{said}"
            del found[: found.index(line) + 1]
        if "…" not in shown and shown:
            assert len(wanted) == sum(map(len, said)), f"{done.args} says more: {said}"


def merged(whole: str, changes: str) -> dict[str, Any]:
    """Return a job with the keys of another file, one level deep."""
    found, changed = (dict(parse(text, "jobs/").data) for text in (whole, changes))
    return found | {key: {**found[key], **new} if isinstance(new, dict) else new for key, new in changed.items()}


def plain(text: str) -> list[str]:
    """Return the lines that are not empty, with one word for each name of a run, moment and time span."""
    for pattern, word in (
        (r"20\d{6}T\d{6}Z(-\d)?\b", "RUN"),
        (r"20\d\d-\d\d-\d\d[ T]\d\d:\d\d(:\d\dZ?)?( CES?T| UTC)?", "MOMENT"),
        (r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun) MOMENT", "MOMENT"),
        (r"\b\d[\d.]* (ms|s|min|h|d)\b( \d+ (s|min|h)\b)*", "SPAN"),
        (r" +", " "),
    ):
        text = re.sub(pattern, word, text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def typed(block: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of a block, each with the lines that the page shows after it."""
    if re.search(r"^\$ ", block, re.M):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, *shown = part.splitlines()
            yield command, shown
        return
    for command in re.findall(r"^.*<<'EOF'\n(?:.*\n)*?EOF$|^.+$", block, re.M):
        yield command, []


@pytest.fixture
def told() -> Iterator[Hooks]:
    with hooks() as found:
        yield found


@pytest.fixture
def server() -> Iterator[SimulatorProcess]:
    with simulator(api_keys=["sk-good"], batches={"speed": 100_000}) as found:
        yield found


def test_the_guide_can_be_carried_out(tmp_path: Path, told: Hooks, server: SimulatorProcess) -> None:
    newcomer = Newcomer(tmp_path / "you", server.base_url, told)
    python = StringIO()
    for language, block in BLOCKS:
        if language == "python":
            with pytest.MonkeyPatch.context() as here, redirect_stdout(python):
                here.chdir(newcomer.papers)
                exec(block, {})
        elif language:
            newcomer.write(block)
        else:
            for command, shown in typed(block):
                newcomer.compare(newcomer.type(command, EXITS.get(command, 0)), shown)
    assert (newcomer.home / ".config" / "runner" / "nightly.env").stat().st_mode & 0o777 == 0o600
    assert (newcomer.home / ".config" / "runner" / "serve.env").read_text("utf-8").startswith("# ~/.config/")
    assert {path.name for path in (newcomer.home / ".config/systemd/user").iterdir()} == {
        "nightly.service", "nightly.timer",
    }  # fmt: skip
    assert sum(topic["_id_count"] for topic in literal_eval(python.getvalue())) == 5, "the whole dataset"
    assert [sent["subject"] for sent in told.messages] == [
        "TEST: nightly: a test message",
        "FAILED: daily: could not begin: there is no file `data/2026-01-06.jsonl`",
        "RECOVERED: daily: finished, all 3 rows ok",
    ], "the nights went well"
    assert server.stats()["extra_answers"] == 5, "each of the five papers was paid for once by each of the two jobs"


def rows_of_tables() -> Iterator[list[str]]:
    for line in PAGE.splitlines():
        if line.startswith(("| `", "| a ")):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def what_to_type(symptom: str) -> list[str]:
    """The commands that the page names for a message."""
    [row] = [row for row in rows_of_tables() if row[0] == f"`{symptom}`"]
    return re.findall(r"`([^`]+)`", row[2])


def test_what_to_type_after_a_message_mends_it(tmp_path: Path, told: Hooks, server: SimulatorProcess) -> None:
    newcomer = Newcomer(tmp_path / "you", server.base_url, told)
    for folder in ("configs", "data", "jobs"):
        (newcomer.papers / folder).mkdir(parents=True)
    (newcomer.papers / "configs" / "models.yaml").symlink_to(ROOT / "configs" / "models.yaml")
    for _, block in BLOCKS:
        if block.startswith(("# configs/endpoints", "# jobs/nightly")):
            newcomer.write(block)
    good, bad = {"OPENAI_API_KEY": "sk-good"}, {"OPENAI_API_KEY": "sk-bad"}
    newcomer.environ |= {"PWD": str(newcomer.papers), "ALERT_URL": f"{told.url}/alert", "PING_URL": f"{told.url}/ping"}
    endpoints, papers = (newcomer.papers / name for name in ("configs/endpoints.yaml", "data/papers.jsonl"))
    healthy, count = endpoints.read_text("utf-8"), 0

    def more_papers() -> None:
        nonlocal count
        with papers.open("a", encoding="utf-8") as file:
            for count in range(count + 1, count + 4):  # noqa: B020 - it goes on where it was
                file.write(f'{{"id": "{count}", "title": "Paper {count}", "abstract": "", "categories": "", '
                           f'"update_date": ""}}\n')  # fmt: skip

    def trouble(symptom: str, *options: str, exits: int = 4) -> None:
        newcomer.type(" ".join(("runner run jobs/nightly.yaml", *options)), exits)
        [sent] = told.take()
        assert sent["subject"].startswith(symptom)
        endpoints.write_text(healthy, encoding="utf-8")
        newcomer.environ |= good
        *first, last = what_to_type(symptom)
        for command in first:
            newcomer.type(command, 3)
        newcomer.type(last)
        if last.startswith("runner re"):
            assert told.take()[-1]["subject"].startswith("RECOVERED: nightly: finished")

    with simulator(faults={"bad_request": 1}) as broken:
        more_papers()
        newcomer.environ |= good
        endpoints.write_text(healthy.replace(server.base_url, broken.base_url), encoding="utf-8")
        trouble("FAILED: nightly: finished, 3 of 3 rows failed", exits=3)
        more_papers()
        endpoints.write_text(healthy.replace(server.base_url, broken.base_url), encoding="utf-8")
        trouble("FAILED: nightly: stopped (error_rate)", "--set", "stop.after=2", "--set", "limits.concurrency=1")
    more_papers()
    newcomer.environ |= bad
    trouble("FAILED: nightly: stopped (bad_key)")
    more_papers()
    trouble("FAILED: nightly: stopped (budget)", "--set", "budget.max_usd=0.0001")
    papers.rename(newcomer.papers / "elsewhere")
    trouble("FAILED: nightly: could not begin", exits=2)


def test_the_commands_in_sentences_and_tables_are_taken_too() -> None:
    commands = re.findall(r"`runner ([^`]+)`", PAGE)
    assert len(commands) > 15
    for words in commands:
        command, rest = resolve(shlex.split(words))
        command.make_context(str(command.name), rest).close()


def test_only_what_the_page_has_is_left_out() -> None:
    commands = [command for language, block in BLOCKS if not language for command, _ in typed(block)]
    for beginning in (*NOT_CARRIED_OUT, *EXITS):
        assert any(command.startswith(beginning) for command in commands), beginning


def test_a_job_that_is_late_is_told_of_as_the_page_says() -> None:
    report = message.of_lateness("nightly", Path("outputs/nightly"), None, 100_000, "26 h")
    [symptom] = [row[0].strip("`") for row in rows_of_tables() if "LATE" in row[0]]
    assert report.subject("late").startswith(symptom)
