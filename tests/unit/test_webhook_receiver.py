"""What a webhook's receiver is sent, and what becomes of its answers: without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from ipaddress import ip_address
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import ConfigError, OutOfTimeError, TargetError
from docdb_stream.settings import Settings
from docdb_stream.targets._sender import BatchSender, Limits, Record
from docdb_stream.targets._webhook.addresses import Allowed, ForbiddenAddressError, is_public, literal
from docdb_stream.targets._webhook.connection import Answer, UnansweredError, UntrustedError
from docdb_stream.targets._webhook.receiver import Entry, Receiver, retry_after_s
from docdb_stream.targets._webhook.signature import READ_AGAIN_S, Keys, message_id, parse_keys, signature
from docdb_stream.targets.webhook import WebhookTarget
from docdb_stream.testing.events import ChangeLog

NOW_S = 1_800_000_000.0


def key(number: int, length: int = 32) -> str:
    return "whsec_" + base64.b64encode(bytes([number]) * length).decode()


# Ids, keys and signatures


def test_the_reference_library_accepts_each_key_s_signature() -> None:
    import time

    keys, body = parse_keys(f"{key(1)}\n{key(2)}"), '{"a":"\u00e9"}'.encode()
    now_s = int(time.time())
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(now_s)}
    headers["webhook-signature"] = signature(keys, "msg_1", now_s, body)
    for number in (1, 2):
        assert Webhook(key(number)).verify(body, headers) == {"a": "\u00e9"}


def test_an_id_is_of_the_stream_and_the_events_and_has_no_dot() -> None:
    ids = {
        message_id("orders", ["1.2"]),
        message_id("others", ["1.2"]),
        message_id("orders", ["1", "2"]),
        message_id("orders", ["12"]),
        message_id("orders1", ["2"]),
    }
    assert len(ids) == 5
    assert all(each.startswith("msg_") and "." not in each and each.isascii() for each in ids)
    assert message_id("orders", ["1.2"]) in ids


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (key(1), 1),
        (f"  {key(1)}  {key(2)}\n", 2),
        (json.dumps([key(1), key(2), key(3)]), 3),
        (key(1).rstrip("="), 1),
        (key(1, 24), 1),
        (key(1, 64), 1),
    ],
)
def test_keys_that_are(text: str, count: int) -> None:
    assert len(parse_keys(text)) == count


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[1]",
        "[",
        "hunter2",
        "whsec_",
        "whsec_hunter2!",
        key(1, 23),
        key(1, 65),
        f"{key(1)} hunter2",
        "whsec_\u00e9",
    ],
)
def test_what_is_no_key_is_refused_and_not_shown(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYS", text)
    with pytest.raises(ConfigError, match="WEBHOOK_SECRET") as caught:
        Keys("env:KEYS").current()
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_a_rotated_secret_is_noticed_and_one_that_cannot_be_read_again_serves_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0
    keys = Keys("env:KEYS", lambda: now_s)
    monkeypatch.setenv("KEYS", key(1))
    first = keys.current()
    monkeypatch.setenv("KEYS", key(2))
    assert keys.current() == first
    now_s = READ_AGAIN_S
    second = keys.current()
    assert second != first
    monkeypatch.delenv("KEYS")
    now_s *= 3
    assert keys.current() == second
    keys.forget()
    with pytest.raises(ConfigError, match="KEYS"):
        keys.current()


# Addresses

FORBIDDEN = """
127.0.0.1 127.9.9.9 0.0.0.0 0.1.2.3 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1
100.127.255.255 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 192.0.0.8
::1 :: fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 ff02::1 2001:db8::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254
::127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:7f00:1::1 2002:a9fe:a9fe:: 2001:0:1::1 3fff::1
fec0::1 4000::1
""".split()  # noqa: SIM905
PUBLIC = """
8.8.8.8 172.15.0.1 172.32.0.1 100.63.255.255 100.128.0.0 192.167.0.1 2606:4700::1 2a00:1450::1 64:ff9b::808:808
2002:808:808::1 ::ffff:8.8.8.8
""".split()  # noqa: SIM905


@pytest.mark.parametrize("address", FORBIDDEN)
def test_not_public(address: str) -> None:
    assert not is_public(ip_address(address))
    with pytest.raises(ForbiddenAddressError):
        Allowed().check("host", ["8.8.8.8", address], encrypted=True)


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(ip_address(address))
    Allowed().check("host", [address], encrypted=True)
    with pytest.raises(ForbiddenAddressError, match="without encryption"):
        Allowed().check("host", [address], encrypted=False)


@pytest.mark.parametrize(
    ("words", "address"),
    [
        (["127.0.0.1"], "127.0.0.1"),
        (["127.0.0.1"], "::ffff:127.0.0.1"),
        (["10.1.0.0/16"], "10.1.2.3"),
        (["fd00::/8"], "fd00::1"),
        (["Hooks.Internal."], "10.1.2.3"),
        (["hooks.internal"], "::1"),
        (["169.254.10.0/24"], "169.254.10.1"),
        (["8.8.8.8"], "8.8.8.8"),
    ],
)
def test_allowed(words: list[str], address: str) -> None:
    Allowed.of(words).check("hooks.internal", [address], encrypted=False)


@pytest.mark.parametrize(
    ("words", "address"),
    [
        (["127.0.0.1"], "127.0.0.2"),
        (["10.1.0.0/16"], "10.2.0.1"),
        (["hooks.internal"], "169.254.169.254"),
        (["hooks.internal"], "::ffff:169.254.169.254"),
        (["internal"], "10.1.2.3"),
        (["other.internal"], "10.1.2.3"),
    ],
)
def test_not_allowed(words: list[str], address: str) -> None:
    with pytest.raises(ForbiddenAddressError):
        Allowed.of(words).check("hooks.internal", [address], encrypted=True)


@pytest.mark.parametrize("word", ["10.0.0.1/8", "10.0.0", "*.internal", "host:80", "1.2.3.4.5", "10.0.0.0/33"])
def test_what_cannot_be_allowed_is_refused_with_the_settings(word: str) -> None:
    with pytest.raises(ValueError, match="webhook_allow_addresses"):
        Settings(documentdb_uri="mongodb://x", webhook_url="https://host", webhook_allow_addresses=word)


@pytest.mark.parametrize("host", ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "[::1]", "::1", "127.0.0.1"])
def test_an_address_is_known_however_it_is_written(host: str) -> None:
    found = literal(host)
    assert found is not None
    assert not is_public(ip_address(found))


@pytest.mark.parametrize(
    "url",
    [
        *("true", "host", "ftp://host", "https://", "https:///x", "https://host:0", "https://host:x", "https://[::1"),
        *("https://host/a b", "https://host/\n", "https://host#x", "http://host", "https://user@host"),
        *("https://user:hunter2@host", "https://hunter2@host/", "https://127.0.0.1/hunter2", "https://2130706433/"),
        *("https://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest/meta-data", "https://0/"),
    ],
)
def test_a_url_that_cannot_be_called_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="WEBHOOK_URL") as caught:
        WebhookTarget(url)
    assert caught.value.hint
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_http_and_private_addresses_are_for_who_is_allowed() -> None:
    WebhookTarget("http://127.0.0.1:8080/x", allow_addresses=["127.0.0.1"]).close()
    WebhookTarget("https://10.1.2.3/x", allow_addresses=["10.1.0.0/16"]).close()
    with pytest.raises(ConfigError, match=r"10\.1\.2\.3"):
        WebhookTarget("http://10.1.2.3/x", allow_addresses=["127.0.0.1"])


def test_a_secret_itself_is_no_reference() -> None:
    for secret in (key(1), f'["{key(1)}"]'):
        with pytest.raises(ValueError, match="secret itself") as caught:
            Settings(documentdb_uri="mongodb://x", webhook_url="https://host", webhook_secret=secret)
        assert secret not in str(caught.value)


def test_a_format_without_arrays_is_not_sent_in_arrays() -> None:
    with pytest.raises(ConfigError, match="WEBHOOK_EVENTS"):
        WebhookTarget("https://host", events=2, payload_format="cloudevents_binary")


# Answers


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("-7", 0),
        ("1.5", 0),
        ("soon", 0),
        ("9" * 30, float("inf")),
        (formatdate(NOW_S + 60, usegmt=True), 60),
        (formatdate(NOW_S - 60, usegmt=True), 0),
        ("Friday, 15-Jan-27 08:01:00 GMT", 60),
        ("Fri Jan 15 08:01:00 2027", 60),
        ("Fri, 99 Foo 2027 08:01:00 GMT", 0),
    ],
)
def test_retry_after(text: str | None, seconds: float) -> None:
    assert retry_after_s(text, NOW_S) == seconds


class Poster:
    """Answers from a list; then with 204."""

    def __init__(self, *answers: Answer | Exception | int) -> None:
        self.answers = [*answers]
        self.sent: list[tuple[Mapping[str, str], bytes]] = []
        self.judge: Callable[[bytes], int] = lambda _: 204

    def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        self.sent.append((headers, body))
        if not self.answers:
            return Answer(self.judge(body))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Answer(answer) if isinstance(answer, int) else answer

    def connect(self) -> None:
        pass


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The waits between attempts, by a clock that nothing else moves."""
    found: list[float] = []
    limit = Deadline(clock=lambda: sum(found))
    monkeypatch.setattr(Deadline, "pause", lambda self, delay_s: found.append(delay_s))
    with deadline(limit):
        yield found


def deliver(poster: Poster, *bodies: bytes, a_request: int = 1, key: str | None = None) -> list[Any]:
    receiver = Receiver(
        poster,
        "hooks.example.com",
        stream="orders",
        keys=None,
        content_type="application/json",
        is_array=a_request > 1,
        clock=lambda: NOW_S,
    )
    sender = BatchSender(receiver, lanes=1)
    events = ChangeLog().inserts(len(bodies))
    records = [
        Record(event, key or event.event_id, len(body), Entry(event.event_id, body, {}))
        for event, body in zip(events, bodies, strict=True)
    ]
    found = [*sender.send(records, Limits(a_request, 1000, 1000)), *sender.flush()]
    return [(events.index(rejection.event), rejection.reason) for rejection in found]


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_taken(status: int, waits: list[float]) -> None:
    poster = Poster(status)
    assert deliver(poster, b"{}") == []
    assert (len(poster.sent), waits) == (1, [])


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_overload_and_the_receiver_s_faults_are_sent_again(status: int, waits: list[float]) -> None:
    poster = Poster(status, status)
    assert deliver(poster, b"{}") == []
    assert (len(poster.sent), len(waits)) == (3, 2)
    assert len({headers["webhook-id"] for headers, _ in poster.sent}) == 1


@pytest.mark.parametrize("status", [400, 402, 403, 404, 405, 406, 409, 410, 413, 415, 418, 422, 431, 451, 499])
def test_4xx_is_a_rejection(status: int, waits: list[float]) -> None:
    poster = Poster(204, status, 204)
    assert deliver(poster, b"1", b"2", b"3") == [(1, f"receiver hooks.example.com: HTTP {status}")]
    assert (len(poster.sent), waits) == (3, [])


@pytest.mark.parametrize("status", [401, 407])
def test_who_is_not_let_in_rejects_nothing(status: int, waits: list[float]) -> None:
    with pytest.raises(TargetError, match=str(status)) as caught:
        deliver(Poster(status), b"{}")
    assert "WEBHOOK_SECRET" in caught.value.hint


@pytest.mark.parametrize("status", [101, 300, 301, 302, 304, 307, 308, 399, 600, 999])
def test_redirects_and_what_is_no_answer_end_the_run(status: int, waits: list[float]) -> None:
    poster = Poster(Answer(status, location="https://user:hunter2@other/\x1b[31m?token=hunter2"))
    with pytest.raises(TargetError, match=str(status)) as caught:
        deliver(poster, b"{}")
    assert len(poster.sent) == 1
    assert "WEBHOOK_URL" in caught.value.hint
    assert "hunter2" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_retry_after_is_honoured(waits: list[float]) -> None:
    at = formatdate(NOW_S + 9, usegmt=True)
    assert deliver(Poster(Answer(429, retry_after="7"), Answer(503, retry_after=at)), b"{}") == []
    assert sum(waits) == 16


@pytest.mark.parametrize("after", ["3600", "9" * 40])
def test_who_asks_for_more_time_than_there_is_ends_the_run_at_once(after: str, waits: list[float]) -> None:
    with pytest.raises(TargetError, match="429"):
        deliver(Poster(Answer(429, retry_after=after)), b"{}")
    assert waits == []


def test_no_answer_is_sent_again_and_ends_the_run_in_the_end(waits: list[float]) -> None:
    lost = UnansweredError("cannot be reached: Connection refused", "check it")
    assert deliver(Poster(lost), b"{}") == []
    with pytest.raises(TargetError, match="Connection refused") as caught:
        deliver(Poster(*[lost] * 1000), b"{}")
    assert "check it" in caught.value.hint
    assert sum(waits) < 40


@pytest.mark.parametrize("error", [UntrustedError("no"), ForbiddenAddressError("no")])
def test_what_no_attempt_changes_ends_the_run(error: Exception, waits: list[float]) -> None:
    with pytest.raises(TargetError, match="no") as caught:
        deliver(Poster(error), b"{}")
    assert (bool(caught.value.hint), waits) == (True, [])


def test_a_deadline_is_no_fault_of_the_receiver(waits: list[float]) -> None:
    with deadline(Deadline(0.0, clock=lambda: 1.0)), pytest.raises(OutOfTimeError):
        deliver(Poster(), b"{}")


def test_of_an_array_those_are_rejected_that_are_refused_alone(waits: list[float]) -> None:
    poster = Poster()
    poster.judge = lambda body: 422 if b"bad" in body else 204
    bodies = [b'"bad"' if number in (3, 7) else b"%d" % number for number in range(10)]
    reason = "receiver hooks.example.com: HTTP 422"
    assert deliver(poster, *bodies, a_request=10) == [(3, reason), (7, reason)]
    sent = [json.loads(body) for _, body in poster.sent]
    assert sent[1:] == [["bad" if number in (3, 7) else number] for number in range(10)]
    assert waits == []


def test_an_overload_amid_single_events_leaves_the_rest_for_later(waits: list[float]) -> None:
    poster = Poster(413, 204, 410, Answer(503, retry_after="3"), 204)
    assert deliver(poster, b"0", b"1", b"2", b"3", a_request=4) == [(1, "receiver hooks.example.com: HTTP 410")]
    assert [json.loads(body) for _, body in poster.sent] == [[0, 1, 2, 3], [0], [1], [2], [2, 3]]
    assert sum(waits) == 3


def test_a_later_change_waits_for_the_earlier_one_and_a_rejected_one_lets_it_pass(waits: list[float]) -> None:
    poster = Poster(503, 204, 422, 500, 204)
    assert [number for number, _ in deliver(poster, b"1", b"2", b"3", key="same")] == [1]
    assert [body for _, body in poster.sent] == [b"1", b"1", b"2", b"3", b"3"]
