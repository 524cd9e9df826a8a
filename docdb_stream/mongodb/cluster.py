"""How a cluster is reached: its address, and where the credentials and the CA are."""

from __future__ import annotations

from dataclasses import dataclass, field

from docdb_stream.settings import Settings


@dataclass(frozen=True, slots=True)
class Cluster:
    """How a cluster is reached.

    Attributes:
        uri: Its connection string, or a bare DocumentDB endpoint.
        secret: Where user name and password are; None: in the connection string, if anywhere.
        tls_ca: CA bundle for TLS; None: as the connection string says.
        setting: The setting that holds the address, for errors.
    """

    uri: str = field(repr=False)
    secret: str | None = None
    tls_ca: str | None = None
    setting: str = "documentdb_uri"

    @classmethod
    def of(cls, settings: Settings) -> Cluster:
        """The cluster that a stream reads."""
        return cls(settings.documentdb_uri, settings.documentdb_secret, settings.documentdb_tls_ca)

    @property
    def connection_string(self) -> str:
        """The connection string to use: as given, or made from a bare DocumentDB endpoint, as the AWS sample has it."""
        if "://" in self.uri:
            return self.uri
        host = self.uri if ":" in self.uri else f"{self.uri}:27017"
        return f"mongodb://{host}/?tls=true&replicaSet=rs0&retryWrites=false"
