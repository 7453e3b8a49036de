"""Plain values as JSON: sorted, so that equal ones are equal bytes, and nothing lost on the way."""

import math
from typing import Any

import msgspec

from freshet.engine.errors import StoreError

KEYS = "text, numbers, dates and times, UUIDs, or members of an enum"
"""What the keys of a dict may be: what JSON can have as text, and an annotation brings back."""


def encode_json(value: Any, *, as_text: bool = True) -> bytes:
    """The JSON of a plain value, its dicts sorted by key; keys that are no text become text with
    `as_text`. Raises StoreError for a number that JSON does not have and for keys that it cannot
    tell apart; TypeError, ValueError, RecursionError or OverflowError, saying why, for what is no
    plain value.
    """
    try:
        data = msgspec.json.encode(value, order="deterministic")
    except TypeError:
        if not as_text:
            raise
        data = _with_text_keys(value)
    # What is no number becomes null: without one there is nothing to look for.
    if b"null" in data:
        _check_finite(value)
    return data


def _with_text_keys(value: Any) -> bytes:
    """As a dict somewhere in it has other keys than text, or as it is no plain value."""
    try:
        texts = msgspec.to_builtins(value, str_keys=True, order="deterministic")
    except TypeError as error:
        if "dicts with" in str(error):
            raise TypeError(f"a dict in it has keys that are none of {KEYS}") from None
        raise
    data = msgspec.json.encode(texts, order="deterministic")
    if len(data) != len(msgspec.json.encode(value)):
        raise StoreError(
            "two keys of one dict are the same in JSON, as 1 and '1' are",
            cause="only one of them would be stored",
            hint="use keys of one type",
        )
    return data


def _check_finite(value: Any) -> None:
    """Raise StoreError for the first number that is none, naming where it is."""
    left = [("$", msgspec.to_builtins(value, str_keys=True, enc_hook=_without))]
    while left:
        place, one = left.pop()
        if isinstance(one, float) and not math.isfinite(one):
            raise StoreError(
                f"a value with {one} at `{place}` cannot be stored",
                cause="JSON has no such number: null would be read in its place",
                hint="return None for what is missing; or give the store a format of your own"
                " (formats=[fr.Format(...)]), or fallback='pickle'",
            )
        if isinstance(one, dict):
            left += reversed([(f"{place}.{key}", each) for key, each in one.items()])
        elif isinstance(one, list | tuple):
            left += reversed([(f"{place}[{n}]", each) for n, each in enumerate(one)])


def _without(_: object) -> None:
    """Of what has no form but its JSON (`msgspec.Raw`): there is nothing to look at."""
