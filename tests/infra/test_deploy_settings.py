"""[deploy], [deploy NAME] and [network]: what they mean, and that every problem is told at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from docdb_stream.errors import ConfigError
from docdb_stream.settings import Settings
from docdb_stream.settings.cluster import NO_CLUSTER
from infra.plan import function_name, plans
from infra.settings import Deployment, DeploySettings, FunctionSettings, NetworkSettings, read_deployment

REPOSITORY = Path(__file__).parents[2]
CLUSTER = "documentdb_uri = shop.cluster-abc.eu-central-1.docdb.amazonaws.com"

Read = Callable[..., Deployment]


def problems(read: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read()
    assert caught.value.hint
    return caught.value.problems


def test_a_file_without_deployment_sections_gets_the_defaults(deployment: Read):
    found = deployment()
    assert found.deploy == DeploySettings()
    assert found.network == NetworkSettings()
    assert (found.deploy.every_minutes, found.deploy.enabled, found.deploy.architecture) == (2, False, "arm64")


def test_a_stream_s_own_section_wins_over_the_defaults(deployment: Read):
    found = deployment(
        deploy="memory_mb = 1024\nisolate = true",
        rest="[deploy shop.orders]\nmemory_mb = 2048\n[stream shop.carts]\nwatched_db_name = shop\nstdout = true",
    )
    functions = {settings.stream_name: function for settings, function in found.streams}
    assert {name: function.memory_mb for name, function in functions.items()} == {
        "shop.orders": 2048,
        "shop.carts": 1024,
    }
    assert all(function.isolate for function in functions.values())


def test_every_problem_is_told_at_once(config: Callable[..., Path]):
    path = config(
        stream="kinesis_stream = changes\nkinesis_strem = x\nfile_path = /tmp/x\ndocumentdb_secret = env:SECRET",
        deploy="memory = 1\nmemory_mb = 1\narchitecture = mips\nschedule = often\nlog_retention_days = 2\npymongo = 4",
        rest="[network]\nsubnets = subnet-1, here",
    )
    text = "\n".join(problems(lambda: read_deployment(str(path), {})))
    for part in (
        "kinesis_strem: unknown key; did you mean kinesis_stream?",
        "[deploy] memory: unknown key; did you mean memory_mb?",
        "[deploy] memory_mb: expected greater than or equal to 128, found '1'",
        "[deploy] architecture: expected 'arm64' or 'x86_64', found 'mips'",
        "[deploy] schedule: unknown key",
        "[deploy] log_retention_days: expected 1, 3, 5",
        "[deploy] pymongo: expected something like <4.14, found '4'",
        "[network] subnets: expected something like subnet-0123456789abcdef0, found 'here'",
    ):
        assert part in text
    right = config(
        stream="file_path = /tmp/x\ndocumentdb_secret = env:SECRET\ndead_letters = letters.jsonl",
        deploy="timeout_seconds = 300\nmemory = 1",
        rest="[deploy shop.cart]\nmemory_mb = 256\n[network]\nsubnets = subnet-1",
    )
    text = "\n".join(problems(lambda: read_deployment(str(right), {})))
    for part in (
        "[deploy] memory: unknown key; did you mean memory_mb?",
        "[deploy shop.cart]: there is no [stream shop.cart]",
        "[network]: subnets and security_groups go together",
        "documentdb_secret: a function reads its secrets from Secrets Manager",
        "file_path: a function has no file that lasts",
        "dead_letters: a function has no file that lasts",
    ):
        assert part in text


def test_a_network_for_one_stream_is_told_and_not_left_out(config: Callable[..., Path]):
    path = config(rest="[network shop.orders]\nsubnets = subnet-1\nsecurity_groups = sg-1")
    assert problems(lambda: read_deployment(str(path), {})) == (
        "[network shop.orders]: all functions are in the same network; put its keys under [network]",
    )


def test_a_number_that_is_wrong_is_repeated(config: Callable[..., Path]):
    [problem] = problems(lambda: read_deployment(str(config(deploy="log_retention_days = 8")), {}))
    assert problem.endswith("1827 or 3653, found '8'")


def test_a_run_may_not_take_longer_than_the_period(deployment: Read):
    assert "timeout_seconds" in problems(lambda: deployment(deploy="timeout_seconds = 121"))[0]
    assert deployment(deploy="timeout_seconds = 121\nevery_minutes = 3")


def test_a_password_never_gets_into_the_template(config: Callable[..., Path]):
    path = config(shared="documentdb_uri = ${CLUSTER_URI}")
    assert (
        "readable in the template"
        in problems(lambda: read_deployment(str(path), {"CLUSTER_URI": "mongodb://user:secret@host/"}))[0]
    )


HIDDEN = "tr0ub4dor"
ADDRESSES_WITH_PASSWORDS = [
    ("documentdb_uri", f"mongodb://user:{HIDDEN}@host/"),
    ("documentdb_uri", f"mongodb+srv://user:{HIDDEN}@host/?authSource=admin"),
    ("documentdb_uri", f"mongodb://user:not/encoded@{HIDDEN}@host/"),
    ("documentdb_uri", f"user:{HIDDEN}@shop.cluster-abc.eu-central-1.docdb.amazonaws.com"),
    ("documentdb_uri", f"mongodb://host/?authMechanismProperties=AWS_SESSION_TOKEN:{HIDDEN}"),
    ("documentdb_uri", f"mongodb://host/?tlsCertificateKeyFilePassword={HIDDEN}"),
    ("elasticsearch_uri", f"https://user:{HIDDEN}@search"),
    ("elasticsearch_uri", f"https://search/?access_token={HIDDEN}"),
    ("opensearch_uri", f"https://user:{HIDDEN}@search"),
    ("msk_bootstrap_srv", f"user:{HIDDEN}@b-1:9096"),
    ("dead_letters", f"https://user:{HIDDEN}@sqs.eu-central-1.amazonaws.com/1/letters"),
    ("documentdb_secret", f'{{"username": "reader", "password": "{HIDDEN}"}}'),
    ("opensearch_secret", f'{{"username": "reader", "password": "{HIDDEN}"}}'),
    ("kafka_secret", f'{{"username": "reader", "password": "{HIDDEN}"}}'),
]


@pytest.mark.parametrize("by_reference", [True, False])
@pytest.mark.parametrize(("key", "value"), ADDRESSES_WITH_PASSWORDS)
def test_no_secret_of_any_setting_gets_into_the_template(
    config: Callable[..., Path], key: str, value: str, by_reference: bool
):
    shared = CLUSTER if key != "documentdb_uri" else ""
    path = config(shared=f"{shared}\n{key} = " + ("${VALUE}" if by_reference else value))
    found = problems(lambda: read_deployment(str(path), {"VALUE": value}))
    assert any({"opensearch_uri": "elasticsearch_uri"}.get(key, key) in problem or key in problem for problem in found)
    assert HIDDEN not in str(found)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("documentdb_uri", "mongodb://127.0.0.1:27017/?replicaSet=rs0"),
        ("documentdb_uri", "mongodb://localhost/"),
        ("documentdb_uri", "localhost:27017"),
        ("documentdb_uri", "mongodb://reader@[::1]:27017/"),
        ("documentdb_uri", "mongodb://db-1:27017,127.0.0.1:27018/"),
        ("elasticsearch_uri", "http://127.0.0.1:9200"),
        ("msk_bootstrap_srv", "b-1:9092,localhost:9092"),
        ("sqs_query_url", "http://localhost:4566/000000000000/shop"),
    ],
)
def test_a_function_is_not_deployed_against_its_own_machine(config: Callable[..., Path], key: str, value: str):
    shared = CLUSTER if key != "documentdb_uri" else ""
    path = config(shared=f"{shared}\n{key} = {value}")
    [problem] = problems(lambda: read_deployment(str(path), {}))
    assert key in problem
    assert "the function's own machine" in problem
    assert read_deployment(str(path), {"AWS_ENDPOINT_URL": "http://127.0.0.1:4566"}), "the cloud is on it, too"


@pytest.mark.parametrize("host", ["127.example.com", "localhost.example.com", "db-localhost", "my127.0.0.1.example"])
def test_what_only_looks_like_this_machine_is_deployed(config: Callable[..., Path], host: str):
    assert read_deployment(str(config(shared=f"documentdb_uri = mongodb://{host}:27017/")), {})


def test_the_config_ini_of_the_repository_is_not_deployed_as_it_is():
    [problem] = problems(lambda: read_deployment(str(REPOSITORY / "config.ini"), {}))
    assert "documentdb_uri: 127.0.0.1 is the function's own machine" in problem
    assert "docdb.amazonaws.com" in problem, "it says what to set"


@pytest.mark.parametrize("module", ["infra.package", "infra.app"])
def test_building_and_synthesizing_say_so_before_they_do_anything(module: str, tmp_path: Path):
    place = {"DOCDB_STREAM_PACKAGE": tmp_path / "package.zip", "CDK_OUTDIR": tmp_path / "cdk.out"}
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=REPOSITORY,
        env={**os.environ, **{name: str(path) for name, path in place.items()}},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "127.0.0.1 is the function's own machine" in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_environment_of_whoever_deploys_changes_nothing(config: Callable[..., Path]):
    environ = {"DOCUMENTDB_URI": "mongodb://elsewhere/", "KINESIS_STREAM": "other", "NAME": "changes"}
    found = read_deployment(str(config(stream="kinesis_stream = ${NAME}")), environ)
    settings, _ = found.streams[0]
    assert settings.kinesis_stream == "changes"
    assert "elsewhere" not in settings.documentdb_uri


def test_an_event_source_mapping_needs_cluster_database_and_secret_by_arn(deployment: Read):
    assert "cluster_arn" in problems(lambda: deployment(deploy="trigger = esm"))[0]
    arn = "arn:aws:rds:eu-central-1:123456789012:cluster:shop"
    assert "ARN" in problems(lambda: deployment(deploy=f"trigger = esm\ncluster_arn = {arn}"))[0]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("full_document = required", "update_lookup and default alone"),
        ("full_document_before_change = when_available", "asks for none"),
        ("schema_policy = stop", "no schema ledger"),
        ("filter_at = server", "filtered by the function"),
        ("full_document = default", ""),
        ("operations = insert, delete", ""),
    ],
)
def test_what_an_event_source_mapping_cannot_do(deployment: Read, setting: str, told: str):
    arn = "arn:aws:rds:eu-central-1:123456789012:cluster:shop"
    secret = "documentdb_secret = arn:aws:secretsmanager:eu-central-1:123456789012:secret:shop"

    def read() -> object:
        return deployment(
            stream=f"kinesis_stream = changes\n{secret}\n{setting}", deploy=f"trigger = esm\ncluster_arn = {arn}"
        )

    if told:
        assert any(told in problem for problem in problems(read))
    else:
        read()


def test_a_stream_without_a_target_is_told(deployment: Read):
    with pytest.raises(ConfigError, match=r"shop\.orders") as caught:
        plans(deployment(stream="start_at = now"))
    assert "kinesis_stream" in caught.value.hint


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        ("shop.orders", "docdb-stream-shop-orders"),
        ("shop.order.items", "docdb-stream-shop-order-items"),
        ("shop.*", r"docdb-stream-shop-[0-9a-f]{8}"),
        ("*", r"docdb-stream-[0-9a-f]{8}"),
        ("shop.orders@kinesis", r"docdb-stream-shop-orders-kinesis-[0-9a-f]{8}"),
        ("my-shop.orders", r"docdb-stream-my-shop-orders-[0-9a-f]{8}"),
        ("shop." + "x" * 46, "docdb-stream-shop-" + "x" * 46),
        ("shop." + "x" * 47, r"docdb-stream-shop-x{37}-[0-9a-f]{8}"),
        ("läden.größe", r"docdb-stream-l-den-gr-e-[0-9a-f]{8}"),
    ],
)
def test_function_names(stream: str, name: str):
    assert re.fullmatch(name, function_name(stream))
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", function_name(stream))


def test_two_streams_never_share_a_function():
    names = ["a-b.c", "a.b-c", "a.b.c", "a.b", "a.*", "a", "a.b@s3", "a.b.s3", "a.b-s3", "x" * 70, "x" * 71]
    assert len({function_name(name) for name in names}) == len(names)


def test_the_environment_holds_what_was_set_and_nothing_else(deployment: Read):
    (plan,) = plans(
        deployment(
            stream="kinesis_stream = changes\nmax_loop = 0\nstdout = true\nstart_at = 2026-01-31T12:00:00Z\n"
            "opensearch_uri = https://search\npayload_format =",
        )
    )
    assert plan.environment() == {
        "DOCUMENTDB_URI": "shop.cluster-abc.eu-central-1.docdb.amazonaws.com",
        "ELASTICSEARCH_URI": "https://search",
        "KINESIS_STREAM": "changes",
        "MAX_LOOP": "0",
        "START_AT": "2026-01-31T12:00:00+00:00",
        "STDOUT": "true",
        "STREAM_NAME": "shop.orders",
        "WATCHED_COLLECTION_NAME": "orders",
        "WATCHED_DB_NAME": "shop",
    }


def test_the_environment_makes_the_same_settings_again(deployment: Read):
    from docdb_stream.settings import Settings

    (plan,) = plans(deployment(stream="kinesis_stream = changes\nlease_seconds = 30\nextra_targets = one, two"))
    assert Settings.from_env(plan.environment()) == plan.settings


def test_isolated_targets_are_streams_of_their_own(deployment: Read):
    found = plans(
        deployment(
            stream="kinesis_stream = changes\nbucket_name = b\nbucket_path = p\nstdout = true\nextra_targets = mine",
            deploy="isolate = true",
        )
    )
    assert [plan.targets for plan in found] == [("kinesis",), ("s3",), ("stdout",), ("mine",)]
    switches = {"KINESIS_STREAM", "BUCKET_NAME", "STDOUT", "EXTRA_TARGETS"}
    on = {plan.stream: switches & set(plan.environment()) for plan in found}
    assert on == {
        "shop.orders@kinesis": {"KINESIS_STREAM"},
        "shop.orders@s3": {"BUCKET_NAME"},
        "shop.orders@stdout": {"STDOUT"},
        "shop.orders@mine": {"EXTRA_TARGETS"},
    }
    assert {plan.environment()["STREAM_NAME"] for plan in found} == set(on)
    assert found[1].environment()["BUCKET_PATH"] == "p"


def test_the_config_ini_of_the_repository_names_every_key_with_its_default():
    text = (REPOSITORY / "config.ini").read_text(encoding="utf-8")
    for section, model in (("deploy", DeploySettings), ("network", NetworkSettings)):
        part = text.partition(f"\n[{section}]\n")[2].partition("\n[")[0]
        for name, field in model.model_fields.items():
            comment = re.search(rf"((?:^# .*\n)+)^# {name} = .+$", part, re.MULTILINE)
            assert comment, f"[{section}] {name} is not in config.ini"
            default = field.default
            shown = (
                "none" if default in (None, ()) else str(default).lower() if isinstance(default, bool) else str(default)
            )
            said = comment[1].replace("\n# ", " ")
            assert default is not PydanticUndefined
            assert f"Default: {shown}" in said, f"[{section}] {name}: config.ini does not say its default {shown}"


def test_the_examples_of_config_ini_are_valid(config: Callable[..., Path]):
    text = (REPOSITORY / "config.ini").read_text(encoding="utf-8")
    sections: Mapping[str, type] = {"deploy": DeploySettings, "network": NetworkSettings}
    for section, model in sections.items():
        part = text.partition(f"\n[{section}]\n")[2].partition("\n[")[0]
        values = dict(re.findall(r"\n# (\w+) = (.+)\n(?!#)", part))
        assert set(values) == set(model.model_fields)
        model.model_validate(values)
    assert set(FunctionSettings.model_fields) <= set(DeploySettings.model_fields)


PIGEON = """
from typing import Annotated
from pydantic import Field
from docdb_stream import TargetSettings
from docdb_stream.permissions import Permission, arn
from docdb_stream.settings.types import Address, Hidden, SecretReference

class PigeonSettings(TargetSettings):
    pigeon_loft: str
    pigeon_uri: Annotated[str, Address("pigeon_secret")] = ""
    pigeon_ring: Annotated[str, Hidden()] = ""
    pigeon_secret: SecretReference = None

class Pigeon:
    settings_model = PigeonSettings

    @classmethod
    def permissions(cls, settings):
        own = settings.of(PigeonSettings)
        return [Permission(("sky:Fly",), (arn("sky", f"loft/{own.pigeon_loft}/${{opensearch_domain}}/${{WIND}}"),))]
"""


def test_a_target_of_another_package_is_deployed_as_ours_are(deployment: Read, install_targets: Callable[..., Path]):
    from infra.permissions import filled_in, permissions

    install_targets(pigeon=("Pigeon", PIGEON))
    stream = "extra_targets = pigeon\npigeon_loft = attic\npigeon_secret = loft/keeper"
    (plan,) = plans(deployment(stream=stream, deploy="opensearch_domain = shop"))
    assert plan.targets == ("pigeon",)
    assert plan.environment()["PIGEON_LOFT"] == "attic"
    found = {action: each.resources for each in permissions(plan) for action in each.actions}
    [resource] = found["sky:Fly"]
    assert resource.startswith("arn:${AWS::Partition}:sky:${AWS::Region}:${AWS::AccountId}:loft/attic/")
    assert "secret:loft/keeper-??????" in found["secretsmanager:GetSecretValue"][0]
    (fly,) = (filled_in(each, plan).resources[0] for each in permissions(plan) if "sky:Fly" in each.actions)
    assert fly.endswith(":loft/attic/shop/${WIND}"), "a setting of the deployment is filled in, what is none stays"
    assert "AWS::" not in fly


def test_one_that_extends_ours_and_writes_elsewhere_asks_for_nothing(
    deployment: Read, install_targets: Callable[..., Path]
):
    from infra.permissions import permissions

    mine = "from docdb_stream.targets.kinesis import KinesisTarget\nclass Mine(KinesisTarget):\n    name = 'mine'\n"
    install_targets(mine=("Mine", mine))
    (plan,) = plans(deployment(stream="extra_targets = mine"))
    assert permissions(plan) == []
    (plan,) = plans(deployment(stream="extra_targets = mine\nkinesis_stream = changes"))
    assert {action for each in permissions(plan) for action in each.actions if "Put" in action} == {
        "kinesis:PutRecords"
    }


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("pigeon_uri", f"https://keeper:{HIDDEN}@loft", "readable in the template; use pigeon_secret"),
        ("pigeon_uri", "http://127.0.0.1/", "the function's own machine"),
        ("pigeon_ring", HIDDEN, "readable in the template"),
        ("pigeon_secret", "env:KEEPER", "from Secrets Manager"),
    ],
)
def test_what_of_another_package_cannot_be_deployed_is_told(
    config: Callable[..., Path], install_targets: Callable[..., Path], key: str, value: str, words: str
):
    install_targets(pigeon=("Pigeon", PIGEON))
    path = config(stream=f"extra_targets = pigeon\npigeon_loft = attic\n{key} = ${{VALUE}}")
    [problem] = problems(lambda: read_deployment(str(path), {"VALUE": value}))
    assert key in problem
    assert words in problem
    assert HIDDEN not in problem


TABLE_ARN = (
    "dynamodb_stream_arn = arn:aws:dynamodb:eu-central-1:123456789012:table/Orders/stream/2026-01-31T12:00:00.000"
)
TABLE = f"""
[deploy orders]
{TABLE_ARN}

[stream orders]
kinesis_stream = changes
"""


def test_a_tables_stream_needs_no_cluster(tmp_path: Path):
    path = tmp_path / "config.ini"
    path.write_text(f"[docdb-stream]\ndead_letters = s3://letters/here\n{TABLE}")
    [(settings, _)] = read_deployment(str(path), {}).streams
    [plan] = plans(read_deployment(str(path), {}))
    assert (settings.stream_name, settings.watched_db_name) == ("orders", "dynamodb")
    made = Settings.from_env(plan.environment())
    assert (made.documentdb_uri, made.dead_letters) == (NO_CLUSTER, "s3://letters/here")


def test_a_tables_stream_without_a_cluster_has_a_place_for_dead_letters(tmp_path: Path):
    path = tmp_path / "config.ini"
    path.write_text(TABLE)
    [problem] = problems(lambda: read_deployment(str(path), {}))
    assert problem.startswith("[stream orders] dead_letters: set it to")


def test_a_stream_of_a_cluster_beside_one_of_a_table_needs_its_cluster(tmp_path: Path):
    path = tmp_path / "config.ini"
    path.write_text(f"[docdb-stream]\ndead_letters = s3://letters/here\n{TABLE}[stream users]\nstdout = true\n")
    [problem] = problems(lambda: read_deployment(str(path), {}))
    assert problem.startswith("[stream users] documentdb_uri: missing")


def test_what_the_others_watch_is_nothing_to_a_tables_stream(tmp_path: Path):
    path = tmp_path / "config.ini"
    shared = f"{CLUSTER}\nwatched_db_name = shop\nnamespaces = shop.users\n"
    path.write_text(f"[docdb-stream]\n{shared}{TABLE}[stream users]\nstdout = true\n")
    [(orders, _), (users, _)] = read_deployment(str(path), {}).streams
    assert (orders.watched_db_name, orders.watched_collection_name, orders.namespaces) == ("dynamodb", None, ())
    assert (users.watched_db_name, users.namespaces) == ("shop", ("shop.users",))
    assert orders.documentdb_uri == users.documentdb_uri
    # None but the others are for the command line: a table's stream is not polled.
    assert [each.stream_name for each in Settings.from_config(str(path), {})] == ["users"]


@pytest.mark.parametrize(
    "sections",
    [
        f"[deploy]\n{TABLE_ARN}\n[deploy users]\ndynamodb_stream_arn =\n[stream users]\nstdout = true\n",
        f"[deploy other]\n{TABLE_ARN}\n[stream other]\nstdout = true\n[stream users]\nstdout = true\n",
    ],
)
def test_a_stream_that_is_no_tables_needs_its_cluster(tmp_path: Path, sections: str):
    path = tmp_path / "config.ini"
    path.write_text(f"[docdb-stream]\ndead_letters = s3://letters/here\n{sections}")
    with pytest.raises(ConfigError) as caught:
        read_deployment(str(path), {})
    assert [
        problem for problem in caught.value.problems if problem.startswith("[stream users] documentdb_uri: missing")
    ]


def test_a_tables_stream_is_found_by_its_name(tmp_path: Path):
    path = tmp_path / "config.ini"
    path.write_text(
        f"[docdb-stream]\ndead_letters = s3://l/\n[deploy b]\n{TABLE_ARN}\n[stream a]\nstream_name = b\nstdout = true\n"
    )
    [(settings, function)] = read_deployment(str(path), {}).streams
    assert (settings.documentdb_uri, bool(function.dynamodb_stream_arn)) == (NO_CLUSTER, True)
    assert "started by a mapping" in problems(lambda: Settings.from_config(str(path), {}))[0]


def test_a_tables_stream_into_mongodb_says_which_cluster(tmp_path: Path):
    path = tmp_path / "config.ini"
    path.write_text(
        f"[docdb-stream]\ndead_letters = s3://l/\n[deploy a]\n{TABLE_ARN}\n[stream a]\nmongodb_target_uri = mongodb://h/\n"
    )
    found = problems(lambda: read_deployment(str(path), {}))
    assert any("documentdb_uri: the target mongodb needs it" in problem for problem in found)


def test_a_file_of_one_tables_stream(tmp_path: Path):
    path = tmp_path / "config.ini"
    path.write_text(
        f"[docdb-stream]\nstream_name = orders\ndead_letters = s3://l/\nstdout = true\n[deploy]\n{TABLE_ARN}\n"
    )
    [(settings, function)] = read_deployment(str(path), {}).streams
    assert (settings.documentdb_uri, settings.watched_db_name) == (NO_CLUSTER, "dynamodb")
    assert function.dynamodb_stream_arn
