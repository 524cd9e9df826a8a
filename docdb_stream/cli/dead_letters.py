"""``docdb-stream dead-letters``: the events that a target refused."""

from __future__ import annotations

import typer

from docdb_stream.admin.redrive import dead_letters, redrive
from docdb_stream.cli.connecting import connecting
from docdb_stream.cli.options import ConfigOption, JsonOption, StreamOption, chosen_streams
from docdb_stream.cli.outcome import counted
from docdb_stream.cli.terminal import put, put_json, say
from docdb_stream.errors import TargetError

dead_letters_app = typer.Typer(no_args_is_help=True, help="Look at events that a target refused, deliver them again.")


@dead_letters_app.command("list")
def dead_letters_list(config: ConfigOption = None, stream: StreamOption = None, as_json: JsonOption = False) -> None:
    """List the dead letters. With --json each is printed whole, its event included."""
    count = 0
    for settings in chosen_streams(config, stream, tables=True):
        in_the_cluster = [] if settings.dead_letters else [settings]
        with connecting(*in_the_cluster) as connected:
            for letter in dead_letters(settings):
                connected()
                count += 1
                if as_json:
                    put_json(letter)
                else:
                    put(
                        f"{letter['found_at']}  {letter['stream']}  {letter['target']}  {letter['namespace']}  "
                        f"{letter['operation']}  {letter.get('document_key', '-')}  {letter['reason']}"
                    )
    if not as_json:
        say(counted(count, "dead letter"))


@dead_letters_app.command("redrive")
def dead_letters_redrive(config: ConfigOption = None, stream: StreamOption = None) -> None:
    """Deliver the dead letters to the targets that refused them; those taken this time are removed.

    Exits with 0 when none is left, and with 4 when some stay: refused again, without their event, or of a step or a
    target that is off.
    """
    left = 0
    for settings in chosen_streams(config, stream, tables=True):
        result = redrive(settings)
        put(
            f"{settings.stream_name}: {result.delivered} delivered, {result.refused} refused again, "
            f"{result.without_event} without their event, {result.other_target} of a step or of a target that is off"
        )
        left += result.left
    if left:
        say(f"hint: {left} stay; docdb-stream dead-letters list says why each was refused")
        raise typer.Exit(TargetError.exit_code)
