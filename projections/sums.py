"""Sums over runs of partitions in O(log n): a Fenwick tree of 64-bit additive hashes.

P. M. Fenwick, "A new data structure for cumulative frequency tables", Software: Practice and
Experience 24 (1994). Node k holds the sum of the `k & -k` values up to and including value k - 1.
"""

from array import array
from collections.abc import Iterable

MASK = (1 << 64) - 1


class PrefixSums:
    """Sums modulo 2^64 of the values at 0 … n - 1; values are changed by differences."""

    def __init__(self, values: Iterable[int] = ()) -> None:
        self._tree = array("Q", [0])
        for value in values:
            self.append(value)

    def __len__(self) -> int:
        return len(self._tree) - 1

    def append(self, value: int = 0) -> None:
        """Add a value at the end. Amortised O(1)."""
        tree = self._tree
        k = len(tree)
        low = k & (k - 1)
        j = k - 1
        while j > low:
            value += tree[j]
            j &= j - 1
        tree.append(value & MASK)

    def add(self, n: int, difference: int) -> None:
        """Change value n by a difference. O(log n)."""
        tree = self._tree
        k, size = n + 1, len(tree)
        while k < size:
            tree[k] = (tree[k] + difference) & MASK
            k += k & -k

    def between(self, start: int, stop: int) -> int:
        """The sum of values start … stop - 1; what lies beyond the end counts 0. O(log n)."""
        tree = self._tree
        total = 0
        k = min(stop, len(tree) - 1)
        while k > start:
            total += tree[k]
            k &= k - 1
        low = min(start, len(tree) - 1)
        while low > k:
            total -= tree[low]
            low &= low - 1
        return total & MASK
