from __future__ import annotations

import datetime as dt
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ClientError
from bson import Code, Decimal128, Int64, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from contract.aws import new_name, throttled

from docdb_stream.context import Deadline, RunContext, deadline, running
from docdb_stream.errors import Caution, ConfigError, TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.local import AwsServer
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection
from docdb_stream.targets._aws.attributes import digest_of
from docdb_stream.targets._dynamodb.item import attributes_of, document_of
from docdb_stream.targets._versioned import document_id
from docdb_stream.targets.dynamodb import DynamoTarget
from docdb_stream.testing.contract import Delivered, Faults, TargetContract
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.versioned_contract import VersionedContract

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]


class Place:
    """The tables that belong to one test, and a client of its own."""

    def __init__(self, aws: AwsServer) -> None:
        self.client = aws.client("dynamodb")
        self.prefix = new_name("mirror")

    def name(self, coll: str = "orders") -> str:
        return f"{self.prefix}-{coll}"

    def create(self, coll: str = "orders", key: str = "_id", kind: str = "S", **more: Any) -> str:
        self.client.create_table(
            TableName=self.name(coll),
            KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": kind}],
            BillingMode="PAY_PER_REQUEST",
            **more,
        )
        return self.name(coll)

    def target(self, **options: Any) -> DynamoTarget:
        return DynamoTarget(**{"table": f"{self.prefix}-{{coll}}", "create": True, **options})

    def deliver(self, *events: ChangeEvent, **options: Any) -> Sequence[Rejection]:
        """Write them in a process of its own."""
        with closing(self.target(**options)) as target:
            return deliver(target, *events)

    def all_items(self, coll: str = "orders") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        try:
            for page in self.client.get_paginator("scan").paginate(TableName=self.name(coll), ConsistentRead=True):
                found += page["Items"]
        except self.client.exceptions.ResourceNotFoundException:
            pass
        return found

    def items(self, coll: str = "orders") -> list[dict[str, Any]]:
        return [each for each in self.all_items(coll) if "_deleted" not in each]

    def mirrored(self, coll: str = "orders") -> dict[int, int]:
        return {int(each["_id"]["S"]): int(each["n"]["N"]) for each in self.items(coll)}


@pytest.fixture
def place(aws: AwsServer) -> Iterator[Place]:
    found = Place(aws)
    yield found
    for name in found.client.list_tables()["TableNames"]:
        if name.startswith(found.prefix):
            found.client.delete_table(TableName=name)
    found.client.close()


class TestDynamo(TargetContract):
    keeps = "documents"
    has_schema = True
    oversized_bytes = 400 * 1024
    many_count = 403
    large_count = 12

    @pytest.fixture(autouse=True)
    def _place(self, place: Place) -> None:
        self.place = place

    def make_target(self) -> DynamoTarget:
        return self.place.target()

    def read_back(self) -> list[Delivered]:
        return [
            Delivered("", None, each["_id"]["S"].encode() + digest_of(document_of(each, "_id")))
            for each in self.place.items()
        ]

    def expected_payload(self, event: ChangeEvent) -> bytes | None:
        found = attributes_of(event, "_id")
        return None if found is None else document_id(event.exact_id).encode() + digest_of(found)

    @contextmanager
    def faults(self, target: DynamoTarget, faults: Faults) -> Iterator[None]:  # type: ignore[override]
        original = target._client.put_item
        events: dict[str, str] = {}
        put = target._put

        def noted(items: Any) -> Any:
            events.update({f"{each.id}/{each.version}": each.event.event_id for each in items})
            return put(items)

        def answered(**request: Any) -> Any:
            item = request["Item"]
            verdicts = faults.answer([events[f"{item['_id']['S']}/{item['_version']['N']}"]])
            if verdicts is None:
                raise throttled("PutItem")
            code = {"retry": "TransactionConflictException", "reject": "ValidationException"}.get(verdicts[0])
            if code is not None:
                response = {"Error": {"Code": code, "Message": "hunter2"}}
                raise ClientError(response, "PutItem")  # type: ignore[arg-type]
            return original(**request)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, "_put", noted)
            patch.setattr(target._client, "put_item", answered)
            yield


class TestVersionsOfItems(VersionedContract):
    @pytest.fixture(autouse=True)
    def _place(self, place: Place) -> None:
        self.place = place

    def make_target(self) -> DynamoTarget:
        return self.place.target()

    def documents(self) -> dict[int, int]:
        return self.place.mirrored()


# Documents


def test_how_each_type_is_written(place: Place, log: ChangeLog) -> None:
    large = Decimal128("1234567890123456789012345678901234")
    document = {
        "_id": 1,
        "text": "a\0b",
        "empty": "",
        "bools": [True, False, None],
        "int": 7,
        "long": Int64(2**63 - 1),
        "double": 0.1,
        "small": 5e-05,
        "zero": -0.0,
        "tiny": 5e-324,
        "huge": 1.7976931348623157e308,
        "nan": float("nan"),
        "infinities": [float("inf"), float("-inf")],
        "decimals": [Decimal128("1.50"), large, Decimal128("9E+6144"), Decimal128("NaN"), Decimal128("1E-130")],
        "dates": [dt.datetime(2024, 5, 6, 7, 8, 9, 123000, tzinfo=dt.UTC), DatetimeMS(2**62)],
        "oid": ObjectId("65b9f0000000000000000002"),
        "binary": [b"", b"\0\xff", Binary(b"x", 0x80)],
        "uuid": Binary.from_uuid(uuid.UUID(int=7)),
        "map": {"a.b": {}, "$x": []},
        "time": Timestamp(2**32 - 1, 3),
        "others": [Regex("^a", "i"), Code("f()"), MinKey(), Code("f()", {"x": 1})],
    }
    assert place.deliver(log.insert(document)) == []
    [item] = place.items()
    assert int(item.pop("_version")["N"]) > 0
    [least] = item["decimals"]["L"][4:]
    assert Decimal(least["N"]) == Decimal("1E-130")
    del item["decimals"]["L"][4:]
    assert item == {
        "_id": {"S": "1"},
        "_source": {"S": "shop.orders"},
        "text": {"S": "a\0b"},
        "empty": {"S": ""},
        "bools": {"L": [{"BOOL": True}, {"BOOL": False}, {"NULL": True}]},
        "int": {"N": "7"},
        "long": {"N": "9223372036854775807"},
        "double": {"N": "0.1"},
        "small": {"N": "0.00005"},
        "zero": {"N": "0"},
        "tiny": {"S": "5e-324"},
        "huge": {"S": "1.7976931348623157e+308"},
        "nan": {"S": "NaN"},
        "infinities": {"L": [{"S": "Infinity"}, {"S": "-Infinity"}]},
        "decimals": {"L": [{"N": "1.5"}, {"N": str(large)}, {"S": str(Decimal128("9E+6144"))}, {"S": "NaN"}]},
        "dates": {"L": [{"S": "2024-05-06T07:08:09.123Z"}, {"N": str(2**62)}]},
        "oid": {"S": "65b9f0000000000000000002"},
        "binary": {"L": [{"B": b""}, {"B": b"\0\xff"}, {"B": b"x"}]},
        "uuid": {"S": "00000000-0000-0000-0000-000000000007"},
        "map": {"M": {"a.b": {"M": {}}, "$x": {"L": []}}},
        "time": {"M": {"t": {"N": "4294967295"}, "i": {"N": "3"}}},
        "others": {
            "L": [
                {"S": "/^a/i"},
                {"S": "f()"},
                {"S": "MinKey"},
                {"M": {"code": {"S": "f()"}, "scope": {"M": {"x": {"N": "1"}}}}},
            ]
        },
    }


def test_what_has_no_place_in_an_item_is_rejected(place: Place, log: ChangeLog) -> None:
    deep: Any = "secret"
    for _ in range(33):
        deep = {"d": deep}
    events = [
        log.insert({"_id": 1, "a": {"": "secret"}}),
        log.insert({"_id": 2, "deep": deep}),
        log.insert({"_id": 3, "_version": "secret"}),
        log.insert({"_id": 4, "n": "secret" * 80_000}),
        log.insert({"_id": 5, "k" * 70_000: "secret"}),
    ]
    after = log.insert({"_id": 6, "n": 6, "deep": deep["d"]["d"]})
    rejections = place.deliver(*events, after)
    assert {id(each.event) for each in rejections} == {id(each) for each in events}
    assert not any("secret" in each.reason for each in rejections)
    assert place.mirrored() == {6: 6}


def test_a_key_of_another_name_leaves_the_id_as_it_is(place: Place, log: ChangeLog) -> None:
    place.create(key="pk")
    assert place.deliver(log.insert({"_id": 1.5, "n": 1}), key="pk", create=False) == []
    [item] = place.items()
    assert (item["pk"], item["_id"]) == ({"S": "1.5"}, {"N": "1.5"})
    [rejection] = place.deliver(log.insert({"_id": 2, "pk": 1}), key="pk")
    assert "pk" in rejection.reason


def test_a_tombstone_has_no_document_and_an_end(place: Place, log: ChangeLog) -> None:
    place.deliver(log.insert({"_id": 1, "n": 1}), log.delete(1), tombstone_days=2)
    [item] = place.all_items()
    assert item.keys() == {"_id", "_version", "_source", "_deleted", "_expires"}
    assert 0 <= time.time() + 2 * 86_400 - int(item["_expires"]["N"]) < 600
    place.deliver(log.insert({"_id": 1, "n": 2}))
    [item] = place.all_items()
    assert item.keys() == {"_id", "_version", "_source", "n"}


def test_what_others_have_put_there_is_replaced(place: Place, log: ChangeLog) -> None:
    table = place.create()
    place.client.put_item(TableName=table, Item={"_id": {"S": "1"}, "n": {"N": "9"}})
    place.deliver(log.insert({"_id": 1, "n": 1}))
    assert place.mirrored() == {1: 1}


# Whole collections


def test_a_drop_takes_what_is_older(place: Place, log: ChangeLog) -> None:
    before = [log.insert({"_id": number, "n": number}) for number in range(50)]
    drop, after = log.drop(), log.insert({"_id": 5, "n": 55})
    for events in ([*before, drop, after], [before[7]], [before[5]], [drop], [drop, after]):
        assert place.deliver(*events) == []
        assert place.mirrored() == {5: 55}
    assert place.deliver(log.drop(), on_drop="keep") == []
    assert place.mirrored() == {5: 55}


@pytest.mark.parametrize("shared", [False, True])
def test_a_rename_moves_items_in_place_of_what_is_there(place: Place, log: ChangeLog, shared: bool) -> None:
    options: dict[str, Any] = {"table": place.name("archive")} if shared else {}
    old = ChangeLog(coll="archive").insert({"_id": 5000, "n": 0})
    before = [*(log.insert({"_id": number, "n": number}) for number in range(30)), log.delete(29)]
    rename = log.rename("archive")
    place.deliver(old, *before, **options)
    for events in ([rename], [rename], [old, *before, rename], before[3:4]):
        assert place.deliver(*events, **options) == []
        assert place.mirrored("archive") == {number: number for number in range(29)}
        assert place.mirrored() == {}


def test_a_move_that_breaks_in_the_middle_is_done_by_the_next(
    place: Place, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [log.insert({"_id": number, "n": number}) for number in range(10)]
    rename = log.rename("archive")
    place.deliver(ChangeLog(coll="archive").insert({"_id": 77, "n": 0}), *before)
    with closing(place.target()) as target, monkeypatch.context() as patch:
        made = target._client.put_item
        left = iter(range(15))

        def breaks(**request: Any) -> Any:
            if next(left, None) is None:
                raise ClientError({"Error": {"Code": "AccessDeniedException"}}, "PutItem")
            return made(**request)

        patch.setattr(target._client, "put_item", breaks)
        with pytest.raises(TargetError):
            target.write([rename])
    assert place.deliver(*before, rename) == []
    assert place.mirrored("archive") == {number: number for number in range(10)}
    assert place.mirrored() == {}


def test_what_was_never_there_does_not_come_after_a_drop(place: Place, log: ChangeLog) -> None:
    """As a dead letter that is redriven, or a page of a snapshot whose worker was late."""
    first, late = log.insert({"_id": 1, "n": 1}), log.insert({"_id": 2, "n": 2})
    drop, after = log.drop(), log.insert({"_id": 3, "n": 3})
    for events in ([first], [drop], [late], [after, late]):
        assert place.deliver(*events) == []
    assert place.mirrored() == {3: 3}
    assert place.deliver(late, on_drop="keep") == []  # nobody follows drops
    assert place.mirrored() == {3: 3, 2: 2}
    assert place.deliver(log.drop()) == []
    assert place.mirrored() == {}


@pytest.mark.parametrize("shared", [False, True])
def test_what_was_never_there_does_not_come_after_a_rename(place: Place, log: ChangeLog, shared: bool) -> None:
    options: dict[str, Any] = {"table": place.name("archive")} if shared else {}
    first, late = log.insert({"_id": 1, "n": 1}), log.insert({"_id": 2, "n": 2})
    replaced = ChangeLog(coll="archive").insert({"_id": 4, "n": 4})
    rename, after = log.rename("archive"), log.insert({"_id": 3, "n": 3})
    place.deliver(first, ChangeLog(coll="archive").insert({"_id": 5, "n": 5}), **options)
    for events in ([rename], [late, replaced], [after]):
        assert place.deliver(*events, **options) == []
    found = {**place.mirrored("archive"), **place.mirrored()}
    assert found == {1: 1, 3: 3}


def test_a_rename_of_which_an_item_has_no_place_takes_the_others_along(place: Place, log: ChangeLog) -> None:
    fits = log.insert({"_id": 0, "n": 0, "text": "x" * (400 * 1024 - 60 - len(place.prefix))})
    others = [log.insert({"_id": number, "n": number}) for number in range(1, 6)]
    longer = "archive_of_" + "a" * 60
    rename = log.rename(longer)
    assert place.deliver(fits, *others) == []
    [rejection] = place.deliver(rename)
    assert rejection.event is rename
    assert place.mirrored(longer) == {number: number for number in range(1, 6)}
    assert place.items() == []


def test_a_tombstone_of_a_rename_that_is_late_takes_nothing_away(
    place: Place, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ChangeLog(coll="archive").insert({"_id": 1, "n": 0})
    place.deliver(old, log.insert({"_id": 1, "n": 1}))
    with closing(place.target()) as target:
        made, sent = target._client.put_item, []

        def noted(**request: Any) -> Any:
            sent.append(request)
            return made(**request)

        monkeypatch.setattr(target._client, "put_item", noted)
        assert target.write([log.rename("archive")]) == []
        late = [each for each in sent if each["Item"]["_id"] == {"S": "1"} and "_deleted" in each["Item"]]
        assert [each["TableName"] for each in late] == [place.name("archive"), place.name()]
        with pytest.raises(ClientError, match="ConditionalCheckFailed"):
            made(**late[0])
    assert place.mirrored("archive") == {1: 1}


def test_ids_of_the_targets_own_are_refused(place: Place, log: ChangeLog) -> None:
    [rejection] = place.deliver(log.insert({"_id": "docdb-stream:since:shop.orders", "n": 1}))
    assert "the target's own" in rejection.reason


def test_what_others_have_put_there_with_a_version_of_theirs_is_replaced(place: Place, log: ChangeLog) -> None:
    table = place.create()
    place.client.put_item(TableName=table, Item={"_id": {"S": "1"}, "_version": {"S": "v7"}})
    assert place.deliver(log.insert({"_id": 1, "n": 1})) == []
    assert place.mirrored() == {1: 1}


# Tables and servers


def test_tables_that_are_missing_or_do_not_fit(place: Place, log: ChangeLog) -> None:
    event = log.insert({"_id": 1, "n": 1})
    with pytest.raises(TargetError, match="ResourceNotFound") as caught:
        place.deliver(event, create=False)
    assert f"create-table --table-name {place.name()}" in caught.value.hint
    place.create(key="id", kind="N")
    with pytest.raises(TargetError, match=r"has the key id \(HASH, N\)") as caught:
        place.deliver(event)
    assert "DYNAMODB_KEY_NAME" in caught.value.hint
    assert place.items() == []


def test_a_table_that_was_made_anew_with_another_key_stops_the_stream(place: Place, log: ChangeLog) -> None:
    with closing(place.target()) as target:
        assert deliver(target, log.insert({"_id": 1, "n": 1})) == []
        place.client.delete_table(TableName=place.name())
        place.create(key="id")
        with pytest.raises(TargetError, match=r"has the key id \(HASH, S\)"):
            deliver(target, log.insert({"_id": 2, "n": 2}))


def test_check(place: Place) -> None:
    settings = Settings(
        documentdb_uri="mongodb://h/", watched_db_name="shop", watched_collection_name="orders", dynamodb_table="t"
    )
    with closing(place.target(create=False, source=settings)) as target:
        with pytest.raises(TargetError, match="ResourceNotFound"):
            target.check()
        table = place.create()
        with pytest.raises(Caution, match="for ever") as caught:
            target.check()
        assert "update-time-to-live" in caught.value.hint
        ttl = {"Enabled": True, "AttributeName": "_expires"}
        place.client.update_time_to_live(TableName=table, TimeToLiveSpecification=ttl)
        target.check()
    several = settings.model_copy(
        update={"watched_collection_name": None, "namespaces": ("shop.orders", "shop.missing"), "dynamodb_table": "t"}
    )
    place.client.update_time_to_live(TableName=table, TimeToLiveSpecification={**ttl, "Enabled": False})
    # Which a caution about the first does not hide.
    with (
        closing(place.target(create=False, source=several)) as target,
        pytest.raises(TargetError, match="ResourceNotFound"),
    ):
        target.check()


def test_check_reaches_the_service_where_no_table_is_known(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(documentdb_uri="mongodb://h/", watched_db_name="shop", dynamodb_table="t")
    with closing(place.target(source=settings)) as target:
        target.check()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with (
        deadline(Deadline.after(3)),
        closing(place.target(source=settings)) as target,
        pytest.raises(TargetError, match="DynamoDB"),
    ):
        target.check()


def test_check_of_a_table_for_documents_of_others(place: Place) -> None:
    settings = Settings(
        documentdb_uri="mongodb://h/", watched_db_name="shop", watched_collection_name="orders", dynamodb_table="t"
    )
    with pytest.raises(ConfigError, match="whole documents"):
        place.target(source=settings.model_copy(update={"full_document": "default"}))


def test_a_table_that_is_made_has_ttl_and_costs_what_is_used(place: Place, log: ChangeLog) -> None:
    place.deliver(log.insert({"_id": 1, "n": 1}))
    table = place.client.describe_table(TableName=place.name())["Table"]
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    told = place.client.describe_time_to_live(TableName=place.name())["TimeToLiveDescription"]
    assert (told["TimeToLiveStatus"], told["AttributeName"]) == ("ENABLED", "_expires")


def test_names_that_dynamodb_has_not(place: Place) -> None:
    logs = [ChangeLog(coll=coll) for coll in ("a b", "a_b", "ä/ö", "x" * 230)]
    for number, each in enumerate(logs):
        assert place.deliver(each.insert({"_id": 1, "n": number})) == []
    made = [name for name in place.client.list_tables()["TableNames"] if name.startswith(place.prefix)]
    assert len(made) == len(logs)


def test_two_that_write_the_same_at_the_same_time(place: Place, log: ChangeLog) -> None:
    events = [log.replace({"_id": number % 20, "n": number}) for number in range(200)]
    failed: list[BaseException] = []

    def write(part: Sequence[ChangeEvent]) -> None:
        try:
            for first in range(0, len(part), 40):
                assert place.deliver(*part[first : first + 40]) == []
        except BaseException as error:
            failed.append(error)

    place.create()
    threads = [threading.Thread(target=write, args=(part,)) for part in (events[::-1], events, events[100:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == []
    assert place.mirrored() == {number: 180 + number for number in range(20)}


def deliver(target: DynamoTarget, *events: ChangeEvent) -> Sequence[Rejection]:
    return [*target.write(events), *target.flush()]


@pytest.mark.parametrize("stops", [False, True])
def test_a_server_that_says_nothing_is_given_up_in_time(
    log: ChangeLog, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        limit = Deadline.after(30.0 if stops else 1.0)
        if stops:
            limit.stop.set()
        for ready in (False, True):
            began_s = time.monotonic()
            with running(RunContext(limit)), closing(DynamoTarget("t")) as target:
                target._tables._ready |= {"t"} if ready else set()
                with pytest.raises(TargetError):
                    deliver(target, log.insert({"_id": 1}))
            assert time.monotonic() - began_s < 25


def test_credentials_that_have_expired(place: Place, log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    place.create()
    with closing(place.target()) as target, deadline(Deadline.after(5.0)):
        response = {"Error": {"Code": "ExpiredTokenException", "Message": "secret"}}

        def refuses(**_: Any) -> Any:
            raise ClientError(response, "PutItem")  # type: ignore[arg-type]

        monkeypatch.setattr(target._client, "put_item", refuses)
        with pytest.raises(TargetError, match="ExpiredToken") as caught:
            deliver(target, log.insert({"_id": 1}))
        assert "credentials" in caught.value.hint


# Verify


def test_what_is_held_equals_what_is_expected(place: Place, log: ChangeLog) -> None:
    settings = Settings(documentdb_uri="mongodb://h/", watched_db_name="shop", dynamodb_table="t")
    events = [*log.hostile().values(), log.insert({"_id": 9000}), log.insert({"_id": 9001})]
    rejected = {id(each.event) for each in place.deliver(*events, log.delete(9001))}
    with closing(place.target(source=settings)) as target:
        holdings = target.holdings()
        expected = [holdings.expected(each) for each in events[:-1] if id(each) not in rejected]
        wanted = [each for each in expected if each is not None]
        assert len(wanted) > 4
        assert sorted(holdings.held(place.name())) == sorted(wanted)
        assert holdings.look(wanted) == wanted
        assert len(holdings.sample(place.name(), 3)) == 3
        gone = holdings.expected(log.delete(9001))
        assert gone is not None
        assert [each.digest for each in holdings.look([gone])] == [None]
        assert [*holdings.held("no-such-table")] == []
        assert all(each.is_own for each in wanted)
