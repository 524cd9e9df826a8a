"""Targets rebuilt of the archive in S3: whatever was lost, beside the stream, twice, and of archives that are cut."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from contract.s3_bucket import Bucket
from integration.test_verify import Keys, Mirror, Mongo, Stream
from typer.testing import CliRunner

from docdb_stream.admin.redrive import dead_letters
from docdb_stream.admin.restore import restore
from docdb_stream.cli.commands import app
from docdb_stream.context import Deadline
from docdb_stream.errors import ConfigError, TargetError
from docdb_stream.local import AwsServer, RedisServer, ReplicaSet

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("aws_environment")]

DRILL = Path(__file__).resolve().parents[2] / "examples" / "restore_drill" / "run.py"


@pytest.fixture
def bucket(aws: AwsServer) -> Bucket:
    return Bucket(aws)


@pytest.fixture(params=["jsonl", "parquet"])
def stream(
    request: pytest.FixtureRequest,
    replica_set: ReplicaSet,
    mongo: Mongo,
    db_name: str,
    redis_server: RedisServer,
    bucket: Bucket,
) -> Keys:
    values = {"bucket_name": bucket.name, "bucket_path": "archive", "s3_format": request.param}
    return Keys(replica_set.uri, mongo, db_name, redis_server, state_sync_count=1, batch_size=40, **values)


def lose(stream: Keys) -> None:
    """All of the target, versions too."""
    for key in stream.ask("KEYS", f"{stream.prefix}*") + stream.ask("KEYS", f"docdb-stream:v:{stream.prefix}*"):
        stream.ask("DEL", key)
    stream.ask("DEL", "docdb-stream:sources")


def filled(stream: Stream) -> None:
    stream.run()
    stream.db.orders.insert_many([{"_id": number, "n": 0} for number in range(200)])
    stream.db.other.insert_many([{"_id": f"k{number}"} for number in range(20)])
    stream.run()
    stream.db.orders.update_many({"_id": {"$lt": 50}}, {"$set": {"n": 1}})
    stream.db.orders.delete_many({"_id": {"$gte": 150}})
    stream.db.other.drop()
    stream.db.other.insert_one({"_id": "after"})
    stream.run()


def test_a_target_that_was_lost(stream: Keys) -> None:
    filled(stream)
    lose(stream)
    stream.db.orders.update_one({"_id": 0}, {"$set": {"n": 2}})
    stream.run()  # newer than what is in the archive's older objects
    assert stream.keys("orders") == {"0"}
    for _ in range(2):
        result = restore(stream.settings, "redis")
        assert (result.rejected, result.alien, result.is_cut) == (0, 0, False)
        assert result.events == 323
        assert stream.verify(target="redis").is_equal
    assert stream.keys("orders") == {str(number) for number in range(150)}
    assert stream.keys("other") == {"after"}


def test_up_to_a_time(stream: Keys) -> None:
    stream.run()
    stream.db.orders.insert_one({"_id": 1})
    stream.run()
    now = stream.mongo.admin.command("ping")["$clusterTime"]["clusterTime"].as_datetime()
    deadline = Deadline.after(30)
    while stream.mongo.admin.command("ping")["$clusterTime"]["clusterTime"].as_datetime() <= now:
        stream.db.ticks.insert_one({})
        assert deadline.remaining_s > 0
    stream.db.orders.insert_one({"_id": 2})
    stream.run()
    lose(stream)
    restore(stream.settings, "redis", through=now)
    assert stream.keys("orders") == {"1"}


def test_what_is_no_event_and_what_is_cut(stream: Keys, bucket: Bucket) -> None:
    filled(stream)
    lose(stream)
    suffix = "jsonl.gz" if stream.settings.targets["s3"].model_dump()["s3_format"] == "jsonl" else "parquet"
    put = bucket.client.put_object
    put(Bucket=bucket.name, Key="archive/zzz/readme.txt", Body=b"no object of ours")
    put(Bucket=bucket.name, Key=f"archive/_manifests/x.{suffix}", Body=b"none either")
    if suffix == "jsonl.gz":
        alien = gzip.compress(b'{"a": 1}\nno json\n')
        put(Bucket=bucket.name, Key="archive/zzz/alien.jsonl.gz", Body=alien)
    result = restore(stream.settings, "redis")
    assert (result.events, result.alien) == (322, 2 if suffix == "jsonl.gz" else 0)
    [first, *_] = [key for key in bucket.objects() if key.endswith(suffix) and "/orders/" in key]
    whole = bucket.client.get_object(Bucket=bucket.name, Key=first)["Body"].read()
    put(Bucket=bucket.name, Key=first, Body=whole[: len(whole) // 2])
    with pytest.raises(TargetError, match="cannot be read to its end") as caught:
        restore(stream.settings, "redis")
    assert "snapshot" in caught.value.hint


def test_a_time_that_is_over(stream: Keys) -> None:
    filled(stream)
    limit = Deadline()
    limit.stop.set()
    assert restore(stream.settings, "redis", limit=limit).is_cut


def test_what_the_target_refuses_is_in_the_dead_letters(
    replica_set: ReplicaSet, mongo: Mongo, db_name: str, redis_server: RedisServer, bucket: Bucket
) -> None:
    own = {"redis_key": "{id}", "bucket_name": bucket.name}
    stream = Keys(replica_set.uri, mongo, db_name, redis_server, **own)
    stream.run()
    name = uuid.uuid4().hex
    stream.db.orders.insert_many([{"_id": "docdb-stream:x"}, {"_id": name}])
    stream.run()
    before = len([*dead_letters(stream.settings)])
    assert restore(stream.settings, "redis").rejected == 1
    assert len([*dead_letters(stream.settings)]) == before  # the same letter


def test_what_cannot_be_restored_is_said(
    replica_set: ReplicaSet, mongo: Mongo, db_name: str, tmp_path: Path, bucket: Bucket
) -> None:
    def said(target: str, **values: Any) -> ConfigError:
        stream = Mirror(replica_set.uri, mongo, db_name, file_path=f"{tmp_path}/x", **values)
        with pytest.raises(ConfigError) as caught:
            restore(stream.settings, target)
        return caught.value

    assert "no archive" in str(said("mongodb"))
    assert "it has: " in (said("redis").hint or "")
    assert "keeps no versions" in str(said("file", bucket_name=bucket.name))
    assert "no events are made" in str(said("mongodb", bucket_name=bucket.name, payload_format="plain"))


def test_the_command(stream: Keys) -> None:
    filled(stream)
    lose(stream)
    done = CliRunner().invoke(app, ["restore", stream.settings.stream_name, "--to", "redis"], env=stream.environment)
    assert done.exit_code == 0, done.output
    assert "322 events of" in done.stdout
    arguments = ["restore", stream.settings.stream_name, "--to", "redis", "--json", "--through", "2020-01-01"]
    done = CliRunner().invoke(app, arguments, env=stream.environment)
    assert (json.loads(done.stdout)["events"], done.exit_code) == (0, 0)
    done = CliRunner().invoke(app, ["restore", stream.settings.stream_name, "--to", "kafka"], env=stream.environment)
    assert done.exit_code != 0


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_drill() -> None:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    command = [sys.executable, str(DRILL), "--documents", "2000", "--writers", "2"]
    done = subprocess.run(command, env=inherited, capture_output=True, text=True, timeout=390)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every document is equal" in done.stdout
