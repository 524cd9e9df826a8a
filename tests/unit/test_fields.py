"""What the rules about fields make of events: nothing that they take away is in any byte, and all else is as it was."""

from __future__ import annotations

import hashlib
import hmac
import logging
import random
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Binary, Code, Decimal128, Int64, ObjectId
from bson.raw_bson import RawBSONDocument
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scripted import World

from docdb_stream.dead_letters import letter
from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent, Rejection
from docdb_stream.formats import FORMATS, rawbson
from docdb_stream.letters.file import FileDeadLetters
from docdb_stream.settings import Settings
from docdb_stream.step import apply, redacted
from docdb_stream.steps import steps_for
from docdb_stream.steps._paths import Rules
from docdb_stream.steps.fields import Fields, read_key
from docdb_stream.testing.events import ChangeLog, change_event, hostile_documents

KEY = b"0123456789abcdef0123"


def step(**rules: Sequence[str]) -> Fields:
    return Fields(Rules(**rules), lambda: KEY)


def hashed(text: str) -> str:
    return hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()


def changed(event: ChangeEvent, **rules: Sequence[str]) -> dict[str, Any]:
    [found] = step(**rules)([event])
    assert isinstance(found, ChangeEvent)
    return dict(found.document)


def document(full: Mapping[str, Any], **rules: Sequence[str]) -> Any:
    found = changed(ChangeLog().insert({"_id": 1, **full}), **rules)["fullDocument"]
    assert found.pop("_id") == 1
    return found


def update(fields: Mapping[str, Any], removed: Sequence[str] = (), truncated: Sequence[Any] = (), **rules: Any) -> Any:
    description = {"updatedFields": fields, "removedFields": removed, "truncatedArrays": truncated}
    found = changed(ChangeLog().event("update", 1, updateDescription=description), **rules)["updateDescription"]
    return found["updatedFields"], found["removedFields"], found["truncatedArrays"]


def test_documents() -> None:
    full = {"a": {"b": 1, "c": [2]}, "items": [{"card": 1, "sku": 2}, [[{"card": 3}]], 4], "z": None}
    assert document(full, drop=["a.b", "items.card"]) == {**full, "a": {"c": [2]}, "items": [{"sku": 2}, [[{}]], 4]}
    assert document(full, mask=["a", "z", "items.0.card"]) == {
        **full,
        "a": "***",
        "z": "***",
        "items": [{"card": "***", "sku": 2}, [[{"card": "***"}]], 4],
    }
    assert document(full, keep=["a.b", "items.sku"]) == {"a": {"b": 1}, "items": [{"sku": 2}, [[{}]], None]}
    assert document(full, keep=["a"], drop=["a.b"]) == {"a": {"c": [2]}}
    assert document(full, keep=["_id"]) == {}
    assert document(full, drop=["items.1"])["items"][1] is None, "the others keep their places"
    assert document({"a.b": 1, "a": {"b.c": 2, "$x": 3}}, drop=["a.b"]) == {"a": {"$x": 3}}
    assert document({"a": 1}, drop=["a.b"]) == {"a": 1}
    assert document({"a": 1}, keep=["a.b"]) == {}


def test_the_outer_rule_wins() -> None:
    assert document({"a": {"b": 1}}, drop=["a"], mask=["a.b"]) == {}
    assert document({"a": {"b": 1}}, mask=["a"], drop=["a.b"]) == {"a": "***"}


def test_updates() -> None:
    fields = {"a.b.c": 1, "a.x": {"k": 2}, "items.3.card": 3, "items.4": {"card": 4, "sku": 5}, "b": 6}
    assert update(fields, ["a.b.d", "a", "b"], mask=["a.b"]) == (
        {"a.b": "***", **{k: fields[k] for k in [*fields][1:]}},
        ["a", "b"],
        [],
    )
    assert update(fields, drop=["items.card"])[0] == {
        "a.b.c": 1,
        "a.x": {"k": 2},
        "items.4": {"sku": 5},
        "b": 6,
    }
    assert update(fields, ["a.b", "c", "items"], keep=["items.sku"]) == ({"items.4": {"sku": 5}}, ["items"], [])
    truncated = [{"field": "a", "newSize": 1}, {"field": "a.3.b", "newSize": 2}, {"field": "c", "newSize": 3}]
    assert update({"c": 1}, [], truncated, drop=["a.b"])[2] == [truncated[0], truncated[2]]
    assert update({"c": 1}, [], truncated, mask=["a"])[2] == [truncated[2]]
    assert update({"c": 1}, [], truncated, hash=["c"])[2] == truncated
    assert update({"a.one": 1, "a.two": 2}, mask=["a"])[0] == {"a": "***"}
    assert update({"a.one": 1}, hash=["a"])[0] == {"a": "***"}, "a hash is of the whole"
    assert update({"a.3": "x"}, hash=["a"])[0] == {"a.3": hashed("x")}


def test_other_parts_of_an_event() -> None:
    event = change_event(
        {
            "_id": {"_data": "82"},
            "operationType": "delete",
            "documentKey": {"_id": 1, "card": 2, "a.b": 3},
            "fullDocumentBeforeChange": {"_id": 1, "card": 2, "a": {"b": 3}},
            "futurePart": {"card": 2},
            "ns": {"db": "shop", "coll": "card"},
        }
    )
    found = changed(event, drop=["card"], mask=["a.b"])
    assert found["documentKey"] == {"_id": 1, "a.b": "***"}
    assert found["fullDocumentBeforeChange"] == {"_id": 1, "a": {"b": "***"}}
    assert found["futurePart"] == {}
    assert found["ns"] == {"db": "shop", "coll": "card"}
    assert changed(ChangeLog().update({"_id": 1}, {"card": 1}, gone=True), keep=["x"])["fullDocument"] is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a@b.c", "a@b.c"),
        ("", ""),
        (1, "1"),
        (Int64(1), "1"),
        (1.0, "1"),
        (-0.0, "0"),
        (1.5, "1.5"),
        (Decimal128("1.50"), "1.5"),
        (Decimal128("1E+3"), "1000"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
        (Decimal128("NaN"), "NaN"),
        (1e300, str(int(1e300))),
        (True, "true"),
        (ObjectId("65b9f0000000000000000001"), '{"$oid":"65b9f0000000000000000001"}'),
        ({"a": [1]}, '{"a":[1]}'),
        (Binary(b"\0", 0x80), '{"$binary":{"base64":"AA==","subType":"80"}}'),
        (Code("x"), '{"$code":"x"}'),
    ],
)
def test_hashes(value: Any, text: str) -> None:
    assert document({"a": value}, hash=["a"]) == {"a": hashed(text)}


def test_hashes_of_what_is_in_arrays_and_of_nothing() -> None:
    assert document({"a": ["x", [1, None], {"b": 1}]}, hash=["a"]) == {
        "a": [hashed("x"), [hashed("1"), None], hashed('{"b":1}')]
    }
    assert document({"a": None}, hash=["a"]) == {"a": None}
    assert document({"a": {"$oid": "x"}}, hash=["a"])["a"].isalnum(), "also of what Extended JSON cannot say"


# What no rule is about


def test_an_event_that_no_rule_is_about_is_the_same_object() -> None:
    events = [ChangeLog().insert({"_id": 1, "b": {"a": 1}}), *ChangeLog().every_operation()]
    assert [*map(id, step(drop=["a"], mask=["b.x"])(events))] == [*map(id, events)]


@pytest.mark.parametrize("name", hostile_documents())
def test_all_else_is_byte_for_byte_what_it_was(name: str) -> None:
    """A field after all of a document is dropped; what is before it stays."""
    log = ChangeLog()
    plain = log.insert(hostile_documents()[name])
    assert plain.raw is not None
    at, end = rawbson.elements(plain.raw)["fullDocument"]
    inner = plain.raw[at:end]
    body = inner[4:-1] + b"\x10zz\x00" + struct.pack("<i", 7)
    full = struct.pack("<i", len(body) + 5) + body + b"\0"
    raw = plain.raw.replace(inner, full, 1)
    raw = struct.pack("<i", len(raw)) + raw[4:]
    [found] = step(drop=["zz"])([ChangeEvent(raw)])
    if name == "invalid_utf8":
        assert isinstance(found, Rejection)
        assert set(found.event.document) == {"_id", "operationType", "clusterTime", "ns", "documentKey"}
    else:
        assert isinstance(found, ChangeEvent)
        assert found.raw == plain.raw


def test_what_is_made_is_told_by_the_same_facts_and_decoded_together() -> None:
    log = ChangeLog()
    events = [log.update({"_id": number, "a": number, "b": 1}) for number in range(200)]
    found = apply([step(mask=["a"])], events).events
    assert [(each.event_id, each.operation, each.namespace, each.key, each.cluster_time) for each in found] == [
        (each.event_id, each.operation, each.namespace, each.key, each.cluster_time) for each in events
    ]
    assert len({id(each.part) for each in found}) == 4
    for each in found:
        assert each.render("extended") == ChangeEvent(each.raw).render("extended")


# Damage


def test_of_what_cannot_be_decoded_only_a_head_leaves() -> None:
    event = ChangeLog().insert({"_id": 1, "a": "canary", "b": "text"})
    assert event.raw is not None
    damaged = ChangeEvent(event.raw.replace(b"text", b"\xff\xfe\xed\xa0"))
    good = ChangeLog().insert({"_id": 2, "a": 1})
    first, second = step(mask=["a"])([damaged, good])
    assert isinstance(first, Rejection)
    assert first.event.key == event.key
    assert b"canary" not in (first.event.raw or b"")
    assert "canary" not in repr(letter("s", first, content_bytes=1e9))
    assert isinstance(second, ChangeEvent)
    assert second.document["fullDocument"]["a"] == "***"
    assert step(mask=["a"]).redact(damaged).raw == first.event.raw


@given(st.data())
def test_redact_never_raises_and_leaves_nothing_in_damaged_bytes(data: st.DataObject) -> None:
    event = ChangeLog().update({"_id": 1, "a": "canary", "b": ["canary!"]}, {"a.b": "canary"})
    raw = bytearray(event.raw or b"")
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255))
    found = step(keep=["another"]).redact(ChangeEvent(bytes(raw)))
    fields = found.document  # also a date that no datetime holds
    assert "canary" not in str({name: fields.get(name) for name in ("fullDocument", "updateDescription")})


def test_rejections_of_the_source_and_of_steps_before_are_redacted() -> None:
    event = ChangeLog().insert({"_id": 1, "a": "canary"})
    [found] = redacted([step(drop=["a"])], [Rejection(event, "source", "too large")])
    assert found.event.document["fullDocument"] == {"_id": 1}
    refusing = [lambda events: [Rejection(each, "picky", "no") for each in events], step(drop=["a"])]
    [rejected] = apply(refusing, [event]).rejected
    assert rejected.event.document["fullDocument"] == {"_id": 1}


# No byte

CANARIES: list[tuple[Callable[[str], Any], Callable[[str], list[bytes]]]] = [
    (lambda text: text, lambda text: [text.encode()]),
    (lambda text: {text: 1}, lambda text: [text.encode()]),
    (lambda text: [[{"deep": [text]}]], lambda text: [text.encode()]),
    (lambda text: Binary(text.encode(), 0x80), lambda text: [text.encode(), Binary(text.encode()).hex().encode()]),
    (lambda text: Code(text, {"scope": text}), lambda text: [text.encode()]),
    (lambda text: Int64(int(text)), lambda text: [text.encode(), struct.pack("<q", int(text))]),
    (lambda text: Decimal128(text), lambda text: [text.encode(), Decimal128(text).bid]),
]


@given(seed=st.integers(0, 2**32), kind=st.sampled_from(["drop", "mask", "hash", "keep"]))
def test_no_value_that_is_redacted_is_in_any_byte(seed: int, kind: str) -> None:
    chance = random.Random(seed)
    text = "7" + "".join(chance.choice("0123456789") for _ in range(16))
    make, traces = chance.choice(CANARIES)
    value, rule = make(text), chance.choice(["card", "a.card", "a.b.card", "items.card"])
    names = rule.split(".")

    def nested(left: Sequence[str]) -> Any:
        if not left:
            return value
        inner = {"before": 1, left[0]: nested(left[1:]), "after": [None]}
        shapes = (
            [inner, inner, [inner, 3], [[inner], inner], {}]
            if left is not names and len(left) < len(names)
            else [inner]
        )
        return chance.choice(shapes)

    def dotted() -> dict[str, Any]:
        """As an update names it: some names in the key, places in arrays between them, the rest in the value."""
        count = chance.randint(1, len(names))
        key = [names[0]]
        for name in names[1:count]:
            key += [*(["3"] if chance.random() < 0.5 else []), name]
        rest = nested(names[count:]) if count < len(names) else value
        within = chance.random() < 0.3 and count == len(names)
        return {".".join([*key, text] if within else key): rest}

    removed = [".".join([*names, text]), "b"] if chance.random() < 0.5 else ["b"]
    event = change_event(
        {
            "_id": {"_data": "826980000000000001"},
            "operationType": "update",
            "clusterTime": bson.Timestamp(1, 1),
            "ns": {"db": "shop", "coll": "orders"},
            "documentKey": {"_id": 1, **dotted()},
            "fullDocument": {"_id": 1, **nested(names), **({rule: value} if chance.random() < 0.3 else {})},
            "fullDocumentBeforeChange": {"_id": 1, **nested(names)},
            "updateDescription": {
                "updatedFields": {"b": 1, **dotted()},
                "removedFields": removed,
                "truncatedArrays": [{"field": removed[0], "newSize": 2}],
                "disambiguatedPaths": {removed[0]: removed[0].split(".")},
            },
        }
    )
    rules = Fields(Rules(keep=["b"]), None) if kind == "keep" else step(**{kind: [rule]})
    [found] = rules([event])
    assert isinstance(found, ChangeEvent)
    left = [found.raw or b"", repr(found).encode()]
    for name in FORMATS:
        try:
            left.append(found.render(name))
        except UnrenderableError as error:
            left.append(str(error).encode())
    rejection = Rejection(rules.redact(event), "source", "no")
    left.append(repr(letter("s", rejection, content_bytes=1e9)).encode())
    for trace in traces(text):
        assert not [one for one in left if trace in one]


def test_what_is_redacted_is_in_no_log_letter_or_target_of_a_run(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world.start_at()
    events = [
        world.log.insert({"_id": 1, "a": "canary"}),
        world.log.update({"_id": 1, "a": "canary"}, {"a.canary": "canary"}),
        world.log.insert({"_id": 2, "a": "canary", "b": RawBSONDocument(_invalid())}),
    ]
    world.script(*events)
    world.steps = [step(mask=["a"])]
    world.target.rejected = {events[1].event_id}
    with caplog.at_level(logging.DEBUG):
        result = world.poller(batch_size=3).run()
    assert (result.events, result.rejections) == (2, 2)
    path = tmp_path / "letters.jsonl"
    FileDeadLetters(path).write("shop.orders", world.letters.written)
    assert b"canary" not in path.read_bytes()
    assert "canary" not in caplog.text
    assert all(b"canary" not in (event.raw or b"") for event in world.target.durable)


def _invalid() -> bytes:
    return struct.pack("<i", 14) + b"\x02s\0" + struct.pack("<i", 2) + b"\xff\0" + b"\0"


# Keys and settings


def test_the_key_is_read_with_the_first_events_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HASH_KEY", raising=False)
    [found] = steps_for(settings(fields_hash="a", fields_hash_key="env:HASH_KEY"), [])
    assert isinstance(found, Fields)
    event = ChangeLog().insert({"_id": 1, "a": "x"})
    with pytest.raises(ConfigError, match="HASH_KEY is not set"):
        found([event])
    assert found.redact(event).document["fullDocument"]["a"] == "***", "better masked than shown"
    monkeypatch.setenv("HASH_KEY", KEY.decode())
    found.check()
    monkeypatch.setenv("HASH_KEY", "another" * 3)
    assert found.redact(event).document["fullDocument"]["a"] == hashed("x")


def test_a_short_key_is_refused_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("hunter2hunter2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="14 bytes, fewer than 16") as caught:
        read_key(f"file:{path}")
    assert "hunter2" not in str(caught.value)
    path.write_text(KEY.decode() + "\n", encoding="utf-8")
    assert read_key(f"file:{path}") == KEY


def settings(**values: str) -> Settings:
    return Settings(documentdb_uri="mongodb://localhost", **values)


def test_without_rules_there_is_no_step() -> None:
    assert not [each for each in steps_for(settings(), []) if isinstance(each, Fields)]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"fields_drop": "_id"}, "_id says which document it is"),
        ({"fields_mask": "_id.x"}, "_id says which document it is"),
        ({"fields_keep": "_id.x"}, "_id says which document it is"),
        ({"fields_drop": "a..b"}, "single dots"),
        ({"fields_drop": ".a"}, "single dots"),
        ({"fields_drop": "a."}, "single dots"),
        ({"fields_drop": "a.$b"}, r"no \$ before it"),
        ({"fields_drop": "a, items.$[].card"}, r"items.\$\[\].card: a name here has no"),
        ({"fields_drop": "items[].card"}, "every element of an array"),
        ({"fields_keep": "items.*.card"}, "every element of an array"),
        ({"fields_mask": "fullDocument.card"}, "leave out fullDocument"),
        ({"fields_hash": "a"}, "needs fields_hash_key"),
        ({"fields_hash_key": "env:KEY"}, "which is not set"),
        ({"fields_drop": "a", "fields_mask": "a"}, "both have a"),
        ({"fields_keep": "a", "fields_drop": "a"}, "both have a"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(values: dict[str, str], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        settings(**values)


def test_an_event_that_is_no_bson_is_rejected_alone() -> None:
    """Events that a Lambda trigger pushes come as JSON, which can hold more than BSON can."""
    good = ChangeLog().insert({"_id": 1, "a": 1})
    bad = ChangeEvent(document={**good.document, "fullDocument": {"_id": 1, "a": 1, "n": 1 << 70}})
    first, second = step(drop=["a"])([bad, good])
    assert isinstance(first, Rejection)
    assert set(first.event.document) == {"_id", "operationType", "clusterTime", "ns", "documentKey"}
    assert isinstance(second, ChangeEvent)
    assert second.full_document == {"_id": 1}
