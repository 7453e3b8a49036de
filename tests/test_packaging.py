"""What users install is what the tree holds: once, complete, typed, small, and it imports."""

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("engine", "sensors", "projections")
NOT_COPIED = ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "tests")
MAX_CORE_PACKAGES = 15  # installed by `pip install freshet`, itself not counted


def run(*command: str | Path, cwd: Path) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel of a clean copy; the wheel is made from the tree."""
    folder = tmp_path_factory.mktemp("built")
    copy = copytree(ROOT, folder / "copy", symlinks=True, ignore=NOT_COPIED)
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    run(*build, "--wheel", "--sdist", cwd=copy)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment which holds the wheel and what it requires, nothing else."""
    home = tmp_path_factory.mktemp("installed") / "env"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home.parent)
    python = home / "bin" / "python"
    offline = ("--no-deps", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", python, "install", *offline, wheel, cwd=home)
    (packages,) = home.glob("lib/python*/site-packages")
    for name in core_packages(wheel):
        for part in {file.parts[0] for file in distribution(name).files or ()}:
            if part not in ("..", "__pycache__"):
                (packages / part).symlink_to(Path(str(distribution(name).locate_file(part))))
    return python


def core_packages(wheel: Path) -> set[str]:
    """The names of all packages that `pip install` of the wheel, without extras, brings in."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode("utf-8"))
    found: set[str] = set()
    todo = needed(metadata.get_all("Requires-Dist") or [])
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo |= needed(distribution(name).requires or [])
    return found


def needed(requirements: list[str]) -> set[str]:
    parsed = map(Requirement, requirements)
    return {
        canonicalize_name(r.name)
        for r in parsed
        if r.marker is None or r.marker.evaluate({"extra": ""})
    }


def tree() -> set[str]:
    """The files that should be installed, by the path they should have there."""
    inside = ["freshet" / path.relative_to(ROOT) for name in LINKED for path in files(ROOT / name)]
    face = [path.relative_to(ROOT) for path in files(ROOT / "freshet")]
    return {str(path) for path in (*inside, *face) if path.parts[1] not in LINKED or path in inside}


def files(folder: Path) -> Iterator[Path]:
    return (
        path
        for path in folder.rglob("*")
        if path.suffix == ".py" or path.name == "py.typed" or path.parent.name == "data"
    )


def test_the_face_folder_holds_three_relative_links() -> None:
    links = {
        path.name: str(path.readlink())
        for path in (ROOT / "freshet").iterdir()
        if path.is_symlink()
    }
    assert links == {name: f"../{name}" for name in LINKED}


def test_the_wheel_holds_the_files_of_the_tree_and_no_others(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    shipped = [name for name in names if ".dist-info/" not in name]
    assert sorted(shipped) == sorted(tree())
    assert "freshet/py.typed" in shipped
    assert [name for name in names if name.endswith("licenses/LICENSE")] != []


def test_the_sdist_holds_each_file_once_and_the_same_wheel_comes_from_it(
    built: Path, wheel: Path, tmp_path: Path
) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = [name.partition("/")[2] for name in tar.getnames()]
        tar.extractall(tmp_path, filter="data")
    python = sorted(name for name in names if name.endswith(".py"))
    expected = {
        path.removeprefix("freshet/") if path.split("/")[1] in LINKED else path for path in tree()
    }
    assert python == sorted(path for path in expected if path.endswith(".py"))
    (unpacked,) = tmp_path.iterdir()
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", tmp_path, cwd=unpacked)
    (again,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(wheel) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


def test_the_installed_wheel_imports_every_module_elsewhere(
    installed: Path, tmp_path: Path
) -> None:
    modules = sorted(
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in tree()
        if path.endswith(".py") and not path.endswith("__main__.py")
    )
    code = """
import importlib, sys
for name in sys.argv[1:]:
    print(importlib.import_module(name).__file__)
"""
    origins = run(installed, "-c", code, *modules, cwd=tmp_path).split()
    assert len(origins) == len(modules)
    assert [origin for origin in origins if "/env/lib/" not in origin] == []


def test_each_class_exists_once_whichever_way_it_is_imported(
    installed: Path, tmp_path: Path
) -> None:
    code = """
import sys
import freshet
import freshet.engine.events
import freshet.projections.view
import freshet.sensors.sensor
ours = [m for n, m in sys.modules.items() if n.partition(".")[0] in
        ("freshet", "engine", "sensors", "projections")]
assert all(m.__name__.partition(".")[0] == "freshet" for m in ours), ours
assert len({m.__file__ for m in ours}) == len(ours) > 10
assert freshet.projections.view.Recorded is freshet.engine.events.Recorded
print("once")
"""
    assert run(installed, "-c", code, cwd=tmp_path) == "once\n"


def test_the_installed_command_answers(installed: Path, tmp_path: Path) -> None:
    assert "Usage" in run(installed.parent / "freshet", "--help", cwd=tmp_path)


def test_the_core_needs_few_packages(wheel: Path) -> None:
    packages = core_packages(wheel)
    assert "msgspec" in packages
    assert len(packages) <= MAX_CORE_PACKAGES, sorted(packages)


def test_the_tree_installed_in_place_is_what_the_tests_import(tmp_path: Path) -> None:
    code = """
import freshet.engine.events, freshet.sensors.sensor
print(freshet.engine.events.__file__, freshet.sensors.sensor.__file__)
"""
    shown = run(sys.executable, "-c", code, cwd=tmp_path).split()
    expected = [ROOT / "engine" / "events.py", ROOT / "sensors" / "sensor.py"]
    assert [Path(path).resolve() for path in shown] == expected


def test_the_lock_pins_every_package_with_hashes_and_names_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    blocks = [block for block in lock.split("\n") if block and block[0] not in " #"]
    assert len(blocks) > MAX_CORE_PACKAGES
    assert [line for line in blocks if "==" not in line or not line.endswith("\\")] == []
    assert "://" not in lock
    assert "--index" not in lock
    names = {canonicalize_name(line.partition("==")[0]) for line in blocks}
    extras = {
        canonicalize_name(Requirement(text).name) for text in distribution("freshet").requires or []
    }
    assert extras - names == set()
