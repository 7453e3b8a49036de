"""Environments for the tools measured beside Freshet: never the one Freshet itself runs in."""

import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path("~/.cache/freshet-peers").expanduser()
"""Holds one environment per requirement, named as the requirement is written."""

INSTALL_S = 600.0
"""Longest wait for each of the two steps: making an environment, and installing into it."""

_FINISHED = ".installed"


def python_of(peer: str, requirement: str) -> Path | None:
    """The interpreter of the environment in which `requirement` (say "dagster==1.13.28") is
    installed, made on first use.

    None when it cannot be made, with the reason on stderr under the name of `peer`; nothing of
    it is then left, so the next call tries again. An environment whose making was interrupted
    is made anew.
    """
    home = CACHE / requirement
    python = home / "bin" / "python"
    if (home / _FINISHED).exists() and python.exists():
        return python
    steps = [
        [sys.executable, "-m", "venv", "--clear", str(home)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"],
    ]
    steps[1].append(requirement)
    for step in steps:
        if reason := _failure(step):
            shutil.rmtree(home, ignore_errors=True)
            print(f"{peer}: {requirement} cannot be installed: {reason}", file=sys.stderr)
            return None
    (home / _FINISHED).touch()
    return python


def _failure(command: list[str]) -> str | None:
    """Why the command failed, in its own last line; None if it did not."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=INSTALL_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if not done.returncode:
        return None
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
