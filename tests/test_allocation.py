"""What becomes of memory: large values, what stays, and what is left behind in circles."""

import gc
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from freshet.engine import allocation
from freshet.engine.allocation import ARENAS, collect_garbage
from tests.test_cli import PATIENCE_S, Place

on_glibc = pytest.mark.skipif(sys.platform != "linux", reason="glibc's arenas are meant")

THREADS = 8
LARGEST_MB = 8

GROWN = f"""
import threading, psutil
{{before}}

def work():
    for size in (1, 2, 4, {LARGEST_MB}):
        for _ in range(2):
            one = bytearray(size * 1_000_000)
            at_once.wait()
            del one

at_once = threading.Barrier({THREADS})
size = psutil.Process().memory_info().rss
threads = [threading.Thread(target=work) for _ in range({THREADS})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print((psutil.Process().memory_info().rss - size) // 1_000_000)
"""


def grown_mb(before: str, **env: str) -> int:
    """By how much a process grows whose threads have made large values and dropped them."""
    code = GROWN.format(before=before)
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env={**os.environ, **env}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


GIVE_BACK = "from freshet.engine.allocation import give_back; give_back()"


@on_glibc
def test_no_thread_keeps_what_its_large_values_took() -> None:
    """Eight threads, values up to 8 MB: less than one of them stays of all."""
    assert grown_mb(GIVE_BACK) < LARGEST_MB


@on_glibc
def test_what_was_set_for_the_process_is_obeyed() -> None:
    """A threshold above the values: each thread's arena keeps what they took."""
    kept = {"MALLOC_MMAP_THRESHOLD_": "30000000", "MALLOC_TRIM_THRESHOLD_": "60000000"}
    assert grown_mb(GIVE_BACK, **kept) > LARGEST_MB


COUNTED = f"""
import ctypes, sys, threading
{{before}}

def work():
    held = [bytearray(10_000) for _ in range(20)]
    at_once.wait()

at_once = threading.Barrier({THREADS})
threads = [threading.Thread(target=work) for _ in range({THREADS})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
told = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, told)
libc.fclose(told)
print(open(sys.argv[1]).read().count("<heap nr="))
"""


def arenas(place: Path, before: str, **env: str) -> int:
    """How many a process has whose threads have held something at once."""
    command = [sys.executable, "-c", COUNTED.format(before=before), str(place / "told.xml")]
    done = subprocess.run(
        command, env={**os.environ, **env}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@on_glibc
def test_all_threads_share_few_arenas(tmp_path: Path) -> None:
    """Each more would keep what was once needed in it; the count set for the process is obeyed."""
    assert arenas(tmp_path, GIVE_BACK) <= ARENAS
    assert arenas(tmp_path, GIVE_BACK, MALLOC_ARENA_MAX="5") == 5
    assert arenas(tmp_path, GIVE_BACK, GLIBC_TUNABLES="glibc.malloc.arena_max=5") == 5


@contextmanager
def running(folder: Path, project: str) -> Iterator[Place]:
    """A place whose daemon is up; it has to stop in order at the end."""
    place = Place(folder)
    (folder / "project.py").write_text(project)
    try:
        place.start()
        place.wait_for("EngineStarted", "")
        yield place
        place.stop()
    finally:
        place.kill()


PROJECT = f"""
import threading, psutil
import freshet as fr

at_once = threading.Barrier({THREADS})

def grown(wait):
    size = psutil.Process().memory_info().rss
    for mb in (1, 2, 4, {LARGEST_MB}):
        for _ in range(2):
            one = bytearray(mb * 1_000_000)
            wait()
            two = bytearray(mb * 1_000_000)
            del one
            last = bytearray(200_000)
            del two
    wait()
    return str((psutil.Process().memory_info().rss - size) // 1_000_000)

go = fr.source("go")
assets = []
for number in range({THREADS}):

    @fr.asset(key=f"a{{number}}", deps=["go"], code_version="1")
    def made() -> str:
        return grown(at_once.wait)

    assets.append(made)

@fr.asset(deps=["go"], executor="process", code_version="1")
def elsewhere() -> str:
    return grown(lambda: None)

project = fr.Project([go, *assets, elsewhere], slots={THREADS + 1}, store=fr.LocalStore("data"))
"""


@on_glibc
def test_a_daemon_is_no_larger_for_what_its_runs_have_held(tmp_path: Path) -> None:
    """Eight runs at once in threads, and one in a worker process, each with values up to 8 MB."""
    with running(tmp_path, PROJECT) as place:
        assert place.freshet("emit", "go", "--version", "1").returncode == 0
        place.wait_for("RunSucceeded", "", THREADS + 1)
        names = [*(f"a{number}" for number in range(THREADS)), "elsewhere"]
        grown = {name: int((tmp_path / f"data/{name}.txt").read_text()) for name in names}
        assert {name: mb for name, mb in grown.items() if mb >= LARGEST_MB} == {}


LOOKED_THROUGH = """
import gc
import freshet as fr

go = fr.source("go")

@fr.asset(deps=["go"], code_version="1")
async def seen() -> str:
    frozen, young = gc.get_freeze_count(), gc.get_threshold()[0]
    return f"{frozen} {young}"

project = fr.Project([go, seen], store=fr.LocalStore("data"))
"""


MORE = """
more = [[] for _ in range(50_000)]
"""


@on_glibc
def test_a_daemon_does_not_look_for_garbage_in_what_stays(tmp_path: Path) -> None:
    """Also after a reload, when what there is to stay is something else."""
    project = tmp_path / "project.py"
    found = []
    with running(tmp_path, LOOKED_THROUGH) as place:
        for version, runs in (("1", 1), ("2", 3)):  # other code is a run as well
            assert place.freshet("emit", "go", "--version", version).returncode == 0
            place.wait_for("RunSucceeded", "", runs)
            found.append([int(word) for word in (tmp_path / "data/seen.txt").read_text().split()])
            project.write_text(LOOKED_THROUGH.replace('"1"', '"2"') + MORE)
            assert place.freshet("reload").returncode == 0
    (first, young), (second, _) = found
    assert first > 10_000
    assert second > first + 45_000
    assert young > 700


class Circle:
    """Goes only when the collector comes, with all that hangs on it."""

    def __init__(self) -> None:
        self.me = self


@pytest.mark.anyio
async def test_garbage_is_collected_only_while_something_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(allocation, "COLLECT_EVERY_S", 0.0)
    monkeypatch.setattr(allocation, "COLLECT_SHARE", 0)
    looked, head = 0, 1

    def moved() -> int:
        nonlocal looked
        looked += 1
        return head

    async def looked_again() -> None:
        before = looked
        while looked < before + 3:
            await anyio.sleep(0)

    gc.disable()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect_garbage, moved)
            await looked_again()
            left = weakref.ref(Circle())
            await looked_again()
            assert left() is not None
            head = 2
            await looked_again()
            assert left() is None
            tasks.cancel_scope.cancel()
    finally:
        gc.enable()


@pytest.mark.anyio
async def test_what_takes_long_is_done_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """One part in a thousand of the time, whatever there is to look through."""
    slept, clock = [], iter((0.0, 0.01, 10.0, 10.5))

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise EOFError

    monkeypatch.setattr(anyio, "sleep", sleep)
    monkeypatch.setattr(allocation, "perf_counter", lambda: next(clock))
    with pytest.raises(EOFError):
        await collect_garbage(iter(range(9)).__next__)
    assert slept == [30.0, 30.0, 500.0]


LEAVES_A_CIRCLE = """
from pathlib import Path
import freshet as fr
from freshet.engine import allocation

allocation.COLLECT_EVERY_S = 0.05
go = fr.source("go")

class Circle:
    def __init__(self):
        self.me = self

    def __del__(self):
        Path("gone").touch()

@fr.asset(deps=["go"])
async def made() -> str:
    Circle()
    return "made"

project = fr.Project([go, made])
"""


def test_a_daemon_drops_what_assets_leave_in_circles(tmp_path: Path) -> None:
    with running(tmp_path, LEAVES_A_CIRCLE) as place:
        assert place.freshet("emit", "go", "--version", "1").returncode == 0
        until = time.monotonic() + PATIENCE_S
        while not (tmp_path / "gone").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
