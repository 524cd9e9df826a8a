"""``docdb-stream schema``: which fields and types documents have had, and what they may have from now on."""

from __future__ import annotations

from typing import Annotated

import typer

from docdb_stream.admin.schema import accept as accept_news
from docdb_stream.admin.schema import history_values, ledger_values, ledgers
from docdb_stream.cli.connecting import connecting
from docdb_stream.cli.options import ConfigOption, JsonOption, chosen_streams
from docdb_stream.cli.table import print_schema, print_schema_history
from docdb_stream.cli.terminal import put, put_json

schema_app = typer.Typer(
    no_args_is_help=True,
    help="The schema ledger: which fields and types the documents that were delivered have had.",
)

StreamArgument = Annotated[str, typer.Argument(help="The stream's name.", show_default=False)]
NamespaceArgument = Annotated[
    str | None, typer.Argument(help="Only this collection, as db.coll; * stands for any text.", show_default=False)
]


@schema_app.command("show")
def show(
    stream: StreamArgument,
    namespace: NamespaceArgument = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show each path with the types that it has had, and which column they make; and what a collection stopped for."""
    (settings,) = chosen_streams(config, stream)
    with connecting(settings):
        found = ledgers(settings, namespace)
    for kept in found:
        if as_json:
            put_json(ledger_values(kept))
        else:
            print_schema(settings.stream_name, ledger_values(kept))


@schema_app.command("accept")
def accept(
    stream: StreamArgument,
    namespace: NamespaceArgument = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let collections go on that have stopped (SCHEMA_POLICY = stop), from where each stands: nothing of them is lost,
    and nothing comes twice."""
    (settings,) = chosen_streams(config, stream)
    with connecting(settings):
        found = accept_news(settings, namespace)
    for name, news in found:
        if as_json:
            put_json({"namespace": name, "added": [{"path": path, "type": kind} for path, kind in news.added]})
        else:
            put(f"{name}: accepted {', '.join(f'{path} of type {kind}' for path, kind in news.added)}")
    if not as_json:
        put("the run that works on the stream goes on with it within some ten seconds, or else the next one")


@schema_app.command("history")
def history(
    stream: StreamArgument,
    namespace: NamespaceArgument = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what came to each schema, when, and by which event."""
    (settings,) = chosen_streams(config, stream)
    with connecting(settings):
        found = ledgers(settings, namespace)
    changes = [change for kept in found for change in history_values(kept)]
    if as_json:
        for change in changes:
            put_json(change)
    else:
        print_schema_history(changes)
