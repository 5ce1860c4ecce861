"""`python -m work_at TASK OUTPUTS NOW_US`: carry a task out as `runner work` does, at a time that is given."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nights import Wall

from runner.progress import Console
from runner.service.book import Book
from runner.service.work import work
from runner.stop import Stop

if __name__ == "__main__":
    number, outputs, now_us = sys.argv[1:]
    with Book(Path(outputs)) as book:
        task = book.task(int(number))
    work(task, Path(outputs), os.environ, stop=Stop(), console=Console(quiet=True), clock=Wall.at_us(int(now_us)))
