"""X2: a daemon that reads Kafka is killed at random moments and its group rebalanced: each offset
is in the stream exactly once, without a gap.
"""

from pathlib import Path

import pytest
from anyio import to_thread

from tests.broker import Broker
from tests.kafka import new_topic
from tests.kafka_chaos import PARTITIONS, KafkaChaos

pytestmark = pytest.mark.anyio


async def survive(
    folder: Path, broker: Broker, seed: int, messages: int, kills: int, rebalances: int
) -> None:
    topic = await to_thread.run_sync(new_topic, broker, PARTITIONS)
    chaos = KafkaChaos(folder, broker, topic, seed)
    told = f"seed {seed}"
    try:
        for n in range(kills):
            await chaos.round(messages // (kills + 1), rebalance=n % (kills // rebalances) == 1)
        await chaos.last(messages - len(chaos.written))
        places = await chaos.read()
    except BaseException as error:
        error.add_note(told)
        raise
    assert len(places) == messages, told
    for partition in range(PARTITIONS):
        # Offset by offset, from the first to the last: nothing twice, no gap, in order.
        mine = [offset for number, offset in places if number == partition]
        assert mine == list(range(len(mine))), told
    assert sorted(places) == sorted(chaos.written), told
    # The kills and the others have hit something.
    assert await chaos.starts() > kills / 2, told
    assert chaos.rebalances >= rebalances, told


@pytest.mark.timeout(240)
async def test_kills_and_rebalances_neither_lose_nor_double(broker: Broker, tmp_path: Path) -> None:
    """8 kills and 3 rebalances over 1,500 messages on 3 partitions."""
    await survive(tmp_path, broker, seed=1, messages=1500, kills=8, rebalances=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_x2_fifty_kills_and_ten_rebalances(broker: Broker, tmp_path: Path) -> None:
    """X2 at full length: 50 kills and 10 rebalances over 5,000 messages on 3 partitions."""
    await survive(tmp_path, broker, seed=2, messages=5000, kills=50, rebalances=10)
