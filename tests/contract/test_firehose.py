from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import orjson
import pytest
from botocore.stub import Stubber
from contract.aws import Request, faults_between, new_name

from docdb_stream.errors import TargetError
from docdb_stream.local import AwsServer
from docdb_stream.settings import Settings
from docdb_stream.target import Checkable, Target
from docdb_stream.targets.firehose import FirehoseTarget
from docdb_stream.testing.contract import Delivered, Faults, TargetContract, Verdict
from docdb_stream.testing.events import ChangeLog

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]


class Stream:
    """A stream of the local server, which delivers to a bucket at once, each record as an object."""

    def __init__(self, aws: AwsServer) -> None:
        self.name = new_name("stream")
        self._bucket = new_name("bucket")
        self._s3, self._firehose = aws.client("s3"), aws.client("firehose")
        self._s3.create_bucket(Bucket=self._bucket)
        self._firehose.create_delivery_stream(
            DeliveryStreamName=self.name,
            ExtendedS3DestinationConfiguration={
                "RoleARN": "arn:aws:iam::000000000000:role/firehose",
                "BucketARN": f"arn:aws:s3:::{self._bucket}",
            },
        )

    def lines(self) -> list[bytes]:
        """All lines of all objects."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        text = b"".join(self._s3.get_object(Bucket=self._bucket, Key=key)["Body"].read() for key in keys)
        assert text.endswith(b"\n") or not text
        return text.split(b"\n")[:-1]

    def close(self) -> None:
        self._s3.close()
        self._firehose.close()


@pytest.fixture
def stream(aws: AwsServer) -> Iterator[Stream]:
    made = Stream(aws)
    yield made
    made.close()


def merged(request: Request, verdicts: list[Verdict], answer: Request | None) -> Request:
    # Firehose has no refusal for ever: what the contract calls "reject" cannot happen.
    taken = iter(answer["RequestResponses"] if answer else [])
    refused = {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}
    return {
        "FailedPutCount": sum(verdict != "take" for verdict in verdicts),
        "RequestResponses": [next(taken) if verdict == "take" else refused for verdict in verdicts],
    }


class TestFirehoseTarget(TargetContract):
    ordered = False
    oversized_bytes = 1000 * 1024
    many_count = 603  # the local server makes an object of each record

    @pytest.fixture(autouse=True)
    def place(self, stream: Stream) -> None:
        self.stream = stream

    def make_target(self) -> Target:
        return FirehoseTarget(self.stream.name)

    def read_back(self) -> list[Delivered]:
        return [Delivered(orjson.loads(line)["_id"]["_data"], None, line) for line in self.stream.lines()]

    def faults(self, target: Target, faults: Faults) -> AbstractContextManager[None]:
        assert isinstance(target, FirehoseTarget)
        if faults.reject:
            pytest.skip("Firehose refuses no single record for ever: PutRecordBatch has retriable codes only")
        return faults_between(
            target._client,
            "put_record_batch",
            "Records",
            lambda entry: orjson.loads(entry["Data"])["_id"]["_data"],
            merged,
            faults,
        )

    def test_events_of_one_document_share_a_request(self, target: Target, log: ChangeLog) -> None:
        faults = Faults()
        with self.faults(target, faults):
            target.write([log.update({"_id": 1, "version": number}) for number in range(60)])
        assert [len(request) for request in faults.requests] == [60]


def test_the_newline_counts(stream: Stream) -> None:
    target = FirehoseTarget(stream.name)
    spare_bytes = 1000 * 1024 - len(ChangeLog().inserts(1)[0].render("extended")) - 1
    [fits], [too_large] = (ChangeLog().inserts(1, size_bytes=spare_bytes + more) for more in (0, 1))
    [rejection] = target.write([fits, too_large])
    assert rejection.event is too_large
    assert stream.lines() == [fits.render("extended")]
    target.close()


def test_a_stream_by_its_arn(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    target = FirehoseTarget(f"arn:aws:firehose:us-east-1:000000000000:deliverystream/{stream.name}")
    target.check()
    assert list(target.write(ChangeLog().inserts(1))) == []
    assert len(stream.lines()) == 1
    target.close()


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [("CREATING", "DirectPut", "ResourceNotFoundException"), ("ACTIVE", "KinesisStreamAsSource", "its own source")],
)
def test_a_stream_that_takes_no_records(status: str, kind: str, said: str) -> None:
    target = FirehoseTarget("orders")
    with Stubber(target._client) as stub:
        description = {"DeliveryStreamStatus": status, "DeliveryStreamType": kind}
        unread = {"DeliveryStreamName": "orders", "DeliveryStreamARN": "arn", "VersionId": "1", "Destinations": []}
        answer = {"DeliveryStreamDescription": {**description, **unread, "HasMoreDestinations": False}}
        stub.add_response("describe_delivery_stream", answer)
        with pytest.raises(TargetError, match=said) as caught:
            target.check()
    assert "FIREHOSE_STREAM" in caught.value.hint
    target.close()


def test_from_settings() -> None:
    target = FirehoseTarget.from_settings(Settings(documentdb_uri="mongodb://x", firehose_stream="orders"))
    assert isinstance(target, FirehoseTarget)
    assert isinstance(target, Checkable)
