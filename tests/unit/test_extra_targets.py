"""Targets of other packages: their settings stand beside ours, by the same means, and can harm nobody else's."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from docdb_stream.config import settings_from_config, settings_from_env
from docdb_stream.errors import ConfigError
from docdb_stream.formats import format_named
from docdb_stream.poller import Poller
from docdb_stream.registry import models_of_others, switches, target_class
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.reference import config_text
from docdb_stream.stores.memory import MemoryCheckpointStore
from docdb_stream.target import Rejection
from docdb_stream.targets import build_targets
from docdb_stream.testing.events import ChangeLog
from docdb_stream.testing.source import ScriptedSource

URI = "mongodb://127.0.0.1:27017/?replicaSet=rs0"
HIDDEN = "tr0ub4dor"
ENVIRONMENT = {"DOCUMENTDB_URI": URI, "EXTRA_TARGETS": "pigeon"}

PIGEON = '''
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from docdb_stream import Settings, TargetSettings
from docdb_stream.permissions import Permission, arn
from docdb_stream.settings.types import Address, Hidden, OwnFormat, SecretReference


class PigeonSettings(TargetSettings):
    """What can be set about the target pigeon."""

    pigeon_loft: str = Field(
        description="Where the pigeons live: a name. None of them flies without.", examples=["attic"]
    )
    pigeon_weight_grams: int = Field(default=40, ge=1, le=75, description="What a pigeon carries, in grams, 1 to 75.")
    pigeon_uri: Annotated[str, Address("pigeon_secret")] = Field(default="", description="Who opens the loft.")
    pigeon_ring: Annotated[str | None, Hidden()] = Field(default=None, description="The number on the ring.")
    pigeon_whistle: Annotated[str, Hidden()] | None = Field(default=None, description="What calls them home.")
    pigeon_secret: SecretReference = Field(default=None, description="Where the password is.")
    pigeon_payload_format: OwnFormat = None


class Pigeon:
    settings_model = PigeonSettings
    name = "pigeon"

    def __init__(self, loft, payload_format):
        self.loft, self.payload_format = loft, payload_format

    @classmethod
    def from_settings(cls, settings: Settings):
        own = settings.of(PigeonSettings)
        return cls(own.pigeon_loft, own.pigeon_payload_format or settings.payload_format)

    @classmethod
    def permissions(cls, settings):
        return [Permission(("sky:Fly",), (arn("sky", f"loft/{settings.of(PigeonSettings).pigeon_loft}"),))]

    def write(self, events):
        return ()

    def flush(self):
        return ()

    def close(self):
        pass
'''

OLD = """
class Old:
    name = "old"

    @classmethod
    def from_settings(cls, settings):
        made = cls()
        made.saw = (settings.kinesis_stream, settings.stdout, settings.payload_format)
        return made

    def write(self, events):
        return ()

    def flush(self):
        return ()

    def close(self):
        pass
"""

GREEDY = """
from docdb_stream import TargetSettings


class GreedySettings(TargetSettings):
    {field}


class Greedy:
    settings_model = GreedySettings
"""

Install = Callable[..., Path]


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.ini"
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems(read: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        read()
    assert caught.value.hint
    assert HIDDEN not in f"{caught.value} {caught.value.problems} {caught.value.hint}"
    return "\n".join(caught.value.problems)


def test_its_settings_come_from_the_environment_and_the_file(install_targets: Install, tmp_path: Path) -> None:
    install_targets(pigeon=("Pigeon", PIGEON))
    settings = settings_from_env({**ENVIRONMENT, "PIGEON_LOFT": "attic", "PIGEON_WEIGHT_GRAMS": "75"})
    assert (settings.pigeon_loft, settings.pigeon_weight_grams) == ("attic", 75)
    path = write(
        tmp_path,
        f"[docdb-stream]\ndocumentdb_uri = {URI}\nextra_targets = pigeon\npigeon_loft = attic\n"
        "[stream one]\n[stream two]\npigeon_loft = cellar\npigeon_payload_format = document\n",
    )
    one, two = settings_from_config(path, {"PIGEON_WEIGHT_GRAMS": "3"})
    assert [each.pigeon_loft for each in (one, two)] == ["attic", "cellar"]
    assert [each.pigeon_weight_grams for each in (one, two)] == [3, 3]
    [made] = build_targets(two)
    assert (made.loft, made.payload_format) == ("cellar", "document")  # type: ignore[attr-defined]


def test_every_problem_of_its_settings_is_told_at_once_beside_ours(install_targets: Install, tmp_path: Path) -> None:
    install_targets(pigeon=("Pigeon", PIGEON))
    path = write(
        tmp_path,
        "[docdb-stream]\nextra_targets = pigeon\npigeon_weight_grams = heavy\npigeon_lofft = attic\nbatch_size = 0\n"
        "kinesis_record_bytes = 1\npigeon_payload_format = xml\n",
    )
    found = problems(lambda: settings_from_config(path, {}))
    for part in (
        "documentdb_uri: missing; expected: MongoDB connection string",
        "batch_size: expected greater than or equal to 1, found '0'",
        "kinesis_record_bytes: expected greater than or equal to 1024, found '1'",
        "pigeon_loft: missing; expected: Where the pigeons live: a name",
        "pigeon_lofft: unknown key; did you mean pigeon_loft?",
        "pigeon_weight_grams: expected a valid integer, unable to parse string as an integer, found 'heavy'",
        "pigeon_payload_format: expected extended, document or the name of an installed format (built in: ",
    ):
        assert part in found, part
    found = problems(lambda: settings_from_env({**ENVIRONMENT, "PIGEON_LOFT": " ", "PIGEON_WEIGHT_GRAMS": "76"}))
    assert "PIGEON_LOFT: missing" in found
    assert "PIGEON_WEIGHT_GRAMS: expected less than or equal to 75, found '76'" in found


def test_by_keyword_every_problem_is_told_at_once_too(install_targets: Install) -> None:
    install_targets(pigeon=("Pigeon", PIGEON))
    with pytest.raises(ValidationError) as caught:
        Settings(extra_targets="pigeon", pigeon_weight_grams=0, batch_size=0, sqs_message_group="x", what=HIDDEN)
    told = {str(each["loc"][0]) for each in caught.value.errors()}
    assert told == {
        *("documentdb_uri", "batch_size", "what"),
        *("sqs_message_group", "pigeon_loft", "pigeon_weight_grams"),
    }
    assert HIDDEN not in str(caught.value)


def test_variables_of_other_programs_with_similar_names_are_none_of_its(install_targets: Install) -> None:
    install_targets(pigeon=("Pigeon", PIGEON))
    others = {
        "PIGEON_HOME": "/opt",
        "PIGEON": "x",
        "KAFKA_HOME": "/opt",
        "S3_ENDPOINT": "x",
        "BUCKET": "b",
        "STDOUT_": "1",
    }
    settings = settings_from_env({**ENVIRONMENT, "PIGEON_LOFT": "attic", **others})
    assert settings.model_fields_set == {"documentdb_uri", "extra_targets", "pigeon_loft"}


def test_a_setting_of_one_that_is_off_is_unknown_in_the_file_and_nothing_in_the_environment(
    install_targets: Install, tmp_path: Path
) -> None:
    install_targets(pigeon=("Pigeon", PIGEON))
    path = write(tmp_path, f"[docdb-stream]\ndocumentdb_uri = {URI}\npigeon_loft = attic\n")
    assert "pigeon_loft: unknown key" in problems(lambda: settings_from_config(path, {}))
    assert settings_from_env({"DOCUMENTDB_URI": URI, "PIGEON_LOFT": "attic"}).model_fields_set == {"documentdb_uri"}


def test_what_is_shared_is_nothing_to_a_stream_without_that_target(install_targets: Install, tmp_path: Path) -> None:
    install_targets(pigeon=("Pigeon", PIGEON))
    path = write(
        tmp_path,
        f"[docdb-stream]\ndocumentdb_uri = {URI}\npigeon_loft = attic\n"
        "[stream one]\nextra_targets = pigeon\n[stream two]\nstdout = true\n",
    )
    one, two = settings_from_config(path, {})
    assert one.pigeon_loft == "attic"
    assert not hasattr(two, "pigeon_loft")
    assert set(two.targets) == {"stdout"}


def test_no_way_of_showing_settings_shows_its_secrets(install_targets: Install, tmp_path: Path) -> None:
    install_targets(pigeon=("Pigeon", PIGEON))
    given = {
        "pigeon_loft": "attic",
        "pigeon_uri": f"https://keeper:{HIDDEN}@loft",
        "pigeon_ring": HIDDEN,
        "pigeon_whistle": HIDDEN,
    }
    settings = Settings(documentdb_uri=URI, extra_targets=["pigeon"], **given)
    for shown in (
        *(
            repr(settings),
            str(settings),
            repr(settings.targets),
            settings.model_dump_json(),
            str(settings.model_dump()),
        ),
        *(str(list(settings.__rich_repr__())), str(settings.model_dump(mode="json", exclude_unset=True))),
    ):
        assert HIDDEN not in shown
        assert "***" in shown
    assert settings.pigeon_ring == HIDDEN
    for key, value in given.items():
        path = write(tmp_path, f"[docdb-stream]\ndocumentdb_uri = {URI}\nextra_targets = pigeon\n{key} = {value}\n")
        if key != "pigeon_loft":
            assert "in the file; use" in problems(lambda path=path: settings_from_config(path, {}))
    for key in ("PIGEON_SECRET", "PIGEON_RING"):
        problems(lambda key=key: settings_from_env({**ENVIRONMENT, key: f'{{"password": "{HIDDEN}"}}'}))


def test_its_settings_are_copied_and_pickled_with_ours(install_targets: Install) -> None:
    install_targets(pigeon=("Pigeon", PIGEON))
    settings = Settings(documentdb_uri=URI, extra_targets="pigeon", pigeon_loft="attic", stdout=True)
    assert copy.deepcopy(settings) == settings.model_copy() == pickle.loads(pickle.dumps(settings)) == settings
    moved = settings.model_copy(update={"pigeon_loft": "cellar", "max_loop": 3, "kinesis_stream": "x"})
    assert (moved.pigeon_loft, moved.max_loop, moved.kinesis_stream, moved.stdout) == ("cellar", 3, "x", True)
    assert (settings.pigeon_loft, settings.kinesis_stream) == ("attic", None)
    assert moved.model_fields_set == settings.model_fields_set | {"max_loop", "kinesis_stream"}
    assert {made.name for made in build_targets(moved.model_copy(update={"kinesis_stream": None}))} == {
        "stdout",
        "pigeon",
    }
    with pytest.raises(ValidationError, match="frozen"):
        settings.max_loop = 4


def test_one_without_a_model_is_made_as_before(install_targets: Install) -> None:
    install_targets(old=("Old", OLD), plain=("Old", OLD.replace("from_settings", "other").replace('"old"', '"plain"')))
    [old, plain] = build_targets(settings_from_env({"DOCUMENTDB_URI": URI, "EXTRA_TARGETS": "old, plain"}))
    assert old.saw == (None, False, "extended")  # type: ignore[attr-defined]
    assert plain.name == "plain"


@pytest.mark.parametrize(
    ("field", "whose"),
    [
        ("batch_size: int = 5", "the stream's own"),
        ("documents_per_run: int = 5", "the stream's own"),
        ("scope: str = 'mine'", "the stream's own"),
        ("kinesis_stream: str = 'mine'", "target kinesis's"),
        ("opensearch_uri: str = 'mine'", "target opensearch's"),
        ("pigeon_loft: str = 'mine'", "target pigeon's"),
    ],
)
def test_a_setting_that_is_somebody_elses_is_refused(
    install_targets: Install, tmp_path: Path, field: str, whose: str
) -> None:
    install_targets(pigeon=("Pigeon", PIGEON), greedy=("Greedy", GREEDY.format(field=field)))
    environment = {**ENVIRONMENT, "PIGEON_LOFT": "attic", "EXTRA_TARGETS": "pigeon, greedy"}
    path = write(tmp_path, f"[docdb-stream]\ndocumentdb_uri = {URI}\nextra_targets = pigeon, greedy\n")
    for read in (
        lambda: settings_from_env(environment),
        lambda: settings_from_config(path, {}),
        lambda: Settings(documentdb_uri=URI, extra_targets="pigeon,greedy", pigeon_loft="attic"),
    ):
        with pytest.raises(ConfigError) as caught:
            read()
        name = field.partition(":")[0]
        assert f"target greedy has a setting {name}, but that is {whose}" in f"{caught.value} {caught.value.problems}"


def test_a_model_that_is_none_is_refused(install_targets: Install) -> None:
    install_targets(greedy=("Greedy", "class Greedy:\n    settings_model = dict\n"))
    found = problems(lambda: settings_from_env({"DOCUMENTDB_URI": URI, "EXTRA_TARGETS": "greedy"}))
    assert "settings_model is no docdb_stream.TargetSettings" in found


BROKEN = "raise RuntimeError('no pigeons today')\n"


def test_one_that_cannot_be_imported_is_told_where_it_matters(install_targets: Install, tmp_path: Path) -> None:
    install_targets(broken=("Broken", BROKEN))
    settings = settings_from_env({"DOCUMENTDB_URI": URI, "EXTRA_TARGETS": "broken", "BROKEN_LOFT": "x"})
    with pytest.raises(ConfigError, match="target broken cannot be imported from package_of_broken:Broken") as caught:
        build_targets(settings)
    assert "no pigeons today" in str(caught.value)
    path = write(tmp_path, f"[docdb-stream]\ndocumentdb_uri = {URI}\nextra_targets = broken, gone\nbroken_loft = x\n")
    found = problems(lambda: settings_from_config(path, {}))
    assert "broken_loft: unknown key (target broken cannot be imported" in found
    assert "unknown target gone" in found


def test_the_command_line_tells_it_without_a_traceback_and_prints_what_can_be_set(install_targets: Install) -> None:
    taken = GREEDY.format(field="pigeon_loft: str = 'mine'")
    site = install_targets(broken=("Broken", BROKEN), pigeon=("Pigeon", PIGEON), zealot=("Greedy", taken))
    environment = {**os.environ, "PYTHONPATH": str(site), **ENVIRONMENT, "EXTRA_TARGETS": "broken"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "docdb_stream.cli", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    done = run("run")
    assert done.returncode == 2
    assert "target broken cannot be imported" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("config")
    assert done.returncode == 0, done.stderr
    assert "# What a pigeon carries, in grams, 1 to 75. Default: 40.\n# pigeon_weight_grams = 40\n" in done.stdout
    assert "zealot" not in done.stdout
    assert "target zealot has a setting pigeon_loft, but that is target pigeon's" in done.stderr
    assert "target broken cannot be imported" in done.stderr


def test_its_settings_are_explained_as_ours_are(install_targets: Install, tmp_path: Path) -> None:
    install_targets(
        pigeon=("Pigeon", PIGEON), greedy=("Greedy", GREEDY.format(field="greedy_of: tuple[str, ...] = ('a', 'b')"))
    )
    text = config_text(models_of_others(("pigeon", "greedy")))
    assert "# Where the pigeons live: a name. None of them flies without. Required.\n# pigeon_loft = attic\n" in text
    assert (
        "# As payload_format, for this target alone. Default: none (payload_format).\n# pigeon_payload_format" in text
    )
    assert "\n# Default: a,b.\n# greedy_of = a,b\n" in text
    assert text.count("--- Targets of other packages") == 1
    assert not re.search(r" $", text, re.MULTILINE)
    [settings] = settings_from_config(write(tmp_path, text), {})
    assert set(settings.targets) == {"stdout"}, "what is printed is valid as it is"
    on = text.replace("# extra_targets =", "extra_targets =").replace("# pigeon_loft", "pigeon_loft")
    [settings] = settings_from_config(write(tmp_path, on), {})
    assert settings.pigeon_loft == "attic"


CARELESS = """
from typing import Annotated

from pydantic import BaseModel, Field, SecretStr, field_validator

from docdb_stream import TargetSettings
from docdb_stream.settings.types import Address, Hidden, Words


class Perch(BaseModel):
    height: int = 1
    code: Annotated[str, Hidden()] = "tr0ub4dor"


class CarelessSettings(TargetSettings):
    careless_token: SecretStr = Field(default=SecretStr("tr0ub4dor"), min_length=10)
    careless_uris: tuple[Annotated[str, Address()], ...] = ("https://keeper:tr0ub4dor@loft",)
    careless_uri: Annotated[str, Address()] = "https://keeper:tr0ub4dor@loft"
    careless_ring: Annotated[str, Hidden()] = Field(default_factory=lambda: "tr0ub4dor")
    careless_perch: Perch = Field(default_factory=Perch)
    careless_names: Words = Field(default_factory=tuple)
    careless_after: str = Field(default_factory=lambda given: given["careless_uri"])


class Careless:
    settings_model = CarelessSettings
"""


def test_secrets_stay_hidden_wherever_in_a_setting_they_are(install_targets: Install, tmp_path: Path) -> None:
    install_targets(careless=("Careless", CARELESS))
    given = {"careless_after": "x", "careless_perch": {"height": 2}, "careless_token": f"{HIDDEN}{HIDDEN}"}
    settings = Settings(documentdb_uri=URI, extra_targets="careless", **given)
    assert settings.careless_uris == ("https://keeper:tr0ub4dor@loft",)
    for shown in (repr(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert HIDDEN not in shown
        assert "https://keeper:***@loft" in shown
    problems(lambda: settings_from_env({**ENVIRONMENT, "EXTRA_TARGETS": "careless", "CARELESS_TOKEN": HIDDEN}))
    path = write(
        tmp_path, f"[docdb-stream]\ndocumentdb_uri = {URI}\nextra_targets = careless\ncareless_token = {HIDDEN}"
    )
    assert "careless_token: a secret in the file" in problems(lambda: settings_from_config(path, {}))


def test_what_can_be_set_is_printed_without_what_a_default_holds_or_makes(install_targets: Install) -> None:
    install_targets(careless=("Careless", CARELESS))
    text = config_text(models_of_others(("careless",)))
    assert HIDDEN not in text
    assert "# careless_uri = https://keeper:***@loft\n" in text
    assert "\n# Default: none.\n# careless_names =\n" in text
    assert "\n# Default: made when it is read.\n# careless_after =\n" in text


def test_a_bug_in_its_settings_is_a_problem_with_them(install_targets: Install) -> None:
    bug = GREEDY.format(field="greedy_of: int = 1\n    @classmethod\n    def check(cls, value): return {}[value]\n")
    bug = bug.replace("@classmethod", "@field_validator('greedy_of', mode='before')\n    @classmethod")
    install_targets(greedy=("Greedy", "from pydantic import field_validator\n" + bug))
    found = problems(lambda: settings_from_env({"DOCUMENTDB_URI": URI, "EXTRA_TARGETS": "greedy", "GREEDY_OF": HIDDEN}))
    assert "target greedy cannot read its settings: KeyError; ask who made it" in found


@pytest.mark.parametrize("field", ["greedyOf: int = 1", "of: int = Field(default=1, alias='greedyOf')"])
def test_a_key_that_neither_a_file_nor_the_environment_can_hold_is_refused(
    install_targets: Install, field: str
) -> None:
    install_targets(greedy=("Greedy", "from pydantic import Field\n" + GREEDY.format(field=field)))
    with pytest.raises(ConfigError, match="GreedySettings: greedyOf is not in lower case"):
        build_targets(settings_from_env({"DOCUMENTDB_URI": URI, "EXTRA_TARGETS": "greedy", "GREEDYOF": "2"}))


def test_a_switch_that_is_no_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="LostSettings: its switch lost_pigeon is none of its settings"):
        type("LostSettings", (TargetSettings,), {"switch": "lost_pigeon", "__module__": __name__})


LOUD = """
from docdb_stream.targets.stdout import StdoutTarget

class Loud(StdoutTarget):
    name = "loud"

class Louder(StdoutTarget):
    name = "louder"
"""


def test_one_that_extends_ours_has_the_settings_of_ours(install_targets: Install) -> None:
    install_targets(loud=("Loud", LOUD), louder=("Louder", LOUD))
    environment = {"DOCUMENTDB_URI": URI, "EXTRA_TARGETS": "loud,louder", "STDOUT_PAYLOAD_FORMAT": "document"}
    made = build_targets(settings_from_env(environment))
    assert [(target.name, target.formats) for target in made] == [
        (name, (format_named("document"),)) for name in ("loud", "louder")
    ]


def test_two_of_one_package_may_share_their_settings(install_targets: Install) -> None:
    twins = PIGEON + "\nclass Twin(Pigeon):\n    name = 'twin'\n"
    install_targets(pigeon=("Pigeon", twins), twin=("Twin", "from package_of_pigeon import Twin\n"))
    settings = settings_from_env({**ENVIRONMENT, "EXTRA_TARGETS": "pigeon,twin", "PIGEON_LOFT": "attic"})
    assert [(made.name, made.loft) for made in build_targets(settings)] == [("pigeon", "attic"), ("twin", "attic")]


def test_a_target_of_another_package_cannot_take_a_built_in_name(install_targets: Install) -> None:
    install_targets(kinesis=("Pigeon", PIGEON))
    settings = settings_from_env({"DOCUMENTDB_URI": URI, "EXTRA_TARGETS": "kinesis"})
    with pytest.raises(ConfigError, match="unknown target kinesis"):
        build_targets(settings)


def test_only_the_targets_whose_settings_are_given_are_imported() -> None:
    code = (
        "import sys; from docdb_stream import Settings\n"
        "settings = Settings.from_env({'DOCUMENTDB_URI': 'mongodb://h/', 'STDOUT': 'true', 'EXTRA_TARGETS': ''})\n"
        "loaded = {name for name in sys.modules if name.startswith('docdb_stream.targets.')}\n"
        "assert loaded == {'docdb_stream.targets.stdout', 'docdb_stream.targets._payload'}, loaded\n"
        "assert 'botocore' not in sys.modules\n"
        "assert settings.file_path is None and settings.bucket_path == ''\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_target_that_is_off_is_not_made() -> None:
    for name, switch in switches().items():
        if name != "stdout":  # which needs to know nothing
            with pytest.raises(ConfigError, match="off") as caught:
                target_class(name).from_settings(Settings(documentdb_uri=URI))
            assert switch.upper() in caught.value.hint


class NoLetters:
    def write(self, stream: str, rejections: Sequence[Rejection]) -> None:
        raise AssertionError(rejections)


def test_two_targets_get_one_run_in_two_formats(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    events = ChangeLog().inserts(3)
    lines = tmp_path / "events.jsonl"
    settings = settings_from_env(
        {
            "DOCUMENTDB_URI": URI,
            "WATCHED_DB_NAME": "shop",
            "START_AT": "earliest",
            "STDOUT": "true",
            "FILE_PATH": str(lines),
            "FILE_PAYLOAD_FORMAT": "document",
        }
    )
    made = build_targets(settings)
    source, store = ScriptedSource(events), MemoryCheckpointStore()
    with Poller(settings, source=source, store=store, targets=made, dead_letters=NoLetters()) as poller:  # type: ignore[arg-type]
        assert poller.run().events == 3
    assert lines.read_bytes().splitlines() == [event.render("document") for event in events]
    assert capfdbinary.readouterr().out.splitlines() == [event.render("extended") for event in events]


def test_settings_of_a_model_are_its_defaults_where_none_is_set() -> None:
    class NoneOfOurs(TargetSettings):
        none_of_ours: int = 3

    assert Settings(documentdb_uri=URI).of(NoneOfOurs).none_of_ours == 3
