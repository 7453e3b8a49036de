"""The code version of a function: what changes when its meaning may have changed, and only then."""

import ast
import inspect
import textwrap
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from types import CodeType
from typing import Any

PLAIN = (str, int, float, bool, type(None))


def code_version(function: Callable[..., Any]) -> str:
    """16 hexadecimal digits derived from the function's source, defaults and plain closure values.

    Comments, formatting, docstrings and decorators do not count. What the function calls does not
    count either: name a `code_version=` yourself, and raise it, when that is what changed.
    """
    parts = [_source(function)]
    while isinstance(function, partial):
        parts.append(repr((function.args, sorted(function.keywords.items()))))
        function = function.func
    target = inspect.unwrap(function)
    if inspect.isfunction(target):
        parts.append(repr(target.__defaults__))
        parts.append(repr(sorted((target.__kwdefaults__ or {}).items())))
        parts.append(_closure(target.__code__, target.__closure__ or ()))
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _source(function: Callable[..., Any]) -> str:
    while isinstance(function, partial):
        function = function.func
    target = inspect.unwrap(function)
    if not inspect.isroutine(target):
        target = type(target).__call__
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(target)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return _compiled(getattr(target, "__code__", None))  # no source: a shell, exec, or a lambda
    if not tree.body or not isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef):
        return _compiled(getattr(target, "__code__", None))
    tree.body[0].decorator_list = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            _drop_docstring(node)
    return ast.unparse(tree)  # not ast.dump, whose text differs between Python versions


def _drop_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or [ast.Pass()]


def _compiled(code: CodeType | None) -> str:
    if code is None:
        return ""
    constants = [_compiled(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"


def _closure(code: CodeType, cells: tuple[Any, ...]) -> str:
    """Plain values a factory's function closes over: without them all its products would look
    alike.
    """
    values = []
    for name, cell in zip(code.co_freevars, cells, strict=True):
        try:
            value = cell.cell_contents
        except ValueError:
            continue  # not filled yet
        if isinstance(value, PLAIN) or (
            isinstance(value, tuple) and all(isinstance(v, PLAIN) for v in value)
        ):
            values.append(f"{name}={value!r}")
    return ";".join(values)
