"""Webhooks to receivers that are slow, silent, elsewhere or not what they say: over real connections."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from contract.webhook import Answer, Receiver, Request, key

from docdb_stream import context
from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import Caution, CheckpointConflictError, TargetError
from docdb_stream.local import ReplicaSet, Tls
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings
from docdb_stream.targets._webhook import network
from docdb_stream.targets.webhook import WebhookTarget
from docdb_stream.testing.events import ChangeLog

pytestmark = pytest.mark.integration


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.close()


@pytest.fixture
def make() -> Iterator[Callable[..., WebhookTarget]]:
    made: list[WebhookTarget] = []

    def target(url: str, **options: Any) -> WebhookTarget:
        made.append(WebhookTarget(url, **{"allow_addresses": ["127.0.0.1"], "timeout_s": 10.0, **options}))
        return made[-1]

    yield target
    for each in made:
        each.close()
    assert_no_threads()


def assert_no_threads() -> None:
    until_s = time.monotonic() + 5
    while any(thread.name.startswith("webhook") for thread in threading.enumerate()):
        assert time.monotonic() < until_s, threading.enumerate()
        time.sleep(0.01)


@contextmanager
def rude(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """A receiver that behaves in its own way on each connection; gives its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    is_over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            behave(connection)
            is_over.wait(30)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    is_over.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def endlessly(piece: bytes, pause_s: float = 0.0, before: bytes = b"") -> Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(before)
        while True:
            connection.sendall(piece)
            time.sleep(pause_s)

    return behave


STATUS = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(lambda connection: None, id="hangs"),
        pytest.param(endlessly(b"x", 0.02, STATUS + b"x: "), id="drips"),
        pytest.param(endlessly(b"x: y\r\n" * 1000, 0.0, STATUS), id="headers without end"),
        pytest.param(endlessly(b"HTTP/1.1 100 Continue\r\n\r\n" * 100), id="informs without end"),
        pytest.param(endlessly(b"\0" * 1000), id="no HTTP"),
        pytest.param(lambda connection: connection.close(), id="hangs up"),
    ],
)
def test_a_receiver_without_an_answer_ends_the_run_in_time(
    behave: Callable[[socket.socket], None], make: Callable[..., WebhookTarget]
) -> None:
    began_s = time.monotonic()
    with rude(behave) as url, deadline(Deadline.after(None, patience_s=0.2)), pytest.raises(TargetError) as caught:
        make(url, timeout_s=0.3).write(ChangeLog().inserts(1))
    assert caught.value.hint
    assert time.monotonic() - began_s < 10


@pytest.mark.parametrize("pause_s", [0.0, 0.02])
def test_a_body_without_end_is_none_of_ours(pause_s: float, make: Callable[..., WebhookTarget]) -> None:
    behave = endlessly(b"x" * 1000, pause_s, STATUS + b"content-length: 999999999\r\n\r\n")
    with rude(behave) as url, deadline(Deadline.after(20)):
        target = make(url)
        for event in ChangeLog().inserts(2):
            assert [*target.write([event]), *target.flush()] == []


def test_a_stop_ends_the_wait_for_an_answer(
    make: Callable[..., WebhookTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "STOP_PATIENCE_S", 0.3)
    limit = Deadline()
    with rude(lambda _: limit.stop.set()) as url, deadline(limit), pytest.raises(TargetError):
        make(url, timeout_s=60).write(ChangeLog().inserts(1))


def test_close_ends_requests_that_get_no_answer(make: Callable[..., WebhookTarget]) -> None:
    met = threading.Semaphore(0)
    with rude(lambda _: met.release() and None) as url:
        target = make(url, timeout_s=60)
        target.write(ChangeLog().inserts(8))
        for _ in range(4):
            assert met.acquire(timeout=10)
        began_s = time.monotonic()
        target.close()
        assert_no_threads()
        assert time.monotonic() - began_s < 5


def test_close_ends_the_wait_that_a_receiver_asked_for(receiver: Receiver, make: Callable[..., WebhookTarget]) -> None:
    receiver.answer = lambda _: Answer(429, {"retry-after": "25"})
    target = make(receiver.url)
    target.write(ChangeLog().inserts(8))
    until_s = time.monotonic() + 10
    while not receiver.seen:
        assert time.monotonic() < until_s
        time.sleep(0.01)
    target.close()
    assert_no_threads()


def test_a_run_that_lost_its_lease_sends_nothing(receiver: Receiver, make: Callable[..., WebhookTarget]) -> None:
    def lost() -> None:
        raise CheckpointConflictError("another run goes on")

    target = make(receiver.url)
    with context.running(context.RunContext(lease_check=lost)), pytest.raises(CheckpointConflictError):
        target.write(ChangeLog().inserts(1))
    assert receiver.seen == []


def test_redirects_are_not_followed(receiver: Receiver, make: Callable[..., WebhookTarget]) -> None:
    other = Receiver()
    receiver.answer = lambda _: Answer(307, {"location": other.url})
    with pytest.raises(TargetError, match="307"):
        make(receiver.url).write(ChangeLog().inserts(1))
    assert (len(receiver.seen), other.connections) == (1, 0)
    other.close()


def test_a_name_that_means_another_address_a_moment_later(
    receiver: Receiver, make: Callable[..., WebhookTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = []

    def look_up(host: str, port: int) -> list[tuple[int, Any]]:
        looked_up.append(host)
        address = "127.0.0.1" if len(looked_up) == 1 else "127.0.0.2"
        return [(socket.AF_INET, (address, receiver.port))]

    monkeypatch.setattr(network, "look_up", look_up)
    receiver.answer = lambda _: Answer(204, {"connection": "close"})
    target = make("http://hooks.example.com/x")
    target.write(ChangeLog().inserts(1))
    with pytest.raises(TargetError, match=r"127\.0\.0\.2") as caught:
        target.write(ChangeLog().inserts(1))
    assert "WEBHOOK_ALLOW_ADDRESSES" in caught.value.hint
    assert [request.headers["host"] for request in receiver.seen] == ["hooks.example.com"]
    assert receiver.connections == 1
    assert looked_up == ["hooks.example.com"] * 2


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["::1"], ["169.254.169.254"], ["8.8.8.8", "10.0.0.1"]])
def test_a_name_of_this_network_is_not_called(
    addresses: list[str], receiver: Receiver, make: Callable[..., WebhookTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    families = {False: socket.AF_INET, True: socket.AF_INET6}
    found = [(families[":" in address], (address, receiver.port)) for address in addresses]
    monkeypatch.setattr(network, "look_up", lambda *_: found)
    target = make("https://hooks.example.com", allow_addresses=[])
    for attempt in (lambda: target.write(ChangeLog().inserts(1)), target.check):
        with pytest.raises(TargetError, match="not on the public internet"):
            attempt()
    assert receiver.connections == 0


def test_a_host_that_is_not_found(make: Callable[..., WebhookTarget]) -> None:
    target = make("https://nowhere.invalid/")
    with deadline(Deadline.after(None, patience_s=0.0)), pytest.raises(TargetError, match=r"nowhere\.invalid"):
        target.write(ChangeLog().inserts(1))


def test_a_resolver_that_hangs_is_not_waited_for(
    make: Callable[..., WebhookTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()

    def look_up(*_: Any) -> list[tuple[int, Any]]:
        is_over.wait(30)
        return []

    monkeypatch.setattr(network, "look_up", look_up)
    target = make("https://hooks.example.com", timeout_s=0.2)
    with deadline(Deadline.after(None, patience_s=0.0)), pytest.raises(TargetError, match="no answer"):
        target.write(ChangeLog().inserts(1))
    is_over.set()


def test_proxies_and_cookies_are_left_alone(
    receiver: Receiver, make: Callable[..., WebhookTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    receiver.answer = lambda _: Answer(204, {"set-cookie": "session=1; Path=/"})
    target = make(receiver.url, lanes=1)
    assert [*target.write(ChangeLog().inserts(3)), *target.flush()] == []
    assert len(receiver.taken) == 3
    assert not any("cookie" in request.headers for request in receiver.seen)


def test_a_connection_serves_again(receiver: Receiver, make: Callable[..., WebhookTarget]) -> None:
    receiver.answer = lambda _: Answer(200, {}, b"thanks")
    target = make(receiver.url)
    for event in ChangeLog().inserts(20):
        target.write([event])
    assert (len(receiver.taken), receiver.connections) == (20, 1)


def test_a_connection_that_was_closed_meanwhile_is_no_failure(
    receiver: Receiver, make: Callable[..., WebhookTarget]
) -> None:
    receiver.answer = lambda _: Answer(200, {"keep-alive": "timeout=0", "connection": "close"})
    target = make(receiver.url)
    for event in ChangeLog().inserts(5):
        assert target.write([event]) == []
    assert len(receiver.taken) == 5


# A stream


def test_a_stream_to_a_webhook(
    receiver: Receiver, replica_set: ReplicaSet, db_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYS", f"{key(2)} {key(1)}")
    receiver.key = key(1)
    settings = Settings.from_env(
        {
            "DOCUMENTDB_URI": replica_set.uri,
            "WATCHED_DB_NAME": db_name,
            "WATCHED_COLLECTION_NAME": "orders",
            "STATE_DB": f"{db_name}_state",
            "DEAD_LETTERS": str(tmp_path / "letters"),
            "WEBHOOK_URL": receiver.url,
            "WEBHOOK_SECRET": "env:KEYS",
            "WEBHOOK_ALLOW_ADDRESSES": "127.0.0.1",
        }
    )

    def run() -> RunResult:
        poller = Poller.from_settings(settings)
        try:
            return poller.run()
        finally:
            poller.close()

    run()
    with replica_set.client() as client:
        client[db_name].orders.insert_many([{"_id": number, "bad": number == 3} for number in range(6)])
    receiver.answer = lambda request: Answer(401 if request.events[0]["documentKey"]["_id"] == 5 else 204)
    with pytest.raises(TargetError, match="401"):
        run()
    count = len(receiver.taken)
    receiver.answer = lambda request: Answer(422 if request.events[0]["fullDocument"]["bad"] else 204)
    result = run()
    assert (result.events, result.rejections, result.caught_up) == (6, 1, True)
    assert sorted(request.events[0]["documentKey"]["_id"] for request in receiver.taken[count:]) == [0, 1, 2, 4, 5]
    ids = {(request.headers["webhook-id"], request.event_ids[0]) for request in receiver.seen}
    assert len(ids) == len({webhook_id for webhook_id, _ in ids}) == 6
    [letter] = (tmp_path / "letters").read_text().splitlines()
    assert "HTTP 422" in letter


def test_a_stop_ends_a_long_wait_that_a_receiver_asked_for_and_nothing_is_passed(
    receiver: Receiver, replica_set: ReplicaSet, db_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that follows has no deadline, and waits for longer than its patience where it is asked to."""
    monkeypatch.setattr(context, "STOP_PATIENCE_S", 0.5)
    settings = Settings(
        documentdb_uri=replica_set.uri,
        watched_db_name=db_name,
        state_db=f"{db_name}_state",
        webhook_url=receiver.url,
        webhook_allow_addresses="127.0.0.1",
    )
    stop = threading.Event()

    def busy(_: Request) -> Answer:
        threading.Timer(0.5, stop.set).start()
        return Answer(503, {"retry-after": "600"})

    with Poller.from_settings(settings) as poller:
        poller.run()
        with replica_set.client() as client:
            client[db_name].orders.insert_many([{"_id": number} for number in range(3)])
        receiver.answer = busy
        began_s = time.monotonic()
        with suppress(TargetError):
            poller.run(limit=Deadline(stop=stop), follow=True)
        assert time.monotonic() - began_s < 20
        assert receiver.taken == []
        receiver.answer = lambda _: Answer()
        assert poller.run().events == 3
    assert len({request.event_ids[0] for request in receiver.taken}) == 3


# TLS


@pytest.fixture
def secure(certificates: Tls) -> Iterator[Receiver]:
    started = Receiver(certificates)
    yield started
    started.close()


def test_tls_with_a_ca_of_one_s_own(
    secure: Receiver, certificates: Tls, make: Callable[..., WebhookTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYS", key(1))
    secure.key = key(1)
    target = make(secure.url, tls_ca=str(certificates.ca_file), secret="env:KEYS")
    target.check()
    assert secure.seen == []
    assert target.write(ChangeLog().inserts(30)) + target.flush() == []
    assert len(secure.taken) == 30


def test_a_certificate_of_nobody_we_know(secure: Receiver, make: Callable[..., WebhookTarget]) -> None:
    target = make(secure.url)
    for attempt in (lambda: target.write(ChangeLog().inserts(1)), target.check):
        with pytest.raises(TargetError, match="not trusted") as caught:
            attempt()
        assert "WEBHOOK_TLS_CA" in caught.value.hint
    assert secure.seen == []


def test_a_certificate_of_another_name(
    secure: Receiver, certificates: Tls, make: Callable[..., WebhookTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "look_up", lambda *_: [(socket.AF_INET, ("127.0.0.1", secure.port))])
    with pytest.raises(TargetError, match="not trusted"):
        make("https://hooks.example.com", tls_ca=str(certificates.ca_file)).write(ChangeLog().inserts(1))
    assert secure.seen == []


def test_tls_to_what_speaks_none(receiver: Receiver, make: Callable[..., WebhookTarget]) -> None:
    url = receiver.url.replace("http:", "https:")
    with deadline(Deadline.after(None, patience_s=0.0)), pytest.raises(TargetError) as caught:
        make(url, timeout_s=5).write(ChangeLog().inserts(1))
    assert caught.value.hint


# Checking, and what the formats say


def test_check_tells_what_is_amiss_and_sends_nothing(
    receiver: Receiver,
    secure: Receiver,
    certificates: Tls,
    make: Callable[..., WebhookTarget],
    tmp_path: Path,
) -> None:
    (tmp_path / "keys").write_text(key(1))
    with pytest.raises(Caution, match="without encryption"):
        make(receiver.url, secret=f"file:{tmp_path / 'keys'}").check()
    with pytest.raises(Caution, match="without encryption and not signed"):
        make(receiver.url).check()
    with pytest.raises(Caution, match="not signed"):
        make(secure.url, tls_ca=str(certificates.ca_file)).check()
    receiver.close()
    with pytest.raises(TargetError, match="refused"):
        make(receiver.url).check()
    assert (receiver.seen, secure.seen) == ([], [])


def test_formats_say_what_a_body_is(receiver: Receiver, make: Callable[..., WebhookTarget]) -> None:
    cases: dict[tuple[str, int], str] = {
        ("extended", 1): "application/json",
        ("extended", 5): "application/json",
        ("cloudevents", 1): "application/cloudevents+json",
        ("cloudevents", 5): "application/cloudevents-batch+json",
        ("cloudevents_binary", 1): "application/json",
    }
    for (name, events), content_type in cases.items():
        make(receiver.url, payload_format=name, events=events).write(ChangeLog().inserts(1))
        assert receiver.taken[-1].headers["content-type"] == content_type, name


def test_binary_cloudevents_are_headers(receiver: Receiver, make: Callable[..., WebhookTarget]) -> None:
    events = [ChangeLog(coll="gr\u00f6\u00dfe").insert({"_id": '50 % "\u20ac"'})]
    assert make(receiver.url, payload_format="cloudevents_binary").write(events) == []
    [request] = receiver.taken
    assert isinstance(request, Request)
    assert request.headers["ce-specversion"] == "1.0"
    assert request.headers["ce-type"] == "io.docdb-stream.insert"
    assert request.headers["ce-subject"] == "{%22_id%22:%2250%20%25%20\\%22%E2%82%AC\\%22%22}"
    assert request.body == events[0].render("extended")
    assert request.headers["user-agent"].startswith("docdb-stream/")
