"""A path pattern and its partitions: reading, matching and writing paths are one relation."""

import re
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

import freshet as fr
from freshet.engine.errors import DefinitionError
from freshet.engine.keys import WHOLE
from freshet.sensors.pattern import PLACEHOLDER, parse_pattern

PLAIN = st.text(st.characters(exclude_characters="/{}*?[]\0.", exclude_categories=["Cs"]))
NAMES = PLAIN.filter(bool)
FOLDERS = st.lists(NAMES, max_size=3).map("/".join)
PATTERNS = st.builds(
    lambda above, before, after, below: "/".join(
        part for part in (above, before + PLACEHOLDER + after, below) if part
    ),
    FOLDERS,
    PLAIN,
    PLAIN,
    FOLDERS,
)


@given(PATTERNS, NAMES)
def test_the_path_of_a_partition_is_a_path_of_that_partition(text: str, key: str) -> None:
    pattern = parse_pattern(text)
    relative = pattern.path_of(key)
    assert pattern.partition_of(relative) == key
    assert PurePosixPath(pattern.root, relative) == PurePosixPath(text.replace(PLACEHOLDER, key))
    assert relative.count("/") + 1 == pattern.depth
    assert all(pattern.leads_to(above) for above in _above(relative))


def _above(relative: str) -> list[str]:
    parts = relative.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


PLAIN_SEGMENTS = st.lists(st.sampled_from(["**", "*", "a", "b*"]), max_size=3)
SEGMENTS = st.tuples(
    PLAIN_SEGMENTS,
    st.sampled_from(["*{partition}", "x{partition}y", "{partition}"]),
    PLAIN_SEGMENTS.filter(lambda after: after[-1:] != ["**"]),
).map(lambda parts: [*parts[0], parts[1], *parts[2]])


@given(SEGMENTS, st.lists(st.sampled_from(["a", "b", "ba", "xky", "c"]), min_size=1, max_size=5))
def test_wildcards_match_what_the_slow_model_says(segments: list[str], path: list[str]) -> None:
    """Segment by segment, `**` for any number of them; and every folder on the way leads there."""
    text = "/".join(["root", *segments])
    pattern = parse_pattern(text)
    relative = "/".join(path)
    fixed = next(n for n, part in enumerate(segments) if "{" in part or "*" in part)
    matches = _matches(segments[fixed:], path)
    assert (pattern.partition_of(relative) is not None) == matches
    if matches:
        assert all(pattern.leads_to(above) for above in _above(relative))


def _matches(segments: list[str], path: list[str]) -> bool:
    if not segments:
        return not path
    if segments[0] == "**":
        return any(_matches(segments[1:], path[n:]) for n in range(len(path)))
    if not path or not _matches(segments[1:], path[1:]):
        return False
    expression = segments[0].replace(PLACEHOLDER, ".+")
    expression = ".+" if expression == "*" else re.sub(r"(?<!\.)\*", ".*", expression)
    return re.fullmatch(expression, path[0]) is not None


@given(PATTERNS, st.text(st.sampled_from("ab/.x"), max_size=8))
def test_a_path_matches_exactly_when_the_equal_regular_expression_does(
    text: str, relative: str
) -> None:
    pattern = parse_pattern(text)
    prefix, suffix = pattern.relative.split(PLACEHOLDER)
    expression = re.escape(prefix) + "([^/]+)" + re.escape(suffix)
    match = re.fullmatch(expression, relative)
    assert pattern.partition_of(relative) == (match[1] if match else None)


@given(
    st.sampled_from(["{partition}", "a{partition}a", "{partition}/a", "ab{partition}ba"]),
    st.text(st.sampled_from("ab/"), max_size=7),
)
def test_a_path_that_matches_is_the_path_of_its_partition(text: str, relative: str) -> None:
    pattern = parse_pattern(text)
    key = pattern.partition_of(relative)
    if key is not None:
        assert pattern.path_of(key) == relative


@pytest.mark.parametrize(
    ("text", "root", "depth", "relative", "key"),
    [
        ("landing/{partition}.csv", "landing", 1, "2013-01-05.csv", "2013-01-05"),
        ("{partition}.csv", ".", 1, "a.csv", "a"),
        ("/data/in/{partition}.csv", "/data/in", 1, "a.csv", "a"),
        ("/{partition}.csv", "/", 1, "a.csv", "a"),
        ("in/{partition}/data.csv", "in", 2, "a/data.csv", "a"),
        ("in/day-{partition}/x/y.csv", "in", 3, "day-a/x/y.csv", "a"),
        ("./in//{partition}", "in", 1, "a.tar.gz", "a.tar.gz"),
    ],
)
def test_a_pattern_says_where_to_look_and_which_partition(
    text: str, root: str, depth: int, relative: str, key: str
) -> None:
    pattern = parse_pattern(text)
    assert (pattern.root, pattern.depth, pattern.partitioned) == (root, depth, True)
    assert pattern.partition_of(relative) == key


def test_a_pattern_without_placeholder_is_exactly_one_file() -> None:
    pattern = parse_pattern("landing/airlines.csv")
    assert (pattern.root, pattern.depth, pattern.partitioned) == ("landing", 1, False)
    assert pattern.partition_of("airlines.csv") == WHOLE
    assert pattern.path_of(WHOLE) == "airlines.csv"
    for other in ("", "airports.csv", "airlines.csv.tmp", "x/airlines.csv", "airlines_csv"):
        assert pattern.partition_of(other) is None


def test_a_pattern_that_ends_in_a_slash_is_of_folders() -> None:
    """Their paths end in it too; a file in one belongs to the outermost that matches."""
    pattern = parse_pattern("landing/day={partition}/")
    assert (pattern.root, pattern.depth, pattern.folder) == ("landing", 1, True)
    assert pattern.partition_of("day=5/") == "5"
    assert pattern.partition_of("day=5") is None
    assert pattern.path_of("5") == "day=5/"
    assert list(pattern.folders_above("day=5/part/0.csv")) == ["day=5/"]
    assert list(pattern.folders_above("hour=5/part/0.csv")) == []
    deep = parse_pattern("landing/**/day={partition}/")
    assert list(deep.folders_above("a/day=5/day=6/x")) == ["a/day=5/", "a/day=5/day=6/"]


@pytest.mark.parametrize("relative", ["x.csv.tmp", ".csv", "a/b.csv", "a.CSV", "", "csv", "a.csv/"])
def test_what_only_resembles_the_pattern_does_not_match(relative: str) -> None:
    assert parse_pattern("landing/{partition}.csv").partition_of(relative) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        ".",
        "landing/*.csv",
        "landing/?.csv",
        "landing/[ab].csv",
        "landing/{day}.csv",
        "landing/{}.csv",
        "landing/{partition.csv",
        "landing/partition}.csv",
        "{partition}/{partition}.csv",
        "landing/{partition}/**",
        "landing/{partition}/**/",
        "landing/a**/{partition}.csv",
        "landing/**/airlines.csv",
        "landing/{partition}.cs?",
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused_by_name(text: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse_pattern(text)
    assert repr(text) in caught.value.message


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("x/*.csv", "x/{partition}.csv"),
        ("x/*/*.csv", "x/*/{partition}.csv"),
        ("x/**/*.csv", "x/**/{partition}.csv"),
        ("x/*/a.csv", "x/{partition}/a.csv"),
        ("x/**", "x/**/{partition}"),
        ("x/**/", "x/**/{partition}/"),
    ],
)
def test_wildcards_alone_are_refused_with_what_to_write(text: str, meant: str) -> None:
    """With a source, which has partitions or not, and also when it was forgotten."""
    parse_pattern(meant)
    days, whole = fr.source("days", partitions=fr.dynamic()), fr.source("whole")
    for source in (days, whole, None):
        with pytest.raises(DefinitionError) as caught:
            fr.files(text, source=source)
        assert repr(text) in caught.value.message
        assert repr(meant) in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "relative", "key"),
    [
        ("landing/{day}/{region}.csv", "2024-01-05/eu.csv", "2024-01-05|eu"),
        ("landing/{region}/{day}.csv", "eu/2024-01-05.csv", "2024-01-05|eu"),
        ("landing/{day}-{region}.csv", "2024-01-05-eu.csv", "2024-01-05|eu"),
        ("landing/{partition}.csv", "2024-01-05|eu.csv", "2024-01-05|eu"),
    ],
)
def test_the_dimensions_of_a_product_may_stand_anywhere(text: str, relative: str, key: str) -> None:
    pattern = parse_pattern(text, ("day", "region"))
    assert pattern.partition_of(relative) == key
    assert pattern.path_of(key) == relative
    for bad in ("landing/{day}.csv", "landing/{day}/{size}.csv", "landing/{day}/{day}.csv"):
        with pytest.raises(DefinitionError, match=r"{day} {region} once"):
            parse_pattern(bad, ("day", "region"))
