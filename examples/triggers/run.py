"""Runs the example on real servers of this machine: kills the poller on the way, sends everything twice, and counts.

python examples/triggers/run.py [--carts 400] [--seed 1]. Exits with 1 if anything is missing, or counted twice.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from receiver import Receiver
from rich.console import Console
from rich.table import Table
from shop import Shop

from docdb_stream.local import LocalServers

HERE = Path(__file__).parent
PATIENCE_S = 120.0


def main() -> int:
    """Start the servers, run it all, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--carts", type=int, default=400, help="how many visitors the shop has")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same visitors")
    arguments = parser.parse_args()
    key = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    with LocalServers(kafka=False, opensearch=False) as servers, Receiver(key) as receiver:
        kinesis = servers.aws.client("kinesis")
        kinesis.create_stream(StreamName="clicks", ShardCount=2)
        kinesis.get_waiter("stream_exists").wait(StreamName="clicks", WaiterConfig={"Delay": 1})
        environment = {
            **os.environ,
            **servers.aws.environment(),
            "DOCUMENTDB_URI": servers.mongo.uri,
            "WEBHOOK_URL": receiver.url,
            "WEBHOOK_KEYS": key,
        }
        with servers.mongo.client() as client:
            return Show(client, kinesis, receiver, environment).play(arguments.carts, arguments.seed)


class Show:
    """The example, from the first cart to the last count."""

    def __init__(self, client: Any, kinesis: Any, receiver: Receiver, environment: dict[str, str]) -> None:
        self._client = client
        self._kinesis = kinesis
        self._receiver = receiver
        self._environment = environment
        self._console = Console()
        self._checks: list[tuple[str, Any, Any]] = []

    def play(self, carts: int, seed: int) -> int:
        """Returns the exit code."""
        shop = Shop(self._client.shop.carts, random.Random(seed))
        self._docdb_stream("run")  # the stream begins now
        began = self._client.admin.command("ping")["operationTime"].as_datetime()
        self._say(f"{carts} visitors, and a poller that is killed on the way")
        poller = self._start()
        for cart in range(carts // 2):
            shop.visit(cart)
        self._until(lambda: len(self._receiver.carts) >= len(shop.left) // 4, "calls arrive")
        poller.kill()
        poller.wait()
        for cart in range(carts // 2, carts):
            shop.visit(cart)
        self._docdb_stream("run")
        self._compare("after the crash", shop)
        ids = set(self._receiver.calls)

        self._say("everything once more")
        self._docdb_stream("reset", "carts", "--to", began.isoformat())
        self._docdb_stream("run")
        self._compare("sent twice", shop)
        self._check("the second time, the same webhook-ids", len(ids), len(ids | set(self._receiver.calls)))
        twice = sum(count > 1 for count in self._receiver.calls.values())
        self._check("calls that came at least twice", len(shop.left), twice)
        return self._verdict()

    def _compare(self, when: str, shop: Shop) -> None:
        """What arrived beside the shop's own books."""
        found = {each["_id"]: each for each in self._client.shop.visitors.find()}
        self._check(
            f"{when}: visitors' counts", shop.abandoned, {name: each["abandoned"] for name, each in found.items()}
        )
        self._check(f"{when}: visitors' values", shop.value, {name: each["value"] for name, each in found.items()})
        called = {cart["_id"]: cart for cart in self._receiver.carts.values()}
        self._check(f"{when}: carts that the webhook was told of", shop.left, called)
        self._check(f"{when}: calls with a wrong signature", 0, self._receiver.refused)
        streamed, keys = self._streamed()
        self._check(f"{when}: carts in Kinesis", shop.left, streamed)
        self._check(f"{when}: their partition keys", {cart: shop.left[cart]["visitor"] for cart in shop.left}, keys)

    def _streamed(self) -> tuple[dict[int, Any], dict[int, str]]:
        """The carts in Kinesis, and their partition keys, by cart."""
        carts, keys = {}, {}
        for shard in self._kinesis.list_shards(StreamName="clicks")["Shards"]:
            iterator = self._kinesis.get_shard_iterator(
                StreamName="clicks", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            while records := (answer := self._kinesis.get_records(ShardIterator=iterator))["Records"]:
                for record in records:
                    cart = json.loads(record["Data"])
                    carts[cart["_id"]], keys[cart["_id"]] = cart, record["PartitionKey"]
                iterator = answer["NextShardIterator"]
        return carts, keys

    def _docdb_stream(self, *arguments: str) -> None:
        subprocess.run(
            self._command(*arguments), cwd=HERE, env=self._environment, check=True, stdout=subprocess.DEVNULL
        )

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command("run", "--follow"), cwd=HERE, env=self._environment, stdout=subprocess.DEVNULL
        )

    @staticmethod
    def _command(*arguments: str) -> list[str]:
        return [sys.executable, "-m", "docdb_stream", *arguments, "--config", "config.ini"]

    @staticmethod
    def _until(condition: Callable[[], bool], what: str) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > until_s:
                raise TimeoutError(f"waited {PATIENCE_S:.0f} s in vain until {what}")
            time.sleep(0.05)

    def _say(self, text: str) -> None:
        self._console.print(text, style="bold", highlight=False)

    def _check(self, what: str, expected: Any, found: Any) -> None:
        self._checks.append((what, expected, found))

    def _verdict(self) -> int:
        table = Table("what", "expected", "found", "")
        for what, expected, found in self._checks:
            mark = "[green]✓[/]" if expected == found else "[red]✗[/]"
            table.add_row(what, _short(expected), _short(found), mark)
        self._console.print(table)
        return 0 if all(expected == found for _, expected, found in self._checks) else 1


def _short(value: Any) -> str:
    return str(len(value)) if hasattr(value, "__len__") else str(value)


if __name__ == "__main__":
    sys.exit(main())
