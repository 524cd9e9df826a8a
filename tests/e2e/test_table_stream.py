"""A DynamoDB table's stream, for real on a local cloud: an event source mapping starts the functions of ShopStream."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.deployment import deploy, eventually, here

from docdb_stream.local import AwsServer, ReplicaSet

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(600)]

RULES = Path(__file__).parents[2] / "examples" / "shopstream" / "rules.py"

CONFIG = """
[docdb-stream]
operations = insert
start_at = earliest
dead_letters = {letters}

[deploy]
enabled = true
dynamodb_stream_arn = {stream}
packages = {rules}
timeout_seconds = 60
python = {python}
architecture = {architecture}

[stream history]
transform = rules:history
documentdb_uri = {uri}
mongodb_target_uri = {uri}
mongodb_target_mirror = false

[stream fulfilment]
transform = rules:order
sqs_query_url = {queue}
sqs_payload_format = full_document
sqs_deduplication_id = {{document.orderId}}
"""


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsServer]:
    """An account for this module alone."""
    with AwsServer() as started:
        yield started


@pytest.fixture
def cluster() -> Iterator[ReplicaSet]:
    """One that can be killed."""
    with ReplicaSet() as started:
        yield started


class Table:
    """The table of orders."""

    def __init__(self, aws: AwsServer) -> None:
        self._dynamodb = aws.client("dynamodb")
        keys = ("userId", "SK")
        self._dynamodb.create_table(
            TableName="Orders",
            KeySchema=[
                {"AttributeName": name, "KeyType": kind} for name, kind in zip(keys, ("HASH", "RANGE"), strict=True)
            ],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in keys],
            BillingMode="PAY_PER_REQUEST",
            StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        )
        self.stream = str(self._dynamodb.describe_table(TableName="Orders")["Table"]["LatestStreamArn"])

    def put(self, number: int, user: str = "Ann", **other: Any) -> None:
        item = {"productId": {"S": "p"}, "amountCents": {"N": str(number)}, "status": {"S": "PENDING"}, **other}
        key = {"userId": {"S": user}, "SK": {"S": f"ORDER#{number}"}}
        self._dynamodb.put_item(TableName="Orders", Item={**key, **item})

    def pay(self, number: int, user: str = "Ann") -> None:
        self.put(number, user, status={"S": "PAID"})


class Messages:
    """What the queue has told, and how often."""

    def __init__(self, aws: AwsServer, name: str, **attributes: str) -> None:
        self._sqs = aws.client("sqs")
        self.url = str(self._sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])
        self.bodies: list[str] = []

    def taken(self) -> list[str]:
        found = self._sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages", [])
        for each in found:
            self._sqs.delete_message(QueueUrl=self.url, ReceiptHandle=each["ReceiptHandle"])
        self.bodies += [each["Body"] for each in found]
        return self.bodies

    def orders(self) -> Counter[str]:
        return Counter(json.loads(body)["orderId"] for body in self.taken())


def test_orders_reach_both_functions_each_once_though_one_is_down(
    aws: AwsServer, cluster: ReplicaSet, tmp_path: Path
) -> None:
    table, told, letters = Table(aws), Messages(aws, "fulfilment.fifo", FifoQueue="true"), Messages(aws, "letters")
    with cluster.client(w="majority") as client:
        users: Any = client.shopstream.users
        users.insert_many([{"_id": "Ann"}, {"_id": "Ben", "orderHistory": "none, and no list"}])
        table.put(0)
        text = CONFIG.format(
            stream=table.stream, rules=RULES, uri=cluster.uri, queue=told.url, letters=letters.url, **here()
        )
        deploy(aws, text, tmp_path)

        def history() -> list[str]:
            return sorted(users.find_one({"_id": "Ann"}).get("orderHistory", []), key=int)

        for number in range(1, 30):
            table.put(number)
            table.pay(number)
        wanted = [str(number) for number in range(30)]
        eventually(lambda: history() == wanted, "history has all orders", timeout_s=120)
        eventually(lambda: len(told.orders()) == 30, "fulfilment is told of all orders", timeout_s=120)

        cluster.members[0].kill()
        for number in range(30, 50):
            table.put(number)
        eventually(lambda: len(told.orders()) == 50, "fulfilment goes on while MongoDB is down", timeout_s=120)

        cluster.members[0].restart()
        cluster.primary()
        wanted += [str(number) for number in range(30, 50)]
        eventually(lambda: history() == wanted, "history catches up", timeout_s=240)

        # What can be added to nothing goes to the dead letters, and holds up nobody.
        table.put(50, user="Ben")
        table.put(51)
        eventually(lambda: history() == [*wanted, "51"], "history goes on", timeout_s=120)
        eventually(lambda: letters.taken(), "there is a dead letter", timeout_s=120)
        assert len(letters.bodies) == 1
        assert '"history"' in letters.bodies[0]
        eventually(lambda: len(told.orders()) == 52, "fulfilment is told of all orders", timeout_s=120)
    assert told.orders() == Counter(str(number) for number in range(52))
