from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from bson import Timestamp
from contract.aws import throttled
from contract.s3_bucket import Bucket

from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.settings import Settings
from docdb_stream.target import Buffering, Checkable, Target
from docdb_stream.targets._aws import objects
from docdb_stream.targets.s3 import S3Target, object_key
from docdb_stream.testing.contract import Delivered, Faults, TargetContract
from docdb_stream.testing.events import ChangeLog

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]


class TestS3Target(TargetContract):
    @pytest.fixture(autouse=True)
    def place(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def make_target(self) -> Target:
        return S3Target(self.bucket.name)

    def read_back(self) -> list[Delivered]:
        return [Delivered(orjson.loads(line)["_id"]["_data"], None, line) for line in self.bucket.lines()]

    @contextmanager
    def faults(self, target: Target, faults: Faults) -> Iterator[None]:
        assert isinstance(target, S3Target)
        if faults.refuse or faults.reject:
            pytest.skip("S3 takes an object or does not: there is no partial failure")
        with failing_puts(target, lambda request: faults.answer([request["Key"]]) is None):
            yield

    def test_04_flushes_between_which_nothing_is_saved_are_objects_of_their_own(self, log: ChangeLog) -> None:
        target = self.make_target()
        for start in (0, 5):
            self._deliver(target, log.inserts(5, first_id=start))
        assert len(self.bucket.objects()) == 2
        target.close()


@contextmanager
def failing_puts(target: S3Target, fails: Callable[[dict[str, Any]], bool]) -> Iterator[None]:
    original = target._client.put_object

    def put_object(**request: Any) -> Any:
        if fails(request):
            raise throttled("PutObject")
        return original(**request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target._client, "put_object", put_object)
        yield


def deliver(target: Target, events: Sequence[ChangeEvent], *, batch: int = 10) -> None:
    for start in range(0, len(events), batch):
        target.write(events[start : start + batch])
    target.flush()


def test_one_object_per_namespace_and_day_and_flush(bucket: Bucket) -> None:
    midnight = Timestamp(1769903998, 5)
    orders, customers = ChangeLog("shop", "orders", start=midnight), ChangeLog("shop", "customers", start=midnight)
    events = [event for pair in zip(orders.inserts(20), customers.inserts(20), strict=True) for event in pair]
    target = S3Target(bucket.name, path="/raw/events/")
    deliver(target, events)
    assert [key.rpartition("/")[0] for key in bucket.objects()] == [
        "raw/events/shop/customers/2026/01/31",
        "raw/events/shop/customers/2026/02/01",
        "raw/events/shop/orders/2026/01/31",
        "raw/events/shop/orders/2026/02/01",
    ]
    assert f"raw/events/{object_key(events[0])}" in bucket.objects()
    assert sorted(bucket.event_ids()) == sorted(event.event_id for event in events)
    target.close()


def test_keys_of_odd_namespaces() -> None:
    key = object_key(ChangeLog("a b", "c/d.ä%").insert({"_id": 1}))
    assert key.startswith("a%20b/c%2Fd.%C3%A4%25/2026/01/31/1769860800-0000000001-")
    assert key.endswith(".jsonl.gz")
    assert object_key(ChangeLog().drop_database()).startswith("shop/2026/01/31/")
    assert object_key(ChangeLog().invalidate()).startswith("_/2026/01/31/")


@pytest.mark.parametrize("replayed", [30, 60, 100])
def test_a_replay_overwrites_whatever_its_batches_are(bucket: Bucket, replayed: int) -> None:
    events = ChangeLog().inserts(100)
    crashed = S3Target(bucket.name)
    deliver(crashed, events[:60])  # uploaded, and then no checkpoint was saved
    crashed.close()
    target = S3Target(bucket.name)
    deliver(target, events[:replayed], batch=7)
    deliver(target, events[replayed:], batch=13)
    assert bucket.event_ids() == [event.event_id for event in events]
    target.close()


def test_equal_events_are_equal_bytes(bucket: Bucket) -> None:
    events = ChangeLog().inserts(3000, size_bytes=500)
    bodies = []
    for batch in (3000, 17):
        target = S3Target(bucket.name)
        deliver(target, events, batch=batch)
        target.close()
        bodies.append(bucket.objects())
    assert bodies[0] == bodies[1]
    [body] = bodies[0].values()
    assert len(gzip.decompress(body)) > 2 * 3000 * 250


def test_a_flush_that_failed_in_part_can_be_called_again(bucket: Bucket) -> None:
    orders, customers = ChangeLog("shop", "orders"), ChangeLog("shop", "customers")
    target = S3Target(bucket.name)
    target.write(orders.inserts(10) + customers.inserts(10))
    failing = failing_puts(target, lambda request: "orders" in request["Key"])
    with failing, deadline(Deadline.after(None, patience_s=0)), pytest.raises(TargetError, match="ThrottlingException"):
        target.flush()
    assert len(bucket.objects()) == 1
    # What was uploaded grows as well: it stays one object, under the name of its first event.
    target.write(orders.inserts(10, first_id=10) + customers.inserts(10, first_id=10))
    target.flush()
    assert len(bucket.objects()) == 2
    assert len(bucket.lines()) == 40
    target.flush()
    assert len(bucket.lines()) == 40
    target.close()


def test_much_is_compressed_as_it_comes_and_spilled(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_IN_MEMORY_BYTES", 1000)
    target = S3Target(bucket.name, object_bytes=1_000_000)
    assert isinstance(target, Buffering)
    log = ChangeLog()
    events = log.inserts(400, size_bytes=2000)
    target.write(events[:200])
    assert not target.wants_flush
    target.write(events[200:])
    assert not target.wants_flush
    more = log.inserts(100, first_id=400, size_bytes=2000)
    target.write(more)
    assert target.wants_flush
    target.flush()
    assert not target.wants_flush
    assert bucket.event_ids() == [event.event_id for event in events + more]
    target.close()


def test_what_was_not_flushed_is_gone_after_close(bucket: Bucket) -> None:
    target = S3Target(bucket.name)
    target.write(ChangeLog().inserts(3))
    target.close()
    assert bucket.objects() == {}


def test_objects_say_what_they_are(bucket: Bucket) -> None:
    target = S3Target(bucket.name)
    deliver(target, ChangeLog().inserts(3))
    [key] = bucket.objects()
    head = bucket.client.head_object(Bucket=bucket.name, Key=key)
    assert head["ContentType"] == "application/gzip"
    assert not head.get("ContentEncoding")
    target.close()


def test_from_settings() -> None:
    target = S3Target.from_settings(Settings(documentdb_uri="mongodb://x", bucket_name="b", bucket_path="p"))
    assert isinstance(target, S3Target)
    assert isinstance(target, Checkable)


def test_prefixes_by_template(bucket: Bucket) -> None:
    """Two collections under one prefix are one object; what is not allowed goes to the dead letters."""
    orders, customers = ChangeLog("shop", "orders"), ChangeLog("shop", "customers")
    eu, us = {"_id": 1, "region": "../eu"}, {"_id": 2, "region": "us"}
    target = S3Target(
        bucket.name, path="raw", prefix="region={document.region}/all", prefix_allow=["region=us/*", "region=..%2Feu/*"]
    )
    events = [orders.insert(eu), customers.insert(us), orders.insert(us), customers.insert(eu)]
    refused = orders.insert({"_id": 3, "region": "ru"})
    assert [rejection.event for rejection in target.write([*events, refused])] == [refused]
    target.flush()
    target.close()
    assert [key.rpartition("/")[0] for key in bucket.objects()] == [
        "raw/region=..%2Feu/all/2026/01/31",
        "raw/region=us/all/2026/01/31",
    ]
    assert sorted(bucket.event_ids()) == sorted(event.event_id for event in events)


def test_a_snapshots_documents_do_not_spoil_the_order_of_the_keys(bucket: Bucket) -> None:
    """They have the time at which it began: an object that begins with one would come before changes of before."""
    log = ChangeLog()
    page, changes = log.snapshot(*({"_id": number} for number in range(20))), log.inserts(20, first_id=100)
    target = S3Target(bucket.name)
    for start in range(0, 20, 10):
        deliver(target, [*changes[start : start + 5], *page[start : start + 10], *changes[start + 5 : start + 10]])
        deliver(target, changes[:0])
    ids = bucket.event_ids()
    assert ids[20:] == [event.event_id for event in changes]
    assert {*ids[:20]} == {event.event_id for event in page}
    target.close()


@pytest.mark.parametrize("replayed", [10, 30, 40])
def test_a_replay_overwrites_a_snapshots_objects_too(bucket: Bucket, replayed: int) -> None:
    """As long as it begins with the same document of the collection, whatever became of those after it."""
    log = ChangeLog()
    page, changes = log.snapshot(*({"_id": number} for number in range(30))), log.inserts(20, first_id=100)
    crashed = S3Target(bucket.name)
    deliver(crashed, [*page[:15], *changes[:5]])
    crashed.close()
    again = [*changes[:5], *page[:3], *page[5:], *changes[5:]]
    target = S3Target(bucket.name)
    deliver(target, again[:replayed], batch=7)
    deliver(target, again[replayed:], batch=13)
    assert sorted(bucket.event_ids()) == sorted(event.event_id for event in again)
    target.close()


def test_a_replay_that_begins_with_another_document_leaves_some_twice(bucket: Bucket) -> None:
    """As docs/targets.md says: none is missing, and the copies have the same id."""
    log = ChangeLog()
    page = log.snapshot(*({"_id": number} for number in range(30)))
    crashed, target = S3Target(bucket.name), S3Target(bucket.name)
    deliver(crashed, page[:15])
    deliver(target, [log.delete(0), *page[1:]])
    assert {*bucket.event_ids()} >= {event.event_id for event in page[1:]}
    crashed.close()
    target.close()
