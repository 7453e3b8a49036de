"""Which pictures a result calls for, as data: distributions of latency, and costs against size."""

from collections.abc import Iterator

import msgspec

from benchmarks.case import TIMES, Figure
from benchmarks.results import Result

TIME_UNITS = {"s": 1e3, "ms": 1.0, "µs": 1e-3}
"""Milliseconds in each unit of time."""

FEWEST_SAMPLES = 5
"""Fewer are no distribution."""

POINTS = 200
"""Points of a line, at most."""

OVER_TIME = ("minutes",)
"""What is counted evenly: such a curve is over time, and has no logarithmic axes."""


class Line(msgspec.Struct, frozen=True):
    """One line of a picture."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]


class Picture(msgspec.Struct, frozen=True):
    """One picture; `file` is its name in the folder of results."""

    file: str
    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    log_x: bool = True
    log_y: bool = False


def pictures(result: Result) -> list[Picture]:
    """All pictures of a result, in the order in which they are shown."""
    return [*_latencies(result), *_curves(result)]


def _latencies(result: Result) -> Iterator[Picture]:
    drawn = [
        figure
        for figure in result.figures
        if len(figure.samples) >= FEWEST_SAMPLES
        and figure.unit in TIME_UNITS
        and figure.size is None
    ]
    if drawn:
        yield Picture(
            f"{result.case}-latency.svg",
            f"{result.case}: how many took no longer",
            "ms",
            "%",
            tuple(_distribution(figure, _named(figure, drawn)) for figure in drawn),
        )


def _distribution(figure: Figure, label: str) -> Line:
    """The share of samples that are no greater, at each of them."""
    many, scale = len(figure.samples), TIME_UNITS[figure.unit]
    step = max(1, many // POINTS)
    places = sorted({*range(0, many, step), many - 1})
    x = tuple(float(f"{figure.samples[n] * scale:.4g}") for n in places)
    y = tuple(round(100 * (n + 1) / many, 2) for n in places)
    return Line(label, x, y)


def _curves(result: Result) -> Iterator[Picture]:
    points = [
        figure for figure in result.figures if figure.size is not None and figure.unit != TIMES
    ]
    kinds = dict.fromkeys((figure.counted, figure.unit) for figure in points)
    for counted, unit in kinds:
        here = [one for one in points if (one.counted, one.unit) == (counted, unit)]
        lines = []
        for label in dict.fromkeys(map(_label, here)):
            of_it = sorted((one.size or 0, one.value) for one in here if _label(one) == label)
            if len(of_it) > 1:
                x, y = zip(*of_it, strict=True)
                lines.append(Line(label, x, y))
        if lines:
            units = [u for c, u in kinds if c == counted]
            nth = str(units.index(unit) + 1) if len(units) > 1 else ""
            name = f"{result.case}-{_word(counted) or 'size'}{nth}.svg"
            log = counted not in OVER_TIME
            title = f"{result.case}: against {counted or 'size'}"
            yield Picture(name, title, counted or "size", unit, tuple(lines), log, log)


def _named(figure: Figure, drawn: list[Figure]) -> str:
    """Its label; with its part of the case, where another line has the same."""
    label = _label(figure)
    is_alone = sum(_label(one) == label for one in drawn) == 1
    return label if is_alone else f"{figure.case}: {label}"


def _label(figure: Figure) -> str:
    what = figure.what.removesuffix(", p50").removesuffix(", median")
    return f"{what} ({figure.side})"


def _word(text: str) -> str:
    return "-".join(text.split())
