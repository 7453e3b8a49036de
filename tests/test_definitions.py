"""Definitions: what is inferred, what is refused, and when two of them are the same."""

import linecache
import random
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

import freshet as fr
from freshet.engine.codeversion import code_version
from freshet.engine.durations import parse_duration_ms
from freshet.engine.errors import DefinitionError
from freshet.engine.graph import Graph
from freshet.engine.keys import asset_key
from freshet.engine.mappings import All, is_many
from freshet.engine.policies import Manual
from freshet.engine.signatures import element_annotation, without_none
from freshet.engine.spaces import contains, keys_of
from freshet.engine.specs import AssetSpec, Dependency

flights = fr.source("landing/flights", partitions=fr.daily("2024-01-01"))


@fr.asset
def upstream() -> int:
    """What is above."""
    return 1


def edges(*definitions: fr.Asset | fr.Source) -> list[tuple[str, str]]:
    graph = fr.Project(definitions).graph
    return [(dep.asset, key) for key, spec in graph.specs.items() for dep in spec.deps]


def test_a_parameter_is_a_dependency_however_it_is_said() -> None:  # B2.2, L1
    """By parameter, by deps=, by inputs=, by key or object: the same edges."""

    @fr.asset(key="below")
    def by_parameter(upstream: int) -> int:
        return upstream

    @fr.asset(key="below", deps=["upstream"])
    def by_key() -> int:
        return 1

    @fr.asset(key="below", deps=[upstream])
    def by_object() -> int:
        return 1

    @fr.asset(key="below", inputs={"value": upstream})
    def by_input(value: int) -> int:
        return value

    for below in (by_parameter, by_key, by_object, by_input):
        assert edges(upstream, below) == [("upstream", "below")]


def test_a_parameter_finds_the_only_key_that_ends_so() -> None:
    """`flights` means landing/flights; with two such keys it is an error that names both."""

    @fr.asset(partitions=fr.daily("2024-01-01"))
    def delays(flights: str) -> int:
        return 1

    assert edges(flights, delays) == [("landing/flights", "delays")]
    other = fr.source("archive/flights", partitions=fr.daily("2024-01-01"))
    with pytest.raises(DefinitionError, match="archive/flights, landing/flights"):
        fr.Project([flights, other, delays])


def bad_parameter(upstraem: int) -> int:
    return upstraem


def bad_star(*values: int) -> int:
    return 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: fr.Project([upstream, fr.asset(bad_parameter)]),
            "'upstraem' of asset 'bad_parameter'",
        ),
        (lambda: fr.Project([upstream, fr.asset(bad_parameter)]), "test_definitions.py:"),
        (lambda: fr.Project([upstream, fr.asset(bad_parameter)]), "did you mean 'upstream'"),
        (lambda: fr.Project([fr.asset(deps=["nowhere"])(lambda: 1)]), "bad segment"),
        (
            lambda: fr.Project([fr.asset(key="a", deps=["nowhere"])(lambda: 1)]),
            "'a' depends on 'nowhere'",
        ),
        (lambda: fr.Project([fr.asset(key="a", deps=[upstream])(lambda: 1)]), "add it to Project"),
        (lambda: fr.asset(bad_star), r"parameter '\*values"),
        (lambda: fr.Project([upstream, upstream]), "defined twice"),
        (lambda: fr.Project([upstream, "text"]), "neither an asset nor a source"),  # type: ignore[list-item]
        (lambda: fr.asset(key="a", retries=-1)(upstream.function), "retries=-1"),
        (lambda: fr.asset(key="a", timeout="soon")(upstream.function), "no length of time"),
        (lambda: fr.asset(key="a", timeout=0)(upstream.function), "timeout of 0"),
        (lambda: fr.asset(key="a", metadata={"x": {1}})(upstream.function), "metadata 'x'"),
        (lambda: fr.asset(key="a b")(upstream.function), "bad segment"),
        (
            lambda: fr.Project([fr.asset(key="a", inputs={"x": "y"})(upstream.function)]),
            "no parameter of that name",
        ),
        (lambda: fr.Project([upstream], slots=0), "slots=0"),
        (lambda: fr.daily("January"), "is no local date"),
        (lambda: fr.daily("2024-01-02", end="2024-01-02"), "contain no window"),
        (lambda: fr.static([]), "at least one key"),
        (lambda: fr.static(["a", "a"]), "twice"),
        (lambda: fr.static("abc"), "takes? a list"),
        (lambda: fr.LocalStore("x", keep=0), "keep=0"),
        (
            lambda: fr.Project([], sensors=[fr.files("x/{partition}", source=flights)]),
            "no source of",
        ),
        (
            lambda: fr.Project([flights], sensors=[fr.files("x/{partition}", source=flights)] * 2),
            "named",
        ),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_loaded(
    make: Callable[[], object], words: str
) -> None:
    """A DefinitionError that names what was seen."""
    with pytest.raises(DefinitionError) as caught:
        make()
    assert re.search(words, str(caught.value)), str(caught.value)


def test_a_cycle_is_named_with_its_path() -> None:  # B1.3
    """a needs c, c needs b, b needs a: all three in the message."""
    specs = [AssetSpec(a, deps=(Dependency(b),)) for a, b in ("ac", "cb", "ba")]
    with pytest.raises(DefinitionError, match=r"cycle: (\w <- ){3}\w"):
        Graph.build(specs)


def test_a_large_random_graph_is_ordered_upstream_first() -> None:  # B1.3
    """1,000 assets with up to three upstreams each, listed in any order."""
    rng = random.Random(7)
    specs = [
        AssetSpec(
            f"n{n}",
            deps=tuple(
                Dependency(f"n{u}") for u in rng.sample(range(n), min(n, rng.randint(0, 3)))
            ),
        )
        for n in range(1000)
    ]
    rng.shuffle(specs)
    before = time.process_time()
    order = list(Graph.build(specs).specs)
    assert time.process_time() - before < 30  # a quadratic one would take minutes
    place = {key: n for n, key in enumerate(order)}
    assert len(order) == 1000
    assert all(place[dep.asset] < place[spec.key] for spec in specs for dep in spec.deps)


def test_decorator_object_and_factory_make_the_same_graph() -> None:  # B3.1, D1
    """Three ways to say one thing, and any order of listing: one digest, also when loaded again."""

    def made() -> list[fr.Asset]:
        def build(n: int) -> fr.Asset:
            @fr.asset(key=f"x{n}", deps=["upstream"], code_version="1")
            def x() -> int:
                return n

            return x

        return [build(n) for n in range(3)]

    def plain() -> int:
        return 0

    explicit = [fr.asset(key=f"x{n}", deps=[upstream], code_version="1")(plain) for n in range(3)]
    digests = {
        fr.Project([upstream, *made()]).graph.digest,
        fr.Project([upstream, *reversed(made())]).graph.digest,
        fr.Project([*explicit, upstream]).graph.digest,
    }
    assert len(digests) == 1
    other = fr.asset(key="x0", deps=[upstream], code_version="2")(plain)
    assert fr.Project([upstream, other, *explicit[1:]]).graph.digest not in digests


def test_the_code_version_is_that_of_the_meaning() -> None:  # T6
    """Comments, formatting, docstring and decorator do not count; body, defaults and closure do."""

    def version(text: str, **names: Any) -> str:
        path = f"made_{abs(hash((text, str(names))))}.py"
        scope: dict[str, Any] = {"fr": fr, **names}

        linecache.cache[path] = (len(text), None, text.splitlines(True), path)
        exec(compile(text, path, "exec"), scope)
        function = scope["f"]
        return code_version(getattr(function, "function", function))

    base = version("def f(a, k=1):\n    return a + k\n")
    assert version("def f(a, k=1):\n    # a comment\n    return (a  +  k)\n") == base
    assert version("def f(a, k=1):\n    'doc'\n    return a + k\n") == base
    assert version("@fr.asset(retries=3)\ndef f(a, k=1):\n    return a + k\n") == base
    assert version("def f(a, k=1):\n    return a - k\n") != base
    assert version("def f(a, k=2):\n    return a + k\n") != base
    by_name = "def f(a, k=K):\n    return a + k\n"
    assert version(by_name, K=1) != version(by_name, K=2)
    closure = "def g(n):\n    def f(a):\n        return a + n\n    return f\nf = g(N)\n"
    assert version(closure, N=1) != version(closure, N=2)
    assert version(closure, N=1) == version(closure, N=1)
    assert code_version(lambda a: a + 1) != code_version(lambda a: a + 2)


def test_an_asset_is_tested_by_calling_it() -> None:  # A4
    """The decorated function is still the function."""
    assert upstream() == 1
    assert upstream.spec.description == "What is above."


def test_the_projects_policy_is_for_those_that_name_none() -> None:
    """freshness= of the project is a default, not a rule."""
    own = fr.asset(key="own", freshness=fr.eager())(upstream.function)
    specs = fr.Project([upstream, own], freshness=fr.manual()).graph.specs
    assert isinstance(specs["upstream"].policy, Manual)
    assert specs["own"].policy == fr.eager()


def test_partitions_that_do_not_fit_need_a_mapping() -> None:
    """Daily on static is refused with a hint; an explicit all-to-one is accepted."""
    letters = fr.source("letters", partitions=fr.static(["a", "b"]))

    def daily_on_letters(letters: dict[str, str]) -> int:
        return 1

    with pytest.raises(DefinitionError, match="all_partitions"):
        fr.Project([letters, fr.asset(partitions=fr.daily("2024-01-01"))(daily_on_letters)])
    fitting = fr.asset(
        partitions=fr.daily("2024-01-01"),
        inputs={"letters": fr.Input("letters", fr.all_partitions())},
    )(daily_on_letters)
    (dependency,) = fr.Project([letters, fitting]).graph.specs["daily_on_letters"].deps
    assert dependency.mapping == All()
    assert is_many(All(), letters.spec.partitions, None)
    assert not is_many(All(), None, None)
    assert element_annotation(dict[str, int]) is int
    assert element_annotation(int) is None


def test_daily_keys_are_days_from_the_start_up_to_the_end() -> None:
    """The end is exclusive; what is no day, or outside, is no key."""
    january = fr.daily("2024-01-01", end="2024-02-01")
    keys = list(keys_of(january))
    assert (len(keys), keys[0], keys[-1]) == (31, "2024-01-01", "2024-01-31")
    assert all(contains(january, key) for key in keys)
    for bad in ("2023-12-31", "2024-02-01", "2024-1-5", "2024-01-32", "", "yesterday", "20240105"):
        assert not contains(january, bad)
    assert contains(fr.daily("2024-01-01"), "2031-12-31")


@pytest.mark.parametrize(
    ("text", "ms"),
    [("250ms", 250), ("10s", 10_000), ("1.5 m", 90_000), ("2h", 7_200_000), (3, 3000)],
)
def test_durations_are_seconds_or_text_with_a_unit(text: float | str, ms: int) -> None:
    """Numbers are seconds; text names its unit; anything else is refused."""
    assert parse_duration_ms(text, "x") == ms
    for bad in ("", "10", "ten s", -1, True, float("nan"), float("inf")):
        with pytest.raises(DefinitionError):
            parse_duration_ms(bad, "x")


def test_keys_have_segments() -> None:
    """Text with slashes or a sequence; empty, odd or absolute ones are refused."""
    assert asset_key("a/b") == asset_key(["a", "b"]) == "a/b"
    for bad in ("", "/a", "a/", "a//b", "a b", "a@b", "../a", "a/.b", "*"):
        with pytest.raises(DefinitionError):
            asset_key(bad)


def unresolvable(upstream: "NotImported") -> "NotImportedEither":  # type: ignore[name-defined]  # noqa: F821
    return upstream


def half_resolvable(upstream: "int") -> "NotImportedEither":  # type: ignore[name-defined]  # noqa: F821
    return upstream


def test_an_annotation_that_decides_how_to_load_must_resolve() -> None:
    """That of a parameter is an error that names it; that of the return value is left out."""
    with pytest.raises(DefinitionError, match="'NotImported' of parameter 'upstream'") as caught:
        fr.Project([upstream, fr.asset(unresolvable)])
    assert "TYPE_CHECKING" in str(caught.value)
    half = fr.asset(half_resolvable)
    fr.Project([upstream, half])
    assert half.annotations == {"upstream": int}


@pytest.mark.parametrize(
    "odd",
    [
        {"retries": 1.5},
        {"group": 5},
        {"tags": {"a": 1}},
        {"code_version": 5},
        {"description": 5},
        {"freshness": "eager"},
        {"partitions": fr.static(["a"]), "batch": 2.5},
    ],
)
def test_what_could_not_be_read_again_is_never_recorded(odd: dict[str, Any]) -> None:
    """A value of a wrong type is refused when the project is loaded, by name and place."""
    with pytest.raises(
        DefinitionError, match=r"wrong type|no freshness policy|use a number"
    ) as caught:
        fr.Project([fr.asset(key="a", **odd)(lambda: None)])
    assert "test_definitions.py:" in str(caught.value)


def test_an_annotation_may_say_that_an_input_may_be_missing() -> None:
    """`T | None` asks for T; a union of several types stays what it is."""
    assert without_none(str | None) is str
    assert without_none(str | int | None) == str | int | None
    assert without_none(None) is None
