"""Every change is accounted for: absorbed, cut off, waiting or blocked, and why."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import freshet as fr
from freshet.engine import events as e
from freshet.projections.audit import Audit, Changes, audit
from tests.engine import Engine, engine
from tests.histories import History
from tests.test_staleness_model import finish_everything

pytestmark = pytest.mark.anyio


async def audit_of(under_test: Engine) -> Audit:
    changes = Changes()
    for recorded in await under_test.history():
        changes.note(recorded)
    return audit(under_test.view, changes)


async def test_each_change_is_in_exactly_one_column() -> None:
    """Absorbed, equal, waiting for a person, blocked by a failure, and read by nobody."""
    read, slow, bad, lonely = (fr.source(name) for name in ("read", "slow", "bad", "lonely"))

    @fr.asset
    async def follows(read: str) -> str:
        return read

    @fr.asset(freshness=fr.manual())
    async def asked_for(slow: str) -> str:
        return slow

    @fr.asset
    async def fails(bad: str) -> str:
        raise RuntimeError("always")

    async with engine(read, slow, bad, lonely, follows, asked_for, fails) as under_test:
        await under_test.change("read", "1")
        await under_test.quiet()
        await under_test.change("read", "1")
        for name in ("slow", "bad", "lonely"):
            await under_test.change(name, "1")
        await under_test.quiet()
        found = await audit_of(under_test)
    rows = {
        a.source: (a.changes, a.absorbed, a.cut_off, a.waiting, a.blocked, a.unread, a.unaccounted)
        for a in found.accounts
    }
    assert rows == {
        "bad": (1, 0, 0, 0, 1, 0, 0),
        "lonely": (1, 0, 0, 0, 0, 1, 0),
        "read": (2, 1, 1, 0, 0, 0, 0),
        "slow": (1, 0, 0, 1, 0, 0, 0),
    }
    assert (found.changes, found.unaccounted) == (5, 0)
    assert [(p.asset, p.blocked) for p in found.pending] == [("fails", True), ("asked_for", False)]


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.integers(2, 8), steps=st.integers(1, 60))
def test_nothing_is_unaccounted_for(seed: int, size: int, steps: int) -> None:  # X1
    """At any moment of any history, and once it has come to rest; and the columns add up."""
    history = History(random.Random(seed), size)
    for _ in range(steps):
        history.step()
    for finish in (False, True):
        if finish:
            finish_everything(history)
        changes = Changes()
        for recorded in history.recorded:
            changes.note(recorded)
        found = audit(history.view, changes)
        assert found.unaccounted == 0
        said = sum(isinstance(r.event, e.SourceChanged) for r in history.recorded)
        assert found.changes == said
        for a in found.accounts:
            parts = (a.absorbed, a.cut_off, a.waiting, a.blocked, a.unread, a.unaccounted)
            assert a.changes == sum(parts)
            assert min(parts) >= 0
        if finish:
            assert not any(a.waiting for a in found.accounts) or found.pending
