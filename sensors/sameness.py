"""Sameness: does a sensor that was loaded anew ask for anything else than the one at work?"""

from collections.abc import Mapping, Sequence
from functools import partial
from threading import Lock, RLock
from types import CellType, FunctionType, MethodType
from typing import Any

import msgspec

from freshet.sensors.sensor import Sensor

DEPTH = 12
"""How deep configurations are compared: what lies deeper counts as changed, which costs a start."""

LOCKS = (type(Lock()), type(RLock()))

PASSED_OVER = {"where"}
"""Where something was written says nothing of what it does."""


def is_same(old: Sensor, new: Sensor, *, same_code: bool) -> bool:
    """Is it configured as it was? `same_code`: no file of the project has changed; else each
    function counts as changed, as nobody can tell what it calls. When in doubt it is not the same:
    to start anew from the cursor loses nothing.
    """
    return _same(old, new, same_code, DEPTH)


def _same(a: Any, b: Any, same_code: bool, depth: int) -> bool:
    if a is b:
        return True
    if depth == 0 or not _same_type(type(a), type(b), same_code):
        return False

    def each(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
        return len(ours) == len(theirs) and all(
            _same(x, y, same_code, depth - 1) for x, y in zip(ours, theirs, strict=True)
        )

    match a:
        case FunctionType():
            return same_code and a.__qualname__ == b.__qualname__ and each(_bound(a), _bound(b))
        case MethodType():
            return each((a.__func__, a.__self__), (b.__func__, b.__self__))
        case partial():
            return each((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
        case CellType():
            return each(_held(a), _held(b))
        case type():
            return _same_type(a, b, same_code)
        case Mapping():
            return list(a) == list(b) and each(list(a.values()), list(b.values()))
        case list() | tuple():
            return each(a, b)
        case msgspec.Struct():
            names = [name for name in a.__struct_fields__ if name not in PASSED_OVER]
            return each([getattr(a, n) for n in names], [getattr(b, n) for n in names])
        case _ if any("__eq__" in vars(kind) for kind in type(a).__mro__[:-1]):
            try:
                return bool(a == b)
            except Exception:  # recorded: as not the same, as nobody can tell (an array of numbers)
                return False
        case _ if hasattr(a, "__dict__"):
            ours, theirs = vars(a), vars(b)
            names = [name for name in ours if name not in PASSED_OVER]
            return ours.keys() == theirs.keys() and each(
                [ours[n] for n in names], [theirs[n] for n in names]
            )
        case _:
            # Of anything else that hides what it holds nothing is known.
            return isinstance(a, LOCKS)


def _same_type(a: type, b: type, same_code: bool) -> bool:
    """The same class; or, of a module that was loaded anew, the one that took its place."""
    return a is b or (
        same_code and (a.__module__, a.__qualname__) == (b.__module__, b.__qualname__)
    )


def _bound(function: FunctionType) -> tuple[Any, ...]:
    """What a function has been given when it was made."""
    return (function.__defaults__, function.__kwdefaults__, function.__closure__)


def _held(cell: CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()  # not filled yet
