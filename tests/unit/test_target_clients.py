"""The optional client libraries: missing ones, late imports, addresses."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from docdb_stream.errors import ConfigError
from docdb_stream.targets._client import import_client
from docdb_stream.targets._opensearch.client import OpenSearchClient
from docdb_stream.targets.cassandra import CassandraTarget
from docdb_stream.targets.kafka import KafkaTarget
from docdb_stream.targets.neo4j import Neo4jTarget
from docdb_stream.targets.opensearch import OpenSearchTarget
from docdb_stream.targets.postgresql import PostgresTarget
from docdb_stream.targets.redis import RedisTarget
from docdb_stream.targets.webhook import WebhookTarget


@pytest.mark.parametrize(
    ("module", "extra", "construct"),
    [
        ("kafka", "kafka", lambda: KafkaTarget("host:9092")),
        ("confluent_kafka", "kafka-confluent", lambda: KafkaTarget("host:9092", client="confluent")),
        ("opensearchpy", "opensearch", lambda: OpenSearchTarget("https://host")),
        ("httpx", "webhook", lambda: WebhookTarget("https://host")),
        ("psycopg", "postgresql", lambda: PostgresTarget("postgresql://host/db")),
        ("neo4j", "neo4j", lambda: Neo4jTarget("bolt://host", nodes="a: A(id=_id)")),
        ("cassandra", "cassandra", lambda: CassandraTarget("host", "k", "a: t (id text = _id, PRIMARY KEY (id))")),
        ("redis", "redis", lambda: RedisTarget("redis://host")),
    ],
)
def test_a_missing_library_is_told_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str, construct: Callable[[], Any]
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ConfigError, match=module) as caught:
        construct()
    assert caught.value.hint == f"pip install 'docdb-stream[{extra}]'; in a clone: pip install '.[{extra}]'"


def test_a_library_that_lacks_something_itself_is_no_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ModuleNotFoundError("No module named 'other'", name="other")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="other"):
        import_client("kafka", "kafka")


def test_libraries_are_imported_when_a_target_is_constructed() -> None:
    code = """
import sys
from docdb_stream.targets import cassandra, file, kafka, neo4j, opensearch, postgresql, redis, stdout, webhook
clients = {"redis", "cassandra", "neo4j", "psycopg", "kafka", "confluent_kafka", "opensearchpy", "httpx", "httpcore"}
assert not clients & set(sys.modules)
opensearch.OpenSearchTarget("https://host")
assert "opensearchpy" in sys.modules and "kafka" not in sys.modules
kafka.KafkaTarget("host:9092", client="confluent")
assert "confluent_kafka" in sys.modules and "kafka" not in sys.modules
assert "docdb_stream.targets._kafka.python" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_level_that_was_set_for_a_library_stays() -> None:
    loud, quiet = logging.getLogger("test_loud"), logging.getLogger("test_quiet")
    loud.setLevel(logging.DEBUG)
    import_client("json", "none", "test_loud", "test_quiet")
    assert loud.level == logging.DEBUG
    assert not quiet.isEnabledFor(logging.CRITICAL)


def client(uri: str, **options: Any) -> OpenSearchClient:
    arguments: dict[str, Any] = {"auth": None, "secret": None, "service": "es", "tls_ca": None, **options}
    return OpenSearchClient("opensearch", uri, **arguments)


AWS_HOST = "vpc-shop-abc.eu-west-1.es.amazonaws.com"


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("https://search.example", "https://search.example:443"),
        ("search.example", "https://search.example:443"),
        (AWS_HOST, f"https://{AWS_HOST}:443"),
        ("search.example:9200", "https://search.example:9200"),
        ("http://127.0.0.1:9201", "http://127.0.0.1:9201"),
        ("http://127.0.0.1", "http://127.0.0.1:9200"),
        ("https://proxy.example/search/", "https://proxy.example:443/search"),
    ],
)
def test_addresses(uri: str, address: str) -> None:
    host = client(uri)._host
    scheme = "https" if host["use_ssl"] else "http"
    path = "/" + host["url_prefix"] if host["url_prefix"] else ""
    assert f"{scheme}://{host['host']}:{host['port']}{path}" == address


@pytest.mark.parametrize("uri", ["ftp://host", "https://", "https://host:port", "https://[half"])
def test_what_is_no_address_is_told_at_once(uri: str) -> None:
    with pytest.raises(ConfigError, match="ELASTICSEARCH_URI"):
        client(uri)


@pytest.mark.parametrize(
    "uri", ["https://user:hunter2@host", "user:hunter2@host", "https://user:hunter2/x@host", "https://hunter2@host"]
)
def test_credentials_in_the_address_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ConfigError, match="credentials") as caught:
        client(uri)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("uri", "options", "auth"),
    [
        (AWS_HOST, {}, "sigv4"),
        ("https://search.cn-north-1.es.amazonaws.com.cn", {}, "sigv4"),
        ("https://amazonaws.com.example", {}, "none"),
        ("https://host", {}, "none"),
        ("https://host", {"secret": "env:X"}, "basic"),
        (AWS_HOST, {"secret": "env:X"}, "basic"),
        (AWS_HOST, {"auth": "none"}, "none"),
    ],
)
def test_how_to_sign_in_is_told_by_the_address(uri: str, options: dict[str, str], auth: str) -> None:
    assert client(uri, **options)._auth == auth


@pytest.mark.parametrize(("host", "region"), [(AWS_HOST, "eu-west-1"), ("search.example", "us-east-2")])
def test_the_region_is_that_of_the_address(monkeypatch: pytest.MonkeyPatch, host: str, region: str) -> None:
    for name, value in {"ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key", "DEFAULT_REGION": "us-east-2"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    assert client(host, auth="sigv4")._signer().signer.region == region


def test_signing_without_a_region_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(ConfigError, match="no AWS region"):
        client("search.example", auth="sigv4")._signer()
