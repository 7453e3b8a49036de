"""Settings: from a file and variables, typed; whatever is wrong is named by where it stands."""

import os
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

import freshet as fr
from freshet.engine import secrets, settings
from freshet.engine.errors import DefinitionError, RequestError


class Database(msgspec.Struct):
    host: str
    port: int = 5432
    password: fr.Secret | None = None


class Settings(msgspec.Struct):
    database: Database
    folder: Path = Path("data")
    wait_s: float = 1.5
    debug: bool = False
    level: Literal["low", "high"] = "low"
    names: list[str] = []
    token: fr.Secret | None = None


FILE = """
[settings]
wait_s = 2
level = "high"

[settings.database]
host = "db.local"

[profiles.dev.settings]
debug = true

[profiles.prod.settings]
folder = "/srv/data"

[profiles.prod.settings.database]
host = "db.prod"
port = 6543
"""


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, no variables of ours, no secrets of others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(secrets, "_known", {})
    monkeypatch.setattr(settings, "_read", [])
    for name in [name for name in os.environ if name.startswith(("SHOP_", "FRESHET_"))]:
        monkeypatch.delenv(name)


def read(text: str = FILE, **options: Any) -> Settings:
    Path("shop.toml").write_text(text)
    return fr.settings(Settings, file="shop.toml", **options)


# --- where they come from -------------------------------------------------------------------------


def test_a_file_gives_the_first_profile_or_the_chosen_one(monkeypatch: pytest.MonkeyPatch) -> None:
    dev = Settings(Database("db.local"), wait_s=2.0, debug=True, level="high")
    assert read() == dev
    monkeypatch.setenv("FRESHET_PROFILE", "prod")
    prod = Settings(Database("db.prod", 6543), Path("/srv/data"), 2.0, False, "high")
    assert read() == prod
    monkeypatch.setenv("FRESHET_PROFILE", "other")  # one that changes no setting
    assert read() == Settings(Database("db.local"), wait_s=2.0, level="high")


def test_variables_stand_over_the_file_and_become_what_the_fields_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = {
        "SHOP_DATABASE__HOST": "db.env",
        "SHOP_DATABASE__PORT": "1",
        "SHOP_WAIT_S": "0.25",
        "SHOP_DEBUG": "false",
        "SHOP_FOLDER": "here",
        "SHOP_NAMES": '["a", "b"]',
        "SHOP_TOKEN": "told by the environment",
        "SHOP_SERVICE_HOST": "10.0.0.1",  # of somebody else
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    expected = Settings(
        Database("db.env", 1),
        Path("here"),
        0.25,
        False,
        "high",
        ["a", "b"],
        fr.Secret("told by the environment"),
    )
    assert read(prefix="SHOP_") == expected
    assert read().database.host == "db.local"  # without a prefix none is read


def test_without_a_file_variables_and_defaults_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_DATABASE__HOST", "db.env")
    assert fr.settings(Settings, prefix="SHOP_") == Settings(Database("db.env"))


def test_a_secret_is_read_from_where_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("token").write_text("from a file\n")
    monkeypatch.setenv("PGPASSWORD", "from a variable")
    found = read(
        '[settings]\ntoken = "file:token"\n'
        '[settings.database]\nhost = "h"\npassword = "env:PGPASSWORD"\n'
    )
    assert found.token == fr.Secret("from a file")
    assert found.database.password == fr.Secret("from a variable")
    assert secrets.redact("from a file, from a variable") == "***, ***"
    assert "from a" not in repr(found)
    monkeypatch.setenv("SHOP_TOKEN", "file:token")
    monkeypatch.setenv("SHOP_DATABASE__HOST", "h")
    assert fr.settings(Settings, prefix="SHOP_").token == fr.Secret("from a file")


# --- what is wrong with them ----------------------------------------------------------------------

HOST = '[settings.database]\nhost = "h"\n'


@pytest.mark.parametrize(
    ("text", "message", "cause", "hint"),
    [
        (
            f'{HOST}port = "x"',
            "the setting 'database.port' does not fit ([settings] of 'shop.toml')",
            "Expected `int`, got `str`",
            "",
        ),
        (
            f'{HOST}[profiles.dev.settings.database]\nport = "x"',
            "the setting 'database.port' does not fit ([profiles.dev.settings] of 'shop.toml')",
            "Expected `int`, got `str`",
            "",
        ),
        (
            f'[settings]\nlevel = "lwo"\n{HOST}',
            "the setting 'level' does not fit ([settings] of 'shop.toml')",
            "Invalid enum value 'lwo'",
            "",
        ),
        (
            f'[settings]\nnames = ["a", 3]\n{HOST}',
            "the setting 'names[1]' does not fit ([settings] of 'shop.toml')",
            "Expected `str`, got `int`",
            "",
        ),
        (
            "[settings.database]\nport = 1",
            "the setting 'database.host' is missing",
            "",
            "write it below [settings] of 'shop.toml' or set SHOP_DATABASE__HOST",
        ),
        (
            f"{HOST}prot = 1",
            "[settings] of 'shop.toml' has 'database.prot', which is no setting",
            "",
            "did you mean 'port'?",
        ),
        (f"[setings]\n{HOST}", "'shop.toml' has 'setings'", "", "did you mean 'settings'?"),
        (
            f"{HOST}[profiles.dev]\nseting = 1",
            "[profiles.dev] of 'shop.toml' has 'seting'",
            "",
            "did you mean 'settings'?",
        ),
        (f"{HOST}[profiles]\ndev = 1", "'dev' in 'shop.toml' is no table", "", "write [dev]"),
        ("[settings", "'shop.toml' is no TOML", "Expected ']'", ""),
        (
            f'[settings]\ntoken = "open sesame"\n{HOST}',
            "the setting 'token' does not fit ([settings] of 'shop.toml')",
            'Expected "env:NAME" or "file:/path": who reads the file would read the secret',
            "",
        ),
        (
            f'[settings]\ntoken = "env:NOBODY"\n{HOST}',
            "the setting 'token' does not fit ([settings] of 'shop.toml')",
            "Expected a secret in the environment variable NOBODY, which is not set",
            "",
        ),
        (
            f'[settings]\ntoken = "file:nothing"\n{HOST}',
            "the setting 'token' does not fit ([settings] of 'shop.toml')",
            "Expected a secret in the file 'nothing': No such file or directory",
            "",
        ),
        (
            f'[settings]\ntoken = "file:empty"\n{HOST}',
            "the setting 'token' does not fit ([settings] of 'shop.toml')",
            "Expected a secret in the file 'empty', which is empty",
            "",
        ),
    ],
)
def test_what_does_not_fit_is_named_by_file_and_setting(
    text: str, message: str, cause: str, hint: str
) -> None:
    Path("empty").write_text("\n")
    with pytest.raises(DefinitionError) as caught:
        read(text, prefix="SHOP_")
    said = caught.value
    assert said.message.startswith(message)
    assert (said.cause or "").startswith(cause)
    assert bool(said.cause) == bool(cause)
    assert (said.hint or "") == hint
    assert "open sesame" not in str(said)


@pytest.mark.parametrize(
    ("variable", "value", "message", "cause", "hint"),
    [
        (
            "SHOP_DATABASE__PORT",
            "x",
            "the setting 'database.port' does not fit (the environment variable"
            " SHOP_DATABASE__PORT)",
            "Expected `int`, got `str`",
            "",
        ),
        (
            "SHOP_DATABSE__PORT",
            "1",
            "the environment variable SHOP_DATABSE__PORT sets nothing",
            "",
            "did you mean 'SHOP_DATABASE__PORT'?",
        ),
        (
            "SHOP_NAMES",
            "a,b",
            "the environment variable SHOP_NAMES is no JSON",
            "JSON is malformed",
            '["a", "b"]',
        ),
        (
            "SHOP_TOKEN",
            "env:NOBODY",
            "the secret that the environment variable SHOP_TOKEN names cannot be had",
            "Expected a secret in the environment variable NOBODY, which is not set",
            "",
        ),
    ],
)
def test_what_does_not_fit_is_named_by_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str, cause: str, hint: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(DefinitionError) as caught:
        read(prefix="SHOP_")
    said = caught.value
    assert said.message == message
    assert (said.cause or "").startswith(cause)
    assert (said.hint or "") == hint


def test_settings_are_a_struct_in_a_file_that_is_there() -> None:
    with pytest.raises(DefinitionError, match="is no msgspec"):
        fr.settings(dict)  # type: ignore[type-var]  # that is it
    with pytest.raises(DefinitionError, match=r"settings in 'nothing\.toml' cannot be read"):
        fr.settings(Settings, file="nothing.toml")


# --- with a project -------------------------------------------------------------------------------

RAW = fr.source("raw")


def test_settings_and_profiles_of_a_project_are_those_of_one_profile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prod, dev = fr.Profile(slots=1), fr.Profile(slots=2)
    with pytest.raises(DefinitionError, match=r"profile 'prod', its first.*those of 'dev'"):
        fr.Project([RAW], settings=read(), profiles={"prod": prod, "dev": dev})
    project = fr.Project([RAW], settings=read(), profiles={"dev": dev, "prod": prod})
    assert (project.profile, project.slots) == ("dev", 2)
    monkeypatch.setenv("FRESHET_PROFILE", "prod")
    project = fr.Project([RAW], settings=read(), profiles={"prod": prod, "dev": dev})
    assert (project.profile, project.slots) == ("prod", 1)


def test_profiles_may_be_of_the_file_alone() -> None:
    project = fr.Project([RAW], settings=read())
    assert project.profile == "dev"


def test_a_profile_that_is_not_there_is_a_wrong_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_PROFILE", "prd")
    with pytest.raises(RequestError, match="there is no profile 'prd'") as caught:
        fr.Project([RAW], profiles={"dev": fr.Profile(), "prod": fr.Profile()})
    assert (caught.value.cause, caught.value.hint) == (
        "the project has dev, prod",
        "did you mean 'prod'?",
    )


def test_what_a_profile_cannot_be_is_said_at_load() -> None:
    with pytest.raises(DefinitionError, match="is no profile"):
        fr.Project([RAW], profiles={"dev": {"slots": 1}})  # type: ignore[dict-item]  # that is it


def test_a_resource_that_a_profile_lacks_is_said_at_load() -> None:
    @fr.asset
    def rows(raw: str, warehouse: int) -> int:
        return warehouse

    profiles = {"dev": fr.Profile(), "prod": fr.Profile(resources={"warehouse": 2})}
    with pytest.raises(DefinitionError, match="'warehouse', which profile 'dev' does not have"):
        fr.Project([RAW, rows], profiles=profiles)
    both = fr.Project([RAW, rows], profiles=profiles, resources={"warehouse": 1})
    assert both.resources["warehouse"].value == 1


def test_another_limit_of_a_pool_is_another_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    @fr.asset(pools="db")
    def rows(raw: str) -> int:
        return 1

    profiles = {"dev": fr.Profile(), "prod": fr.Profile(pools={"db": 4})}
    dev = fr.Project([RAW, rows], pools={"db": 1}, profiles=profiles)
    monkeypatch.setenv("FRESHET_PROFILE", "prod")
    prod = fr.Project([RAW, rows], pools={"db": 1}, profiles=profiles)
    assert [one.graph.specs["rows"].pools[0].limit for one in (dev, prod)] == [1, 4]
    assert dev.graph.digest != prod.graph.digest


def test_a_profile_replaces_what_it_names_and_the_graph_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @fr.asset
    def rows(raw: str, warehouse: int, clock: int, settings: Database) -> int:
        return warehouse

    def made() -> fr.Project:
        dev = fr.Profile(store=fr.LocalStore("dev"), settings=Database("dev"))
        prod = fr.Profile(
            store=fr.LocalStore("prod"),
            resources={"warehouse": 2},
            settings=Database("prod"),
            sensors=[fr.files("prod.txt", source=RAW)],
            slots=3,
            pools={"db": 2},
        )
        return fr.Project(
            [RAW, rows],
            resources={"warehouse": 1, "clock": 0},
            profiles={"dev": dev, "prod": prod},
            sensors=[fr.files("dev.txt", source=RAW)],
        )

    def shown(project: fr.Project) -> dict[str, object]:
        return {name: one.value for name, one in project.resources.items()}

    dev = made()
    monkeypatch.setenv("FRESHET_PROFILE", "prod")
    prod = made()
    assert dev.graph.digest == prod.graph.digest
    assert shown(dev) == {"warehouse": 1, "clock": 0, "settings": Database("dev")}
    assert shown(prod) == {"warehouse": 2, "clock": 0, "settings": Database("prod")}
    assert dev.store is not prod.store
    assert (dev.profile, dev.slots, prod.profile, prod.slots) == ("dev", 8, "prod", 3)
    assert dev.sensors[0].name != prod.sensors[0].name
