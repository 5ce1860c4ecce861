"""The shape of the package: modules import downwards only, and the network libraries stay in their adapter."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "runner"


def _modules() -> dict[str, set[str]]:
    """Return each module of the package and the modules of it that it imports when it is loaded."""
    paths = {
        ".".join(("runner", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    found = {}
    for name, path in paths.items():
        imported: set[str] = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:  # module level: not type checking, not lazy
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        found[name] = {module for module in imported if module in paths and module not in (name, "runner")}
    return found


def _level(name: str, modules: dict[str, set[str]], above: tuple[str, ...] = ()) -> int:
    assert name not in above, f"a circle of imports: {' -> '.join((*above, name))}"
    return 1 + max((_level(other, modules, (*above, name)) for other in modules[name]), default=0)


def test_there_is_no_circle_of_imports() -> None:
    modules = _modules()
    for name in modules:
        _level(name, modules)


# From the bottom up. A module may import from lines above its own, and from its own line.
ORDER = [
    {
        "errors",
        "records",
        "clock",
        "stop",
        "atomic",
        "lock",
        "stdio",
        "open_files",
        "drawing",
        "addresses",
        "exact_json",
        "overrides",
        "money",
        "temporary",
        "options",
        "signals",
    },
    {"problems", "text_file", "yaml_dialect", "yaml_mistakes", "yaml_source", "validation", "schema_rules", "prices"},
    {
        "written",
        "sections",
        "incremental_section",
        "timespan",
        "schedule.zones",
        "schedule.cron",
        "schedule.section",
        "deadline",
        "forecast",
        "output_section",
        "notify_section",
        "simulator.settings",
        "strategies",
        "spec",
        "run_date",
        "models",
        "traits",
        "config",
        "load",
        "snapshot",
    },
    {
        "template",
        "shared_limits",
        "limits",
        "budget",
        "gate",
        "flex",
        "blocking",
        "retry",
        "dataset",
        "client",
        "journal",
        "layout",
    },
    {"schedule.moments"},
    {"tally", "pace", "simulator", "agreement", "stats", "answer_index", "twins"},
    {"selection"},
    {"openai_errors", "openai_client", "dialects", "output", "requests", "manifest", "places", "evaluate"},
    {"openai_batches", "json_table"},
    {"accounting", "answer", "answer_stats", "questions", "questionnaire"},
    {"call", "parts", "part_rows", "earlier", "known", "runs", "history", "steady", "workers", "freshness"},
    {"service.book"},
    {
        "strategies.sequential",
        "strategies.threads",
        "strategies.to_thread",
        "strategies.asyncio",
        "strategies.processes",
        "strategies.auto",
    },
    {"batches", "store", "summary", "spending", "sessions", "plan", "progress", "differences", "latest"},
    {"incremental"},
    {
        "arrival",
        "strategies.batch_api",
        "pipeline",
        "calls",
        "report",
        "export",
        "retention",
        "row_diff",
        "run_diff",
        "listing",
        "workload",
        "choice",
        "savings",
        "dry_run",
        "offers",
        "explain",
    },
    {"execution", "connect", "event_loop", "workers.child"},
    {"same_job"},
    {"detached"},
    {"notify", "checkup"},
    {"app", "compare"},
    {"service.agenda", "service.folder", "service.inbox", "service.submission", "dated"},
    {"service.work", "service.own_turn", "backfill"},
    {"service.processes", "service.listing"},
    {"service.serve"},
    {"schedule.target", "schedule.crontab", "schedule.systemd", "schedule.github_actions", "schedule.kubernetes"},
    {"schedule.export", "schedule.upcoming"},
    {"schedule.commands", "service.commands", "history_commands"},
    {"api", "cli"},
]


def test_modules_import_downwards_only() -> None:
    line = {name: number for number, names in enumerate(ORDER) for name in names}

    def line_of(name: str) -> int | None:
        _, _, inner = name.partition(".")
        return line.get(inner, line.get(inner.split(".")[0]))

    for name, imported in _modules().items():
        mine = line_of(name)
        for other in imported:
            theirs = line_of(other)
            if mine is not None and theirs is not None:
                assert theirs <= mine, f"{name} imports {other}, which is above it"


def test_the_network_libraries_stay_in_their_adapters() -> None:
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        allowed = {
            "openai_client.py": {"openai", "aiohttp", "httpx2"},
            "openai_errors.py": {"openai", "aiohttp", "httpx2"},
            "openai_batches.py": {"openai", "httpx2"},
            "simulator/server.py": {"aiohttp"},
        }.get(name, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            roots = {module.split(".")[0] for module in imported} & {"openai", "aiohttp", "httpx2"}
            assert roots <= allowed, f"{name} imports {roots - allowed}"
