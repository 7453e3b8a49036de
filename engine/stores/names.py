"""Names of asset partitions as files and objects: one to one, whatever is in a key."""

from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import quote

from freshet.engine.keys import AssetPartition

SAFE = " !#$&'()+,-;=@[]^_`{}~"
"""Characters of a partition key that may stand in a file name as they are, besides letters and
digits.
"""


def folder_of(target: AssetPartition) -> PurePosixPath:
    """A folder of its own for each asset partition; `=` keeps partitions apart from deeper
    segments.
    """
    return PurePosixPath(*target.asset.split("/")) / ("=" + quoted(target.partition))


def quoted(partition: str) -> str:
    """A partition key as a file name: what is unsafe becomes %XX, a leading dot too; one to one."""
    name = quote(partition, safe=SAFE, errors="surrogatepass")
    return name.replace(".", "%2E") if name.startswith(".") else name


def runs_of(names: Iterable[str]) -> list[int]:
    """The runs of which there are folders of these names, in order; other names are not ours."""
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())
