"""The scripts that measure Dagster: what can be said of them where Dagster is not installed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers import environment

PEERS = Path(environment.__file__).parent
SCRIPTS = sorted(PEERS.glob("dagster_*.py"))
BESIDE = {path.stem for path in PEERS.glob("*.py")}


def imported(tree: ast.Module) -> set[str]:
    """The top names of all that is imported, anywhere in the module."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or ".")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_needs_dagster_and_what_lies_beside_it_and_nothing_of_freshet(
    script: Path,
) -> None:
    names = imported(ast.parse(script.read_text(encoding="utf-8")))
    assert names - set(sys.stdlib_module_names) - BESIDE - {"dagster"} == set()


def test_the_script_of_the_start_says_its_options_without_importing_dagster() -> None:
    """What it measures is the import in a fresh process: its own must be without it."""
    command = [sys.executable, str(PEERS / "dagster_start.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--idle-s" in done.stdout
