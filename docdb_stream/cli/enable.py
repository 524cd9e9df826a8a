"""``docdb-stream enable``: what is set up on the cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from docdb_stream.cli.connecting import connecting
from docdb_stream.cli.options import ConfigOption, all_streams
from docdb_stream.cli.terminal import put
from docdb_stream.mongodb.enable import modify_change_streams


def enable(
    namespace: Annotated[str, typer.Argument(help="db.coll, db.* or *", metavar="NAMESPACE", show_default=False)],
    disable: Annotated[bool, typer.Option("--disable", help="Switch the change stream off instead.")] = False,
    config: ConfigOption = None,
) -> None:
    """Switch the change streams of a DocumentDB cluster on for a namespace (modifyChangeStreams)."""
    settings = all_streams(config)[0]
    with connecting(settings):
        done = modify_change_streams(settings, namespace, enable=not disable)
    put(done)
