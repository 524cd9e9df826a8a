"""The example of a clickstream counts right, though its poller is killed and everything is sent twice."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.integration

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "triggers" / "run.py"


def part(name: str) -> ModuleType:
    """One of the example's files: it is no package, so that it can be copied and read by itself."""
    spec = importlib.util.spec_from_file_location(f"example_triggers_{name}", EXAMPLE.with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_caller_that_dies_amid_its_call_has_signed_nothing_wrong() -> None:
    with part("receiver").Receiver("whsec_" + "A" * 32) as receiver:
        address = urlsplit(receiver.url)
        assert address.port
        head = "POST /abandoned HTTP/1.1\r\nContent-Length: {}\r\n\r\n{{}}"
        with socket.create_connection(("127.0.0.1", address.port), timeout=60) as caller:
            caller.sendall(head.format(3).encode())
            caller.shutdown(socket.SHUT_WR)
            assert caller.recv(1) == b""
        assert receiver.refused == 0
        with socket.create_connection(("127.0.0.1", address.port), timeout=60) as caller:
            caller.sendall(head.format(2).encode())
            assert b"401" in caller.recv(100)
        assert receiver.refused == 1


def test_carts_that_are_left_behind() -> None:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--carts", "60"], env=inherited, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
    assert "sent twice: visitors' counts" in done.stdout
