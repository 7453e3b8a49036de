"""Landings in a simulation follow the rules of the real sensor."""

import pytest

import freshet as fr
from freshet.engine.errors import RequestError
from freshet.engine.events import SourceChanged
from freshet.testing import Simulation, simulate
from tests.test_files_hardened_patterns import folder_version

days = fr.daily("2024-01-01", opens="data")


def project(marker: str = "") -> fr.Project:
    clicks = fr.source("clicks", partitions=days)
    orders = fr.source("orders", partitions=days)
    found = [
        fr.files("export/{partition}/", source=clicks, marker=marker),
        fr.files({"a/**/{partition}.csv": orders}, marker=marker, version="stat"),
    ]
    return fr.Project([clicks, orders], sensors=found)


def changes(sim: Simulation) -> list[tuple[str, str, str]]:
    """What was recorded of sources."""
    return [
        (event.asset, event.partition, event.data_version)
        for recorded in sim.events()
        if isinstance(event := recorded.event, SourceChanged)
    ]


def test_files_of_a_folder_make_one_partition() -> None:
    """Each file that lands is a change of its folder; the last that goes withdraws it."""
    with simulate(project()) as sim:
        sim.land("export/2024-01-01/one", "1")
        sim.land("export/2024-01-01/deep/two", "2")
        sim.land("export/2024-01-01/one", None)
        sim.land("export/2024-01-01/deep/two", None)
        assert changes(sim) == [
            ("clicks", "2024-01-01", folder_version(one="1")),
            ("clicks", "2024-01-01", folder_version(one="1", deep__two="2")),
            ("clicks", "2024-01-01", folder_version(deep__two="2")),
            ("clicks", "2024-01-01", ""),
        ]


def test_nothing_counts_before_its_marker_lands() -> None:
    """Of a folder, and of files of a folder; what counted stays while the marker is away."""
    with simulate(project(marker="_SUCCESS")) as sim:
        sim.land("export/2024-01-01/one", "1")
        sim.land("a/b/2024-01-01.csv", "x")
        sim.land("a/b/2024-01-02.csv", "y")
        assert changes(sim) == []
        sim.land("export/2024-01-01/_SUCCESS", "")
        sim.land("a/b/_SUCCESS", "")
        found = changes(sim)
        assert [(asset, partition) for asset, partition, _ in found] == [
            ("clicks", "2024-01-01"),
            ("orders", "2024-01-01"),
            ("orders", "2024-01-02"),
        ]
        sim.land("export/2024-01-01/_SUCCESS", None)
        sim.land("export/2024-01-01/one", "2")
        assert changes(sim) == found
        sim.land("export/2024-01-01/_SUCCESS", "")
        assert changes(sim)[3:] == [("clicks", "2024-01-01", folder_version(one="2"))]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("export/not-a-day/one", "would be partition 'not-a-day' of 'clicks', which cannot be"),
        ("export/2024-01-01/one.tmp", "no sensor of the project waits"),
        (
            "a/c/2024-01-01.csv",
            "partition '2024-01-01' of 'orders', as 'a/2024-01-01.csv'",
        ),
    ],
)
def test_what_a_real_sensor_would_reject_is_refused(path: str, words: str) -> None:
    """It is a slip of the pen."""
    with simulate(project()) as sim:
        sim.land("a/2024-01-01.csv", "x")
        with pytest.raises(RequestError, match=words):
            sim.land(path, "y")
