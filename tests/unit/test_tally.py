"""What is counted of each collection."""

from __future__ import annotations

import datetime as dt

from docdb_stream.events import ChangeEvent, Namespace, Rejection
from docdb_stream.metrics import run_metrics
from docdb_stream.result import CollectionFigures, RunResult
from docdb_stream.settings import Settings
from docdb_stream.tally import COLLECTIONS_MOST, OTHER, Tally
from docdb_stream.testing.events import ChangeLog


def saved(tally: Tally, known: dict[str, CollectionFigures] | None = None) -> dict[str, CollectionFigures]:
    found = {} if known is None else known
    tally.save(found)
    return found


def test_each_collection_of_a_database() -> None:
    orders, carts = ChangeLog().inserts(3), ChangeLog(coll="carts").inserts(2)
    tally = Tally(Namespace("shop"))
    tally.took([*orders, *carts], 0)
    tally.refused([Rejection(orders[0], "kinesis", "too large"), Rejection(carts[1], "kinesis", "too large")])
    tally.refused([Rejection(carts[1], "sqs", "too large")])
    assert saved(tally) == {
        "shop.orders": CollectionFigures(3, sum(each.size_bytes for each in orders), 1),
        "shop.carts": CollectionFigures(2, sum(each.size_bytes for each in carts), 2),
    }
    assert saved(tally) == {}


def test_one_collection_is_told_without_a_look_at_its_events() -> None:
    tally = Tally(Namespace("shop", "orders"))
    tally.took([ChangeEvent(b"nothing that could be read")] * 7, 700)
    assert saved(tally) == {"shop.orders": CollectionFigures(7, 700, 0)}


def test_what_is_not_saved_does_not_count() -> None:
    tally = Tally(None)
    tally.took(ChangeLog().inserts(3), 0)
    tally.forget()
    tally.took(ChangeLog().inserts(1), 0)
    assert saved(tally)["shop.orders"].documents == 1


def test_there_is_an_end_to_names() -> None:
    tally, known = Tally(None), dict[str, CollectionFigures]()
    for number in range(3 * COLLECTIONS_MOST):
        tally.took(ChangeLog(coll=f"c{number}").inserts(1), 0)
        if number % 70 == 0:
            saved(tally, known)
    saved(tally, known)
    assert len(known) <= COLLECTIONS_MOST + 1
    assert known[OTHER].documents == 3 * COLLECTIONS_MOST - (len(known) - 1)


def test_an_event_of_nobody_is_another() -> None:
    tally = Tally(None)
    tally.took([ChangeEvent(document={"operationType": "insert"})], 0)
    assert saved(tally)[OTHER].documents == 1


def test_metrics_and_runs_together() -> None:
    first = RunResult("s", collections={"shop.a": CollectionFigures(1, 10, 0)})
    both = RunResult("s", collections={"shop.a": CollectionFigures(2, 20, 1), "shop.b": CollectionFigures(1, 5)})
    both = both.after(first)
    assert both.as_dict()["collections"]["shop.a"] == {"documents": 3, "bytes": 30, "failures": 1}
    found = run_metrics(both, Settings(documentdb_uri="mongodb://h/"), dt.datetime.now(dt.UTC))
    told = {(each.name, each.dimensions.get("collection")): each.value for each in found}
    assert (told["Documents", "shop.a"], told["Bytes", "shop.a"], told["Failures", "shop.a"]) == (3, 30, 1)
    assert told["Documents", "shop.b"] == 1
