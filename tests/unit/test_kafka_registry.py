"""A schema registry that answers, refuses, hangs, or is none."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fastavro
import pytest

from docdb_stream.config import settings_from_env
from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.formats.avro import AVRO
from docdb_stream.targets._kafka.registry import SchemaRegistry
from docdb_stream.targets.kafka import KafkaTarget
from docdb_stream.testing.events import ChangeLog

Answer = tuple[int, bytes]


class Fake(ThreadingHTTPServer):
    """Knows schemas by subject; ``answer`` comes first, where it has one."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.subjects: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.answer: Callable[[str, str], Answer | None] = lambda method, path: None
        self.url = f"http://127.0.0.1:{self.server_port}/api"
        self.over = threading.Event()

    def answered(self, method: str, path: str, body: bytes) -> Answer:
        if path == "/api/schemas/types":
            return 200, b'["JSON","PROTOBUF","AVRO"]'
        subject = path.split("/")[3].partition("?")[0]
        asked = json.loads(body)
        assert asked["schemaType"] == "AVRO"
        known = self.subjects.setdefault(subject, []) if "/versions" in path else self.subjects.get(subject, [])
        if asked["schema"] not in known:
            if "/versions" not in path:
                return 404, b'{"error_code":40401,"message":"Subject not found."}'
            known.append(asked["schema"])
        return 200, json.dumps({"id": 7, "subject": subject}).encode()


class _Handler(BaseHTTPRequestHandler):
    server: Fake

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        status, text = self.server.answer(self.command, self.path) or self.server.answered(
            self.command, self.path, body
        )
        self.send_response(status)
        if status in (301, 307):
            self.send_header("Location", text.decode())
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[Fake]:
    with Fake() as fake:
        thread = threading.Thread(target=fake.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield fake
        fake.over.set()
        fake.shutdown()


@contextmanager
def little_time(seconds: float = 0.4) -> Iterator[None]:
    started_s = time.monotonic()
    with deadline(Deadline.after(seconds)):
        yield
    assert time.monotonic() - started_s < seconds + 5


def test_a_topic_is_asked_for_once_and_registered_where_it_is_new(registry: Fake) -> None:
    asked = SchemaRegistry("kafka", registry.url + "/")
    for _ in range(3):
        assert asked.frame("shop-orders", AVRO) == b"\0\0\0\0\7"
    assert [(method, path) for method, path, _ in registry.requests] == [
        ("POST", "/api/subjects/shop-orders-value?normalize=true"),
        ("POST", "/api/subjects/shop-orders-value/versions?normalize=true"),
    ]
    asked.frame("shop-other", AVRO)
    assert len(registry.requests) == 4
    SchemaRegistry("kafka", registry.url).frame("shop-orders", AVRO)
    assert len(registry.requests) == 5, "what is there is only looked up"
    asked.forget()
    asked.frame("shop-orders", AVRO)
    assert len(registry.requests) == 6


def test_credentials_come_by_reference(registry: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY", '{"username": "ada", "password": "hunter2"}')
    SchemaRegistry("kafka", registry.url, "env:REGISTRY").frame("t", AVRO)
    sent = registry.requests[0][2]["Authorization"]
    assert b64decode(sent.removeprefix("Basic ")) == b"ada:hunter2"


@pytest.mark.parametrize(
    ("status", "body", "reason", "hint"),
    [
        (409, b'{"error_code":409,"message":"incompatible"}', "409: incompatible", "KAFKA_TOPIC"),
        (401, b"", "401", "KAFKA_SCHEMA_REGISTRY_SECRET"),
        (403, b"<html>", "403", "register schemas under t-value"),
        (422, b'{"error_code":42201,"message":"Invalid schema"}', "Invalid schema", "KAFKA_SCHEMA_REGISTRY"),
        (307, b"http://127.0.0.1:1/", "307", "KAFKA_SCHEMA_REGISTRY"),
        (301, b"http://127.0.0.1:1/", "301", "KAFKA_SCHEMA_REGISTRY"),
        (200, b"<html>welcome</html>", "no schema registry", "KAFKA_SCHEMA_REGISTRY"),
        (200, b"[]", "no schema registry", "KAFKA_SCHEMA_REGISTRY"),
        (200, b'{"id": "7"}', "no schema registry", "KAFKA_SCHEMA_REGISTRY"),
        (200, b'{"id": -1}', "no schema registry", "KAFKA_SCHEMA_REGISTRY"),
        (200, b'{"id": 4294967296}', "no schema registry", "KAFKA_SCHEMA_REGISTRY"),
        (200, b"\xff\xfe", "no schema registry", "KAFKA_SCHEMA_REGISTRY"),
        (200, b"[" * 100_000, "no schema registry", "KAFKA_SCHEMA_REGISTRY"),
        (422, b"[" * 100_000, "422", "KAFKA_SCHEMA_REGISTRY"),
        (422, b'{"error_code":1e999,"message":"x"}', "422", "KAFKA_SCHEMA_REGISTRY"),
    ],
)
def test_a_refusal_says_what_to_do(registry: Fake, status: int, body: bytes, reason: str, hint: str) -> None:
    registry.answer = lambda method, path: (status, body)
    with little_time(), pytest.raises(TargetError, match=reason) as caught:
        SchemaRegistry("kafka", registry.url).frame("t", AVRO)
    assert hint in caught.value.hint
    assert len(registry.requests) == 1


def test_what_passes_is_asked_again(registry: Fake) -> None:
    answers = iter([(503, b""), (429, b""), (500, b'{"error_code":50002,"message":"leader unknown"}')])
    registry.answer = lambda method, path: next(answers, None)
    assert SchemaRegistry("kafka", registry.url).frame("t", AVRO) == b"\0\0\0\0\7"


def test_one_that_stays_away_is_an_error_in_time(registry: Fake) -> None:
    registry.answer = lambda method, path: (503, b'{"error_code":50003,"message":"busy"}')
    with little_time(), pytest.raises(TargetError, match="does not answer: 503: busy"):
        SchemaRegistry("kafka", registry.url).frame("t", AVRO)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = SchemaRegistry("kafka", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with little_time(), pytest.raises(TargetError, match="does not answer") as caught:
            gone.frame("t", AVRO)
    assert "KAFKA_SCHEMA_REGISTRY" in caught.value.hint


def test_one_that_hangs_is_an_error_in_time(registry: Fake) -> None:
    def hang(method: str, path: str) -> Answer:
        registry.over.wait(20)
        return 200, b"{}"

    registry.answer = hang
    with little_time(), pytest.raises(TargetError, match="does not answer: no answer in time"):
        SchemaRegistry("kafka", registry.url).frame("t", AVRO)


def test_one_that_answers_byte_by_byte_is_an_error_in_time() -> None:
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            way, _ = server.accept()
            with way:
                way.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not over.wait(0.02):
                    way.sendall(b" ")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        with little_time(), pytest.raises(TargetError, match="no answer in time"):
            SchemaRegistry("kafka", f"http://127.0.0.1:{server.getsockname()[1]}").frame("t", AVRO)
        over.set()
        thread.join(5)


def test_doctor_asks_whether_it_is_one(registry: Fake) -> None:
    SchemaRegistry("kafka", registry.url).check()
    registry.answer = lambda method, path: (404, b"")
    with little_time(), pytest.raises(TargetError, match="404"):
        SchemaRegistry("kafka", registry.url).check()
    registry.answer = lambda method, path: (200, b"{}")
    with little_time(), pytest.raises(TargetError, match="no schema registry"):
        SchemaRegistry("kafka", registry.url).check()


@pytest.mark.parametrize(
    "url", ["registry:8081", "ftp://registry", "http://", "http://u:p@h", "http://host:port", "http://h:1/?a=b"]
)
def test_what_is_no_url_is_told_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match="KAFKA_SCHEMA_REGISTRY"):
        SchemaRegistry("kafka", url)


def test_events_that_cannot_be_framed_are_not_sent(registry: Fake) -> None:
    target = KafkaTarget("127.0.0.1:1", payload_format="avro", schema_registry=registry.url)
    registry.answer = lambda method, path: (409, b'{"error_code":409,"message":"incompatible"}')
    with little_time(), pytest.raises(TargetError, match="incompatible"):
        target.write(ChangeLog().inserts(3))
    assert target.flush() == []


def test_a_value_is_read_by_its_frame(registry: Fake) -> None:
    event = ChangeLog().insert({"_id": 1})
    target = KafkaTarget("127.0.0.1:1", payload_format="avro", schema_registry=registry.url)
    [record] = target._records.of(event, event.render(AVRO))
    assert record.value is not None
    assert record.value[:5] == b"\0\0\0\0\7"
    [schema] = registry.subjects["shop-orders-value"]
    found = fastavro.schemaless_reader(io.BytesIO(record.value[5:]), json.loads(schema), None)
    assert isinstance(found, dict)
    assert found["event_id"] == event.event_id
    assert record.key == b'{"_id":1}'


def test_avro_needs_a_registry() -> None:
    kafka = {"DOCUMENTDB_URI": "mongodb://x", "MSK_BOOTSTRAP_SRV": "h:1"}
    with pytest.raises(ConfigError) as caught:
        settings_from_env({**kafka, "KAFKA_PAYLOAD_FORMAT": "avro"})
    assert "needs kafka_schema_registry" in caught.value.problems[0]
    both = {"KAFKA_PAYLOAD_FORMAT": "avro", "KAFKA_SCHEMA_REGISTRY": "http://h:1", "KAFKA_TRANSACTIONS": "off"}
    settings = settings_from_env({**kafka, **both})
    assert KafkaTarget.from_settings(settings)._format is AVRO
    with pytest.raises(ConfigError, match="needs a schema registry"):
        KafkaTarget("h:1", payload_format="avro")
