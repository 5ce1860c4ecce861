"""Every command line in the documentation is one that the program takes, and every command is documented."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from runner.cli import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def typed() -> Iterator[tuple[Path, list[str]]]:
    """The command lines in the code blocks of all pages, as words after `runner`."""
    for page in PAGES:
        for block in re.findall(r"^```(?:\w*)\n(.*?)^```", page.read_text("utf-8"), re.S | re.M):
            for line in block.splitlines():
                found = re.match(r"(?:\$ )?runner ([a-z].*)", line)
                if found:
                    command = re.split(r" +(?:#|\||>|&&)", found[1])[0]
                    yield page, shlex.split(command)


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name, and what is left of them."""
    command: click.Command = cli
    while isinstance(command, click.Group):
        assert words, f"`{command.name}` alone is no command"
        known = command.commands
        assert words[0] in known, f"there is no command `{words[0]}`"
        command, words = known[words[0]], words[1:]
    return command, words


def test_every_documented_command_line_is_taken() -> None:
    lines = list(typed())
    assert len(lines) > 20
    for page, words in lines:
        command, rest = resolve(words)
        try:
            command.make_context(str(command.name), list(rest), resilient_parsing=False).close()
        except click.ClickException as error:
            raise AssertionError(f"{page.name}: runner {' '.join(words)}: {error.format_message()}") from None


def leaves(command: click.Command, name: str = "") -> Iterator[str]:
    if isinstance(command, click.Group):
        for each, inner in command.commands.items():
            yield from leaves(inner, f"{name} {each}".strip())
    elif not command.hidden:  # what the program starts itself
        yield name


def test_every_command_is_documented() -> None:
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    known = set(leaves(cli))
    assert [name for name in sorted(known) if not re.search(rf"\brunner {name}\b", text)] == []
