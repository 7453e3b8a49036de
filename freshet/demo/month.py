"""The demo's data: January 2013, one CSV text for each day, from the
compressed tables beside this file.
"""

import csv
import gzip
import io
from collections import defaultdict
from importlib.resources import files

FOLDER = files("freshet.demo") / "data"

MONTH = "2013-01"


def flights_by_day() -> dict[str, str]:
    """The day (`2013-01-05`) to the CSV text of its flights, header included; 31 days."""
    return _by_day("flights-2013-01.csv.gz")


def weather_by_day() -> dict[str, str]:
    """The day to the CSV text of its hourly weather at the three airports."""
    return _by_day("weather-2013-01.csv.gz")


def airlines() -> str:
    """The names of the carriers, as CSV text."""
    return (FOLDER / "airlines.csv").read_text("utf-8")


def without_last(text: str, rows: int) -> str:
    """A day's file as it looks when its last rows have not come yet."""
    return "".join(text.splitlines(keepends=True)[:-rows])


def with_tail_number(text: str, tail_number: str) -> str:
    """A day's file with the tail number of its first flight corrected: news to
    nobody downstream.
    """
    rows = list(csv.reader(text.splitlines()))
    rows[1][rows[0].index("tailnum")] = tail_number
    return _text(rows)


def _by_day(name: str) -> dict[str, str]:
    text = gzip.decompress((FOLDER / name).read_bytes()).decode()
    header, *rows = csv.reader(text.splitlines())
    day = header.index("day")
    days: defaultdict[str, list[list[str]]] = defaultdict(list)
    for row in rows:
        days[f"{MONTH}-{int(row[day]):02d}"].append(row)
    return {key: _text([header, *days[key]]) for key in sorted(days)}


def _text(rows: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
