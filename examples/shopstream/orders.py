"""The order service: stock, orders and payments in DynamoDB, changed together or not at all."""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import Iterator
from enum import Enum
from typing import Any

from botocore.exceptions import ClientError

KEYS = {"Inventory": ("productId",), "Orders": ("userId", "SK"), "Payments": ("orderId", "SK")}
ATTEMPTS = 10
EMPTY_PAGES = 5
_BUSY = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})
"""Reasons for which a transaction was cancelled that pass (DynamoDB API reference, TransactWriteItems)."""
_STOCK, _ORDER = 0, 1
"""Which operation of the transaction refuses what."""


class Answer(Enum):
    """What a buyer is told."""

    PLACED = "thank you"
    OUT_OF_STOCK = "sold out"
    DUPLICATE = "this order is placed already"


class BusyError(Exception):
    """Nothing was bought: too many wanted the same at the same time."""


class Orders:
    """Args: dynamodb: A client of the service."""

    def __init__(self, dynamodb: Any) -> None:
        self._dynamodb = dynamodb

    def create(self) -> str:
        """Make the tables. Returns the ARN of the stream of orders, which is all that others need to know of them."""
        for table, keys in KEYS.items():
            self._dynamodb.create_table(
                TableName=table,
                KeySchema=[
                    {"AttributeName": name, "KeyType": kind}
                    for name, kind in zip(keys, ("HASH", "RANGE"), strict=False)
                ],
                AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in keys],
                BillingMode="PAY_PER_REQUEST",
                StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
            )
            self._dynamodb.get_waiter("table_exists").wait(TableName=table)
        return self.stream_arn("Orders")

    def stream_arn(self, table: str) -> str:
        return str(self._dynamodb.describe_table(TableName=table)["Table"]["LatestStreamArn"])

    def stock_up(self, product_id: str, count: int) -> None:
        self._dynamodb.put_item(
            TableName="Inventory", Item={"productId": {"S": product_id}, "stock": {"N": str(count)}}
        )

    def buy(self, order_id: str, user_id: str, product_id: str, amount_cents: int) -> Answer:
        """Take one out of the stock, write the order and the payment that is meant: all of it, or nothing.

        Args:
            order_id: Made by the buyer's page once: who gets no answer asks again with it, and buys once.

        Raises:
            BusyError: It did not go through in ATTEMPTS.
        """
        operations = _operations(order_id, user_id, product_id, amount_cents)
        token = str(uuid.uuid4())  # what is sent again, here or by boto3, because no answer came, is done once
        for attempt in range(ATTEMPTS):
            try:
                self._dynamodb.transact_write_items(TransactItems=operations, ClientRequestToken=token)
            except ClientError as error:
                answer = _answer(error)
                if answer is not None:
                    return answer
                time.sleep(0.02 * 2**attempt)
            else:
                return Answer.PLACED
        raise BusyError(product_id)

    def pay(self, order_id: str, user_id: str) -> None:
        """The payment has come."""
        self._dynamodb.update_item(
            TableName="Orders",
            Key={"userId": {"S": user_id}, "SK": {"S": f"ORDER#{order_id}"}},
            UpdateExpression="SET #status = :paid",
            ConditionExpression="attribute_exists(SK)",
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues={":paid": {"S": "PAID"}},
        )

    def lowest_stock(self, streams: Any) -> int | None:
        """The lowest that a product's stock ever was, as the table's own stream tells it; None where it tells nothing.

        Args:
            streams: A client of DynamoDB Streams.
        """
        arn = self.stream_arn("Inventory")
        lowest = None
        for shard in streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]:
            iterator = streams.get_shard_iterator(
                StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            empty = 0
            while iterator and empty < EMPTY_PAGES:  # there can be some in the midst of a shard
                page = streams.get_records(ShardIterator=iterator)
                found = [int(each["dynamodb"]["NewImage"]["stock"]["N"]) for each in page["Records"]]
                lowest = min([*found, *([] if lowest is None else [lowest])], default=None)
                empty = 0 if found else empty + 1
                iterator = page.get("NextShardIterator")
        return lowest

    def items(self, table: str) -> Iterator[dict[str, Any]]:
        """All items of a table."""
        pages = self._dynamodb.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
        return (item for page in pages for item in page["Items"])


def _operations(order_id: str, user_id: str, product_id: str, amount_cents: int) -> list[dict[str, Any]]:
    order = {
        "userId": {"S": user_id},
        "SK": {"S": f"ORDER#{order_id}"},
        "productId": {"S": product_id},
        "amountCents": {"N": str(amount_cents)},
        "status": {"S": "PENDING"},
        "createdAt": {"S": dt.datetime.now(dt.UTC).isoformat()},
    }
    payment = {
        "orderId": {"S": order_id},
        "SK": {"S": "INTENT"},
        "amountCents": {"N": str(amount_cents)},
        "status": {"S": "INITIATED"},
    }
    return [
        {
            "Update": {
                "TableName": "Inventory",
                "Key": {"productId": {"S": product_id}},
                "UpdateExpression": "SET stock = stock - :one",
                "ConditionExpression": "stock > :zero",
                "ExpressionAttributeValues": {":one": {"N": "1"}, ":zero": {"N": "0"}},
            }
        },
        {"Put": {"TableName": "Orders", "Item": order, "ConditionExpression": "attribute_not_exists(SK)"}},
        {"Put": {"TableName": "Payments", "Item": payment, "ConditionExpression": "attribute_not_exists(SK)"}},
    ]


def _answer(error: ClientError) -> Answer | None:
    """What the reasons of a cancelled transaction mean to the buyer; None: it may go through the next time.

    An order that is there already is told first: it may have taken the last one itself.
    """
    if error.response["Error"]["Code"] == "TransactionInProgressException":
        return None
    if error.response["Error"]["Code"] != "TransactionCanceledException":
        raise error
    reasons = [reason.get("Code") for reason in error.response.get("CancellationReasons", ())]
    if _BUSY.intersection(reasons):
        return None
    refused = [reason == "ConditionalCheckFailed" for reason in reasons]
    if any(refused[_ORDER:]):
        return Answer.DUPLICATE
    if any(refused[: _STOCK + 1]):
        return Answer.OUT_OF_STOCK
    raise error
