"""What is seen of a daemon from outside: its memory, its files, and what its stream says."""

import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import psutil

MAKER = "freshet.engine.checkpointing"
"""In the command of the process that makes checkpoints: it comes and goes."""


class Sample(msgspec.Struct, frozen=True):
    """One look: what there is now, and what was recorded since the look before."""

    at_s: float
    rss_mb: float
    anon_mb: float
    """Of which no file is behind: what it has made itself."""
    workers_mb: float
    workers: int
    checkpointing_mb: float
    """Of the process that makes a checkpoint; 0: none is being made."""
    wal_bytes: int
    stream_bytes: int
    head: int
    runs: int
    """That succeeded."""
    failed: int
    cpu_s: float
    """All that the daemon and those of its processes that have ended have used."""
    threads: int
    files: int


class Sampler:
    """Looks at the daemon `pid` in a place; reads its stream like anybody else."""

    def __init__(self, place: Path, pid: int) -> None:
        self._stream = place / ".freshet" / "stream.db"
        self._process = psutil.Process(pid)
        self._head = 0

    def look(self, at_s: float) -> Sample:
        """How it stands now."""
        memory = self._process.memory_info()
        cpu = self._process.cpu_times()
        workers: list[float] = []
        making = 0.0
        for child in self._process.children(recursive=True):
            try:
                size = child.memory_info().rss / 1e6
                if MAKER in child.cmdline():
                    making += size
                else:
                    workers.append(size)
            except psutil.NoSuchProcess:
                continue
        before = self._head
        self._head, runs, failed = self._recorded(before)
        wal = self._stream.with_name("stream.db-wal")
        return Sample(
            at_s=at_s,
            rss_mb=memory.rss / 1e6,
            anon_mb=(memory.rss - memory.shared) / 1e6,
            workers_mb=sum(workers),
            workers=len(workers),
            checkpointing_mb=making,
            wal_bytes=wal.stat().st_size if wal.exists() else 0,
            stream_bytes=self._stream.stat().st_size,
            head=self._head,
            runs=runs,
            failed=failed,
            cpu_s=cpu.user + cpu.system + cpu.children_user + cpu.children_system,
            threads=self._process.num_threads(),
            files=self._process.num_fds(),
        )

    def changes(self, sources: Collection[str], *, inside: bool) -> int:
        """How many changes of these sources were recorded, or of all others; without removals."""
        with closing(self._open()) as db:
            rows = db.execute("SELECT data FROM events WHERE type = 'SourceChanged'")
            found = (msgspec.json.decode(data) for (data,) in rows)
            return sum(
                bool(one.get("data_version")) and (one["asset"] in sources) is inside
                for one in found
            )

    def _recorded(self, after: int) -> tuple[int, int, int]:
        with closing(self._open()) as db:
            counts = dict(
                db.execute(
                    "SELECT type, count(*) FROM events WHERE position > ? GROUP BY type", (after,)
                )
            )
        head = after + sum(counts.values())
        return head, counts.get("RunSucceeded", 0), counts.get("RunFailed", 0)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self._stream}?mode=ro", uri=True, timeout=10)


def slope_per_hour(samples: Sequence[Sample], name: str) -> float:
    """By least squares; 0 for fewer than two samples."""
    points = [(one.at_s / 3600, float(getattr(one, name))) for one in samples]
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    across = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / across
