"""What Dagster is given to watch and to make, in the reaction of `dagster_reaction.py`.

    file in the inbox → (sensor) → root → (eager) child → (eager) leaf
    event of `source`             → (eager) first → (eager) second → (eager) third

Read by Dagster's own code server; the folder and the setting come from the environment. Every
asset writes down, in a file of its own, when it was entered: making nothing, that is its end too.
"""

import os
import time
from pathlib import Path
from typing import Any

import dagster as dg  # type: ignore[import-not-found]  # only in the environment of this script

FOLDER = "DAGSTER_PEER_FOLDER"
SETTING = "DAGSTER_PEER_SETTING"

_folder = Path(os.environ[FOLDER])
_best = os.environ[SETTING] == "best"
_smallest: dict[str, Any] = {"minimum_interval_seconds": 1} if _best else {}


def _asset(name: str, after: str | None, condition: Any = None) -> Any:
    def noted() -> None:
        with (_folder / "notes" / name).open("a", encoding="utf-8") as notes:
            notes.write(f"{time.time()}\n")

    deps = [] if after is None else [after]
    return dg.asset(name=name, deps=deps, automation_condition=condition)(noted)


def _eager(name: str, after: str) -> Any:
    return _asset(name, after, dg.AutomationCondition.eager())


_root = _asset("root", None)


@dg.sensor(  # type: ignore[untyped-decorator]  # of a package that is not there
    target=[_root], default_status=dg.DefaultSensorStatus.RUNNING, **_smallest
)
def landing(context: Any) -> Any:
    """A run of the root for each file whose name is beyond the last one."""
    names = sorted(name for name in os.listdir(_folder / "inbox") if name > (context.cursor or ""))
    requests = [
        dg.RunRequest(run_key=name, asset_selection=[dg.AssetKey("root")]) for name in names
    ]
    return dg.SensorResult(requests, cursor=names[-1] if names else context.cursor)


defs = dg.Definitions(
    assets=[
        _root,
        _eager("child", "root"),
        _eager("leaf", "child"),
        dg.AssetSpec("source"),
        _eager("first", "source"),
        _eager("second", "first"),
        _eager("third", "second"),
    ],
    sensors=[
        landing,
        dg.AutomationConditionSensorDefinition(
            "automation",
            target="*",
            default_status=dg.DefaultSensorStatus.RUNNING,
            **_smallest,
        ),
    ],
    executor=dg.in_process_executor if _best else None,
)
