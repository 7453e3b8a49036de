"""The file sensor on a real file system: what counts, what does not, and nothing twice or never."""

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from structlog.testing import capture_logs

import freshet as fr
from freshet.engine.errors import DefinitionError
from freshet.engine.events import SourceChanged
from freshet.sensors.files import FilesSensor
from freshet.sensors.landing.watch import Watch
from freshet.sensors.sensor import MAX_BATCH_CHANGES, Batch
from tests.reading import PATIENCE_S, Reader, version

pytestmark = pytest.mark.anyio

flights = fr.source("flights", partitions=fr.daily("2024-01-01", opens="data"))
airlines = fr.source("airlines")


def sensor(landing: Path, **options: object) -> FilesSensor:
    return fr.files(f"{landing}/{{partition}}.csv", source=flights, **options)  # type: ignore[arg-type]


async def test_a_file_that_lands_is_a_change_of_its_partition(landing: Path) -> None:
    """Created, overwritten and removed: three changes, with the digest of the
    content as version.
    """
    reader = Reader(sensor(landing))
    async with aclosing(reader._batches):
        file = landing / "2024-01-05.csv"
        file.write_text("one")
        (created,) = await reader.changes(1)
        assert (created.asset, created.partition, created.data_version) == (
            "flights",
            "2024-01-05",
            version("one"),
        )
        assert created.metadata["path"] == str(file)
        assert created.metadata["size"] == 3
        file.write_text("two!")
        (overwritten,) = await reader.changes(1)
        assert overwritten.data_version == version("two!")
        file.unlink()
        (removed,) = await reader.changes(1)
        assert (removed.partition, removed.data_version) == ("2024-01-05", "")
        assert reader.files == {}


async def test_touching_a_file_moves_the_cursor_and_changes_nothing(landing: Path) -> None:
    """A new modification time with equal content, also by rewriting it, is no change."""
    file = landing / "2024-01-05.csv"
    file.write_text("same")
    reader = Reader(sensor(landing))
    async with aclosing(reader._batches):
        await reader.changes(1)
        before = dict(reader.cursor)
        os.utime(file, (1, 1))
        batch = await reader.batch()
        assert batch.changes == ()
        assert reader.cursor != before
        fresh = landing / ".tmp"
        fresh.write_text("same")
        fresh.rename(file)
        assert (await reader.batch()).changes == ()


async def test_what_happened_while_nobody_watched_is_found_by_the_scan(landing: Path) -> None:
    """Landed, changed, removed and untouched while down: exactly the three that differ."""
    for day in (1, 2, 3):
        (landing / f"2024-01-0{day}.csv").write_text(f"old {day}")
    first = Reader(sensor(landing))
    await first.changes(3)
    await first.stop()
    (landing / "2024-01-01.csv").unlink()
    (landing / "2024-01-02.csv").write_text("new 2")
    (landing / "2024-01-04.csv").write_text("new 4")
    second = Reader(sensor(landing), first.cursor)
    async with aclosing(second._batches):
        found = {c.partition: c.data_version for c in await second.changes(3)}
        assert found == {
            "2024-01-01": "",
            "2024-01-02": version("new 2"),
            "2024-01-04": version("new 4"),
        }


async def test_what_is_known_is_not_read_again(landing: Path) -> None:
    """A file whose size, time and inode are as remembered is not opened: its digest is believed."""
    file = landing / "2024-01-01.csv"
    file.write_text("content")
    found = file.stat()
    believed = f"{found.st_size}:{found.st_mtime_ns}:{found.st_ino}:a digest we made up"
    (landing / "2024-01-02.csv").write_text("another")
    reader = Reader(sensor(landing), {"2024-01-01.csv": believed})
    async with aclosing(reader._batches):
        (only,) = await reader.changes(1)
        assert only.partition == "2024-01-02"


async def test_thousands_at_once_come_in_bounded_batches_each_once(landing: Path) -> None:
    """2,000 files landing at once while watched: 2,000 changes, none twice, no batch too large."""
    always = fr.source("many", partitions=fr.static([f"k{n}" for n in range(2000)]))
    reader = Reader(fr.files(f"{landing}/{{partition}}.csv", source=always))
    async with aclosing(reader._batches):
        for number in range(2000):
            (landing / f"k{number}.csv").write_text(str(number))
        seen: dict[str, str] = {}
        while len(seen) < 2000:
            batch = await reader.batch()
            assert len(batch.changes) <= MAX_BATCH_CHANGES
            for change in batch.changes:
                assert change.partition not in seen
                seen[change.partition] = change.data_version
        assert seen == {f"k{n}": version(str(n)) for n in range(2000)}


async def test_a_scan_takes_files_in_the_order_of_their_names(landing: Path) -> None:
    """However the file system lists them: neighbours are recorded together, over all batches."""
    many = fr.source("many", partitions=fr.dynamic())
    count = 3 * MAX_BATCH_CHANGES
    for number in range(count):
        (landing / f"k{number * 7919 % count:04}.csv").touch()
    reader = Reader(fr.files(f"{landing}/{{partition}}.csv", source=many))
    async with aclosing(reader._batches):
        changes = await reader.changes(count)
    assert [change.partition for change in changes] == [f"k{n:04}" for n in range(count)]


async def test_a_half_written_file_counts_once_it_is_closed(landing: Path) -> None:
    """While a writer has it open nothing is reported; afterwards one change
    with the whole content.
    """
    reader = Reader(sensor(landing))
    async with aclosing(reader._batches):
        with (landing / "2024-01-01.csv").open("w") as file:
            file.write("first half, ")
            file.flush()
            (landing / "2024-01-02.csv").write_text("another")
            (other,) = await reader.changes(1)
            assert other.partition == "2024-01-02"
            file.write("second half")
        (whole,) = await reader.changes(1)
        assert whole.data_version == version("first half, second half")


async def test_settle_asks_for_quiet_as_well(landing: Path) -> None:
    """With `settle`, a closed file counts only after it has looked the same for that long."""
    watch = Watch(sensor(landing, settle="30ms").watched, {})
    (landing / "2024-01-01.csv").write_text("x")
    try:
        assert [batch async for batch in watch.changes()] == []
        found: list[Batch] = []
        with anyio.fail_after(PATIENCE_S):
            while not found:
                await watch.wait()
                found = [batch async for batch in watch.changes()]
        assert [c.partition for c in found[0].changes] == ["2024-01-01"]
    finally:
        watch.close()


async def test_renaming_into_place_counts_at_once(landing: Path) -> None:
    """A file written elsewhere and moved in is one change; the temporary name is none."""
    reader = Reader(sensor(landing))
    async with aclosing(reader._batches):
        part = landing / "upload.part"
        part.write_text("all of it")
        part.rename(landing / "2024-01-01.csv")
        (change,) = await reader.changes(1)
        assert change.data_version == version("all of it")
        (landing / "2024-01-01.csv").rename(landing / "2024-01-02.csv")
        moved = {c.partition: c.data_version for c in await reader.changes(2)}
        assert moved == {"2024-01-01": "", "2024-01-02": version("all of it")}


async def test_what_cannot_count_is_named_and_stops_nothing(landing: Path) -> None:
    """A bad partition, a name that is not UTF-8 and a folder: reasons, no changes. What does not
    match, and a link that leads nowhere, is no file of ours.
    """
    (landing / "not-a-day.csv").write_text("x")
    (landing / "2023-12-31.csv").write_text("before the start")
    (landing / "readme.txt").write_text("does not match")
    os.mkdir(landing / "2024-01-03.csv")
    (landing / "2024-01-04.csv").symlink_to("nowhere")
    with open(os.fsencode(landing) + b"/2024-\xff.csv", "wb") as file:
        file.write(b"x")
    (landing / "2024-01-05.csv").write_text("good")
    reader = Reader(sensor(landing))
    async with aclosing(reader._batches):
        await reader.beat()
    assert reader.current == {"2024-01-05": version("good")}
    assert reader.rejected == {
        "2023-12-31.csv": "'2023-12-31' is no partition: daily from 2024-01-01",
        "2024-01-03.csv": "it is a folder; a pattern that ends in '/' takes folders as partitions",
        "2024-\\xff.csv": "its name is not UTF-8",
        "not-a-day.csv": "'not-a-day' is no partition: daily from 2024-01-01",
    }


async def test_a_file_that_vanishes_while_we_look_is_simply_gone(landing: Path) -> None:
    """Hinted at and gone again before it is read: nothing is reported, nothing fails."""
    watch = Watch(sensor(landing).watched, {})
    try:
        assert [batch async for batch in watch.changes()] == []
        file = landing / "2024-01-01.csv"
        file.write_text("x")
        await watch.wait()
        file.unlink()
        assert [batch async for batch in watch.changes()] == []
    finally:
        watch.close()


async def test_the_folder_may_come_later_and_come_anew(tmp_path: Path) -> None:
    """A missing folder is waited for; one that is removed and made again is watched again."""
    landing = tmp_path / "landing"
    reader = Reader(sensor(landing))
    async with aclosing(reader._batches), anyio.create_task_group() as tasks:
        found: list[SourceChanged] = []

        async def read() -> None:
            found.extend(await reader.changes(1))

        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        landing.mkdir()
        (landing / "2024-01-01.csv").write_text("first")
        with anyio.fail_after(PATIENCE_S):
            while not found:
                await anyio.sleep(0.01)
        shutil.rmtree(landing)
        landing.mkdir()
        (landing / "2024-01-02.csv").write_text("second")
        versions: dict[str, str] = {}
        while "2024-01-02" not in versions or versions.get("2024-01-01") != "":
            for change in (await reader.batch()).changes:
                versions[change.partition] = change.data_version
        assert versions == {"2024-01-01": "", "2024-01-02": version("second")}


async def test_a_folder_made_anew_with_the_inode_of_the_old_one_is_watched_again(
    landing: Path,
) -> None:
    """After it was removed and made again, hints come again: no scan is due within an hour."""
    reader = Reader(sensor(landing, reconcile="1h"))
    async with aclosing(reader._batches):
        (landing / "2024-01-01.csv").write_text("old")
        await reader.until(lambda: {"2024-01-01": "old"})
        for day in ("2024-01-02", "2024-01-03", "2024-01-04"):
            shutil.rmtree(landing)
            landing.mkdir()
            for text in ("new", "newer"):
                (landing / f"{day}.csv").write_text(text)
                await reader.until(partial(dict, {day: text}))


async def test_a_missing_folder_withdraws_nothing(landing: Path, tmp_path: Path) -> None:
    """A folder that is away for a while, as when it is not mounted, takes no partition with it."""
    (landing / "2024-01-01.csv").write_text("x")
    first = Reader(sensor(landing))
    await first.changes(1)
    await first.stop()
    landing.rename(tmp_path / "away")
    second = Reader(sensor(landing), first.cursor)
    async with aclosing(second._batches), anyio.create_task_group() as tasks:
        tasks.start_soon(second.until, lambda: {"2024-01-02": "y"})
        await anyio.wait_all_tasks_blocked()
        (tmp_path / "away").rename(landing)
        (landing / "2024-01-02.csv").write_text("y")
    assert sorted(second.files) == ["2024-01-01.csv", "2024-01-02.csv"]


async def seen_while_watching(landing: Path, make: Callable[[], object]) -> list[tuple[str, str]]:
    """The files named, with reasons, after `make`; a good file that lands next counts, alone."""
    reader = Reader(sensor(landing, reconcile="1h"))
    with capture_logs() as logs:
        async with aclosing(reader._batches):
            (landing / "2024-01-30.csv").write_text("before")
            await reader.until(lambda: {"2024-01-30": "before"})
            make()
            (landing / "2024-01-31.csv").write_text("after")
            await reader.until(lambda: {"2024-01-30": "before", "2024-01-31": "after"})
    return [(log["file"], log["reason"]) for log in logs if log["event"] == "file does not count"]


async def test_a_name_that_is_not_utf8_does_not_end_the_watch(landing: Path) -> None:
    """watchfiles gives up at such a name, for good; what lands with and after it counts."""

    def make() -> None:
        with open(os.fsencode(landing) + b"/2024-\xff.csv", "wb") as file:
            file.write(b"x")

    assert await seen_while_watching(landing, make) == [("2024-\\xff.csv", "its name is not UTF-8")]


async def test_a_path_that_cannot_be_followed_does_not_end_the_watch(landing: Path) -> None:
    """A file that `stat` refuses is named with the system's reason, and the others go on."""
    link = landing / "2024-01-05.csv"
    assert await seen_while_watching(landing, lambda: link.symlink_to("x" * 300)) == [
        ("2024-01-05.csv", "File name too long")
    ]


async def test_a_known_file_that_cannot_be_looked_at_is_not_withdrawn(landing: Path) -> None:
    """Not being able to look is no removal: the scan names the file and keeps what is known."""
    file = landing / "2024-01-01.csv"
    file.write_text("x")
    first = Reader(sensor(landing))
    await first.changes(1)
    await first.stop()
    file.unlink()
    file.symlink_to("x" * 300)
    (landing / "2024-01-02.csv").write_text("y")
    second = Reader(sensor(landing), first.cursor)
    async with aclosing(second._batches):
        await second.until(lambda: {"2024-01-02": "y"})
    assert sorted(second.files) == ["2024-01-01.csv", "2024-01-02.csv"]


async def test_a_known_file_whose_place_a_folder_took_is_withdrawn(landing: Path) -> None:
    """The file is gone, whatever has its name now; the folder is named."""
    file = landing / "2024-01-01.csv"
    file.write_text("x")
    reader = Reader(sensor(landing))
    async with aclosing(reader._batches):
        await reader.until(lambda: {"2024-01-01": "x"})
        file.unlink()
        file.mkdir()
        await reader.until(dict)
        await reader.told(bool)
    assert "it is a folder" in reader.rejected["2024-01-01.csv"]


async def test_files_that_come_and_go_while_we_look_leave_those_that_stayed(landing: Path) -> None:
    """600 landings and 400 removals in a hurry, some of large files: the fold is what is there."""
    days = [f"2024-01-{day:02d}" for day in range(1, 31)]
    finished = threading.Event()

    def churn() -> None:
        for turn in range(20):
            for number, day in enumerate(days):
                file = landing / f"{day}.csv"
                file.write_text(str(turn) * (4_000_000 if number % 10 == 0 else 1))
                if (number + turn) % 3:
                    file.unlink()
        finished.set()
        (landing / "2024-02-01.csv").write_text("last")

    def there() -> dict[str, str]:
        if not finished.is_set():
            return {"not": "finished"}
        return {file.stem: file.read_text() for file in landing.iterdir()}

    reader = Reader(sensor(landing, reconcile="1h"))
    async with aclosing(reader._batches), anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, churn)
        await reader.until(there)
    assert sorted(reader.files) == sorted(file.name for file in landing.iterdir())
    assert len(reader.files) == 11


async def test_a_cancelled_sensor_stops_reading_and_reports_the_same_when_run_again(
    landing: Path,
) -> None:
    """Cancelled while it digests: it ends there, and a new run finds everything."""
    days = [f"2024-01-{day:02d}" for day in range(1, 13)]
    for day in days:
        with (landing / f"{day}.csv").open("wb") as file:
            file.truncate(32 * 1024 * 1024)
    reader = Reader(sensor(landing))
    async with aclosing(reader._batches), anyio.create_task_group() as tasks:
        tasks.start_soon(reader.batch)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert reader.files == {}
    again = Reader(sensor(landing))
    async with aclosing(again._batches):
        assert [change.partition for change in await again.changes(len(days))] == days


async def test_folders_below_the_root_are_found_even_when_made_in_a_hurry(tmp_path: Path) -> None:
    """`mkdir -p` and a write at once, many times over: no file is missed. A
    circle of links ends.
    """
    days = [f"2024-01-{day:02d}" for day in range(1, 31)]
    reader = Reader(fr.files(f"{tmp_path}/in/{{partition}}/data.csv", source=flights))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "2024-02-01").symlink_to(tmp_path / "in")
    async with aclosing(reader._batches):
        (tmp_path / "in" / "2024-01-31").mkdir()
        (tmp_path / "in" / "2024-01-31" / "data.csv").write_text("first")
        await reader.changes(1)
        for day in days:
            os.makedirs(tmp_path / "in" / day)
            (tmp_path / "in" / day / "data.csv").write_text(day)
        changes = await reader.changes(len(days))
        assert {c.partition: c.data_version for c in changes} == {d: version(d) for d in days}


async def test_a_batch_that_was_not_acknowledged_comes_again(landing: Path) -> None:
    """Closed at the yield, before the engine has asked for more: a new run reports the same."""
    (landing / "2024-01-01.csv").write_text("x")
    first = sensor(landing).run({})
    lost = await anext(first)
    await first.aclose()
    second = sensor(landing).run({})
    assert await anext(second) == lost
    await second.aclose()


async def test_removal_may_be_told_to_mean_nothing(landing: Path) -> None:
    """With on_removal="keep" a removed file is forgotten without a change."""
    file = landing / "2024-01-01.csv"
    file.write_text("x")
    reader = Reader(sensor(landing, on_removal="keep"))
    async with aclosing(reader._batches):
        await reader.changes(1)
        file.unlink()
        batch = await reader.batch()
        assert (batch.changes, reader.files) == ((), {})


async def test_an_unpartitioned_source_is_one_file(landing: Path) -> None:
    """A pattern without a placeholder is the source itself."""
    reader = Reader(fr.files(f"{landing}/airlines.csv", source=airlines))
    async with aclosing(reader._batches):
        (landing / "airlines.csv").write_text("AA")
        (change,) = await reader.changes(1)
        assert (change.asset, change.partition) == ("airlines", "")


@pytest.mark.parametrize(
    ("pattern", "source", "words"),
    [
        ("landing/*.csv", airlines, "cannot be used"),
        ("landing/{day}.csv", flights, "cannot be used"),
        ("{partition}/{partition}.csv", flights, "cannot be used"),
        ("landing/{partition.csv", flights, "cannot be used"),
        ("", airlines, "cannot be used"),
        ("landing/one.csv", flights, "does not fit source 'flights'"),
        ("landing/{partition}.csv", airlines, "does not fit source 'airlines'"),
    ],
)
def test_a_pattern_that_cannot_work_is_a_definition_error(
    pattern: str, source: fr.Source, words: str
) -> None:
    """What is wrong is said when the project is loaded."""
    with pytest.raises(DefinitionError, match=words):
        fr.files(pattern, source=source)
