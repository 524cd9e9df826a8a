from __future__ import annotations

import json
import logging
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import opensearchpy
import orjson
import pytest
from bson import ObjectId
from opensearchpy.exceptions import AuthenticationException, ConnectionError, NotFoundError, TransportError

from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.local import OpenSearchServer
from docdb_stream.settings import Settings
from docdb_stream.target import Checkable, Rejection, Target
from docdb_stream.targets._opensearch.names import index_name
from docdb_stream.targets._versioned import document_id, document_version
from docdb_stream.targets.opensearch import OpenSearchTarget
from docdb_stream.testing.contract import Delivered, Faults, TargetContract
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.versioned_contract import VersionedContract

pytestmark = pytest.mark.integration


Answer = dict[str, Any]
Request = Callable[..., Any]


class Domain:
    """The part of the server that belongs to one test: the indexes with its prefix. Spoken to without opensearch-py."""

    def __init__(self, server: OpenSearchServer) -> None:
        self.url = server.url
        self.prefix = f"test{uuid.uuid4().hex}-"  # this file can be imported under two names, on one server

    def target(self, **options: Any) -> OpenSearchTarget:
        return OpenSearchTarget(self.url, index_prefix=self.prefix, **options)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{self.prefix}{path}", data, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def get(self, event: ChangeEvent) -> Any:
        """The document of this event, or None."""
        index = index_name("", event.namespace)
        try:
            return self.ask("GET", f"{index}/_doc/{event_document_id(event)}")["_source"]
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None

    def documents(self, index: str = "*") -> list[Answer]:
        """Every document, with id and version."""
        self.ask("POST", f"{index}/_refresh")
        query = {"size": 10_000, "version": True, "query": {"match_all": {}}}
        return list(self.ask("POST", f"{index}/_search", query)["hits"]["hits"])


@pytest.fixture
def domain(opensearch_server: OpenSearchServer) -> Domain:
    return Domain(opensearch_server)


def event_document_id(event: ChangeEvent) -> str:
    assert event.document_key is not None
    return document_id(event.document_key["_id"])


def deliver(target: OpenSearchTarget, events: Sequence[ChangeEvent]) -> list[Rejection]:
    """Write the events and make them durable; returns what was rejected."""
    return [*target.write(events), *target.flush()]


@contextmanager
def requests_through(
    target: OpenSearchTarget, answer: Callable[[Request, str, str, bytes | None], Any]
) -> Iterator[None]:
    """Each request goes through ``answer(send, method, path, body)``, which may send it on."""
    transport = target._client._connected().transport
    real = transport.perform_request

    def perform_request(method: str, path: str, body: bytes | None = None, **options: Any) -> Any:
        return answer(lambda new_body=body: real(method, path, body=new_body, **options), method, path, body)

    transport.perform_request = perform_request
    try:
        yield
    finally:
        del transport.perform_request


def operations(body: bytes) -> list[list[bytes]]:
    """A bulk body's lines, by operation."""
    lines = iter(body.splitlines(keepends=True))
    return [[line] if line.startswith(b'{"delete"') else [line, next(lines)] for line in lines]


def action(operation: Sequence[bytes]) -> Answer:
    [value] = orjson.loads(operation[0]).values()
    return dict(value)


class TestOpenSearchTarget(TargetContract):
    keeps = "documents"
    has_schema = True
    oversized_bytes = 10 * 1024 * 1024

    @pytest.fixture(autouse=True)
    def place(self, domain: Domain) -> None:
        self.domain = domain

    def make_target(self) -> Target:
        return self.domain.target()

    def read_back(self) -> list[Delivered]:
        return [Delivered("", None, orjson.dumps(found["_source"])) for found in self.domain.documents()]

    def expected_payload(self, event: ChangeEvent) -> bytes | None:
        plain = event.render("plain")
        return None if plain == b"null" else orjson.dumps({k: v for k, v in orjson.loads(plain).items() if k != "_id"})

    def same_payload(self, expected: bytes, found: bytes) -> bool:
        return orjson.loads(expected) == orjson.loads(found)

    @contextmanager
    def faults(self, target: Target, faults: Faults) -> Iterator[None]:
        assert isinstance(target, OpenSearchTarget)
        event_ids: dict[tuple[str, int], str] = {}
        write = target.write

        def remember(events: Sequence[ChangeEvent]) -> Any:
            for event in events:
                event_ids[event_document_id(event), document_version(event.cluster_time)] = event.event_id
            return write(events)

        def answer(send: Request, method: str, path: str, body: bytes | None) -> Any:
            sent = operations(body or b"")
            verdicts = faults.answer([event_ids[action(one)["_id"], action(one)["version"]] for one in sent])
            if verdicts is None:
                raise TransportError(429, "circuit_breaking_exception", {})
            taken = b"".join(b"".join(one) for one, verdict in zip(sent, verdicts, strict=True) if verdict == "take")
            answered = iter(send(taken)["items"] if taken else [])
            failures = {
                "retry": {"status": 429, "error": {"type": "rejected_execution_exception", "reason": "queue is full"}},
                "reject": {
                    "status": 400,
                    "error": {
                        "type": "mapper_parsing_exception",
                        "reason": "failed to parse field [secret] of type [long] in document with id '11'. "
                        "Preview of field's value: 'hunter2'",
                        "caused_by": {"type": "illegal_argument_exception", "reason": 'For input string: "hunter2"'},
                    },
                },
            }
            items = [next(answered) if verdict == "take" else {"index": failures[verdict]} for verdict in verdicts]
            return {"errors": verdicts != ["take"] * len(verdicts), "items": items}

        target.write = remember  # type: ignore[method-assign]
        with requests_through(target, answer):
            yield


class TestVersions(VersionedContract):
    @pytest.fixture(autouse=True)
    def _domain(self, domain: Domain) -> None:
        self.domain = domain

    def make_target(self) -> OpenSearchTarget:
        return self.domain.target()

    def documents(self) -> dict[int, int]:
        return {int(found["_id"]): found["_source"]["n"] for found in self.domain.documents()}


# What the operations do


def test_a_document_is_read_without_its_id_field(domain: Domain, log: ChangeLog) -> None:
    event = log.insert({"_id": ObjectId(), "status": "new", "_id2": 1})
    deliver(domain.target(), [event])
    assert domain.get(event) == {"status": "new", "_id2": 1}


def test_an_id_that_is_not_stored_first_is_left_out_too(domain: Domain, log: ChangeLog) -> None:
    event = log.event("insert", 1, fullDocument={"status": "new", "_id": 1, "total": 2})
    deliver(domain.target(), [event])
    assert domain.get(event) == {"status": "new", "total": 2}


def test_a_document_is_deleted_and_a_delete_may_come_twice(domain: Domain, log: ChangeLog) -> None:
    events = [log.insert({"_id": 1}), log.delete(1), log.delete(2)]
    target = domain.target()
    for _ in range(2):
        assert deliver(target, events) == []
        assert domain.documents() == []


def test_an_update_whose_document_is_gone_does_nothing(domain: Domain, log: ChangeLog) -> None:
    first = log.insert({"_id": 1, "status": "new"})
    assert deliver(domain.target(), [first, log.update({"_id": 1}, {"status": "paid"}, gone=True)]) == []
    assert domain.get(first) == {"status": "new"}


def test_an_older_event_never_replaces_a_newer_one(domain: Domain, log: ChangeLog) -> None:
    old, new = log.insert({"_id": 1, "version": 1}), log.update({"_id": 1, "version": 2})
    gone = [log.insert({"_id": 2}), log.delete(2)]
    target = domain.target()
    deliver(target, [old, new, *gone])
    assert deliver(target, [old, gone[0]]) == []
    assert domain.get(new) == {"version": 2}
    assert domain.get(gone[0]) is None


def test_the_last_event_of_a_transaction_wins(domain: Domain, log: ChangeLog) -> None:
    with log.transaction():
        events = [log.insert({"_id": 1, "version": 1}), log.update({"_id": 1, "version": 2})]
    deliver(domain.target(), events)
    assert domain.get(events[1]) == {"version": 2}


def test_every_collection_has_its_own_index(domain: Domain) -> None:
    events = [
        ChangeLog("shop", coll).insert({"_id": 1, "coll": coll}) for coll in ("orders", "Orders", "ORDERS", "a*b")
    ]
    deliver(domain.target(), events)
    assert sorted(found["_source"]["coll"] for found in domain.documents()) == ["ORDERS", "Orders", "a*b", "orders"]
    assert len({found["_index"] for found in domain.documents()}) == 4


# Drop and rename


def test_a_drop_deletes_what_was_there_before_it(domain: Domain, log: ChangeLog) -> None:
    other = ChangeLog("shop", "carts").insert({"_id": 1})
    events = [*log.inserts(2500), log.drop(), *log.inserts(3, first_id=1)]
    target = domain.target()
    for _ in range(2):  # a replay arrives at the same, although its drop is older than the documents it meets
        assert deliver(target, [other, *events]) == []
        assert sorted(found["_id"] for found in domain.documents("shop-orders")) == ["1", "2", "3"]
        assert len(domain.documents("shop-carts")) == 1


def test_a_replay_up_to_a_drop_may_be_cut_anywhere(domain: Domain, log: ChangeLog) -> None:
    before, drop, after = log.inserts(5), log.drop(), log.inserts(2)
    deliver(domain.target(), [*before, drop, *after])
    deliver(domain.target(), [*before[3:], drop])
    deliver(domain.target(), after)
    assert sorted(found["_id"] for found in domain.documents()) == ["0", "1"]


def test_a_drop_waits_for_what_was_before_it(domain: Domain, log: ChangeLog) -> None:
    seen: list[str] = []
    reached, released = threading.Event(), threading.Event()

    def answer(send: Request, method: str, path: str, body: bytes | None) -> Any:
        seen.append(path)
        if len(seen) == 1:
            reached.set()
            assert released.wait(60)
        result = send()
        seen.append("answered")
        return result

    target = domain.target()
    before, drop, after = log.inserts(2), log.drop(), log.inserts(1, first_id=1)
    with requests_through(target, answer):
        thread = threading.Thread(target=deliver, args=(target, [*before, drop, *after]), daemon=True)
        thread.start()
        assert reached.wait(60)
        assert len(seen) == 1
        released.set()
        thread.join(60)
    assert seen[1] == "answered"
    assert seen[2].endswith("/_refresh")
    assert [found["_id"] for found in domain.documents()] == ["1"]


def test_a_rename_empties_the_old_index_and_what_it_replaced(domain: Domain, log: ChangeLog) -> None:
    archive = ChangeLog("shop", "archive").inserts(2)
    events = [*log.inserts(3), log.rename("archive")]
    moved = ChangeLog("shop", "archive", start=log._time).insert({"_id": 7})
    assert deliver(domain.target(), [*archive, *events, moved]) == []
    assert [found["_id"] for found in domain.documents()] == ["7"]


def test_documents_of_a_dropped_collection_can_be_kept(domain: Domain, log: ChangeLog) -> None:
    deliver(domain.target(on_drop="keep"), [*log.inserts(3), log.drop(), log.rename("archive")])
    assert len(domain.documents()) == 3


def test_events_about_no_document_do_nothing(domain: Domain, log: ChangeLog) -> None:
    first = log.insert({"_id": 1})
    assert deliver(domain.target(), [first, log.drop_database(), log.invalidate(), log.unknown()]) == []
    assert domain.get(first) == {}


def test_a_page_whose_answer_got_lost_is_not_skipped(domain: Domain, log: ChangeLog) -> None:
    lost = [True]

    def answer(send: Request, method: str, path: str, body: bytes | None) -> Any:
        result = send()
        if path.startswith("/_search/scroll") and method == "POST" and lost:
            lost.clear()
            raise ConnectionError("N/A", "connection reset", Exception())
        return result

    target = domain.target()
    deliver(target, log.inserts(2500))
    with requests_through(target, answer):
        deliver(target, [log.drop()])
    assert not lost
    assert domain.documents() == []


@pytest.mark.parametrize("coll", ["%2a", "%2A%3f", "a%2Cshop-orders", "%2e%2e", "ü %", "a;b&c=d+e", "x\ny", "%252a"])
def test_a_drop_reaches_its_own_index_alone_whatever_its_name(domain: Domain, log: ChangeLog, coll: str) -> None:
    others = [log.insert({"_id": 1}), ChangeLog("shop", "carts").insert({"_id": 1})]
    dropped = ChangeLog("shop", coll, start=log._time)
    seen: list[str] = []

    def answer(send: Request, method: str, path: str, body: bytes | None) -> Any:
        seen.append(path)
        return send()

    target = domain.target()
    assert deliver(target, [*others, dropped.insert({"_id": 1})]) == []
    assert len(domain.documents()) == 3
    with requests_through(target, answer):
        assert deliver(target, [dropped.drop()]) == []
    assert len(seen) < 10
    assert sorted(found["_index"] for found in domain.documents()) == sorted(
        domain.prefix + index_name("", event.namespace) for event in others
    )


def test_a_drop_whose_documents_stay_ends(domain: Domain, log: ChangeLog) -> None:
    target = domain.target()
    deliver(target, log.inserts(3))

    def keep(send: Request, method: str, path: str, body: bytes | None) -> Any:
        return {"errors": False} if path.startswith("/_bulk") else send()

    with requests_through(target, keep):
        assert deliver(target, [log.drop()]) == []


def test_a_drop_whose_documents_cannot_be_deleted_is_rejected_once(domain: Domain, log: ChangeLog) -> None:
    target = domain.target()
    deliver(target, log.inserts(3))
    drop = log.drop()

    def refuse(send: Request, method: str, path: str, body: bytes | None) -> Any:
        if not path.startswith("/_bulk"):
            return send()
        error = {"type": "routing_missing_exception", "reason": "routing is required"}
        return {"errors": True, "items": [{"delete": {"status": 400, "error": error}} for _ in operations(body or b"")]}

    with requests_through(target, refuse):
        [rejection] = deliver(target, [drop])
    assert rejection.event is drop
    assert rejection.reason.startswith("routing_missing_exception")


# What becomes of what fails


def test_a_real_mapping_conflict_is_rejected_without_quoting_the_document(domain: Domain, log: ChangeLog) -> None:
    events = [log.insert({"_id": 1, "age": 7}), log.insert({"_id": 2, "age": "it's 'hunter2'"}), log.insert({"_id": 3})]
    [rejection] = deliver(domain.target(), events)
    assert rejection.event is events[1]
    assert rejection.reason.startswith("mapper_parsing_exception: failed to parse field [age] of type [long]")
    assert "hunter2" not in rejection.reason
    assert sorted(found["_id"] for found in domain.documents()) == ["1", "3"]


def test_a_strict_mapping_rejects_unknown_fields(domain: Domain, log: ChangeLog) -> None:
    domain.ask("PUT", "shop-orders", {"mappings": {"dynamic": "strict", "properties": {"a": {"type": "long"}}}})
    events = [log.insert({"_id": 1, "a": 1}), log.insert({"_id": 2, "b": 1})]
    [rejection] = deliver(domain.target(), events)
    assert rejection.event is events[1]
    assert rejection.reason.startswith("strict_dynamic_mapping_exception")


def test_a_metadata_field_is_left_to_the_servers_verdict(domain: Domain, log: ChangeLog) -> None:
    rejections = deliver(domain.target(), [log.insert({"_id": 1, "_source": 1}), log.insert({"_id": 2, "_index": "x"})])
    assert [rejection.event.document["documentKey"]["_id"] for rejection in rejections] in ([1, 2], [])


def test_requests_stay_below_the_limit(domain: Domain, log: ChangeLog) -> None:
    sizes = []

    def answer(send: Request, method: str, path: str, body: bytes | None) -> Any:
        sizes.append(len(body or b""))
        return send()

    target = domain.target(request_bytes=4096)
    events = [*log.inserts(50, size_bytes=500), log.insert({"_id": "large", "note": "x" * 4096})]
    with requests_through(target, answer):
        [rejection] = deliver(target, events)
    assert rejection.event is events[-1]
    assert len(domain.documents()) == 50
    assert max(sizes) <= 4096
    assert len(sizes) < 20


def test_a_request_that_is_too_large_for_the_domain_is_halved(domain: Domain, log: ChangeLog) -> None:
    def answer(send: Request, method: str, path: str, body: bytes | None) -> Any:
        if len(body or b"") > 2000:
            raise TransportError(413, "", {})
        return send()

    target = domain.target()
    events = log.inserts(20, size_bytes=400)
    large = log.insert({"_id": "large", "note": "x" * 3000})
    with requests_through(target, answer):
        [rejection] = deliver(target, [*events[:7], large, *events[7:]])
    assert rejection.event is large
    assert len(domain.documents()) == 20


def test_the_deletes_of_a_busy_item_follow_it(domain: Domain, log: ChangeLog) -> None:
    events = [log.insert({"_id": 1}), log.delete(1), log.insert({"_id": 2})]
    sent: list[list[str]] = []

    def answer(send: Request, method: str, path: str, body: bytes | None) -> Any:
        sent.append([action(one)["_id"] for one in operations(body or b"")])
        result = send()
        if len(sent) == 1:
            result["items"][0] = {"index": {"status": 503, "error": {"type": "unavailable_shards_exception"}}}
            result["errors"] = True
        return result

    target = domain.target()
    with requests_through(target, answer):
        assert deliver(target, events) == []
    assert sent == [["1", "1", "2"], ["1", "1"]]
    assert [found["_id"] for found in domain.documents()] == ["2"]


@pytest.mark.parametrize("kind", ["index_closed_exception", "validation_exception"])
def test_an_index_that_is_at_fault_rejects_no_document(domain: Domain, log: ChangeLog, kind: str) -> None:
    def answer(send: Request, method: str, path: str, body: bytes | None) -> Any:
        return {"errors": True, "items": [{"index": {"status": 400, "error": {"type": kind, "reason": ""}}}]}

    target = domain.target()
    with requests_through(target, answer), pytest.raises(TargetError, match=kind):
        deliver(target, [log.insert({"_id": 1})])


@pytest.mark.parametrize(
    ("error", "expected", "hint"),
    [
        (AuthenticationException(401, "security_exception", {}), "401 security_exception", "OPENSEARCH_SECRET"),
        (TransportError(400, "illegal_argument_exception", {}), "400 illegal", "next run"),
        (NotFoundError(404, "index_not_found_exception", {}), "404", "create"),
    ],
)
def test_a_refused_request_is_an_error_with_a_hint(
    domain: Domain, log: ChangeLog, error: Exception, expected: str, hint: str
) -> None:
    def answer(send: Request, method: str, path: str, body: bytes | None) -> Any:
        raise error

    target = domain.target()
    with requests_through(target, answer), pytest.raises(TargetError, match=expected) as caught:
        deliver(target, log.inserts(1))
    assert hint in caught.value.hint


def test_a_forbidden_index_is_an_error_with_a_hint(domain: Domain, log: ChangeLog) -> None:
    def answer(send: Request, method: str, path: str, body: bytes | None) -> Any:
        return {"errors": True, "items": [{"index": {"status": 403, "error": {"type": "security_exception"}}}]}

    target = domain.target()
    with requests_through(target, answer), pytest.raises(TargetError, match="403 security_exception, index") as caught:
        deliver(target, log.inserts(1))
    assert "may write" in caught.value.hint


# Connecting


def test_a_domain_that_is_not_there_is_an_error_with_a_hint(log: ChangeLog) -> None:
    target = OpenSearchTarget("http://127.0.0.1:1")
    for act in (target.check, lambda: deliver(target, log.inserts(1))):
        with deadline(Deadline.after(0.3)), pytest.raises(TargetError, match="does not answer") as caught:
            act()
        assert "ELASTICSEARCH_URI" in caught.value.hint
    target.close()


def test_a_domain_that_comes_back_is_waited_for(opensearch_kind: type[OpenSearchServer], log: ChangeLog) -> None:
    with opensearch_kind() as server:
        domain = Domain(server)
        target = domain.target()
        deliver(target, log.inserts(1))
        server.kill()
        attempts = []

        def answer(send: Request, method: str, path: str, body: bytes | None) -> Any:
            attempts.append(path)
            if len(attempts) == 2:
                server.restart()
            return send()

        with requests_through(target, answer):
            deliver(target, log.inserts(3))
        assert len(domain.documents()) == 3
        target.close()


def test_something_else_than_opensearch_is_an_error(domain: Domain, log: ChangeLog) -> None:
    def answer(send: Request, method: str, path: str, body: bytes | None) -> Any:
        raise opensearchpy.SerializationError("<html>")

    target = domain.target()
    with requests_through(target, answer), pytest.raises(TargetError, match="not OpenSearch"):
        deliver(target, log.inserts(1))


def test_checking_writes_nothing(domain: Domain) -> None:
    target = domain.target()
    assert isinstance(target, Checkable)
    target.check()
    assert domain.documents() == []


def test_checking_tells_bad_credentials(domain: Domain) -> None:
    def answer(send: Request, method: str, path: str, body: bytes | None) -> Any:
        raise AuthenticationException(401, "Unauthorized", {})

    target = domain.target()
    with requests_through(target, answer), pytest.raises(TargetError, match="401"):
        target.check()


@pytest.mark.parametrize(
    ("auth", "start"), [("basic", b"Basic dTpww6Q="), ("sigv4", b"AWS4-HMAC-SHA256 Credential=id/")]
)
def test_requests_are_signed(
    domain: Domain, log: ChangeLog, monkeypatch: pytest.MonkeyPatch, auth: Any, start: bytes
) -> None:
    monkeypatch.setenv("SECRET", '{"username": "u", "password": "p\\u00e4"}')
    for name, value in {"ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key", "DEFAULT_REGION": "eu-west-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    target = domain.target(auth=auth, secret="env:SECRET")
    event = log.insert({"_id": "ü"})
    pool = target._client._connected().transport.get_connection().pool
    real = pool.urlopen
    headers: list[dict[str, str]] = []
    monkeypatch.setattr(pool, "urlopen", lambda *args, **more: headers.append(more["headers"]) or real(*args, **more))
    deliver(target, [event])
    assert domain.documents()[0]["_id"] == "ü"
    sent = {name.lower(): value for name, value in headers[0].items()}["authorization"]
    assert sent.encode().startswith(start)
    assert ("/eu-west-1/es/aws4_request" in sent) == (auth == "sigv4")
    target.close()


def test_nothing_is_logged(domain: Domain, log: ChangeLog, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        deliver(domain.target(), [log.insert({"_id": 1, "a": 1}), log.insert({"_id": 2, "a": "hunter2"}), log.drop()])
    assert [record for record in caplog.records if record.name.startswith("opensearch")] == []


def test_the_settings_switch_it_on(domain: Domain) -> None:
    target = OpenSearchTarget.from_settings(Settings(documentdb_uri="mongodb://x", elasticsearch_uri=domain.url))
    assert target is not None
    target.check()
    target.close()


def test_a_namespace_of_a_database_alone_has_an_index_name() -> None:
    assert index_name("", Namespace("shop")) == "shop"


def test_basic_needs_a_secret() -> None:
    with pytest.raises(ConfigError, match="credentials"):
        OpenSearchTarget("https://host", auth="basic")


def test_indexes_by_template(domain: Domain) -> None:
    log = ChangeLog("shop", "orders")
    target = domain.target(index="all-{coll}")
    target.write([log.insert({"_id": 1, "a": 1}), log.insert({"_id": 2}), log.delete(2)])
    target.flush()
    assert [(each["_index"], each["_id"]) for each in domain.documents()] == [(f"{domain.prefix}all-orders", "1")]
    target.write([log.drop()])
    target.flush()
    assert domain.documents() == []
    target.close()


def test_a_drop_of_what_has_no_index_is_nothing(domain: Domain) -> None:
    """What is not on the list was never written: there is nothing to delete, and nothing to hold up a run."""
    orders, others = ChangeLog("shop", "orders"), ChangeLog("shop", "others")
    target = domain.target(index="{coll}", index_allow=["orders"])
    rejected = target.write([orders.insert({"_id": 1, "a": 1}), others.insert({"_id": 1})])
    assert [each.event.namespace.coll for each in rejected] == ["others"]
    assert target.write([others.drop(), others.rename("orders2")]) == []
    target.flush()
    assert [each["_id"] for each in domain.documents()] == ["1"]
    target.write([orders.rename("others")])
    target.flush()
    assert domain.documents() == []
    target.close()
