"""One suite for the four places of dead letters: a collection, a file, S3, and SQS queues of both kinds."""

from __future__ import annotations

import base64
import itertools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bson import Timestamp
from bson.errors import InvalidDocument
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, DocumentTooLarge, NotPrimaryError

from docdb_stream.admin.redrive import deliver_again
from docdb_stream.dead_letters import DeadLetters, Letter, event_of
from docdb_stream.errors import StateStoreError, UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.letters import dead_letters_for
from docdb_stream.letters.aws import SqsDeadLetters
from docdb_stream.letters.file import FileDeadLetters
from docdb_stream.letters.mongodb import MongoDeadLetters
from docdb_stream.local import AwsServer, ReplicaSet
from docdb_stream.mongodb.connection import Connection
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection
from docdb_stream.testing.events import ChangeLog, change_event

pytestmark = pytest.mark.integration

Mongo = MongoClient[dict[str, Any]]

_numbers = itertools.count(1)
STREAM = "shop.orders"


class DeadLettersContract:
    """What every place promises. ``again`` is another object for the same place, as a new process has it."""

    overwrites = True

    @pytest.fixture
    def settings(self) -> Settings:
        raise NotImplementedError

    @pytest.fixture
    def connection(self) -> Connection | None:
        return None

    @pytest.fixture
    def place(self, settings: Settings, connection: Connection | None) -> DeadLetters:
        return dead_letters_for(settings, connection)

    @pytest.fixture
    def again(self, settings: Settings, connection: Connection | None) -> DeadLetters:
        return dead_letters_for(settings, connection)

    @pytest.fixture
    def log(self) -> ChangeLog:
        return ChangeLog()

    def test_a_new_place_is_empty(self, place: DeadLetters) -> None:
        assert list(place.letters()) == []

    def test_a_letter_says_what_happened_to_which_event(
        self, place: DeadLetters, again: DeadLetters, log: ChangeLog
    ) -> None:
        event = log.insert({"_id": 7, "price": 1})
        place.write(STREAM, [Rejection(event, "kinesis", "1200000 bytes, limit 1048576")])
        [found] = again.letters(STREAM)
        assert found.pop("found_at").startswith("20")
        assert found == {
            "id": f"{STREAM}/kinesis/{event.event_id}",
            "stream": STREAM,
            "target": "kinesis",
            "event_id": event.event_id,
            "reason": "1200000 bytes, limit 1048576",
            "operation": "insert",
            "namespace": "shop.orders",
            "cluster_time": event.cluster_time.as_datetime().isoformat(),
            "document_key": '{"_id":7}',
            "event": event.render("extended").decode(),
        }
        assert json.loads(json.dumps(found)) == found

    def test_every_event_comes_back_as_it_was(self, place: DeadLetters, again: DeadLetters, log: ChangeLog) -> None:
        events = [*log.every_operation(), *log.hostile().values(), *log.snapshot({"_id": 1}, {"_id": "a/b"})]
        place.write(STREAM, [Rejection(event, "list", "no") for event in events])
        found = {letter["event_id"]: letter for letter in again.letters(STREAM)}
        assert len(found) == len(events)
        for event in events:
            back = event_of(found[event.event_id])
            assert back is not None
            assert (back.event_id, back.operation, back.namespace) == (event.event_id, event.operation, event.namespace)
            assert rendered(back) == rendered(event)

    def test_what_cannot_be_rendered_is_kept_as_bson(
        self, place: DeadLetters, again: DeadLetters, log: ChangeLog
    ) -> None:
        event = log.hostile()["invalid_utf8"]
        place.write(STREAM, [Rejection(event, "list", "not valid UTF-8")])
        [found] = again.letters()
        assert "event" not in found
        assert base64.b64decode(found["raw"]) == event.raw

    def test_writing_twice_is_writing_once(self, place: DeadLetters, again: DeadLetters, log: ChangeLog) -> None:
        """After a crash between the dead letters and the checkpoint, the next run writes them again."""
        rejections = [Rejection(event, "list", "no") for event in log.inserts(3)]
        place.write(STREAM, rejections)
        again.write(STREAM, rejections)
        ids = [letter["id"] for letter in place.letters()]
        assert len(set(ids)) == 3
        assert len(ids) == (3 if self.overwrites else 6)

    def test_streams_and_targets_do_not_touch_each_other(
        self, place: DeadLetters, again: DeadLetters, log: ChangeLog
    ) -> None:
        event = log.insert({"_id": 1})
        for stream, target in (("a", "s3"), ("a", "sqs"), ("a.b/c", "s3"), ("*", "s3")):
            place.write(stream, [Rejection(event, target, "no")])
        assert sorted(letter["target"] for letter in again.letters("a")) == ["s3", "sqs"]

    def test_any_stream_name_will_do(self, place: DeadLetters, again: DeadLetters, log: ChangeLog) -> None:
        names = ["*", "a.b/c", "shop.*", "имя", "a b?#%"]
        for name in names:
            place.write(name, [Rejection(log.insert({"_id": name}), "s3", "no")])
        for name in names:
            [found] = again.letters(name)
            assert (found["stream"], json.loads(found["document_key"])) == (name, {"_id": name})
            self.let_others_read(again)

    def test_a_removed_letter_is_gone_and_the_others_stay(
        self, place: DeadLetters, again: DeadLetters, log: ChangeLog
    ) -> None:
        events = log.inserts(3)
        place.write(STREAM, [Rejection(event, "list", "no") for event in events])
        letters = {letter["event_id"]: letter for letter in place.letters()}
        place.remove(letters[events[1].event_id])
        self.let_others_read(place)
        assert sorted(letter["event_id"] for letter in again.letters()) == sorted(
            [events[0].event_id, events[2].event_id]
        )

    def test_what_was_removed_may_be_refused_again(
        self, place: DeadLetters, again: DeadLetters, log: ChangeLog
    ) -> None:
        first, second = log.inserts(2)
        place.write(STREAM, [Rejection(first, "list", "no")])
        [found] = place.letters()
        place.remove(found)
        place.write(STREAM, [Rejection(second, "list", "no")])
        assert [letter["event_id"] for letter in again.letters()] == [second.event_id]

    def test_nothing_to_write_writes_nothing(self, place: DeadLetters, again: DeadLetters) -> None:
        place.write(STREAM, [])
        assert list(again.letters()) == []

    def test_a_large_event_is_kept_whole_or_says_where_to_find_it(
        self, place: DeadLetters, again: DeadLetters, log: ChangeLog
    ) -> None:
        event = log.insert({"_id": "large", "text": "x" * 2_000_000})
        place.write(STREAM, [Rejection(event, "kinesis", "too large")])
        [found] = again.letters()
        back = event_of(found)
        if isinstance(place, SqsDeadLetters):
            assert back is None
            assert "read the document by its document_key" in found["event_omitted"]
            assert (found["namespace"], found["document_key"]) == ("shop.orders", '{"_id":"large"}')
        else:
            assert back is not None
            assert back.render("extended") == event.render("extended")

    def test_redrive_delivers_each_event_once(self, place: DeadLetters, again: DeadLetters, log: ChangeLog) -> None:
        taken, refused, other = log.inserts(3)
        target = Target({refused.event_id})
        rejections = [Rejection(taken, "list", "no"), Rejection(refused, "list", "no"), Rejection(other, "off", "no")]
        place.write(STREAM, rejections)
        place.write(STREAM, rejections)
        result = deliver_again(again, STREAM, [target])
        assert (result.delivered, result.refused, result.without_event, result.other_target) == (1, 1, 0, 1)
        assert [event.event_id for event in target.taken] == [taken.event_id]
        self.let_others_read(again)
        assert {letter["event_id"] for letter in place.letters()} == {refused.event_id, other.event_id}

    @pytest.mark.parametrize("size", [20_000, 60_000, 210_000, 2_300_000])
    def test_an_id_of_any_size_makes_a_letter_that_fits(
        self, place: DeadLetters, again: DeadLetters, size: int
    ) -> None:
        """The token holds the id, in hexadecimal digits."""
        ids = ["k" * size + end for end in ("", "a", "b")]
        events = [event_with_its_id_in_the_token(id_) for id_ in ids]
        for _ in range(2):
            place.write(STREAM, [Rejection(event, "list", "too large") for event in events])
        found = {letter["id"]: letter for letter in again.letters(STREAM)}
        assert len(found) == 3
        for letter in found.values():
            texts = {name: text for name, text in letter.items() if name not in ("event", "raw")}
            assert len(json.dumps(texts)) < 32 * 1024
            assert letter["document_key"].startswith('{"_id":"kkk')
        if not isinstance(place, SqsDeadLetters):
            assert {back.event_id for letter in found.values() if (back := event_of(letter))} == {
                event.event_id for event in events
            }
        elif size > 200_000:
            assert all("see what changed at cluster_time" in letter["event_omitted"] for letter in found.values())
        for letter in found.values():
            again.remove(letter)
        self.let_others_read(again)
        assert list(place.letters()) == []

    def test_any_text_fits(self, place: DeadLetters, again: DeadLetters, log: ChangeLog) -> None:
        """A reason can quote a key, and a name have any characters."""
        coll, target = "\u8868" * 85, "\u00fc" * 100 + "/\x00?"
        stream, text = f"{'d' * 63}.{coll}", "\u8868\x01\ufffe\U0001f600" * 300_000
        event = ChangeLog("d" * 63, coll).insert({"_id": text[:200_000]})
        place.write(stream, [Rejection(event, target, text)])
        [found] = again.letters(stream)
        assert (found["stream"], found["target"], found["namespace"]) == (stream, target, stream)
        assert found["reason"].startswith(text[:100])
        assert len(found["reason"].encode()) <= 1024
        again.remove(found)
        self.let_others_read(again)
        assert list(place.letters()) == []

    def test_a_letter_whose_event_cannot_be_read_does_not_stop_a_redrive(
        self, place: DeadLetters, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events = log.inserts(4)
        place.write(STREAM, [Rejection(event, "list", "no") for event in events])
        letters = list(place.letters(STREAM))
        for letter, content in zip(
            letters, ({"event": "{"}, {"raw": "?"}, {"event": '{"a":{"$date":{}}}'}), strict=False
        ):
            letter.pop("event")
            letter |= content
        monkeypatch.setattr(place, "letters", lambda stream: iter(letters))
        result = deliver_again(place, STREAM, [Target(set())])
        assert (result.delivered, result.without_event, result.left) == (1, 3, 3)

    def let_others_read(self, place: DeadLetters) -> None:
        """What a reader has seen may be hidden from others for a while."""


def event_with_its_id_in_the_token(id_: str) -> ChangeEvent:
    data = f"82{1_769_860_800:08X}{1:08X}2B022C0100296E5A1004{id_.encode().hex().upper()}04"
    return change_event(
        {
            "_id": {"_data": data},
            "operationType": "insert",
            "clusterTime": Timestamp(1_769_860_800, 1),
            "fullDocument": {"_id": id_},
            "ns": {"db": "shop", "coll": "orders"},
            "documentKey": {"_id": id_},
        }
    )


def rendered(event: ChangeEvent) -> bytes:
    try:
        return event.render("extended")
    except UnrenderableError as error:
        return str(error).encode()


class Target:
    name = "list"

    def __init__(self, refused: set[str]) -> None:
        self.taken: list[ChangeEvent] = []
        self._refused = refused

    def write(self, events: list[ChangeEvent]) -> list[Rejection]:
        self.taken += [event for event in events if event.event_id not in self._refused]
        return [Rejection(event, self.name, "still no") for event in events if event.event_id in self._refused]

    def flush(self) -> list[Rejection]:
        return []

    def close(self) -> None:
        pass


class Raising:
    """Gives a collection, but raises first, once each of these."""

    def __init__(self, errors: list[Exception], collection: Callable[[], Any] | None = None) -> None:
        self._errors = errors
        self._collection = collection

    def __call__(self) -> Any:
        if self._errors:
            raise self._errors.pop(0)
        assert self._collection is not None
        return self._collection()


class TestCollection(DeadLettersContract):
    @pytest.fixture
    def settings(self, replica_set: ReplicaSet, db_name: str) -> Settings:
        return Settings(documentdb_uri=replica_set.uri, watched_db_name="shop", state_db=f"{db_name}_state")

    @pytest.fixture
    def connection(self, settings: Settings) -> Iterator[Connection]:
        with Connection(settings) as found:
            yield found

    def test_an_event_near_the_servers_limit_is_kept(self, place: DeadLetters, log: ChangeLog) -> None:
        kept = log.insert({"_id": 1, "text": "x" * 15_500_000})
        beyond = log.insert({"_id": 2, "text": "x" * 16_000_000})
        place.write(STREAM, [Rejection(event, "kinesis", "too large") for event in (kept, beyond)])
        found = {letter["document_key"]: letter for letter in place.letters()}
        assert found['{"_id":1}']["event"] == kept.render("extended").decode()
        assert found['{"_id":2}']["event"] == beyond.render("extended").decode()

    def test_an_event_beyond_it_is_kept_in_parts_which_go_with_it(
        self, place: DeadLetters, again: DeadLetters, log: ChangeLog, mongo: Mongo, settings: Settings
    ) -> None:
        """As one that the server sent split."""
        text = "\u20ac" * 6_000_000  # no part ends between two characters by chance only
        event = log.update({"_id": 1, "text": text})
        kept = mongo[settings.state_db][settings.dead_letters_collection]
        for _ in range(2):
            place.write(STREAM, [Rejection(event, "kinesis", "too large")])
        place.write(STREAM, [Rejection(log.insert({"_id": 2}), "kinesis", "no")])
        large, small = sorted(again.letters(STREAM), key=lambda letter: letter["document_key"])
        back = event_of(large)
        assert back is not None
        assert back.render("extended") == event.render("extended")
        assert kept.count_documents({}) > 2
        again.remove(large)
        assert [letter["id"] for letter in place.letters()] == [small["id"]]
        assert kept.count_documents({}) == 1

    def test_a_document_that_is_no_letter_is_passed_over(
        self, place: DeadLetters, log: ChangeLog, mongo: Mongo, settings: Settings
    ) -> None:
        place.write(STREAM, [Rejection(log.insert({"_id": 1}), "list", "no")])
        mongo[settings.state_db][settings.dead_letters_collection].insert_one({"stream": STREAM})
        assert len(list(place.letters(STREAM))) == 1

    @pytest.mark.parametrize("raised", [InvalidDocument("x"), DocumentTooLarge("x"), OverflowError(), ValueError()])
    def test_whatever_the_driver_raises_is_told_with_a_way_out(
        self, place: DeadLetters, log: ChangeLog, monkeypatch: pytest.MonkeyPatch, raised: Exception
    ) -> None:
        monkeypatch.setattr(place, "_collection", Raising([raised]))
        with pytest.raises(StateStoreError, match=type(raised).__name__) as error:
            place.write(STREAM, [Rejection(log.insert({"_id": 1}), "list", "no")])
        assert "DEAD_LETTERS" in error.value.hint

    def test_a_failover_is_bridged(self, place: DeadLetters, log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> None:
        assert isinstance(place, MongoDeadLetters)
        for method in (
            lambda: place.write(STREAM, [Rejection(event, "list", "no") for event in log.inserts(2)]),
            lambda: [place.remove(letter) for letter in place.letters()],
        ):
            monkeypatch.setattr(
                place,
                "_collection",
                Raising([NotPrimaryError("stepped down"), AutoReconnect("gone")], place._collection),
            )
            method()
            monkeypatch.undo()
        assert list(place.letters()) == []


class TestFile(DeadLettersContract):
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "letters.jsonl"

    @pytest.fixture
    def settings(self, path: Path) -> Settings:
        return Settings(documentdb_uri="mongodb://x/", watched_db_name="shop", dead_letters=str(path))

    def test_a_torn_line_spoils_no_letter(self, place: DeadLetters, path: Path, log: ChangeLog) -> None:
        """A crash while writing: its event had not passed a checkpoint and comes again."""
        first, second = log.inserts(2)
        place.write(STREAM, [Rejection(first, "list", "no")])
        whole = path.read_bytes()
        place.write(STREAM, [Rejection(second, "list", "no")])
        path.write_bytes(path.read_bytes()[: len(whole) + 40])
        assert [letter["event_id"] for letter in place.letters()] == [first.event_id]
        place.write(STREAM, [Rejection(second, "list", "no")])
        assert [letter["event_id"] for letter in place.letters()] == [first.event_id, second.event_id]

    def test_lines_that_are_no_letters_are_passed_over(self, place: DeadLetters, path: Path, log: ChangeLog) -> None:
        place.write(STREAM, [Rejection(log.insert({"_id": 1}), "list", "no")])
        with path.open("ab") as file:
            file.write(b'5\n{}\n\xff\xfe\n\n{"id": 7}\n{"removed": []}\n' + b"[" * 100_000 + b"\n")
        place.write(STREAM, [Rejection(log.insert({"_id": 2}), "list", "no")])
        assert [letter["document_key"] for letter in place.letters()] == ['{"_id":1}', '{"_id":2}']

    def test_a_pipe_or_a_device_will_do(self, place: DeadLetters, path: Path, log: ChangeLog) -> None:
        """There is nothing to sync, and nothing to be read from it again."""
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        place.write(STREAM, [Rejection(log.insert({"_id": 1}), "list", "no")])
        assert json.loads(os.read(reader, 1 << 16))["document_key"] == '{"_id":1}'
        os.close(reader)
        assert list(place.letters()) == []
        FileDeadLetters("/dev/null").write(STREAM, [Rejection(log.insert({"_id": 1}), "list", "no")])
        with pytest.raises(StateStoreError, match="No space left on device"):
            FileDeadLetters("/dev/full").write(STREAM, [Rejection(log.insert({"_id": 1}), "list", "no")])

    def test_several_may_write_at_once(self, settings: Settings, place: DeadLetters) -> None:
        def write(number: int) -> None:
            mine, log = dead_letters_for(settings, None), ChangeLog(coll=f"c{number}")
            for event in log.inserts(20, size_bytes=100_000):
                mine.write(STREAM, [Rejection(event, "list", "no")])

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(write, range(4)))
        assert len(list(place.letters())) == 80

    def test_a_letter_written_while_another_is_removed_stays(
        self, place: DeadLetters, again: DeadLetters, log: ChangeLog
    ) -> None:
        first, second = log.inserts(2)
        place.write(STREAM, [Rejection(first, "list", "no")])
        reading = place.letters()
        found = next(reading)
        again.write(STREAM, [Rejection(second, "list", "no")])
        place.remove(found)
        assert [letter["event_id"] for letter in place.letters()] == [second.event_id]

    def test_a_folder_that_is_not_there_is_an_error_with_a_hint(self, tmp_path: Path, log: ChangeLog) -> None:
        settings = Settings(
            documentdb_uri="mongodb://x/", watched_db_name="shop", dead_letters=str(tmp_path / "no" / "letters")
        )
        place = dead_letters_for(settings, None)
        with pytest.raises(StateStoreError, match="No such file") as raised:
            place.write(STREAM, [Rejection(log.insert({"_id": 1}), "list", "no")])
        assert "DEAD_LETTERS" in raised.value.hint


@pytest.mark.usefixtures("aws_environment")
class TestS3(DeadLettersContract):
    path = "/a/b/"

    @pytest.fixture
    def settings(self, aws: AwsServer) -> Settings:
        bucket = f"letters-{next(_numbers)}"
        aws.client("s3").create_bucket(Bucket=bucket)
        place = f"s3://{bucket}{self.path}"
        return Settings(documentdb_uri="mongodb://x/", watched_db_name="shop", dead_letters=place)

    def test_a_bucket_without_a_prefix_will_do(self, settings: Settings, log: ChangeLog) -> None:
        bucket = str(settings.dead_letters).removesuffix(self.path)
        place = dead_letters_for(settings.model_copy(update={"dead_letters": bucket}), None)
        place.write(STREAM, [Rejection(log.insert({"_id": 1}), "list", "no")])
        [found] = place.letters(STREAM)
        place.remove(found)
        assert list(place.letters()) == []

    def test_an_object_that_is_no_letter_is_passed_over(
        self, settings: Settings, aws: AwsServer, place: DeadLetters, log: ChangeLog
    ) -> None:
        place.write(STREAM, [Rejection(log.insert({"_id": 1}), "list", "no")])
        bucket = str(settings.dead_letters).removesuffix(self.path).removeprefix("s3://")
        aws.client("s3").put_object(Bucket=bucket, Key=f"a/b/{STREAM}/README", Body=b"\xff")
        assert len(list(place.letters(STREAM))) == 1

    def test_a_bucket_that_is_not_there_is_an_error_with_a_hint(self, log: ChangeLog) -> None:
        settings = Settings(documentdb_uri="mongodb://x/", watched_db_name="shop", dead_letters="s3://nowhere/x")
        place = dead_letters_for(settings, None)
        for attempt in (
            lambda: place.write(STREAM, [Rejection(log.insert({"_id": 1}), "list", "no")]),
            lambda: list(place.letters()),
        ):
            with pytest.raises(StateStoreError, match="NoSuchBucket") as raised:
                attempt()
            assert "s3:PutObject" in raised.value.hint


class SqsContract(DeadLettersContract):
    suffix = ""

    @pytest.fixture
    def settings(self, aws: AwsServer) -> Settings:
        name = f"letters-{next(_numbers)}{self.suffix}"
        attributes = {"FifoQueue": "true"} if self.suffix else {}
        url = aws.client("sqs").create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return Settings(documentdb_uri="mongodb://x/", watched_db_name="shop", dead_letters=url)

    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An empty queue answers at once."""
        monkeypatch.setattr(SqsDeadLetters, "WAIT_S", 0)

    def let_others_read(self, place: DeadLetters) -> None:
        assert isinstance(place, SqsDeadLetters)
        for handles in place._handles.values():
            for handle in handles.values():
                place._client.change_message_visibility(QueueUrl=place._url, ReceiptHandle=handle, VisibilityTimeout=0)

    def test_a_message_that_is_no_letter_is_passed_over_and_stays(
        self, settings: Settings, aws: AwsServer, place: DeadLetters, again: DeadLetters, log: ChangeLog
    ) -> None:
        fifo = {"MessageGroupId": "a", "MessageDeduplicationId": "a"} if self.suffix else {}
        aws.client("sqs").send_message(QueueUrl=settings.dead_letters, MessageBody="hello", **fifo)
        place.write(STREAM, [Rejection(log.insert({"_id": 1}), "list", "no")])
        [found] = again.letters(STREAM)
        again.remove(found)

    def test_a_queue_for_small_messages_takes_small_letters(self, aws: AwsServer, log: ChangeLog) -> None:
        name = f"small-{next(_numbers)}{self.suffix}"
        attributes = {"MaximumMessageSize": "4096"} | ({"FifoQueue": "true"} if self.suffix else {})
        url = aws.client("sqs").create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        place = SqsDeadLetters(url)
        place.write(STREAM, [Rejection(log.insert({"_id": 1, "text": "x" * 5_000}), "list", "no")])
        place.write(STREAM, [Rejection(log.insert({"_id": 2}), "list", "no")])
        place.write(STREAM, [Rejection(log.insert({"_id": "x" * 9_000}), "list", "y" * 9_000)])
        found = sorted(place.letters(STREAM), key=lambda letter: letter["document_key"])
        assert [len(letter["document_key"]) < 2_000 for letter in found] == [True, True, True]
        assert ["event" in letter for letter in found] == [False, False, True]

    def test_a_queue_that_takes_long_to_read_is_read_once(
        self, place: DeadLetters, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was read first is no longer hidden when the last is."""
        place.write(STREAM, [Rejection(event, "list", "no") for event in log.inserts(25)])
        monkeypatch.setattr(SqsDeadLetters, "READING_S", 0)
        found: list[Letter] = list(itertools.islice(place.letters(), 100))
        assert len(found) == len({letter["id"] for letter in found})


@pytest.mark.usefixtures("aws_environment")
class TestStandardQueue(SqsContract):
    overwrites = False

    def test_a_queue_that_is_not_there_is_an_error_with_a_hint(self, settings: Settings, log: ChangeLog) -> None:
        place = SqsDeadLetters(f"{settings.dead_letters}-nowhere")
        with pytest.raises(StateStoreError, match=r"NonExistentQueue|QueueDoesNotExist") as raised:
            place.write(STREAM, [Rejection(log.insert({"_id": 1}), "list", "no")])
        assert "sqs:SendMessage" in raised.value.hint


@pytest.mark.usefixtures("aws_environment")
class TestFifoQueue(SqsContract):
    suffix = ".fifo"


def test_an_event_whose_key_cannot_be_said_is_still_a_letter(tmp_path: Path) -> None:
    settings = Settings(documentdb_uri="mongodb://x/", watched_db_name="shop", dead_letters=str(tmp_path / "letters"))
    place = dead_letters_for(settings, None)
    event = ChangeLog().insert({"_id": {"$oid": "none"}, "a": 1})
    with pytest.raises(UnrenderableError):
        event.key  # noqa: B018 - it raises
    place.write(STREAM, [Rejection(event, "kinesis", "document key")])
    [found] = place.letters()
    assert "document_key" not in found
    back: Any = event_of(found)
    assert back.raw == event.raw
