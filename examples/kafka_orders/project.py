"""Orders from a Kafka topic: revenue by day with each order counted once, and the latest order."""

import os

import msgspec

import freshet as fr


class Order(msgspec.Struct):
    """What a message must be; another one is rejected, listed, and can be replayed."""

    id: int
    day: str
    amount: float


orders = fr.source("shop/orders")


@fr.asset(deps=[orders], max_changes=1000)
def revenue(changes: fr.Changes[Order]) -> dict[str, float]:
    """By day: what it was before, and what the new orders add. Kafka as data."""
    found: dict[str, float] = changes.previous({})
    for change in changes:
        order = change.payload
        found[order.day] = found.get(order.day, 0.0) + order.amount
    return found


@fr.asset(freshness=fr.max_lag("5s"))
def best_day(revenue: dict[str, float]) -> str:
    """A few runs, however many orders there are; at most five seconds behind the newest."""
    return max(revenue, key=lambda day: revenue[day], default="")


project = fr.Project(
    [orders, revenue, best_day],
    sensors=[
        fr.kafka(
            os.environ.get("ORDERS_TOPIC", "orders"),
            bootstrap_servers=os.environ.get("KAFKA", "localhost:9092"),
            source=orders,
            value=Order,
            keep="payload",
            name="orders",
        )
    ],
)
