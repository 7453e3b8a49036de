"""Dagster's daemon with its code server, as `dagster dev` has them, in a folder of their own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

GRAPH = Path(__file__).with_name("dagster_graph.py")
START_S = 240.0
STOP_S = 15.0

_LOOKED = (b"sensor: landing", b"Finished auto-materialization tick")

_WORKSPACE = "load_from:\n  - grpc_server:\n      socket: {socket}\n      location_name: graph\n"
_PLAIN = "telemetry:\n  enabled: false\n"
_UNQUEUED = """\
run_coordinator:
  module: dagster._core.run_coordinator
  class: DefaultRunCoordinator
"""


@contextlib.contextmanager
def running(home: Path, setting: str) -> Iterator[list[int]]:
    """The process ids of a daemon and its code server in this folder, ended with all they started;
    both have looked at everything once when this returns.

    `setting` is "best" (no run queue, every interval 1 s, runs in one process) or "default".
    From here on $DAGSTER_HOME of this process is the same folder. SIGTERM ends this process, by
    way of its `finally`s.
    """
    for name in ("inbox", "notes"):
        (home / name).mkdir()
    socket = str(home / "socket")
    (home / "dagster.yaml").write_text(_PLAIN + (_UNQUEUED if setting == "best" else ""))
    (home / "workspace.yaml").write_text(_WORKSPACE.format(socket=socket))
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["DAGSTER_PEER_FOLDER"] = str(home)
    os.environ["DAGSTER_PEER_SETTING"] = setting
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with contextlib.ExitStack() as ending:
        _make_storage(home)
        server = ("dagster", "api", "grpc", "-f", str(GRAPH), "-s", socket)
        daemon = ("dagster-daemon", "run", "-w", "workspace.yaml")
        started = [ending.enter_context(_process(home, command)) for command in (server, daemon)]
        _wait_for_a_look(home)
        yield started


def _make_storage(home: Path) -> None:
    """Its files are there before anybody uses them: two who make them at once spoil them."""
    with (home / "log").open("ab") as log:
        script = str(Path(sys.executable).with_name("dagster"))
        command = [script, "instance", "info"]
        subprocess.run(command, cwd=home, stdout=log, stderr=log, check=True, timeout=START_S)


def _wait_for_a_look(home: Path) -> None:
    """Until the daemon has looked at both sensors once, by its own word."""
    until = time.monotonic() + START_S
    while not all(word in (log := (home / "log").read_bytes()) for word in _LOOKED):
        if time.monotonic() > until:
            raise TimeoutError(f"no sensor was looked at within {START_S:g} s: {log[-300:]!r}")
        time.sleep(0.2)


@contextlib.contextmanager
def _process(home: Path, command: tuple[str, ...]) -> Iterator[int]:
    """A process of the environment's own commands, in a group of its own."""
    script = str(Path(sys.executable).with_name(command[0]))
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [script, *command[1:]], cwd=home, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process.pid
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Politely first; whatever is left of its group at the end."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
