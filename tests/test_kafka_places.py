"""Where a Kafka sensor stands, and what does not fit the topics as they are: pure, no broker."""

import pytest

from freshet.engine.errors import SensorError
from freshet.sensors.sensor import REPLAY, START
from freshet.sensors.topics.places import NO_ID, Extent, Places, Topic


def places(cursor: dict[str, str]) -> Places:
    return Places("k", ["t"], cursor)


def topic(*extents: tuple[int, int], id: str = "one") -> dict[str, Topic]:
    return {"t": Topic(id, {n: Extent(*extent) for n, extent in enumerate(extents)})}


def test_a_topic_never_read_begins_where_it_is_told() -> None:
    """At what there is first, or what comes next; its identity is noted."""
    assert places({}).moves(topic((3, 9), (0, 0)), "earliest") == {
        "t": "one",
        "t/0": "3",
        "t/1": "0",
    }
    assert places({}).moves(topic((3, 9)), "latest") == {"t": "one", "t/0": "9"}


def test_what_fits_moves_nothing() -> None:
    """From the first message there is up to the end."""
    for place in ("3", "5", "9"):
        assert places({"t": "one", "t/0": place}).moves(topic((3, 9)), "earliest") == {}


def test_a_partition_new_in_a_known_topic_begins_at_its_beginning() -> None:
    """Also where a topic never read would begin at its end."""
    known = places({"t": "one", "t/0": "5"})
    assert known.moves(topic((0, 9), (2, 7)), "latest") == {"t/1": "2"}


@pytest.mark.parametrize(
    ("cursor", "found", "said"),
    [
        ({"t": "one", "t/0": "5"}, topic((0, 9), id="two"), "its id was one, and is two"),
        ({"t": "one", "t/0": "5", "t/1": "5"}, topic((0, 9)), "partition 1 is gone"),
        ({"t": "one", "t/0": "5"}, topic((0, 4)), "t/0 ends before what was read"),
        ({"t": NO_ID, "t/0": "5"}, topic((0, 4), id=""), "t/0 ends before what was read"),
        (
            {"t": "one", "t/0": "5"},
            topic((8, 9)),
            "removed before they were read: t/0 offsets 5 to 7",
        ),
        ({"t": "one", "t/0": "5", START: "today"}, topic((0, 9)), "'today' is no place"),
    ],
)
def test_where_only_a_person_can_choose_it_halts(
    cursor: dict[str, str], found: dict[str, Topic], said: str
) -> None:
    """And says between what."""
    with pytest.raises(SensorError) as raised:
        places(cursor).moves(found, "earliest")
    assert said in raised.value.message
    for choice in ("earliest", "latest", "resume"):
        assert f"--from {choice}" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("earliest", {"t/0": "3", "t/1": "1", "t/2": None}),
        ("latest", {"t/0": "9", "t/1": "4", "t/2": None}),
        ("resume", {"t/1": "1", "t/2": None}),
    ],
)
def test_a_choice_is_obeyed_and_forgotten(choice: str, expected: dict[str, str | None]) -> None:
    """The new topic is accepted, and its offsets count anew."""
    halted = places({"t": "one", "t/0": "5", "t/1": "50", "t/2": "1", START: choice})
    found = topic((3, 9), (1, 4), id="two")
    moves = halted.moves(found, "earliest")
    assert moves == {START: None, "t": "two~2"} | expected
    halted.take(moves)
    assert halted.moves(found, "earliest") == {}
    assert halted.incarnation("t") == 2


def test_a_choice_without_need_keeps_the_count() -> None:
    """The same messages have the same versions, read again."""
    again = places({"t": "one~2", "t/0": "5", START: "earliest"})
    assert again.moves(topic((0, 9)), "earliest") == {START: None, "t/0": "0"}
    lost = places({"t": "one", "t/0": "5", START: "resume"})
    assert lost.moves(topic((8, 9)), "earliest") == {START: None, "t/0": "8"}


def test_ids_may_come_and_go_with_the_brokers() -> None:
    """A broker that begins to tell them is believed; one that does not any more changes nothing."""
    assert places({"t": NO_ID, "t/0": "5"}).moves(topic((0, 9)), "earliest") == {"t": "one"}
    assert places({"t": "one", "t/0": "5"}).moves(topic((0, 9), id=""), "earliest") == {}


def test_what_is_not_read_here_is_left_alone() -> None:
    """Items of other topics, and what people ask for."""
    cursor = {"other": "x", "other/0": "7", "t/0": "1", REPLAY + "t/0/3": "", "?member": "m"}
    read = places(cursor)
    assert read.at == {("t", 0): 1}
    assert read.replays == [REPLAY + "t/0/3"]
    assert read.member == "m"
