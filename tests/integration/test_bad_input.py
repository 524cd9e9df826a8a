"""What an operator sees who got something wrong: one line, a hint, the right exit code, and never a traceback."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from docdb_stream.local import Mongod, ReplicaSet
from docdb_stream.local.process import _free_port

pytestmark = pytest.mark.integration

PATIENCE_S = 20
"""Less than the 30 s for which PyMongo by itself looks for a server; enough to start a process on a busy machine."""

Done = subprocess.CompletedProcess[str]


def told(done: Done, exit_code: int) -> str:
    """The error line, once it is sure that standard error holds that, the hint, the list of problems, and no more."""
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    error, *rest = done.stderr.splitlines()
    assert error.startswith("error: "), done.stderr
    assert all(line.startswith(("hint: ", "  - ")) for line in rest), done.stderr
    assert sum(line.startswith("hint: ") for line in rest) == 1, done.stderr
    return error


def hint(done: Done) -> str:
    return next(line for line in done.stderr.splitlines() if line.startswith("hint: "))


@pytest.fixture
def environment(replica_set: ReplicaSet, db_name: str, tmp_path: Path) -> dict[str, str]:
    """Settings that work."""
    return {
        "DOCUMENTDB_URI": replica_set.uri,
        "WATCHED_DB_NAME": db_name,
        "WATCHED_COLLECTION_NAME": "orders",
        "STATE_DB": f"{db_name}_state",
        "FILE_PATH": str(tmp_path / "changes.jsonl"),
    }


# The cluster


def test_an_unreachable_server(environment: dict[str, str], cli: Any) -> None:
    port = _free_port()
    uri = f"mongodb://127.0.0.1:{port}/?replicaSet=rs0&serverSelectionTimeoutMS=300"
    started_s = time.monotonic()
    done = cli.run("run", "--timeout", "5", **{**environment, "DOCUMENTDB_URI": uri})
    assert f"127.0.0.1:{port}" in told(done, 3)
    assert "check host, port" in hint(done)
    assert time.monotonic() - started_s < PATIENCE_S


def test_a_host_name_that_does_not_exist(environment: dict[str, str], cli: Any) -> None:
    uri = "mongodb://nowhere.invalid/?serverSelectionTimeoutMS=300"
    done = cli.run("run", "--timeout", "3", **{**environment, "DOCUMENTDB_URI": uri})
    assert "nowhere.invalid" in told(done, 3)


def test_a_name_of_a_cluster_that_is_not_known(environment: dict[str, str], cli: Any) -> None:
    done = cli.run("run", **environment | {"DOCUMENTDB_URI": "mongodb+srv://us:hunter2@nowhere.example.invalid/"})
    assert "nowhere.example.invalid" in told(done, 3)
    assert "mongodb+srv" in hint(done)
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("command", [["status"], ["doctor"], ["run", "--follow"]])
def test_ctrl_c_while_connecting(environment: dict[str, str], cli: Any, command: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"mongodb://127.0.0.1:{silent.getsockname()[1]}/?replicaSet=rs0&serverSelectionTimeoutMS=3000"
        process = cli.start(*command, **environment | {"DOCUMENTDB_URI": uri})
        with silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
    assert process.returncode == (3 if command[0] == "run" else 130), err
    assert "Traceback" not in err
    assert err.splitlines()[0].startswith("error: no usable server" if command[0] == "run" else "interrupted")


@pytest.mark.parametrize("module", ["pymongo", "pydantic", "typer"])
@pytest.mark.parametrize("command", ["docdb_stream", "docdb_stream.cli"])
def test_ctrl_c_while_the_command_is_loaded(tmp_path: Path, cli: Any, module: str, command: str) -> None:
    """What is loaded takes most of a second; here Ctrl-C comes as it gets to one of its largest parts."""
    (tmp_path / f"{module}.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", command, "status"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
        cwd=cli.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    "command",
    [
        "status",
        pytest.param("doctor", marks=pytest.mark.long),
        pytest.param("ledger", marks=pytest.mark.long),
        pytest.param("dead-letters list", marks=pytest.mark.long),
    ],
)
def test_a_person_is_told_whom_it_waits_for(environment: dict[str, str], cli: Any, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        uri = f"mongodb://us:hunter2@{host}/?replicaSet=rs0&serverSelectionTimeoutMS=4000"
        settings = environment | {"DOCUMENTDB_URI": uri}
        code, shown = on_a_terminal(cli, command.split(), settings)
        assert code == 3
        assert f"connecting to {host} ..." in shown
        assert shown.count("connecting") == 1
        assert shown.index("connecting") < shown.index("no usable server")
        assert "hunter2" not in shown
        quick = cli.run(*command.split(), **settings | {"DOCUMENTDB_URI": uri.replace("=4000", "=1500")})
        assert "connecting" not in quick.stderr, "nor is a log told, which nobody watches"


def on_a_terminal(cli: Any, arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """The exit code, and all that a person sees."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "docdb_stream", *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=cli.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that nobody has the other end any more
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    return process.wait(60), shown.decode()


def test_a_timeout_holds_for_an_unreachable_server_too(environment: dict[str, str], cli: Any) -> None:
    uri = f"mongodb://127.0.0.1:{_free_port()}/?replicaSet=rs0"
    started_s = time.monotonic()
    told(cli.run("run", "--timeout", "2", **{**environment, "DOCUMENTDB_URI": uri}), 3)
    assert time.monotonic() - started_s < PATIENCE_S


def test_a_wrong_replica_set_name_says_the_right_one(environment: dict[str, str], cli: Any) -> None:
    uri = environment["DOCUMENTDB_URI"].replace("replicaSet=rs0", "replicaSet=wrong&serverSelectionTimeoutMS=500")
    done = cli.run("run", "--timeout", "5", **{**environment, "DOCUMENTDB_URI": uri})
    assert "its replica set is called rs0" in told(done, 3)
    assert hint(done) == "hint: use replicaSet=rs0"


@pytest.fixture(scope="module")
def standalone() -> Iterator[Mongod]:
    with Mongod() as started:
        yield started


@pytest.mark.parametrize("query", ["", "?replicaSet=rs0&serverSelectionTimeoutMS=500"])
def test_a_standalone_mongod(environment: dict[str, str], cli: Any, standalone: Mongod, query: str) -> None:
    uri = f"mongodb://{standalone.address}/{query}"
    done = cli.run("run", "--timeout", "5", **{**environment, "DOCUMENTDB_URI": uri})
    assert any(words in told(done, 3) for words in ("standalone", "not part of a replica set"))
    assert "--replSet" in hint(done)


def test_a_server_that_is_no_database(environment: dict[str, str], cli: Any) -> None:
    done = cli.run("run", **{**environment, "DOCUMENTDB_URI": "https://127.0.0.1/"})
    assert "documentdb_uri" in told(done, 2)


# The settings


def test_every_problem_of_a_config_file_at_once(cli: Any) -> None:
    (cli.folder / "config.ini").write_text(
        textwrap.dedent(
            """
            [docdb-stream]
            max_lop = 3
            batch_size = many
            start_at = yesterday
            state_sync_count = 0
            payload_format = xml
            [stream orders]
            watched_collection_name = orders
            file_path = ${NOT_SET}
            [streams typo]
            a = b
            """
        )
    )
    done = cli.run("run")
    assert "config.ini" in told(done, 2)
    problems = [line for line in done.stderr.splitlines() if line.startswith("  - ")]
    for words in (
        ("max_lop", "unknown key", "did you mean max_loop?"),
        ("documentdb_uri", "missing"),
        ("batch_size", "'many'"),
        ("start_at", "now, earliest or an ISO 8601 timestamp", "'yesterday'"),
        ("state_sync_count", "greater than or equal to 1"),
        ("payload_format", "extended", "'xml'"),
        ("file_path", "NOT_SET is not set"),
        ("[streams typo]", "unknown section"),
    ):
        assert any(all(word in line for word in words) for line in problems), (words, done.stderr)
    assert f"{len(problems)} problems" in done.stderr


def test_every_problem_of_the_environment_at_once(cli: Any) -> None:
    done = cli.run("run", MAX_LOOP="-1", LEASE_SECONDS="0", WATCHED_COLLECTION_NAME="orders")
    told(done, 2)
    for name in ("DOCUMENTDB_URI", "MAX_LOOP", "LEASE_SECONDS"):
        assert name in done.stderr


@pytest.mark.parametrize("command", ["run", "status", "doctor"])
def test_no_settings_at_all(cli: Any, command: str) -> None:
    done = cli.run(command)
    told(done, 2)
    assert "DOCUMENTDB_URI" in done.stderr


def test_a_missing_config_file(cli: Any) -> None:
    done = cli.run("run", "--config", "nowhere.ini")
    assert "there is no file nowhere.ini" in told(done, 2)


def test_a_file_that_is_no_config_file(cli: Any) -> None:
    (cli.folder / "config.ini").write_bytes(b"\xff\xfe\x00 = \x00")
    assert "config.ini" in told_without_hint(cli.run("run"), 2)
    (cli.folder / "config.ini").write_text("documentdb_uri = x\n")
    assert "config.ini" in told_without_hint(cli.run("run"), 2)


def test_a_config_file_that_is_not_read_is_told(environment: dict[str, str], cli: Any) -> None:
    (cli.folder / "config.ini").write_text("[docdb-stream]\nmax_lop = 3\n")
    done = cli.run("run", **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("config.ini is not read") == 1
    assert "--config config.ini" in done.stderr
    json_only = cli.run("run", "--json", **environment)
    assert json.loads(json_only.stdout)["stopped_by"] == "caught-up"
    asked_for = cli.run("run", "--config", "config.ini", **environment)
    assert "unknown key" in asked_for.stderr
    assert "is not read" not in asked_for.stderr
    (cli.folder / "config.ini").unlink()
    assert "config.ini" not in cli.run("run", **environment).stderr


def test_a_config_file_of_another_editor(environment: dict[str, str], cli: Any) -> None:
    """A byte order mark is none of its text; another encoding is told."""
    text = "[docdb-stream]\n" + "".join(f"{name.lower()} = {value}\n" for name, value in environment.items())
    (cli.folder / "config.ini").write_text(text, encoding="utf-8-sig")
    assert cli.run("run").returncode == 0
    (cli.folder / "config.ini").write_text(text, encoding="utf-16")
    assert "not UTF-8" in told(cli.run("run"), 2)


def test_a_name_that_cannot_be_meant(environment: dict[str, str], cli: Any) -> None:
    wrong = {"WATCHED_DB_NAME": "shop.orders", "WATCHED_COLLECTION": "orders", "STREAM_NAME": "\udcff"}
    done = cli.run("run", **environment | wrong)
    told(done, 2)
    problems = [line for line in done.stderr.splitlines() if line.startswith("  - ")]
    assert len(problems) == 3
    assert all(any(name in problem for problem in problems) for name in wrong)


def told_without_hint(done: Done, exit_code: int) -> str:
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[0]


def test_an_unknown_stream(environment: dict[str, str], cli: Any, db_name: str) -> None:
    done = cli.run("run", "--stream", "other", **environment)
    assert "there is no stream other" in told(done, 2)
    assert f"{db_name}.orders" in hint(done)


@pytest.mark.parametrize(
    "arguments", [("run", "--folow"), ("walk",), ("run", "--timeout", "soon"), ("run", "extra argument")]
)
def test_a_wrong_command_line(cli: Any, arguments: tuple[str, ...]) -> None:
    done = cli.run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Usage: ")
    assert any(word in done.stderr for word in arguments[1:] or arguments)


@pytest.mark.parametrize("timeout", ["0", "-1"])
def test_a_timeout_that_is_none(environment: dict[str, str], cli: Any, timeout: str) -> None:
    done = cli.run("run", f"--timeout={timeout}", **environment)
    assert done.returncode == 2
    assert "--timeout" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreadable_secret(environment: dict[str, str], cli: Any) -> None:
    done = cli.run("run", **environment, DOCUMENTDB_SECRET="env:MY_SECRET")
    assert "MY_SECRET is not set" in told(done, 2)
    (cli.folder / "secret.json").write_text('{"user": "hunter2"}')
    done = cli.run("run", **environment, DOCUMENTDB_SECRET="file:secret.json")
    assert "does not hold username and password" in told(done, 2)
    assert "hunter2" not in done.stderr


def test_a_secret_without_an_aws_account(environment: dict[str, str], cli: Any) -> None:
    settings = {**environment, "DOCUMENTDB_SECRET": "docdb/reader", "AWS_DEFAULT_REGION": "eu-central-1"}
    done = cli.run("run", **settings, AWS_EC2_METADATA_DISABLED="true", AWS_CONFIG_FILE="/dev/null")
    assert "docdb/reader" in told(done, 2)


# Targets


def test_no_target_at_all(environment: dict[str, str], cli: Any) -> None:
    del environment["FILE_PATH"]
    done = cli.run("run", **environment)
    assert "has no target" in told(done, 2)
    assert "KINESIS_STREAM" in hint(done)


def test_an_unknown_target(environment: dict[str, str], cli: Any) -> None:
    done = cli.run("run", **environment, EXTRA_TARGETS="pigeon")
    assert "unknown target pigeon" in told(done, 2)


def test_a_file_that_cannot_be_written(
    environment: dict[str, str], cli: Any, mongo: MongoClient[dict[str, Any]], db_name: str
) -> None:
    mongo[db_name].orders.insert_one({"_id": 1})
    settings = {**environment, "FILE_PATH": "/nowhere/changes.jsonl", "START_AT": "earliest"}
    done = cli.run("run", "--json", **settings)
    assert json.loads(done.stdout)["error"]["kind"] == "target"
    done.stdout = ""
    assert "target file: cannot write /nowhere/changes.jsonl" in told(done, 4)


# Standard output


@pytest.fixture
def shell(environment: dict[str, str], cli: Any, mongo: MongoClient[dict[str, Any]], db_name: str) -> Any:
    """Runs the command line with its standard streams as a shell would set them."""
    mongo[db_name].orders.insert_one({"_id": 1})

    def run(command: str, **settings: str) -> Done:
        line = f"exec {sys.executable} -m docdb_stream {command}"
        return subprocess.run(
            ["sh", "-c", line],
            cwd=cli.folder,
            env={"PATH": os.environ["PATH"], **environment, "START_AT": "earliest", **settings},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


TO_STDOUT = {"FILE_PATH": "", "STDOUT": "true"}


@pytest.mark.parametrize("where", [">&-", ">/dev/full"])
@pytest.mark.parametrize(
    ("command", "settings", "exit_code", "words"),
    [
        ("run", {}, 0, "1 event in 1 loop"),
        ("run --json", {}, 1, "error: standard output"),
        ("run", TO_STDOUT, 4, "error: target stdout: "),
        pytest.param("run --follow", TO_STDOUT, 4, "error: target stdout: ", marks=pytest.mark.long),
        ("status", {}, 1, "error: standard output"),
        ("doctor", {}, 1, "error: standard output"),
    ],
)
def test_standard_output_that_takes_nothing(
    shell: Any, where: str, command: str, settings: dict[str, str], exit_code: int, words: str
) -> None:
    done = shell(f"{command} {where}", **settings)
    assert done.returncode == exit_code, done.stderr
    assert words in done.stderr
    for sign in ("Traceback", "Exception ignored"):
        assert sign not in done.stderr


@pytest.mark.parametrize(
    "command", ["run 2>&-", "run 2>/dev/full", "run -vv 2>&-", "run >&- 2>&-", "--help >/dev/full"]
)
def test_nobody_to_tell(shell: Any, command: str, environment: dict[str, str]) -> None:
    done = shell(command)
    assert done.returncode == (1 if "--help" in command else 0)
    assert "Traceback" not in done.stderr
    if "--help" not in command:
        assert len(Path(environment["FILE_PATH"]).read_text().splitlines()) == 1


def test_json_and_events_are_on_different_streams(shell: Any) -> None:
    done = shell("run --json", **TO_STDOUT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["documentKey"] == {"_id": 1}
    assert json.loads(done.stderr)["events"] == 1


# A name with anything in it


def test_a_hostile_name_is_shown_and_acts_on_nothing(
    environment: dict[str, str], cli: Any, mongo: MongoClient[dict[str, Any]], db_name: str
) -> None:
    name = "[bold]a[/red]b\x1b[31m\nerror: b"
    settings = {**environment, "WATCHED_COLLECTION_NAME": name, "START_AT": "earliest"}
    mongo[db_name][name].insert_one({"_id": "\x1b[2J"})
    assert cli.run("run", **settings).returncode == 0
    for arguments in (
        *(["run"], ["status"], ["status", "--json"], ["ledger"], ["doctor"], ["dead-letters", "list"]),
        *(["reset", f"{db_name}.{name}", "--to", "now"], ["ledger"], ["run", "--stream", name]),
    ):
        done = cli.run(*arguments, **settings)
        assert done.returncode == (2 if "--stream" in arguments else 0), done.stderr
        assert "\x1b" not in done.stdout + done.stderr
        assert "\nerror: b" not in done.stdout + done.stderr


# A target of another package


PIGEON = """
import os
from pathlib import Path

class Pigeon:
    name = "pigeon"

    def write(self, events):
        if os.environ.get("RAIN") == "write":
            raise Exception("it rains")
        with Path(os.environ["LOFT"]).open("a") as loft:
            loft.writelines(event.event_id + "\\n" for event in events)
        return []

    def flush(self):
        if os.environ.get("RAIN") == "flush":
            raise Exception("it rains")
        return []

    def close(self):
        if os.environ.get("RAIN") == "close":
            raise Exception("it rains")

class NoPigeon:
    def __init__(self):
        if os.environ.get("RAIN") == "make":
            raise Exception("it rains")
"""


@pytest.fixture
def pigeon(tmp_path: Path, environment: dict[str, str]) -> dict[str, str]:
    """Settings for a stream to a target that a package of somebody else registers."""
    site = tmp_path / "site"
    info = site / "pigeon-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "pigeon.py").write_text(PIGEON)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pigeon\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[docdb_stream.targets]\npigeon = pigeon:Pigeon\nno_pigeon = pigeon:NoPigeon\ngone = pigeon:Gone\n"
    )
    loft = {"PYTHONPATH": str(site), "LOFT": str(tmp_path / "loft"), "EXTRA_TARGETS": "pigeon", "START_AT": "earliest"}
    return {**environment, **loft}


@pytest.mark.parametrize("rain", ["write", "flush"])
def test_a_target_that_raises_anything_is_named_and_no_event_is_lost(
    pigeon: dict[str, str], cli: Any, mongo: MongoClient[dict[str, Any]], db_name: str, rain: str
) -> None:
    mongo[db_name].orders.insert_many([{"_id": number} for number in range(5)])
    done = cli.run("run", **pigeon, RAIN=rain)
    assert done.returncode == 4, done.stderr
    assert "error: target pigeon: Exception: it rains" in done.stderr
    assert "Traceback" not in done.stderr
    again = cli.run("run", "--json", **pigeon)
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert (result["events"], result["targets"]["pigeon"]["events"], result["targets"]["file"]["events"]) == (5, 5, 5)
    loft = Path(pigeon["LOFT"]).read_text().splitlines()
    assert len(set(loft)) == 5


def test_a_target_that_cannot_be_closed_loses_nothing(
    pigeon: dict[str, str], cli: Any, mongo: MongoClient[dict[str, Any]], db_name: str
) -> None:
    mongo[db_name].orders.insert_one({"_id": 1})
    done = cli.run("run", **pigeon, RAIN="close")
    assert "Traceback" not in done.stderr
    again = cli.run("run", "--json", **pigeon)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["events"] == 0
    assert len(Path(pigeon["LOFT"]).read_text().splitlines()) == 1


@pytest.mark.parametrize(("target", "rain"), [("no_pigeon", ""), ("no_pigeon", "make"), ("gone", "")])
def test_what_is_registered_and_no_target_is_told(pigeon: dict[str, str], cli: Any, target: str, rain: str) -> None:
    done = cli.run("run", **{**pigeon, "EXTRA_TARGETS": target, "RAIN": rain})
    assert f"target {target}" in told(done, 2)


def test_nothing_is_left_of_the_callers_environment() -> None:
    assert not [name for name in os.environ if name.startswith("DOCUMENTDB_")]
