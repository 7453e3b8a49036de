"""A user's function that never comes back does not keep a daemon from ending."""

import signal
import subprocess
import sys
from pathlib import Path

PROJECT = """
import time

import freshet as fr

tide = fr.source("tide")


@fr.poll(source=tide, every="1s")
def hang() -> int:
    print("called", flush=True)
    time.sleep(1000)
    return 1


project = fr.Project([tide], sensors=[hang])
"""


def test_a_poll_that_hangs_does_not_outlive_sigterm(tmp_path: Path) -> None:
    """The daemon stops in order, and its process ends: pytest's timeout is far below the hang."""
    (tmp_path / "project.py").write_text(PROJECT)
    command = [sys.executable, "-m", "freshet", "run", "project.py"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stderr is not None
            assert any(line == "called\n" for line in daemon.stderr)
            daemon.send_signal(signal.SIGTERM)
            said = daemon.stderr.read()
            assert daemon.wait() == 0
        finally:
            daemon.kill()
    assert "stopped" in said
