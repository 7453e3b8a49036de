"""Mounts: on what kind of file system a path lies, and whether the kernel sees all that happens."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOUNTS = Path("/proc/self/mountinfo")

REMOTE = frozenset(
    "9p afs beegfs ceph cifs coda drvfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs "
    "prl_fs smb3 smbfs vboxsf virtiofs vmhgfs".split()
)
"""Where others write without this kernel knowing: it tells neither of their files nor who has one
open. So do all of FUSE (`fuse.sshfs`, `fuse.s3fs` …); `fuseblk` is a local disk.
"""

_ESCAPED = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """A mount point and its kind of file system."""

    path: str
    kind: str


def parse_mounts(text: str) -> Iterator[Mount]:
    """The mounts of a `/proc/self/mountinfo` (proc_pid_mountinfo(5)), in its order."""
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split()
        if dash and len(fields) >= 5 and after:
            yield Mount(_ESCAPED.sub(lambda m: chr(int(m[1], 8)), fields[4]), after.split()[0])


def kind_of(path: str, text: str) -> str:
    """The kind of file system an absolute path without links lies on; empty when unknown.

    The longest mount point above it says; of several mounted on one another the last.
    """
    found = Mount("", "")
    for mount in parse_mounts(text):
        above = mount.path.rstrip("/") + "/"
        if f"{path}/".startswith(above) and len(mount.path) >= len(found.path):
            found = mount
    return found.kind


def is_remote(path: str) -> bool:
    """Does the path lie where the kernel does not see all that happens?"""
    return is_shared(kind_at(path))


def is_shared(kind: str) -> bool:
    """Is it a kind of file system that others may write to, and whose locks cannot be relied on?"""
    return kind in REMOTE or kind == "fuse" or kind.startswith("fuse.")


def kind_at(path: str) -> str:
    """The kind of file system a path lies on; empty when unknown, as on what is no Linux."""
    try:
        text = MOUNTS.read_text("utf-8", "surrogateescape")
    except OSError:
        return ""
    return kind_of(os.path.realpath(path), text)
