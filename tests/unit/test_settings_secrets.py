"""A password in the settings shows in the attribute itself and nowhere else."""

from __future__ import annotations

import copy
import logging
import pickle
import re
from typing import Any

import pytest
from pydantic import ValidationError

from docdb_stream.config import settings_from_env
from docdb_stream.errors import ConfigError
from docdb_stream.registry import TARGETS, settings_models
from docdb_stream.settings import Settings
from docdb_stream.settings.model import Address, Hidden, Reference, marked, without_secrets

MODELS = (Settings, *settings_models(TARGETS).values())
ADDRESSES = [name for model in MODELS for name in marked(model, Address)]
HIDDEN = "tr0ub4dor"
URI = f"mongodb://reader:{HIDDEN}@db-1.example:27017,db-2.example/?replicaSet=rs0"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("mongodb://reader:p@h/", "mongodb://reader:***@h/"),
        ("mongodb+srv://reader:p%40ss@h/", "mongodb+srv://reader:***@h/"),
        ("mongodb://reader:with/slash@and@h/", "mongodb://reader:***@h/"),
        ("mongodb://:p@h/", "mongodb://:***@h/"),
        ("reader:p@h:27017", "reader:***@h:27017"),
        ("https://writer:p@search:9200/path", "https://writer:***@search:9200/path"),
        (
            "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:p,X:y",
            "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:***,X:y",
        ),
        ("mongodb://h/?tlsCertificateKeyFilePassword=p&w=1", "mongodb://h/?tlsCertificateKeyFilePassword=***&w=1"),
        ("https://search/?access_token=p", "https://search/?access_token=***"),
    ],
)
def test_what_is_masked(address: str, shown: str) -> None:
    assert without_secrets(address) == shown
    assert without_secrets(shown) == shown


@pytest.mark.parametrize(
    "address",
    [
        "mongodb://127.0.0.1:27017/?replicaSet=rs0",
        "mongodb://reader@h:27017/?authSource=admin&tlsCertificateKeyFile=/etc/key.pem",
        "mongodb://[::1]:27017/",
        "shop.cluster-abc.eu-central-1.docdb.amazonaws.com:27017",
        "b-1.msk.example:9096,b-2.msk.example:9096",
        "https://sqs.eu-central-1.amazonaws.com/123456789012/shop.fifo",
        "s3://bucket/a:b@c/",
        "",
    ],
)
def test_what_is_shown_as_it_is(address: str) -> None:
    assert without_secrets(address) == address


@pytest.mark.parametrize("field", ADDRESSES)
def test_no_way_of_showing_settings_shows_a_password(field: str, caplog: pytest.LogCaptureFixture) -> None:
    address = URI if field == "documentdb_uri" else f"https://user:{HIDDEN}@host/path"
    settings = Settings(**{"documentdb_uri": "mongodb://h/", field: address})
    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info("%s %r %s", settings, settings, [settings])
    shown: list[Any] = [
        *(repr(settings), str(settings), f"{settings}", repr({"a": settings}), caplog.text),
        *(settings.model_dump(), settings.model_dump(mode="json"), settings.model_dump_json()),
        list(settings.__rich_repr__()),
    ]
    assert [text for text in map(str, shown) if HIDDEN in text] == []
    assert all("***" in str(text) for text in shown)
    assert getattr(settings, field) == address
    assert copy.deepcopy(settings) == settings.model_copy() == pickle.loads(pickle.dumps(settings)) == settings


def test_a_dump_leaves_out_what_it_is_told_to() -> None:
    settings = Settings(documentdb_uri="mongodb://h/", watched_db_name="shop")
    assert settings.model_dump(exclude_defaults=True) == {
        "documentdb_uri": "mongodb://h/",
        "watched_db_name": "shop",
        "stream_name": "shop.*",
    }
    assert settings.model_dump(include={"documentdb_uri"}) == {"documentdb_uri": "mongodb://h/"}


@pytest.mark.parametrize(
    "values",
    [
        {"watched_collection_name": "orders"},
        {"max_loop": -1},
        {"documentdb_secret": f'{{"username": "u", "password": "{HIDDEN}"}}'},
        {"kafka_secret": f' {{"password": "{HIDDEN}"}}'},
        {"opensearch_secret": f'{{"password": "{HIDDEN}"}}'},
        {"password": HIDDEN},
        {"file_path": [HIDDEN]},
    ],
)
def test_no_error_shows_a_password(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**{"documentdb_uri": URI, **values})
    assert HIDDEN not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize("name", ["DOCUMENTDB_SECRET", "KAFKA_SECRET", "OPENSEARCH_SECRET"])
def test_the_secret_itself_where_its_place_belongs_is_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_from_env({"DOCUMENTDB_URI": URI, name: f'{{"username": "u", "password": "{HIDDEN}"}}'})
    [problem] = caught.value.problems
    assert name in problem
    assert "the secret itself" in problem
    assert HIDDEN not in problem


def test_what_is_called_like_an_address_or_a_secret_is_marked_as_one() -> None:
    fields = {name: model for model in MODELS for name in model.model_fields}
    for pattern, kind in (
        (r"uri$|_url|_srv|endpoint|address$|registry$|catalog$|dead_letters", Address),
        (r"secret|hash_key$", Reference),
        (r"password|token|credential|(?<!_hash)(?<!kafka)(?<!redis)(?<!partition)_key$", Hidden),
    ):
        called = {name for name in fields if re.search(pattern, name)}
        assert called == {name for name, model in fields.items() if name in marked(model, kind)}
