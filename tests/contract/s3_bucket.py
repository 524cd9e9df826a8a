"""A bucket, and what is in it."""

from __future__ import annotations

import gzip

import orjson
from contract.aws import new_name

from docdb_stream.local import AwsServer


class Bucket:
    """A bucket of the local server."""

    def __init__(self, aws: AwsServer) -> None:
        self.client = aws.client("s3")
        self.name = new_name("bucket")
        self.client.create_bucket(Bucket=self.name)

    def objects(self) -> dict[str, bytes]:
        """Key -> compressed bytes, sorted by key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        keys = sorted(one["Key"] for page in pages for one in page.get("Contents", ()))
        return {key: self.client.get_object(Bucket=self.name, Key=key)["Body"].read() for key in keys}

    def lines(self) -> list[bytes]:
        return [line for body in self.objects().values() for line in gzip.decompress(body).splitlines()]

    def event_ids(self) -> list[str]:
        return [orjson.loads(line)["_id"]["_data"] for line in self.lines()]
