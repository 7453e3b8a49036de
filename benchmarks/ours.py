"""Our side of the duels: what the scripts of the peers measure, measured on Freshet. Seconds, rates
per second, and MB, as they say them.
"""

from collections.abc import Callable

from benchmarks import append, partitions, reaction, sizes, staleness, startup, throughput

Samples = dict[tuple[str, float | None], list[float]]
"""Of each figure, by its name and, on a curve, its size."""

BATCHES = {
    "one by one": (1, 400),
    "in batches of 100": (100, 50),
    "in batches of 1,000": (1000, 10),
}
"""Events per append, and appends in a round."""

OF_ONE = "of one partition"
"""Events that are all of one asset partition, so that each index grows at its end alone."""

READ = "read 100,000 events"
REACTIONS = 200
STALE = (1000, 5000)
GRAPHS = (100, 300, 1000)
PARTITIONED = (1000, 10_000)
NOOPS = 200


def appends() -> Samples:
    """Events a second, durable and hashed."""
    return {
        (f"events appended {name}", None): append.rates(*batch) for name, batch in BATCHES.items()
    }


def appends_and_reads() -> Samples:
    """The same, also of one partition; and seconds to read and decode what was appended."""
    of_one: Samples = {
        (f"events {OF_ONE} appended {name}", None): append.rates(*batch, subjects=1)
        for name, batch in BATCHES.items()
    }
    return appends() | of_one | {(READ, None): append.reads(100_000, 5)}


def reactions() -> Samples:
    """Seconds from a file, and from a change, into and through a chain of three eager assets."""
    found = reaction.chains(REACTIONS)
    return {(what, None): [value / 1000 for value in values] for what, values in found.items()}


def noops() -> Samples:
    """No-op materializations a second, durable."""
    found = throughput.rates(NOOPS, NOOPS)
    return {(f"no-op materializations, {shape}", None): rates for shape, rates in found.items()}


def stale() -> Samples:
    """Seconds until the state of every asset is known after one change."""
    return {
        (staleness.STATES, size): [
            value / 1000 for value in staleness.rounds("chains of five", size, 10)[staleness.STATES]
        ]
        for size in STALE
    }


def decisions() -> Samples:
    """Seconds of all decisions and folds that one change leads to, by assets and by partitions."""
    found: Samples = {}
    for counted, worlds in (("assets", GRAPHS), ("partitions", PARTITIONED)):
        for size, costs in sizes.costs(counted, worlds, 5, 20).items():
            values = [value / 1e6 for one in costs[sizes.ALL] for value in one]
            found[f"{sizes.ALL}, by {counted}", size] = values
    return found


def bursts() -> Samples:
    """Seconds of a change below an edge from all to one, and of a burst of changes."""
    fan_in = [value / 1e6 for value in partitions.fan_in()[0]]
    burst = [value / 1000 for value in partitions.burst()]
    return {
        ("fan-in", partitions.FAN_IN): fan_in,
        ("burst", partitions.BURST): burst,
    }


def starts() -> Samples:
    """Seconds of an import less a bare python, and MB after it; the same of an idle daemon."""
    milliseconds, memory = startup.imported(startup.TRIES)
    idle_memory, idle_cpu = startup.idle()
    return {
        ("import", None): [value / 1000 for value in milliseconds],
        ("memory after the import", None): memory,
        ("idle daemon: memory", None): [idle_memory],
        ("idle daemon: CPU", None): [idle_cpu],
    }


def chain_and_noops() -> Samples:
    """Both."""
    return reactions() | noops()


Measure = Callable[[], Samples]
