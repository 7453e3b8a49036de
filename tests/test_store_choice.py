"""Which store has the values of an asset, and that every kind of artifact works with the engine."""

import pickle
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

import freshet as fr
from freshet.engine.errors import DefinitionError
from freshet.engine.keys import AssetPartition
from freshet.engine.stores.router import Router
from freshet.engine.stores.store import Store
from tests.engine import engine

pytestmark = pytest.mark.anyio

RAW = fr.source("raw")


def declared(name: str = "") -> fr.Asset:
    @fr.asset(key="made", store=name, code_version="1")
    def made(raw: str) -> str:
        return f"made of {raw}"

    return made


def test_an_unknown_store_is_refused_with_the_nearest() -> None:
    """When the project is made, with asset and file."""
    with pytest.raises(DefinitionError, match=r"'made' names the store 'warehose'") as failed:
        fr.Project([RAW, declared("warehose")], stores={"warehouse": fr.MemoryStore()})
    assert "test_store_choice.py" in failed.value.message
    assert failed.value.hint == "did you mean 'warehouse'?"
    with pytest.raises(DefinitionError, match="has none"):
        fr.Project([RAW, declared("warehouse")])
    with pytest.raises(DefinitionError, match="is no name"):
        declared(fr.MemoryStore())  # type: ignore[arg-type]  # what a person may try


def test_profiles_with_other_stores_of_the_same_names_are_the_same_graph(tmp_path: Path) -> None:
    """The name is part of the definition, the store is not; an asset that names none is as ever."""
    in_memory = fr.Project([RAW, declared("w")], stores={"w": fr.MemoryStore()})
    on_disk = fr.Project([RAW, declared("w")], stores={"w": fr.SqliteStore(tmp_path / "x.db")})
    assert in_memory.graph.digest == on_disk.graph.digest
    assert in_memory.graph.specs["made"].code_version == "1@w"
    plain = fr.Project([RAW, declared()])
    assert plain.graph.specs["made"].code_version == "1"
    assert list(tmp_path.iterdir()) == []


async def test_values_go_to_the_store_an_asset_names_and_are_built_anew_where_it_moves() -> None:
    """Consumers load them from there, whichever store they have themselves."""
    default, other = fr.MemoryStore(), fr.MemoryStore()
    target = AssetPartition("made")

    @fr.asset
    def below(made: str) -> str:
        return f"below {made}"

    def routed(name: str) -> Router:
        return Router(default, {"w": other}, {"made": name} if name else {})

    async with engine(RAW, declared(), below, store=routed("")) as e:
        await e.change("raw", "1")
        await e.quiet()
        assert (len(default.versions(target)), len(other.versions(target))) == (1, 0)
        head = e.stream.head
        e.store = routed("w")
        await e.redeploy(RAW, declared("w"), below)
        await e.quiet()
        assert await e.runs(head) == ["made"]  # to the same content: nothing follows
        assert len(other.versions(target)) == 1
        await e.change("raw", "2")
        await e.quiet()
        version = await e.version("below")
        assert version is not None
        found = default.load(AssetPartition("below"), version.data_version, str)
        assert found == "below made of 2"
        assert (len(default.versions(target)), len(other.versions(target))) == (1, 2)


def test_a_router_is_in_memory_only_if_all_its_stores_are(tmp_path: Path) -> None:
    memory, files = fr.MemoryStore(), fr.LocalStore(tmp_path)
    assert Router(memory, {"m": fr.MemoryStore()}, {}).in_memory
    assert not Router(memory, {"f": files}, {}).in_memory
    assert not Router(files, {"m": memory}, {}).in_memory


# --- every kind of artifact (L4) ------------------------------------------------------------------


class Model:
    """A trained model: of a class that no format knows."""

    def __init__(self, weights: list[float]) -> None:
        self.weights = weights


def model_file(raw: str, folder: Path) -> Path:
    path = folder / "trained.npz"
    path.write_bytes(f"weights of {raw}".encode())
    return path


KINDS: dict[str, tuple[Callable[[Path], Store], Callable[[str, Path], Any], Any, Any]] = {
    # the store, what is made of a source's version, how it is loaded, what is then seen of it
    "file": (
        lambda folder: fr.LocalStore(folder / "data"),
        model_file,
        Path,
        lambda path: path.read_text(),
    ),
    "table": (
        lambda folder: fr.SqliteStore(folder / "data.db"),
        lambda raw, _: pl.DataFrame({"raw": [raw]}),
        pl.DataFrame,
        lambda frame: f"weights of {frame['raw'][0]}",
    ),
    "pickle": (
        lambda folder: fr.LocalStore(folder / "data", fallback="pickle"),
        lambda raw, _: Model([float(raw)]),
        Model,
        lambda model: f"weights of {model.weights[0]:g}",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_artifact_of_any_kind_is_built_used_and_rolled_back(
    kind: str, tmp_path: Path
) -> None:  # L4
    """A file, a table in SQLite, a pickled model: built once for each version of its input, cut off
    when it is equal, loaded by its consumer, kept and restored.
    """
    opened, make, wanted, seen = KINDS[kind]
    read: list[str] = []

    def model(raw: str):  # type: ignore[no-untyped-def]  # of another type each time
        return make(raw.strip(), tmp_path)

    def used(model):  # type: ignore[no-untyped-def]
        read.append(seen(model))
        return read[-1]

    model.__annotations__["return"] = wanted
    used.__annotations__ = {"model": wanted, "return": str}
    assets = (fr.asset(kinds=[kind])(model), fr.asset(used))
    store = opened(tmp_path)
    async with engine(RAW, *assets, store=store) as e:
        for raw in ("1", "2", "2 "):
            await e.change("raw", raw)
            await e.quiet()
        assert await e.runs() == ["model", "used", "model", "used", "model"]
        assert read == ["weights of 1", "weights of 2"]
        target = AssetPartition("model")
        new, old = store.versions(target)
        assert (new.current, old.current) == (True, False)
        store.restore(target, old.data_version)
        assert seen(store.load(target, old.data_version, wanted)) == "weights of 1"
        assert store.versions(target)[0].data_version == old.data_version
    if kind == "pickle":
        (path,) = (tmp_path / "data").glob("model.*")
        assert pickle.loads(path.read_bytes()).weights == [1.0]
    if kind == "table":
        with closing(sqlite3.connect(tmp_path / "data.db")) as looking:
            query = "SELECT rows FROM current_values WHERE asset = 'model'"
            assert looking.execute(query).fetchall() == [(1,)]


class Facts(msgspec.Struct):
    """What a person wants to tell of a value."""

    rows: int
    share: float


class Matrix:
    def __init__(self, cells: list[int]) -> None:
        self.cells = cells


async def test_own_metadata_and_an_own_format_round_trip_through_the_stream() -> None:  # B7.3
    """A Struct as metadata is in the history, field by field; a value of an own type reaches its
    consumer through its own format.
    """
    form = fr.Format(Matrix, ".matrix", lambda m: bytes(m.cells), lambda data: Matrix(list(data)))

    @fr.asset
    def matrix(raw: str) -> fr.Output:
        facts = Facts(2, 0.5)
        return fr.Output(Matrix([1, int(raw)]), metadata=msgspec.structs.asdict(facts))

    @fr.asset
    def total(matrix: Matrix) -> int:
        return sum(matrix.cells)

    store = fr.MemoryStore(formats=[form])
    async with engine(RAW, matrix, total, store=store) as e:
        await e.change("raw", "41")
        await e.quiet()
        version = await e.version("matrix")
        assert version is not None
        assert msgspec.convert(version.metadata, Facts) == Facts(2, 0.5)
        assert version.metadata["bytes"] == 2
        made = await e.version("total")
        assert made is not None
        assert store.load(AssetPartition("total"), made.data_version, int) == 42


def test_what_is_staged_in_any_of_several_stores_is_told(tmp_path: Path) -> None:
    """Each run once, in order; also of a store that no asset names any more."""
    default, other = fr.MemoryStore(), fr.LocalStore(tmp_path)
    target = AssetPartition("made")
    for store, run in ((default, 3), (default, 1), (other, 3), (other, 2)):
        store.stage(target, run, "x")
    assert Router(default, {"w": other}, {}).staged_runs() == [1, 2, 3]
