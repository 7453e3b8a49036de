"""Runs the script of a peer and reads what it says: figures and failures, one line of JSON each.

Whatever the script does (fail, hang, say something else), what it said before counts, and the rest
is a failure with its reason. None of its processes outlives it.
"""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

PATHS = re.compile(r"(?:\w+://\S+|(?<![\w.])/[\w.@+~=-]+(?:/[\w.@+~=-]+)+/?)")
"""Addresses, and paths of this machine: results are read elsewhere."""

LONGEST_REASON = 300
"""Characters of a reason that are kept."""


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: samples of a figure, or the reason for which there are none."""

    peer: str
    version: str
    case: str
    what: str = ""
    setting: str = ""
    configuration: str = ""
    unit: str = ""
    values: tuple[float, ...] = ()
    size: float | None = None
    failed: str = ""

    @property
    def side(self) -> str:
        """Who it is, with version and setting."""
        return ", ".join(filter(None, (f"{self.peer} {self.version}".strip(), self.setting)))


def hear(peer: str, command: Sequence[str], limit_s: float) -> list[Said]:
    """All that the command says within `limit_s` seconds, and at the end why it says no more.

    It runs in a new folder here, which is where it finds room for temporary files, too: /tmp may be
    memory, and what it writes is to reach the disk that ours reaches.
    """
    with tempfile.TemporaryDirectory(dir=".", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        out, err, work = folder / "out", folder / "err", folder / "work"
        work.mkdir()
        try:
            reason = _run(list(command), work, out, err, limit_s)
        except OSError as error:
            return [Said(peer, "", "", failed=shortened(str(error)))]
        lines = out.read_text(encoding="utf-8", errors="replace").splitlines()
        found = [one for line in lines if (one := _read(peer, line)) is not None]
        if reason:
            last = err.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            found.append(Said(peer, "", "", failed=shortened(": ".join([reason, *last]))))
        elif not found:
            found.append(Said(peer, "", "", failed="said nothing"))
        return found


def shortened(reason: str) -> str:
    """On one line, without addresses and paths of this machine."""
    return PATHS.sub("…", " ".join(reason.split()))[:LONGEST_REASON]


def _run(command: list[str], work: Path, out: Path, err: Path, limit_s: float) -> str:
    """Why it did not end well; empty if it did."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["TMPDIR"] = str(work)
    with (
        out.open("wb") as stdout,
        err.open("wb") as stderr,
        subprocess.Popen(
            command,
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        ) as process,
    ):
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"not over after {limit_s:g} s"
        finally:
            with suppress(ProcessLookupError):  # daemons that it left behind, too
                os.killpg(process.pid, signal.SIGKILL)
    return f"ended with code {code}" if code else ""


def _read(peer: str, line: str) -> Said | None:
    """A line as it was meant; None for what is neither a figure nor a failure."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        said = msgspec.json.decode(line, type=Said)
    except msgspec.MsgspecError as error:
        return Said(peer, "", "", failed=shortened(f"said what cannot be read: {error}"))
    if not said.values and not said.failed:
        return None
    return msgspec.structs.replace(said, failed=shortened(said.failed))
