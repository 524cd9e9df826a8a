"""Events rendered together, from their bytes, against the same events decoded and rendered one by one."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import bson
import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent, Events, Namespace
from docdb_stream.formats import part
from docdb_stream.formats.decoded import decode
from docdb_stream.formats.extended import EXTENDED, extended_json
from docdb_stream.formats.facts import FACTS
from docdb_stream.formats.part import PART_BYTES, PART_EVENTS, parts
from docdb_stream.formats.plain import PLAIN
from docdb_stream.testing.events import ChangeLog, change_event


def raws_of(events: Sequence[ChangeEvent]) -> list[bytes]:
    return [event.raw for event in events if event.raw is not None]


def outcome(render: Callable[[], Any]) -> Any:
    try:
        return render()
    except UnrenderableError:
        return "refused"


def looked_at(event: ChangeEvent) -> list[Any]:
    """All there is to know of an event."""
    return [
        event.event_id,
        event.token,
        event.operation,
        event.namespace,
        outcome(lambda: (event.key or "").encode()),
        event.cluster_time,
        event.cluster_time_parts,
        event.wall_time,
        repr(event.document_key),
        repr(event.full_document),
        repr(event.update_description),
        outcome(lambda: event.render("extended")),
        outcome(lambda: event.render("document")),
        outcome(lambda: event.render("plain")),
    ]


def assert_same(raws: Sequence[bytes]) -> None:
    together = Events.of(raws)
    assert [event.raw for event in together] == raws
    assert [looked_at(event) for event in together] == [looked_at(ChangeEvent(raw)) for raw in raws]


def test_every_operation() -> None:
    assert_same(raws_of(ChangeLog().every_operation()))


def test_hostile_documents() -> None:
    events = ChangeLog().hostile().values()
    assert_same(raws_of(list(events)))
    for event in events:
        assert_same(raws_of([event]))


def test_hostile_documents_among_others() -> None:
    log = ChangeLog()
    for event in log.hostile().values():
        usual = log.inserts(3, size_bytes=10)
        assert_same(raws_of([*usual[:2], event, usual[2]]))


@pytest.mark.parametrize("count", [0, 1, PART_EVENTS - 1, PART_EVENTS, PART_EVENTS + 1, 3 * PART_EVENTS + 5])
def test_any_number_of_events(count: int) -> None:
    assert_same(raws_of(ChangeLog().inserts(count)))


def test_parts_are_small() -> None:
    raws = raws_of(ChangeLog().inserts(9, size_bytes=PART_BYTES // 4))
    assert [len(each.raws) for each in parts(raws)] == [3, 3, 3]
    assert [len(each.raws) for each in parts([bytes(PART_BYTES * 2)] * 2)] == [1, 1]


def layouts() -> Iterator[tuple[str, dict[str, Any]]]:
    """Events as servers write them, with their fields in different orders."""
    token = {"_data": "8269A2B3C4000000012B022C0100296E5A1004"}
    key = ObjectId("65b9f0000000000000000001")
    time = {"clusterTime": Timestamp(1769860800, 7)}
    document = {"_id": key, "total": 1.5, "null": None}
    ns = {"ns": {"db": "shop", "coll": "orders"}}
    yield (
        "MongoDB 4",
        {"_id": token, "operationType": "insert", **time, "fullDocument": document, **ns, "documentKey": {"_id": key}},
    )
    yield (
        "alphabetical",
        {"_id": token, **time, "documentKey": {"_id": key}, "fullDocument": document, **ns, "operationType": "insert"},
    )
    yield (
        "documents last",
        {
            **ns,
            "operationType": "update",
            **time,
            "_id": token,
            "updateDescription": {"a": 1},
            "fullDocument": document,
        },
    )
    yield (
        "in a transaction",
        {
            "_id": token,
            "operationType": "update",
            **time,
            "lsid": {"id": Binary(b"i" * 16, 4), "uid": Binary(b"u" * 32)},
            "txnNumber": Int64(2**40),
            "fullDocument": document,
            **ns,
            "documentKey": {"region": "eu", "_id": key},
            "updateDescription": {"updatedFields": {"total": Decimal128("1.5")}, "removedFields": []},
        },
    )
    yield (
        "gone",
        {"_id": token, "operationType": "update", **time, "fullDocument": None, **ns, "documentKey": {"_id": 1}},
    )
    yield "database", {"_id": token, "operationType": "dropDatabase", **time, "ns": {"db": "shöp"}}
    yield "odd names", {"_id": token, "operationType": "insert", **time, "ns": {"db": 'a"b\\', "coll": "x\n%s%b{}"}}


@pytest.mark.parametrize(("name", "event"), list(layouts()))
def test_fields_in_any_order(name: str, event: dict[str, Any]) -> None:
    raw = change_event(event).raw
    assert raw is not None
    assert_same([raw, raw])


def test_layouts_side_by_side() -> None:
    raws = [change_event(event).raw or b"" for _, event in layouts()]
    assert_same([*raws, *reversed(raws), *raws])


@pytest.mark.parametrize(
    "fields",
    [
        {"_id": {"_data": "82", "_typeBits": b"x"}},
        {"_id": {"_data": Binary(b"\x82", 0)}},
        {"_id": {"_data": ""}},
        {"_id": {"_data": 'not "hexadecimal"'}},
        {"operationType": "a b"},
        {"clusterTime": None},
        {"ns": {"coll": "first", "db": "second"}},
        {"ns": {"db": "a", "coll": "b", "more": 1}},
        {"fullDocument": 1},
        {"with space": 1},
        {"percent%s": {"a": 1}},
        {"collectionUUID": Binary(b"u" * 16, 4)},
        {"splitEvent": {"fragment": 1, "of": 2}},
    ],
    ids=repr,
)
def test_unusual_fields(fields: dict[str, Any]) -> None:
    usual = dict(next(layouts())[1])
    raw = change_event({**usual, **fields}).raw
    assert raw is not None
    assert_same([change_event(usual).raw or b"", raw, raw])


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-(10**13), 3 * 10**14), min_size=1, max_size=5))
def test_any_wall_time(times_ms: list[int]) -> None:
    event = bson.decode(raws_of([ChangeLog().insert({"_id": 1})])[0])
    assert_same([bson.encode({**event, "wallTime": DatetimeMS(time_ms)}) for time_ms in times_ms])


@pytest.mark.parametrize("time_ms", [0, -1, 1, 999, 1000, 1001, -62135596800000, 253402300799999, 253402300800000])
def test_a_wall_time_at_a_border(time_ms: int) -> None:
    event = bson.decode(raws_of([ChangeLog().insert({"_id": 1})])[0])
    assert_same([bson.encode({**event, "wallTime": DatetimeMS(time_ms)})])


def test_fields_that_occur_twice() -> None:
    raw = change_event(dict(next(layouts())[1])).raw
    assert raw is not None
    for name in ("fullDocument", "ns", "_id", "clusterTime"):
        value = RawBSONDocument(raw)[name]
        more = bson.encode({name: value})[4:-1]
        twice = (len(raw) + len(more)).to_bytes(4, "little") + raw[4:-1] + more + b"\0"
        assert outcome(lambda twice=twice: Events.of([raw, twice])[1].render(EXTENDED)) == extended_json(
            decode(twice), twice
        )


def test_broken_bytes_are_never_rendered_otherwise() -> None:
    """Whatever byte is another: the event is refused, or rendered as the exact way renders it."""
    usual = raws_of(ChangeLog().inserts(2))[1]
    update = raws_of([ChangeLog().update({"_id": ObjectId(), "a": [1, {"b": "c"}]}, {"a": 1})])[0]
    rng = random.Random(5)
    for raw in (usual, update):
        for place in range(len(raw)):
            broken = bytearray(raw)
            broken[place] = rng.choice(
                [0, 1, 2, 3, 255, broken[place] ^ 0x20, broken[place] ^ 0x80, rng.randrange(256)]
            )
            [_, event] = Events.of([raw, bytes(broken)])
            assert outcome(lambda event=event: event.render(EXTENDED)) == outcome(
                lambda broken=bytes(broken): extended_json(decode(broken), broken)
            ), place


def test_cut_bytes_are_refused() -> None:
    raw = raws_of(ChangeLog().inserts(1))[0]
    for size in range(len(raw)):
        whole, cut = Events.of([raw, raw[:size]])
        assert whole.render(EXTENDED) == ChangeEvent(raw).render(EXTENDED)
        for event in (cut, ChangeEvent(raw[:size])):
            with pytest.raises(UnrenderableError):
                event.render(EXTENDED)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1).map(lambda number: Int64(number) if abs(number) >= 2**31 else number)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.builds(ObjectId, st.binary(min_size=12, max_size=12)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8).filter(lambda key: "\0" not in key), inner, max_size=4)
    ),
    max_leaves=12,
)
_DOCUMENTS = st.dictionaries(st.sampled_from(["_id", "a", "b", "$c", "oid", "$oid", "é"]), _VALUES, max_size=6)


# A loaded machine is no failure.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["insert", "update", "replace", "delete"]), _DOCUMENTS), max_size=8))
def test_any_documents(changes: list[tuple[str, dict[str, Any]]]) -> None:
    log = ChangeLog()
    makers: dict[str, Callable[[dict[str, Any]], ChangeEvent]] = {
        "insert": log.insert,
        "update": lambda document: log.update(document, {"a": document.get("a")}),
        "replace": log.replace,
        "delete": lambda document: log.delete(document["_id"]),
    }
    assert_same(raws_of([makers[operation]({"_id": 1, **document}) for operation, document in changes]))


def test_namespaces_are_not_mixed_up() -> None:
    events = [
        log.inserts(1)[0] for log in map(ChangeLog, [Namespace("a", "b"), Namespace("a", "c"), Namespace("d", "b")])
    ]
    assert [event.namespace for event in Events.of(raws_of(events))] == [event.namespace for event in events]
    assert_same(raws_of(events))


def test_targets_that_ask_at_the_same_time_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = part.decode_all

    def counted(raws: Sequence[bytes]) -> Any:
        calls.append(len(raws))
        return original(raws)

    monkeypatch.setattr(part, "decode_all", counted)
    events = Events.of(raws_of([ChangeLog().insert({"_id": ObjectId()}) for _ in range(PART_EVENTS)]))
    events.want((EXTENDED, PLAIN, FACTS))
    rendered: list[list[Any]] = []
    ways: list[Callable[[ChangeEvent], Any]] = [
        lambda event: event.render(EXTENDED),
        lambda event: event.render(PLAIN),
        lambda event: event.ordering_key,
    ]
    threads = [threading.Thread(target=lambda way=way: rendered.append([way, *map(way, events)])) for way in 4 * ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [PART_EVENTS]
    for way in ways:
        found = [each for each in rendered if each[0] is way]
        assert len(found) == 4
        assert all(each == found[0] for each in found)


def test_one_that_cannot_be_decoded_among_good_ones_is_alone_refused() -> None:
    log = ChangeLog()
    raws = raws_of(log.inserts(3))
    for bad in (
        log.hostile()["invalid_utf8"].raw,
        b"",
        raws[0][:-1],
        raws[0] + b"\0",
        raws[0] + raws[1],
        b"\5\0\0\0\0",
    ):
        assert bad is not None
        together = Events.of([raws[0], bad, *raws[1:]])
        found = together.render(EXTENDED)
        assert [isinstance(each, bytes) for each in found] == [True, len(bad) == 5, True, True]
        assert [found[0], *found[2:]] == [ChangeEvent(raw).render(EXTENDED) for raw in raws]
        assert [together[index].event_id for index in (0, 2, 3)] == [ChangeEvent(raw).event_id for raw in raws]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"_id": None},
        {"_id": {}},
        {"_id": []},
        {"_id": 5},
        {"_id": {"_data": 5}},
        {"operationType": None},
        {"operationType": 5},
        {"ns": 5},
        {"ns": {"db": ["a"]}},
        {"ns": {"db": {"a": 1}, "coll": []}},
        {"documentKey": {}},
        {"documentKey": 5},
        {"documentKey": []},
        {"documentKey": {"_id": Int64(5)}},
        {"documentKey": {"_id": None}},
        {"documentKey": {"_id": {"a": 1.0, "b": [Int64(1)]}}},
        {"documentKey": {"_id": {"$oid": "x"}}},
        {"documentKey": {"_id": DBRef("c", 1)}},
        {"documentKey": {"_id": Code("f()", {"x": 1})}},
        {"documentKey": {"_id": Regex("a", "i")}},
        {"documentKey": {"_id": float("nan")}},
        {"documentKey": {"_id": DatetimeMS(2**60)}},
        {"documentKey": {"shard": 1, "_id": ObjectId(b"k" * 12)}},
        {"clusterTime": 5},
        {"clusterTime": Int64(5)},
        {"fullDocument": {}},
        {"fullDocument": {"$oid": "x"}},
        {"fullDocument": {"a": Code("f()"), "b": [Code("g()", {"x": 1})]}},
        {"fullDocument": {"code": "text", "ref": DBRef("c", Code("f()"))}},
        {"fullDocument": {"a": float("inf"), "b": None}},
    ],
    ids=repr,
)
def test_one_that_is_unlike_others_changes_none_of_them(fields: dict[str, Any]) -> None:
    usual = dict(next(layouts())[1])
    raw = change_event(usual).raw or b""
    odd = bson.encode({**usual, **fields} if fields else {})

    def seen(event: ChangeEvent) -> list[Any]:
        found: list[Any] = [outcome(partial(event.render, name)) for name in ("extended", "document", "plain")]
        looks: list[Callable[[], Any]] = [
            lambda: event.event_id,
            lambda: event.operation,
            lambda: event.namespace,
            lambda: event.cluster_time_parts,
            lambda: event.object_id,
            lambda: event.key,
            lambda: event.ordering_key,
            lambda: repr(event.exact_id),
        ]
        return found + [outcome(look) for look in looks]

    raws = [raw, odd, raw]
    assert [seen(event) for event in Events.of(raws)] == [seen(ChangeEvent(each)) for each in raws]


def test_an_event_of_16_mb() -> None:
    log = ChangeLog()
    usual, large = log.inserts(1), log.insert({"_id": 2, "text": "x" * (16 * 1024 * 1024 - 500)})
    events = Events.of(raws_of([*usual, large, *log.inserts(1)]))
    assert [len(part.raws) for part in events._parts or ()] == [1, 1, 1]
    assert len(events[1].render(EXTENDED)) > 16_000_000


def test_what_was_filtered_or_sliced_stays_together(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = part.decode_all
    monkeypatch.setattr(part, "decode_all", lambda raws: calls.append(len(raws)) or original(raws))
    whole = Events.of(raws_of(ChangeLog().inserts(10)))
    some = Events(event for index, event in enumerate(whole) if index % 3)
    some.want((EXTENDED, FACTS))
    assert some.render(EXTENDED) == [ChangeEvent(event.raw).render(EXTENDED) for event in some]
    assert whole[2:5].render(EXTENDED) == [event.render(EXTENDED) for event in whole][2:5]
    assert [event.key for event in some] == [f'{{"_id":{number}}}' for number in range(10) if number % 3]
    assert calls.count(10) == 1
    assert list(whole) == [*whole[:4], *whole[4:]]
    assert whole == list(whole)


def test_a_target_is_given_what_it_announces() -> None:
    """Facts and formats come from one decoding, whoever asks first."""
    events = Events.of(raws_of(ChangeLog().inserts(3)))
    events.want((EXTENDED, PLAIN, FACTS))
    assert events[0].event_id
    [only] = events._parts or ()
    assert set(only._found) == {EXTENDED, PLAIN, FACTS}
