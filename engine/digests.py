"""Digests of content: equal bytes, equal digest, on every machine and in every release."""

from collections.abc import Iterable
from hashlib import blake2b

DIGEST_BYTES = 16
"""128 bits: no two contents of one asset will ever meet by chance."""


def digest(chunks: Iterable[bytes]) -> str:
    """32 hexadecimal digits of the concatenated chunks."""
    hasher = blake2b(digest_size=DIGEST_BYTES)
    for chunk in chunks:
        hasher.update(chunk)
    return hasher.hexdigest()
