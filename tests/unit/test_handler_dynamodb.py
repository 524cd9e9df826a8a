"""The Lambda behind a DynamoDB Streams event source mapping, with targets that are lists."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import bson
import pytest
from bson import Binary, Decimal128, Int64
from hypothesis import given
from hypothesis import strategies as st

from docdb_stream import derived
from docdb_stream.derived_update import is_in_any_order
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.handlers import _push, dynamodb
from docdb_stream.handlers._dynamodb_record import change_event, time_of
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection

ARN = "arn:aws:dynamodb:eu-central-1:123456789012:table/Orders/stream/2026-01-31T12:00:00.000"


class Context:
    function_name = "docdb-stream-orders"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


class ListTarget:
    name = "list"

    def __init__(self) -> None:
        self.events: list[ChangeEvent] = []
        self.fails_at: str | None = None
        self.refused: set[str] = set()

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        for event in events:
            if event.event_id == self.fails_at:
                raise TargetError(self.name, "no room")
            self.events.append(event)
        return [Rejection(event, self.name, "no") for event in events if event.event_id in self.refused]

    def flush(self) -> Sequence[Rejection]:
        return ()

    def close(self) -> None:
        pass


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> ListTarget:
    found = ListTarget()

    def build_targets(settings: Settings) -> list[ListTarget]:
        return [found]

    monkeypatch.setattr(_push, "_kept", None)
    monkeypatch.setattr(_push, "build_targets", build_targets)
    monkeypatch.setenv("STREAM_NAME", "orders")
    monkeypatch.setenv("STDOUT", "true")
    return found


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> list[Rejection]:
    written: list[Rejection] = []

    class Box:
        def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
            written.extend(rejections)

    monkeypatch.setenv("DEAD_LETTERS", "s3://letters/here")
    monkeypatch.setattr(_push, "dead_letters_for", lambda settings, connection: Box())
    return written


def record(number: int, name: str = "INSERT", **change: Any) -> dict[str, Any]:
    """A record as Lambda hands it over."""
    image = {"id": {"S": f"o{number}"}, "n": {"N": str(number)}}
    images = {"NewImage": image} if name != "REMOVE" else {"OldImage": image}
    return {
        "eventID": f"e{number:03}",
        "eventName": name,
        "eventSource": "aws:dynamodb",
        "eventSourceARN": ARN,
        "dynamodb": {
            "ApproximateCreationDateTime": 1_769_860_800,
            "Keys": {"id": {"S": f"o{number}"}},
            "SequenceNumber": str(100_000_000_000_000_000_000 + number),
            "SizeBytes": 59,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
            **images,
            **change,
        },
    }


def handle(*records: Mapping[str, Any]) -> dict[str, Any]:
    return dynamodb.handler({"Records": [*records]}, Context())


def failed(answer: Mapping[str, Any]) -> list[str]:
    return [each["itemIdentifier"] for each in answer["batchItemFailures"]]


def test_changes_come_in_order_with_key_images_and_difference(target: ListTarget) -> None:
    new = {"id": {"S": "o1"}, "status": {"S": "paid"}, "n": {"N": "1.0"}}
    old = {"id": {"S": "o1"}, "status": {"S": "new"}, "n": {"N": "1"}, "note": {"S": "x"}}
    answer = handle(record(1), record(1, "MODIFY", NewImage=new, OldImage=old), record(1, "REMOVE"))
    assert answer == {"stream": "orders", "events": 3, "rejections": 0, "batchItemFailures": []}
    insert, update, delete = target.events
    assert [event.operation for event in target.events] == ["insert", "update", "delete"]
    assert {str(event.namespace) for event in target.events} == {"dynamodb.Orders"}
    assert {event.key for event in target.events} == {'{"_id":"o1"}'}
    assert insert.full_document == {"_id": "o1", "id": "o1", "n": 1}
    assert update.update_description == {"updatedFields": {"status": "paid"}, "removedFields": ["note"]}
    assert update.document["fullDocumentBeforeChange"]["status"] == "new"
    assert delete.full_document is None
    assert delete.document["fullDocumentBeforeChange"]["n"] == 1
    assert insert.event_id == "e001"
    assert insert.document["dynamodb"] == {"sequenceNumber": "100000000000000000001"}


def test_types() -> None:
    attributes = {
        "s": {"S": ""},
        "int32": {"N": "-2147483648"},
        "int64": {"N": "2147483648"},
        "whole": {"N": "1E3"},
        "fraction": {"N": "19.90"},
        "beyond": {"N": "9223372036854775808"},
        "digits": {"N": "1" * 38},
        "tiny": {"N": "1E-130"},
        "b": {"B": base64.b64encode(b"\0\xff").decode()},
        "bool": {"BOOL": False},
        "null": {"NULL": True},
        "m": {"M": {"a.b": {"L": [{"N": "1"}, {"S": "$x"}]}, "$c": {"M": {}}}},
        "ss": {"SS": ["b", "a"]},
        "ns": {"NS": ["1", "2.5"]},
        "bs": {"BS": [base64.b64encode(b"x").decode()]},
    }
    found = bson.decode(change_event(record(1, NewImage={"id": {"S": "o1"}, **attributes})))["fullDocument"]
    assert found == {
        "_id": "o1",
        "id": "o1",
        "s": "",
        "int32": -(2**31),
        "int64": 2**31,
        "whole": 1000,
        "fraction": Decimal128("19.90"),
        "beyond": Decimal128("9223372036854775808"),
        "digits": "1" * 38,
        "tiny": Decimal128("1E-130"),
        "b": b"\0\xff",
        "bool": False,
        "null": None,
        "m": {"a.b": [1, "$x"], "$c": {}},
        "ss": ["a", "b"],
        "ns": [1, Decimal128("2.5")],
        "bs": [b"x"],
    }
    assert isinstance(found["int64"], Int64 | int)
    assert not isinstance(found["b"], Binary)


@pytest.mark.parametrize(
    ("keys", "image", "id", "rest"),
    [
        ({"sk": {"N": "1"}, "pk": {"S": "a"}}, {"v": {"N": "2"}}, {"pk": "a", "sk": 1}, {"v": 2}),
        ({"_id": {"S": "a"}}, {"_id": {"S": "a"}, "v": {"N": "2"}}, "a", {"v": 2}),
        ({"pk": {"S": "a"}}, {"_id": {"S": "own"}, "__id": {"S": "x"}}, "a", {"__id": "x", "___id": "own"}),
        ({"pk": {"B": "AA=="}}, {}, b"\0", {}),
    ],
)
def test_keys(keys: Any, image: Any, id: Any, rest: Any) -> None:
    found = bson.decode(change_event(record(1, Keys=keys, NewImage=image)))
    assert found["documentKey"] == {"_id": id}
    assert [*found["documentKey"]["_id"]] == sorted(id) if isinstance(id, dict) else True
    assert found["fullDocument"] == {"_id": id, **rest}


@given(st.integers(1, 10**40), st.integers(1, 10**40))
def test_what_is_later_never_has_an_earlier_time(one: int, other: int) -> None:
    earlier, later = (time_of(record(1, SequenceNumber=str(each))) for each in sorted((one, other)))
    assert earlier <= later
    assert later.inc < 2**31


def test_of_consecutive_records_the_time_says_the_same_each_time() -> None:
    assert change_event(record(5)) == change_event(record(5))


def test_items_that_end_are_told_apart(target: ListTarget) -> None:
    ended = record(1, "REMOVE") | {"userIdentity": {"type": "Service", "principalId": "dynamodb.amazonaws.com"}}
    handle(ended, record(2, "REMOVE"))
    assert [event.document["dynamodb"].get("ttl") for event in target.events] == [True, None]


def test_lambda_goes_on_from_the_first_that_failed(target: ListTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SIZE", "2")
    target.fails_at = "e005"
    answer = handle(*map(record, range(8)))
    assert failed(answer) == ["100000000000000000004"]  # of the part of two that it is in
    target.fails_at = None
    assert failed(handle(*map(record, range(4, 8)))) == []
    assert [event.event_id for event in target.events][-4:] == ["e004", "e005", "e006", "e007"]


def test_the_lowest_is_named_in_whatever_order_records_are(target: ListTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SIZE", "1")
    target.fails_at = "e009"
    assert failed(handle(record(1), record(9), record(3))) == ["100000000000000000003"]


def test_a_number_is_named_digit_by_digit(target: ListTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SIZE", "1")
    target.fails_at = "e009"
    assert failed(handle(record(1), record(9, SequenceNumber="0042"))) == ["0042"]


def test_where_nothing_is_durable_the_batch_fails(target: ListTarget) -> None:
    target.fails_at = "e001"
    with pytest.raises(TargetError, match="no room"):
        handle(record(1), record(2))


def test_what_cannot_be_read_goes_to_the_dead_letters_and_the_rest_is_delivered(
    target: ListTarget, letters: list[Rejection]
) -> None:
    broken: list[Any] = [
        record(2, NewImage={"a": {"X": "1"}}),
        record(3, NewImage={"nul\0": {"S": "1"}}),
        record(4, NewImage={"a": {"N": "one"}}),
        record(5, NewImage={"a": {"B": "&"}}),
        record(6) | {"eventID": "\ud800"},
        record(7, "RENAME"),
        record(8, Keys={}),
        {"eventSource": "aws:dynamodb"},
        record(9) | {"dynamodb": None},
    ]
    deep: Any = {"S": "x"}
    for _ in range(5_000):
        deep = {"M": {"a": deep}}
    broken.append(record(10, NewImage={"a": deep}))
    answer = handle(record(1), *broken, record(11))
    assert answer == {"stream": "orders", "events": 2, "rejections": len(broken), "batchItemFailures": []}
    assert [event.event_id for event in target.events] == ["e001", "e011"]
    assert {letter.target for letter in letters} == {"source"}
    assert all("cannot be read" in letter.reason for letter in letters)


def test_what_a_target_refuses_goes_to_the_dead_letters(target: ListTarget, letters: list[Rejection]) -> None:
    target.refused = {"e002"}
    assert failed(handle(record(1), record(2))) == []
    assert [letter.event.event_id for letter in letters] == ["e002"]


@pytest.mark.parametrize("view", ["KEYS_ONLY", "OLD_IMAGE"])
def test_a_stream_without_new_images(target: ListTarget, monkeypatch: pytest.MonkeyPatch, view: str) -> None:
    one = record(1, "MODIFY", StreamViewType=view)
    del one["dynamodb"]["NewImage"]
    with pytest.raises(ConfigError, match=view) as caught:
        handle(one)
    assert "NEW_AND_OLD_IMAGES" in caught.value.hint
    assert target.events == []
    monkeypatch.setenv("FULL_DOCUMENT", "default")
    handle(one)
    [event] = target.events
    assert (event.operation, event.full_document) == ("update", None)


def test_of_new_images_alone_there_is_no_difference(target: ListTarget) -> None:
    handle(record(1, "MODIFY", StreamViewType="NEW_IMAGE"))
    assert target.events[0].update_description is None
    assert target.events[0].full_document == {"_id": "o1", "id": "o1", "n": 1}


def test_rules_apply(target: ListTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATCH", '{"fullDocument.n": {"$gte": 2}}')
    monkeypatch.setenv("ON_EXIT", "ignore")
    assert handle(*map(record, range(4)))["events"] == 2
    assert [event.event_id for event in target.events] == ["e002", "e003"]


@pytest.mark.parametrize(
    "event", [None, {}, {"Records": None}, {"Records": [{"eventSource": "aws:sqs"}]}, {"Records": [1]}, []]
)
def test_what_another_service_sends_is_refused(target: ListTarget, event: Any) -> None:
    with pytest.raises(ConfigError, match="DynamoDB Streams"):
        dynamodb.handler(event, Context())


def test_no_records(target: ListTarget) -> None:
    assert failed(handle()) == []


def history(event: ChangeEvent) -> list[ChangeEvent]:
    update = {"$addToSet": {"orders": event.document["documentKey"]["_id"]}}
    return [event, derived(event, "shop.users", key={"_id": "Ann"}, update=update)]


def total(event: ChangeEvent) -> ChangeEvent:
    return derived(event, "shop.users", key={"_id": "Ann"}, update={"$inc": {"total": 1}})


def test_what_is_derived_comes_to_the_same_in_any_order(target: ListTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORM", f"{__name__}:history")
    monkeypatch.setattr(ListTarget, "takes_derived", True, raising=False)
    assert failed(handle(record(1))) == []
    [event, made] = target.events
    assert event.operation == "insert"
    assert is_in_any_order(made)
    assert made.document["update"] == {"$addToSet": {"orders": "o1"}}


def test_what_is_derived_and_counts_ends_the_invocation(target: ListTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORM", f"{__name__}:total")
    monkeypatch.setattr(ListTarget, "takes_derived", True, raising=False)
    with pytest.raises(ConfigError, match=r"\$inc is none of \$addToSet, \$min, \$max, which alone are for") as caught:
        handle(record(1))
    assert "derive of the mirror" in caught.value.hint
    assert target.events == []


def test_the_database_of_tables_is_what_is_watched(target: ListTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    handle(record(1))
    assert _push._kept is not None
    assert _push._kept.settings.watched_db_name == "dynamodb"
    monkeypatch.setattr(_push, "_kept", None)
    monkeypatch.setenv("WATCHED_DB_NAME", "mine")
    handle(record(2))
    assert _push._kept.settings.watched_db_name == "mine"


def test_in_whatever_order_dynamodb_gives_names_and_sets_a_record_is_the_same() -> None:
    one = {"m": {"M": {"a": {"N": "1"}, "b": {"S": "x"}}}, "s": {"SS": ["x", "y"]}, "n": {"NS": ["10", "9"]}}
    other = {"n": {"NS": ["9", "10"]}, "s": {"SS": ["y", "x"]}, "m": {"M": {"b": {"S": "x"}, "a": {"N": "1"}}}}
    events = [change_event(record(1, "MODIFY", NewImage=image, OldImage=image)) for image in (one, other)]
    assert events[0] == events[1]
    swapped = bson.decode(change_event(record(1, "MODIFY", NewImage=one, OldImage=other)))
    assert swapped["updateDescription"] == {"updatedFields": {}, "removedFields": []}
    assert swapped["fullDocument"]["n"] == [9, 10]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1" + "0" * 34, Decimal128("1.000000000000000000000000000000000E+34")),
        ("1" * 34, Decimal128("1" * 34)),
        ("1" * 35, "1" * 35),
        ("9.99E+125", Decimal128("9.99E+125")),
    ],
)
def test_numbers_of_many_digits(text: str, value: Any) -> None:
    event = bson.decode(change_event(record(1, NewImage={"id": {"S": "o1"}, "n": {"N": text}})))
    assert event["fullDocument"]["n"] == value


def test_the_letter_of_a_record_that_cannot_be_read_says_which_item_and_nothing_of_it(
    target: ListTarget, letters: list[Rejection]
) -> None:
    handle(record(7, NewImage={"id": {"S": "o7"}, "name\0": {"S": "secret"}}))
    [letter] = letters
    assert json.loads(letter.event.document["keys"]) == {"id": {"S": "o7"}}
    assert "secret" not in str(letter)
