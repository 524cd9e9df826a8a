"""What can be set about what of the events is delivered, and how it is written.

Owns names, types, defaults and meaning of these keys of a stream. ``stream`` puts them together.
"""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from docdb_stream.settings.model import Heading
from docdb_stream.settings.reading import ReadingSettings
from docdb_stream.settings.types import (
    FieldPaths,
    FormatName,
    FunctionPath,
    KeptPaths,
    NamespacePatterns,
    Operations,
    SecretReference,
)

STATE: Final = frozenset({"fullDocument", "documentKey", "ns"})
"""The fields of an event that say what a document is now: one that does not match by these alone has left the filter.
The others say what happened to it."""
_EVENT_FIELDS: Final = STATE | {
    *("_id", "operationType", "clusterTime", "wallTime", "fullDocumentBeforeChange", "updateDescription"),
    *("lsid", "txnNumber", "to", "operationDescription", "collectionUUID"),
    "dynamodb",
}
"""MongoDB manual, "Change Events"; and what handlers/dynamodb.py adds."""


def _query(text: str) -> str:
    """A query over change events that can be judged as the server does."""
    from docdb_stream.query.parse import parse

    strange = min((path for path in parse(text).paths if path.partition(".")[0] not in _EVENT_FIELDS), default=None)
    if strange is not None:
        raise ValueError(f"a change event has no field {strange}; for the document's own, say fullDocument.{strange}")
    return text


class ShapingSettings(ReadingSettings):
    """And what is delivered of it: which events, which fields, in which format."""

    operations: Annotated[Operations, Heading("What is delivered")] = Field(
        default=(),
        description="Only these operations, with commas: insert, update, replace, delete, drop, rename, dropDatabase, "
        "invalidate. Absent: all.",
        examples=["insert, update, replace, delete"],
    )
    namespaces: NamespacePatterns = Field(
        default=(),
        description="Only these collections, with commas, each as db.coll; * stands for any text. Watch their database "
        "(watched_db_name alone) or the whole deployment for it. Absent: all that is watched.",
        examples=["shop.orders, shop.invoices_*"],
    )
    match: Annotated[str, AfterValidator(_query)] | None = Field(
        default=None,
        description="Only inserts, updates and replacements that match, in MongoDB's query language over the change "
        "event, as Extended JSON. Other events (delete, drop, ...) always pass. See docs/steps.md. Absent: all.",
        examples=['{"fullDocument.total": {"$gte": 100}}'],
    )
    on_exit: Literal["delete", "ignore"] | None = Field(
        default=None,
        description="What becomes of an update or replacement after which the document does not match: delete (a "
        "delete of its key is delivered), or ignore. Absent: delete where match is about the document alone and a "
        "target keeps documents by their key (OpenSearch, MongoDB, PostgreSQL, DynamoDB), else ignore.",
        examples=["ignore"],
    )
    filter_at: Literal["auto", "server", "client"] = Field(
        default="auto",
        description="Who leaves events out. client: docdb-stream, which counts them. server: the cluster, which spares "
        "the network but tells no count. auto: the server for namespaces, docdb-stream for the rest. A server that "
        "does not say how far it has looked (DocumentDB before 5.0 patch 3.0.11800) leaves nothing out.",
    )
    fields_keep: KeptPaths = Field(
        default=(),
        description="Only these fields of documents, with commas, as dotted paths; _id always stays. Absent: all. What "
        "the rules about fields mean is in docs/steps.md.",
        examples=["customer.id, total, items.sku"],
    )
    fields_drop: FieldPaths = Field(
        default=(),
        description="Fields that are left out, with commas, as dotted paths. Absent: none.",
        examples=["customer.notes"],
    )
    fields_mask: FieldPaths = Field(
        default=(),
        description='Fields whose values become "***", with commas, as dotted paths. Absent: none.',
        examples=["customer.card, items.card"],
    )
    fields_hash: FieldPaths = Field(
        default=(),
        description="Fields whose values become their HMAC-SHA-256, by which equal ones can still be told, with "
        "commas, as dotted paths; of an array, those of its elements. Absent: none.",
        examples=["customer.email"],
    )
    fields_hash_key: SecretReference = Field(
        default=None,
        description="Where the key for fields_hash is, a text of 16 bytes or more: the name or ARN of a Secrets "
        "Manager secret, env:NAME or file:PATH. Needed for fields_hash.",
        examples=["env:HASH_KEY"],
    )
    transform: FunctionPath | None = Field(
        default=None,
        description="A Python function of your own that each event goes through last, as package.module:function. It "
        "takes a ChangeEvent and returns one, None, or several. See docs/steps.md. Absent: none.",
        examples=["shop_stream.rules:enrich"],
    )
    transform_seconds: float = Field(
        default=30,
        gt=0,
        le=900,
        description="Seconds that the function may take for the events of one batch, up to 900. After that the run "
        "ends with an error, and the next one tries again.",
    )
    payload_format: FormatName = Field(
        default="extended",
        description="extended: the whole change event as relaxed MongoDB Extended JSON v2. document: the AWS sample's "
        "payload. full_document: the document alone. debezium: the envelope of Debezium's connector. cloudevents, "
        "cloudevents_binary. Or the name of another format, see docs/formats.md. A target can have its own. OpenSearch "
        "always takes plain JSON documents.",
    )

    schema_policy: Literal["evolve", "stop"] | None = Field(
        default=None,
        description="Keeps a schema ledger of what is delivered (docs/tables.md). evolve: a new field or type is "
        "learned. stop: it stops its collection, and no other, until docdb-stream schema accept. Absent: a ledger is "
        "kept, and learns, only where a target makes tables.",
        examples=["stop"],
    )

    @model_validator(mode="after")
    def _match_can_be_judged(self) -> Self:
        if self.match is None:
            if self.on_exit:
                raise ValueError("on_exit says what becomes of documents that leave match, and match is not set")
            return self
        from docdb_stream.query.parse import parse

        query = parse(self.match)
        if self.full_document == "default" and query.is_about({"fullDocument"}):
            raise ValueError(
                "match asks for fullDocument, which no update has with full_document = default; leave full_document "
                "out, or match updateDescription.updatedFields"
            )
        if self.full_document_before_change == "off" and query.is_about({"fullDocumentBeforeChange"}):
            raise ValueError("match asks for fullDocumentBeforeChange; set full_document_before_change for it")
        if self.on_exit == "delete" and not query.is_only_about(STATE):
            what = min(path for path in query.paths if path.partition(".")[0] not in STATE)
            raise ValueError(
                f"on_exit = delete with a match that asks for {what}, which says what a change was and not what the "
                "document is: every other update would delete the document. Match fullDocument, documentKey and ns "
                "alone, or set on_exit = ignore"
            )
        return self

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        """No path has two rules that exclude each other, and hashes have a key."""
        rules = ("fields_keep", "fields_drop"), *combinations(("fields_drop", "fields_mask", "fields_hash"), 2)
        problems = [
            f"{one} and {other} both have {path}, which can be only one of them"
            for one, other in rules
            for path in getattr(self, one)
            if path in getattr(self, other)
        ]
        if self.fields_hash and self.fields_hash_key is None:
            problems.append("fields_hash needs fields_hash_key, which says where the key is")
        if self.fields_hash_key is not None and not self.fields_hash:
            problems.append("fields_hash_key is the key for fields_hash, which is not set")
        if problems:
            raise ValueError("; ".join(problems))
        return self
