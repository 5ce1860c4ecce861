"""A schedule as a workflow of GitHub Actions."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from itertools import pairwise

from runner.schedule.target import PACKAGE, Exported, Target, comments

_SHORTEST = 5  # minutes between two runs, as the documentation of `on.schedule` says


def export(target: Target) -> Exported:
    """Return the workflow.

    Raises:
        SpecErrors: GitHub Actions cannot do what the schedule asks for.
    """
    target.refuse_disabled()
    target.refuse_all("GitHub")
    target.refuse_both_days("GitHub")
    minutes = sorted(target.cron.minutes)
    if any(second - first < _SHORTEST for first, second in pairwise([*minutes, minutes[0] + 60])):
        what = f"`{target.cron}` cannot be expressed: GitHub starts a workflow every {_SHORTEST} minutes at most"
        target.refuse("cron", what, "for example `*/5 * * * *`")
    line = target.five_fields("GitHub")
    notes = tuple(_notes(target))
    name = f"{target.name}.yml"
    install = "-c constraints.txt ." if _is_the_runner(target) else PACKAGE
    cancel = "true" if target.schedule.overlap == "cancel" else "false"
    text = f"""\
name: {json.dumps(f"Run {target.name}")}

on:
  schedule:
    - cron: {json.dumps(line)}
      timezone: {json.dumps(target.schedule.zone_name)}
  workflow_dispatch: {{}}

permissions:
  contents: read

concurrency:
  group: {json.dumps(f"runner-{target.name}")}
  cancel-in-progress: {cancel}

jobs:
  run:
    runs-on: ubuntu-latest
    timeout-minutes: 350
    steps:
      - uses: actions/checkout@v6
      - uses: actions/setup-python@v6
        with:
          python-version: "3.12"
      - run: python -m pip install {install}
      - name: Bring the earlier runs, so that paid answers are reused
        uses: actions/cache/restore@v5
        with:
          path: outputs
          key: runner-{target.name}-${{{{ github.run_id }}}}-${{{{ github.run_attempt }}}}
          restore-keys: runner-{target.name}-
      - name: Run
        run: |
          code=0
          runner {shlex.join(target.arguments)} || code=$?
          if [ "$code" -eq 3 ]; then
            echo "::warning::finished, and some rows failed"
            exit 0
          fi
          exit "$code"
{_environment(target)}\
      - name: Keep the runs
        if: ${{{{ always() }}}}
        uses: actions/cache/save@v5
        with:
          path: outputs
          key: runner-{target.name}-${{{{ github.run_id }}}}-${{{{ github.run_attempt }}}}
      - name: Hand out the newest run
        if: ${{{{ always() }}}}
        uses: actions/upload-artifact@v6
        with:
          name: {json.dumps(target.name)}
          path: outputs/{target.name}/latest/
"""
    return Exported(
        {name: comments(target, notes) + text},
        notes,
        (f"commit it to the default branch as .github/workflows/{name}",),
    )


def _is_the_runner(target: Target) -> bool:
    """Whether the project is a checkout of the runner itself."""
    project = target.root / "pyproject.toml"
    return project.is_file() and f'name = "{PACKAGE}"' in project.read_text(encoding="utf-8")


def _environment(target: Target) -> str:
    if not target.variables:
        return ""
    lines = (f"          {name}: ${{{{ secrets.{name} }}}}\n" for name in target.variables)
    return "        env:\n" + "".join(lines)


def _notes(target: Target) -> Iterator[str]:
    schedule = target.schedule
    if target.variables:
        yield f"The keys are secrets of the repository, set there by name: {', '.join(target.variables)}."
    yield from target.key_file_notes()
    if schedule.zone_name not in ("UTC", "Etc/UTC"):
        yield (
            "GitHub knows `timezone` since March 2026. A server without it reads the line in UTC: there write two "
            "lines, for winter and summer, each with its months."
        )
    yield "GitHub starts late when it is busy, above all at full hours, and may leave a moment out; it catches up none."
    for key in ("grace", "jitter"):
        if getattr(schedule, key) is not None:
            yield f"GitHub has no {key}: `{key}: {getattr(schedule, key)}` is left out."
    if schedule.overlap == "skip":
        yield "A moment that comes while a run is going on waits for its end: GitHub keeps one waiting."
    if schedule.overlap == "queue":
        yield "GitHub keeps one moment waiting: a later one takes its place."
