"""A collection whose documents have something new stops alone; once that is accepted, nothing of it is lost."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from bson import Timestamp
from scripted import Letters, ListTarget, Store

from docdb_stream.errors import DocdbStreamError, HistoryLostError
from docdb_stream.events import Batch, ChangeEvent, Namespace
from docdb_stream.poller import Poller, RunResult
from docdb_stream.position import Position, ResumeToken
from docdb_stream.settings import Settings
from docdb_stream.step import Step, each
from docdb_stream.stores.memory import MemorySchemaStore
from docdb_stream.testing.events import ChangeLog, change_event
from docdb_stream.testing.source import ScriptedSource

NOW = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
NAMES = ("orders", "customers", "invoices")


class Shop:
    """A stream over a database of three collections; ``events`` is what happened after the stream's start."""

    def __init__(self, *, coll: str | None = None, batch_size: int = 10) -> None:
        self.logs = {name: ChangeLog("shop", name) for name in NAMES}
        self.store, self.letters = Store([]), Letters([])
        self.letters.write = lambda *_: None  # type: ignore[method-assign]
        self.schemas = MemorySchemaStore()
        self.target = ListTarget([])
        self.source = ScriptedSource([], batch_size=batch_size)
        self.events: list[ChangeEvent] = []
        self.steps: list[Step] = []
        self.alerts: list[Exception] = []
        self._time = next(iter(self.logs.values()))._time
        watched = {"watched_db_name": "shop"} | ({"watched_collection_name": coll} if coll else {})
        self.settings = Settings(
            documentdb_uri="mongodb://nowhere", max_loop=0, batch_size=batch_size, schema_policy="stop", **watched
        )
        self.stream = self.settings.stream_name
        lease = self.store.acquire(self.stream, self.settings.scope, "setup", 60)
        self.store.save(lease, Position(operation_time=Timestamp(1, 0)))
        self.store.release(lease)

    def happens(self, name: str, make: Callable[[ChangeLog], ChangeEvent]) -> ChangeEvent:
        log = self.logs[name]
        log._time = self._time
        event = make(log)
        self._time = log._time
        self.source.append(event)
        self.events.append(event)
        return event

    def insert(self, name: str, **fields: Any) -> ChangeEvent:
        return self.happens(name, lambda log: log.insert({"_id": len(self.events), **fields}))

    def run(self, **changes: Any) -> RunResult:
        settings = self.settings.model_copy(update=changes)
        poller = Poller(
            settings,
            source=self.source,
            store=self.store,
            targets=[self.target],
            dead_letters=self.letters,
            steps=self.steps,
            schemas=self.schemas,
        )
        poller.alerts.send = self.alerts.append  # type: ignore[method-assign,assignment]
        return poller.run()

    def accept(self, name: str) -> None:
        assert self.schemas.accept(self.stream, Namespace("shop", name), NOW) is not None

    def delivered(self, name: str = "") -> list[str]:
        return [event.event_id for event in self.target.durable if name in ("", event.namespace.coll)]

    def all_of(self, name: str = "") -> list[str]:
        return [event.event_id for event in self.events if name in ("", event.namespace.coll)]


class HighWater(ScriptedSource):
    """At its end a server gives a token that is no event's: up to where it has looked."""

    def read(self, first: int, position: Position) -> tuple[int, Batch]:
        following, batch = super().read(first, position)
        time = batch.position.operation_time
        if not batch.drained or time is None:
            return following, batch
        token = ResumeToken({"_data": f"82{time.time:08X}{time.inc:08X}2B0429296E1404"})
        return following, replace(batch, position=Position(token, time))

    def _index_after(self, position: Position) -> int:
        token = position.token
        if token is not None and token.data.endswith("2B0429296E1404"):
            position = Position(operation_time=position.operation_time)
        return super()._index_after(position)


@pytest.fixture
def shop() -> Shop:
    shop = Shop()
    for name in NAMES:
        shop.insert(name, total=1)
    assert shop.run().stopped == {}
    return shop


def test_what_comes_before_the_first_checkpoint_is_learned(shop: Shop) -> None:
    kept = shop.schemas.load(shop.stream, Namespace("shop", "orders"))
    assert kept is not None
    assert {path: [*types] for path, types in kept.ledger.paths.items()} == {"_id": ["int"], "total": ["int"]}
    assert (kept.ledger.version, kept.ledger.documents, kept.news) == (1, 1, None)


def test_a_new_field_stops_its_collection_alone(shop: Shop) -> None:
    shop.insert("orders", total=2)
    shop.insert("orders", total=3, coupon="x")
    shop.insert("customers", total=4)
    shop.insert("orders", total=5)
    result = shop.run()
    assert result.stopped == {"shop.orders": "new in its documents: coupon of type string"}
    assert result.caught_up
    assert result.filtered_by == {}  # all was one batch: what follows in it is left for later as well
    assert shop.delivered() == [shop.all_of()[index] for index in (0, 1, 2, 3, 5)]
    [alert] = shop.alerts
    assert "coupon" in str(alert)
    assert isinstance(alert, DocdbStreamError)
    assert alert.exit_code == 8
    assert "schema accept 'shop.*' 'shop.orders'" in alert.hint


def test_others_go_on_and_what_is_held_back_is_counted(shop: Shop) -> None:
    shop.insert("orders", coupon="x")
    shop.run()
    shop.insert("orders", total=1)
    shop.insert("customers", total=1)
    result = shop.run()
    assert result.filtered_by == {"schema": 1}
    assert result.stopped
    assert shop.delivered("customers") == shop.all_of("customers")
    assert len(shop.alerts) == 1


def test_accepted_it_goes_on_without_loss_and_without_repetition(shop: Shop) -> None:
    for number in range(30):
        shop.insert(NAMES[number % 3], total=1, **({"coupon": "x"} if number in (6, 13) else {}))
    shop.run(batch_size=4)
    assert len(shop.delivered("orders")) < len(shop.all_of("orders"))
    shop.accept("orders")
    result = shop.run(batch_size=4)
    assert [*result.stopped] == ["shop.customers"]
    assert result.filtered_by["delivered before"] > 0
    assert shop.delivered("orders") == shop.all_of("orders")
    shop.accept("customers")
    assert shop.run().stopped == {}
    assert sorted(shop.delivered()) == sorted(shop.all_of())
    for name in NAMES:
        assert shop.delivered(name) == shop.all_of(name)
    found = shop.store.load(shop.stream)
    assert found is not None
    assert found.position is not None
    assert (found.position.stops, found.position.resumption) == ((), None)
    kept = shop.schemas.load(shop.stream, Namespace("shop", "orders"))
    assert kept is not None
    assert [(change.version, change.how) for change in kept.ledger.history] == [(1, "learned"), (2, "accepted")]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_what_comes_after_a_position_that_is_no_events_is_not_taken_for_delivered(batch_size: int) -> None:
    shop = Shop(batch_size=batch_size)
    shop.source = HighWater([], batch_size=batch_size)
    shop.insert("orders", total=1)
    shop.insert("customers", total=1)
    shop.run()
    shop.insert("orders", coupon="x")
    shop.insert("customers", total=1)
    shop.run()
    shop.accept("orders")
    for _ in range(5):  # in one batch with what the stream had come to
        shop.insert("customers", total=1)
        shop.insert("orders", total=1)
    assert shop.run().stopped == {}
    assert shop.delivered("customers") == shop.all_of("customers")
    assert shop.delivered("orders") == shop.all_of("orders")


def test_a_new_type_is_news_and_a_null_is_not(shop: Shop) -> None:
    shop.insert("orders", total=None)
    assert shop.run().stopped == {}
    shop.insert("orders", total="two")
    assert shop.run().stopped == {"shop.orders": "new in its documents: total of type string"}


def test_what_is_nested_is_news_too(shop: Shop) -> None:
    shop.insert("orders", total=1, items=[{"sku": "a"}])
    shop.run()
    shop.accept("orders")
    shop.run()
    shop.insert("orders", items=[{"sku": "b"}, {"sku": 7}])
    assert shop.run().stopped == {"shop.orders": "new in its documents: items[].sku of type int"}


def test_the_only_collection_of_a_stream_stops_the_stream() -> None:
    shop = Shop(coll="orders", batch_size=3)
    for number in range(9):
        shop.insert("orders", total=1, **({"coupon": "x"} if number == 4 else {}))
    for _ in range(2):
        result = shop.run(state_sync_count=1)
        assert (result.stopped_by, result.caught_up) == ("schema", False)
        assert [*result.stopped] == ["shop.orders"]
        assert shop.delivered() == shop.all_of()[:4]
    shop.accept("orders")
    assert shop.run().caught_up
    assert shop.delivered() == shop.all_of()


def test_events_of_one_transaction_are_told_apart(shop: Shop) -> None:
    """They have one cluster time, and the stream stands amid them when it goes back, and when it has gone back."""
    with shop.logs["orders"].transaction():
        time = shop.logs["orders"]._time = shop._time
        for number in range(12):
            name = NAMES[number % 3]
            shop.happens(
                "orders",
                lambda log, name=name, number=number: _in(log, name, number, coupon=number >= 3),  # type: ignore[misc]
            )
    assert {event.cluster_time.time for event in shop.events[3:]} == {time.time}
    for batch_size in (2, 3, 1):
        shop.source._batch_size = batch_size
        while names := shop.run(batch_size=batch_size, max_loop=2).stopped:
            for name in names:
                if shop.schemas.accept(shop.stream, Namespace(*name.split(".")), NOW):
                    break
            else:
                continue
    assert sorted(shop.delivered()) == sorted(shop.all_of())


def _in(log: ChangeLog, name: str, number: int, *, coupon: bool) -> ChangeEvent:
    event = log.insert({"_id": number, "total": 1} | ({"coupon": "x"} if coupon else {}))
    return change_event({**event.document, "ns": {"db": "shop", "coll": name}})


def test_where_a_step_makes_several_of_a_change_all_of_it_waits() -> None:
    shop = Shop(batch_size=10)

    def twice(event: ChangeEvent) -> list[ChangeEvent]:
        document = event.document
        token = {"_data": event.event_id + "#1"}
        extra = {"_id": 1, "copy": True} | {key: 1 for key in document["fullDocument"] if key == "coupon"}
        return [
            event,
            change_event({**document, "_id": token, "ns": {"db": "copies", "coll": "x"}, "fullDocument": extra}),
        ]

    shop.steps = [each(twice)]
    shop.insert("orders", total=1)
    shop.insert("customers", total=1)
    shop.run()
    shop.insert("orders", total=2, coupon="x")
    shop.insert("orders", total=3)
    shop.insert("customers", total=4)
    assert {*shop.run().stopped} == {"shop.orders"}
    ids = shop.all_of()
    expected = [ids[0], ids[0] + "#1", ids[1], ids[1] + "#1", ids[4], ids[4] + "#1"]
    assert shop.delivered() == expected
    shop.accept("orders")
    assert {*shop.run().stopped} == {"copies.x"}
    assert shop.delivered() == expected  # of the change whose copy is new, nothing has gone out
    assert shop.schemas.accept(shop.stream, Namespace("copies", "x"), NOW) is not None
    assert shop.run().stopped == {}
    assert sorted(shop.delivered()) == sorted(one for each_id in ids for one in (each_id, each_id + "#1"))


def test_history_that_is_lost_meanwhile_is_told_and_the_others_go_on(shop: Shop) -> None:
    shop.insert("orders", total=1)
    shop.insert("orders", coupon="x")
    shop.insert("customers", total=1)
    shop.run()
    shop.accept("orders")
    shop.source.open = _lost_once(shop.source.open)  # type: ignore[method-assign]
    shop.insert("customers", total=1)
    result = shop.run()
    assert (result.caught_up, result.stopped) == (True, {})
    [entry] = shop.store.ledger(shop.stream)
    assert entry.kind == "history-lost"
    assert "--namespaces 'shop.orders'" in entry.reason
    assert shop.delivered("customers") == shop.all_of("customers")


def _lost_once(open_: Any) -> Any:
    lost: list[bool] = []

    def opened(position: Position) -> Any:
        if not lost:
            lost.append(True)
            raise HistoryLostError("the log rolled over")
        return open_(position)

    return opened


@pytest.mark.parametrize("seed", [*range(10), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(10, 60))])
def test_whatever_happens_nothing_is_lost_and_each_collection_keeps_its_order(seed: int) -> None:
    chance = random.Random(seed)
    shop = Shop(batch_size=chance.choice([1, 2, 5, 20]))
    if seed % 2:
        shop.source = HighWater([], batch_size=shop.source._batch_size)
    crashes = chance.random() < 0.5
    for _ in range(40):
        for _ in range(chance.randrange(6)):
            fields = {f"f{chance.randrange(6)}": chance.choice([1, "text", None, [1], {"a": chance.choice([1, "b"])}])}
            shop.insert(chance.choice(NAMES), **fields)
        shop.store.fail_save = crashes and chance.random() < 0.3
        shop.target.held = []
        try:
            shop.run(state_sync_count=chance.choice([1, 3]), max_loop=chance.choice([0, 1, 2, 5]))
        except DocdbStreamError:
            assert shop.store.fail_save
        shop.store.fail_save = False
        if chance.random() < 0.6:
            shop.schemas.accept(shop.stream, Namespace("shop", chance.choice(NAMES)), NOW)
    for _ in range(200):
        result = shop.run()
        for name in NAMES:
            shop.schemas.accept(shop.stream, Namespace("shop", name), NOW)
        if result.caught_up and not result.stopped:
            break
    else:
        raise AssertionError("it never comes to its end")
    for name in NAMES:
        found = shop.delivered(name)
        assert {*found} == {*shop.all_of(name)}
        # After the newest event of a collection never an older one without the newest again.
        assert [*dict.fromkeys(reversed(found))][::-1] == shop.all_of(name)
        if not crashes:
            assert found == shop.all_of(name)


def test_no_ledger_is_kept_unless_it_is_asked_for() -> None:
    settings = Settings(documentdb_uri="mongodb://nowhere", watched_db_name="shop")
    assert not settings.keeps_schemas

    assert Settings(documentdb_uri="mongodb://nowhere", bucket_name="b", s3_format="parquet").keeps_schemas
    assert not Settings(documentdb_uri="mongodb://nowhere", s3_format="parquet").keeps_schemas
    assert Settings(documentdb_uri="mongodb://nowhere", schema_policy="evolve").keeps_schemas
