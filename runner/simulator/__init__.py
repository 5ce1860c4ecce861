"""A local OpenAI-compatible server for rehearsals and tests: real HTTP, made-up answers.

Only `Simulator` and `serve` bring in the HTTP server's library, and only when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.simulator.settings import SimulatorSettings

if TYPE_CHECKING:
    from runner.simulator.process import SimulatorProcess
    from runner.simulator.server import Simulator, serve

__all__ = ["Simulator", "SimulatorProcess", "SimulatorSettings", "serve"]


def __getattr__(name: str) -> Any:
    if name in ("Simulator", "serve"):
        from runner.simulator import server

        return getattr(server, name)
    if name == "SimulatorProcess":
        from runner.simulator import process

        return process.SimulatorProcess
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
