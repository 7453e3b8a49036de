"""The file sensor in trouble: what programs, people and systems do to files, on a real file
system.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import aclosing
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

import freshet as fr
from freshet.engine.events import SourceChanged
from freshet.sensors.files import FilesSensor
from freshet.sensors.landing.drafts import MAX_REJECTED
from freshet.sensors.landing.watch import Watch
from freshet.sensors.sensor import Settlement
from tests.reading import PATIENCE_S, Reader, version

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parent.parent

flights = fr.source("flights", partitions=fr.daily("2024-01-01", opens="data"))
many = fr.source("many", partitions=fr.dynamic())


def sensor(landing: Path, **options: object) -> FilesSensor:
    """Relies on hints: no scan is due within an hour, unless something asks for it."""
    options = {"reconcile": "1h", **options}
    return fr.files(f"{landing}/{{partition}}.csv", source=flights, **options)  # type: ignore[arg-type]


def loose(landing: Path, **options: object) -> FilesSensor:
    """Every name is a partition."""
    return fr.files(f"{landing}/{{partition}}", source=many, reconcile="1h", **options)  # type: ignore[arg-type]


# --- what programs do -----------------------------------------------------------------------------


async def test_renaming_out_withdraws(landing: Path) -> None:
    """A file that is moved elsewhere is gone from here."""
    (landing / "2024-01-01.csv").write_text("x")
    reader = Reader(sensor(landing))
    async with aclosing(reader._batches):
        await reader.until(lambda: {"2024-01-01": "x"})
        (landing / "2024-01-01.csv").rename(landing.parent / "elsewhere.csv")
        await reader.until(dict)
    assert reader.files == {}


async def test_saving_by_renaming_over_is_one_change(landing: Path) -> None:
    """A temporary file beside it, then renamed over it: the name in between is passed over, even
    where it would match.
    """
    reader = Reader(loose(landing))
    async with aclosing(reader._batches):
        (landing / "a").write_text("old")
        await reader.until(lambda: {"a": "old"})
        for name in (".a.swp", "a.tmp", "a~"):
            (landing / name).write_text("new " + name)
            (landing / name).rename(landing / "a")
            await reader.until(lambda name=name: {"a": "new " + name})  # type: ignore[misc]
    assert reader.rejected == {}
    assert {change.partition for change in reader.seen} == {"a"}


async def test_saving_with_a_backup_withdraws_nothing(landing: Path) -> None:
    """vim moves the old file away and then writes the new one: looked at in between, it is not yet
    gone.
    """
    file = landing / "2024-01-01.csv"
    file.write_text("old")
    first = Reader(sensor(landing))
    await first.changes(1)
    await first.stop()
    watch = Watch(sensor(landing).watched, first.cursor)
    try:
        while not watch.is_complete:
            assert [batch async for batch in watch.changes()] == []
        file.rename(landing / "2024-01-01.csv~")
        while not watch.behind:
            await watch.wait()
            assert [batch async for batch in watch.changes()] == []
        file.write_text("new")
        found: list[SourceChanged] = []
        with anyio.fail_after(PATIENCE_S):
            while not found:
                found = [change async for batch in watch.changes() for change in batch.changes]
                await watch.wait()
        assert [change.data_version for change in found] == [version("new")]
    finally:
        watch.close()


async def test_what_is_written_slowly_counts_once_and_whole(landing: Path) -> None:
    """Ten writes, each flushed and looked at: one change, after the file was closed."""
    reader = Reader(sensor(landing))
    async with aclosing(reader._batches):
        with (landing / "2024-01-01.csv").open("w") as file:
            for part in range(10):
                file.write(f"part {part}, ")
                file.flush()
                (landing / f"2024-02-{part + 1:02}.csv").write_text("beside it")
                (beside,) = await reader.changes(1)
                assert beside.partition.startswith("2024-02")
        (whole,) = await reader.changes(1)
    assert whole.data_version == version("".join(f"part {part}, " for part in range(10)))


@pytest.mark.parametrize("how", ["another file", "the same file"])
async def test_other_content_of_equal_size_and_time_is_noticed(landing: Path, how: str) -> None:
    """Replaced while nobody watched, the time put back: the inode or the time of change tells."""
    file = landing / "2024-01-01.csv"
    file.write_text("one")
    first = Reader(sensor(landing))
    await first.changes(1)
    await first.stop()
    found = file.stat()
    written = landing / ".new" if how == "another file" else file
    written.write_text("two")
    os.utime(written, ns=(found.st_atime_ns, found.st_mtime_ns))
    if written != file:
        written.rename(file)
    second = Reader(sensor(landing), first.cursor)
    async with aclosing(second._batches):
        (change,) = await second.changes(1)
    assert (change.data_version, change.metadata["mtime_ns"]) == (version("two"), found.st_mtime_ns)


async def test_new_permissions_are_no_change_and_looked_at_once(landing: Path) -> None:
    """After `chmod` the file is read once more and then believed; so is it after a restart."""
    file = landing / "2024-01-01.csv"
    file.write_text("x")
    first = Reader(sensor(landing))
    await first.changes(1)
    await first.stop()
    file.chmod(0o600)
    second = Reader(sensor(landing), first.cursor)
    async with aclosing(second._batches):
        assert (await second.batch()).changes == ()
        await second.beat()
    third = Reader(sensor(landing), second.cursor)
    async with aclosing(third._batches):
        assert (await third.any_batch()).cursor == {}


async def test_entries_of_the_older_form_are_believed_and_renewed(landing: Path) -> None:
    """A cursor from before the time of change was kept: nothing is read, and from then on a file
    that is overwritten with its time put back is noticed.
    """
    file = landing / "2024-01-01.csv"
    file.write_text("one")
    found = file.stat()
    old = {file.name: f"{found.st_size}:{found.st_mtime_ns}:{found.st_ino}:{version('made up')}"}
    first = Reader(sensor(landing), old)
    async with aclosing(first._batches):
        await first.beat()
    assert first.seen == []
    assert first.files[file.name].endswith(":0:" + version("made up"))
    file.write_text("two")
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    second = Reader(sensor(landing), first.cursor)
    async with aclosing(second._batches):
        await second.until(lambda: {"2024-01-01": "two"})


async def test_folders_moved_in_and_out_whole_are_noticed(tmp_path: Path) -> None:
    """The system tells only of the folder: its files come and go with it."""
    days = ["2024-01-01", "2024-01-02"]
    for day in days:
        (tmp_path / "ready" / day).mkdir(parents=True)
        (tmp_path / "ready" / day / "data.csv").write_text(day)
    (tmp_path / "in").mkdir()
    pattern = f"{tmp_path}/in/*/{{partition}}/data.csv"
    reader = Reader(fr.files(pattern, source=flights, reconcile="1h"))
    async with aclosing(reader._batches):
        await reader.beat()
        (tmp_path / "ready").rename(tmp_path / "in" / "ready")
        await reader.until(lambda: {day: day for day in days})
        (tmp_path / "in" / "ready" / days[0]).rename(tmp_path / "away")
        await reader.until(lambda: {days[1]: days[1]})
        shutil.rmtree(tmp_path / "in" / "ready")
        await reader.until(dict)


async def test_links_in_a_circle_end(tmp_path: Path) -> None:
    """Two folders that link to one another, at any depth: each path that does not lead back is
    looked at, and the files are found.
    """
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "to").symlink_to(tmp_path / "in" / other)
    (tmp_path / "in" / "self").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "a" / "k1.csv").write_text("1")
    reader = Reader(fr.files(f"{tmp_path}/in/**/{{partition}}.csv", source=many, reconcile="1h"))
    async with aclosing(reader._batches):
        await reader.beat()
    assert reader.current == {"k1": version("1")}
    assert list(reader.rejected) == ["b/to/k1.csv"]


async def test_a_burst_is_read_whole(landing: Path) -> None:
    """3,000 files at once, in three folders that are made meanwhile: none is missed."""
    await _burst(landing, 3000, reconcile="1h")


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_burst_of_fifty_thousand_is_read_whole(landing: Path) -> None:
    """More than the kernel's queue holds: at most one scan later all are there."""
    await _burst(landing, 50_000, reconcile="10s")


async def _burst(landing: Path, count: int, reconcile: str) -> None:
    names = [f"{n % 3}/k{n}.csv" for n in range(count)]

    def land() -> None:
        for folder in range(3):
            (landing / str(folder)).mkdir()
        for name in names:
            (landing / name).write_text(name)

    pattern = f"{landing}/*/{{partition}}.csv"
    reader = Reader(fr.files(pattern, source=many, reconcile=reconcile))
    async with aclosing(reader._batches), anyio.create_task_group() as tasks:
        await reader.beat()
        tasks.start_soon(anyio.to_thread.run_sync, land)
        changes = await reader.changes(count)
    assert {f"{c.partition}": c.data_version for c in changes} == {
        f"k{n}": version(name) for n, name in enumerate(names)
    }


async def test_a_sensor_cancelled_while_it_scans_ends_quietly(landing: Path) -> None:
    """Whenever that is; a new run finds everything."""
    for number in range(4000):
        (landing / f"k{number}").touch()
    for steps in range(6):
        reader = Reader(loose(landing))
        async with aclosing(reader._batches), anyio.create_task_group() as tasks:
            tasks.start_soon(reader.until, lambda: {"never": "reached"})
            for _ in range(steps):
                await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    again = Reader(loose(landing))
    async with aclosing(again._batches):
        assert len({change.partition for change in await again.changes(4000)}) == 4000


# --- what does not count --------------------------------------------------------------------------


async def test_a_rejection_is_said_once_also_after_a_restart(landing: Path) -> None:
    """As long as the file stays as it is, with the same reason."""
    (landing / "x.csv").write_text("x")
    with open(os.fsencode(landing) + b"/2024-\xff.csv", "wb") as file:
        file.write(b"x")
    first = Reader(sensor(landing))
    async with aclosing(first._batches):
        await first.beat()
    assert sorted(first.rejected) == ["2024-\\xff.csv", "x.csv"]
    second = Reader(sensor(landing), first.cursor)
    async with aclosing(second._batches):
        assert (await second.any_batch()).cursor == {}
    assert second.said == []


async def test_a_rejection_is_settled_when_the_file_is_gone(landing: Path) -> None:
    """It never counted: its end is no withdrawal."""
    (landing / "x.csv").write_text("x")
    reader = Reader(sensor(landing))
    async with aclosing(reader._batches):
        await reader.told(bool)
        (landing / "x.csv").unlink()
        await reader.told(lambda rejected: not rejected)
    assert reader.said[-1] == Settlement("x.csv", accepted=False)
    assert (reader.seen, reader.files) == ([], {})


async def test_foreign_names_do_not_flood_the_stream(landing: Path) -> None:
    """So many are named; the others follow as those are settled. Good files count all the same."""
    for number in range(MAX_REJECTED + 200):
        (landing / f"foreign-{number:04}.csv").touch()
    reader = Reader(sensor(landing, reconcile="300ms"))
    async with aclosing(reader._batches):
        (landing / "2024-01-01.csv").write_text("good")
        await reader.until(lambda: {"2024-01-01": "good"})
        await reader.told(lambda rejected: len(rejected) == MAX_REJECTED)
        for item in list(reader.rejected)[:100]:
            (landing / item).unlink()
        gone = set(list(reader.rejected)[:100])
        await reader.told(lambda r: len(r) == MAX_REJECTED and gone.isdisjoint(r))


def in_child(script: str, *arguments: object, by: str = "") -> None:
    """Run a script in another process, perhaps in a namespace of its own."""
    prelude = """
import os, subprocess, sys
from contextlib import aclosing
from pathlib import Path
import anyio
import freshet as fr
from freshet.engine.errors import OutsideError
from tests.reading import Reader, version

flights = fr.source("flights", partitions=fr.daily("2024-01-01", opens="data"))
landing = Path(sys.argv[1])
"""
    done = subprocess.run(
        [*by.split(), sys.executable, "-c", prelude + script, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_that_may_not_be_read_is_named_until_it_may() -> None:
    """`chmod 000` is a rejection with the system's reason; when it may be read, it counts at
    once. A version that counted before stays. So it is with a folder, which is watched from then.
    """
    shared = Path(tempfile.mkdtemp())
    shared.chmod(0o777)
    try:
        in_child(
            """
file = landing / "2024-01-01.csv"

async def main():
    if os.geteuid() == 0:  # who may read everything; what is to be imported is by now
        os.setgid(65534)
        os.setuid(65534)
    landing.mkdir()
    file.write_text("one")
    file.chmod(0)
    reader = Reader(fr.files(f"{landing}/{{partition}}.csv", source=flights, reconcile="1h"))
    async with aclosing(reader._batches):
        await reader.told(bool)
        assert reader.rejected == {"2024-01-01.csv": "Permission denied"}, reader.rejected
        file.chmod(0o600)
        await reader.until(lambda: {"2024-01-01": "one"})
        await reader.told(lambda rejected: not rejected)
        file.write_text("two")
        file.chmod(0)
        await reader.told(bool)
        assert reader.current == {"2024-01-01": version("one")}
        file.chmod(0o600)
        await reader.until(lambda: {"2024-01-01": "two"})
    (landing / "sub").mkdir()
    (landing / "sub" / "2024-01-02.csv").write_text("in it")
    (landing / "sub").chmod(0)
    reader = Reader(fr.files(f"{landing}/*/{{partition}}.csv", source=flights, reconcile="1h"))
    async with aclosing(reader._batches):
        await reader.beat()
        (landing / "sub").chmod(0o700)
        await reader.until(lambda: {"2024-01-02": "in it"})
        for day in (3, 4, 5):  # one of them may be found by the second look into the folder
            (landing / "sub" / f"2024-01-0{day}.csv").write_text("watched")
            (change,) = await reader.changes(1)
            assert change.partition == f"2024-01-0{day}"

anyio.run(main)
""",
            shared / "landing",
        )
    finally:
        shutil.rmtree(shared)


# --- what happens to roots ------------------------------------------------------------------------


async def test_a_missing_root_is_named_until_it_comes(tmp_path: Path) -> None:
    """Missing at the start, also of the next process; made, removed with all that is in it, and
    made again. The sensor is in trouble; no file is rejected.
    """
    landing = tmp_path / "landing"
    missing = f"the folder {landing} is missing"
    reader = Reader(sensor(landing))
    async with aclosing(reader._batches):
        await reader.troubled(missing)
    reader = Reader(sensor(landing), reader.cursor)
    async with aclosing(reader._batches):
        found = await reader.any_batch()
        assert found.trouble == missing
        assert "make the folder" in found.hint
        landing.mkdir()
        (landing / "2024-01-01.csv").write_text("x")
        await reader.until(lambda: {"2024-01-01": "x"})
        await reader.troubled("")
        landing.rename(tmp_path / "away")
        await reader.troubled(missing)
        assert reader.current == {"2024-01-01": version("x")}
        landing.mkdir()
        await reader.until(dict)
        await reader.troubled("")
    assert reader.said == []


def privileged(*command: str) -> bool:
    """May this process do that?"""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


mounts = pytest.mark.skipif(
    os.geteuid() != 0 or not privileged("unshare", "-m", "true"), reason="may not mount"
)
limits = pytest.mark.skipif(
    not privileged("unshare", "--user", "--map-root-user", "true"), reason="no user namespaces"
)


@mounts
def test_an_unmounted_root_takes_nothing_with_it(tmp_path: Path) -> None:
    """The empty folder it was mounted on is not the folder with all files removed: the sensor
    fails until it is mounted again, while it runs and when it starts.
    """
    in_child(
        """
def mount():
    subprocess.run(["mount", "-t", "tmpfs", "none", str(landing)], check=True)

landing.mkdir()
mount()
file = landing / "2024-01-01.csv"
file.write_text("x")

async def fails(reader):
    try:
        while True:
            await reader.any_batch()
            assert reader.current in ({}, {"2024-01-01": version("x")})
    except OutsideError as error:
        assert "not to be mounted" in error.message
    else:
        raise AssertionError

async def main():
    sensor = fr.files(f"{landing}/{{partition}}.csv", source=flights)
    reader = Reader(sensor)
    await reader.until(lambda: {"2024-01-01": "x"})
    cursor = dict(reader.cursor)
    subprocess.run(["umount", str(landing)], check=True)
    await fails(reader)
    again = Reader(sensor, cursor)
    await fails(again)
    assert (again.seen, again.cursor) == ([], cursor)
    other = landing.parent / "other"  # it takes the number of the device
    other.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(other)], check=True)
    mount()
    file.write_text("y")
    last = Reader(sensor, cursor)
    await last.until(lambda: {"2024-01-01": "y"})
    assert last.cursor[f"//device:{landing}"] != cursor[f"//device:{landing}"]
    await last.stop()

anyio.run(main)
""",
        tmp_path / "landing",
        by="unshare -m",
    )


@mounts
def test_of_several_roots_the_others_go_on(tmp_path: Path) -> None:
    """The one that is not mounted is named; what lands in the other counts."""
    in_child(
        """
(landing / "a").mkdir(parents=True)
(landing / "b").mkdir()
subprocess.run(["mount", "-t", "tmpfs", "none", str(landing / "a")], check=True)
(landing / "a" / "2024-01-01.csv").write_text("x")

async def main():
    patterns = [f"{landing}/{name}/{{partition}}.csv" for name in "ab"]
    reader = Reader(fr.files(patterns, source=flights))
    async with aclosing(reader._batches):
        await reader.until(lambda: {"2024-01-01": "x"})
        subprocess.run(["umount", str(landing / "a")], check=True)
        await reader.troubled(f"the folder {landing}/a is on another device")
        (landing / "b" / "2024-01-02.csv").write_text("y")
        await reader.until(lambda: {"2024-01-01": "x", "2024-01-02": "y"})

anyio.run(main)
""",
        tmp_path,
        by="unshare -m",
    )


@limits
@pytest.mark.parametrize(
    ("limit", "value", "setting"),
    [
        ("max_inotify_instances", "0", "max_user_instances"),
        ("max_inotify_watches", "1", "max_user_watches"),
        ("max_inotify_watches", "2", "max_user_watches"),
    ],
)
def test_without_hints_scans_find_what_lands(
    tmp_path: Path, limit: str, value: str, setting: str
) -> None:
    """The limits of inotify are reached, at once or with the next folder: it is said once, files
    are found by scans, and hints come back when they can.
    """
    in_child(
        """
from freshet.sensors.landing import hints

hints.RETRY_S = 0.2
limit = Path("/proc/sys/user", sys.argv[2])
limit.write_text(sys.argv[3])
(landing / "old").mkdir(parents=True)

async def main():
    reader = Reader(
        fr.files(f"{landing}/*/{{partition}}.csv", source=flights, reconcile="1h")
    )
    async with aclosing(reader._batches):
        (landing / "old" / "2024-01-01.csv").write_text("x")
        await reader.until(lambda: {"2024-01-01": "x"})
        await reader.troubled(sys.argv[4])
        (landing / "new").mkdir()
        (landing / "new" / "2024-01-02.csv").write_text("y")
        await reader.until(lambda: {"2024-01-01": "x", "2024-01-02": "y"})
        assert reader.said == []
        limit.write_text("100")
        await reader.troubled("")
        (landing / "new" / "2024-01-03.csv").write_text("z")
        await reader.until(lambda: {"2024-01-01": "x", "2024-01-02": "y", "2024-01-03": "z"})

anyio.run(main)
""",
        tmp_path / "landing",
        limit,
        value,
        setting,
        by="unshare --user --map-root-user",
    )


async def test_polling_finds_what_lands(landing: Path) -> None:
    """Without any hint; nobody can tell who writes there, so a file counts after quiet."""
    reader = Reader(sensor(landing, poll=True, settle="20ms"))
    async with aclosing(reader._batches):
        await reader.beat()
        (landing / "2024-01-01.csv").write_text("x")
        await reader.until(lambda: {"2024-01-01": "x"})
        (landing / "2024-01-01.csv").unlink()
        await reader.until(dict)


# --- how it is ------------------------------------------------------------------------------------


async def test_it_says_that_it_works_and_how_far_behind_it_is(landing: Path) -> None:
    """After the first scan an empty batch comes, with the number of files that are not finished."""
    with (landing / "2024-01-01.csv").open("w") as file:
        file.write("half")
        file.flush()
        reader = Reader(sensor(landing))
        async with aclosing(reader._batches):
            assert not (await reader.any_batch()).cursor
            assert reader.behind == 1
            file.close()
            await reader.until(lambda: {"2024-01-01": "half"})
            assert reader.behind == 0


async def test_a_version_by_stat_never_reads(landing: Path) -> None:
    """A file of a terabyte counts at once; a touch is a change."""
    with (landing / "2024-01-01.csv").open("wb") as file:
        file.truncate(1 << 40)
    reader = Reader(sensor(landing, version="stat"))
    async with aclosing(reader._batches):
        (first,) = await reader.changes(1)
        os.utime(landing / "2024-01-01.csv", ns=(1, 1))
        (second,) = await reader.changes(1)
    assert first.data_version.startswith(f"{1 << 40}-")
    assert second.data_version == f"{1 << 40}-1"


async def test_what_people_ask_is_no_file(landing: Path) -> None:
    """Items of the cursor that begin with `?` are left alone; a file may be called so."""
    asked = {"?replay x": "?replay x", "?other": ""}
    (landing / "?other").write_text("x")
    reader = Reader(loose(landing), asked)
    async with aclosing(reader._batches):
        await reader.until(lambda: {"?other": "x"})
        await reader.beat()
        assert {item: reader.cursor[item] for item in asked} == asked
        (landing / "?other").unlink()
        await reader.until(dict)
    assert {item: reader.cursor[item] for item in asked} == asked
