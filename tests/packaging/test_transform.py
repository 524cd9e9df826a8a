"""The example of a function of one's own: built, installed where nothing else is, and run by the command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from docdb_stream.local import ReplicaSet

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "transform"

pytestmark = pytest.mark.integration


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder that the example's wheel is installed in."""
    copied, place = tmp_path / "copy", tmp_path / "place"
    shutil.copytree(EXAMPLE, copied)
    run("build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(copied))
    [wheel] = tmp_path.glob("*.whl")
    offline = ("--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
    run("pip", "install", *offline, "--target", str(place), str(wheel))
    return place


def test_the_example_runs_from_its_wheel(
    installed: Path, cli: Any, replica_set: ReplicaSet, mongo: MongoClient[dict[str, Any]], db_name: str
) -> None:
    shop = mongo[db_name]
    shop.carts.insert_one({"_id": 1})
    shop.orders.insert_one({"_id": 2, "total": 100})
    shop.shipments.insert_one({"_id": 3, "parcels": ["a", "b"]})
    shop.shipments.insert_one({"_id": 4})
    shop.orders.update_one({"_id": 2}, {"$set": {"total": 200}})
    shop.shipments.delete_one({"_id": 3})
    environment = {
        "PYTHONPATH": str(installed),
        "TRANSFORM": "shop_stream.rules:enrich",
        "DOCUMENTDB_URI": replica_set.uri,
        "WATCHED_DB_NAME": db_name,
        "STATE_DB": f"{db_name}_state",
        "START_AT": "earliest",
        "FILE_PATH": "changes.jsonl",
        "DEAD_LETTERS": "letters.jsonl",
    }
    done = cli.run("run", "--json", **environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["read"], result["events"], result["rejections"]) == (6, 5, 1)
    assert result["filtered_by"] == {"transform": 1}

    lines = Path(cli.folder, "changes.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    assert [(each["operationType"], each.get("fullDocument")) for each in events] == [
        ("insert", {"_id": 2, "total": 100, "gross": 119}),
        ("insert", {"_id": 3, "parcel": "a"}),
        ("insert", {"_id": 3, "parcel": "b"}),
        ("update", {"_id": 2, "total": 200, "gross": 238}),
        ("delete", None),
    ]
    first, second = (each["_id"]["_data"] for each in events[1:3])
    assert second == f"{first}#1"

    [letter] = [json.loads(line) for line in Path(cli.folder, "letters.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (letter["target"], json.loads(letter["event"])["documentKey"]) == ("transform", {"_id": 4})
    assert letter["reason"].startswith("raised KeyError at shop_stream.rules:")
    told = cli.run("explain", "--event", "letters.jsonl", **environment)
    assert "transform  rejected: raised KeyError at shop_stream.rules:" in told.stdout
