"""Feeds: what a row reads of its sources change by change, and whether there is more to read."""

from freshet.projections.progress import Feed, Partitions, Progress, advanced, feed_of, says_more
from freshet.projections.states import AssetState, Link


def feeds_of(state: AssetState, i: int) -> tuple[Feed, ...]:
    """What the row is to read next."""
    return tuple(_feed(link, i) for link in state.up if link.changes)


def progress_of(state: AssetState, i: int) -> Progress:
    """Up to where the row has read, said so that it stays true whatever it reads from here on."""
    found = state.absorbed.get(i)
    return found if found is not None else advanced({}, feeds_of(state, i), 0)


def absorb(state: AssetState, i: int, feeds: tuple[Feed, ...], run: int, until: int) -> None:
    """The row was made by a run that has read these feeds up to a position, if all: to the run."""
    progress = state.absorbed.get(i)
    state.halfway.discard(i)
    if progress is None and until == run:
        return
    progress = state.absorbed[i] = advanced(progress or {}, feeds, until)
    if until < run:
        state.halfway.add(i)
    else:
        now = feeds_of(state, i)
        if all(feed.first == feed.since == run for feed in now) and not says_more(progress, now):
            del state.absorbed[i]


def newest_change(link: Link, i: int) -> int:
    """Position of the newest change over an edge, withdrawals too; 0 when there was none yet."""
    up = link.up
    if takes_all(link):
        return up.newest
    rows = link.reads(i)
    if isinstance(rows, range):
        return max(up.made_at[rows.start : rows.stop : rows.step], default=0)
    return max((up.made_at[j] for j in rows if j < up.n), default=0)


def has_unread(link: Link, i: int) -> bool:
    """Is there a change over this edge that the row has not read?"""
    progress = link.down.absorbed.get(i)
    if progress is None:
        return newest_change(link, i) > link.down.started_at[i]
    return _goes_on(link, i, progress)


def _goes_on(link: Link, i: int, progress: Progress) -> bool:
    newest = newest_change(link, i)
    feed = feed_of(link.dep.asset, link.dep.parameter, _partitions(link, i), progress)
    if not feed.apart or newest <= feed.first:
        return newest > feed.first
    up = link.up
    if takes_all(link) and any(feed.wants(key, at) for key, at in up.heard.items()):
        return True
    return any(feed.wants(up.space.key(j), up.made_at[j]) for j in link.reads(i) if j < up.n)


def leaves_some(state: AssetState, i: int) -> bool:
    """Is there something that neither the row nor its live run has read?"""
    live = state.live.get(i)
    if live is None:
        return reads_anew(state, i)
    progress = advanced(state.absorbed.get(i, {}), live.feeds, live.run)
    return any(link.changes and _goes_on(link, i, progress) for link in state.up)


def takes_all(link: Link) -> bool:
    """Does it read all that is said of a source, whatever partitions that has?"""
    return link.whole and link.up.spec.partitions is not None


def reads_anew(state: AssetState, i: int) -> bool:
    """Is there something that the row is to read change by change?"""
    return any(link.changes and has_unread(link, i) for link in state.up)


def read_until(link: Link, i: int) -> int:
    """All that came over this edge up to this position has been read."""
    return _feed(link, i).first if i in link.down.absorbed else link.down.started_at[i]


def read_again(state: AssetState, i: int) -> None:
    """The row is to begin with the first change."""
    state.absorbed[i] = {}
    state.halfway.discard(i)
    if i in state.live:
        state.live[i].feeds = ()


def starts_over(state: AssetState, i: int) -> bool:
    """Has the row read nothing yet of what it reads change by change, or is it to read it anew?"""
    progress = state.absorbed.get(i)
    return not (state.started_at[i] if progress is None else any(progress.values()))


def _feed(link: Link, i: int) -> Feed:
    state, source, parameter = link.down, link.dep.asset, link.dep.parameter
    partitions, progress = _partitions(link, i), state.absorbed.get(i)
    if progress is None:
        return Feed(source, parameter, partitions, state.started_at[i])
    return feed_of(source, parameter, partitions, progress)


def _partitions(link: Link, i: int) -> Partitions:
    """By name, so that they stay the same when the source comes to have them."""
    up = link.up
    if takes_all(link):
        return None
    if up.spec.partitions is None:
        return frozenset(("",))
    valid, key = up.space.valid, up.space.key
    return frozenset((*map(key, filter(valid, link.reads(i))), *link.lane.asked(i)))
