"""Every page is true: its snippets run, its commands exit with 0, its links lead somewhere."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNNABLE = sorted({ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")})
LINKED = sorted({*RUNNABLE, *ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md")})
EXAMPLES = sorted(ROOT.glob("examples/*/project.py"))

SKIPPED = ("pip install ", "python -m pip install ", "make ", "git clone ")
"""Commands of pages that are not run: they need the network, or run these tests."""

PATIENCE_S = 60
"""Bound on every command and every wait; what is waited for takes milliseconds."""

STILL = 3
"""Times in a row `freshet status` must say the same before it counts as the end of a reaction."""

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)
FILE_NAME = re.compile(r"# ([\w./-]+\.py)\s*\n")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line it starts on."""

    language: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in FENCE.finditer(text)]


def commands(block: str) -> list[str]:
    """Commands and `# wait until fresh` of a console block, in order; `> ` continues a command."""
    found: list[str] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append(line[2:])
        elif line.startswith("> ") and found:
            found[-1] += "\n" + line[2:]
        elif line.startswith("# wait"):
            found.append(line)
    return found


class Walk:
    """A reader who does what a page says, from top to bottom, in an empty folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.daemons: list[subprocess.Popen[bytes]] = []
        here = {k: v for k, v in os.environ.items() if not k.startswith(("FRESHET_", "PYTEST_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{here.get('PATH', '')}"
        self.env = {**here, "PATH": path}

    def follow(self, text: str) -> None:
        """Run every block; whatever goes on at the end is told to stop, and must stop well."""
        try:
            for block in blocks(text):
                where = f"{self.name}:{block.line}"
                if block.language == "python":
                    self.python(block.text, where)
                elif block.language == "console":
                    for command in commands(block.text):
                        self.command(command, where)
            self.stop()
        finally:
            for daemon in self.daemons:
                daemon.kill()
                daemon.wait()

    def python(self, text: str, where: str) -> None:
        named = FILE_NAME.match(text)
        path = self.folder / (named[1] if named else "snippet.py")
        assert path.resolve().is_relative_to(self.folder.resolve()), where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self.run([sys.executable, str(path.relative_to(self.folder))], where)
        if named and "fr.Project(" in text:
            self.run([sys.executable, "-m", "freshet", "check", named[1]], where)

    def command(self, command: str, where: str) -> None:
        if command.startswith("# wait"):
            waits = {"# wait until fresh": True, "# wait until something failed": False}
            assert command in waits, f"{where}: no such wait: {command}"
            self.wait_until(where, fresh=waits[command])
        elif command.startswith("freshet run ") and command.endswith("&"):
            self.daemons.append(self.start(command.removesuffix("&").split()))
        elif not f"{command} ".startswith(SKIPPED):
            self.run(["bash", "-e", "-c", command], where)

    def run(self, arguments: list[str], where: str) -> str:
        done = subprocess.run(
            arguments,
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        told = f"{where}: {arguments[-1]}\n{done.stdout}{done.stderr}{self.log()}"
        assert done.returncode == 0, told
        return done.stdout

    def start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", *arguments]
        with (self.folder / "daemon.log").open("ab") as log:
            return subprocess.Popen(
                program, cwd=self.folder, env=self.env, stdout=log, stderr=subprocess.STDOUT
            )

    def wait_until(self, where: str, *, fresh: bool) -> None:
        """Until everything is fresh, or something failed, and it has stayed so at one position for
        a few looks.
        """
        seen: list[int] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(seen) < STILL:
            assert time.monotonic() < deadline, f"{where}: never {fresh=}\n{self.log()}"
            ended = [daemon for daemon in self.daemons if daemon.poll() is not None]
            assert not ended, f"{where}: the daemon ended\n{self.log()}"
            done = subprocess.run(
                [sys.executable, "-m", "freshet", "status", "--json"],
                cwd=self.folder,
                env=self.env,
                capture_output=True,
                timeout=PATIENCE_S,
                check=False,
            )
            report = json.loads(done.stdout) if done.returncode == 0 else {}
            failed = any(row["failed"] for row in report.get("assets", ()))
            there = report.get("fresh", False) if fresh else failed
            if not there or (seen and seen[-1] != report["position"]):
                seen.clear()
            if there:
                seen.append(report["position"])

    def stop(self) -> None:
        for daemon in self.daemons:
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(PATIENCE_S) == 0, f"{self.name}: the daemon\n{self.log()}"

    def log(self) -> str:
        path = self.folder / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", RUNNABLE, ids=relative)
def test_what_a_page_shows_works(page: Path, tmp_path: Path) -> None:
    """Snippets and commands, in the order of the page, in one fresh folder."""
    Walk(relative(page), tmp_path).follow(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        "```python\nimport freshet as fr\n\nfr.sauce('x')\n```\n",
        "```python\n# project.py\nimport freshet as fr\n\nproject = None  # fr.Project()\n```\n",
        "```console\n$ true\n$ freshet staus\n```\n",
        "```console\n$ false; true\n```\n",
        "```console\n# wait until later\n```\n",
        "```console\n$ freshet run nothing.py &\n```\n",
    ],
    ids=["snippet", "project", "command", "first of two", "wait", "daemon"],
)
def test_a_broken_page_is_noticed(text: str, tmp_path: Path) -> None:
    """The walk itself fails where a reader would."""
    with pytest.raises(AssertionError):
        Walk("broken.md", tmp_path).follow(text)


def test_a_test_of_an_asset_is_short_and_needs_no_engine() -> None:  # A4
    """As the page shows it (and runs it): five lines at most, of the function and its values."""
    page = (ROOT / "docs" / "how-to" / "test-your-assets.md").read_text(encoding="utf-8")
    (shown,) = [block.text for block in blocks(page) if block.text.startswith("# test_project.py")]
    tree = ast.parse(shown)
    imported = {alias.name for node in ast.walk(tree) for alias in getattr(node, "names", ())}
    assert imported == {"asyncio", "project", "revenue", "total"}
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [len(ast.unparse(test).splitlines()) for test in tests] == [2, 4, 2]


@pytest.mark.parametrize("project", EXAMPLES, ids=relative)
def test_examples_check(project: Path, tmp_path: Path) -> None:
    """`freshet check` accepts every example."""
    Walk(relative(project), tmp_path).run(
        [sys.executable, "-m", "freshet", "check", str(project)], relative(project)
    )


def test_the_command_reference_is_current() -> None:
    """docs/reference/cli.md is what the commands say now."""
    made = ROOT / "tools" / "make_cli_reference.py"
    done = subprocess.run(
        [sys.executable, str(made), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", LINKED, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link inside the project names a file that is there, and a heading it has."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{relative(page)}: {target}"
        if heading:
            assert heading in headings(file), f"{relative(page)}: {target}"


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
