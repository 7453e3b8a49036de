"""What runs beside a peer's script is waited for, heard when it fails, and always ended."""

import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.peers.servers import servers

PATIENCE_S = 60.0
"""Far above what a busy machine needs to start a python."""

PARENT = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
new = pathlib.Path("pid.new")
new.write_text(str(child.pid))
new.rename("pid")
time.sleep(600)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_process_that_ignores_being_asked_to_end_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.peers.servers.PATIENCE_S", 0.1)
    pid = tmp_path / "pid"
    with servers(tmp_path) as running:
        running.start("parent", python(PARENT), {})
        found = running.until(lambda: int(pid.read_text()), "child", PATIENCE_S)
        assert alive(found)
    until = time.monotonic() + PATIENCE_S
    while alive(found) and time.monotonic() < until:
        signal.sigtimedwait([], 0.02)
    assert not alive(found)


def test_one_that_ends_before_what_is_waited_for_is_named_with_its_last_line(
    tmp_path: Path,
) -> None:
    with servers(tmp_path) as running:
        running.start("server", python("import os; exit('no room for ' + os.environ['N'])"),
                      {"N": "7"})  # fmt: skip
        with pytest.raises(RuntimeError, match=r"^server ended before answer: no room for 7$"):
            running.until(lambda: None, "answer", PATIENCE_S)


def test_what_does_not_come_in_time_is_named_with_what_was_seen_last(tmp_path: Path) -> None:
    with (
        servers(tmp_path) as running,
        pytest.raises(TimeoutError, match=r"^no file within 0\.05 s; last seen: .*nowhere"),
    ):
        running.until((tmp_path / "nowhere").read_text, "file", 0.05)


def test_a_step_that_fails_is_named_and_one_that_succeeds_is_not_missed_later(
    tmp_path: Path,
) -> None:
    with servers(tmp_path) as running:
        running.call("step", python("pass"), {}, PATIENCE_S)
        answers = iter([None, 7])
        assert running.until(lambda: next(answers), "answer", PATIENCE_S) == 7
        with pytest.raises(RuntimeError, match=r"^other failed: no$"):
            running.call("other", python("exit('no')"), {}, PATIENCE_S)
