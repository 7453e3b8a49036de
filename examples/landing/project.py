"""Files that land: sales by day and shop, a price list beside them, and what follows from both."""

import csv
import io

import freshet as fr

DAYS = fr.daily("2024-01-01", opens="data")
DAYS_AND_SHOPS = fr.product(day=DAYS, shop=fr.static(["oslo", "rome"]))

sales = fr.source("landing/sales", partitions=DAYS_AND_SHOPS)
prices = fr.source("landing/prices")


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@fr.asset
def price_of(prices: str) -> dict[str, float]:
    return {row["product"]: float(row["price"]) for row in rows(prices)}


@fr.asset(partitions=DAYS_AND_SHOPS)
def revenue(sales: str, price_of: dict[str, float]) -> float:
    """Of one shop on one day. A corrected price list rebuilds all of them, a sales file one."""
    return sum(int(row["sold"]) * price_of[row["product"]] for row in rows(sales))


@fr.asset(partitions=DAYS, inputs={"revenue": fr.Input("revenue", missing="skip")})
def revenue_of_day(revenue: dict[str, float]) -> float:
    """Of all shops that have landed so far."""
    return sum(revenue.values())


project = fr.Project(
    [sales, prices, price_of, revenue, revenue_of_day],
    sensors=[
        fr.files(
            {"landing/sales/{day}/{shop}.csv": sales, "landing/prices.csv": prices},
            name="landing",
        )
    ],
)
