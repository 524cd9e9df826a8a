"""The checklist of a stream, asked for one row after the other."""

from __future__ import annotations

from collections.abc import Iterator

from pymongo.errors import PyMongoError

from docdb_stream.admin.checklist.account import of_account
from docdb_stream.admin.checklist.cluster import of_cluster, secrets_of
from docdb_stream.admin.checklist.delivery import of_delivery
from docdb_stream.admin.checklist.item import Item
from docdb_stream.admin.doctor import PATIENCE_S
from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import DocdbStreamError
from docdb_stream.mongodb.connection import Connection
from docdb_stream.settings import Settings


def checklist(settings: Settings) -> Iterator[Item]:
    """See to one thing after the other. Nothing is delivered, written or raised; what cannot be seen is ``unknown``."""
    with deadline(Deadline(patience_s=PATIENCE_S)):
        yield from secrets_of(settings)
        try:
            with Connection(settings) as connection:
                connection.client.admin.command("ping")
                yield from of_cluster(settings, connection)
        except (DocdbStreamError, PyMongoError) as error:
            told = f"cannot be reached: {type(error).__name__}"
            yield Item("security", "the cluster", "unknown", told, "docdb-stream doctor says why")
        yield from of_account(settings)
        yield from of_delivery(settings)
