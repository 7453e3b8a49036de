"""Which files a sensor takes, and when: several roots, wildcards, folders, markers, names passed
over.
"""

import os
from contextlib import aclosing
from pathlib import Path

import pytest

import freshet as fr
from freshet.engine.digests import digest
from freshet.engine.errors import DefinitionError, StoreError
from freshet.engine.events import SourceChanged
from freshet.engine.stores.landing import Landed, load_landed, seen_of, still_the_same
from freshet.sensors.files import FilesSensor
from freshet.sensors.landing.look import Digests, Manner, look_into
from freshet.sensors.landing.mounts import kind_of, parse_mounts
from freshet.sensors.landing.rules import Rules
from freshet.sensors.sensor import Settlement
from tests.reading import Reader, version

pytestmark = pytest.mark.anyio

flights = fr.source("flights", partitions=fr.daily("2024-01-01", opens="data"))
airlines = fr.source("airlines")
many = fr.source("many", partitions=fr.dynamic())


def folders(root: Path, **options: object) -> FilesSensor:
    """Each folder a day; it counts after little quiet, to make the tests quick."""
    options = {"reconcile": "1h", "settle": "10ms", **options}
    return fr.files(f"{root}/{{partition}}/", source=flights, **options)  # type: ignore[arg-type]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def folder_version(**files: str) -> str:
    """Of a folder with these files, `a__b` for `a/b`."""
    named = sorted((name.replace("__", "/"), version(text)) for name, text in files.items())
    return digest(f"{name}\0{text}\0".encode() for name, text in named)


# --- several patterns -----------------------------------------------------------------------------


async def test_one_sensor_watches_several_roots_for_several_sources(tmp_path: Path) -> None:
    """A mapping of patterns to sources: each file is a change of its own, known by its path; one
    that matches two patterns belongs to the first.
    """
    reader = Reader(
        fr.files(
            {
                f"{tmp_path}/landing/flights/{{partition}}.csv": flights,
                f"{tmp_path}/landing/airlines.csv": airlines,
                f"{tmp_path}/landing/*/{{partition}}.csv": many,
            },
            reconcile="1h",
        )
    )
    days = tmp_path / "landing" / "flights"
    days.mkdir(parents=True)
    async with aclosing(reader._batches):
        await reader.beat()
        write(days / "2024-01-01.csv", "x")
        write(tmp_path / "landing" / "airlines.csv", "AA")
        write(tmp_path / "landing" / "other" / "k.csv", "o")
        found = {(c.asset, c.partition): c.data_version for c in await reader.changes(3)}
    assert found == {
        ("flights", "2024-01-01"): version("x"),
        ("airlines", ""): version("AA"),
        ("many", "k"): version("o"),
    }
    assert sorted(reader.files) == [
        f"{tmp_path}/landing/{name}"
        for name in ("airlines.csv", "flights/2024-01-01.csv", "other/k.csv")
    ]


async def test_a_restart_goes_on_where_several_patterns_were(tmp_path: Path) -> None:
    """Nothing is told twice, and what is gone is withdrawn from its own source."""
    write(tmp_path / "a" / "2024-01-01.csv", "x")
    write(tmp_path / "b" / "2024-01-02.csv", "y")
    both = fr.files([f"{tmp_path}/{n}/{{partition}}.csv" for n in "ab"], source=flights)
    first = Reader(both)
    await first.changes(2)
    await first.stop()
    (tmp_path / "b" / "2024-01-02.csv").unlink()
    second = Reader(both, first.cursor)
    async with aclosing(second._batches):
        (gone,) = await second.changes(1)
    assert (gone.partition, gone.data_version) == ("2024-01-02", "")


async def test_the_first_by_path_of_two_for_one_partition_counts(tmp_path: Path) -> None:
    """The other is named with both paths, and counts once the first is gone; nothing is withdrawn
    in between. Which came first does not matter.
    """
    (tmp_path / "a").mkdir()
    write(tmp_path / "b" / "2024-01-01.csv", "of b")
    patterns = [f"{tmp_path}/{name}/{{partition}}.csv" for name in "ab"]
    first, second = f"{tmp_path}/a/2024-01-01.csv", f"{tmp_path}/b/2024-01-01.csv"
    reader = Reader(fr.files(patterns, source=flights, reconcile="1h"))
    async with aclosing(reader._batches):
        await reader.until(lambda: {"2024-01-01": "of b"})
        write(Path(first), "of a")
        await reader.until(lambda: {"2024-01-01": "of a"})
        await reader.told(bool)
        assert reader.rejected == {
            second: f"'{second}' would be partition '2024-01-01' of 'flights', as '{first}' is"
        }
        write(Path(second), "of b, again")
        os.unlink(first)
        await reader.until(lambda: {"2024-01-01": "of b, again"})
    assert reader.rejected == {}
    assert [c.data_version for c in reader.seen] == [
        version(text) for text in ("of b", "of a", "of b, again")
    ]
    assert reader.seen[-1].metadata["path"] == second


async def test_an_heir_is_remembered_across_a_restart(tmp_path: Path) -> None:
    """Both files lay there before; the holder goes while nobody watches."""
    for name in "ab":
        write(tmp_path / name / "2024-01-01.csv", name)
    wild = fr.files(f"{tmp_path}/*/{{partition}}.csv", source=flights)
    first = Reader(wild)
    async with aclosing(first._batches):
        await first.beat()
    assert (first.current, list(first.rejected)) == (
        {"2024-01-01": version("a")},
        ["b/2024-01-01.csv"],
    )
    (tmp_path / "a" / "2024-01-01.csv").unlink()
    second = Reader(wild, first.cursor)
    second.rejected = dict(first.rejected)
    async with aclosing(second._batches):
        (change,) = await second.changes(1)
        assert change.data_version == version("b")
        await second.beat()
    assert (second.rejected, sorted(second.files)) == ({}, ["b/2024-01-01.csv"])


async def test_files_may_lie_at_any_depth(tmp_path: Path) -> None:
    """`**` stands for any folders, none included; `*` for part of a name."""
    reader = Reader(
        fr.files(f"{tmp_path}/in/**/{{partition}}-v*.csv", source=flights, reconcile="1h")
    )
    (tmp_path / "in").mkdir()
    async with aclosing(reader._batches):
        await reader.beat()
        write(tmp_path / "in" / "2024-01-01-v1.csv", "1")
        await reader.until(lambda: {"2024-01-01": "1"})
        write(tmp_path / "in" / "a" / "b" / "c" / "2024-01-02-v.csv", "2")
        await reader.until(lambda: {"2024-01-01": "1", "2024-01-02": "2"})
        write(tmp_path / "in" / "a" / "2024-01-03.csv", "no")
        write(tmp_path / "in" / "a" / "b" / "2024-01-04-v4.csv", "4")
        await reader.until(lambda: {"2024-01-01": "1", "2024-01-02": "2", "2024-01-04": "4"})


# --- folders --------------------------------------------------------------------------------------


async def test_a_folder_is_a_partition(tmp_path: Path) -> None:
    """Its version is that of all files in it; each change of one is a change of it; without files
    it is gone.
    """
    day = tmp_path / "2024-01-05"
    reader = Reader(folders(tmp_path))
    async with aclosing(reader._batches):
        await reader.beat()
        write(day / "one", "1")
        write(day / "deep" / "two", "22")
        expected = folder_version(one="1", deep__two="22")
        while reader.current != {"2024-01-05": expected}:
            await reader.batch()
        assert reader.seen[-1].metadata == {
            "path": str(day),
            "size": 3,
            "mtime_ns": max((day / name).stat().st_mtime_ns for name in ("one", "deep/two")),
            "ignored": ".*/*~/*.tmp/*.part/*.partial/*.crdownload/*.swp/*.swx/4913",
        }
        write(day / "deep" / "two", "new")
        while reader.current != {"2024-01-05": folder_version(one="1", deep__two="new")}:
            await reader.batch()
        (day / "one").unlink()
        while reader.current != {"2024-01-05": folder_version(deep__two="new")}:
            await reader.batch()
        (day / "deep" / "two").unlink()
        await reader.until(dict)
    assert reader.files == {}


async def test_a_folder_counts_once_all_its_files_are_finished(tmp_path: Path) -> None:
    """While one of them is open for writing nothing is reported."""
    reader = Reader(folders(tmp_path))
    async with aclosing(reader._batches):
        write(tmp_path / "2024-01-01" / "one", "1")
        with (tmp_path / "2024-01-01" / "two").open("w") as file:
            file.write("half")
            write(tmp_path / "2024-01-02" / "one", "beside")
            (beside,) = await reader.changes(1)
            assert beside.partition == "2024-01-02"
        (whole,) = await reader.changes(1)
    assert whole.data_version == folder_version(one="1", two="half")


async def test_a_folder_moved_in_whole_and_out_again_is_one_change_each(tmp_path: Path) -> None:
    """The system tells only of the folder."""
    write(tmp_path / "ready" / "one", "1")
    root = tmp_path / "in"
    root.mkdir()
    reader = Reader(folders(root))
    async with aclosing(reader._batches):
        await reader.beat()
        (tmp_path / "ready").rename(root / "2024-01-01")
        (came,) = await reader.changes(1)
        (root / "2024-01-01").rename(tmp_path / "away")
        (went,) = await reader.changes(1)
    assert (came.data_version, went.data_version) == (folder_version(one="1"), "")


async def test_what_is_known_of_a_folder_is_not_read_again(tmp_path: Path) -> None:
    """After a restart an unchanged folder is believed; while it runs, each unchanged file is."""
    write(tmp_path / "2024-01-01" / "one", "1")
    first = Reader(folders(tmp_path))
    await first.changes(1)
    await first.stop()
    known = first.files["2024-01-01/"].rpartition(":")[0] + ":" + version("made up")
    second = Reader(folders(tmp_path), {**first.cursor, "2024-01-01/": known})
    async with aclosing(second._batches):
        await second.beat()
    assert second.seen == []
    digests = Digests()
    path = f"{tmp_path}/2024-01-01/"
    rules = Rules((), "")
    manner = Manner(settle_s=0, must_settle=False, trusts_leases=True, by_stat=False)
    file = os.stat(path + "one")
    seen = seen_of(file)
    digests.put(path + "one", seen, version("made up"))
    found = look_into(path, rules, manner, digests)
    assert found.version == digest([b"one\0" + version("made up").encode() + b"\0"])


async def test_a_folder_of_another_name_is_rejected(tmp_path: Path) -> None:
    """As a file would be; a file where folders are partitions is none of ours."""
    write(tmp_path / "not-a-day" / "one", "1")
    write(tmp_path / "2024-01-01", "a file")
    reader = Reader(folders(tmp_path))
    async with aclosing(reader._batches):
        await reader.beat()
    assert reader.seen == []
    assert list(reader.rejected) == ["not-a-day/"]


def landed(change: SourceChanged) -> tuple[Path, Landed]:
    """What the engine makes of a change when an asset reads it."""
    data = change.metadata
    path, size, mtime_ns = data["path"], data["size"], data["mtime_ns"]
    assert isinstance(path, str)
    assert isinstance(size, int)
    assert isinstance(mtime_ns, int)
    return Path(path), Landed(change.data_version, size, mtime_ns, str(data.get("ignored", "")))


async def test_the_value_of_a_folder_is_its_path(tmp_path: Path) -> None:
    """Only that; it is the recorded version until a file in it that counts changes."""
    day = tmp_path / "2024-01-01"
    write(day / "one", "1")
    write(day / "_SUCCESS", "")
    write(day / ".crc", "ignored")
    reader = Reader(folders(tmp_path, marker="_SUCCESS"))
    async with aclosing(reader._batches):
        (change,) = await reader.changes(1)
    path, expected = landed(change)
    assert load_landed(path, Path, expected) == load_landed(path, None, expected) == day
    with pytest.raises(StoreError, match="is a folder: it cannot be loaded as str"):
        load_landed(path, str, expected)
    assert still_the_same(path, expected)
    write(day / ".crc", "still ignored")
    os.utime(day / "one", (1, 1))
    assert still_the_same(path, expected)
    write(day / "one", "2")
    assert not still_the_same(path, expected)
    os.unlink(day / "one")
    assert not still_the_same(path, expected)


async def test_a_stat_version_is_read_while_it_looks_the_same(tmp_path: Path) -> None:
    """A file of a version by size and time loads in any form until it is touched."""
    write(tmp_path / "2024-01-01.csv", "text")
    by_stat = fr.files(f"{tmp_path}/{{partition}}.csv", source=flights, version="stat")
    reader = Reader(by_stat)
    async with aclosing(reader._batches):
        (change,) = await reader.changes(1)
    path, expected = landed(change)
    assert load_landed(path, str, expected) == "text"
    os.utime(path, (1, 1))
    with pytest.raises(StoreError, match="not the recorded version"):
        load_landed(path, str, expected)


# --- markers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marker", "file"),
    [
        ("_SUCCESS", "_SUCCESS"),
        (".done", "2024-01-01.csv.done"),
        ("{name}.ok", "2024-01-01.csv.ok"),
        ("ready-{name}", "ready-2024-01-01.csv"),
    ],
)
async def test_a_file_counts_once_its_marker_is_there(
    tmp_path: Path, marker: str, file: str
) -> None:
    """In its folder, after its name, or beside it; at once, not at the next scan. The marker itself
    is no file, nor is what is under way behind nothing.
    """
    sensor = fr.files(
        f"{tmp_path}/{{partition}}.csv", source=flights, marker=marker, reconcile="1h"
    )
    write(tmp_path / "2024-01-01.csv", "x")
    reader = Reader(sensor)
    async with aclosing(reader._batches):
        await reader.beat()
        assert (reader.seen, reader.behind) == ([], 1)
        write(tmp_path / file, "")
        await reader.until(lambda: {"2024-01-01": "x"})
    assert reader.rejected == {}


async def test_a_folder_counts_once_its_marker_is_there(tmp_path: Path) -> None:
    """Also an empty one. While it is written anew without the marker, the old version stays."""
    day = tmp_path / "2024-01-01"
    write(day / "part-0", "x")
    reader = Reader(folders(tmp_path, marker="_SUCCESS"))
    async with aclosing(reader._batches):
        await reader.beat()
        assert (reader.seen, reader.behind) == ([], 1)
        write(day / "_SUCCESS", "")
        (first,) = await reader.changes(1)
        assert first.data_version == folder_version(**{"part-0": "x"})
        (day / "_SUCCESS").unlink()
        write(day / "part-1", "y")
        write(tmp_path / "2024-01-02" / "_SUCCESS", "")
        (empty,) = await reader.changes(1)
        assert (empty.partition, empty.data_version) == ("2024-01-02", digest([]))
        write(day / "_SUCCESS", "")
        (second,) = await reader.changes(1)
        assert second.data_version == folder_version(**{"part-0": "x", "part-1": "y"})


async def test_a_marker_beside_a_folder(tmp_path: Path) -> None:
    """With `{name}` it lies beside what it is for, folders too."""
    write(tmp_path / "2024-01-01" / "part-0", "x")
    reader = Reader(folders(tmp_path, marker="{name}.complete"))
    async with aclosing(reader._batches):
        await reader.beat()
        write(tmp_path / "2024-01-01.complete", "")
        (change,) = await reader.changes(1)
    assert change.data_version == folder_version(**{"part-0": "x"})


# --- names passed over ----------------------------------------------------------------------------


async def test_names_are_passed_over_as_told(tmp_path: Path) -> None:
    """By default what editors and copying programs leave, in folders too; or others; or none."""
    names = [".hidden", "x~", "x.part", "x.bak", "x", ".cache/x"]
    for name in names:
        write(tmp_path / name, name)

    async def found(pattern: str, **options: object) -> set[str]:
        reader = Reader(fr.files(f"{tmp_path}/{pattern}", source=many, **options))  # type: ignore[arg-type]
        async with aclosing(reader._batches):
            await reader.beat()
        assert not set(reader.rejected) - {".cache", ".cache/x"}
        return set(reader.current)

    assert await found("{partition}") == {"x", "x.bak"}
    assert await found("{partition}", ignore="*.bak") == {"x", "x~", "x.part", ".hidden"}
    assert await found("{partition}", ignore=()) == {"x", "x~", "x.part", "x.bak", ".hidden"}
    assert await found("*/{partition}") == set()
    assert await found("*/{partition}", ignore=()) == {"x"}


async def test_what_is_newly_passed_over_is_left_alone(tmp_path: Path) -> None:
    """A file that counted, and is ignored from now on, is neither looked at nor withdrawn."""
    write(tmp_path / "x", "1")
    first = Reader(fr.files(f"{tmp_path}/{{partition}}", source=many))
    await first.changes(1)
    await first.stop()
    (tmp_path / "x").unlink()
    second = Reader(
        fr.files(f"{tmp_path}/{{partition}}", source=many, ignore="x?", marker=""), first.cursor
    )
    third = Reader(fr.files(f"{tmp_path}/{{partition}}.csv", source=many), first.cursor)
    for reader, changes in ((second, 1), (third, 0)):
        async with aclosing(reader._batches):
            await reader.beat()
            await reader.changes(changes)
    assert third.files == first.files


# --- definitions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pattern": "in/{partition}.tmp"}, "would find nothing.*'x.tmp' are ignored"),
        ({"pattern": ".in/../x/.{partition}"}, "would find nothing"),
        ({"marker": "a/b"}, "no file's name"),
        ({"marker": "{name}{name}"}, "no file's name"),
        ({"version": "mtime"}, "'mtime' is none of 'content', 'stat'"),
        ({"on_removal": "delete"}, "'delete' is none of 'withdraw', 'keep'"),
        ({"source": None}, "names no source"),
        ({"pattern": {"in/{partition}": flights}}, "names their sources itself"),
        ({"pattern": []}, "watches nothing"),
        ({"pattern": {}, "source": None}, "watches nothing"),
        ({"pattern": ["in/{partition}", "in/x.csv"]}, "does not fit source 'flights'"),
    ],
)
def test_what_cannot_work_is_said_when_the_project_is_loaded(
    options: dict[str, object], words: str
) -> None:
    given = {"pattern": "in/{partition}", "source": flights, **options}
    with pytest.raises(DefinitionError, match=words):
        fr.files(given.pop("pattern"), **given)  # type: ignore[arg-type]


def test_a_sensor_of_several_patterns_is_named_by_them_all() -> None:
    sensor = fr.files({"a/{partition}": flights, "b.csv": airlines, "c/{partition}": flights})
    assert sensor.name == "files:a/{partition}, b.csv, c/{partition}"
    assert sensor.sources == ("flights", "airlines")


# --- mounts ---------------------------------------------------------------------------------------

MOUNTINFO = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
40 27 0:40 / /srv/data rw,relatime shared:7 master:2 - nfs4 server:/export rw,vers=4.2
41 40 0:41 / /srv/data/local\\040disk rw - xfs /dev/vdb rw
42 27 0:42 / /mnt/s3 rw - fuse.s3fs s3fs rw
43 27 0:43 / /mnt/s3 rw - tmpfs none rw
44 27 0:44 / /home/me rw - fuse.sshfs me@host: rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/srv/data", "nfs4"),
        ("/srv/data/in/deep", "nfs4"),
        ("/srv/database", "ext4"),
        ("/srv/data/local disk/in", "xfs"),
        ("/mnt/s3/in", "tmpfs"),
        ("/home/me", "fuse.sshfs"),
    ],
)
def test_the_longest_mount_point_above_says_the_kind(path: str, kind: str) -> None:
    """Of two on the same point the later one; escapes are undone."""
    assert kind_of(path, MOUNTINFO) == kind
    assert len(list(parse_mounts(MOUNTINFO))) == 7


async def test_what_was_said_and_is_settled_is_accepted(tmp_path: Path) -> None:
    """A rejected heir that takes over is settled with its change, in one batch."""
    for name in "ab":
        write(tmp_path / name / "2024-01-01.csv", name)
    reader = Reader(fr.files(f"{tmp_path}/*/{{partition}}.csv", source=flights, reconcile="1h"))
    async with aclosing(reader._batches):
        await reader.told(bool)
        (tmp_path / "a" / "2024-01-01.csv").unlink()
        batch = await reader.batch()
    assert batch.settled == (Settlement("b/2024-01-01.csv"),)
    assert [change.data_version for change in batch.changes] == [version("b")]
