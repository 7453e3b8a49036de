"""Outputs: what a function returned, fitted to the targets of its run."""

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from types import NoneType
from typing import Any, get_args, get_origin
from uuid import UUID

import msgspec
import msgspec.inspect

from freshet.engine.assets import Asset
from freshet.engine.context import Output
from freshet.engine.executors.invoke import Rejected, readable
from freshet.engine.keys import AssetKey
from freshet.engine.metadata import MAX_ROWS, TYPED, Value, check_size, value_of, with_texts
from freshet.engine.orders import Order
from freshet.engine.parts import Input
from freshet.engine.schemas import misfits
from freshet.engine.secrets import Secret, is_told_in
from freshet.engine.signatures import annotations_of, element_annotation, without_none
from freshet.engine.specs import Metadata
from freshet.engine.stores.formats import columns_of, sample_of, table_package

PLAIN = (str, int, float, bool, type(None))

KEPT = (bytes, bytearray, datetime, date, time, timedelta, Decimal, UUID)
"""Values that are compared as they are."""

UNTOLD = (None, Any, object, int, float, bool, list, dict, tuple, set)
"""Annotations that say nothing of what is inside."""


MAX_SAID = 5
"""Columns named of those that do not fit; all are counted."""


def outputs_of(order: Order, asset: Asset, value: object) -> list[Output]:
    """What was returned, target by target. Raises Rejected when that of a batch, or of a
    multi-asset, does not fit.
    """
    if order.spec.together:
        return _by_asset(order, asset, value)
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


def _by_asset(order: Order, asset: Asset, value: object) -> list[Output]:
    """What a multi-asset returned: a dict by the names of its outputs, or a tuple in their order;
    or nothing, if it writes its own data.
    """
    names = asset.outputs
    if value is None:
        return [Output() for _ in order.targets]
    if isinstance(value, tuple) and len(value) == len(names):
        value = dict(zip(names, value, strict=True))
    if not isinstance(value, Mapping) or set(value) != set(names):
        got = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
        got = f"a tuple of {len(value)}" if isinstance(value, tuple) else got
        raise Rejected(
            "value", f"a multi-asset returns a dict of its outputs, {', '.join(names)}, not {got}"
        )
    found = dict(zip(order.spec.together, names, strict=True))
    return [as_output(value[found[target.asset]]) for target in order.targets]


def annotated(asset: Asset, key: AssetKey, *, batch: bool) -> Any:
    """The type that the return annotation promises for one value of this asset; None if it says
    nothing of it.
    """
    expected = without_none(asset.annotations.get("return"))
    if batch:
        return element_annotation(expected)
    if not asset.outputs:
        return expected
    number = asset.spec.together.index(key)
    if get_origin(expected) is tuple and len(get_args(expected)) == len(asset.outputs):
        return get_args(expected)[number]
    fields = getattr(expected, "__annotations__", {})  # of a NamedTuple or TypedDict
    if asset.outputs[number] in fields:
        return annotations_of(expected).get(asset.outputs[number])
    return element_annotation(expected)


def as_output(value: object) -> Output:
    """An `Output` as it is, anything else as the value of one."""
    if not isinstance(value, Output):
        return Output(value)
    if not isinstance(value.data_version, str | None):
        raise Rejected("value", f"a data_version is text, not {value.data_version!r}")
    if value.data_version is not None and is_told_in(value.data_version):
        raise Rejected("value", "the data_version of an Output holds a secret; it is recorded")
    try:
        found = Output(value.value, data_version=value.data_version)
        found.metadata = recorded_metadata(value.metadata)
    except (TypeError, ValueError, AttributeError) as error:
        raise Rejected("value", f"an Output cannot be recorded: {error}") from None
    return found


def recorded_metadata(values: Mapping[str, object]) -> Metadata:
    """Metadata as it is recorded; numbers of other packages become Python's, and what is no text
    is replaced in it. Raises TypeError naming what cannot be recorded, ValueError what is too
    large.
    """
    found: dict[str, Value] = {}
    for name, value in (values or {}).items():
        try:
            if not isinstance(name, str):
                raise TypeError("its name is no text")
            found[readable(name)] = _recorded(value)
        except TypeError as error:
            raise TypeError(
                f"metadata {name!r} cannot be recorded: {error}; text, numbers, true/false, none,"
                " paths, times, lists, dicts, small tables and what fr.metadata has can be"
            ) from None
    check_size(found)
    return found


def _recorded(value: object) -> Value:
    if isinstance(value, Secret):
        return str(value)
    if table_package(value) is not None and getattr(value, "shape", None) != (1, 1):
        return with_texts(sample_of(value, MAX_ROWS), readable)
    if not isinstance(value, TYPED) and type(value) not in PLAIN and hasattr(value, "item"):
        value = value.item()  # a number of numpy, or of a table of one cell
    return with_texts(value_of(value), readable)


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


def check_nothing(key: AssetKey, expected: Any, asset: Asset, output: Output) -> None:
    """No value, where the annotation promises one: a forgotten `return`. Raises Rejected."""
    written = asset.annotations.get("return")
    optional = without_none(written) is not written or written is NoneType
    if optional or output.data_version is not None:
        return
    if isinstance(expected, type) and expected not in (Output, NoneType, object):
        raise Rejected(
            "value",
            f"'{key}' should return {expected.__name__} but returned nothing; annotate it as"
            f" `{expected.__name__} | None` if that is meant",
        )


def check_type(key: AssetKey, expected: Any, value: object) -> None:
    """The return annotation is a promise, down to the fields of Structs and the elements of lists;
    what breaks it is never published. Raises Rejected, naming field and type.
    """
    if expected is Output:
        return
    if isinstance(expected, type) and not _is_a(value, expected):
        raise Rejected(
            "value",
            f"'{key}' should return {expected.__name__} but returned {type(value).__name__}",
        )
    if expected in UNTOLD or not _is_known(expected):
        return
    if table_package(value) is not None:
        raise Rejected(
            "value", f"'{key}' should return {expected} but returned {type(value).__name__}"
        )
    try:
        # Plain values and back: no other way sees inside of Structs.
        msgspec.convert(msgspec.to_builtins(value, builtin_types=KEPT), type=expected)
    except msgspec.ValidationError as error:
        if "unknown field" in str(error):
            return  # of a subclass, which may have more
        name = getattr(expected, "__name__", "") if isinstance(expected, type) else str(expected)
        raise Rejected("value", f"'{key}' should return {name}: {error}") from None
    except (TypeError, ValueError, RecursionError, OverflowError):
        return  # a value that is no plain one: the store says what it thinks of it


def check_columns(key: AssetKey, declared: Mapping[str, str], value: object) -> None:
    """Declared columns are a promise too. Raises Rejected, naming column and type."""
    if not declared:
        return
    if table_package(value) is None:
        raise Rejected(
            "value", f"'{key}' declares columns, and returned no table but a {type(value).__name__}"
        )
    found = columns_of(value)
    if found is None:
        raise Rejected("value", f"'{key}' declares columns, and narwhals is not installed")
    said = misfits(declared, found)
    if said:
        more = [f"and {len(said) - MAX_SAID} more"] if len(said) > MAX_SAID else []
        text = "; ".join(said[:MAX_SAID] + more)
        raise Rejected("value", f"'{key}' does not fit its columns: {text}")


@lru_cache(maxsize=1024)
def _is_known(expected: Any) -> bool:
    """Does msgspec know all of the type? What it does not, it knows no way back to."""
    try:
        left: list[object] = [msgspec.inspect.type_info(expected)]
    except (TypeError, ValueError, NameError, AttributeError, RecursionError):
        return False  # a forward reference, or a type it refuses: nothing can be said
    seen: set[int] = set()
    while left:
        found = left.pop()
        if isinstance(found, msgspec.inspect.CustomType | msgspec.inspect.RawType):
            return False
        if isinstance(found, tuple):
            left.extend(found)
        elif isinstance(found, msgspec.Struct) and id(found) not in seen:
            seen.add(id(found))  # types may contain themselves
            left.extend(getattr(found, name) for name in found.__struct_fields__)
    return True


def _is_a(value: object, expected: type) -> bool:
    if expected is float:
        return isinstance(value, int | float)
    if expected is int and isinstance(value, bool):
        return False
    try:
        return isinstance(value, expected)
    except TypeError:  # a typed dict or a protocol cannot be asked
        return True
