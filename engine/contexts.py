"""The context of a run, made from its order."""

from datetime import UTC, datetime

from freshet.engine.context import Context, Window
from freshet.engine.keys import AssetPartition, PartitionKey
from freshet.engine.orders import Order
from freshet.engine.spaces import calendar_of
from freshet.engine.windows import Calendar


def context_of(order: Order) -> Context:
    """What the function and the checks of a run may ask about it."""
    partitions = tuple(target.partition for target in order.targets)
    gaps = dict.fromkeys(
        AssetPartition(read.asset, key)
        for target in order.reads
        for read in target
        for key in read.gaps
    )
    return Context(
        order.spec.key,
        partitions[0],
        order.run,
        order.attempt,
        order.started_at,
        partitions,
        _windows(order, partitions),
        tuple(gaps),
    )


def _windows(order: Order, partitions: tuple[PartitionKey, ...]) -> dict[PartitionKey, Window]:
    calendar, stride = calendar_of(order.space)
    found: dict[PartitionKey, Window] = {}
    for key in partitions if calendar is not None else ():
        i = order.space.ordinal(key)
        if i is not None and calendar is not None:
            start, end = calendar.start_us(i // stride), calendar.end_us(i // stride)
            found[key] = Window(_moment(start, calendar), _moment(end, calendar))
    return found


def _moment(us: int, calendar: Calendar) -> datetime:
    return datetime.fromtimestamp(us / 1_000_000, calendar.zone or UTC)
