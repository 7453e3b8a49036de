"""A month of flights from New York: what lands, what is made of it, and how fresh it is kept.

This is a whole Freshet project: run it with `freshet run project.py` in a folder with `landing/`.
"""

import csv
import statistics
from collections import defaultdict

import msgspec

import freshet as fr

DAYS = fr.daily("2013-01-01", opens="data")

flights = fr.source("landing/flights", partitions=DAYS, owners=["operations"])
weather = fr.source("landing/weather", partitions=DAYS, owners=["operations"])
airlines = fr.source("landing/airlines", description="Names of the carriers, one file.")


class Flight(msgspec.Struct):
    """One flight that departed: its delay in minutes, and the hour it was scheduled for."""

    carrier: str
    origin: str
    dest: str
    hour: int
    delay: int


class Delays(msgspec.Struct):
    """Departures of a carrier, the sum of their delays in minutes, and how many were 15 or more."""

    flights: int = 0
    minutes: int = 0
    late: int = 0


class Score(msgspec.Struct):
    """A line of the scorecard; the best carrier has the smallest share of late flights."""

    carrier: str
    flights: int
    mean_delay: float
    late_share: float


@fr.asset(partitions=DAYS, group="daily", kinds=["table"])
def clean(flights: str) -> list[Flight]:
    """The flights that departed, with the columns we need; cancelled ones are left out."""
    rows = csv.DictReader(flights.splitlines())
    return [
        Flight(r["carrier"], r["origin"], r["dest"], int(r["hour"]), int(r["dep_delay"]))
        for r in rows
        if r["dep_delay"]
    ]


@fr.asset(partitions=DAYS, group="daily", retries=2)
def delays(clean: list[Flight]) -> dict[str, Delays]:
    """Delay statistics of each carrier, day by day."""
    found: defaultdict[str, Delays] = defaultdict(Delays)
    for flight in clean:
        day = found[flight.carrier]
        day.flights += 1
        day.minutes += flight.delay
        day.late += flight.delay >= 15
    return dict(found)


@fr.asset(partitions=DAYS, group="daily")
def routes(clean: list[Flight]) -> dict[str, list[int]]:
    """The delays on each route, day by day."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for flight in clean:
        found[f"{flight.origin}-{flight.dest}"].append(flight.delay)
    return dict(found)


@fr.asset(partitions=DAYS, group="daily")
def weather_delays(clean: list[Flight], weather: str) -> dict[str, float]:
    """Mean delay of the day in dry and in wet hours: the flights joined with the weather."""
    wet = {
        (row["origin"], int(row["hour"]))
        for row in csv.DictReader(weather.splitlines())
        if float(row["precip"] or 0) > 0
    }
    hours: dict[str, list[int]] = {"dry": [], "wet": []}
    for flight in clean:
        hours["wet" if (flight.origin, flight.hour) in wet else "dry"].append(flight.delay)
    return {name: round(statistics.fmean(found), 2) for name, found in hours.items() if found}


@fr.asset(group="reports", tags={"audience": "everyone"}, kinds=["report"])
def carriers(delays: dict[str, dict[str, Delays]], airlines: str) -> list[Score]:
    """The scorecard over all days: who is late least often."""
    names = {row["carrier"]: row["name"] for row in csv.DictReader(airlines.splitlines())}
    total: defaultdict[str, Delays] = defaultdict(Delays)
    for day in delays.values():
        for carrier, seen in day.items():
            sums = total[carrier]
            sums.flights += seen.flights
            sums.minutes += seen.minutes
            sums.late += seen.late
    scores = [
        Score(names[c], s.flights, round(s.minutes / s.flights, 2), round(s.late / s.flights, 4))
        for c, s in total.items()
    ]
    return sorted(scores, key=lambda score: score.late_share)


@fr.asset(group="reports", tags={"audience": "everyone"}, kinds=["report"])
def worst_routes(routes: dict[str, dict[str, list[int]]]) -> dict[str, float]:
    """The ten routes with the longest mean delay over all days, of those flown 20 times or more."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for day in routes.values():
        for route, delays in day.items():
            found[route] += delays
    means = {r: round(statistics.fmean(d), 2) for r, d in found.items() if len(d) >= 20}
    return dict(sorted(means.items(), key=lambda item: -item[1])[:10])


project = fr.Project(
    assets=[
        flights,
        weather,
        airlines,
        clean,
        delays,
        routes,
        weather_delays,
        carriers,
        worst_routes,
    ],
    sensors=[
        fr.files("landing/flights/{partition}.csv", source=flights),
        fr.files("landing/weather/{partition}.csv", source=weather),
        fr.files("landing/airlines.csv", source=airlines),
    ],
    store=fr.LocalStore("data"),
)
