"""A function of orders.ini behind a mapping on the stream of orders: what Lambda does, on this machine.

python fanout.py NAME --state FILE [--times 2]. Reads the stream from where FILE says, and hands every batch to
``docdb_stream.handlers.dynamodb.handler``, with the environment that the deployed function would have: as often as
--times says, since a stream record may come more than once, and again from the first that failed. On AWS none of this
is needed: ``[deploy] dynamodb_stream_arn`` makes the mapping.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from docdb_stream.errors import ConfigError
from docdb_stream.handlers import dynamodb
from infra.plan import plans
from infra.settings import read_deployment

BATCH = 100
PAUSE_S = 0.2
AFTER_A_FAILURE_S = 1.0


class Context:
    """What Lambda tells a function of its invocation."""

    function_name = "shopstream"

    def __init__(self, limit_s: float = 60.0) -> None:
        self._end_s = time.monotonic() + limit_s

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._end_s - time.monotonic()) * 1000))


class Place:
    """How far each shard has been read, in a file that is whole at any time, with what a page may show of it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.known: dict[str, Any] = (
            json.loads(file.read_text()) if file.exists() else {"shards": {}, "records": 0, "deliveries": 0}
        )

    def save(self, shard: str, records: list[dict[str, Any]], deliveries: int) -> None:
        last = records[-1]["dynamodb"]
        self.known["shards"][shard] = last["SequenceNumber"]
        self.known["records"] += len(records)
        self.known["deliveries"] += deliveries
        self.known["at"] = last["ApproximateCreationDateTime"]
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(self.known))
        partial.replace(self._file)


class Mapping:
    """Args: stream: Its ARN. times: How often each batch is delivered."""

    def __init__(self, stream: str, place: Place, times: int) -> None:
        self._streams = boto3.client("dynamodbstreams")
        self._stream, self._place, self._times = stream, place, times

    def work(self) -> None:
        """Deliver what there is, for ever."""
        while True:
            try:
                found = [self._read(shard) for shard in self._shards()]
            except (BotoCoreError, ClientError):
                time.sleep(AFTER_A_FAILURE_S)  # the table is away
                continue
            if not any(found):
                time.sleep(PAUSE_S)

    def _shards(self) -> Iterator[str]:
        found = self._streams.describe_stream(StreamArn=self._stream)["StreamDescription"]["Shards"]
        return (shard["ShardId"] for shard in found)

    def _read(self, shard: str) -> int:
        """Deliver the next batch of a shard. Returns how many records it had."""
        after = self._place.known["shards"].get(shard)
        since = {"SequenceNumber": after} if after else {}
        kind = "AFTER_SEQUENCE_NUMBER" if after else "TRIM_HORIZON"
        iterator = self._streams.get_shard_iterator(
            StreamArn=self._stream, ShardId=shard, ShardIteratorType=kind, **since
        )["ShardIterator"]
        found = self._streams.get_records(ShardIterator=iterator, Limit=BATCH)["Records"]
        records = [_as_lambda_has_it(record, self._stream) for record in found]
        if records:
            deliveries = sum(self._deliver(records) for _ in range(self._times))
            self._place.save(shard, records, deliveries)
        return len(records)

    def _deliver(self, records: list[dict[str, Any]]) -> int:
        """Invoke the function until all of them are settled, as the mapping does. Returns how many were."""
        left = records
        while left:
            try:
                failed = dynamodb.handler({"Records": left}, Context())["batchItemFailures"]
            except Exception:  # noqa: BLE001 - nothing of it was settled: whatever the reason, it comes again
                time.sleep(AFTER_A_FAILURE_S)
                continue
            first = failed[0]["itemIdentifier"] if failed else None
            numbers = [record["dynamodb"]["SequenceNumber"] for record in left]
            left = left[numbers.index(first) :] if first else []
        return len(records)


def _as_lambda_has_it(record: dict[str, Any], stream: str) -> dict[str, Any]:
    change = record["dynamodb"]
    change["ApproximateCreationDateTime"] = change["ApproximateCreationDateTime"].timestamp()
    return {**record, "eventSource": "aws:dynamodb", "eventSourceARN": stream, "dynamodb": _as_json(change)}


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {name: _as_json(each) for name, each in value.items()}
    return [*map(_as_json, value)] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="a stream of orders.ini")
    parser.add_argument("--state", type=Path, required=True, help="where to keep how far it has read")
    parser.add_argument("--times", type=int, default=1, help="how often every record is delivered")
    arguments = parser.parse_args()
    try:
        deployment = read_deployment(str(Path(__file__).with_name("orders.ini")))
    except ConfigError as error:
        sys.exit("\n".join([f"error: {error}", *error.problems, f"hint: {error.hint}"]))
    [plan] = [each for each in plans(deployment) if each.stream == arguments.name]
    os.environ.update(plan.environment())
    Mapping(str(plan.function.dynamodb_stream_arn), Place(arguments.state), arguments.times).work()


if __name__ == "__main__":
    main()
