import datetime as dt
from pathlib import Path

import pytest

from docdb_stream.config import settings_from_config, settings_from_env
from docdb_stream.errors import ConfigError
from docdb_stream.events import Namespace
from docdb_stream.registry import TARGETS, settings_models
from docdb_stream.settings import Settings

URI = "mongodb://127.0.0.1:27017/?replicaSet=rs0"


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.ini"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_environment_of_the_aws_sample_is_understood():
    settings = settings_from_env(
        {
            "DOCUMENTDB_URI": "cluster.example",
            "DOCUMENTDB_SECRET": "catalogDatabaseSecret",
            "STATE_DB": "sync",
            "STATE_COLLECTION": "state",
            "WATCHED_DB_NAME": "shop",
            "WATCHED_COLLECTION_NAME": "orders",
            "Iterations_per_sync": "20",
            "Documents_per_run": "500",
            "SNS_TOPIC_ARN_ALERT": "arn:aws:sns:eu-central-1:1:alert",
            "KINESIS_STREAM": "s",
            "SQS_QUERY_URL": "https://queue",
            "MSK_BOOTSTRAP_SRV": "b:9092",
            "ELASTICSEARCH_URI": "es.example",
            "BUCKET_NAME": "b",
            "BUCKET_PATH": "p",
            "PATH": "/bin",
        }
    )
    assert settings.scope == Namespace("shop", "orders")
    assert settings.stream_name == "shop.orders"
    assert (settings.state_sync_count, settings.max_loop) == (20, 500)
    assert (settings.kinesis_stream, settings.sqs_query_url) == ("s", "https://queue")
    assert settings.msk_bootstrap_srv == "b:9092"
    assert (settings.elasticsearch_uri, settings.bucket_name, settings.bucket_path) == ("es.example", "b", "p")


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"WATCHED_DB_NAME": "shop", "WATCHED_COLLECTION_NAME": "orders"}, "shop.orders"),
        ({"WATCHED_DB_NAME": "shop"}, "shop.*"),
        ({}, "*"),
        ({"WATCHED_DB_NAME": "shop", "STREAM_NAME": "mine"}, "mine"),
        ({"WATCHED_DB_NAME": "", "STREAM_NAME": " "}, "*"),
    ],
)
def test_stream_names(environment: dict[str, str], name: str):
    assert settings_from_env({"DOCUMENTDB_URI": URI, **environment}).stream_name == name


def test_defaults_are_those_of_the_aws_sample():
    settings = Settings(documentdb_uri=URI)
    assert (settings.max_loop, settings.state_sync_count, settings.batch_size) == (45, 15, 1000)


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        ("now", "now"),
        ("EARLIEST", "earliest"),
        ("2026-01-31T12:00:00Z", dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)),
        ("2026-01-31T12:00:00", dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)),
        ("2026-01-31T12:00:00+02:00", dt.datetime(2026, 1, 31, 10, tzinfo=dt.UTC)),
    ],
)
def test_start_at(value: str, meaning: object):
    assert settings_from_env({"DOCUMENTDB_URI": URI, "START_AT": value}).start_at == meaning


def test_opensearch_uri_is_elasticsearch_uri():
    assert settings_from_env({"DOCUMENTDB_URI": URI, "OPENSEARCH_URI": "http://x"}).elasticsearch_uri == "http://x"


def test_every_problem_is_reported_at_once(tmp_path: Path):
    path = write(
        tmp_path,
        """
[docdb-stream]
batch_size = many
max_lop = 3
payload_format = xml

[stream a]
watched_collection_name = orders
state_sync_count = 0
start_at = yesterday

[streams]
x = 1
""",
    )
    with pytest.raises(ConfigError) as caught:
        settings_from_config(path, {})
    problems = "\n".join(caught.value.problems)
    assert caught.value.exit_code == 2
    for part in (
        "documentdb_uri: missing; expected: MongoDB connection string",
        "batch_size: expected a valid integer",
        "found 'many'",
        "max_lop: unknown key; did you mean max_loop?",
        "payload_format: expected extended, document or the name of an installed format",
        "state_sync_count: expected greater than or equal to 1",
        "start_at: expected snapshot, now, earliest or an ISO 8601 timestamp",
        "[streams]: unknown section",
    ):
        assert part in problems, part


def test_a_collection_needs_its_database():
    with pytest.raises(ConfigError) as caught:
        settings_from_env({"DOCUMENTDB_URI": URI, "WATCHED_COLLECTION_NAME": "orders"})
    assert caught.value.problems == ("environment: watched_collection_name needs watched_db_name",)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WATCHED_DB_NAME", "shop.orders", "for the collection orders of shop"),
        ("WATCHED_DB_NAME", "*", "leave it out"),
        ("WATCHED_DB_NAME", "a b", "no database is called so"),
        ("WATCHED_DB_NAME", "x" * 64, "63 bytes"),
        ("WATCHED_DB_NAME", "ü" * 32, "63 bytes"),
        ("WATCHED_DB_NAME", "local", "does not let its own databases be watched"),
        ("STATE_DB", "docdb.state", "no database is called so"),
        ("STATE_COLLECTION", "a\0b", "no collection is called so"),
        ("WATCHED_COLLECTION_NAME", ".a", "no collection is called so"),
        ("WATCHED_COLLECTION", "orders", "did you mean WATCHED_COLLECTION_NAME?"),
        ("WATCHED_DB", "shop", "did you mean WATCHED_DB_NAME?"),
        ("watched_db_name", "shop", "did you mean WATCHED_DB_NAME?"),
        ("STREAM_NAME", "\udcff", "STREAM_NAME"),
    ],
)
def test_a_name_that_cannot_be_meant(name: str, value: str, words: str, tmp_path: Path):
    environment = {"DOCUMENTDB_URI": URI, "WATCHED_DB_NAME": "shop", name: value}
    path = write(tmp_path, f"[docdb-stream]\ndocumentdb_uri = {URI}\nwatched_db_name = shop\n")
    for read in (lambda: settings_from_env(environment), lambda: settings_from_config(path, environment)):
        with pytest.raises(ConfigError) as caught:
            read()
        [problem] = caught.value.problems
        assert name.lower() in problem.lower()
        assert words.lower() in problem.lower()


@pytest.mark.parametrize("name", ["x" * 63, "größe", "a-b_c", "a[b]\x1b"])
def test_names_that_databases_can_have(name: str):
    assert settings_from_env({"DOCUMENTDB_URI": URI, "WATCHED_DB_NAME": name}).watched_db_name == name


def test_variables_that_are_empty_or_of_others_are_none_of_ours():
    others = {"WATCHED_COLLECTION": "", "KAFKA_HOME": "/opt", "STATE_DIRECTORY": "/var", "OPENSEARCH_JAVA_HOME": "/x"}
    assert settings_from_env({"DOCUMENTDB_URI": URI, **others}).stream_name == "*"


def test_a_byte_order_mark_is_none_of_the_text(tmp_path: Path):
    path = tmp_path / "config.ini"
    path.write_text(f"[docdb-stream]\ndocumentdb_uri = {URI}\n", encoding="utf-8-sig")
    assert settings_from_config(str(path), {})[0].documentdb_uri == URI


def test_the_environment_wins_over_the_file_but_does_not_name_its_streams(tmp_path: Path):
    path = write(
        tmp_path,
        f"""
[docdb-stream]
documentdb_uri = {URI}
batch_size = 10
max_loop = 1

[stream one]
watched_db_name = a
max_loop = 2

[stream two]
watched_db_name = b
""",
    )
    one, two = settings_from_config(path, {"BATCH_SIZE": "20", "WATCHED_DB_NAME": "elsewhere", "STREAM_NAME": "x"})
    assert [one.stream_name, two.stream_name] == ["one", "two"]
    assert [one.watched_db_name, two.watched_db_name] == ["a", "b"]
    assert [one.batch_size, two.batch_size] == [20, 20]
    assert [one.max_loop, two.max_loop] == [2, 1]


def test_a_file_without_stream_sections_is_one_stream(tmp_path: Path):
    path = write(tmp_path, f"[docdb-stream]\ndocumentdb_uri = {URI}\nwatched_db_name = shop\n")
    assert [found.stream_name for found in settings_from_config(path, {})] == ["shop.*"]


def test_references_to_the_environment(tmp_path: Path):
    path = write(tmp_path, "[docdb-stream]\ndocumentdb_uri = mongodb://u:${DB_PASSWORD}@h/\n")
    (found,) = settings_from_config(path, {"DB_PASSWORD": "s3cret"})
    assert found.documentdb_uri == "mongodb://u:s3cret@h/"
    with pytest.raises(ConfigError) as caught:
        settings_from_config(path, {})
    assert "DB_PASSWORD is not set" in caught.value.problems[0]


def test_a_password_in_the_file_is_refused_and_not_shown(tmp_path: Path):
    path = write(tmp_path, "[docdb-stream]\ndocumentdb_uri = mongodb://u:hunter2@h/\n")
    with pytest.raises(ConfigError) as caught:
        settings_from_config(path, {})
    assert "documentdb_secret" in caught.value.problems[0]
    assert "hunter2" not in str(caught.value) + "".join(caught.value.problems)


def test_two_streams_of_one_name_are_refused(tmp_path: Path):
    path = write(
        tmp_path,
        f"""
[docdb-stream]
documentdb_uri = {URI}
[stream a]
stream_name = same
[stream b]
stream_name = same
""",
    )
    with pytest.raises(ConfigError, match="1 problem"):
        settings_from_config(path, {})


@pytest.mark.parametrize("second", ["{0}/events.jsonl", "{0}/there/../events.jsonl", "{0}/link/events.jsonl"])
def test_two_streams_with_one_file_are_refused(tmp_path: Path, second: str):
    (tmp_path / "link").symlink_to(tmp_path)
    path = write(
        tmp_path,
        f"[docdb-stream]\ndocumentdb_uri = {URI}\nwatched_db_name = shop\n"
        f"[stream one]\nfile_path = {tmp_path}/events.jsonl\n[stream two]\nfile_path = {second.format(tmp_path)}\n",
    )
    with pytest.raises(ConfigError) as caught:
        settings_from_config(path, {})
    (problem,) = caught.value.problems
    assert "events.jsonl is used by more than one stream (one, two)" in problem


def test_streams_may_share_what_is_no_file(tmp_path: Path):
    streams = "[stream one]\n[stream two]\n"
    path = write(tmp_path, f"[docdb-stream]\ndocumentdb_uri = {URI}\nfile_path = /dev/null\n{streams}")
    assert len(settings_from_config(path, {})) == 2


def test_events_and_dead_letters_do_not_share_a_file(tmp_path: Path):
    file = tmp_path / "events.jsonl"
    path = write(tmp_path, f"[docdb-stream]\ndocumentdb_uri = {URI}\nfile_path = {file}\ndead_letters = {file}\n")
    with pytest.raises(ConfigError) as caught:
        settings_from_config(path, {})
    assert "dead_letters" in caught.value.problems[0]
    with pytest.raises(ConfigError, match="environment"):
        settings_from_env({"DOCUMENTDB_URI": URI, "FILE_PATH": str(file), "DEAD_LETTERS": str(file)})


@pytest.mark.parametrize("text", ["documentdb_uri = x\n", "[docdb-stream\n", "[a]\n[a]\n"])
def test_a_file_that_is_no_ini_file(tmp_path: Path, text: str):
    with pytest.raises(ConfigError, match="not a valid ini file"):
        settings_from_config(write(tmp_path, text), {})


def test_a_missing_file():
    with pytest.raises(ConfigError, match=r"there is no file nowhere\.ini"):
        settings_from_config("nowhere.ini", {})


REPOSITORY = Path(__file__).parents[2]


def test_the_config_ini_of_the_repository_loads():
    (found,) = settings_from_config(str(REPOSITORY / "config.ini"), {})
    assert found.stream_name == "shop.orders"


def test_the_config_ini_of_the_repository_names_every_setting_with_its_default(tmp_path: Path):
    lines = (REPOSITORY / "config.ini").read_text(encoding="utf-8").splitlines()
    models = (Settings, *settings_models(TARGETS).values())
    for name, field in ((name, field) for model in models for name, field in model.model_fields.items()):
        if name == "stream_name":
            continue  # the section's name
        at = [i for i, line in enumerate(lines) if line.lstrip("# ").startswith(f"{name} =")]
        assert at, f"{name} is not in config.ini"
        comment = []
        for line in reversed(lines[: at[0]]):
            if not line.startswith("#"):
                break
            comment.insert(0, line.lstrip("# "))
        text = " ".join(comment)
        assert text, f"{name} has no comment"
        if field.default in (None, "", ()) or field.is_required():
            continue
        shown = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        assert f"Default: {shown}" in text, f"{name}: config.ini does not say its default {shown}"
