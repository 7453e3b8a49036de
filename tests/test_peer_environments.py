"""Environments of the peers: one per list of requirements, and nothing left of a failed one."""

import json
import subprocess
from pathlib import Path
from zipfile import ZipFile

import pytest

from benchmarks.peers import environment
from benchmarks.peers.environment import environment_of, python_of

pytestmark = pytest.mark.timeout(600)  # seconds: a new environment takes 5, beside others 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a pip that knows only the wheels in a folder."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in ("one", "other"):
        wheel(wheels, name)
    monkeypatch.setattr(environment, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return tmp_path / "cache"


def wheel(folder: Path, name: str) -> None:
    """A package of one module, as pip installs it."""
    info = f"peer{name}-1.0.dist-info"
    files = {
        f"peer{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: peer{name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with ZipFile(folder / f"peer{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)


def installed(python: Path) -> set[str]:
    command = [str(python), "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {each["name"] for each in listed} - {"pip", "setuptools"}


def test_all_requirements_share_one_environment_made_anew_if_interrupted_and_else_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = cache / "peerone==1.0,peerother==1.0" / "left by an interrupted making"
    left.mkdir(parents=True)
    python = python_of("Peer", "peerone==1.0", "peerother==1.0")
    assert python is not None
    assert not left.exists()
    assert installed(python) == {"peerone", "peerother"}
    monkeypatch.setattr(environment, "_failure", lambda command: f"asked for {command}")
    assert python_of("Peer", "peerone==1.0", "peerother==1.0") == python
    assert [each.name for each in cache.iterdir()] == ["peerone==1.0,peerother==1.0"]


def test_an_environment_that_cannot_be_made_leaves_nothing_and_names_the_reason(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert python_of("Peer", "peerone==1.0", "peernone==2.0") is None
    assert capsys.readouterr().err == (
        "Peer: peerone==1.0 peernone==2.0 cannot be installed: "
        "ERROR: No matching distribution found for peernone==2.0\n"
    )
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_a_reason_and_no_crash(cache: Path) -> None:
    cache.touch()
    reason = environment_of("peerone==1.0")
    assert isinstance(reason, str)
    assert reason.startswith("peerone==1.0 cannot be installed: ")
    assert cache.is_file()
