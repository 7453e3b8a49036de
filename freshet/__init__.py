"""Freshet: a reactive engine for data assets.

Declare what should exist and how fresh it must be; when something changes, Freshet rebuilds exactly
what must be rebuilt, in milliseconds, and can always say why.
"""

from freshet.engine.assets import (
    Asset,
    Input,
    Source,
    all_partitions,
    asset,
    same_partition,
    source,
)
from freshet.engine.context import Context, Output
from freshet.engine.errors import DefinitionError, FreshetError
from freshet.engine.keys import AssetPartition
from freshet.engine.partitions import daily, static
from freshet.engine.policies import eager, manual
from freshet.engine.project import Project
from freshet.engine.stores.local import LocalStore
from freshet.engine.stores.memory import MemoryStore
from freshet.sensors.files import files

__all__ = [
    "Asset",
    "AssetPartition",
    "Context",
    "DefinitionError",
    "FreshetError",
    "Input",
    "LocalStore",
    "MemoryStore",
    "Output",
    "Project",
    "Source",
    "all_partitions",
    "asset",
    "daily",
    "eager",
    "files",
    "manual",
    "same_partition",
    "source",
    "static",
]
