"""What went wrong with the cluster, in the operator's words.

Owns the translation of PyMongo's errors. Decides nothing about retrying.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import pymongo
from pymongo import MongoClient
from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError, ServerSelectionTimeoutError
from pymongo.uri_parser import parse_uri

from docdb_stream.context import current_deadline
from docdb_stream.errors import ConfigError, SourceUnavailableError

AUTHENTICATION_FAILED = 18
UNAUTHORIZED = 13
"""Error codes of the MongoDB server (its error_codes.yml), which DocumentDB shares."""

HELLO = "isMaster"
"""The command by which a server tells its role, its limits and its clock. By its old name, which every server knows: as
``hello`` it is new with MongoDB 4.0.21, 4.2.10 and 4.4.2."""

_PYMONGO_BELOW = {6: "4.11", 7: "4.14", 8: "4.18"}
"""The wire version that a server reports at most (6: MongoDB 3.6, 7: 4.0, 8: 4.2) -> the first PyMongo that refuses it,
by PyMongo's changelog and its MIN_SUPPORTED_WIRE_VERSION."""

NO_CHANGE_STREAMS_HINT = (
    "change streams need a replica set: start mongod with --replSet and run rs.initiate(); on DocumentDB enable them "
    "with modifyChangeStreams (elastic clusters have none)"
)


def unavailable(error: PyMongoError, uri: str) -> SourceUnavailableError:
    """The error for the operator: why the cluster at ``uri`` cannot be used, and what to do.

    Looks at the servers once more by itself where that tells a wrong replica-set name from an unreachable host.
    """
    where = ", ".join(seeds(uri))
    if isinstance(error, OperationFailure):
        if error.code == AUTHENTICATION_FAILED:
            return SourceUnavailableError(
                f"{where} refuses the user name or password",
                hint="check DOCUMENTDB_SECRET or the connection string, and authSource",
                refused=True,
            )
        if error.code == UNAUTHORIZED:
            return SourceUnavailableError(
                f"{where}: not authorized: {server_message(error)}",
                hint="the user needs to read change streams (role read, or changeStream and find privileges) on what "
                "is watched, and readWrite on STATE_DB",
                refused=True,
            )
        return SourceUnavailableError(f"{where}: {server_message(error)} (code {error.code})")
    if isinstance(error, ServerSelectionTimeoutError):
        return _no_server(error, uri, where)
    if isinstance(error, ConfigurationError) and "wire version" in str(error):
        return SourceUnavailableError(
            f"PyMongo {pymongo.version} does not go with the server: {error}", hint=_other_pymongo(str(error))
        )
    if isinstance(error, ConfigurationError):
        return SourceUnavailableError(
            f"the connection string does not go with the cluster: {_short(error)}",
            hint="correct documentdb_uri",
            refused=True,
        )
    return SourceUnavailableError(
        f"the connection to {where} broke: {_short(error)}", hint="the next run goes on from the checkpoint"
    )


def no_change_streams(why: str) -> SourceUnavailableError:
    """The error for the operator where the server has no change streams."""
    return SourceUnavailableError(
        f"this server has no change streams: {why}", hint=NO_CHANGE_STREAMS_HINT, refused=True
    )


def no_images(why: str) -> ConfigError:
    """The error for the operator where the settings want pre- or post-images, and the server keeps none."""
    return ConfigError(
        f"this server keeps no pre- and post-images: {why}",
        hint="they came with MongoDB 6.0: set FULL_DOCUMENT to update_lookup or default, and "
        "FULL_DOCUMENT_BEFORE_CHANGE to off",
    )


def no_image(why: str) -> SourceUnavailableError:
    """The error for the operator where an image is required that the server has not got."""
    return SourceUnavailableError(
        f"an image that is required is not there: {why}",
        hint="db.runCommand({collMod: COLLECTION, changeStreamPreAndPostImages: {enabled: true}}) has the server keep "
        "them from now on; for the changes before, set required to when_available until the stream is past them. The "
        "position is kept",
        refused=True,
    )


def _other_pymongo(message: str) -> str:
    """Which PyMongo to install, by what it says of the server's version of the wire protocol."""
    reported = re.search(r"reports wire version (\d+)", message)
    if reported is None:
        return "the server is newer than this PyMongo knows: pip install --upgrade pymongo"
    below = next((version for wire, version in _PYMONGO_BELOW.items() if int(reported[1]) <= wire), None)
    if below is None:
        return "install the PyMongo that docs/compatibility.md names for the server"
    return f"pip install 'pymongo<{below}'; for a Lambda, pymongo = <{below} in [deploy] of config.ini"


def _no_server(error: PyMongoError, uri: str, where: str) -> SourceUnavailableError:
    wanted = uri_options(uri).get("replicaset")
    if wanted:
        found = _set_name(uri)
        if found is not None and found != wanted:
            actual = f"its replica set is called {found}" if found else "it is not part of a replica set"
            return SourceUnavailableError(
                f"{where} answers, but {actual}; the connection string says replicaSet={wanted}",
                hint=f"use replicaSet={found}" if found else NO_CHANGE_STREAMS_HINT,
            )
    if "match selector" in str(error) and "Primary()" not in str(error):
        return SourceUnavailableError(
            f"no member of {where} is one that readPreference lets the stream be read from: {_short(error)}",
            hint="see that such a member is up, has these tags and is not too far behind; "
            "readPreference=secondaryPreferred takes the primary meanwhile",
        )
    return SourceUnavailableError(
        f"no usable server at {where}: {_short(error)}",
        hint="check host, port, TLS, and that this machine may connect (VPC, security group)",
    )


def _set_name(uri: str) -> str | None:
    """What the first answering seed calls its replica set; "" when it has none, None when no seed answers."""
    tls = {name: value for name, value in uri_options(uri).items() if name.startswith("tls")}
    limit = current_deadline()
    since_s = limit.clock()
    for seed in seeds(uri):
        left_s = limit.give_up_at_s(since_s) - limit.clock()
        if left_s <= 0:
            return None
        # Of its patience, the look that failed has taken nine tenths (``connection``).
        wait_ms = int(max(300.0, min(2000.0, 1000 * left_s, 100 * limit.patience_s)))
        try:
            with MongoClient(
                f"mongodb://{seed}/", directConnection=True, serverSelectionTimeoutMS=wait_ms, **tls
            ) as probe:
                return str(probe.admin.command(HELLO).get("setName", ""))
        except PyMongoError:
            continue
    return None


def uri_options(uri: str) -> dict[str, Any]:
    """The options of a connection string, names in lower case whatever they were written in.

    Raises:
        PyMongoError, ValueError: It is not a valid connection string.
    """
    return {name.lower(): value for name, value in _parsed(uri)["options"].items()}


@lru_cache(16)
def _parsed(uri: str) -> dict[str, Any]:
    """A connection string, taken apart once: mongodb+srv:// is looked up for that, and by the time that trouble is told
    of, the name service may be away too."""
    return dict(parse_uri(uri, validate=True, warn=False))


def seeds(uri: str) -> list[str]:
    """The hosts that a connection string names, as host:port; ``the cluster`` where it cannot be taken apart."""
    try:
        return [f"{host}:{port or 27017}" for host, port in _parsed(uri)["nodelist"]]
    except (PyMongoError, ValueError):
        return ["the cluster"]


def server_message(error: OperationFailure) -> str:
    """The server's own words, without the whole reply that PyMongo appends."""
    details = error.details or {}
    return str(details.get("errmsg") or str(error).partition(", full error")[0])


def _short(error: Exception) -> str:
    """PyMongo's message without its description of the topology."""
    text = str(error)
    for tail in (", Timeout:", ", Topology Description", " (configured timeouts"):
        text = text.partition(tail)[0]
    return text if len(text) <= 300 else text[:300] + "..."
