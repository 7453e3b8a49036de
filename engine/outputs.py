"""Outputs: what a function returned, fitted to the targets of its run."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from freshet.engine.assets import Asset
from freshet.engine.context import Output
from freshet.engine.executors.invoke import Rejected
from freshet.engine.orders import Order
from freshet.engine.parts import Input
from freshet.engine.signatures import element_annotation, without_none
from freshet.engine.specs import Plain

UNTOLD = (None, Any, object, int, float, bool, list, dict, tuple, set)
"""Annotations that say nothing of what is inside."""


def outputs_of(order: Order, value: object) -> list[Output]:
    """What was returned, target by target. Raises Rejected when a batch's does not fit."""
    if order.spec.batch == 1:
        return [as_output(value)]
    keys = [target.partition for target in order.targets]
    if value is None:
        return [Output() for _ in keys]
    if not isinstance(value, Mapping) or set(value) != set(keys):
        got = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
        raise Rejected(
            "value",
            f"a batch returns a dict with the partitions of the run: {keys[:4]}, not {got}",
        )
    return [as_output(value[key]) for key in keys]


def as_output(value: object) -> Output:
    """An `Output` as it is, anything else as the value of one."""
    return value if isinstance(value, Output) else Output(value)


def plain_metadata(values: Mapping[str, object]) -> dict[str, Plain]:
    """Metadata as it is recorded; numbers of other packages become Python's. Raises TypeError."""
    found: dict[str, Plain] = {}
    for name, value in values.items():
        if not isinstance(value, str | int | float | bool | None) and hasattr(value, "item"):
            value = value.item()  # a number of numpy, or of a table of one cell
        if not isinstance(name, str) or not isinstance(value, str | int | float | bool | None):
            raise TypeError(
                f"metadata {name!r} is a {type(value).__name__}; text, numbers, true/false and none"
                " can be recorded"
            )
        found[name] = value
    return found


def valueless_version(order: Order, number: int, inputs: tuple[Input, ...], read: int) -> str:
    """The version of an asset that returned no value: what it was made with is all we know
    of it; `read` is the position of the newest change it read, if it reads changes.
    """
    target = order.targets[number]
    text = f"{order.spec.key}|{target.partition}|{target.code_version}|" + "|".join(
        f"{i.asset}@{i.partition}={i.data_version}" for i in inputs
    )
    text += f"|{read}" if read else ""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def check_type(asset: Asset, value: object, *, batch: bool = False) -> None:
    """The return annotation is a promise, down to the fields of Structs and the elements of lists;
    what breaks it is never published. Raises Rejected, naming field and type.
    """
    expected = without_none(asset.annotations.get("return"))
    expected = element_annotation(expected) if batch else expected
    if expected is Output:
        return
    if isinstance(expected, type) and not _is_a(value, expected):
        raise Rejected(
            "value",
            f"'{asset.key}' should return {expected.__name__} but returned {type(value).__name__}",
        )
    if expected in UNTOLD or isinstance(value, str | bytes):
        return
    try:
        # As it will be stored, and read by who says the same: no other way sees inside of Structs.
        msgspec.json.decode(msgspec.json.encode(value), type=expected)
    except msgspec.ValidationError as error:
        name = getattr(expected, "__name__", "") if isinstance(expected, type) else str(expected)
        raise Rejected("value", f"'{asset.key}' should return {name}: {error}") from None
    except (TypeError, ValueError, RecursionError, OverflowError):
        return  # no value that is stored as JSON, or a type that says nothing of JSON


def _is_a(value: object, expected: type) -> bool:
    if expected is float:
        return isinstance(value, int | float)
    try:
        return isinstance(value, expected)
    except TypeError:  # a typed dict or a protocol cannot be asked
        return True
