"""Servers shared by the whole suite: each is started when the first test asks for it, and stopped at the end."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from pymongo import MongoClient

from docdb_stream import registry
from docdb_stream.config import environment_names
from docdb_stream.local import (
    ArcadeServer,
    AwsServer,
    KafkaBroker,
    OpenSearchServer,
    PostgresServer,
    RedisServer,
    ReplicaSet,
    Tls,
)

if TYPE_CHECKING:
    from matrix.servers.neo4j import Neo4jServer

_numbers = itertools.count(1)

# What is slow on a busy machine is not wrong: the time-out of the whole suite is for what hangs.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``make test-matrix`` runs some of the suite once more, see tests/matrix."""
    parser.addoption(
        "--real-servers",
        action="store_true",
        help="Apache Kafka, OpenSearch and Neo4j, not what stands in for them",
    )


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    """The environment of whoever runs the tests names no cluster and no account that a test could meet by accident."""
    for name in list(os.environ):
        if name in environment_names() or name.startswith("AWS_"):
            del os.environ[name]


@pytest.fixture(scope="session", autouse=True)
def _signals_arrive() -> None:
    """A shell without job control has what runs in its background ignore SIGINT, and nohup has it ignore SIGHUP: so
    would all that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _the_log_stays_as_it_is() -> Iterator[None]:
    """The command line, run in the process of a test, sets how much is logged, for all tests that come after it."""
    logger = logging.getLogger("docdb_stream")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(scope="session")
def replica_set() -> Iterator[ReplicaSet]:
    """A MongoDB replica set of one member."""
    with ReplicaSet(set_parameters={"periodicNoopIntervalSecs": 1}) as started:
        yield started


@pytest.fixture(scope="session")
def mongo(replica_set: ReplicaSet) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client of the replica set."""
    with replica_set.client() as client:
        yield client


@pytest.fixture
def db_name() -> str:
    """The name of a database that no other test uses."""
    return f"db{next(_numbers)}"


@pytest.fixture(scope="session")
def aws() -> Iterator[AwsServer]:
    """A local AWS account."""
    with AwsServer() as started:
        yield started


@pytest.fixture
def aws_environment(aws: AwsServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables with which boto3 finds the account, set for this test."""
    environment = aws.environment()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server."""
    with PostgresServer() as started:
        yield started


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Valkey server."""
    with RedisServer() as started:
        yield started


@pytest.fixture(scope="session")
def arcadedb() -> Iterator[ArcadeServer]:
    """An ArcadeDB server, which speaks Bolt and openCypher."""
    with ArcadeServer() as started:
        yield started


@pytest.fixture(scope="session")
def neo4j_server(request: pytest.FixtureRequest) -> Iterator[ArcadeServer | Neo4jServer]:
    """What stands in for Neo4j; Neo4j itself with --real-servers."""
    if not request.config.getoption("--real-servers"):
        yield request.getfixturevalue("arcadedb")
        return
    from matrix.servers.neo4j import Neo4jServer

    with Neo4jServer() as started:
        yield started


@pytest.fixture(scope="session")
def kafka_kind(pytestconfig: pytest.Config) -> type[KafkaBroker]:
    """What stands in for Kafka; Apache Kafka itself with --real-servers."""
    if pytestconfig.getoption("--real-servers"):
        from matrix.servers.kafka import ApacheKafka

        return ApacheKafka
    return KafkaBroker


@pytest.fixture(scope="session")
def kafka_broker(kafka_kind: type[KafkaBroker]) -> Iterator[KafkaBroker]:
    """A Kafka broker; topics are created when first used."""
    with kafka_kind() as started:
        yield started


@pytest.fixture(scope="session")
def opensearch_kind(pytestconfig: pytest.Config) -> type[OpenSearchServer]:
    """What stands in for OpenSearch; OpenSearch itself with --real-servers."""
    if pytestconfig.getoption("--real-servers"):
        from matrix.servers.opensearch import OpenSearch

        return OpenSearch
    return OpenSearchServer


@pytest.fixture(scope="session")
def opensearch_server(opensearch_kind: type[OpenSearchServer]) -> Iterator[OpenSearchServer]:
    """An OpenSearch node."""
    with opensearch_kind() as started:
        yield started


class CommandLine:
    """``docdb-stream`` as a process of its own, with nothing in its environment but what a test gives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start it; it is killed at the end of the test at the latest."""
        inherited = {
            name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "docdb_stream.cli", *arguments],
            cwd=self.folder,
            env={**inherited, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def close(self) -> None:
        """End what still runs."""
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    """The command line, run in the test's own folder."""
    found = CommandLine(tmp_path)
    yield found
    found.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate authority and a server certificate for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(command: str) -> None:
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)

    new = "req -x509 -newkey rsa:2048 -noenc -days 1"
    openssl(f"{new} -subj /CN=ca -keyout ca.key -out ca.pem")
    openssl(
        f"{new} -subj /CN=server -addext subjectAltName=IP:127.0.0.1 -CA ca.pem -CAkey ca.key -keyout key -out cert"
    )
    server = folder / "server.pem"
    server.write_bytes((folder / "cert").read_bytes() + (folder / "key").read_bytes())
    return Tls(certificate_key_file=server, ca_file=folder / "ca.pem")


@pytest.fixture(scope="session")
def secured_replica_set(certificates: Tls) -> Iterator[ReplicaSet]:
    """A replica set that takes TLS connections and a user ``us:er`` with the password ``p@ss w/ord`` only."""
    with ReplicaSet(username="us:er", password="p@ss w/ord", tls=certificates) as started:
        yield started


@pytest.fixture
def install_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Install a distribution that registers targets: ``install_targets(pigeon=("Pigeon", source))``; returns where."""
    site = tmp_path / "site"
    info = site / "others-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    modules: list[str] = []

    def forget() -> None:
        registry._entry_points.cache_clear()
        registry.models_of_others.cache_clear()

    def install(**registered: tuple[str, str]) -> Path:
        lines = ["[docdb_stream.targets]"]
        for name, (attribute, source) in registered.items():
            module = f"package_of_{name}"
            modules.append(module)
            (site / f"{module}.py").write_text(source)
            lines.append(f"{name} = {module}:{attribute}")
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        forget()
        return site

    yield install
    forget()
    for module in modules:
        sys.modules.pop(module, None)
