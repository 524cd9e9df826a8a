"""What the server is asked for, and what for less where it refuses."""

from __future__ import annotations

from typing import Any

import bson
import pytest
from bson import Timestamp
from pymongo.errors import OperationFailure

from docdb_stream.events import Position, ResumeToken
from docdb_stream.mongodb.opening import Opening
from docdb_stream.mongodb.pipeline import ServerFilter, images, server_filter
from docdb_stream.settings import Settings

TIME = Timestamp(1_700_000_000, 5)
AT_TOKEN = Position(ResumeToken({"_data": "82"}), TIME)
AT_TIME = Position(operation_time=TIME)
LOST = OperationFailure("the resume token was not found", 280)
REFUSED = OperationFailure("unknown operator", 2)


def settings(**values: Any) -> Settings:
    return Settings(documentdb_uri="mongodb://nowhere", watched_db_name="shop", **values)


def opening(*, on_primary: bool = True, **values: Any) -> Opening:
    chosen = settings(**values)
    return Opening(chosen, server_filter(chosen), on_primary=on_primary)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ({}, {"fullDocument": "updateLookup"}),
        ({"full_document": "default"}, {}),
        ({"full_document": "when_available"}, {"fullDocument": "whenAvailable"}),
        ({"operations": "insert,delete"}, {}),
        ({"operations": "insert", "full_document": "required", "full_document_before_change": "required"}, {}),
        (
            {"operations": "delete", "full_document": "required", "full_document_before_change": "required"},
            {"fullDocumentBeforeChange": "required"},
        ),
        (
            {"operations": "update", "full_document_before_change": "when_available"},
            {"fullDocument": "updateLookup", "fullDocumentBeforeChange": "whenAvailable"},
        ),
    ],
)
def test_images(values: dict[str, str], options: dict[str, str]) -> None:
    assert images(settings(**values)) == options


@pytest.mark.parametrize(
    ("filter_at", "rules"),
    [("auto", ("namespaces",)), ("client", ()), ("server", ("namespaces", "operations", "match"))],
)
def test_who_leaves_out_what(filter_at: str, rules: tuple[str, ...]) -> None:
    chosen = settings(namespaces="shop.a", operations="insert", match='{"fullDocument.a": 1}', filter_at=filter_at)
    assert server_filter(chosen).rules == rules
    stages = server_filter(chosen).stages(AT_TOKEN)
    assert len(stages) == bool(rules)
    for stage in stages:
        for rule in stage["$match"]["$and"]:
            assert {"clusterTime": TIME} in rule["$or"], "the position's own event passes each rule"
    bson.encode({"pipeline": stages})


def test_nothing_to_leave_out_is_no_stage() -> None:
    assert ServerFilter({}).stages(AT_TOKEN) == []
    assert server_filter(settings()).conditions == {}


@pytest.mark.parametrize(("on_exit", "judged"), [(None, ["insert"]), ("ignore", ["insert", "update", "replace"])])
def test_what_a_match_on_the_server_is_asked_about(on_exit: str | None, judged: list[str]) -> None:
    chosen = settings(match='{"fullDocument.n": {"$numberLong": "5"}}', on_exit=on_exit, filter_at="server")
    [others, without_document, match] = server_filter(chosen).conditions["match"]
    assert others == {"operationType": {"$nin": judged}}
    assert without_document == {"fullDocument": {"$not": {"$type": "object"}}}
    assert type(match["fullDocument.n"]) is bson.Int64


def test_the_own_state_is_left_out_where_images_are_required() -> None:
    [rule] = server_filter(settings(full_document="required")).stages(AT_TIME)[0]["$match"]["$and"]
    assert {"ns.db": {"$ne": "docdb_stream"}} in rule["$or"]
    assert server_filter(settings(full_document="required")).rules == ()
    assert server_filter(settings(full_document="required", watched_collection_name="a")).conditions == {}


def test_less_and_less_is_asked_for() -> None:
    """Without the filter, then of the primary, then only of what comes after the position's own time."""
    opened = opening(on_primary=False, namespaces="shop.a")
    before = Position(operation_time=TIME)
    request = opened.at(before)
    assert (len(request.stages), request.on_primary) == (1, False)
    assert opened.asks_for_less(LOST, request)
    request = opened.at(before)
    assert (request.stages, request.on_primary) == ([], False)
    assert opened.asks_for_less(LOST, request)
    request = opened.at(before)
    assert (request.on_primary, request.stage["startAtOperationTime"]) == (True, TIME)
    assert opened.asks_for_less(LOST, request)
    request = opened.at(before)
    assert request.stage["startAtOperationTime"] == Timestamp(TIME.time, TIME.inc + 1)
    assert not opened.asks_for_less(LOST, request)
    assert opened.filtered == ()


def test_what_was_opened_with_a_filter_says_so_also_once_it_is_gone() -> None:
    opened = opening(namespaces="shop.a")
    opened.opened()
    assert opened.asks_for_less(REFUSED, opened.at(AT_TOKEN))
    opened.opened()
    assert opened.filtered == ("namespaces",)


@pytest.mark.parametrize(
    "error",
    [
        OperationFailure("not authorized", 13),
        OperationFailure("authentication failed", 18),
        OperationFailure("BSONObj size: 17000000 is invalid", 10334),
        OperationFailure("the post-image was not found", 47),
        OperationFailure("not primary", 10107),
    ],
    ids=lambda error: str(error.code),
)
def test_what_has_other_reasons_is_no_reason_to_ask_for_less(error: OperationFailure) -> None:
    opened = opening(on_primary=False, namespaces="shop.a")
    assert not opened.asks_for_less(error, opened.at(AT_TOKEN))


def test_a_part_of_an_event_is_asked_for_with_its_own_image_alone() -> None:
    opened = opening(full_document="required", full_document_before_change="required", namespaces="shop.a")
    request = opened.in_part(AT_TOKEN, {"fullDocument"}, [{"$project": {"fullDocument": 1}}])
    assert request.stage["fullDocument"] == "required"
    assert "fullDocumentBeforeChange" not in request.stage
    assert "resumeAfter" in request.stage
    assert [next(iter(stage)) for stage in request.stages] == ["$match", "$project"]
    assert "fullDocument" not in opened.in_part(AT_TOKEN, (), []).stage


def test_a_match_is_not_left_to_a_server_that_sends_parts() -> None:
    opened = opening(match='{"fullDocument.a": 1}', operations="insert", filter_at="server")
    assert opened.without_match()
    assert not opened.without_match()
    assert len(opened.at(AT_TOKEN).stages[0]["$match"]["$and"]) == 1
