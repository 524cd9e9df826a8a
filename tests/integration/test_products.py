"""The demonstration that many a reader comes from: five products go through Firehose into a bucket, whole or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from contract.aws import new_name
from pymongo import MongoClient

from docdb_stream.local import AwsServer, ReplicaSet

pytestmark = pytest.mark.integration

PRODUCTS = [
    {"name": "Handbag", "sku": "3451290", "description": "Fashion Hand bags for all ages", "inventory": 75},
    {"name": "Round hat", "sku": "8976045", "inventory": 200},
    {"name": "Polo shirt", "sku": "6497023", "description": "Cool shirts for hot summer", "inventory": 25},
    {"name": "Swim shorts", "sku": "8245352", "description": "Designer swim shorts for athletes", "inventory": 200},
    {"name": "Running shoes", "sku": "3243662", "description": "Shoes for work out and trekking", "inventory": 20},
]


@pytest.fixture
def environment(aws: AwsServer, replica_set: ReplicaSet, db_name: str) -> dict[str, str]:
    return {
        **aws.environment(),
        "DOCUMENTDB_URI": replica_set.uri,
        "WATCHED_DB_NAME": db_name,
        "WATCHED_COLLECTION_NAME": "products",
        "STATE_DB": f"{db_name}_state",
        "FIREHOSE_STREAM": new_name("docdb-backup-ds"),
    }


@pytest.fixture
def delivered(aws: AwsServer, environment: dict[str, str]) -> Callable[[], Any]:
    """Reads what Firehose has put into its bucket."""
    name, bucket = environment["FIREHOSE_STREAM"], new_name("backups")
    s3, firehose = aws.client("s3"), aws.client("firehose")
    s3.create_bucket(Bucket=bucket)
    destination = {"RoleARN": "arn:aws:iam::000000000000:role/firehose", "BucketARN": f"arn:aws:s3:::{bucket}"}
    firehose.create_delivery_stream(DeliveryStreamName=name, ExtendedS3DestinationConfiguration=destination)

    def read() -> list[dict[str, Any]]:
        keys = [found["Key"] for found in s3.list_objects_v2(Bucket=bucket).get("Contents", ())]
        lines = [line for key in keys for line in s3.get_object(Bucket=bucket, Key=key)["Body"].read().splitlines()]
        return sorted(map(json.loads, lines), key=lambda event: event["_id"]["_data"])

    return read


@pytest.mark.parametrize("full_document", ["update_lookup", "default"])
def test_five_products_are_five_events(
    mongo: MongoClient[dict[str, Any]],
    db_name: str,
    cli: Any,
    environment: dict[str, str],
    delivered: Callable[[], list[dict[str, Any]]],
    full_document: str,
) -> None:
    def run() -> None:
        done = cli.run("run", FULL_DOCUMENT=full_document, **environment)
        assert done.returncode == 0, done.stderr

    run()
    products = mongo[db_name].products
    products.insert_many([dict(product) for product in PRODUCTS])
    run()
    events = delivered()
    assert [event["operationType"] for event in events] == ["insert"] * 5
    assert [{**event["fullDocument"], "_id": None} for event in events] == [{**each, "_id": None} for each in PRODUCTS]
    assert [event["fullDocument"]["_id"] for event in events] == [event["documentKey"]["_id"] for event in events]

    products.update_one({"sku": "8976045"}, {"$inc": {"inventory": -1}})
    products.delete_one({"sku": "6497023"})
    run()
    update, delete = delivered()[5:]
    assert update["updateDescription"]["updatedFields"] == {"inventory": 199}
    hat = {**PRODUCTS[1], "inventory": 199, "_id": update["documentKey"]["_id"]}
    assert update.get("fullDocument") == (hat if full_document == "update_lookup" else None)
    assert delete["operationType"] == "delete"
    assert delete["documentKey"] == events[2]["documentKey"]
