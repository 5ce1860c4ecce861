"""`python -m runner.simulator`: serves, and prints the base URL as its only line."""

from __future__ import annotations

import argparse
import sys

from pydantic import ValidationError

from runner.errors import Exit, RunnerError
from runner.simulator.server import serve
from runner.simulator.settings import SimulatorSettings


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m runner.simulator", description="A local OpenAI-compatible server.")
    parser.add_argument("--settings", default="{}", help="the settings as a JSON object")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 for any free one")
    parser.add_argument("--until-stdin-closes", action="store_true", help="also stop when standard input ends")
    options = parser.parse_args(arguments)
    try:
        settings = SimulatorSettings.model_validate_json(options.settings)
        serve(settings, options.host, options.port, _announce, options.until_stdin_closes)
    except ValidationError as error:
        problems = "; ".join(f"`{'.'.join(map(str, each['loc']))}`: {each['msg']}" for each in error.errors())
        sys.stderr.write(f"error: the simulator's settings are wrong: {problems}\n")
        return Exit.USAGE
    except RunnerError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return Exit.OK


def _announce(base_url: str) -> None:
    sys.stdout.write(f"{base_url}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
