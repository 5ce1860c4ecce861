"""A configuration-driven batch job runner for LLM APIs: one YAML file in, ordered Parquet out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.api import RunSummary, load_job, read_dataset, read_results, resume_run, run_job, run_job_async

__version__ = "0.1.0"
__all__ = ["RunSummary", "load_job", "read_dataset", "read_results", "resume_run", "run_job", "run_job_async"]


def __getattr__(name: str) -> Any:
    """Import what programs use when they use it: the command line wants to start at once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from runner import api

    return getattr(api, name)
