"""Memory of large values goes back to the system, in whichever thread they were."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from freshet.engine.allocation import ARENAS
from tests.test_cli import Place

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's arenas are meant")

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


def test_no_thread_keeps_what_its_large_values_took() -> None:
    """Eight threads, values up to 8 MB: less than one of them stays of all."""
    assert grown_mb(GIVE_BACK) < LARGEST_MB


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


def test_all_threads_share_few_arenas(tmp_path: Path) -> None:
    """Each more would keep what was once needed in it; the count set for the process is obeyed."""
    assert arenas(tmp_path, GIVE_BACK) <= ARENAS
    assert arenas(tmp_path, GIVE_BACK, MALLOC_ARENA_MAX="5") == 5
    assert arenas(tmp_path, GIVE_BACK, GLIBC_TUNABLES="glibc.malloc.arena_max=5") == 5


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


def test_a_daemon_is_no_larger_for_what_its_runs_have_held(tmp_path: Path) -> None:
    """Eight runs at once in threads, and one in a worker process, each with values up to 8 MB."""
    place = Place(tmp_path)
    (tmp_path / "project.py").write_text(PROJECT)
    try:
        place.start()
        place.wait_for("EngineStarted", "")
        assert place.freshet("emit", "go", "--version", "1").returncode == 0
        place.wait_for("RunSucceeded", "", THREADS + 1)
        names = [*(f"a{number}" for number in range(THREADS)), "elsewhere"]
        grown = {name: int((tmp_path / f"data/{name}.txt").read_text()) for name in names}
        assert {name: mb for name, mb in grown.items() if mb >= LARGEST_MB} == {}
        place.stop()
    finally:
        place.kill()


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


def test_a_daemon_does_not_look_for_garbage_in_what_stays(tmp_path: Path) -> None:
    """Also after a reload, when what there is to stay is something else."""
    place = Place(tmp_path)
    project = tmp_path / "project.py"
    project.write_text(LOOKED_THROUGH)
    found = []
    try:
        place.start()
        place.wait_for("EngineStarted", "")
        for version, runs in (("1", 1), ("2", 3)):  # other code is a run as well
            assert place.freshet("emit", "go", "--version", version).returncode == 0
            place.wait_for("RunSucceeded", "", runs)
            found.append([int(word) for word in (tmp_path / "data/seen.txt").read_text().split()])
            project.write_text(LOOKED_THROUGH.replace('"1"', '"2"') + MORE)
            assert place.freshet("reload").returncode == 0
        place.stop()
    finally:
        place.kill()
    (first, young), (second, _) = found
    assert first > 10_000
    assert second > first + 45_000
    assert young > 700
