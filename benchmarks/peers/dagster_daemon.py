"""Dagster's daemon with its code server, as `dagster dev` has them, in a folder of their own."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

GRAPH = Path(__file__).with_name("dagster_graph.py")
STOP_S = 15.0

_WORKSPACE = f"load_from:\n  - python_file: {GRAPH}\n"
_PLAIN = "telemetry:\n  enabled: false\n"
_UNQUEUED = """\
run_coordinator:
  module: dagster._core.run_coordinator
  class: DefaultRunCoordinator
"""


@contextlib.contextmanager
def running(home: Path, setting: str) -> Iterator[int]:
    """The process id of a daemon whose home is this folder, ended with all it has started.

    `setting` is "best" (no run queue, every interval 1 s, runs in one process) or "default".
    From here on $DAGSTER_HOME of this process is the same folder.
    """
    for name in ("inbox", "notes"):
        (home / name).mkdir()
    (home / "dagster.yaml").write_text(_PLAIN + (_UNQUEUED if setting == "best" else ""))
    (home / "workspace.yaml").write_text(_WORKSPACE)
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["DAGSTER_PEER_FOLDER"] = str(home)
    os.environ["DAGSTER_PEER_SETTING"] = setting
    command = [str(Path(sys.executable).with_name("dagster-daemon")), "run", "-w", "workspace.yaml"]
    with (home / "log").open("wb") as log:
        daemon = subprocess.Popen(command, cwd=home, stdout=log, stderr=log, start_new_session=True)
        try:
            yield daemon.pid
        finally:
            _stop(daemon)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    """Politely first; its process group, which is its own, at the end."""
    daemon.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        daemon.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(daemon.pid, signal.SIGKILL)
    daemon.wait()
