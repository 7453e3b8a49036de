"""The project of `benchmarks.soak`: a few hundred assets of every kind, with a fixed set of keys.

What lands are whole numbers, so that at the end every value can be told from the files alone. The
working directory is the place of the soak: `landing/` there is what lands, `data/` the values, and
`entered.log` the moments at which the function of `probed` was entered.
"""

import time
from datetime import date, timedelta
from pathlib import Path

import freshet as fr

FIRST = date(2024, 1, 1)
DAYS = tuple(str(FIRST + timedelta(days=number)) for number in range(40))
PLACES = tuple(f"p{number:02}" for number in range(20))
NAMES = tuple(f"k{number:03}" for number in range(60))
WHOLE = tuple(f"s{number}" for number in range(8))
TOLD = tuple(f"e{number}" for number in range(10))
"""Sources that are told through the daemon's socket; all others land as files."""

CHAIN, FAN = 5, 12
KEEP = 3
"""Versions of each value that are kept: what is published anew lets an old one go."""

by_day = fr.daily(str(FIRST), opens="data")
by_place = fr.static(PLACES)
by_name = fr.dynamic()

days = fr.source("days", partitions=by_day)
places = fr.source("places", partitions=by_place)
names = fr.source("names", partitions=by_name)
probe = fr.source("probe")
wholes = [fr.source(key) for key in WHOLE]
tolds = [fr.source(key) for key in TOLD]


def chained(source: str) -> list[fr.Asset]:
    """A chain on the loop, each one more than the one before."""
    found = []
    above = source
    for depth in range(CHAIN):

        @fr.asset(key=f"{source}_{depth}", inputs={"value": above})
        async def made(value: str) -> str:
            return str(int(value) + 1)

        found.append(made)
        above = made.key
    return found


def fanned(source: str) -> list[fr.Asset]:
    """A root in a thread, and what fans out from it on the loop: the number of its run, so that
    nothing is cut off. A quarter of it may lag.
    """

    @fr.asset(key=f"{source}_root", deps=[source])
    def root(context: fr.Context) -> str:
        return str(context.run)

    found = [root]
    for number in range(FAN):
        lazy = fr.max_lag("15s") if number % 4 == 0 else fr.eager()

        @fr.asset(key=f"{source}_{number}", inputs={"value": root.key}, freshness=lazy)
        async def made(value: str) -> str:
            return value

        found.append(made)
    return found


@fr.asset(partitions=by_day, inputs={"value": "days"})
def day_read(value: str) -> str:
    return str(int(value) + 1)


@fr.asset(partitions=by_day, inputs={"value": "day_read"})
async def day_made(value: str, context: fr.Context) -> str:
    context.log.info("made", day=context.partition)
    return str(int(value) + 1)


@fr.asset(inputs={"values": fr.Input("day_made", fr.all_partitions())}, freshness=fr.max_lag("10s"))
def day_sum(values: dict[str, str]) -> str:
    return str(sum(map(int, values.values())))


@fr.asset(partitions=by_place, inputs={"value": "places"})
async def place_made(value: str) -> str:
    return str(int(value) + 1)


@fr.asset(
    inputs={"values": fr.Input("place_made", fr.all_partitions())}, freshness=fr.cron("* * * * *")
)
async def place_sum(values: dict[str, str]) -> str:
    return str(sum(map(int, values.values())))


@fr.asset(partitions=by_name, inputs={"value": "names"}, batch=5)
async def name_made(value: dict[str, str]) -> dict[str, str]:
    return {name: str(int(one) + 1) for name, one in value.items()}


@fr.asset(
    inputs={"values": fr.Input("name_made", fr.all_partitions())},
    freshness=fr.eager(debounce="5s", max_wait="20s"),
)
def name_sum(values: dict[str, str]) -> str:
    return str(sum(map(int, values.values())))


@fr.asset(executor="process", inputs={"value": "s0_4"}, freshness=fr.max_lag("20s"))
def elsewhere(value: str) -> str:
    return str(int(value) + 1)


@fr.asset(inputs={"value": "s1"}, retries=3, retry_delay=0.2)
async def at_second_try(value: str, context: fr.Context) -> str:
    if int(value) % 2 and context.attempt == 1:
        raise ValueError(f"{value} is odd")
    return value


@fr.asset(inputs={"value": "s2"})
def at_times(value: str) -> str:
    print(f"seen: {value}")
    if int(value) % 3 == 0:
        raise ValueError(f"{value} cannot be")
    return value


@fr.asset(inputs={"value": "s3"})
async def judged(value: str) -> str:
    return value


@fr.asset(inputs={"value": "probe"})
async def probed(value: str) -> str:
    with Path("entered.log").open("a") as file:
        file.write(f"{value} {time.monotonic_ns()}\n")
    return value


@fr.check(judged)
def is_even(value: str) -> bool:
    return int(value) % 2 == 0


@fr.check(judged, blocking=True)
def is_no_multiple_of_five(value: str) -> bool:
    return int(value) % 5 != 0


chains = [made for source in WHOLE for made in chained(source)]
fans = [made for source in TOLD for made in fanned(source)]

project = fr.Project(
    [
        *(days, places, names, probe, *wholes, *tolds),
        *chains,
        *fans,
        *(day_read, day_made, day_sum, place_made, place_sum, name_made, name_sum),
        *(elsewhere, at_second_try, at_times, judged, probed),
    ],
    checks=[is_even, is_no_multiple_of_five],
    sensors=[
        fr.files(
            {
                "landing/days/{partition}.txt": days,
                "landing/places/{partition}.txt": places,
                "landing/names/{partition}.txt": names,
                "landing/probe.txt": probe,
                **{f"landing/{one.key}.txt": one for one in wholes},
            },
            name="landing",
        )
    ],
    store=fr.LocalStore("data", keep=KEEP),
    slots=16,
    processes=1,
)
