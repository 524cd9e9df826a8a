from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, NoRegionError
from botocore.stub import Stubber

from docdb_stream import aws
from docdb_stream.errors import ConfigError
from docdb_stream.secret import Credentials, read_credentials

GOOD = '{"username": "reader", "password": "p@ss w/ord", "engine": "mongo", "port": 27017}'


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", GOOD)
    assert read_credentials("env:MY_SECRET") == Credentials("reader", "p@ss w/ord")


def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    path.write_text(GOOD, encoding="utf-8")
    assert read_credentials(f"file:{path}") == Credentials("reader", "p@ss w/ord")


def test_each_reading_sees_a_rotated_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    for password in ("old", "new"):
        path.write_text(f'{{"username": "reader", "password": "{password}"}}', encoding="utf-8")
        assert read_credentials(f"file:{path}").password == password


def test_the_password_does_not_show() -> None:
    assert "p@ss" not in repr(Credentials("reader", "p@ss"))
    assert "p@ss" not in str(Credentials("reader", "p@ss"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        '"hunter2"',
        "[]",
        "null",
        "7",
        '{"username": "hunter2"}',
        '{"password": "hunter2"}',
        '{"username": "", "password": "hunter2"}',
        '{"username": "hunter2", "password": ""}',
        '{"username": "reader", "password": 7}',
        '{"username": null, "password": "hunter2"}',
    ],
)
def test_something_else_in_the_secret_is_told_without_showing_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", text)
    with pytest.raises(ConfigError, match="env:MY_SECRET does not hold username and password") as caught:
        read_credentials("env:MY_SECRET")
    assert "hunter2" not in str(caught.value) + caught.value.hint
    assert caught.value.__cause__ is None
    assert "username" in caught.value.hint


def test_a_missing_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_SECRET", raising=False)
    with pytest.raises(ConfigError, match="MY_SECRET is not set") as caught:
        read_credentials("env:MY_SECRET")
    assert caught.value.hint


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file") as caught:
        read_credentials(f"file:{tmp_path}/none.json")
    assert f"{tmp_path}/none.json" in str(caught.value)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    path.write_bytes(b"\xff\xfe hunter2")
    with pytest.raises(ConfigError, match=r"secret\.json: it is not UTF-8") as caught:
        read_credentials(f"file:{path}")
    assert caught.value.__cause__ is None


# Secrets Manager


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Stubber:
    client = boto3.Session().client(
        "secretsmanager", region_name="eu-central-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    monkeypatch.setattr(aws, "client", lambda service, **options: {"secretsmanager": client}[service])
    with Stubber(client) as stubber:
        yield stubber
    client.close()


ARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:docdb/reader-AbCdEf"


@pytest.mark.parametrize("name", ["docdb/reader", ARN])
def test_from_secrets_manager(manager: Stubber, name: str) -> None:
    manager.add_response("get_secret_value", {"SecretString": GOOD}, {"SecretId": name})
    assert read_credentials(name) == Credentials("reader", "p@ss w/ord")


def test_secrets_manager_refuses(manager: Stubber) -> None:
    manager.add_client_error("get_secret_value", "AccessDeniedException", "you may not")
    with pytest.raises(ConfigError, match=r"docdb/reader: AccessDeniedException") as caught:
        read_credentials("docdb/reader")
    assert "secretsmanager:GetSecretValue" in caught.value.hint
    assert isinstance(caught.value.__cause__, ClientError)


def test_a_binary_secret(manager: Stubber) -> None:
    manager.add_response("get_secret_value", {"SecretBinary": io.BytesIO(b"\x00").getvalue()}, {"SecretId": "b"})
    with pytest.raises(ConfigError, match="is binary"):
        read_credentials("b")


def test_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    def client(service: str, **options: Any) -> Any:
        raise NoRegionError

    monkeypatch.setattr(aws, "client", client)
    with pytest.raises(ConfigError, match="region") as caught:
        read_credentials("docdb/reader")
    assert "region" in caught.value.hint
