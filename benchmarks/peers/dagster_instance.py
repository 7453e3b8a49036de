"""Dagster's instances as the scripts beside this one measure them: on SQLite and in memory."""

import contextlib
import tempfile
from collections.abc import Iterator
from typing import Any

import dagster as dg  # type: ignore[import-not-found]  # only in the environment of this script

STORAGES = {
    "sqlite": "a local instance on its SQLite files (DagsterInstance.local_temp)",
    "consolidated": "a local instance on SQLite, with all events in one file instead of one per "
    "run (ConsolidatedSqliteEventLogStorage)",
    "memory": "an ephemeral instance, nothing of which is durable (DagsterInstance.ephemeral)",
}
"""Where an instance keeps what it records, in the words of a configuration."""


@contextlib.contextmanager
def instance(storage: str) -> Iterator[Any]:
    """A new instance on one of STORAGES, gone when the block is left."""
    if storage == "memory":
        with dg.DagsterInstance.ephemeral() as opened:
            yield opened
        return
    with tempfile.TemporaryDirectory() as folder:
        events = {
            "module": "dagster._core.storage.event_log",
            "class": "ConsolidatedSqliteEventLogStorage",
            "config": {"base_dir": folder},
        }
        overrides: dict[str, Any] = {"telemetry": {"enabled": False}}
        if storage == "consolidated":
            overrides["event_log_storage"] = events
        with dg.DagsterInstance.local_temp(folder, overrides=overrides) as opened:
            yield opened
