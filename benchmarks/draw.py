"""Draws pictures from their data, each into a file of its own.

    python_of_the_environment benchmarks/draw.py PICTURES.json FOLDER

A plain script for an environment with matplotlib in it (see `report.py`). The same data gives the
same bytes.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found]  # only in this script's environment
from matplotlib import pyplot
from matplotlib.ticker import (  # type: ignore[import-not-found]
    FuncFormatter,
    LogLocator,
    NullFormatter,
)

SETTINGS = {"svg.hashsalt": "freshet", "svg.fonttype": "none", "font.size": 8}

MANY = 8
"""Lines from which on the names stand below the picture in one column."""


def draw(picture: dict[str, Any], folder: Path) -> None:
    """One picture, as an SVG with text as text."""
    lines = picture["lines"]
    figure, axes = pyplot.subplots(figsize=(7, 3.2 + 0.16 * len(lines)))
    for line in lines:
        mark = "o-" if len(line["x"]) < MANY else "-"
        axes.plot(line["x"], line["y"], mark, label=line["label"], linewidth=1.2, markersize=3)
    for axis, is_log in ((axes.xaxis, picture["log_x"]), (axes.yaxis, picture["log_y"])):
        if is_log:
            getattr(axes, f"set_{axis.axis_name}scale")("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axis.set_minor_formatter(NullFormatter())
    if picture["log_y"]:  # what is flat shall look flat
        values = [value for line in lines for value in line["y"] if value > 0]
        axes.set_ylim(min(values) / 3, max(values) * 3)
    axes.set(xlabel=picture["x"], ylabel=picture["y"])
    axes.set_title(picture["title"], loc="left")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), frameon=False)
    figure.savefig(folder / picture["file"], bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Every picture of the file."""
    source, folder = map(Path, sys.argv[1:3])
    mpl.use("svg")
    mpl.rcParams.update(SETTINGS)
    for picture in json.loads(source.read_text(encoding="utf-8")):
        draw(picture, folder)


if __name__ == "__main__":
    main()
