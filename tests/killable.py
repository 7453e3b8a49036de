"""A project folder with a daemon in another process, which can be killed at any moment."""

import random
import subprocess
import sys
from pathlib import Path


class Killable:
    """The folder; `rng` decides what happens in it, and when."""

    def __init__(self, folder: Path, project: str, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "project.py").write_text(project)

    @property
    def state(self) -> Path:
        return self.folder / ".freshet"

    @property
    def stream(self) -> Path:
        return self.state / "stream.db"

    def start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "daemon.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "freshet", "run", "project.py"],
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        """What the daemons have said last."""
        return (self.folder / "daemon.log").read_text()[-4000:]
