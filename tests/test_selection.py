"""The selection language: what a text means, and what is said of one that cannot be read."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freshet.engine.errors import RequestError
from freshet.engine.graph import EMPTY, Graph
from freshet.engine.mappings import previous
from freshet.engine.partitions import daily
from freshet.engine.selection import MAX_DEPTH, select
from freshet.engine.specs import AssetSpec, Dependency


def spec(key: str, *above: str, **more: object) -> AssetSpec:
    return AssetSpec(key, deps=tuple(map(Dependency, above)), **more)  # type: ignore[arg-type]


SPECS = [
    spec("landing/flights", kind="source", group="raw", kinds=("csv",)),
    spec("landing/planes", kind="source", group="raw", owners=("me+ops@x.org",)),
    spec("flights", "landing/flights", group="daily", tags={"tier": "gold", "pii": ""}),
    spec("planes", "landing/planes", group="my group", tags={"tier": "silver"}),
    spec("delays", "flights", "planes", group="daily", owners=("me@x.org", "team-a")),
    spec("report", "delays", kinds=("table", "html"), tags={"note": "a=b", "level": "gold"}),
    spec("not", group="a*b, c"),
    spec("2024", "not"),
]
GRAPH = Graph.build(SPECS)
ORDER = list(GRAPH.specs)
STATUS = {"flights": {"stale", "running"}, "delays": {"stale"}, "report": {"missing"}}


def status(key: str) -> set[str]:
    return STATUS.get(key, {"fresh"})


def chosen(text: str) -> set[str]:
    return set(select(GRAPH, text, status))


def fault(text: str, graph: Graph = GRAPH) -> RequestError:
    with pytest.raises(RequestError) as raised:
        select(graph, text)
    return raised.value


def everything_but(*keys: str) -> str:
    return " ".join(key for key in ORDER if key not in keys)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("flights", "flights"),
        ("  flights\n", "flights"),
        ("landing/*", "landing/flights landing/planes"),
        ("*", everything_but()),
        ("*flights", "flights landing/flights"),
        ("[fp]l*", "flights planes"),
        ("nothing/*", ""),
        ("group:daily", "flights delays"),
        ("group:dai*", "flights delays"),
        ("group:weekly", ""),
        ("tag:tier", "flights planes"),
        ("tag:pii", "flights"),
        ("tag:pii=''", "flights"),
        ("tag:tier=gold", "flights"),
        ("tag:tier=*", "flights planes"),
        ("tag:*=gold", "flights report"),
        ("tag:note=a=b", "report"),
        ("owner:me@x.org", "delays"),
        ("owner:me+ops@x.org", "landing/planes"),
        ("owner:*@x.org", "delays landing/planes"),
        ("kind:table", "report"),
        ("kind:asset", ""),
        ("is:source", "landing/flights landing/planes"),
        ("is:asset", everything_but("landing/flights", "landing/planes")),
        ("status:stale", "flights delays"),
        ("status:running", "flights"),
        ("status:failed", ""),
    ],
)
def test_a_term_selects_what_matches_it(text: str, keys: str) -> None:
    assert chosen(text) == set(keys.split())


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("+delays", "landing/flights landing/planes flights planes delays"),
        ("1+delays", "flights planes delays"),
        ("0+delays", "delays"),
        ("0000000000001+delays", "flights planes delays"),
        ("99999999999999999999+delays", "landing/flights landing/planes flights planes delays"),
        ("flights+", "flights delays report"),
        ("flights+1", "flights delays"),
        ("flights+ and not report", "flights delays"),
        ("+flights+", "landing/flights flights delays report"),
        ("1+flights+1", "landing/flights flights delays"),
        ("+(flights or planes)", "landing/flights landing/planes flights planes"),
        ("(flights, planes)+1", "flights planes delays"),
        ("group:raw+1", "landing/flights landing/planes flights planes"),
        ("+kind:table", everything_but("not", "2024")),
        ("1+status:missing", "delays report"),
        ("not +report", "not 2024"),
        ("not+report", "not 2024"),
        ("nothing*+", ""),
        ("'2024'", "2024"),
        ("1+2024", "not 2024"),
        ("'not'+1", "not 2024"),
        ("+'2024'+3", "not 2024"),
    ],
)
def test_a_plus_adds_what_is_upstream_or_downstream_at_most_so_many_hops(
    text: str, keys: str
) -> None:
    assert chosen(text) == set(keys.split())


def test_an_asset_made_from_its_own_past_is_its_own_neighbour_only() -> None:
    past = Dependency("total", previous())
    partitions = daily("2024-01-01")
    graph = Graph.build(
        [
            AssetSpec("total", deps=(past,), partitions=partitions),
            AssetSpec("end", deps=(Dependency("total"),), partitions=partitions),
        ]
    )
    assert select(graph, "1+total") == ["total"]
    assert select(graph, "+total") == ["total"]
    assert select(graph, "total+1") == ["total", "end"]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("flights or planes and is:source", "flights or (planes and is:source)"),
        ("is:source and planes or flights", "(is:source and planes) or flights"),
        ("not flights and group:daily", "(not flights) and group:daily"),
        ("not flights or group:daily", "(not flights) or group:daily"),
        ("flights, planes and is:source", "flights or (planes and is:source)"),
        ("not not flights", "flights"),
        ("NOT flights AND group:daily Or planes", "delays, planes"),
        ("((flights))", "flights"),
        ("not(flights)and(group:daily)", "delays"),
        ("(flights,planes,delays)and group:daily", "flights, delays"),
        ("order* or notes* or android* or flights", "flights"),
    ],
)
def test_not_is_tighter_than_and_which_is_tighter_than_or(text: str, same: str) -> None:
    assert chosen(text) == chosen(same)
    assert chosen(text)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("'not'", "not"),
        ('"flights"', "flights"),
        ("group:'my group'", "planes"),
        ('group:"a*b, c"', "not"),
        ("group:'a?b, c'", ""),
        ("tag:tier='gold'", "flights"),
        ("tag:tier='g*'", ""),
    ],
)
def test_quoted_text_stands_for_itself(text: str, keys: str) -> None:
    assert chosen(text) == set(keys.split())
    assert "there is no asset 'land*'" in fault("'land*'").message


def test_keys_come_upstream_first_and_once_however_they_are_written() -> None:
    text = "report, delays, +report, landing/planes, planes"
    assert select(GRAPH, text) == [key for key in ORDER if key in GRAPH.ancestors("report")] + [
        "report"
    ]


def test_an_exact_key_that_does_not_exist_is_refused_with_the_nearest() -> None:
    error = fault("is:source or fligths+")
    assert error.message == (
        "selection 'is:source or fligths+', column 14: there is no asset 'fligths'"
    )
    assert error.hint == "did you mean 'flights'?"
    assert fault("x", EMPTY).hint == "list them with `freshet graph`"
    assert select(EMPTY, "* or group:x or not is:source") == []


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("", 1, "expected an asset key"),
        ("   ", 4, "expected an asset key"),
        ("flights and", 12, "found the end"),
        ("flights,", 9, "found the end"),
        ("flights planes", 9, "expected 'and', 'or', ',' or the end; found 'planes'"),
        ("flights or or planes", 12, "found 'or'"),
        ("+not", 2, "found 'not'"),
        ("and", 1, "found 'and'"),
        ("(flights", 9, "expected 'and', 'or', ',' or ')'; found the end"),
        ("flights)", 8, "expected 'and', 'or', ',' or the end; found ')'"),
        ("()", 2, "found ')'"),
        ("+", 1, "found '+'"),
        ("+ flights", 1, "found '+'"),
        ("flights +", 9, "found '+'"),
        ("flights++", 8, "found '+'"),
        ("++flights", 1, "found '+'"),
        ("'flights", 1, 'found "\'"'),
        ("group:", 1, "expected ATTRIBUTE:VALUE"),
        ("group:(a or b)", 1, "found 'group:'"),
        ("tag:tier=", 1, "expected ATTRIBUTE:VALUE"),
        ("tag:=gold", 1, "expected ATTRIBUTE:VALUE"),
        ("flights or colour:red", 12, "with one of group, tag, owner, kind, is, status"),
        ("is:sauce", 4, "expected one of asset, source; found 'sauce'"),
        ("flights or status:stael", 19, "expected one of fresh, stale, waiting"),
        ("flights, status:stale", 10, "expected no 'status:' here"),
    ],
)
def test_text_that_cannot_be_read_is_refused_by_column_and_what_was_expected(
    text: str, column: int, expected: str
) -> None:
    error = fault(text)
    assert error.message.startswith(f"selection {text!r}, column {column}: ")
    assert expected in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("text", "near"), [("is:sorce", "source"), ("status:stael", "stale"), ("grup:daily", "group")]
)
def test_a_misspelt_word_is_answered_with_the_nearest(text: str, near: str) -> None:
    assert fault(text).hint == f"did you mean '{near}'?"


def test_nesting_is_bounded_and_length_is_not() -> None:
    deepest = "(" * MAX_DEPTH + "flights" + ")" * MAX_DEPTH
    assert chosen(deepest) == chosen("not " * MAX_DEPTH + "flights") == {"flights"}
    for text in (f"({deepest})", "(" * 100_000, "not " * 100_000 + "x", "not (" * 26 + "x"):
        assert f"expected at most {MAX_DEPTH} levels" in fault(text).message
    assert chosen(", ".join(["(flights)", "not not planes"] * 5_000)) == {"flights", "planes"}


class Meaning(NamedTuple):
    """A text, and the keys it must select."""

    text: str
    keys: frozenset[str]


def neighbours(keys: frozenset[str], hops: int, up: bool) -> frozenset[str]:
    for _ in range(hops):
        pairs = [(s.key, d.asset) if up else (d.asset, s.key) for s in SPECS for d in s.deps]
        keys |= {there for here, there in pairs if here in keys}
    return keys


def those(text: str, test: Callable[[AssetSpec], bool]) -> Meaning:
    return Meaning(text, frozenset(s.key for s in SPECS if test(s)))


TERMS = st.sampled_from(
    [
        *(Meaning(f"'{key}'", frozenset([key])) for key in ORDER),
        those("l*", lambda s: s.key[0] == "l"),
        those("is:source", lambda s: s.is_source),
        those("group:daily", lambda s: s.group == "daily"),
        those('tag:"tier"', lambda s: "tier" in s.tags),
        those("tag:tier=gold", lambda s: s.tags.get("tier") == "gold"),
        those("status:fresh", lambda s: "fresh" in status(s.key)),
    ]
)
HOPS = st.none() | st.just(len(SPECS)) | st.integers(0, 2)


def reaching(inner: Meaning, up: int | None, down: int | None) -> Meaning:
    before, after = (
        "" if hops is None else "+" if hops == len(SPECS) else sign
        for hops, sign in ((up, f"{up}+"), (down, f"+{down}"))
    )
    keys = neighbours(inner.keys, up or 0, True) | neighbours(inner.keys, down or 0, False)
    return Meaning(before + inner.text + after, keys)


def negated(inner: Meaning, times: int) -> Meaning:
    keys = frozenset(ORDER) - inner.keys if times % 2 else inner.keys
    return Meaning("not " * times + inner.text, keys)


def anded(parts: list[Meaning]) -> Meaning:
    keys = frozenset(ORDER).intersection(*(part.keys for part in parts))
    return Meaning(" AND ".join(part.text for part in parts), keys)


def ored(parts: list[Meaning], sign: str) -> Meaning:
    return Meaning(
        sign.join(part.text for part in parts), frozenset().union(*(p.keys for p in parts))
    )


def loose(inner: st.SearchStrategy[Meaning]) -> st.SearchStrategy[Meaning]:
    """One level of each sign, written without parentheses: precedence must put them back."""
    tight = st.builds(negated, st.builds(reaching, inner, HOPS, HOPS), st.integers(0, 2))
    both = st.builds(anded, st.lists(tight, min_size=1, max_size=3))
    signs = st.sampled_from([" or ", ", ", ",", " OR\n"])
    return st.builds(ored, st.lists(both, min_size=1, max_size=3), signs)


def in_parentheses(inner: Meaning) -> Meaning:
    return Meaning(f"({inner.text})", inner.keys)


@given(loose(st.recursive(TERMS, lambda inner: loose(inner).map(in_parentheses), max_leaves=6)))
def test_a_selection_is_what_sets_computed_one_sign_at_a_time_say(meaning: Meaning) -> None:
    found = select(GRAPH, meaning.text, status)
    assert found == [key for key in ORDER if key in meaning.keys]


@given(
    st.lists(
        st.sampled_from("flights l* group: tag: tier = is:source not and or ( ) , + 2 ' \"".split())
        | st.sampled_from([" ", "\n"])
        | st.characters(),
        max_size=12,
    ).map("".join)
)
def test_any_text_selects_keys_or_is_refused_within_its_columns(text: str) -> None:
    try:
        found = select(GRAPH, text, status)
    except RequestError as refused:
        error = refused
    else:
        assert found == [key for key in ORDER if key in found]
        return
    column = error.message.removeprefix(f"selection {text!r}, column ").partition(":")[0]
    assert 1 <= int(column) <= len(text) + 1
    assert error.hint
