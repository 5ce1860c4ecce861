"""How to reach a job's endpoints, their secrets looked up, or embedded simulators started."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from runner.config import ResolvedEndpoint
from runner.errors import FatalError, SpecError
from runner.load import Job
from runner.openai_client import Connection


@contextmanager
def connected(job: Job) -> Iterator[list[Connection]]:
    """Yield where to send requests, for each endpoint of the pool; starts a simulator for each one that is embedded."""
    with ExitStack() as simulators:
        connections = []
        for endpoint in job.pool:
            resolved = endpoint.resolve(os.environ)
            base_url = resolved.base_url or ""
            if resolved.simulator is not None:
                from runner.simulator import SimulatorProcess

                base_url = simulators.enter_context(SimulatorProcess(resolved.simulator)).base_url
            connections.append(connection_to(resolved, base_url))
        yield connections


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
