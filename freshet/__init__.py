"""Freshet: a reactive engine for data assets.

Declare what should exist and how fresh it must be; when something changes, Freshet rebuilds exactly
what must be rebuilt, in milliseconds, and can always say why.
"""

from freshet.engine import metadata
from freshet.engine.assets import Asset, Input, Source, asset, source
from freshet.engine.changes import Change, Changes
from freshet.engine.checks import Check, CheckResult, check
from freshet.engine.commands import command
from freshet.engine.context import Context, Output, Window
from freshet.engine.errors import DefinitionError, Fatal, FreshetError, Retry, SensorError
from freshet.engine.keys import AssetPartition
from freshet.engine.mappings import (
    all_partitions,
    by_function,
    dimensions,
    last,
    offset,
    overlapping,
    previous,
    same_partition,
    table,
    trailing,
)
from freshet.engine.multi import MultiAsset, Out, multi_asset
from freshet.engine.orphan import Orphan
from freshet.engine.partitions import (
    cron_windows,
    daily,
    dynamic,
    hourly,
    monthly,
    product,
    static,
    weekly,
)
from freshet.engine.policies import Policy, changed, cron, eager, manual, max_lag, on_missing
from freshet.engine.profiles import Profile
from freshet.engine.project import Project
from freshet.engine.resources import per_run
from freshet.engine.secrets import Secret
from freshet.engine.settings import settings
from freshet.engine.stores.duckdb import DuckDBStore
from freshet.engine.stores.formats import Format
from freshet.engine.stores.local import LocalStore
from freshet.engine.stores.memory import MemoryStore
from freshet.engine.stores.objects import ObjectStore
from freshet.engine.stores.sqlite import SqliteStore
from freshet.engine.table_checks import (
    accepted_values,
    conforms,
    in_range,
    not_null,
    row_count,
    schema,
    unique,
)
from freshet.sensors.files import files
from freshet.sensors.generator import change, sensor
from freshet.sensors.kafka import kafka
from freshet.sensors.objects import objects
from freshet.sensors.plugins import sensor_from
from freshet.sensors.poll import poll
from freshet.sensors.sensor import Batch, Rejection, Sensor, Settlement

__all__ = [
    "Asset",
    "AssetPartition",
    "Batch",
    "Change",
    "Changes",
    "Check",
    "CheckResult",
    "Context",
    "DefinitionError",
    "DuckDBStore",
    "Fatal",
    "Format",
    "FreshetError",
    "Input",
    "LocalStore",
    "MemoryStore",
    "MultiAsset",
    "ObjectStore",
    "Orphan",
    "Out",
    "Output",
    "Policy",
    "Profile",
    "Project",
    "Rejection",
    "Retry",
    "Secret",
    "Sensor",
    "SensorError",
    "Settlement",
    "Source",
    "SqliteStore",
    "Window",
    "accepted_values",
    "all_partitions",
    "asset",
    "by_function",
    "change",
    "changed",
    "check",
    "command",
    "conforms",
    "cron",
    "cron_windows",
    "daily",
    "dimensions",
    "dynamic",
    "eager",
    "files",
    "hourly",
    "in_range",
    "kafka",
    "last",
    "manual",
    "max_lag",
    "metadata",
    "monthly",
    "multi_asset",
    "not_null",
    "objects",
    "offset",
    "on_missing",
    "overlapping",
    "per_run",
    "poll",
    "previous",
    "product",
    "row_count",
    "same_partition",
    "schema",
    "sensor",
    "sensor_from",
    "settings",
    "source",
    "static",
    "table",
    "trailing",
    "unique",
    "weekly",
]
