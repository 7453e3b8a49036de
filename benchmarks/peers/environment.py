"""Environments for the tools measured beside Freshet: never the one Freshet itself runs in."""

import shutil
import subprocess
import sys
from pathlib import Path

CACHE = Path("~/.cache/freshet-peers").expanduser()
"""Holds one environment per list of requirements, named as they are written."""

INSTALL_S = 1800.0
"""Longest wait for each of the two steps: making an environment, and installing into it. The
largest takes a minute, and ten times as long beside other work.
"""

DAGSTER = ("dagster==1.13.28",)

EVENTSOURCING = ("eventsourcing==9.5.6",)

_BENEATH = ("pydantic==2.14.3", "sqlalchemy==2.1.9", "starlette==1.10.0")
"""What the peers with a server stand on, as measured: a newer one may stop them from starting."""

PREFECT = ("prefect==3.8.8", "fastapi==0.139.0", *_BENEATH)
"""Prefect 3.8.8 takes any FastAPI from 0.139 on and below 1.0, but does not start with 0.165, in
which a parameter that it uses is gone. Prefect 3.9 asked for a certifi that was not to be had.
"""

AIRFLOW = ("apache-airflow==3.3.2", "fastapi==0.136.3", *_BENEATH)

_FINISHED = ".installed"


def python_of(peer: str, *requirements: str) -> Path | None:
    """The interpreter of the environment in which `requirements` (say "dagster==1.13.28") are
    installed together, made on first use.

    None when it cannot be made, with the reason on stderr under the name of `peer`; nothing of
    it is then left, so the next call tries again. An environment whose making was interrupted
    is made anew.
    """
    if isinstance(made := environment_of(*requirements), Path):
        return made
    print(f"{peer}: {made}", file=sys.stderr)
    return None


def environment_of(*requirements: str) -> Path | str:
    """The same, but a reason in one line where there is no such environment."""
    home = CACHE / ",".join(requirements)
    python = home / "bin" / "python"
    if (home / _FINISHED).exists() and python.exists():
        return python
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = [
        [sys.executable, "-m", "venv", "--clear", str(home)],
        [*install, *requirements],
    ]
    for step in steps:
        if reason := _failure(step):
            shutil.rmtree(home, ignore_errors=True)
            return f"{' '.join(requirements)} cannot be installed: {reason}"
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
