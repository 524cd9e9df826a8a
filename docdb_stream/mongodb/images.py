"""Pre- and post-images: which of the watched collections the server keeps them for."""

from __future__ import annotations

from collections.abc import Iterator

from pymongo.errors import PyMongoError

from docdb_stream.errors import Caution, SourceUnavailableError
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.pipeline import images, kept_images
from docdb_stream.mongodb.state import state_of
from docdb_stream.namespaces import INTERNAL_DATABASES
from docdb_stream.position import Namespace
from docdb_stream.settings import Settings

_SHOWN = 10


def check_images(connection: Connection, settings: Settings) -> None:
    """See that the server keeps the images that the settings want, of each collection that is watched now. Passes where
    the user may not list them.

    Raises:
        SourceUnavailableError: It does not, and they are required: the run would end at the first change.
        Caution: It does not, so changes come without.
    """
    if not kept_images(settings):
        return
    try:
        without = sorted(map(str, _without_images(connection, settings)))
    except PyMongoError:
        return
    if not without:
        return
    more = f" and {len(without) - _SHOWN} more" if len(without) > _SHOWN else ""
    message = f"no pre- and post-images are kept for {', '.join(without[:_SHOWN])}{more}"
    hint = (
        "db.runCommand({collMod: COLLECTION, changeStreamPreAndPostImages: {enabled: true}}) for each; they are kept "
        "from then on"
    )
    if "required" in images(settings).values():
        raise SourceUnavailableError(f"{message}: the run ends at the first change of one", hint=hint)
    raise Caution(f"{message}: changes come without", hint=hint)


def _without_images(connection: Connection, settings: Settings) -> Iterator[Namespace]:
    client, scope = connection.client, settings.scope
    state = state_of(settings)
    for db in client.list_database_names() if scope is None else [scope.db]:
        if db in INTERNAL_DATABASES:
            continue
        named = {} if scope is None or scope.coll is None else {"name": scope.coll}
        for found in client[db].list_collections(filter={"type": "collection", **named}):
            namespace = Namespace(db, found["name"])
            is_wanted = settings.watches(namespace) and namespace not in state
            kept = found.get("options", {}).get("changeStreamPreAndPostImages", {}).get("enabled")
            if is_wanted and not kept and not found["name"].startswith("system."):
                yield namespace
