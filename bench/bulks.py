"""Bulk requests side by side and one after the other, to a domain that takes its time.

The domain is one in name: a process of its own that reads each request, waits, and says that all went well. So what is
compared is what waiting costs. ``python -m bench.bulks MILLISECONDS`` serves one and prints its port.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench.figure import Figure
from bench.plan import Plan
from bench.rounds import interleaved
from bench.source import Source

EVENTS = 100_000
LATENCIES_MS = (100, 20, 0)
_ANSWER = b'{"errors":false}'
_RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(_ANSWER),
    _ANSWER,
)


def measure(plan: Plan) -> list[Figure]:
    """One figure for each latency: with the default number of lanes, beside a single one."""
    figures = []
    with Source(plan.pick(EVENTS, EVENTS // 10)) as source:
        for latency_ms in LATENCIES_MS:
            with _domain(latency_ms) as uri:
                contenders = {
                    "side by side": lambda uri=uri: source.deliver(elasticsearch_uri=uri)[0],
                    "one after the other": lambda uri=uri: source.deliver(elasticsearch_uri=uri, opensearch_lanes=1)[0],
                }
                what = f"OpenSearch, {latency_ms} ms for each bulk request"
                found = interleaved(contenders, plan, what)
            wanted = ">= 2" if latency_ms == max(LATENCIES_MS) else ">= 0.95"
            figures.append(found.figure(what, *contenders, wanted=wanted, details=found.medians))
    return figures


@contextmanager
def _domain(latency_ms: int) -> Iterator[str]:
    command = [sys.executable, "-m", "bench.bulks", str(latency_ms)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()


async def _serve(latency_s: float) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readuntil(b"\r\n\r\n")).lower():
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length or 0))
            await asyncio.sleep(latency_s)
            writer.write(_RESPONSE)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Until whoever started it is gone.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1]) / 1000))
