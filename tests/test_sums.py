"""Prefix sums equal sums counted one by one."""

from hypothesis import given
from hypothesis import strategies as st

from freshet.projections.sums import MASK, PrefixSums

numbers = st.integers(0, MASK)


@given(st.lists(numbers, max_size=70), st.data())
def test_every_window_is_the_sum_of_its_values(values: list[int], data: st.DataObject) -> None:
    """Also after changes and additions, beyond the end, and of nothing."""
    sums = PrefixSums(values)
    for _ in range(data.draw(st.integers(0, 8))):
        change: bool = data.draw(st.sampled_from([True, False]))
        if values and change:
            n, value = data.draw(st.integers(0, len(values) - 1)), data.draw(numbers)
            sums.add(n, value - values[n])
            values[n] = value
        else:
            values.append(data.draw(numbers))
            sums.append(values[-1])
        start = data.draw(st.integers(0, len(values) + 2))
        stop = data.draw(st.integers(start, len(values) + 4))
        assert sums.between(start, stop) == sum(values[start:stop]) & MASK
    assert len(sums) == len(values)
