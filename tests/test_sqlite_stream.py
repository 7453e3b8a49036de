"""The stream in its file: kill -9, full and failing disks, damage, other writers, other formats."""

import asyncio
import json
import os
import random
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from freshet.engine.errors import FencedError, InUseError, StreamError
from freshet.engine.events import CursorMoved, EngineStopped, Recorded, SourceChanged
from freshet.engine.sqlite import SqliteStream
from freshet.engine.sqlite_file import FORMAT, READER_CACHE_KIB, reading
from freshet.engine.sqlite_reader import SqliteReader
from freshet.engine.stream import MAX_BATCH, MAX_PENDING

MIB = 1024 * 1024

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent

KILLS = 5
"""Crashes of the same stream, one after the other."""

FLIPS = 60
"""Single damaged bytes tried, each in a fresh copy."""

NOBODY = 65534
"""A user without rights, for whom a read-only folder is one."""

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
"""Runs a command that may mount a small disk that nobody else sees."""

APPENDER = """
import sys, anyio
from pathlib import Path
from freshet.engine.events import CursorMoved, SourceChanged
from freshet.engine.sqlite import SqliteStream

async def append(stream, name):
    n = 0
    while True:
        events = [SourceChanged(name, str(i), f"v{n}") for i in range(n % 4 + 1)]
        positions = await stream.append([*events, CursorMoved(name, {"n": str(n)})])
        print(positions.start, positions.stop, name, n, flush=True)
        n += 1

async def main():
    async with SqliteStream.open(Path(sys.argv[1])) as stream:
        async with anyio.create_task_group() as tasks:
            for name in "abcd":
                tasks.start_soon(append, stream, name)

anyio.run(main)
"""

FORKER = """
import os, signal, sys, anyio
from pathlib import Path
from freshet.engine.events import EngineStopped
from freshet.engine.sqlite import SqliteStream

async def main():
    async with SqliteStream.open(Path(sys.argv[1])) as stream:
        await stream.append([EngineStopped()])
        if os.fork() == 0:
            print(os.getpid(), flush=True)
        signal.pause()

anyio.run(main)
"""

FILLER = """
import subprocess, sys, anyio
from pathlib import Path
from freshet.engine.errors import StreamError
from freshet.engine.events import EngineStopped
from freshet.engine.sqlite import SqliteStream

async def main(folder):
    async with SqliteStream.open(folder / "stream.db") as stream:
        acknowledged = (await stream.append([EngineStopped("first")])).start
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(400_000))
        try:
            while True:
                acknowledged = (await stream.append([EngineStopped("x" * 20_000)])).start
        except StreamError as error:
            print(error.message, stream.failure, stream.head == acknowledged)
        ballast.unlink()
        resumed = (await stream.append([EngineStopped("resumed")])).start
        print(resumed == acknowledged + 1, await stream.verify() == resumed)

folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
anyio.run(main, folder)
"""

SNIFFIO = """
import asyncio, contextvars

class AsyncLibraryNotFoundError(RuntimeError):
    pass

current_async_library_cvar = contextvars.ContextVar("library", default=None)

def current_async_library():
    try:
        if current_async_library_cvar.get() or asyncio.current_task():
            return "asyncio"
    except RuntimeError:
        pass
    raise AsyncLibraryNotFoundError
"""
"""What the package of this name says, which many have and older releases of anyio need: in a
callback of the loop it knows no loop.
"""

LOCKED_OUT = """
import sqlite3, sys, anyio
from pathlib import Path
from freshet.engine import sqlite_file
from freshet.engine.errors import NotRecordedError
from freshet.engine.events import EngineStopped
from freshet.engine.sqlite import SqliteStream

sqlite_file.BUSY_TIMEOUT_MS = 1

async def main(path):
    async with SqliteStream.open(path) as stream:
        await stream.append([EngineStopped("first")])
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            await stream.append([EngineStopped("second")])
        except NotRecordedError:
            print("refused:", stream.refusal)
        other.close()
        print((await stream.append([EngineStopped("third")])).start, stream.refusal == "")

anyio.run(main, Path(sys.argv[1]))
"""

INTERRUPTED = """
import itertools, sys, anyio
from pathlib import Path
from freshet.engine.events import EngineStopped
from freshet.engine.sqlite import SqliteStream
from freshet.engine.stream import Recent

calls = itertools.count(1)

def fail_at_last():
    if next(calls) == int(sys.argv[3]):
        raise {"interrupt": KeyboardInterrupt, "error": RuntimeError}[sys.argv[4]]

def clock():
    if sys.argv[2] == "begin":
        fail_at_last()
    return 1

def publish(self, recorded, publish=Recent.publish):
    if sys.argv[2] == "end":
        fail_at_last()
    publish(self, recorded)

Recent.publish = publish

async def append(stream, n):
    try:
        await stream.append([EngineStopped(str(n))] * 600)
    except Exception as error:
        print(error.cause, flush=True)

async def main(path):
    async with SqliteStream.open(path, clock=clock) as stream, anyio.create_task_group() as tasks:
        for n in range(4):
            tasks.start_soon(append, stream, n)

anyio.run(main, Path(sys.argv[1]))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stream.db"


def change(n: int) -> SourceChanged:
    return SourceChanged("landing/flights", f"{n % 7}", f"version-{n:05}-of-the-day")


def changes(first: int, count: int) -> list[SourceChanged]:
    return [change(n) for n in range(first, first + count)]


async def fill(path: Path, count: int) -> list[Recorded]:
    """A closed stream with `count` changes; what it holds."""
    async with SqliteStream.open(path) as stream:
        await stream.append([*changes(1, count - 1), CursorMoved("files", {"a": "1"})])
        return await stream.read(limit=count)


async def follow_into(seen: list[Recorded], stream: SqliteStream) -> None:
    async for batch in stream.follow():
        seen += batch


async def read_all(path: Path) -> list[Recorded]:
    async with SqliteReader.open(path) as reader:
        await reader.verify()
        return await reader.read(limit=reader.head)


def position_in(path: Path, position: int) -> int:
    """Where in the file the bytes of this change lie."""
    return path.read_bytes().index(change(position).data_version.encode())


def flip(path: Path, place: int) -> bytes:
    """Change one bit of one byte; the bytes of the damaged file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 0x04
    path.write_bytes(data)
    return bytes(data)


def child(code: str, path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def ended(code: str, path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """What a process said that was to end by itself; the limit is for one that never would."""
    command = [sys.executable, "-c", code, str(path), *words]
    env = {**os.environ, "PYTHONPATH": str(path.parent)}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60, env=env
    )


class TestCrashes:
    async def test_every_acknowledged_append_survives_kill_9(self, path: Path) -> None:
        acknowledged: list[tuple[int, int, str, str]] = []
        draw = random.Random(20130105)
        for _ in range(KILLS):
            with child(APPENDER, path) as appender:
                assert appender.stdout is not None
                lines = [appender.stdout.readline() for _ in range(draw.randrange(1, 120))]
                appender.kill()
                lines += appender.stdout.readlines()
            for line in lines:
                if line.endswith("\n"):
                    start, end, sensor, move = line.split()
                    acknowledged.append((int(start), int(end), sensor, move))
            assert appender.returncode == -signal.SIGKILL
            found = await read_all(path)  # verifies the chain, too
            assert [item.position for item in found] == list(range(1, len(found) + 1))
            for first, stop, name, n in acknowledged:
                expected = [SourceChanged(name, str(i), f"v{n}") for i in range(stop - first - 1)]
                expected_move = CursorMoved(name, {"n": n})
                events = [item.event for item in found[first - 1 : stop - 1]]
                assert events == [*expected, expected_move]
        assert len(acknowledged) > KILLS
        async with SqliteStream.open(path) as stream:  # the next writer goes on where it ended
            assert await stream.append([EngineStopped()]) == range(len(found) + 1, len(found) + 2)
            assert await stream.verify() == len(found) + 1

    async def test_keys_heads_and_times_are_remembered_by_the_next_writer(self, path: Path) -> None:
        async with SqliteStream.open(path, clock=lambda: 500) as stream:
            assert await stream.append(changes(1, 3), key="k") == range(1, 4)
        async with SqliteStream.open(path, clock=lambda: 400) as stream:
            assert stream.head == 3
            assert await stream.append([change(9)], key="k") == range(1, 4)
            assert await stream.append([change(4)], expected=3) == range(4, 5)
            found = await stream.read()
        assert [item.recorded_at for item in found] == [500] * 4
        assert [item.epoch for item in found] == [1, 1, 1, 2]

    async def test_an_orderly_close_leaves_everything_in_one_file(self, path: Path) -> None:
        await fill(path, 50)
        assert sorted(item.name for item in path.parent.iterdir()) == [
            "stream.db",
            "stream.db.lock",
        ]

    async def test_after_an_orderly_close_the_file_alone_has_everything_though_readers_stay(
        self, path: Path, tmp_path: Path
    ) -> None:
        await fill(path, 5)
        async with SqliteReader.open(path):
            async with SqliteStream.open(path) as stream:
                await stream.append(changes(6, 5))
            shutil.copy(path, tmp_path / "copy.db")
        assert len(await read_all(tmp_path / "copy.db")) == 10

    async def test_events_whose_cursor_cannot_be_moved_are_not_recorded(self, path: Path) -> None:
        await fill(path, 5)
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(
                "CREATE TRIGGER no_move BEFORE INSERT ON cursors BEGIN SELECT RAISE(ABORT, ''); END"
            )
        async with SqliteStream.open(path) as stream:
            with pytest.raises(StreamError):
                await stream.append([change(6), CursorMoved("files", {"a": "2"})])
        assert len(await read_all(path)) == 5

    async def test_a_writer_that_appends_nothing_changes_nothing(self, path: Path) -> None:
        await fill(path, 50)
        before = path.read_bytes()
        async with SqliteStream.open(path) as stream:
            assert len(await stream.read()) == 50
            await stream.append([])
        assert path.read_bytes() == before

    async def test_a_lost_file_beside_its_write_ahead_file_is_not_replaced(
        self, path: Path
    ) -> None:
        path.with_name("stream.db-wal").write_bytes(b"events")
        with pytest.raises(StreamError, match="missing or empty"):
            async with SqliteStream.open(path):
                pass
        assert not path.exists()


class TestOneWriter:
    async def test_a_second_writer_in_the_same_process_is_refused(self, path: Path) -> None:
        async with SqliteStream.open(path) as stream:
            with pytest.raises(
                InUseError, match=f"process {os.getpid()} on host {socket.gethostname()}"
            ):
                async with SqliteStream.open(path):
                    pass
            await stream.append([change(1)])
        async with SqliteStream.open(path) as stream:
            assert stream.head == 1

    async def test_a_second_process_is_refused_until_the_first_is_gone(self, path: Path) -> None:
        with child(APPENDER, path) as first:
            assert first.stdout is not None
            first.stdout.readline()
            with pytest.raises(InUseError, match=f"process {first.pid} on host"):
                async with SqliteStream.open(path):
                    pass
            first.kill()
        async with SqliteStream.open(path) as stream:
            assert stream.head > 0

    async def test_a_forked_child_does_not_keep_the_lease_of_a_killed_writer(
        self, path: Path
    ) -> None:
        with child(FORKER, path) as first:
            assert first.stdout is not None
            forked = int(first.stdout.readline())
            try:
                first.kill()
                first.wait()
                async with SqliteStream.open(path) as stream:
                    assert stream.head == 1
            finally:
                os.kill(forked, signal.SIGKILL)

    async def test_a_writer_that_was_taken_over_is_fenced(self, path: Path) -> None:
        async with SqliteStream.open(path) as stream:
            await stream.append([change(1)])
            with closing(sqlite3.connect(path)) as other, other:
                other.execute("UPDATE lease SET epoch = epoch + 1, pid = 4711, host = 'elsewhere'")
            for _ in range(2):
                with pytest.raises(FencedError, match="process 4711 on host elsewhere"):
                    await stream.append([change(2)])
            assert isinstance(stream.failure, FencedError)
            batches = stream.follow()
            assert [item.position for item in await anext(batches)] == [1]
            with pytest.raises(FencedError):
                await anext(batches)
        assert [item.event for item in await read_all(path)] == [change(1)]

    async def test_a_takeover_before_the_first_append_is_noticed(self, path: Path) -> None:
        async with SqliteStream.open(path) as stream:
            with closing(sqlite3.connect(path)) as other, other:
                other.execute("UPDATE lease SET epoch = epoch + 1")
            with pytest.raises(FencedError):
                await stream.append([change(1)])


class TestQueue:
    async def test_callers_wait_when_too_much_is_pending(self, path: Path) -> None:
        done: list[int] = []

        async def append(stream: SqliteStream, n: int, size: int) -> None:
            await stream.append(changes(n, size))
            done.append(n)

        async with SqliteStream.open(path) as stream:
            async with anyio.create_task_group() as tasks:
                for n in range(6):
                    tasks.start_soon(append, stream, n, MAX_PENDING // 2)
                most = 0
                while len(done) < 6:
                    most = max(most, stream.pending)
                    await checkpoint()
            assert most == MAX_PENDING
            assert done == list(range(6))
            assert stream.head == 3 * MAX_PENDING

    async def test_an_append_cancelled_while_waiting_for_room_records_nothing(
        self, path: Path
    ) -> None:
        async with SqliteStream.open(path) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(stream.append, changes(0, MAX_PENDING))
            await checkpoint()
            with anyio.CancelScope() as scope:
                scope.cancel()
                await stream.append([change(-1)])
            await stream.append([EngineStopped()])
            assert stream.head == MAX_PENDING + 1

    async def test_what_was_accepted_is_committed_when_the_stream_is_closed(
        self, path: Path
    ) -> None:
        async with anyio.create_task_group() as tasks, SqliteStream.open(path) as stream:
            for n in range(30):
                tasks.start_soon(stream.append, [change(n)])
            await checkpoint()
        assert len(await read_all(path)) == 30

    async def test_what_was_accepted_is_committed_whoever_cancels_while_it_is_closed(
        self, path: Path
    ) -> None:
        appending: list[asyncio.Task[range]] = []
        closing = asyncio.Event()

        async def use() -> None:
            async with SqliteStream.open(path) as stream:
                await stream.append([EngineStopped()])
                appending.extend(
                    asyncio.create_task(stream.append(changes(0, MAX_BATCH))) for _ in range(9)
                )
                await asyncio.sleep(0)
                closing.set()

        user = asyncio.create_task(use())
        await closing.wait()
        await asyncio.sleep(0)
        user.cancel()  # as a loop does that ends, or `asyncio.timeout`: they know no shields
        with pytest.raises(asyncio.CancelledError):
            await user
        positions = await asyncio.gather(*appending, return_exceptions=True)
        assert positions == [range(2 + n * MAX_BATCH, 2 + (n + 1) * MAX_BATCH) for n in range(9)]
        assert len(await read_all(path)) == 1 + 9 * MAX_BATCH

    async def test_whoever_cancels_while_it_is_closed_the_next_writer_may_begin(
        self, path: Path
    ) -> None:
        async def use(used: asyncio.Event) -> None:
            async with SqliteStream.open(path) as stream:
                await stream.append([EngineStopped()])
                used.set()

        for turns in range(40):  # each comes a little later than the one before
            used = asyncio.Event()
            user = asyncio.create_task(use(used))
            while not (used.is_set() or user.done()):
                await asyncio.sleep(0)
            for _ in range(turns):
                await asyncio.sleep(0)
            while not user.done():
                user.cancel()
                await asyncio.sleep(0)
            assert user.cancelled() or user.exception() is None
        assert len(await read_all(path)) == 40

    @pytest.mark.parametrize(
        ("where", "number", "what"),
        [
            ("begin", 1, "interrupt"),  # while the connection is opened
            ("begin", 2, "interrupt"),
            ("end", 1, "error"),
            ("end", 2, "interrupt"),
        ],
    )
    def test_nobody_waits_for_ever_when_a_transaction_cannot_begin_or_end(
        self, path: Path, where: str, number: int, what: str
    ) -> None:
        told = ended(INTERRUPTED, path, where, str(number), what)
        if what == "interrupt":  # the loop ends, and whoever waited with it
            assert told.stderr.splitlines()[-1] == "KeyboardInterrupt"
        else:
            refused = 4 if number == 1 else 2
            assert (told.stdout.splitlines(), told.stderr) == (["RuntimeError()"] * refused, "")


class TestDisk:
    async def test_the_write_ahead_file_is_folded_in_before_it_grows_large(
        self, path: Path
    ) -> None:
        """Not so soon that each page is written again for every event, and long before 64 MiB."""
        wal, sizes = path.with_name("stream.db-wal"), []
        async with SqliteStream.open(path) as stream:
            for number in range(60):
                await stream.append([SourceChanged("s", "", f"{number} {'x' * MIB}")])
                sizes.append(wal.stat().st_size)
        assert 12 * MIB < max(sizes) < 24 * MIB

    async def test_after_a_failed_write_nothing_more_is_appended_and_nothing_is_lost(
        self, path: Path
    ) -> None:
        async with SqliteStream.open(path) as stream:
            await stream.append(changes(1, 3))
            limit = path.with_name("stream.db-wal").stat().st_size + 100
            with (
                writes_fail_beyond(limit),
                pytest.raises(StreamError, match="unknown whether") as first,
            ):
                await stream.append(changes(4, 200))
            with pytest.raises(StreamError, match="unknown whether") as second:
                await stream.append([change(4)])
            assert "I/O error" in str(first.value.cause)
            assert second.value.cause == first.value.cause
            assert stream.failure is not None
        async with SqliteStream.open(path) as stream:
            assert [item.event for item in await stream.read()] == changes(1, 3)
            assert await stream.append([change(4)]) == range(4, 5)
            assert await stream.verify() == 4

    def test_a_refused_append_hinders_no_other_where_a_callback_knows_no_loop(
        self, path: Path
    ) -> None:
        path.with_name("sniffio.py").write_text(SNIFFIO)
        told = ended(LOCKED_OUT, path)
        assert told.stdout.splitlines() == [
            "refused: database is locked (SQLITE_BUSY)",
            "2 True",
        ], told.stderr

    async def test_a_full_disk_is_named_and_appends_resume_when_there_is_space(
        self, tmp_path: Path
    ) -> None:
        if subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode:
            pytest.skip("needs the right to mount a small disk")
        command = [*NAMESPACE, sys.executable, "-c", FILLER, str(tmp_path)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)
        full = f"{tmp_path}/stream.db: the disk is full, the events were not recorded"
        assert result.stdout == f"{full} None True\nTrue True\n"

    async def test_a_stream_at_its_largest_size_refuses_and_resumes(self, path: Path) -> None:
        async with SqliteStream.open(path) as stream:
            await stream.append([CursorMoved("files", {"a": "1"})])
            await limit_pages(stream, 20)
            with pytest.raises(StreamError, match="disk is full"):
                await stream.append([*changes(1, 2000), CursorMoved("files", {"a": "2"})])
            assert (stream.failure, stream.head) == (None, 1)
            assert await stream.cursor("files") == {"a": "1"}
            await limit_pages(stream, 100_000)
            assert await stream.append(changes(1, 2000)) == range(2, 2002)
            assert await stream.verify() == 2001

    async def test_what_cannot_be_written_is_refused_and_can_still_be_read(self) -> None:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
            path = folder / "stream.db"
            events = await fill(path, 20)
            stack.enter_context(read_only(folder))
            with pytest.raises(StreamError, match="cannot be opened for writing"):
                async with SqliteStream.open(path):
                    pass
            assert await read_all(path) == events

    async def test_newest_events_beside_a_read_only_file_are_not_passed_over(self) -> None:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
            (folder / "live").mkdir()
            async with SqliteStream.open(folder / "live" / "stream.db") as stream:
                await stream.append(changes(1, 3))
                for name in ("stream.db", "stream.db-wal"):
                    shutil.copy(folder / "live" / name, folder / name)
            stack.enter_context(read_only(folder))
            with pytest.raises(StreamError, match="cannot be read where it is"):
                await read_all(folder / "stream.db")


class TestRefusedFiles:
    async def test_a_newer_format_is_refused_untouched(self, path: Path) -> None:
        await fill(path, 20)
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE meta SET value = ? WHERE name = 'format'", (FORMAT + 1,))
        await self.assert_refused(path, f"has format {FORMAT + 1}")

    async def test_what_is_no_database_is_refused_untouched(self, path: Path) -> None:
        path.write_bytes(b"year,month,day\n" * 1000)
        await self.assert_refused(path, "no SQLite database")

    async def test_another_database_is_refused_untouched(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("CREATE TABLE events (name TEXT)")
        await self.assert_refused(path, "no stream of Freshet")

    async def test_a_folder_in_its_place_is_refused(self, path: Path) -> None:
        path.mkdir()
        with pytest.raises(StreamError):
            async with SqliteStream.open(path):
                pass

    async def test_reading_where_nothing_is_says_so_and_makes_nothing(self, path: Path) -> None:
        with pytest.raises(StreamError, match="there is no stream"):
            await read_all(path)
        assert not path.exists()

    async def assert_refused(self, path: Path, why: str) -> None:
        before = path.read_bytes()
        with pytest.raises(StreamError, match=why) as refused:
            async with SqliteStream.open(path):
                pass
        assert refused.value.hint
        with pytest.raises(StreamError, match=why):
            await read_all(path)
        assert path.read_bytes() == before


class TestDamage:
    @pytest.mark.parametrize("position", [1, 777, 1500, 2999])
    async def test_a_flipped_bit_is_found_by_folding_and_its_position_named(
        self, path: Path, position: int
    ) -> None:
        await fill(path, 3000)
        damaged = flip(path, position_in(path, position))
        seen: list[Recorded] = []
        named = f"damaged at position {position}:"
        async with SqliteStream.open(path) as stream:
            with pytest.raises(StreamError, match=named):
                await follow_into(seen, stream)
            with pytest.raises(StreamError, match=named):
                await stream.verify()
            with pytest.raises(StreamError, match=named):
                await stream.read(subject=f"landing/flights@{position % 7}", limit=3000)
        assert [item.event for item in seen] == changes(1, len(seen))
        assert len(seen) < position
        assert path.read_bytes() == damaged

    async def test_a_removed_event_is_named(self, path: Path) -> None:
        await fill(path, 20)
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("DROP TRIGGER events_no_delete")
            db.execute("DELETE FROM events WHERE position = 7")
        async with SqliteReader.open(path) as reader:
            for after in (0, 6, 7):
                with pytest.raises(StreamError, match="damaged at position 7: it is missing"):
                    await reader.read(after)
            assert [item.position for item in await reader.read(8, limit=2)] == [9, 10]

    async def test_a_damaged_end_is_refused_before_anything_is_appended(self, path: Path) -> None:
        await fill(path, 20)
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("DROP TRIGGER events_no_update")
            db.execute("UPDATE events SET actor = 'mallory' WHERE position = 20")
        with pytest.raises(StreamError, match="damaged at position 20"):
            async with SqliteStream.open(path):
                pass

    async def test_cursors_that_are_not_those_of_the_events_are_found(self, path: Path) -> None:
        await fill(path, 20)
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE cursors SET value = '2'")
        with pytest.raises(StreamError, match="cursors"):
            await read_all(path)

    async def test_no_flipped_bit_anywhere_ever_changes_what_is_read(
        self, path: Path, tmp_path: Path
    ) -> None:
        events = await fill(path, 100)
        draw = random.Random(20130106)
        found = 0
        for n in range(FLIPS):
            copy = tmp_path / f"copy-{n}.db"
            shutil.copy(path, copy)
            flip(copy, draw.randrange(path.stat().st_size))
            try:
                assert await read_all(copy) == events
            except StreamError:
                found += 1
        assert found > 0

    async def test_events_cannot_be_changed_or_deleted(self, path: Path) -> None:  # B5.1
        await fill(path, 3)
        with closing(sqlite3.connect(path)) as db:
            for statement in ("UPDATE events SET actor = 'x'", "DELETE FROM events"):
                with pytest.raises(sqlite3.IntegrityError, match="events are immutable"):
                    db.execute(statement)


class TestReader:
    async def test_it_keeps_few_pages_in_memory(self, path: Path) -> None:
        """SQLite's own 2 MB filled up slowly, in each reader of a daemon."""
        async with SqliteStream.open(path) as stream:
            await stream.append([change(1)])
        async with reading(path) as connection:
            (found,) = await connection.execute_fetchall("PRAGMA cache_size")
        assert found[0] == -READER_CACHE_KIB

    async def test_a_reader_follows_a_live_writer_without_gaps(self, path: Path) -> None:
        async with SqliteStream.open(path) as stream, SqliteReader.open(path) as reader:

            async def append() -> None:
                for n in range(100):
                    await stream.append(changes(10 * n, 10))

            seen: list[Recorded] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(append)
                async for batch in reader.follow():
                    seen += batch
                    if len(seen) == 1000:
                        break
            assert seen == await stream.read(limit=1000)
            assert reader.head == 1000
            assert await reader.at(500) == seen[499]
            assert await reader.at(1001) is None

    async def test_a_reader_follows_another_process_and_outlives_it(self, path: Path) -> None:
        with child(APPENDER, path) as appender:
            assert appender.stdout is not None
            appender.stdout.readline()
            async with SqliteReader.open(path) as reader:
                batches: AsyncIterator[list[Recorded]] = reader.follow()
                seen = list(await anext(batches))
                appender.kill()
                appender.wait()
                head = await reader.refresh()
                while seen[-1].position < head:
                    seen += await anext(batches)
                assert [item.position for item in seen] == list(range(1, head + 1))
                name = next(item.event for item in reversed(seen))
                assert isinstance(name, CursorMoved)
                assert await reader.cursor(name.sensor) == name.items

    async def test_a_reader_cannot_write(self, path: Path) -> None:
        await fill(path, 3)
        async with SqliteReader.open(path) as reader:
            connection = reader._connection
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                await connection.execute("DELETE FROM cursors")

    async def test_people_can_read_the_stream_with_sqlite(self, path: Path) -> None:
        async with SqliteStream.open(path) as stream:
            await stream.append([change(1)], key="k", actor="ana")
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
                query = "SELECT position, type, subject, key, actor, typeof(data), data FROM events"
                (*columns, data) = db.execute(query).fetchone()
        assert columns == [1, "SourceChanged", "landing/flights@1", "k", "ana", "text"]
        assert json.loads(data)["data_version"] == change(1).data_version


@contextmanager
def writes_fail_beyond(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes: the kernel answers EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder and its files cannot be written, not even when the tests run as root."""
    for item in (*folder.iterdir(), folder):
        item.chmod(0o555 if item.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


async def limit_pages(stream: SqliteStream, pages: int) -> None:
    """What SQLite calls full: a limit of its own, with the same error as a full disk."""
    connection = stream._connection
    assert connection is not None
    await connection.execute_fetchall(f"PRAGMA max_page_count = {pages}")
