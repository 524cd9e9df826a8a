"""The connection to the cluster: address, credentials, TLS, and what went wrong in the operator's words.

Owns how a MongoClient is made from settings. Reading change streams and keeping checkpoints use it.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from pymongo import MongoClient
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.uri_parser import parse_uri

from docdb_stream.errors import ConfigError, DocdbStreamError, SourceUnavailableError
from docdb_stream.secret import Credentials, read_credentials
from docdb_stream.settings import Settings

Client = MongoClient[dict[str, Any]]

SERVER_SELECTION_TIMEOUT_MS = 10_000
"""How long to look for a usable server: an election of MongoDB takes up to about 12 s with its defaults and is waited
for by retrying, so one look may be shorter; PyMongo's own 30 s is a long silence for a mistyped host."""

CONNECT_TIMEOUT_MS = 5_000
SOCKET_TIMEOUT_MS = 60_000
"""A dead peer must not hold a run for ever. Longer than any wait for events, far longer than a healthy answer takes."""

AUTHENTICATION_FAILED = 18
UNAUTHORIZED = 13
"""Error codes of the MongoDB server (its error_codes.yml), which DocumentDB shares."""


def connection_string(settings: Settings) -> str:
    """The connection string to use: as given, or made from a bare DocumentDB endpoint as the AWS sample takes it."""
    uri = settings.documentdb_uri
    if "://" in uri:
        return uri
    host = uri if ":" in uri else f"{uri}:27017"
    return f"mongodb://{host}/?tls=true&replicaSet=rs0&retryWrites=false"


def connect(settings: Settings, credentials: Credentials | None = None) -> Client:
    """A client for the cluster. Does no network traffic to it (the secret and the CA may be fetched).

    ``retryWrites`` is off, because DocumentDB refuses it; what this package writes is safe to repeat and is repeated
    by its own retries.

    Args:
        settings: Which cluster, secret and CA.
        credentials: Instead of reading DOCUMENTDB_SECRET.

    Raises:
        ConfigError: The connection string, secret or CA cannot be used.
    """
    uri = connection_string(settings)
    try:
        given = parse_uri(uri, validate=True, warn=False)["options"]
    except (ConfigurationError, InvalidURI, ValueError) as error:
        raise ConfigError(
            f"documentdb_uri is not a valid connection string: {error}",
            hint="expected mongodb://HOST:PORT/?replicaSet=rs0",
        ) from error
    except PyMongoError as error:  # mongodb+srv:// is resolved while parsing
        raise SourceUnavailableError(f"cannot resolve documentdb_uri: {error}", hint="check the host name") from error
    options: dict[str, Any] = {
        "appname": "docdb-stream",
        "retryWrites": False,
        "serverSelectionTimeoutMS": SERVER_SELECTION_TIMEOUT_MS,
        "connectTimeoutMS": CONNECT_TIMEOUT_MS,
        "socketTimeoutMS": SOCKET_TIMEOUT_MS,
    }
    options = {name: value for name, value in options.items() if name not in given or name == "retryWrites"}
    # A change stream's cursor lives on one server. Among several that would do (mongos routers, readers) always take
    # the same one, so that a getMore finds its cursor.
    options["server_selector"] = _same_server
    if settings.documentdb_tls_ca:
        options |= {"tls": True, "tlsCAFile": _ca_file(settings.documentdb_tls_ca)}
    if credentials is None and settings.documentdb_secret:
        credentials = read_credentials(settings.documentdb_secret)
    if credentials is not None:
        options |= {"username": credentials.username, "password": credentials.password}
    try:
        return MongoClient(uri, **options)
    except (ConfigurationError, InvalidURI, ValueError, OSError) as error:
        raise ConfigError(f"cannot use the connection settings: {error}", hint="check documentdb_uri") from error


def _same_server(servers: Sequence[Any]) -> Sequence[Any]:
    return sorted(servers, key=lambda server: server.address)[:1]


def _ca_file(reference: str) -> str:
    if reference.startswith("s3://"):
        return _ca_from_s3(reference)
    if not os.path.isfile(reference):
        raise ConfigError(
            f"documentdb_tls_ca: there is no file {reference}",
            hint="for DocumentDB download https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem",
        )
    return reference


@functools.cache
def _ca_from_s3(reference: str) -> str:
    """Fetch the bundle once per process: a Lambda's container keeps it while it is warm."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    parts = urlsplit(reference)
    hint = "expected s3://bucket/key, and s3:GetObject on it"
    try:
        body = boto3.client("s3").get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))["Body"].read()
    except (ClientError, BotoCoreError, ValueError) as error:
        raise ConfigError(f"documentdb_tls_ca: cannot fetch {reference}: {error}", hint=hint) from error
    with tempfile.NamedTemporaryFile(prefix="docdb-stream-ca-", suffix=".pem", delete=False) as file:
        file.write(body)
    return file.name


def unavailable(error: PyMongoError, uri: str) -> DocdbStreamError:
    """The error for the operator: why the cluster at ``uri`` cannot be used, and what to do.

    Looks at the servers once more by itself where that tells a wrong replica-set name from an unreachable host.
    """
    where = ", ".join(_seeds(uri))
    if isinstance(error, OperationFailure):
        if error.code == AUTHENTICATION_FAILED:
            return SourceUnavailableError(
                f"{where} refuses the user name or password",
                hint="check DOCUMENTDB_SECRET or the connection string, and authSource",
            )
        if error.code == UNAUTHORIZED:
            return SourceUnavailableError(
                f"{where}: not authorized: {server_message(error)}",
                hint="the user needs to read change streams (role read, or changeStream and find privileges) on what "
                "is watched, and readWrite on STATE_DB",
            )
        return SourceUnavailableError(f"{where}: {server_message(error)} (code {error.code})")
    if isinstance(error, ServerSelectionTimeoutError):
        return _no_server(error, uri, where)
    return SourceUnavailableError(
        f"the connection to {where} broke: {_short(error)}", hint="the next run goes on from the checkpoint"
    )


def _no_server(error: PyMongoError, uri: str, where: str) -> SourceUnavailableError:
    wanted = parse_uri(uri, warn=False)["options"].get("replicaset")
    if wanted:
        found = _set_name(uri)
        if found is not None and found != wanted:
            actual = f"its replica set is called {found}" if found else "it is not part of a replica set"
            return SourceUnavailableError(
                f"{where} answers, but {actual}; the connection string says replicaSet={wanted}",
                hint=f"use replicaSet={found}" if found else NO_CHANGE_STREAMS_HINT,
            )
    return SourceUnavailableError(
        f"no usable server at {where}: {_short(error)}",
        hint="check host, port, TLS, and that this machine may connect (VPC, security group)",
    )


def _set_name(uri: str) -> str | None:
    """What the first answering seed calls its replica set; "" when it has none, None when no seed answers."""
    options = parse_uri(uri, warn=False)["options"]
    tls = {name: value for name, value in options.items() if name.lower().startswith("tls")}
    for seed in _seeds(uri):
        try:
            with MongoClient(
                f"mongodb://{seed}/", directConnection=True, serverSelectionTimeoutMS=2000, **tls
            ) as probe:
                return str(probe.admin.command("hello").get("setName", ""))
        except PyMongoError:
            continue
    return None


def _seeds(uri: str) -> list[str]:
    try:
        return [f"{host}:{port or 27017}" for host, port in parse_uri(uri, warn=False)["nodelist"]]
    except (PyMongoError, ValueError):
        return ["the cluster"]


NO_CHANGE_STREAMS_HINT = (
    "change streams need a replica set: start mongod with --replSet and run rs.initiate(); on DocumentDB enable them "
    "with modifyChangeStreams (elastic clusters have none)"
)


def server_message(error: OperationFailure) -> str:
    """The server's own words, without the whole reply that PyMongo appends."""
    details = error.details or {}
    return str(details.get("errmsg") or str(error).partition(", full error")[0])


def _short(error: Exception) -> str:
    """PyMongo's message without its description of the topology."""
    text = str(error).partition(", Timeout:")[0].partition(", Topology Description")[0]
    return text if len(text) <= 300 else text[:300] + "..."


def is_connection_trouble(error: BaseException) -> bool:
    """Whether ``error`` is of the network or of finding a server, and so may pass by itself."""
    return isinstance(error, AutoReconnect)
