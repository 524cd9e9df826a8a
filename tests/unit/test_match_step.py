"""MATCH and ON_EXIT: what passes, what leaves, and what becomes of events that cannot be judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Int64, ObjectId

from docdb_stream import step
from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent, Events
from docdb_stream.formats import part
from docdb_stream.formats.extended import EXTENDED
from docdb_stream.formats.facts import FACTS
from docdb_stream.formats.reader import to_bson
from docdb_stream.query.parse import parse
from docdb_stream.settings import Settings
from docdb_stream.step import Stepped
from docdb_stream.steps import steps_for
from docdb_stream.steps.match import Match
from docdb_stream.testing.events import ChangeLog, change_event
from docdb_stream.testing.targets import ListTarget

LARGE = '{"fullDocument.total": {"$gte": 100}}'


class KeyedTarget(ListTarget):
    keyed = True
    formats = (EXTENDED, FACTS)


def matched(events: Sequence[ChangeEvent], text: str = LARGE, on_exit: Any = "delete", **options: Any) -> Stepped:
    together = Events.of([event.raw or b"" for event in events])
    return step.apply([Match(parse(text), on_exit, **options)], together)


def seen(stepped: Stepped) -> list[tuple[str, Any]]:
    return [(event.operation, (event.document_key or {}).get("_id")) for event in stepped.events]


@pytest.fixture
def log() -> ChangeLog:
    return ChangeLog()


def order(_id: Any, total: Any) -> dict[str, Any]:
    return {"_id": _id, "total": total}


# What passes, and what leaves


def test_inserts_that_do_not_match_are_left_out_and_updates_become_deletes(log: ChangeLog) -> None:
    events = [
        log.insert(order(1, 100)),
        log.insert(order(2, 99)),
        log.update(order(3, 100.0)),
        log.update(order(4, 99.5)),
        log.replace(order(5, Int64(100))),
        log.replace(order(6, "100")),
        log.update(order(7, 100), gone=True),
        log.delete(8),
    ]
    found = matched(events)
    assert seen(found) == [
        ("insert", 1),
        ("update", 3),
        ("delete", 4),
        ("replace", 5),
        ("delete", 6),
        ("delete", 7),
        ("delete", 8),
    ]
    assert found.filtered == {"match": 1}
    ignored = matched(events, on_exit="ignore")
    assert seen(ignored) == [("insert", 1), ("update", 3), ("replace", 5), ("delete", 8)]
    assert ignored.filtered == {"match": 4}


def test_events_about_no_document_of_their_own_always_pass(log: ChangeLog) -> None:
    events = log.every_operation()[4:]
    for text in (LARGE, '{"operationType": "insert"}', '{"ns.coll": "others"}', '{"documentKey._id": 7}'):
        found = matched(events, text, "ignore")
        assert [event.raw for event in found.events] == [event.raw for event in events]
        assert not found.filtered


def test_a_document_that_was_gone_does_not_match_whatever_is_asked_of_missing_fields(log: ChangeLog) -> None:
    gone = log.update(order(1, 1), gone=True)
    never = change_event({name: value for name, value in gone.document.items() if name != "fullDocument"})
    for text in (
        '{"fullDocument.total": {"$ne": 5}}',
        '{"fullDocument": null}',
        '{"fullDocument.a": {"$exists": false}}',
    ):
        assert seen(matched([gone, never], text)) == [("delete", 1), ("delete", 1)]
    assert seen(matched([gone, never], '{"ns.coll": "orders"}')) == [("update", 1), ("update", 1)]


def test_no_delete_is_made_in_a_collection_of_which_nothing_ever_matched(log: ChangeLog) -> None:
    elsewhere = ChangeLog(coll="carts")
    events = [log.update(order(1, 5)), elsewhere.update(order(1, 5)), elsewhere.delete(1)]
    for text in (
        '{"fullDocument.total": {"$gte": 100}, "ns.coll": "orders"}',
        '{"ns": {"db": "shop", "coll": "orders"}}',
    ):
        found = matched(events, text)
        assert [(event.operation, event.namespace.coll) for event in found.events] == [
            ("delete" if "total" in text else "update", "orders"),
            ("delete", "carts"),
        ]
        assert found.filtered == {"match": 1}


def test_an_update_without_its_post_image_is_rejected_since_its_document_may_be_there(log: ChangeLog) -> None:
    found = matched([log.update(order(1, 1), gone=True), log.update(order(2, 1))], null_is_gone=False)
    assert seen(found) == [("delete", 2)]
    [rejection] = found.rejected
    assert (rejection.target, rejection.event.document_key) == ("match", {"_id": 1})
    assert "post-image" in rejection.reason


def test_a_delete_made_of_an_update_is_in_its_place_and_holds_nothing_of_the_document(log: ChangeLog) -> None:
    update = change_event(
        {
            **log.update({"_id": 1, "total": 1, "secret": "s3cret"}).document,
            "lsid": {"id": 5},
            "txnNumber": Int64(7),
            "fullDocumentBeforeChange": {"secret": "s3cret"},
        }
    )
    [delete] = matched([update]).events
    expected = {"operationType": "delete"} | {
        name: update.document[name]
        for name in ("_id", "clusterTime", "wallTime", "ns", "documentKey", "lsid", "txnNumber")
    }
    assert delete.document == expected
    assert delete.event_id == update.event_id
    assert b"s3cret" not in (delete.raw or b"")
    assert matched([update]).events[0].raw == delete.raw  # a replay makes the very same


def test_the_key_of_a_delete_is_the_bytes_that_it_was(log: ChangeLog) -> None:
    document = {"$symbol": "odd"}, {"$undefined": True}
    for _id in document:
        fields = {**json.loads(log.update(order(1, 1)).render("extended")), "documentKey": {"_id": _id}}
        raw = to_bson(fields)
        [delete] = matched([ChangeEvent(raw)]).events
        assert to_bson({"documentKey": {"_id": _id}})[4:-1] in (delete.raw or b"")
        assert delete.key == ChangeEvent(raw).key


def test_an_update_without_a_key_cannot_become_a_delete(log: ChangeLog) -> None:
    keyless = change_event(
        {name: value for name, value in log.update(order(1, 1)).document.items() if name != "documentKey"}
    )
    found = matched([keyless])
    assert not found.events
    assert "documentKey" in found.rejected[0].reason


# What cannot be judged


def stored(log: ChangeLog, **document: Any) -> ChangeEvent:
    """An insert of a document in Extended JSON, as it is stored."""
    fields = json.loads(log.insert({"_id": 1}).render("extended"))
    return ChangeEvent(to_bson({**fields, "fullDocument": {"_id": 1, **document}}))


def test_what_decoding_gives_up_is_judged_as_it_is_stored(log: ChangeLog) -> None:
    events = [stored(log, total=150, kind={"$symbol": "a"}), stored(log, total=5), stored(log, total=150)]
    assert len(matched(events, '{"fullDocument.kind": "a"}').events) == 1
    assert len(matched(events, '{"fullDocument.kind": {"$type": "symbol"}}').events) == 1
    assert len(matched(events).events) == 2
    twice = stored(log, total=1, totam=200)
    raw = (twice.raw or b"").replace(b"totam\0", b"total\0")
    assert bson.decode(raw)["fullDocument"]["total"] == 200
    assert not matched([ChangeEvent(raw)]).events  # the server sees the first


def test_what_versions_judge_differently_is_rejected_and_nothing_else(log: ChangeLog) -> None:
    events = [
        stored(log, total={"$undefined": True}),
        stored(log, total=150),
        stored(log, total=150, x={"$undefined": True}),
    ]
    found = matched(events)
    assert [event.raw for event in found.events] == [event.raw for event in events[1:]]
    assert "Undefined" in found.rejected[0].reason


def test_what_cannot_be_decoded_is_rejected_unless_it_always_passes(log: ChangeLog) -> None:
    def broken(event: ChangeEvent) -> ChangeEvent:
        return ChangeEvent((event.raw or b"").replace(b"broken", b"br\xff\xffen"))

    insert = broken(log.insert({"_id": "broken", "total": 100}))
    delete = broken(log.delete("broken"))
    found = matched([insert, delete, log.insert(order(1, 100))])
    assert [event.raw for event in found.events][:1] == [delete.raw]
    assert len(found.events) == 2
    assert [rejection.event.raw for rejection in found.rejected] == [insert.raw]


def test_what_is_no_change_event_passes_and_is_refused_by_targets() -> None:
    none = ChangeEvent(bson.encode({"a": 1}))
    assert [event.raw for event in matched([none]).events] == [none.raw]


def test_an_event_that_came_as_no_bson_is_judged_alike(log: ChangeLog) -> None:
    events = [ChangeEvent(document=event.document) for event in (log.insert(order(1, 100)), log.update(order(2, 1)))]
    found = step.apply([Match(parse(LARGE), "delete")], events)
    assert seen(found) == [("insert", 1), ("delete", 2)]


# Decoding once


class Counted:
    """A format that counts what it renders."""

    name = "counted"

    def __init__(self) -> None:
        self.rendered = 0

    def render(self, decoded: Any) -> list[bytes]:
        self.rendered += len(decoded.documents)
        return [b"x"] * len(decoded.documents)


@pytest.mark.parametrize(("passing", "decodings"), [(1000, 1), (500, 1), (10, 2)])
def test_judging_and_rendering_share_a_decoding_where_most_passes(
    log: ChangeLog, monkeypatch: pytest.MonkeyPatch, passing: int, decodings: int
) -> None:
    counted, decoded = Counted(), 0
    real = part.decode_all

    def decode_all(raws: Sequence[bytes]) -> Any:
        nonlocal decoded
        decoded += len(raws)
        return real(raws)

    monkeypatch.setattr(part, "decode_all", decode_all)
    raws = [log.insert(order(ObjectId(), 100 if number < passing else 0)).raw or b"" for number in range(1000)]
    match = Match(parse(LARGE), "delete", formats=[counted])
    for _ in range(2):  # the first time nothing is known of how many pass
        counted.rendered = decoded = 0
        made = step.apply([match], Events.of(raws))
        assert Events(made.events).render(counted) == [b"x"] * passing
    if decodings == 1:
        assert (decoded, counted.rendered) == (1000, 1000)
    else:
        assert (decoded, counted.rendered) == (1000 + passing, passing)


def test_a_format_that_gives_truth_values_is_refused_still(log: ChangeLog) -> None:
    class Odd:
        name = "odd"

        def render(self, decoded: Any) -> list[Any]:
            return [True for _ in decoded.documents]

    with pytest.raises(UnrenderableError):
        log.insert(order(1, 1)).render(Odd())


# Which step the settings make


def settings(**values: Any) -> Settings:
    return Settings(documentdb_uri="mongodb://127.0.0.1:1", **values)


@pytest.mark.parametrize(
    ("match", "target", "given", "expected"),
    [
        (LARGE, KeyedTarget, None, "delete"),
        (LARGE, ListTarget, None, "ignore"),
        (LARGE, KeyedTarget, "ignore", "ignore"),
        (LARGE, ListTarget, "delete", "delete"),
        ('{"fullDocument.a": 1, "ns.coll": "a", "documentKey._id": 1}', KeyedTarget, None, "delete"),
        ('{"ns.coll": "orders"}', KeyedTarget, None, "ignore"),
        ('{"fullDocument.a": 1, "operationType": "insert"}', KeyedTarget, None, "ignore"),
        ('{"updateDescription.updatedFields.a": 1}', KeyedTarget, None, "ignore"),
    ],
)
def test_what_becomes_of_documents_that_leave_depends_on_query_and_targets(
    match: str, target: Callable[[], ListTarget], given: str | None, expected: str
) -> None:
    [found] = steps_for(settings(match=match, on_exit=given), [target()])
    assert isinstance(found, Match)
    assert found.on_exit == expected


def test_there_is_no_step_without_match() -> None:
    assert list(steps_for(settings(), [ListTarget()])) == []


# Settings


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"match": "{"}, "match: it is no JSON"),
        ({"match": "{}"}, "match: it is empty"),
        ({"match": '{"$where": "1"}'}, "match: $where is not supported"),
        (
            {"match": '{"fullDocument.a": {"$regex": "\\\\p{L}"}}'},
            "match: fullDocument.a: the regular expression has \\p",
        ),
        ({"match": '{"fullDocument.$a": 1}'}, "takes no path with $"),
        ({"match": '{"total": {"$gte": 100}}'}, "say fullDocument.total"),
        ({"match": '{"$or": [{"ns.db": "a"}, {"a.b": 1}]}'}, "say fullDocument.a.b"),
        ({"match": LARGE, "full_document": "default"}, "which no update has with full_document = default"),
        ({"match": '{"fullDocumentBeforeChange.a": 1}'}, "set full_document_before_change"),
        ({"on_exit": "delete"}, "match is not set"),
        ({"match": '{"updateDescription.updatedFields.a": 1}', "on_exit": "delete"}, "would delete the document"),
        (
            {
                "match": '{"fullDocument.a": 1, "fullDocumentBeforeChange.a": 2}',
                "on_exit": "delete",
                "full_document_before_change": "when_available",
            },
            "would delete the document",
        ),
    ],
)
def test_what_cannot_work_is_one_line_that_says_why(values: dict[str, str], reason: str) -> None:
    environment = {key.upper(): value for key, value in values.items()}
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"DOCUMENTDB_URI": "mongodb://127.0.0.1:1", **environment})
    [problem] = caught.value.problems
    assert reason in problem or reason.replace("match: ", "MATCH: ") in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    "text",
    [
        LARGE,
        '{"fullDocument.tag": "#1", "fullDocument.b": "a #b"}',
        '{"fullDocument.price": {"$in": ["$5", "$$", "%d", "%(a)s", "{x}", "; no comment", "a=b: c"]}}',
        '{"$or": [{"fullDocument.total": {"$gte": 100}}, {"operationType": "replace"}]}',
        '{"fullDocument.a": "\\u0024{HOME}  \\u0023"}',
        '{"fullDocument.n": {"$regex": "^\\\\d+$", "$options": "i"}}',
    ],
)
def test_a_query_survives_the_ini_file_and_the_environment(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config.ini"
    file.write_text(f"[docdb-stream]\ndocumentdb_uri = mongodb://127.0.0.1:1\nmatch = {text}\n")
    [from_file] = Settings.from_config(str(file), {"HOME": "wrong"})
    from_env = Settings.from_env({"DOCUMENTDB_URI": "mongodb://127.0.0.1:1", "MATCH": text})
    assert from_file.match == from_env.match == text
    parse(text)


def test_a_query_may_have_several_lines_and_variables(tmp_path: Path) -> None:
    file = tmp_path / "config.ini"
    file.write_text(
        "[docdb-stream]\ndocumentdb_uri = mongodb://127.0.0.1:1\nmatch = {\n"
        '    "fullDocument.total": {"$gte": ${LEAST}},\n    "fullDocument.status": "new"\n    }\n'
    )
    [found] = Settings.from_config(str(file), {"LEAST": "250"})
    assert parse(found.match or "").matches({"fullDocument": {"total": 250, "status": "new"}})
    assert not parse(found.match or "").matches({"fullDocument": {"total": 249, "status": "new"}})
