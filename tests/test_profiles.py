"""Profiles and secrets through the command line: the same module in two worlds, and what a secret
leaves behind: nothing.
"""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

import freshet as fr
from freshet.engine.keys import AssetPartition
from freshet.engine.stores.store import Store
from tests.test_cli import Place

PROJECT = """
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

import freshet as fr


class Settings(msgspec.Struct):
    greeting: str


settings = fr.settings(Settings, file="shop.toml", prefix="SHOP_")
raw = fr.source("raw")


@contextmanager
def open_greeter(settings: Settings) -> Iterator[str]:
    print("greeter opened", file=sys.stderr)
    yield settings.greeting
    print("greeter closed", file=sys.stderr)


@fr.asset
def hello(raw: str, greeter: str) -> str:
    return f"{greeter} {raw}"


project = fr.Project(
    [raw, hello],
    sensors=[fr.files("raw.txt", source=raw, settle=0)],
    resources={"greeter": open_greeter},
    settings=settings,
    profiles={
        "dev": fr.Profile(store=fr.LocalStore("data-dev")),
        "prod": fr.Profile(store=fr.LocalStore("data-prod")),
    },
)
"""

SETTINGS = """
[settings]
greeting = "hello"

[profiles.dev.settings]

[profiles.prod.settings]
greeting = "good day"
"""


class World(Place):
    """A project folder, with commands under an environment of its own."""

    def __init__(self, folder: Path, project: str, **variables: str) -> None:
        super().__init__(folder)
        (folder / "project.py").write_text(project)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FRESHET_", "SHOP_"))}
        self.variables = self.environment = {**kept, **variables}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, PROJECT)
    (tmp_path / "shop.toml").write_text(SETTINGS)
    (tmp_path / "raw.txt").write_text("you")
    yield made
    made.kill()


def values_in(folder: Path) -> set[str]:
    return {p.read_text() for p in folder.rglob("*.txt") if p.is_file()}


def test_the_same_module_under_two_profiles_writes_to_two_stores_and_the_graph_is_equal(
    world: World,
) -> None:
    """Row A3."""
    digests = {}
    for profile, store, text in (("", "dev", "hello you"), ("prod", "prod", "good day you")):
        given = ["--profile", profile] if profile else []
        checked = world.freshet("check", "project.py", *given)
        assert f", profile {store})" in checked.stdout, checked.stderr
        digests[store] = checked.stdout.partition("digest ")[2].partition(",")[0]
        folder = world.folder / f".freshet-{store}"
        world.variables["FRESHET_STATE"] = str(folder)
        link = world.folder / ".freshet"  # where `wait_for` looks
        link.unlink(missing_ok=True)
        link.symlink_to(folder, target_is_directory=True)
        world.start(*given)
        world.wait_for("Materialized", "hello")
        report = json.loads(world.freshet("status", "--json").stdout)
        assert report["profile"] == store
        assert f", profile {store}" in world.freshet("status").stderr
        _, err = world.stop()
        assert [line for line in err.splitlines() if line.startswith("greeter")] == [
            "greeter opened",
            "greeter closed",
        ]
        assert values_in(world.folder / f"data-{store}") == {text}
        events = world.freshet("events", "--json").stdout.splitlines()
        started = [e for e in map(json.loads, events) if e["event"]["type"] == "EngineStarted"]
        assert [one["event"]["profile"] for one in started] == [store]
    assert digests["dev"] == digests["prod"] != ""
    assert values_in(world.folder / "data-dev") == {"hello you"}


def test_a_named_store_is_that_of_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of stores that assets name a profile replaces those it names; the graph stays equal."""

    @fr.asset(store="warehouse")
    def sold() -> int:
        return 1

    stores: dict[str, Store] = {name: fr.MemoryStore() for name in ("ours", "theirs", "archive")}

    def project() -> fr.Project:
        return fr.Project(
            [sold],
            stores={"warehouse": stores["ours"], "archive": stores["archive"]},
            profiles={
                "dev": fr.Profile(),
                "prod": fr.Profile(stores={"warehouse": stores["theirs"]}),
            },
        )

    digests = set()
    for profile, name in (("dev", "ours"), ("prod", "theirs")):
        monkeypatch.setenv("FRESHET_PROFILE", profile)
        made = project()
        digests.add(made.graph.digest)
        target = AssetPartition("sold")
        staged = made.store.stage(target, 1, 7)
        made.store.publish(staged)
        assert stores[name].has(target, staged.data_version)
    assert len(digests) == 1
    assert not stores["archive"].has(AssetPartition("sold"), staged.data_version)


def test_a_state_folder_is_that_of_one_profile(world: World) -> None:
    world.start("--profile", "dev")
    world.wait_for("Materialized", "hello")
    world.stop()
    for command in (["run", "project.py"], ["check-data", "project.py"]):
        refused = world.freshet(*command, "--profile", "prod")
        assert refused.returncode == 2
        assert "this state folder is that of profile 'dev', not of 'prod'" in refused.stderr
        assert "hint: --profile dev, or a folder of its own: --state .freshet-prod" in (
            refused.stderr
        )
    renamed = PROJECT.replace('"dev": fr', '"devel": fr')
    (world.folder / "project.py").write_text(renamed)
    text = (world.folder / "shop.toml").read_text().replace("profiles.dev", "profiles.devel")
    (world.folder / "shop.toml").write_text(text)
    world.start()  # one that is called otherwise now goes on
    world.wait_for("EngineStarted", "", 2)
    world.stop()


def test_a_profile_that_is_not_there_is_refused(world: World) -> None:
    refused = world.freshet("check", "project.py", "--profile", "prd")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "error: there is no profile 'prd'\n"
        "cause: the project has dev, prod\n"
        "hint: did you mean 'prod'?\n"
    )
    world.variables["FRESHET_PROFILE"] = "prd"
    assert world.freshet("check", "project.py").returncode == 2
    plain = "import freshet as fr\n\nproject = fr.Project([fr.source('raw')])\n"
    (world.folder / "plain.py").write_text(plain)
    refused = world.freshet("check", "plain.py")
    assert "cause: the project has no profiles\n" in refused.stderr


# --- a canary -------------------------------------------------------------------------------------

CANARY = "tweet/4f9b-Ünique=71"

LEAKY = """
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import msgspec

import freshet as fr


class Settings(msgspec.Struct):
    password: fr.Secret


settings = fr.settings(Settings, file="shop.toml")
raw = fr.source("raw")
other = fr.source("other")


@asynccontextmanager
async def open_warehouse(settings: Settings) -> AsyncIterator[fr.Secret]:
    print("opening with", settings.password.reveal())
    yield settings.password
    raise RuntimeError(f"closing with {settings.password.reveal()}")


@asynccontextmanager
async def open_locked(settings: Settings) -> AsyncIterator[None]:
    raise ConnectionError(f"no entry for {settings.password.reveal()}")
    yield


@fr.asset
def shouts(raw: str, warehouse: fr.Secret) -> int:
    password = warehouse.reveal()
    print("printed", password)
    sys.stderr.write(f"written {password}\\n")
    logging.getLogger("theirs").error("logged %s", password)
    raise ValueError("x" * 290 + password)


@fr.asset
async def waits(raw: str, locked: object) -> int:
    return 1


@fr.asset
def tells(raw: str, warehouse: fr.Secret) -> fr.Output:
    password = warehouse.reveal()
    return fr.Output(1, metadata={"url": f"pg://me:{quote(password, safe='')}@here", "p": password})


@fr.check(tells)
def says(value: int, warehouse: fr.Secret) -> fr.CheckResult:
    return fr.CheckResult(False, {"seen": warehouse.reveal()}, f"not {warehouse.reveal()}")


@fr.asset
def after(tells: int, shouts: int) -> int:
    return tells


@fr.poll(source=other, every="1h")
def looks() -> str:
    raise OSError(f"cannot reach pg://{settings.password.reveal()}@here")


project = fr.Project(
    [raw, other, shouts, waits, tells, after],
    checks=[says],
    sensors=[fr.files("raw.txt", source=raw, settle=0), looks],
    resources={"warehouse": open_warehouse, "locked": open_locked},
    settings=settings,
)
"""

READS = (
    ("status",),
    ("status", "--json"),
    ("status", "tells", "--json"),
    ("why", "shouts"),
    ("why", "after", "--json"),
    ("why", "tells", "--json"),
    ("history", "tells", "--json"),
    ("provenance", "tells", "--json"),
    ("checks", "--history", "--json"),
    ("checks",),
    ("sensors", "--json"),
    ("events", "--json"),
    ("events",),
    ("graph", "--json"),
    ("plan", "--json"),
    ("audit", "--json"),
    ("check", "project.py"),
)


def test_a_canary_in_a_resource_is_seen_nowhere(tmp_path: Path) -> None:
    """Row B6.2: not in any file of the state folder, log line, or answer of a command."""
    world = World(tmp_path, LEAKY, WAREHOUSE_PASSWORD=CANARY)
    (tmp_path / "shop.toml").write_text('[settings]\npassword = "env:WAREHOUSE_PASSWORD"\n')
    (tmp_path / "raw.txt").write_text("you")
    said: dict[str, str] = {}
    try:
        world.start()
        world.wait_for("Materialized", "tells")
        world.wait_for("SensorFailed", "")
        world.wait_for("RunFailed", "", 2)
        kept = {str(p): p.read_bytes() for p in (tmp_path / ".freshet").rglob("*") if p.is_file()}
        assert any(name.endswith("-wal") for name in kept)
        for arguments in READS:
            done = world.freshet(*arguments)
            said[" ".join(arguments)] = done.stdout + done.stderr
            assert done.returncode == 0, said
        looked = world.freshet("check-data", "project.py")
        said["check-data"] = looked.stdout + looked.stderr
        out, err = world.stop()
    finally:
        world.kill()
    said |= {"stdout": out, "stderr": err}
    kept |= {str(p): p.read_bytes() for p in (tmp_path / ".freshet").rglob("*") if p.is_file()}
    texts = {**{name: text.encode() for name, text in said.items()}, **kept}
    forms = {CANARY, quote(CANARY), quote(CANARY, safe=""), json.dumps(CANARY)[1:-1]}
    forms |= {base64.b64encode(CANARY.encode()).decode().rstrip("="), CANARY[:8], CANARY[-8:]}
    hits = [(name, form) for name, text in texts.items() for form in forms if form.encode() in text]
    assert hits == []
    # It was said everywhere, and three stars stand in its place.
    expected = ("opening with ***", "printed ***", "written ***", "logged ***", "closing with ***")
    assert [one for one in expected if one not in err] == []
    events = said["events --json"]
    wanted = ("no entry for ***", "pg://me:***@here", "not ***", "cannot reach pg://***@here")
    assert [one for one in wanted if one not in events] == []


def test_a_canary_in_a_broken_module_is_not_printed(tmp_path: Path) -> None:
    text = LEAKY + '\nraise ValueError(f"no {settings.password.reveal()}")\n'
    world = World(tmp_path, text, WAREHOUSE_PASSWORD=CANARY)
    (tmp_path / "shop.toml").write_text('[settings]\npassword = "env:WAREHOUSE_PASSWORD"\n')
    for command in ("check", "run"):
        done = world.freshet(command, "project.py")
        assert done.returncode == 1
        assert "ValueError: no ***" in done.stderr
        assert CANARY not in done.stdout + done.stderr
