"""The arguments of declarations: checked, and put into the form that is recorded."""

from collections.abc import Mapping, Sequence

import msgspec

from freshet.engine.errors import DefinitionError
from freshet.engine.keys import AssetKey
from freshet.engine.partitions import Partitions
from freshet.engine.specs import AssetSpec, Plain


def check_types(spec: AssetSpec, where: str) -> None:
    """What is recorded must be readable again. Raises DefinitionError naming the odd value."""
    try:
        msgspec.json.decode(msgspec.json.encode(spec), type=AssetSpec)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise DefinitionError(
            f"the definition of '{spec.key}' has a value of a wrong type ({where})",
            cause=str(error),
            hint="see the signature of fr.asset or fr.source, and of what was given to it",
        ) from None


def check_partitions(name: AssetKey, partitions: object, where: str) -> None:
    if not isinstance(partitions, Partitions | None):
        raise DefinitionError(
            f"asset '{name}' has partitions={partitions!r} ({where})",
            hint="fr.daily('2024-01-01'), fr.static([...]), fr.dynamic() and their like",
        )


def check_batch(name: AssetKey, batch: int, partitions: Partitions | None, where: str) -> None:
    if batch < 1 or (batch > 1 and partitions is None):
        raise DefinitionError(
            f"asset '{name}' has batch={batch} ({where})",
            cause="a batch is a number of partitions that one run may take",
            hint="use 1 or more, and partitions=",
        )


def texts(values: Sequence[str], key: AssetKey, name: str) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise DefinitionError(f"asset '{key}': {name}={values!r} should be a list of texts")
    return tuple(values)


def plain(values: Mapping[str, Plain], key: AssetKey) -> dict[str, Plain]:
    for name, value in values.items():
        if not isinstance(value, str | int | float | bool | None):
            raise DefinitionError(
                f"asset '{key}': metadata {name!r} is a {type(value).__name__}",
                hint="metadata values are text, numbers, true/false or none",
            )
    return dict(values)
