"""Inputs as they are handed over to another program."""

from pathlib import Path

import msgspec


class Given(msgspec.Struct, frozen=True):
    """An annotation of inputs that are handed over to another program: the file of the value, or,
    from a store without files, the value; of what has none, the data version alone.
    """

    data_version: str
    path: Path | None = None
    value: object = None
