"""The demo's check finds every kind of defect: a check that cannot fail proves nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from docdb_stream.local.demo.verify import Delivery, Verdict, verify_documents, verify_events

Json = dict[str, Any]


def event(number: int, operation: str, _id: Any, version: int = 0) -> Json:
    made: Json = {
        "_id": {"_data": f"82{number:04}"},
        "operationType": operation,
        "clusterTime": {"$timestamp": {"t": 1, "i": number}},
        "ns": {"db": "shop", "coll": "orders"},
        "documentKey": {"_id": _id},
    }
    if operation in ("insert", "replace"):
        made["fullDocument"] = {"_id": _id, "version": version, "price": {"$numberDecimal": "1.50"}, "n": 1}
    if operation == "update":
        made["updateDescription"] = {"updatedFields": {"version": version}, "removedFields": []}
    return made


# One document's whole life, another's in between.
SOURCE = [
    event(1, "insert", "a", 1),
    event(2, "insert", "b", 1),
    event(3, "update", "a", 2),
    event(4, "replace", "a", 3),
    event(5, "update", "b", 2),
    event(6, "delete", "a"),
]


def as_delivered(original: Json) -> Json:
    found = copy.deepcopy(original)
    if original["operationType"] == "update":
        version = original["updateDescription"]["updatedFields"]["version"]
        found["fullDocument"] = {"_id": original["documentKey"]["_id"], "version": version}
    return found


def deliveries(found: Sequence[Json], lane: Callable[[Json], str] = lambda _: "") -> list[Delivery]:
    return [Delivery(lane(each), json.dumps(each, separators=(",", ":")).encode()) for each in found]


def judged(found: Sequence[Json], *, duplicates_allowed: bool = True, **options: Any) -> Verdict:
    return verify_events("kafka", SOURCE, deliveries(found, **options), duplicates_allowed=duplicates_allowed)


def in_order(*numbers: int) -> list[Json]:
    return [as_delivered(SOURCE[number - 1]) for number in numbers]


def counts(verdict: Verdict) -> tuple[int, int, int, int]:
    return verdict.missing, verdict.duplicates, verdict.order_violations, verdict.different


def test_faithful() -> None:
    verdict = judged(in_order(1, 2, 3, 4, 5, 6), duplicates_allowed=False)
    assert verdict.ok
    assert (verdict.expected, verdict.delivered) == (6, 6)
    assert counts(verdict) == (0, 0, 0, 0)
    assert verdict.examples == []


def test_order_between_documents_does_not_matter() -> None:
    assert judged(in_order(2, 5, 1, 3, 4, 6)).ok


def test_lanes() -> None:
    assert judged(in_order(1, 2, 3, 4, 5, 6), lane=lambda each: each["documentKey"]["_id"]).ok
    torn = judged(in_order(1, 2, 3, 4, 5, 6), lane=lambda each: each["operationType"])
    assert not torn.ok
    assert torn.order_violations == 2  # both documents: between two shards there is no order at all


@pytest.mark.parametrize("number", range(1, 7))
def test_any_missing_event(number: int) -> None:
    verdict = judged(in_order(*(other for other in range(1, 7) if other != number)))
    assert counts(verdict) == (1, 0, 0, 0)
    assert not verdict.ok
    assert "missing" in verdict.examples[0]


def test_nothing_delivered() -> None:
    verdict = judged([])
    assert verdict.missing == 6
    assert not verdict.ok


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param((1, 2, 3, 1, 2, 3, 4, 5, 6), id="replay from a checkpoint"),
        pytest.param((1, 2, 2, 3, 3, 4, 5, 6, 6), id="a record sent twice"),
        pytest.param((1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6), id="all again"),
        pytest.param((1, 3, 1, 3, 1, 3, 4, 6, 2, 5), id="two crashes"),
    ],
)
def test_a_replay_is_in_order_and_counted(numbers: tuple[int, ...]) -> None:
    verdict = judged(in_order(*numbers))
    assert counts(verdict) == (0, len(numbers) - 6, 0, 0)
    assert verdict.ok
    assert not judged(in_order(*numbers), duplicates_allowed=False).ok


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param((3, 1, 2, 4, 5, 6), id="first two swapped"),
        pytest.param((1, 2, 4, 3, 5, 6), id="middle swapped"),
        pytest.param((1, 2, 3, 6, 5, 4), id="delete before replace"),
        pytest.param((1, 2, 3, 4, 5, 6, 1, 4, 3, 6), id="copies swapped"),
        pytest.param((1, 2, 3, 4, 5, 6, 1, 4, 6), id="copies skip one"),
        pytest.param((1, 2, 3, 4, 5, 6, 3), id="an old copy comes last"),
    ],
)
def test_out_of_order(numbers: tuple[int, ...]) -> None:
    verdict = judged(in_order(*numbers))
    assert verdict.missing == verdict.different == 0
    assert verdict.order_violations >= 1
    assert not verdict.ok
    assert "order of" in verdict.examples[0]


def test_missing_and_swapped_are_told_apart() -> None:
    assert counts(judged(in_order(1, 2, 6, 4, 5))) == (1, 0, 2, 0)  # 1 3 2: one skip, and it does not end at the last


def altered(number: int, change: Callable[[Json], object]) -> list[Json]:
    found = in_order(1, 2, 3, 4, 5, 6)
    change(found[number - 1])
    return found


@pytest.mark.parametrize(
    ("number", "change"),
    [
        pytest.param(1, lambda e: e["fullDocument"].update(n=2), id="a value"),
        pytest.param(1, lambda e: e["fullDocument"].update(n=1.0), id="int to double"),
        pytest.param(1, lambda e: e["fullDocument"].update(price={"$numberDecimal": "1.5"}), id="digits of a decimal"),
        pytest.param(1, lambda e: e["fullDocument"].update(price="1.50"), id="a type"),
        pytest.param(4, lambda e: e["fullDocument"].update(extra=None), id="a key too much"),
        pytest.param(4, lambda e: e["fullDocument"].pop("n"), id="a key lost"),
        pytest.param(4, lambda e: e.update(fullDocument=dict(reversed(e["fullDocument"].items()))), id="key order"),
        pytest.param(4, lambda e: e.update(operationType="insert"), id="the operation"),
        pytest.param(6, lambda e: e.update(clusterTime={"$timestamp": {"t": 1, "i": 7}}), id="the cluster time"),
        pytest.param(6, lambda e: e.update(documentKey={"_id": "b"}), id="the document key"),
        pytest.param(6, lambda e: e.update(fullDocument=None), id="a field that the source has not"),
        pytest.param(3, lambda e: e["updateDescription"]["updatedFields"].update(version=9), id="updated fields"),
        pytest.param(3, lambda e: e["updateDescription"].pop("removedFields"), id="removed fields"),
        pytest.param(3, lambda e: e["fullDocument"].update(version=1), id="an older looked up document"),
        pytest.param(3, lambda e: e["fullDocument"].update(_id="b"), id="another looked up document"),
        pytest.param(3, lambda e: e.pop("fullDocument"), id="no looked up document"),
    ],
)
def test_different(number: int, change: Callable[[Json], object]) -> None:
    verdict = judged(altered(number, change))
    assert counts(verdict) == (0, 0, 0, 1)
    assert not verdict.ok
    assert len(verdict.examples) == 1


@pytest.mark.parametrize("full", [None, {"_id": "a", "version": 3}])
def test_a_look_up_may_find_a_later_document_or_none(full: Json | None) -> None:
    assert judged(altered(3, lambda e: e.update(fullDocument=full))).ok


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"{}", b'{"_id": {"_data": "829999"}}'])
def test_foreign_payloads(payload: bytes) -> None:
    found = [*deliveries(in_order(1, 2, 3, 4, 5, 6)), Delivery("", payload)]
    verdict = verify_events("kafka", SOURCE, found, duplicates_allowed=True)
    assert counts(verdict) == (0, 0, 0, 1)
    assert not verdict.ok


DOCUMENTS: dict[str, Json] = {"shop-orders/a": {"version": 1, "price": "1.50"}, "shop-orders/b": {"version": 2}}


def test_documents() -> None:
    assert verify_documents("opensearch", DOCUMENTS, DOCUMENTS.items()).ok


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param({}, (2, 0, 0, 0), id="none"),
        pytest.param({"shop-orders/a": DOCUMENTS["shop-orders/a"]}, (1, 0, 0, 0), id="missing"),
        pytest.param({**DOCUMENTS, "shop-orders/b": {"version": 1}}, (0, 0, 0, 1), id="stale"),
        pytest.param({**DOCUMENTS, "shop-orders/b": {"version": 2, "x": 1}}, (0, 0, 0, 1), id="altered"),
        pytest.param({**DOCUMENTS, "shop-orders/c": {"version": 1}}, (0, 0, 0, 1), id="risen from the dead"),
    ],
)
def test_documents_that_differ(found: dict[str, Json], expected: tuple[int, int, int, int]) -> None:
    verdict = verify_documents("opensearch", DOCUMENTS, found.items())
    assert counts(verdict) == expected
    assert not verdict.ok


def test_a_document_found_twice() -> None:
    verdict = verify_documents("opensearch", DOCUMENTS, [*DOCUMENTS.items(), *DOCUMENTS.items()])
    assert verdict.duplicates == 2
    assert not verdict.ok
