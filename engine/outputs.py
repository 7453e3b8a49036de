"""Outputs: what a function returned, fitted to the targets of its run."""

from collections.abc import Mapping
from hashlib import blake2b

from freshet.engine.assets import Asset
from freshet.engine.context import Output
from freshet.engine.executors.invoke import Rejected
from freshet.engine.orders import Order
from freshet.engine.parts import Input
from freshet.engine.specs import Plain


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


def check_type(asset: Asset, value: object) -> None:
    """A return annotation that is a plain class is a promise; what breaks it is never published."""
    expected = asset.annotations.get("return")
    if isinstance(expected, type) and expected is not Output and not _is_a(value, expected):
        raise Rejected(
            "value",
            f"'{asset.key}' should return {expected.__name__} but returned {type(value).__name__}",
        )


def _is_a(value: object, expected: type) -> bool:
    if expected is float:
        return isinstance(value, int | float)
    try:
        return isinstance(value, expected)
    except TypeError:  # a typed dict or a protocol cannot be asked
        return True
