"""Measures strategies, concurrencies and models against each other, on a user's own job: `runner compare`.

`contest` runs them, `metrics` counts, `figures` and `page` draw, `record` writes it all down.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, product
from pathlib import Path
from urllib.parse import urlsplit

from runner import open_files, runs, strategies
from runner.clock import SystemClock
from runner.compare.contest import Contest, Contestant, Trial
from runner.compare.record import Comparison, write_requests
from runner.connect import connected
from runner.errors import Exit, SpecError
from runner.event_loop import run_loop, stop_on_signals
from runner.load import Job, load_job
from runner.openai_client import Connection
from runner.plan import Plan, make_plan
from runner.problems import display as shown
from runner.problems import listed
from runner.progress import Console
from runner.records import Item, Usage
from runner.stop import Stop


@dataclass(frozen=True)
class Choice:
    """What to compare: all combinations. Empty: what the job file says, or every strategy where nothing is chosen."""

    strategies: Sequence[str] = ()
    concurrencies: Sequence[int] = ()
    models: Sequence[str] = ()


def compare(
    job_file: Path,
    overrides: Mapping[str, str],
    choice: Choice,
    *,
    rows: int,
    rounds: int,
    folder: Path | None = None,
    console: Console | None = None,
    confirm: Callable[[str], bool] = lambda cost: True,
) -> tuple[Comparison | None, Exit]:
    """Let all contestants send the first `rows` rows in each of `rounds` rounds.

    Args:
        folder: where to write; default: `outputs/compare/<name>-<time>/` in the project root.
        confirm: told what it will cost before anything is sent to an endpoint that may charge; False: do not.

    Returns:
        The comparison, written to its folder, and how it ended. None where it was interrupted before a round was
        complete: then the folder holds the replies alone.

    Raises:
        SpecError, InputError: it cannot be made as asked; nothing was sent, or one row with each contestant.
        FatalError: it could not go on.
    """
    console, clock = console or Console(), SystemClock()
    contestants = _contestants(job_file, {**overrides, "input.limit": str(rows)}, choice)
    plan = contestants[0].plan
    folder = _folder(folder, plan.job, clock.now_us())
    open_files.allow(max(each.strategy().in_flight for each in contestants), shown(job_file))
    found = plan.survey()
    items = _items(plan, rows)
    if not plan.job.rehearsal and not _is_here(plan.job):
        cost = _estimate(contestants, items, rounds)
        requests = (rounds * len(items) + 1) * len(contestants)
        about = "an unknown amount (no price in configs/models.yaml)" if cost is None else f"about ${cost:,.4f}"
        where = listed([endpoint.name for endpoint in plan.job.pool])
        if not confirm(f"{requests:,} requests to endpoint {where} cost {about}"):
            raise SpecError("not confirmed: nothing was sent", hint="`--yes` answers, `--rehearse` costs nothing")
    stop = Stop()
    trials: list[Trial] = []
    unmeasured: list[Trial] = []

    async def work(connections: Sequence[Connection]) -> None:
        contest = Contest(contestants, items, found, connections, stop, console, clock)
        display = console.open("warming up", clock)
        try:
            with stop_on_signals(stop, display.note, asyncio.current_task()):
                await contest.warm_up()
                await contest.run(rounds)
        finally:
            display.close()
            trials.extend(contest.trials)
            unmeasured.extend(contest.unmeasured)

    with connected(plan.job) as connections, suppress(asyncio.CancelledError):  # told twice to stop
        run_loop(lambda: work(connections))
    if not trials and not unmeasured:
        return None, Exit.INTERRUPTED
    if not trials:
        write_requests(folder, unmeasured, found)
        said = console.open("", clock)
        said.note(f"no round was completed; the replies so far are in {shown(folder / 'requests.parquet')}")
        said.close()
        if stop.reason is not None:
            raise stop.reason
        return None, Exit.INTERRUPTED
    comparison = Comparison(folder, trials, unmeasured, found, stopped=stop.requested)
    comparison.write()
    if stop.reason is not None:
        return comparison, Exit.STOPPED
    return comparison, Exit.INTERRUPTED if stop.requested else comparison.exit_code


def _contestants(job_file: Path, overrides: Mapping[str, str], choice: Choice) -> list[Contestant]:
    """Return every combination once: `sequential` has but one concurrency."""
    base = load_job(job_file, overrides=overrides, environ=os.environ)
    untimed = (strategies.BATCH, strategies.AUTO)
    own = "asyncio" if base.spec.strategy_name in untimed else base.spec.strategy_name
    ways = list(dict.fromkeys(choice.strategies)) or (
        [own] if choice.concurrencies or choice.models else list(strategies.TIMED)
    )
    for name in ways:
        if name in untimed:
            message = f"`{name}` cannot be compared: it does not send requests one by one"
            raise SpecError(message, hint=f"there is {listed(strategies.TIMED)}")
    unknown = [name for name in ways if name not in strategies.names()]
    if unknown:
        load_job(job_file, overrides={**overrides, "strategy": json.dumps(unknown[0])})  # says what there is
    amounts = list(dict.fromkeys(choice.concurrencies)) or [base.limits.concurrency or 1]
    models = list(dict.fromkeys(choice.models)) or list(base.spec.models)
    found: list[Contestant] = []
    for model, way, amount in product(models, ways, amounts):
        if way == "sequential" and amount != amounts[0]:
            continue
        parts = [way] if len(ways) > 1 or len(models) == 1 else []
        parts += [f"{amount} at once"] if len(amounts) > 1 and way != "sequential" else []
        parts += [model] if len(models) > 1 else []
        change = {"limits.concurrency": str(amount), "model": json.dumps(model)}
        if way != base.spec.strategy_name:  # else it keeps its options
            change["strategy"] = json.dumps(way)
        job = load_job(job_file, overrides={**overrides, **change}, environ=os.environ, run_date=base.run_date)
        found.append(Contestant(" · ".join(parts), make_plan(job)))
    if len(found) < 2:
        raise SpecError(
            f"there is nothing to compare {found[0].name} with",
            hint="name several strategies, concurrencies or models, or none for all strategies",
        )
    return found


def _items(plan: Plan, rows: int) -> list[Item]:
    """Return the first rows, without those that cannot be sent."""
    first = list(islice(plan.rows(), rows))
    if len(first) < rows:
        raise SpecError(
            f"--n asks for {rows:,} rows, and the input has {len(first):,}", hint=f"`--n {len(first)}` takes them all"
        )
    items = [row for row in first if isinstance(row, Item) and plan.unfit(row) is None]
    if not items:
        raise SpecError(f"none of the first {rows:,} rows can be sent", hint="`runner run … --dry-run` tells why")
    return items


def _estimate(contestants: Sequence[Contestant], items: Sequence[Item], rounds: int) -> float | None:
    """Return about what all of it costs at most, in USD; None where a price is unknown."""
    total = 0.0
    for contestant in contestants:
        plan = contestant.plan
        for item in items:
            request = plan.builder.build(item)
            usage = Usage(request.input_tokens, 0, plan.builder.max_output_tokens or request.input_tokens, 0)
            cost = plan.tariffs[0].cost_usd(usage, plan.job.spec.parameters.get("service_tier"))
            if cost is None:
                return None
            total += cost
    return total * (rounds + 1 / len(items))


def _is_here(job: Job) -> bool:
    """Whether every endpoint is a server on this machine, which charges nothing."""
    hosts = [urlsplit(endpoint.resolve(os.environ).base_url or "").hostname or "" for endpoint in job.pool]
    return all(host in ("localhost", "::1") or host.startswith("127.") for host in hosts)


def _folder(folder: Path | None, job: Job, now_us: int) -> Path:
    if folder is not None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise SpecError("this output folder exists already", where=str(folder), hint="name a new or empty one")
        return folder
    time = datetime.fromtimestamp(now_us / 1e6, UTC).strftime("%Y%m%dT%H%M%SZ")
    return job.root / runs.OUTPUTS / "compare" / f"{job.spec.name}-{time}"
