"""For tests of your own: a project simulated in virtual time, and the parts in memory."""

from freshet.engine.memory import MemoryStream
from freshet.engine.recollection import SimulatedRun
from freshet.engine.simulated import Duration
from freshet.engine.stores.memory import MemoryStore
from freshet.engine.testing import Simulation, simulate
from freshet.engine.virtual import LivelockError

__all__ = [
    "Duration",
    "LivelockError",
    "MemoryStore",
    "MemoryStream",
    "SimulatedRun",
    "Simulation",
    "simulate",
]
