"""The command `runner`, also as `python -m runner`. It imports next to nothing: Ctrl-C counts from the start."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, and say no more than one word when it is interrupted while it is being loaded."""
    try:
        from runner import cli

        cli.main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
