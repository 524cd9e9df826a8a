"""Which collections a pattern means, and which settings of NAMESPACES and OPERATIONS are refused."""

from __future__ import annotations

import re

import pytest
from bson.regex import Regex

from docdb_stream.config import settings_from_env
from docdb_stream.errors import ConfigError
from docdb_stream.events import Namespace
from docdb_stream.namespaces import NamespacePattern
from docdb_stream.settings import Settings

BASE = {"DOCUMENTDB_URI": "mongodb://nowhere"}


@pytest.mark.parametrize(
    ("pattern", "meant", "not_meant"),
    [
        ("shop.orders", ["shop.orders"], ["shop.Orders", "shop.orders2", "shop.my.orders", "xshop.orders"]),
        ("shop.*", ["shop.orders", "shop.a.b", "shop.*", "shop.line\nbreak", "shop.ü'\""], ["shops.orders"]),
        ("shop.a.b", ["shop.a.b"], ["shop.aXb", "shop.a"]),
        ("shop.*_log", ["shop._log", "shop.a.b_log"], ["shop.log", "shop.a_log\n", "shop.a_log2"]),
        ("shop_*.o*s", ["shop_.os", "shop_eu.orders"], ["shop.os", "shop_eu.order"]),
        ("*.orders", ["a.orders", "b.orders"], ["a.b.orders", "a.orders2"]),
        ("shop.$x(+)[a]\\d", ["shop.$x(+)[a]\\d"], ["shop.$x+a1"]),
        ("shop.*ab*ab*", ["shop.abab", "shop.aab_b_abc"], ["shop.ab", "shop.aba"]),
        ("shop.a**b", ["shop.ab", "shop.axxb"], ["shop.a"]),
    ],
)
def test_what_a_pattern_means(pattern: str, meant: list[str], not_meant: list[str]) -> None:
    found = NamespacePattern.of(pattern)
    for text, expected in [*((each, True) for each in meant), *((each, False) for each in not_meant)]:
        db, _, coll = text.partition(".")
        assert found.matches(Namespace(db, coll)) is expected, text


def test_of_a_whole_database_the_database_decides() -> None:
    assert NamespacePattern.of("shop.orders").matches(Namespace("shop"))
    assert not NamespacePattern.of("shop.orders").matches(Namespace("shops"))


def test_a_pattern_of_stars_is_quick() -> None:
    pattern = NamespacePattern.of("shop." + "*a" * 40 + "*b")
    assert not pattern.matches(Namespace("shop", "a" * 200))
    assert pattern.matches(Namespace("shop", "a" * 200 + "b"))


def test_the_names_are_put_as_the_server_has_them() -> None:
    settings = settings_from_env({**BASE, "OPERATIONS": "INSERT, dropdatabase,insert"})
    assert settings.operations == ("insert", "dropDatabase")


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"OPERATIONS": "insert, upsert"}, r"no operation upsert; there are insert, update, replace, delete, drop"),
        ({"NAMESPACES": "orders"}, r"expected db\.coll"),
        ({"NAMESPACES": "shop."}, r"expected db\.coll"),
        ({"NAMESPACES": ".orders"}, r"expected db\.coll"),
        ({"NAMESPACES": "local.oplog.rs"}, "own databases"),
        ({"NAMESPACES": "sh$p.orders"}, "no database is called so"),
        ({"NAMESPACES": "shop..a"}, "no collection is called so"),
        ({"NAMESPACES": "shop.a\0b"}, "no collection is called so"),
        ({"NAMESPACES": "crm.a, shop.b", "WATCHED_DB_NAME": "shop"}, r"crm\.a is not in the watched database shop"),
        (
            {"NAMESPACES": "shop.a", "WATCHED_DB_NAME": "shop", "WATCHED_COLLECTION_NAME": "a"},
            "needless where one collection is watched",
        ),
    ],
)
def test_what_is_refused(environ: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_from_env({**BASE, **environ})
    assert re.search(problem, "\n".join(caught.value.problems))


def test_a_database_by_pattern_may_be_the_watched_one() -> None:
    settings = Settings(documentdb_uri="mongodb://nowhere", watched_db_name="shop", namespaces="s*.orders, *.a")
    assert settings.namespaces == ("s*.orders", "*.a")
    assert settings.stream_name == "shop.*"


def test_the_server_is_given_the_same_expression() -> None:
    """PCRE's, of which Python escapes nothing that it would not take."""
    from docdb_stream.mongodb.pipeline import server_filter

    settings = Settings(documentdb_uri="mongodb://nowhere", namespaces="shop.a, shop.b-*, s*.$c")
    [[by_star, by_name, by_operation]] = [*server_filter(settings).conditions.values()]
    assert by_star == {"ns.db": Regex("^s.*$", "s"), "ns.coll": {"$in": ["$c"]}}
    assert by_name == {"ns.db": "shop", "ns.coll": {"$in": ["a", Regex(r"^b\-.*$", "s")]}}
    assert by_operation == {"operationType": {"$in": ["invalidate", "dropDatabase", "rename"]}}
