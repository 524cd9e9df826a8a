"""Events rendered together, from their bytes, against the same events decoded and rendered one by one."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import bson
import pytest
from bson import Binary, Decimal128, Int64, ObjectId, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docdb_stream import encoding, envelope
from docdb_stream.chunk import CHUNK_BYTES, CHUNK_EVENTS, chunks
from docdb_stream.encoding import UnrenderableError
from docdb_stream.envelope import open_envelopes
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.testing.events import ChangeLog, change_event


@pytest.fixture(autouse=True)
def _no_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "_layouts", ())


def raws_of(events: Sequence[ChangeEvent]) -> list[bytes]:
    return [event.raw for event in events if event.raw is not None]


def outcome(render: Callable[[], bytes | None]) -> bytes | str | None:
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
        outcome(event.extended_json),
        outcome(event.document_json),
        outcome(event.full_document_json),
    ]


def assert_same(raws: Sequence[bytes]) -> None:
    together = ChangeEvent.all_of(raws)
    assert [event.raw for event in together] == raws
    assert [looked_at(event) for event in together] == [looked_at(ChangeEvent(raw)) for raw in raws]


def opened(raws: Sequence[bytes]) -> int:
    return sum(len(events.places) for events in open_envelopes(raws))


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


@pytest.mark.parametrize("count", [0, 1, CHUNK_EVENTS - 1, CHUNK_EVENTS, CHUNK_EVENTS + 1, 3 * CHUNK_EVENTS + 5])
def test_any_number_of_events(count: int) -> None:
    assert_same(raws_of(ChangeLog().inserts(count)))


def test_chunks_are_small() -> None:
    raws = raws_of(ChangeLog().inserts(9, size_bytes=CHUNK_BYTES // 4))
    assert [len(chunk.raws) for chunk in chunks(raws)] == [3, 3, 3]
    assert [len(chunk.raws) for chunk in chunks([bytes(CHUNK_BYTES * 2)] * 2)] == [1, 1]


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
def test_layouts_are_learnt(name: str, event: dict[str, Any]) -> None:
    raw = change_event(event).raw
    assert raw is not None
    assert opened([raw, raw]) == 2
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
        assert outcome(ChangeEvent.all_of([raw, twice])[1].extended_json) == encoding.extended_json(
            encoding.decode(twice), twice
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
            [_, event] = ChangeEvent.all_of([raw, bytes(broken)])
            assert outcome(event.extended_json) == outcome(
                lambda broken=bytes(broken): encoding.extended_json(encoding.decode(broken), broken)
            ), place


def test_cut_bytes_are_refused() -> None:
    raw = raws_of(ChangeLog().inserts(1))[0]
    for size in range(len(raw)):
        assert opened([raw[:size]]) == 0
    assert opened([raw]) == 1
    for size in range(len(raw)):
        assert opened([raw, raw[:size]]) == 1


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
    assert [event.namespace for event in ChangeEvent.all_of(raws_of(events))] == [event.namespace for event in events]
    assert_same(raws_of(events))


def test_many_layouts_do_not_pile_up() -> None:
    usual = dict(next(layouts())[1])
    for number in range(2 * envelope.MAX_LAYOUTS):
        name = "x" + "".join(chr(97 + int(digit)) for digit in str(number))
        assert_same([change_event({**usual, name: {"a": 1}}).raw or b""])
    assert len(envelope._layouts) == envelope.MAX_LAYOUTS


def test_targets_that_ask_at_the_same_time_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = encoding.extended_json_all

    def counted(raws: Sequence[bytes]) -> list[bytes | None]:
        calls.append(len(raws))
        return original(raws)

    monkeypatch.setattr(encoding, "extended_json_all", counted)
    events = ChangeEvent.all_of(raws_of([ChangeLog().insert({"_id": ObjectId()}) for _ in range(CHUNK_EVENTS)]))
    rendered: list[list[bytes]] = []
    threads = [
        threading.Thread(target=lambda: rendered.append([event.extended_json() for event in events])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [CHUNK_EVENTS]
    assert all(one == rendered[0] for one in rendered)
