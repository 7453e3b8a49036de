"""The source keeps the rules of the house, and each rule notices when it is broken."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import tidy
from tests.tidy import LAYERS, RULES, Module

ROOT = Path(__file__).resolve().parent.parent
MODULES = tidy.modules_below(ROOT)
DOC = '"""Job."""\n'

Rule = Callable[[Module], Iterator[str]]


def module(name: str, code: str) -> Module:
    return Module(name, name.replace(".", "/") + ".py", DOC + code)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps_the_rule(rule: Rule) -> None:
    assert [text for each in MODULES for text in rule(each)] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert tidy.cycle(MODULES) == []


def test_the_table_names_each_module_once_and_all_folders_are_read() -> None:
    listed = [name for layer in LAYERS for name in layer.modules]
    assert len(listed) == len(set(listed))
    assert {each.path.partition("/")[0] for each in MODULES} == set(tidy.FOLDERS)
    assert len({each.name for each in MODULES}) == len(MODULES)


def long_function(lines: int) -> str:
    return "def f() -> None:\n" + "    pass\n" * (lines - 1)


def parameters(count: int) -> str:
    return f"def f({', '.join(f'a{i}' for i in range(count))}): ...\n"


def methods(count: int) -> str:
    return "class A:\n" + "".join(f"    def m{i}(self): ...\n" for i in range(count))


PLANTED: list[tuple[Rule, str, str]] = [
    (tidy.in_table, "engine.surprise", ""),
    (tidy.downwards, "engine.keys", "from freshet.engine.events import Recorded"),
    (tidy.downwards, "engine.keys", "from freshet.engine import events"),
    (tidy.downwards, "engine.keys", "import freshet.engine.events"),
    (tidy.downwards, "engine.keys", "import freshet"),
    (tidy.downwards, "engine.reactor", "import freshet.projections"),
    (tidy.downwards, "engine.reactor", "from freshet.engine.nowhere import x"),
    (tidy.downwards, "projections.runs", "def f():\n    from freshet.engine.reactor import x"),
    (tidy.downwards, "engine.reactor", "from .keys import AssetKey"),
    (tidy.absolute, "engine.reactor", "import engine.keys"),
    (tidy.absolute, "engine.reactor", "from projections import view"),
    (tidy.absolute, "engine.reactor", "from . import keys"),
    (tidy.no_type_checking, "engine.cli", "from typing import TYPE_CHECKING"),
    (tidy.no_type_checking, "engine.cli", "import typing as t\nif t.TYPE_CHECKING:\n    x = 1"),
    (tidy.sizes, "engine.cli", long_function(tidy.MAX_FUNCTION_LINES + 1)),
    (tidy.sizes, "engine.cli", "async " + long_function(tidy.MAX_FUNCTION_LINES + 1)),
    (tidy.sizes, "engine.cli", "x = 1\n" * tidy.MAX_FILE_LINES),
    (tidy.sizes, "engine.cli", parameters(tidy.MAX_PARAMETERS + 1)),
    (tidy.sizes, "engine.cli", methods(tidy.MAX_PUBLIC_METHODS + 1)),
    (tidy.pure, "engine.reactor", "async def f(): ..."),
    (tidy.pure, "engine.reactor", "import os.path"),
    (tidy.pure, "engine.reactor", "from time import monotonic"),
    (tidy.pure, "projections.view", "from datetime import datetime\nt = datetime.now()"),
    (tidy.pure, "projections.view", "import datetime as d\nt = d.date.today()"),
    (tidy.pure, "engine.assets", "print(1)"),
    (tidy.imports_on_top, "engine.cli", "def f():\n    import json"),
    (tidy.imports_on_top, "engine.cli", "def f():\n    from freshet.engine.keys import x"),
    (tidy.names, "engine.path_utils", ""),
    (tidy.names, "engine.cli", "class RunManager: ..."),
    (tidy.names, "engine.cli", "class BaseStore: ..."),
    (tidy.broad_excepts, "engine.cli", "try:\n    f()\nexcept:\n    pass"),
    (tidy.broad_excepts, "engine.cli", "try:\n    f()\nexcept Exception:\n    pass"),
    (tidy.broad_excepts, "engine.cli", "try:\n    f()\nexcept (OSError, BaseException):\n    g()"),
    (tidy.broad_excepts, "engine.cli", "with contextlib.suppress(Exception):\n    f()"),
    (tidy.docstrings, "engine.stores", "x = 1"),
]


@pytest.mark.parametrize(("rule", "name", "code"), PLANTED)
def test_a_planted_violation_is_found_once(rule: Rule, name: str, code: str) -> None:
    assert len(list(rule(module(name, code)))) == 1


ALLOWED: list[tuple[Rule, str, str]] = [
    (tidy.in_table, "engine.keys", ""),
    (tidy.downwards, "engine.events", "from freshet.engine.specs import AssetSpec"),
    (tidy.sizes, "engine.cli", long_function(tidy.MAX_FUNCTION_LINES)),
    (tidy.sizes, "engine.cli", "x = 1\n" * (tidy.MAX_FILE_LINES - 1)),
    (tidy.sizes, "engine.cli", parameters(tidy.MAX_PARAMETERS)),
    (tidy.sizes, "engine.assets", "def asset(" + parameters(20)[6:]),
    (tidy.sizes, "engine.cli", methods(tidy.MAX_PUBLIC_METHODS)),
    (tidy.pure, "engine.stream", "import time\nasync def f(): ..."),
    (tidy.pure, "engine.reactor", "def decide(view, now):\n    return now"),
    (tidy.imports_on_top, "engine.cli", "def f():\n    import polars.selectors"),
    (tidy.names, "engine.cli", "class Baseline: ..."),
    (tidy.broad_excepts, "engine.cli", "try:\n    f()\nexcept Exception:\n    g()\n    raise"),
    (tidy.broad_excepts, "engine.cli", "try:\n    f()\nexcept OSError:\n    pass"),
    (
        tidy.broad_excepts,
        "engine.cli",
        "try:\n    f()\nexcept Exception:  # recorded: as RunFailed\n    pass",
    ),
    (tidy.docstrings, "engine.stores", ""),
]


@pytest.mark.parametrize(("rule", "name", "code"), ALLOWED)
def test_what_is_allowed_is_not_found(rule: Rule, name: str, code: str) -> None:
    assert list(rule(module(name, code))) == []


def test_a_file_without_a_docstring_is_found() -> None:
    assert len(list(tidy.docstrings(Module("engine.cli", "engine/cli.py", "x = 1")))) == 1


def test_a_circle_is_found_though_an_import_hides_in_a_function() -> None:
    up = module("engine.cli", "from freshet.engine.daemon import x")
    down = module("engine.daemon", "def f():\n    from freshet.engine.cli import y")
    assert set(tidy.cycle([up, down])) == {"engine.cli", "engine.daemon"}
    assert tidy.cycle([up]) == []


def test_the_text_of_a_missing_entry_says_where_to_add_it() -> None:
    (text,) = tidy.in_table(module("engine.surprise", ""))
    assert "engine/surprise.py" in text
    assert "'engine.surprise' to LAYERS in tests/tidy.py" in text
