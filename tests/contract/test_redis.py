from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

import orjson
import pytest
import redis
from bson import Decimal128, Int64, Timestamp
from bson.datetime_ms import DatetimeMS

from docdb_stream.context import Deadline, RunContext, running
from docdb_stream.errors import Caution, CheckpointConflictError, ConfigError, TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.local import RedisServer
from docdb_stream.local.process import wait_until
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection
from docdb_stream.targets._redis.client import Client
from docdb_stream.targets._redis.errors import code_of
from docdb_stream.targets._redis.keys import version_key
from docdb_stream.targets.redis import RedisTarget
from docdb_stream.testing.contract import Delivered, TargetContract
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.versioned_contract import VersionedContract

pytestmark = pytest.mark.integration

_numbers = itertools.count()


class Cache:
    """The keys that belong to one test, and a client of its own."""

    def __init__(self, uri: str, client: Any) -> None:
        self.uri, self.client = uri, client
        self.prefix = f"t{next(_numbers)}"

    def target(self, **options: Any) -> RedisTarget:
        return RedisTarget(self.uri, **{"key": f"{self.prefix}:{{db}}:{{coll}}:{{id}}", **options})

    def deliver(self, *events: ChangeEvent, **options: Any) -> Sequence[Rejection]:
        """Write them in a process of its own."""
        with closing(self.target(**options)) as target:
            return [*target.write(events), *target.flush()]

    def found(self) -> list[str]:
        return sorted(key.decode() for key in self.client.scan_iter(match=f"{self.prefix}:*"))

    def found_keys(self) -> list[bytes]:
        return [key.encode() for key in self.found()]

    def documents(self, coll: str = "orders") -> dict[int, int]:
        keys = [key for key in self.found() if f":shop:{coll}:" in key]
        return {int(key.rpartition(":")[2]): orjson.loads(self.client.get(key))["n"] for key in keys}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Sequence[RedisServer]]:
    """A cluster of three that share the slots."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(_node()) for _ in range(3)]
        clients = [stack.enter_context(closing(redis.Redis(port=node.port))) for node in nodes]
        for place, client in enumerate(clients):
            last = 16383 if place == 2 else (place + 1) * 5461 - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", place * 5461, last)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
            if place:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, _bus_port(nodes[0]))

        def is_whole() -> bool:
            return all(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok" for client in clients)

        wait_until(is_whole, "the cluster is whole", timeout_s=60)
        yield nodes


@pytest.fixture(scope="module")
def cluster(nodes: Sequence[RedisServer]) -> RedisServer:
    """The first of them."""
    return nodes[0]


def _bus_port(node: RedisServer) -> str:
    return str(node._options[-1])


def _node() -> RedisServer:
    """A node whose port for the others is one that is free, not 10,000 above its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return RedisServer("--cluster-enabled", "yes", "--cluster-port", str(port))


@pytest.fixture(params=["one server", "cluster"])
def cache(request: pytest.FixtureRequest) -> Iterator[Cache]:
    if request.param == "cluster":
        node: RedisServer = request.getfixturevalue("cluster")
        with closing(redis.RedisCluster.from_url(node.uri)) as client:
            yield Cache(node.uri, client)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    with closing(redis.Redis.from_url(server.uri)) as client:
        yield Cache(server.uri, client)


@pytest.fixture
def single(redis_server: RedisServer) -> Iterator[Cache]:
    with closing(redis.Redis.from_url(redis_server.uri)) as client:
        yield Cache(redis_server.uri, client)


class TestRedis(TargetContract):
    keeps = "documents"

    @pytest.fixture(autouse=True)
    def _cache(self, single: Cache) -> None:
        self.cache = single

    def make_target(self) -> RedisTarget:
        return self.cache.target()

    def read_back(self) -> list[Delivered]:
        return [Delivered("", None, self.cache.client.get(key)) for key in self.cache.found()]

    def expected_payload(self, event: ChangeEvent) -> bytes | None:
        payload = event.render("plain")
        return None if payload == b"null" else payload


class TestVersions(VersionedContract):
    @pytest.fixture(autouse=True)
    def _cache(self, cache: Cache) -> None:
        self.cache = cache

    def make_target(self) -> RedisTarget:
        return self.cache.target()

    def documents(self) -> dict[int, int]:
        return self.cache.documents()


class TestVersionsOfHashes(VersionedContract):
    @pytest.fixture(autouse=True)
    def _cache(self, single: Cache) -> None:
        self.cache = single

    def make_target(self) -> RedisTarget:
        return self.cache.target(value="hash")

    def documents(self) -> dict[int, int]:
        found = [self.cache.client.hgetall(key) for key in self.cache.found()]
        return {int(each[b"_id"]): int(each[b"n"]) for each in found}


# Documents


def test_a_hash_is_replaced_as_a_whole(cache: Cache, log: ChangeLog) -> None:
    document = {"_id": "c1", "owner": "ann", "items": [{"sku": "a"}], "n": Int64(5), "paid": True, "note": None}
    cache.deliver(log.insert(document), value="hash")
    [key] = cache.found()
    assert cache.client.hgetall(key) == {
        b"_id": b"c1",
        b"owner": b"ann",
        b"items": b'[{"sku":"a"}]',
        b"n": b"5",
        b"paid": b"true",
        b"note": b"null",
    }
    cache.deliver(log.replace({"_id": "c1", "n": Decimal128("1.5")}), value="hash")
    assert cache.client.hgetall(key) == {b"_id": b"c1", b"n": b"1.5"}
    cache.deliver(log.update({"_id": "c1", "n": 2}))  # the other form
    assert cache.client.get(key) == b'{"_id":"c1","n":2}'


def test_a_hash_of_many_fields(single: Cache, log: ChangeLog) -> None:
    document = {"_id": 1, **{f"field{number}": number for number in range(20_000)}}
    assert single.deliver(log.insert(document), value="hash") == []
    [key] = single.found()
    assert single.client.hlen(key) == 20_001


@pytest.mark.parametrize("id", ["a{b}c", "{}", "}{", "%7B", "a b\n\0c", "é" * 400, "*[x]?", {"a": 1}, ":"])
def test_odd_ids(cache: Cache, log: ChangeLog, id: Any) -> None:
    other = log.insert({"_id": "other", "n": 1})
    assert cache.deliver(other, log.insert({"_id": id, "n": 1})) == []
    assert len(cache.found()) == 2
    assert cache.deliver(log.update({"_id": id, "n": 2}), log.delete("other")) == []
    [key] = cache.found()
    assert orjson.loads(cache.client.get(key))["n"] == 2
    assert cache.deliver(log.delete(id)) == []
    assert cache.found() == []


def test_a_key_with_a_slot_of_its_own(cache: Cache, log: ChangeLog) -> None:
    options = {"key": f"{cache.prefix}:{{{{shop}}}}:{{id}}"}
    assert cache.deliver(*log.inserts(10), **options) == []
    assert len({cache.client.execute_command("CLUSTER KEYSLOT", key) for key in cache.found()}) == 1
    assert cache.deliver(log.delete(3), **options) == []
    assert len(cache.found()) == 9


def test_names_that_hold_what_parts_the_fields(single: Cache) -> None:
    one, other = ChangeLog(coll="a"), ChangeLog(coll="a:b")
    assert single.deliver(one.insert({"_id": "b:1", "n": 1}), other.insert({"_id": "1x", "n": 2})) == []
    assert single.deliver(other.insert({"_id": "1", "n": 2}), one.delete("b:1")) == []
    assert len({*single.found()}) == 2
    assert single.deliver(one.drop()) == []
    assert len(single.found()) == 2


def test_ids_that_are_keys_kept_for_something_else(single: Cache, log: ChangeLog) -> None:
    sources = single.client.hgetall("docdb-stream:sources")
    event = log.insert({"_id": "docdb-stream:sources"})
    [rejection] = single.deliver(event, key="{id}")
    assert "REDIS_KEY" in rejection.reason
    assert sources.items() <= single.client.hgetall("docdb-stream:sources").items()
    with pytest.raises(ConfigError, match="REDIS_KEY"):
        single.deliver(ChangeLog(db="docdb-stream").insert({"_id": 1}), key="{db}:{id}")


def test_a_tag_that_is_the_id(cache: Cache, log: ChangeLog) -> None:
    options = {"key": f"{cache.prefix}:{{{{{{id}}}}}}:{{coll}}"}
    assert cache.deliver(*log.inserts(20), log.insert({"_id": ""}), **options) == []
    assert len(cache.found()) == 21


def test_versions_above_53_bits_are_told_apart(single: Cache) -> None:
    newest = ChangeLog().insert({"_id": 1, "n": 2})
    older = ChangeLog().insert({"_id": 1, "n": 1})
    newest.document["clusterTime"] = Timestamp(4_000_000_000, 2)
    older.document["clusterTime"] = Timestamp(4_000_000_000, 1)
    newest, older = (ChangeEvent(document={**each.document}) for each in (newest, older))
    single.deliver(newest)
    single.deliver(older)
    assert single.documents() == {1: 2}


def test_a_megabyte_and_sixteen(single: Cache, log: ChangeLog) -> None:
    documents = [{"_id": number, "n": number, "note": "x" * size} for number, size in enumerate((2**20, 15 * 2**20, 1))]
    assert single.deliver(*(log.insert(each) for each in documents)) == []
    assert single.documents() == {0: 0, 1: 1, 2: 2}


# Ends


def test_documents_end_some_seconds_after_their_last_change(cache: Cache, log: ChangeLog) -> None:
    insert = log.insert({"_id": 1, "n": 1})
    cache.deliver(insert, ttl_s=int(time.time()) - insert.cluster_time.time + 100)
    [key] = cache.found()
    assert 0 < cache.client.pttl(key) <= 101_000
    assert cache.client.ttl(version_key(key)) > 29 * 24 * 3600


def test_a_document_that_has_ended_comes_not_back(single: Cache, log: ChangeLog) -> None:
    insert = log.insert({"_id": 1, "n": 1})
    single.deliver(insert, ttl_s=1)  # the log is of long ago
    assert single.found() == []
    single.deliver(insert, ttl_s=1)
    assert single.found() == []


@pytest.mark.parametrize(
    ("value", "left"),
    [
        (dt.datetime(2100, 1, 1, tzinfo=dt.UTC), True),
        (dt.datetime(1969, 1, 1, tzinfo=dt.UTC), False),
        (DatetimeMS(2**62), True),
        (Timestamp(2**32 - 1, 1), True),
        ("2100-01-01", True),
        (None, True),
    ],
)
def test_a_field_says_when_a_document_ends(single: Cache, log: ChangeLog, value: Any, left: bool) -> None:
    assert single.deliver(log.insert({"_id": 1, "n": 1, "ends": {"at": value}}), ttl_field="ends.at") == []
    assert (single.found() != []) is left
    single.deliver(log.insert({"_id": 2, "n": 1}), log.delete(1), ttl_field="ends.at")
    assert single.documents() == {2: 1}


def test_a_document_without_a_date_ends_after_its_last_change(single: Cache, log: ChangeLog) -> None:
    dated = log.insert({"_id": 1, "n": 1, "ends": dt.datetime(1969, 1, 1, tzinfo=dt.UTC)})
    assert single.deliver(dated, log.insert({"_id": 2, "n": 2}), ttl_field="ends", ttl_s=10**8) == []
    assert single.documents() == {2: 2}
    assert single.client.pttl(single.found()[0]) > 0


def test_the_version_of_a_deleted_document_is_forgotten_at_last(single: Cache, log: ChangeLog) -> None:
    single.deliver(log.insert({"_id": 1, "n": 1}))
    [key] = single.found()
    assert single.client.ttl(version_key(key)) == -1
    single.deliver(log.delete(1), tombstone_days=2)
    assert 0 < single.client.ttl(version_key(key)) <= 2 * 24 * 3600


# Whole collections


def test_a_drop_takes_what_is_older(cache: Cache) -> None:
    log = ChangeLog(coll=f"c{next(_numbers)}")
    before = log.inserts(1_200)
    drop, after = log.drop(), log.insert({"_id": 5, "n": 5})
    cache.deliver(*before, drop, after)
    coll = before[0].namespace.coll
    for replayed in ([before[7]], [before[5]], [drop], [drop, after]):
        assert cache.deliver(*replayed) == []
        assert cache.documents(str(coll)) == {5: 5}
    assert cache.deliver(log.drop(), on_drop="keep") == []
    assert cache.documents(str(coll)) == {5: 5}


@pytest.mark.parametrize("value", ["json", "hash"])
def test_a_rename_moves_documents(cache: Cache, value: Any) -> None:
    log = ChangeLog(coll=f"c{next(_numbers)}")
    to = f"c{next(_numbers)}"
    old = ChangeLog(coll=to).insert({"_id": 5000, "n": 0})
    before = [*log.inserts(30), log.insert({"_id": 40, "n": 1}), log.delete(40)]
    rename = log.rename(to)
    cache.deliver(old, *before, value=value)
    for _ in range(2):
        assert cache.deliver(rename, value=value) == []
        assert {key.rpartition(":")[2] for key in cache.found()} == {str(number) for number in range(30)}
        assert all(f":{to}:" in key for key in cache.found())
        assert cache.deliver(old, before[3], *before[-2:], value=value) == []


def test_a_renamed_document_keeps_its_end(single: Cache, log: ChangeLog) -> None:
    events = [log.insert({"_id": number, "n": number}) for number in range(3)]
    assert single.deliver(*events, ttl_s=10**8) == []
    ends_ms = {key.rpartition(b":")[2]: single.client.pttl(key) for key in single.found_keys()}
    stranger = single.found_keys()[0]
    single.client.delete(stranger)
    single.client.rpush(stranger, "somebody else's")
    assert single.deliver(log.rename("later"), ttl_s=10**8) == []
    assert [*single.documents("later")] == [1, 2]
    for key in single.found_keys():
        assert abs(single.client.pttl(key) - ends_ms[key.rpartition(b":")[2]]) < 60_000
        assert single.client.pttl(version_key(key.decode())) > single.client.pttl(key)


def test_a_drop_that_takes_too_long_is_begun_again(single: Cache, log: ChangeLog) -> None:
    assert single.deliver(*log.inserts(3)) == []
    drop = log.drop()
    with running(RunContext(Deadline.after(0.0))), pytest.raises(TargetError):
        single.deliver(drop)
    assert single.deliver(drop) == []
    assert single.found() == []


def test_nothing_else_is_touched_by_a_drop(single: Cache, log: ChangeLog) -> None:
    single.deliver(log.insert({"_id": 1, "n": 1}))
    single.client.set(f"{single.prefix}:shop:orders:mine", "x")
    single.client.sadd(f"{single.prefix}:shop:orders:set", "x")
    single.deliver(log.drop())
    assert single.found() == [f"{single.prefix}:shop:orders:mine", f"{single.prefix}:shop:orders:set"]


# Servers


def test_scripts_that_the_server_has_forgotten_are_sent_again(cache: Cache, log: ChangeLog) -> None:
    with closing(cache.target()) as target:
        target.write([log.insert({"_id": 1, "n": 1})])
        cache.client.script_flush()
        assert target.write([log.insert({"_id": 2, "n": 2})]) == []
    assert cache.documents() == {1: 1, 2: 2}


def test_a_server_that_keeps_no_scripts_is_given_up_in_time(
    single: Cache, log: ChangeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Client, "_load", lambda client: None)
    single.client.script_flush()
    with running(RunContext(Deadline.after(1.0))), pytest.raises(TargetError, match="NOSCRIPT"):
        single.deliver(log.insert({"_id": 1}))


def test_a_wait_that_the_server_refuses_is_not_taken_for_one(log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    with RedisServer() as server, closing(redis.Redis.from_url(server.uri)) as client:
        client.acl_setuser(
            "hasty", enabled=True, passwords=["+swordfish"], keys=["*"], categories=["+@all"], commands=["-wait"]
        )
        monkeypatch.setenv("HASTY", '{"username": "hasty", "password": "swordfish"}')
        with (
            closing(RedisTarget(server.uri, secret="env:HASTY", replicas=1)) as target,
            pytest.raises(TargetError, match=r"permissions|NOPERM"),
        ):
            target.write([log.insert({"_id": 1})])


def test_a_full_server_is_waited_for(log: ChangeLog) -> None:
    with RedisServer() as server, closing(redis.Redis.from_url(server.uri)) as client:
        with closing(RedisTarget(server.uri)) as target:
            target.write([log.insert({"_id": 1, "n": 1})])
            client.config_set("maxmemory", "1")
            with running(RunContext(Deadline.after(1.0))), pytest.raises(TargetError, match="OOM") as caught:
                target.write([log.insert({"_id": 2, "n": 2})])
            assert "maxmemory" in caught.value.hint
            timer = threading.Timer(0.3, client.config_set, ["maxmemory", "0"])
            timer.start()
            assert target.write([log.insert({"_id": 2, "n": 2})]) == []
            timer.join()
        assert client.get("shop:orders:2") is not None


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("-OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
        ("-READONLY You can't write against a read only replica.", "READONLY"),
        ("-MISCONF Redis is configured to save RDB snapshots", "MISCONF"),
        ("The user executing the script can't access at least one of the keys mentioned", "NOPERM"),
        ("Write commands are not allowed", "ERR"),
    ],
)
def test_what_a_command_in_a_script_met_on_redis_6(said: str, code: str) -> None:
    wrapped = f"Error running script (call to f_0123): @user_script:4: @user_script: 4: {said}"
    assert code_of(redis.ResponseError(wrapped)) == code


class Name:
    """What a service calls its primary: connections that are made stay with whom it meant then."""

    def __init__(self, meant: RedisServer) -> None:
        self.meant = meant
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.uri = f"redis://127.0.0.1:{self._listening.getsockname()[1]}/0"
        self._ends = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self.meant.port))
                self._ends += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    @staticmethod
    def _pass(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)

    def close(self) -> None:
        for each in self._ends:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def test_a_failover_to_another_server_of_the_same_name_is_ridden_out(log: ChangeLog) -> None:
    with (
        RedisServer() as old,
        RedisServer() as new,
        closing(Name(old)) as name,
        closing(redis.Redis.from_url(old.uri)) as client,
        closing(redis.Redis.from_url(new.uri)) as there,
        closing(RedisTarget(name.uri)) as target,
    ):
        assert target.write([log.insert({"_id": 1, "n": 1})]) == []
        name.meant = new
        client.replicaof("127.0.0.1", str(new.port))
        assert target.write([log.insert({"_id": 2, "n": 2})]) == []
        assert there.get("shop:orders:2") is not None


def test_a_replica_takes_nothing_and_is_waited_for(log: ChangeLog) -> None:
    with RedisServer() as primary, RedisServer() as other, closing(redis.Redis.from_url(other.uri)) as client:
        client.replicaof("127.0.0.1", str(primary.port))
        with (
            closing(RedisTarget(other.uri)) as target,
            running(RunContext(Deadline.after(1.5))),
            pytest.raises(TargetError, match=r"READONLY|MASTERDOWN|LOADING") as caught,
        ):
            target.write([log.insert({"_id": 1, "n": 1})])
        assert caught.value.hint
        with closing(RedisTarget(primary.uri, replicas=1)) as target:
            assert target.write([log.insert({"_id": 2, "n": 2})]) == []
        assert client.get("shop:orders:2") is not None
        client.replicaof("NO", "ONE")
        with (
            closing(RedisTarget(primary.uri, replicas=1)) as target,
            running(RunContext(Deadline.after(1.0))),
            pytest.raises(TargetError),
        ):
            target.write([log.insert({"_id": 3, "n": 3})])


def test_a_server_that_was_stopped_and_is_back(log: ChangeLog) -> None:
    with RedisServer() as server, closing(RedisTarget(server.uri)) as target:
        target.write([log.insert({"_id": 1, "n": 1})])
        server.kill()
        with running(RunContext(Deadline.after(0.5))), pytest.raises(TargetError):
            target.write([log.insert({"_id": 2, "n": 2})])
        timer = threading.Timer(0.3, server.restart)
        timer.start()
        assert target.write([log.insert({"_id": 3, "n": 3})]) == []
        timer.join()
        with closing(redis.Redis.from_url(server.uri)) as client:
            assert client.get("shop:orders:3") is not None


def test_a_node_that_was_stopped_and_is_back(nodes: Sequence[RedisServer], log: ChangeLog) -> None:
    key = f"t{next(_numbers)}:{{id}}"
    with closing(RedisTarget(nodes[0].uri, key=key)) as target:
        target.write(log.inserts(20))
        nodes[1].kill()
        try:
            with running(RunContext(Deadline.after(1.0))), pytest.raises(TargetError) as caught:
                target.write(log.inserts(20, first_id=20))
            assert caught.value.hint
        finally:
            timer = threading.Timer(0.3, nodes[1].restart)
            timer.start()
        assert target.write(log.inserts(40)) == []
        timer.join()
    with closing(redis.RedisCluster.from_url(nodes[0].uri)) as client:
        assert len([*client.scan_iter(match=key.replace("{id}", "*"))]) == 40


def test_a_node_that_falls_silent_is_given_up_in_time(nodes: Sequence[RedisServer], log: ChangeLog) -> None:
    with closing(RedisTarget(nodes[0].uri, key=f"t{next(_numbers)}:{{id}}")) as target:
        target.write(log.inserts(20))
        nodes[2].pause()
        try:
            began_s = time.monotonic()
            with running(RunContext(Deadline.after(1.0))), pytest.raises(TargetError):
                target.write(log.inserts(20, first_id=20))
            assert time.monotonic() - began_s < 5
        finally:
            nodes[2].resume()
        assert target.write(log.inserts(20, first_id=20)) == []


@pytest.mark.parametrize("stops", [False, True])
def test_a_server_that_says_nothing_is_given_up_in_time(log: ChangeLog, stops: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        limit = Deadline.after(30.0 if stops else 1.0)
        if stops:
            limit.stop.set()
        began_s = time.monotonic()
        uri = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        with running(RunContext(limit)), closing(RedisTarget(uri)) as target, pytest.raises(TargetError):
            target.write([log.insert({"_id": 1})])
        assert time.monotonic() - began_s < 10


def test_a_server_that_falls_silent_is_given_up_in_time(log: ChangeLog) -> None:
    with RedisServer() as server, closing(RedisTarget(server.uri)) as target:
        target.write([log.insert({"_id": 1, "n": 1})])
        server.pause()
        began_s = time.monotonic()
        with running(RunContext(Deadline.after(1.0))), pytest.raises(TargetError):
            target.write([log.insert({"_id": 2, "n": 2})])
        assert time.monotonic() - began_s < 5
        server.resume()
        assert target.write([log.insert({"_id": 2, "n": 2})]) == []


def test_users(log: ChangeLog, monkeypatch: pytest.MonkeyPatch) -> None:
    event = log.insert({"_id": 1, "n": 1})
    with RedisServer() as server, closing(redis.Redis.from_url(server.uri)) as client:
        client.acl_setuser("writer", enabled=True, passwords=["+swordfish"], keys=["*"], categories=["+@all"])
        client.acl_setuser("reader", enabled=True, passwords=["+swordfish"], keys=["*"], categories=["+@read"])
        client.acl_setuser("default", enabled=True, reset_passwords=True, passwords=["+other"])
        for name, password, message in [
            ("", "", "NOAUTH|equired"),
            ("writer", "wrong", "WRONGPASS|invalid"),
            ("reader", "swordfish", "NOPERM|permissions"),
        ]:
            monkeypatch.setenv("WRITER", f'{{"username": "{name}", "password": "{password}"}}')
            secret = "env:WRITER" if name else None
            with closing(RedisTarget(server.uri, secret=secret)) as target, pytest.raises(TargetError) as caught:
                target.write([event])
            assert re.search(message, str(caught.value)), str(caught.value)
            assert "swordfish" not in str(caught.value)
            assert caught.value.hint
        monkeypatch.setenv("WRITER", '{"username": "writer", "password": "swordfish"}')
        with closing(RedisTarget(server.uri, secret="env:WRITER")) as target:
            assert target.write([event]) == []


def test_check_of_a_user_without_rights_to_the_documents_keys() -> None:
    settings = Settings(
        documentdb_uri="mongodb://h/", watched_db_name="shop", watched_collection_name="orders", redis_uri="redis://h"
    )
    with RedisServer() as server, closing(redis.Redis.from_url(server.uri)) as client:
        rights = {"enabled": True, "passwords": ["+p"], "categories": ["+@all"]}
        client.acl_setuser("blind", keys=["docdb-stream:*"], **rights)
        client.acl_setuser("writer", keys=["docdb-stream:*", "shop:*"], **rights)
        client.acl_setuser("unscanning", keys=["*"], commands=["-scan"], **rights)
        for name, fits in (("blind", False), ("writer", True), ("unscanning", False)):
            uri = server.uri.replace("redis://", f"redis://{name}:p@")
            with closing(RedisTarget(uri, source=settings)) as target:
                if fits:
                    with contextlib.suppress(Caution):
                        target.check()
                else:
                    with pytest.raises(TargetError, match=r"NOPERM|permissions"):
                        target.check()
        assert client.dbsize() == 0


def test_check_changes_nothing_and_warns(single: Cache) -> None:
    before = single.client.dbsize()
    with closing(single.target()) as target:
        target.check()
        assert single.client.dbsize() == before
    for option, told in (
        ("--maxmemory-policy allkeys-lru", "allkeys-lru"),
        ("--appendonly no", "persistence"),
        ("--proto-max-bulk-len 1mb", "1048576"),
    ):
        with (
            RedisServer(*option.split()) as server,
            closing(RedisTarget(server.uri)) as target,
            pytest.raises(Caution, match=told),
        ):
            target.check()


def test_without_the_lease_nothing_is_sent(single: Cache, log: ChangeLog) -> None:
    def lost() -> None:
        raise CheckpointConflictError("lost")

    context = running(RunContext(lease_check=lost))
    with closing(single.target()) as target, context, pytest.raises(CheckpointConflictError):
        target.write([log.insert({"_id": 1, "n": 1})])
    assert single.found() == []


def test_two_that_write_the_same_at_the_same_time(cache: Cache, log: ChangeLog) -> None:
    events = [log.replace({"_id": number % 50, "n": number}) for number in range(600)]
    failed: list[BaseException] = []

    def write(part: Sequence[ChangeEvent]) -> None:
        try:
            for first in range(0, len(part), 40):
                assert cache.deliver(*part[first : first + 40]) == []
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(part,)) for part in (events[::-1], events, events[300:])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert cache.documents() == {number: 550 + number for number in range(50)}


@pytest.mark.parametrize(
    "uri", ["true", "cache.example:6379", "http://cache.example", "redis://h:port/0", "redis://h?decode_responses=1"]
)
def test_what_is_no_address(uri: str) -> None:
    with pytest.raises(ConfigError):
        RedisTarget(uri)


@pytest.mark.parametrize("key", ["{db}", "{id}{id}", "{document.a}:{id}", "docdb-stream:{id}", "{{}}:{id}", "a}}:{id}"])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(ValueError, match=r"expected|made of|for what|braces"):
        RedisTarget("redis://h", key=key)
