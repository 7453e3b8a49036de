"""Counts in words."""


def counted(number: int, noun: str) -> str:
    """`1 partition`, `2 partitions`: the noun is one of those that take an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
