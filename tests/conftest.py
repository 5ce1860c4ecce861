"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from project import Project

MEMORY = Path("/dev/shm")


def pytest_configure() -> None:
    """Keep the files of the tests in memory where there is room: a disk makes them wait for whatever is written."""
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2 << 30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Project]:
    """Make a project: `project(base_url, rows=100, **changes_of_the_job)`."""

    def make(base_url: str | None = None, *, rows: int | list[dict[str, Any]] = 100, **job: Any) -> Project:
        made = Project(tmp_path / "project", base_url, **job)
        made.rows(rows)
        return made

    return make


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Set this machine's time zone: `zone("Europe/Berlin")`."""

    def to(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield to
    monkeypatch.undo()
    time.tzset()
