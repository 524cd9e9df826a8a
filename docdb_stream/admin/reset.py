"""Moves a stream's position by an operator's decision, and leaves a line in the ledger that says so."""

from __future__ import annotations

import getpass
import os
import re
import socket
from dataclasses import replace

from docdb_stream.checkpoint import LedgerEntry
from docdb_stream.errors import ConfigError, DocdbStreamError
from docdb_stream.events import Position, ResumeToken
from docdb_stream.lease import held_lease
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.errors import is_unreadable_token
from docdb_stream.mongodb.source import MongoChangeSource
from docdb_stream.settings import Settings
from docdb_stream.settings.types import StartAt
from docdb_stream.stores.mongodb import MongoCheckpointStore

_TOKEN = re.compile(r"(?:[0-9A-Fa-f]{2}){5,}")
"""MongoDB's and DocumentDB's are hexadecimal digits: a kind, the cluster time, and what they like."""


def reset(settings: Settings, *, to: StartAt | None = None, token: str | None = None) -> Position:
    """Set the stream's position, whether it has one or not; returns the new one. A snapshot under way is dropped.

    A token or a time is tried on the server first, so that a position that is already lost is refused.

    Args:
        settings: The stream.
        to: now, earliest, or a time.
        token: Instead, the ``_data`` of a resume token; the events after it are delivered.

    Raises:
        LeaseHeldError: A run works on the stream; the position is not moved under its feet.
        HistoryLostError: The change log does not reach back to the position asked for. Nothing was changed.
        ConfigError: Neither or both of ``to`` and ``token`` are given, the token is none, or the time is still to come.
    """
    if (to is None) == (token is None):
        raise ConfigError("reset: say either --to or --token")
    if token is not None and not _TOKEN.fullmatch(token):
        raise _no_token()
    with Connection(settings) as connection:
        source = MongoChangeSource(settings, connection)
        store = MongoCheckpointStore(settings, connection)
        who = f"reset by {getpass.getuser()} on {socket.gethostname()}"
        owner = f"{who} ({os.getpid()})"
        with held_lease(store, settings.stream_name, settings.scope, owner, settings.lease_seconds) as keeper:
            known = store.load(settings.stream_name)
            before = known.position.in_log() if known and known.position else None
            if token is not None:
                position = Position.at_token(ResumeToken({"_data": token}))
            else:
                assert to is not None
                position = source.start_position(to)
            now = source.operation_time()
            if position.operation_time is not None and position.operation_time > now:
                raise ConfigError(
                    f"reset: {position.time} is still to come; the cluster's time is {now.as_datetime()}",
                    hint="what happens until then would never be delivered; to go on from here, say --to now",
                )
            try:
                source.open(position).close()
            except DocdbStreamError as error:
                if token is not None and is_unreadable_token(error.__cause__):
                    raise _no_token() from error
                raise
            snapshot = known.position.snapshot if known and known.position else None
            dropped = "" if snapshot is None else f"; the snapshot {snapshot.id} under way is dropped"
            store.record(LedgerEntry(settings.stream_name, "reset", before, who + dropped, after=position))
            for entry in store.ledger(settings.stream_name):
                if entry.kind == "history-lost" and entry.before == before and entry.after is None:
                    store.record(replace(entry, after=position))
            keeper.save(position, 0)
    return position


def _no_token() -> ConfigError:
    return ConfigError(
        "reset: --token is not a resume token of this cluster",
        hint="expected the hexadecimal digits of an event's _id._data, or of the token in docdb-stream status --json",
    )
