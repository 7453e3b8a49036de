"""A model is trained when the data or its hyperparameters change, and published if it is any
good.
"""

import msgspec

import freshet as fr

houses = fr.source("landing/houses")


class House(msgspec.Struct):
    """What is known of a house, and what it was sold for."""

    area: float
    price: float


class Model(msgspec.Struct):
    """price = slope · area + offset."""

    slope: float
    offset: float


@fr.multi_asset(["features/train", "features/test"])
def split(houses: str, test_share: float = 0.25) -> dict[str, list[House]]:
    """The last of the houses are kept for the test."""
    rows = [House(*map(float, line.split(","))) for line in houses.splitlines()[1:]]
    cut = round(len(rows) * (1 - test_share))
    return {"train": rows[:cut], "test": rows[cut:]}


@fr.asset(key="models/prices", kinds=["model"])
def model(train: list[House], learning_rate: float = 0.5, epochs: int = 400) -> fr.Output:
    """Gradient descent on the squared error; areas in hundreds, so that it goes quickly."""
    slope = offset = 0.0
    n = len(train)
    for _ in range(epochs):
        errors = [slope * h.area / 100 + offset - h.price for h in train]
        pairs = list(zip(errors, train, strict=True))
        slope -= learning_rate * sum(e * h.area / 100 for e, h in pairs) / n
        offset -= learning_rate * sum(errors) / n
    loss = sum((slope * h.area / 100 + offset - h.price) ** 2 for h in train) / n
    return fr.Output(Model(slope / 100, offset), metadata={"loss": loss, "houses": n})


@fr.check(model, blocking=True)
def learns(value: Model) -> fr.CheckResult:
    """A larger house is worth more."""
    return fr.CheckResult(value.slope > 0, {"slope": value.slope}, "larger houses are cheaper")


@fr.asset
def mean_error(prices: Model, test: list[House]) -> float:
    """How far off the model is, on the houses that it has not seen."""
    off = [abs(prices.slope * h.area + prices.offset - h.price) for h in test]
    return sum(off) / len(off)


project = fr.Project(
    [houses, split, model, mean_error],
    checks=[learns],
    sensors=[fr.files("landing/houses.csv", source=houses)],
)
