"""How to reach a job's endpoint, its secrets looked up, or the embedded simulator started."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from runner.config import ResolvedEndpoint
from runner.errors import FatalError, SpecError
from runner.load import Job
from runner.openai_client import Connection


@contextmanager
def connected(job: Job) -> Iterator[Connection]:
    """Yield where to send requests; starts the embedded simulator when the endpoint is one."""
    endpoint = job.endpoint.resolve(os.environ)
    if endpoint.simulator is None:
        yield connection_to(endpoint, endpoint.base_url or "")
        return
    from runner.simulator import SimulatorProcess

    with SimulatorProcess(endpoint.simulator) as process:
        yield connection_to(endpoint, process.base_url)


def connection_to(endpoint: ResolvedEndpoint, base_url: str) -> Connection:
    """Return how to reach an endpoint."""
    key: str | Callable[[], Coroutine[Any, Any, str]] = endpoint.api_key() or "none"
    if endpoint.rotates:

        async def current_key() -> str:
            try:
                return endpoint.api_key() or "none"
            except SpecError as error:  # it could be read when the run began
                raise FatalError(error.message, kind="bad_key", hint="mend the key file, then resume") from None

        key = current_key
    return Connection(
        endpoint.name,
        base_url,
        key,
        endpoint.organization,
        endpoint.project,
        endpoint.headers,
        endpoint.azure_api_version,
    )
