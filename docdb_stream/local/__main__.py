"""``python -m docdb_stream.local``: start every local server, print how to reach them, run until Ctrl-C."""

from __future__ import annotations

import shlex
import signal
import sys
import threading

from docdb_stream.errors import DocdbStreamError
from docdb_stream.local import LocalServers


def main() -> int:
    """Run the servers until SIGINT or SIGTERM; return the exit status.

    Standard output has nothing but the ``export`` lines.
    """
    if len(sys.argv) > 1:
        sys.stderr.write(f"usage: python -m docdb_stream.local > servers.sh\n{__doc__}\n")
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.stderr.write("starting the local servers ...\n")
        with LocalServers() as servers:
            for name, value in servers.environment().items():
                sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
            sys.stdout.flush()
            sys.stderr.write("running; Ctrl-C stops them and removes their data\n")
            threading.Event().wait()
    except DocdbStreamError as error:
        sys.stderr.write(f"{error}\n{error.hint}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
