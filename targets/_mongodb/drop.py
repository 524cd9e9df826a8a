"""What becomes of the documents of a collection that was dropped, or renamed.

By their versions: of what others have written to the same collection, nothing is known, and nothing is touched.
"""

from __future__ import annotations

from collections.abc import Callable

from bson import Timestamp
from bson.raw_bson import RawBSONDocument
from pymongo import DeleteOne, ReplaceOne, UpdateOne
from pymongo.client_session import ClientSession

from docdb_stream.formats import rawbson
from docdb_stream.mongodb.state import MARK
from docdb_stream.targets._mongodb.change import RAW, Opaque, Value, with_id_in
from docdb_stream.targets._mongodb.state import key_of, since_id, version_id
from docdb_stream.targets._mongodb.writer import TRANSACTION_BYTES, Operation, Writer


def delete_older(writer: Writer, target: str, source: str, before: Timestamp) -> None:
    """Delete a collection's documents that are older, and let no older one come from now on. Safe to repeat.

    Raises:
        TargetError: The server cannot be reached, refuses the user, or a later run has taken over.
    """
    writer.transact(lambda session: _begin(writer, session, target, source, before))
    _by_page(lambda session: _delete_page(writer, session, target, source, before), writer)


def move_older(writer: Writer, old: tuple[str, str], new: tuple[str, str], at: Timestamp) -> None:
    """Move a collection's documents that are older to where the collection that it was renamed to is mirrored, in
    place of those that are there. Safe to repeat.

    Args:
        writer: To the target.
        old: The collection on the target, and the source's.
        new: The same after.
        at: When it was renamed.

    Raises:
        RefusedError: The server does not take one of the documents there.
        TargetError: As ``delete_older``.
    """
    writer.make(new[0])
    delete_older(writer, *new, at)
    writer.transact(lambda session: _begin(writer, session, *old, at))
    _by_page(lambda session: _move_page(writer, session, old, new, at), writer)


def _begin(writer: Writer, session: ClientSession, target: str, source: str, since: Timestamp) -> None:
    progress = writer.progress(writer.known(session, []))
    progress.check_epoch()
    known = {"$max": {"v": since}, "$set": {MARK: writer.mark}}
    writer.keep(session, [progress.update, UpdateOne({"_id": since_id(target, source)}, known, upsert=True)])


def _by_page(page: Callable[[ClientSession], bool], writer: Writer) -> None:
    """Do a page in a transaction, until one finds nothing more."""
    is_more = True

    def body(session: ClientSession) -> None:
        nonlocal is_more
        is_more = page(session)

    while is_more:
        writer.transact(body)


def _delete_page(writer: Writer, session: ClientSession, target: str, source: str, before: Timestamp) -> bool:
    versions = _claimed(writer, session, target, source, before)
    writer.keep(session, [DeleteOne({"_id": each["_id"]}) for each in versions])
    writer.apply(session, target, [DeleteOne(key_of(each).query) for each in versions if "until" not in each])
    return bool(versions)


def _move_page(
    writer: Writer, session: ClientSession, old: tuple[str, str], new: tuple[str, str], at: Timestamp
) -> bool:
    versions = _claimed(writer, session, *old, at)
    by_key = {key_of(each): each for each in versions}
    moved: dict[Value, RawBSONDocument] = {}
    if old[0] != new[0] and by_key:
        size_bytes = 0
        for each in writer.find(session, old[0], with_id_in(by_key)):
            moved[Value.of(rawbson.first(bytes(each.raw)))] = each  # servers store _id first
            size_bytes += len(each.raw)
            if size_bytes > TRANSACTION_BYTES:  # the others are the next page's
                by_key = {key: version for key, version in by_key.items() if key in moved}
                break
    writer.apply(session, old[0], [DeleteOne(key.query) for key in moved])
    writer.apply(
        session, new[0], [ReplaceOne(key.query, Opaque(each.raw, RAW), upsert=True) for key, each in moved.items()]
    )
    updates: list[Operation] = []
    for key, version in by_key.items():
        known = {"v": at, "s": new[1], MARK: writer.mark}
        updates.append(DeleteOne({"_id": version["_id"]}))
        if "until" not in version:
            updates.append(UpdateOne({"_id": version_id(new[0], key)}, {"$set": known}, upsert=True))
    writer.keep(session, updates)
    return bool(versions)


def _claimed(
    writer: Writer, session: ClientSession, target: str, source: str, before: Timestamp
) -> list[RawBSONDocument]:
    """Versions of documents that are older, within a transaction that only one run can commit."""
    progress = writer.progress(writer.known(session, []))
    progress.check_epoch()
    found = writer.versions(session, target, source, before)
    if found:
        writer.keep(session, [progress.update])
    return found
