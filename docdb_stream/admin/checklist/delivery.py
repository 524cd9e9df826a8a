"""What the settings tell of delivery: what comes twice, where refused events go, from what a target can be rebuilt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from docdb_stream.admin.checklist.item import Item
from docdb_stream.registry import target_class
from docdb_stream.settings import Settings
from docdb_stream.target import is_keyed
from docdb_stream.targets import target_names

_ARCHIVE: Final = "s3"


def of_delivery(settings: Settings) -> Iterator[Item]:
    """The rows that need nobody's answer."""
    for name in target_names(settings):
        if is_keyed(target_class(name)):
            yield Item("delivery", f"{name}: what comes again", "ok", "changes nothing: documents keep their versions")
        elif name == "sqs" and str(getattr(settings.targets[name], "where", "")).endswith(".fifo"):
            yield Item("delivery", f"{name}: what comes again", "ok", "within five minutes the queue drops it")
        else:
            todo = "let consumers go by event_id, which a replay keeps"
            yield Item("delivery", f"{name}: what comes again", "warn", "is there again", todo)
    if settings.dead_letters is None:
        todo = "DEAD_LETTERS = s3://... keeps them out of the watched cluster"
        told = "go to the cluster's state database; of many large ones it grows"
        yield Item("delivery", "events that are refused", "warn", told, todo)
    else:
        yield Item("delivery", "events that are refused", "ok", "go to DEAD_LETTERS; an alarm of Rejections tells")
    if settings.on_history_lost == "fail":
        todo = "ON_HISTORY_LOST = snapshot heals targets that keep versions; else know the ledger by heart"
        yield Item("recovery", "a lost position", "warn", "stops the stream until somebody comes", todo)
    else:
        yield Item("recovery", "a lost position", "ok", f"ON_HISTORY_LOST = {settings.on_history_lost}")
    has_archive = _ARCHIVE in target_names(settings)
    told = "every event is in S3" if has_archive else "there is none: a target is rebuilt from the source alone"
    todo = "" if has_archive else "add the target s3, if states of the past are wanted"
    yield Item("recovery", "archive of events", "ok" if has_archive else "unknown", told, todo)
    todo = "time it each month: lose a target, snapshot, verify"
    yield Item("recovery", "restore drill", "unknown", "whether somebody has tried is not seen from here", todo)
