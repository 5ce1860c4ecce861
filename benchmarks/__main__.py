"""`python -m benchmarks [NAME ...]`: run all benchmarks, or the named ones, and print their figures."""

from __future__ import annotations

import os
import platform
import sys

from benchmarks import batches, incremental, limits, memory, reuse, service, speed, strategies

ALL = {
    "speed": speed.main,
    "latency": speed.latency,
    "strategies": strategies.main,
    "limits": limits.main,
    "memory": memory.main,
    "reuse": reuse.main,
    "incremental": incremental.main,
    "batches": batches.main,
    "service": service.main,
}


def main() -> None:
    names = sys.argv[1:] or list(ALL)
    unknown = [name for name in names if name not in ALL]
    if unknown:
        sys.exit(f"error: no benchmark `{unknown[0]}`; there are {', '.join(ALL)}")
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.machine()}\n")
    for name in names:
        print(f"== {name}")
        ALL[name]()
        print()


main()
