"""Freshness policies as data: when a partition that owes should be brought up to date.

A policy is nothing but a source of demand (DESIGN.md section 1); the reactor knows the one rule
that turns demand into runs.
"""

import msgspec


class Eager(msgspec.Struct, frozen=True, tag="eager"):
    """Absorb everything, at once: unlimited demand. Missing partitions are filled too."""


class Manual(msgspec.Struct, frozen=True, tag="manual"):
    """Run only when a person asks. A wall: downstream treats it as a source."""


Policy = Eager | Manual


def eager() -> Eager:
    """Rebuild as soon as something upstream has changed and every upstream has caught up
    with it.
    """
    return Eager()


def manual() -> Manual:
    """Rebuild only on `freshet materialize`; what is below moves when this is materialized anew."""
    return Manual()
