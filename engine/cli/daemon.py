"""Commands about the daemon itself: is it well, load definitions anew, have systemd run it."""

import os
import shlex
import sys
from pathlib import Path

import anyio
import click

from freshet.engine.cli.output import age, print_json
from freshet.engine.cli.state import NOBODY, json_option, profile_option, run_async, state_option
from freshet.engine.errors import DefinitionError, RequestError
from freshet.engine.reports import HealthReport
from freshet.engine.running import GRACE_S
from freshet.engine.settings import chosen_profile
from freshet.engine.socket import ask_health, ask_reload
from freshet.engine.target import load_project

ANSWER_S = 5.0
"""How long a daemon may take to answer how it is; more than it waits for its own loop."""

MARGIN_S = 15.0
"""What systemd waits beyond the grace of live runs: closing takes a moment too."""

WATCHDOG_S = 60
"""After so long without a sign of life systemd starts the daemon anew."""


@click.command()
@state_option
@json_option
def reload(state: Path, as_json: bool) -> None:
    """Have the daemon load its project anew, with the modules of its folder that it imports.

    Runs that are alive go on with what they were started with. If the project does not load,
    everything stays as it is, and the exit code is 1.
    """
    try:
        report = run_async(ask_reload, state)
    except NOBODY:
        raise _nobody(state) from None
    if as_json:
        print_json(report)
    fault = report.fault
    if fault is not None:
        raise DefinitionError(fault.message, cause=fault.cause, hint=fault.hint)
    if not as_json:
        click.echo(f"reloaded: {report.describe()}")


@click.command()
@state_option
@json_option
def health(state: Path, as_json: bool) -> int:
    """Is the daemon well? Does it answer, fold what is recorded, record, and read its sensors?

    Exit code 0, or 1 and why not; also when no daemon runs.
    """
    try:
        report = run_async(answered, state)
    except NOBODY:
        problem = f"no daemon answers for '{state}'"
        if as_json:
            print_json({"ok": False, "problems": [problem], "warnings": []})
        else:
            click.echo(f"not ok: {problem}")
        return 1
    if as_json:
        print_json(report)
    else:
        _print_health(report)
    return 0 if report.ok else 1


async def answered(state: Path) -> HealthReport:
    """What the daemon says of itself; raises one of NOBODY when it does not answer in time."""
    with anyio.fail_after(ANSWER_S):
        return await ask_health(state)


def _print_health(report: HealthReport) -> None:
    word = "ok" if report.ok else "not ok"
    last = report.decided_ms_ago
    ago = f", decided {age(last * 1000)} ago" if last is not None else ""
    click.echo(f"{word}: pid {report.pid}, at position {report.position}{ago}")
    for problem in report.problems:
        click.echo(f"  {problem}")
    for warning in report.warnings:
        click.echo(f"  warning: {warning}")


@click.command("systemd-unit")
@click.argument("target", metavar="TARGET")
@profile_option
@state_option
def systemd_unit(target: str, state: Path) -> None:
    """Print a systemd unit that keeps the project running, with the paths of this machine.

    `freshet systemd-unit project.py > ~/.config/systemd/user/sales.service`
    """
    load_project(target)  # what does not load is not worth a unit
    user, python = os.environ.get("USER", ""), Path(sys.executable)
    click.echo(unit(target, Path.cwd(), state, python, user, chosen_profile()))


def unit(target: str, folder: Path, state: Path, python: Path, user: str, profile: str = "") -> str:
    """The text of the unit: everything absolute, as systemd knows no working directory of ours."""
    words = [str(python), "-m", "freshet", "run", target, "--state", str(folder / state)]
    words += ["--profile", profile] if profile else []
    command = " ".join(_quoted(word) for word in words)
    stop_s = int(GRACE_S + MARGIN_S)
    as_user = f"# User={user}  (of a system service)\n" if user else ""
    return f"""[Unit]
Description=Freshet: {_plain(target)} in {_plain(str(folder))}
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
{as_user}WorkingDirectory={_plain(str(folder))}
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=1
WatchdogSec={WATCHDOG_S}
TimeoutStartSec=infinity
TimeoutStopSec={stop_s}
KillMode=mixed

[Install]
WantedBy=default.target"""


def _quoted(word: str) -> str:
    """A word of a command line of systemd."""
    plain = _plain(word).replace("\\", "\\\\").replace("$", "$$")
    return plain if shlex.quote(word) == word else '"' + plain.replace('"', '\\"') + '"'


def _plain(text: str) -> str:
    """Text in which systemd finds no specifier. Raises RequestError for what no unit can hold."""
    if "\n" in text:
        raise RequestError(f"{text!r} has a line break: no unit can hold it")
    return text.replace("%", "%%")


def _nobody(state: Path) -> RequestError:
    return RequestError(
        f"no daemon answers for '{state}'",
        hint="start one with `freshet run TARGET`: it loads what there is",
    )
