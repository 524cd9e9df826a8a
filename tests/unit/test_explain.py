"""``docdb-stream explain``: which rule does what, and what each target would get."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from docdb_stream.admin import explain
from docdb_stream.admin.explain import changed_paths, events_in, explained
from docdb_stream.cli import explain as cli_explain
from docdb_stream.cli.commands import app
from docdb_stream.dead_letters import letter
from docdb_stream.derived_update import DERIVED, derived
from docdb_stream.errors import ConfigError, StepError
from docdb_stream.events import ChangeEvent, Rejection
from docdb_stream.formats.avro import AVRO
from docdb_stream.settings import Settings
from docdb_stream.step import Step, each
from docdb_stream.testing.events import ChangeLog

SECRET = "tr0ub4dor"
LOG = ChangeLog()
ORDER = LOG.insert({"_id": 7, "total": 3, "card": {"number": SECRET}, "items": [{"sku": 1}, {"sku": 2}]})


def text(*events: ChangeEvent, end: str = "\n") -> str:
    return end.join(event.render("extended").decode() for event in events)


# Reading events


@pytest.mark.parametrize(
    "layout",
    [
        lambda found: "\n".join(found),
        lambda found: "\r\n\r\n".join(found) + "\r\n",
        lambda found: "".join(json.dumps(json.loads(each), indent=2) for each in found),
        lambda found: f"[{','.join(found)}]",
        lambda found: "\ufeff" + json.dumps({"events": [{"event": json.loads(each)} for each in found]}),
    ],
)
def test_events_are_read_in_whatever_layout(layout: Any) -> None:
    events = LOG.every_operation()
    found = events_in(layout([text(event) for event in events]), "events.json")
    assert [event.render("extended") for event in found] == [event.render("extended") for event in events]


def test_a_dead_letter_stands_for_its_event() -> None:
    refused = letter("shop.orders", Rejection(ORDER, "transform", "no"), content_bytes=1e9)
    removed = {"removed": "shop.orders/x", "removed_at": "2026-01-31T12:00:00+00:00"}
    [found] = events_in(json.dumps(refused) + "\n" + json.dumps(removed), "letters.jsonl")
    assert found.raw == ORDER.raw
    without = letter("shop.orders", Rejection(ORDER, "transform", "no"), content_bytes=0)
    with pytest.raises(ConfigError, match="event 1 is a dead letter that does not hold its event"):
        events_in(json.dumps(without), "letters.jsonl")


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ("", "a.json holds no event"),
        ("[]", "a.json holds no event"),
        ("{", "a.json: line 1 is no JSON"),
        ('{"a": 1}\n{"b": ', "a.json: line 2 is no JSON"),
        ('{"_id": ObjectId("65b9f0000000000000000001")}', "line 1 is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("7", "a.json, event 1 is no change event: it has no _id and no operationType"),
        ('{"_id": 7, "total": 3}', "event 1 is no change event: it has no operationType"),
        ('{"_id": 7, "operationType": "insert"}', "event 1 is no change event"),
        ('{"_id": {"_data": "x"}, "operationType": 7}', "event 1 is no change event"),
        (text(ORDER) + '\n{"total": 3}', "event 2 is no change event"),
    ],
)
def test_what_is_no_event_is_told(held: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        events_in(held, "a.json")
    assert told in str(caught.value)
    assert "Extended JSON" in caught.value.hint


# What steps do


def redact(event: ChangeEvent) -> ChangeEvent:
    document = dict(event.full_document or {})
    document["card"] = "***"
    return event.replace(fullDocument=document)


def split(event: ChangeEvent) -> Sequence[ChangeEvent]:
    return [event.replace(fullDocument=item) for item in (event.full_document or {})["items"]]


def leave(event: ChangeEvent) -> ChangeEvent:
    return event.replace(operationType="delete", fullDocument=None)


def refuse(event: ChangeEvent) -> ChangeEvent:
    raise ValueError(SECRET)


def unable(event: ChangeEvent) -> ChangeEvent:
    raise StepError("unable", "cannot work now")


def judged(steps: Sequence[Step], monkeypatch: pytest.MonkeyPatch, **settings: Any) -> explain.Explanation:
    monkeypatch.setattr(explain, "steps_for", lambda settings, targets: steps)
    [found] = explained(Settings(documentdb_uri="mongodb://x", **settings), [ORDER])
    return found


def test_what_each_step_does_is_told_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def second_only(event: ChangeEvent) -> ChangeEvent | None:
        return event if (event.full_document or {}).get("sku") != 1 else None

    steps = [each(lambda event: event, "match"), each(redact, "fields"), each(split), each(second_only), each(leave)]
    found = judged(steps, monkeypatch)
    assert [(one.step, one.event_id.partition("#")[2], one.outcome, one.paths) for one in found.judgements] == [
        ("match", "", "passed", ()),
        ("fields", "", "changed", ("fullDocument.card",)),
        ("split", "", "became several", ()),
        ("second_only", "", "left out", ()),
        ("second_only", "1", "passed", ()),
        ("leave", "1", "became a delete", ()),
    ]
    [(event, payloads)] = found.delivered
    assert (event.operation, payloads) == ("delete", [])
    assert SECRET not in json.dumps(found.as_dict())


@pytest.mark.parametrize(
    ("function", "outcome", "reason"),
    [(refuse, "rejected", "raised ValueError at test_explain:"), (unable, "ends the run", "cannot work now")],
)
def test_why_an_event_goes_no_further(
    function: Any, outcome: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = judged([each(function), each(redact)], monkeypatch)
    [only] = found.judgements
    assert only.outcome == outcome
    assert reason in only.reason
    assert SECRET not in only.reason
    assert found.delivered == []


@pytest.mark.parametrize(
    ("before", "after", "paths"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 1.0}, ["a"]),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": float("nan")}, {"a": float("nan")}, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, ["a.c"]),
        ({"a": {"b": 1}}, {"a": 1, "d": {"e": 1}}, ["a", "d"]),
        ({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"b": 1}, {"b": 3}]}, ["a.1.b"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a"]),
    ],
)
def test_where_documents_differ(before: Any, after: Any, paths: list[str]) -> None:
    assert [*changed_paths(before, after)] == paths


def test_targets_that_get_the_same_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is made: no client library is asked for, no region, no bootstrap server."""
    found = judged(
        [],
        monkeypatch,
        kinesis_stream="s",
        msk_bootstrap_srv="nowhere.invalid:9092",
        elasticsearch_uri="http://nowhere.invalid",
        stdout=True,
        stdout_payload_format="document",
    )
    [(event, payloads)] = found.delivered
    assert event is ORDER
    told = {payload.targets: payload.format for payload in payloads}
    assert told == {("kinesis", "kafka"): "extended", ("opensearch",): "plain", ("stdout",): "document"}
    assert payloads[0].content == ORDER.render("extended")


def test_what_a_format_cannot_say_is_told() -> None:
    event = LOG.hostile()["invalid_utf8"]
    [found] = explained(Settings(documentdb_uri="mongodb://x", stdout=True), [event])
    [(_, [payload])] = found.delivered
    assert payload.content is None
    assert "UTF-8" in payload.problem
    assert found.as_dict()["delivered"][0]["payloads"][0]["problem"] == payload.problem


def count(event: ChangeEvent) -> Sequence[ChangeEvent]:
    return [event, derived(event, "shop.counts", key={"_id": 7}, update={"$inc": {"n": 1}})]


def test_a_derived_update_is_for_who_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"stdout": True, "mongodb_target_uri": "mongodb://y"}
    [(_, payloads), (update, for_it)] = judged([each(count, "count")], monkeypatch, **own).delivered
    assert sorted(name for payload in payloads for name in payload.targets) == ["mongodb", "stdout"]
    assert [payload.targets for payload in for_it] == [("mongodb",)]
    assert json.loads(for_it[0].content or b"")["update"] == {"$inc": {"n": 1}}
    assert update.operation == DERIVED
    [_, (_, [nobody])] = judged([each(count, "count")], monkeypatch, stdout=True).delivered
    assert (nobody.targets, nobody.content) == ((), None)
    assert "MONGODB_TARGET_URI" in nobody.problem


def test_avro_is_told_without_a_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = {"msk_bootstrap_srv": "x:1", "kafka_payload_format": "avro", "kafka_schema_registry": "http://x.invalid"}
    found = judged([], monkeypatch, **kafka)
    [(_, [payload])] = found.delivered
    assert (payload.format, payload.content) == ("avro", ORDER.render(AVRO))
    assert found.as_dict()["delivered"][0]["payloads"][0]["payload_hex"] == (payload.content or b"").hex()


# The command


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stream, and a folder to be in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCUMENTDB_URI", "mongodb://nowhere.invalid")
    monkeypatch.setenv("WATCHED_DB_NAME", "shop")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(cli_explain, "log_to_stderr", lambda verbose: None)  # this process has other tests
    return tmp_path


def test_the_command_tells_a_person(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = 'def change(event):\n    event.full_document["total"] = "\\x1b[31m" + "9" * 3\n    return event\n'
    (environment / "made_here.py").write_text(source, encoding="utf-8")
    (environment / "event.json").write_text(text(ORDER), encoding="utf-8")
    monkeypatch.setenv("TRANSFORM", "made_here:change")
    monkeypatch.setenv("KINESIS_STREAM", "s")
    done = CliRunner().invoke(app, ["explain", "--event", "event.json"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == f"shop.*  event 1: insert shop.orders  {ORDER.event_id}"
    assert lines[1] == "  transform  changed: fullDocument.total"
    assert lines[2] == f"  delivered: insert shop.orders  {ORDER.event_id}"
    assert lines[3] == "    kinesis (extended):"
    assert "\x1b" not in done.stdout
    assert [*sys.modules].count("made_here") == 1
    del sys.modules["made_here"]


def test_the_command_tells_where_nobody_takes_a_derived_update(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "steps_for", lambda settings, targets: [each(count, "count")])
    monkeypatch.setenv("STDOUT", "true")
    done = CliRunner().invoke(app, ["explain", "--event", "-"], input=text(ORDER))
    assert done.exit_code == 0, done.output
    assert done.stdout.count("stdout (extended)") == 1
    assert "    to no target: no target takes derived updates, so the run ends here" in done.stdout


def test_the_command_tells_a_program(environment: Path) -> None:
    done = CliRunner().invoke(app, ["explain", "--event", "-", "--json"], input=text(*LOG.every_operation()))
    assert done.exit_code == 0, done.output
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["operation"] for each in found] == [event.operation for event in LOG.every_operation()]
    assert found[0]["stream"] == "shop.*"
    assert found[0]["steps"] == []
    assert found[0]["delivered"][0]["payloads"] == []


def test_where_a_target_gets_no_document_it_says_so(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICSEARCH_URI", "http://nowhere.invalid")
    done = CliRunner().invoke(app, ["explain", "--event", "-"], input=text(LOG.delete(1)))
    assert "    opensearch (plain): no document" in done.stdout


@pytest.mark.parametrize(
    ("name", "told"), [("nothing.json", "No such file"), (".", "directory"), ("latin.json", "it is no UTF-8 text")]
)
def test_a_file_that_cannot_be_read_is_told(environment: Path, name: str, told: str) -> None:
    (environment / "latin.json").write_bytes(b'{"a": "\xe4"}')
    done = CliRunner().invoke(app, ["explain", "--event", name])
    assert done.exit_code == 2
    assert f"error: --event {name}: " in done.stderr
    assert told in done.stderr


def test_rendered_documents_are_safe_whatever_they_hold(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STDOUT", "true")
    monkeypatch.setenv("ELASTICSEARCH_URI", "http://nowhere.invalid")
    no_json = {"invalid_utf8", "looks_like_extended_json"}
    events = [event for name, event in LOG.hostile().items() if name not in no_json]
    for arguments in (["explain", "-e", "-"], ["explain", "-e", "-", "--json"]):
        done = CliRunner().invoke(app, arguments, input=text(*events))
        assert done.exit_code == 0, done.output
        assert all(line.isprintable() for line in done.stdout.split("\n"))
