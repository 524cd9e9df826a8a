"""Whether what is written to and what is read are one deployment: there, a stream could read what it wrote, write that
again, and so for ever.

Owns how that is found out. Two streams that mirror each other are nobody's to see here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from bson import ObjectId
from pymongo import ReadPreference, WriteConcern
from pymongo.errors import OperationFailure, PyMongoError

from docdb_stream.mongodb.cluster import Cluster
from docdb_stream.mongodb.connection import Client, Connection
from docdb_stream.mongodb.diagnosis import HELLO, UNAUTHORIZED, seeds, unavailable
from docdb_stream.mongodb.errors import Verdict, classify
from docdb_stream.mongodb.state import MARK
from docdb_stream.position import Namespace
from docdb_stream.targets._mongodb.errors import trouble

_PROBE_KEPT = dt.timedelta(hours=1)
"""A probe that could not be removed goes by itself after this long: the state's index on ``until`` sees to it."""


def is_one_deployment(source: Connection, target: Connection, state: Namespace) -> bool:
    """Whether the target is in the deployment that the stream reads, by whatever names, tunnels or routers it is
    reached: what is written there shows here. Where the source's user may not look, what the servers tell of themselves
    decides.

    Args:
        source: To the deployment that is read.
        target: To the other one.
        state: The collection of the target's state, which is there.

    Raises:
        SourceUnavailableError, TargetError: One cannot be reached.
    """
    if _share_seeds(source, target):
        return True
    probe = {"_id": {"probe": ObjectId()}}
    mark = {"until": dt.datetime.now(dt.UTC) + _PROBE_KEPT, MARK: str(state)}

    def collection(client: Client) -> Any:
        return client[state.db].get_collection(
            str(state.coll), read_preference=ReadPreference.PRIMARY, write_concern=WriteConcern("majority")
        )

    _of_target(target, lambda: collection(target.client).replace_one(probe, {**probe, **mark}, upsert=True))
    try:
        shows: object = _of_source(source, lambda: collection(source.client).find_one(probe))
    except OperationFailure as error:
        if error.code != UNAUTHORIZED:
            raise unavailable(error, source.uri) from error
        return say_the_same(source, target)
    except PyMongoError as error:
        raise unavailable(error, source.uri) from error
    finally:
        _of_target(target, lambda: collection(target.client).delete_one(probe))
    return shows is not None


def say_the_same(source: Connection, target: Connection) -> bool:
    """Whether the servers that two connections reach are of one deployment, by what they tell of themselves. A router
    (mongos) tells nothing of the kind. Raises as ``is_one_deployment``, and writes nothing."""
    if _share_seeds(source, target):
        return True
    try:
        one = _of_source(source, lambda: _hello(source))
    except PyMongoError as error:
        raise unavailable(error, source.uri) from error
    other = _of_target(target, lambda: _hello(target))
    processes = [hello.get("topologyVersion", {}).get("processId") for hello in (one, other)]
    if None not in processes:
        return bool(processes[0] == processes[1])
    same_set = one.get("setName") is not None and one["setName"] == other.get("setName")
    return same_set and not {*one.get("hosts", ())}.isdisjoint(other.get("hosts", ()))


def name_the_same(source: Cluster, target: Cluster) -> bool:
    """Whether two addresses name a server together, and so one deployment. Asks nobody, so a name that has to be looked
    up (mongodb+srv) is only compared as it is written."""
    one, other = source.connection_string, target.connection_string
    if "+srv:" in one or "+srv:" in other:
        return one == other
    return bool({*seeds(one)}.intersection(seeds(other)))


def _share_seeds(source: Connection, target: Connection) -> bool:
    return not {*seeds(source.uri)}.isdisjoint(seeds(target.uri))


def _hello(connection: Connection) -> dict[str, Any]:
    return connection.client.admin.command(HELLO, read_preference=ReadPreference.PRIMARY)


def _of_source(connection: Connection, ask: Callable[[], Any]) -> Any:
    return connection.patiently(ask, passes=lambda error: classify(error) is Verdict.RESUME)


def _of_target(connection: Connection, ask: Callable[[], Any]) -> Any:
    try:
        return connection.patiently(ask, passes=lambda error: classify(error) is Verdict.RESUME)
    except PyMongoError as error:
        raise trouble(error, connection.uri) from error
