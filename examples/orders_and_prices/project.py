"""Kafka and files joined: orders by day from a topic, prices that land, the turnover from both."""

import csv
import os

import msgspec

import freshet as fr

DAYS = fr.daily("2024-01-01", opens="data")


class Order(msgspec.Struct):
    day: str
    product: str
    count: int


orders = fr.source("shop/orders", partitions=DAYS)
prices = fr.source("landing/prices")


@fr.asset(partitions=DAYS)
def sold(orders: fr.Changes[Order]) -> dict[str, int]:
    """How often each product was sold on a day: each order counts once."""
    found: dict[str, int] = orders.previous({})
    for change in orders:
        order = change.payload
        found[order.product] = found.get(order.product, 0) + order.count
    return found


@fr.asset(partitions=DAYS)
def turnover(sold: dict[str, int], prices: str) -> float:
    """A new order rebuilds its day; a new price list rebuilds all days."""
    price = {row["product"]: float(row["price"]) for row in csv.DictReader(prices.splitlines())}
    return sum(count * price.get(product, 0.0) for product, count in sold.items())


project = fr.Project(
    [orders, prices, sold, turnover],
    sensors=[
        fr.kafka(
            os.environ.get("ORDERS_TOPIC", "orders"),
            bootstrap_servers=os.environ.get("KAFKA", "localhost:9092"),
            source=orders,
            partition="value.day",
            value=Order,
            keep="payload",
            name="orders",
        ),
        fr.files("landing/prices.csv", source=prices, name="prices"),
    ],
)
