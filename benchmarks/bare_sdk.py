"""What the runner is measured against: N calls of `AsyncOpenAI` from C workers, and nothing else.

`python -m benchmarks.bare_sdk BASE_URL N C` prints rows per second and processor seconds per 1,000 rows.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import httpx2
from openai import AsyncOpenAI


async def main(base_url: str, rows: int, concurrency: int) -> None:
    limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with AsyncOpenAI(
        base_url=base_url, api_key="none", max_retries=0, http_client=httpx2.AsyncClient(limits=limits)
    ) as client:
        numbers = iter(range(rows))

        async def worker() -> None:
            for number in numbers:
                await client.responses.create(model="gpt-6-luna", input=f"Sort this message: message {number}")

        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*[worker() for _ in range(concurrency)])
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    print(json.dumps({"rows_per_s": rows / wall_s, "cpu_s_per_1000": cpu_s / rows * 1000}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
