"""Publishing: what a function returned is staged, audited by the checks of its asset, and only then
made visible: all of it, or nothing.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, cast

import anyio
import anyio.from_thread
import msgspec

from freshet.engine.assets import Asset
from freshet.engine.checks import Check, CheckResult, result_of
from freshet.engine.context import Context, Output
from freshet.engine.errors import StoreError
from freshet.engine.events import CheckEvaluated
from freshet.engine.executors.invoke import (
    MAX_ERROR_CHARS,
    Failed,
    Permit,
    Rejected,
    is_cancelled,
    readable,
    saying,
)
from freshet.engine.keys import AssetKey, AssetPartition
from freshet.engine.orders import Order
from freshet.engine.outputs import recorded_metadata
from freshet.engine.signatures import without_none
from freshet.engine.specs import Metadata
from freshet.engine.stores.outages import is_outage
from freshet.engine.stores.store import Staged, Store

MAX_NAMED = 3
"""Failed checks named in the error of a run; all are recorded one by one."""


class Draft(msgspec.Struct, frozen=True):
    """What a run has made and nobody sees yet: target by target what was returned, and what is
    staged of it (nothing, if it came without a value).
    """

    order: Order
    outputs: Sequence[Output]
    staged: Sequence[Staged | None]

    def name(self, number: int) -> AssetPartition:
        target = self.order.targets[number]
        return AssetPartition(target.asset, target.partition)


Audit = Generator[Callable[[], Any], CheckResult, list[CheckEvaluated]]
"""Yields each call of a check, and is sent what the check found."""


def stage(store: Store, order: Order, outputs: Sequence[Output]) -> Draft:
    """Write all values where no reader looks. Raises Rejected; then nothing is left behind."""
    try:
        staged = [
            store.stage(AssetPartition(t.asset, t.partition), order.run, output.value)
            if output.value is not None
            else None
            for t, output in zip(order.targets, outputs, strict=True)
        ]
    except BaseException as error:  # recorded: as the run's failure
        store.discard(order.run)
        raise _unstorable(error) from error
    return Draft(order, outputs, staged)


def publish(
    store: Store, draft: Draft, permit: Permit, announce: Callable[[], None]
) -> Failed | None:
    """Make all of it visible, unless the run was given up meanwhile; `announce` is called when it
    is certain that it was not, and before anything is visible. Raises Rejected.
    """
    if not permit.take():
        store.discard(draft.order.run)
        return Failed("timeout", "given up")
    try:
        announce()
        for one in draft.staged:
            if one is not None:
                store.publish(one)
    except BaseException as error:  # recorded: as the run's failure
        store.discard(draft.order.run)
        raise _unstorable(error) from error
    return None


def _unstorable(error: BaseException) -> Rejected:
    """What a store that says no means for the run: one that is away, or full, is no fault of it."""
    if not isinstance(error, StoreError):
        return Rejected("store", saying(error))
    if is_outage(error):
        return Rejected("infrastructure", str(error), passing=True)
    return Rejected("store", str(error))


def audit(
    store: Store,
    draft: Draft,
    checks: Mapping[AssetKey, Sequence[Check]],
    context: Context | None,
    lent: Mapping[str, object] | None = None,
) -> Audit:
    """What the checks of each asset say of its value, in order; every one is asked."""
    found = []
    for number, (output, staged) in enumerate(zip(draft.outputs, draft.staged, strict=True)):
        name = draft.name(number)
        here = context and msgspec.structs.replace(
            context, asset=name.asset, partition=name.partition
        )
        version = staged.data_version if staged is not None else output.data_version or ""
        for check in checks.get(name.asset, ()):
            result = yield partial(_asked, store, check, output.value, staged, here, lent or {})
            found.append(evaluated(check, name, draft.order.run, version, result))
    return found


def evaluated(
    check: Check, name: AssetPartition, run: int, version: str, result: CheckResult
) -> CheckEvaluated:
    """What is recorded of a check."""
    return CheckEvaluated(
        check.name,
        name.asset,
        name.partition,
        run,
        result.passed,
        check.spec.blocking,
        cast(Metadata, result.metadata),  # put into the form that is recorded by `_checked`
        version,
        check.spec.severity,
        result.message,
    )


def blocked_by(found: Sequence[CheckEvaluated]) -> Failed | None:
    """The failure of a run of whose values some have not passed a blocking check."""
    bad = [one for one in found if one.blocking and not one.passed]
    if not bad:
        return None
    said = [
        f"check '{one.check}' failed"
        + (f" for {one.partition}" if one.partition else "")
        + (f": {one.message}" if one.message else "")
        for one in bad[:MAX_NAMED]
    ]
    more = f"; and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
    return Failed("check", "; ".join(said) + more, found=tuple(found))


def audit_in_thread(asking: Audit) -> list[CheckEvaluated]:
    """Ask the checks from a worker thread; those that are async are awaited on its event loop."""
    answer: CheckResult | None = None
    try:
        while True:
            call = next(asking) if answer is None else asking.send(answer)
            answer = _found(call)
    except StopIteration as end:
        found: list[CheckEvaluated] = end.value
        return found


async def audit_inline(asking: Audit) -> list[CheckEvaluated]:
    """Ask the checks here, as in a simulation."""
    answer: CheckResult | None = None
    try:
        while True:
            call = next(asking) if answer is None else asking.send(answer)
            answer = await asked(call)
    except StopIteration as end:
        found: list[CheckEvaluated] = end.value
        return found


async def asked(call: Callable[[], Any]) -> CheckResult:
    """What a check says, called here; one that raises has not passed."""
    return await _awaited(_inline(call))


async def _inline(call: Callable[[], Any]) -> Any:
    returned = call()
    return await returned if isinstance(returned, Awaitable) else returned


def lent_to(taker: Asset | Check, lent: Mapping[str, object]) -> dict[str, object]:
    """The resources that a function has as parameters."""
    return {name: lent[name] for name in taker.parameters if name in lent}


def _asked(
    store: Store,
    check: Check,
    value: object,
    staged: Staged | None,
    context: Context | None,
    lent: Mapping[str, object],
) -> Any:
    """Call a check with the value in the form it wants. Plain values come anew for each: what one
    does to them, no other sees. Tables are shared.
    """
    arguments: dict[str, Any] = {"context": context} if check.takes_context else {}
    if check.parameter:
        wanted = without_none(check.annotation)
        if staged is not None and isinstance(wanted, type) and not _is(value, wanted):
            value = store.look(staged, wanted)
        elif isinstance(value, list | dict | set | bytearray | msgspec.Struct):
            value = deepcopy(value)
        arguments[check.parameter] = value
    return check.function(**arguments, **lent_to(check, lent))


def _is(value: object, wanted: type) -> bool:
    try:
        return isinstance(value, wanted)
    except TypeError:  # a protocol or a typed dict cannot be asked
        return True


def _found(call: Callable[[], Any]) -> CheckResult:
    try:
        returned = call()
        if isinstance(returned, Awaitable):
            return anyio.from_thread.run(_awaited, returned)
        return _checked(returned)
    except BaseException as error:  # recorded: as a check that has not passed
        return CheckResult(False, message=saying(error))


async def _awaited(returned: Awaitable[Any]) -> CheckResult:
    """What it says in the end: caught here, as what is raised on the event loop would end that."""
    try:
        return _checked(await returned)
    except BaseException as error:  # recorded: as a check that has not passed
        if isinstance(error, anyio.get_cancelled_exc_class()) and is_cancelled():
            raise
        return CheckResult(False, message=saying(error))


def _checked(returned: object) -> CheckResult:
    result = result_of(returned)
    message = "" if result.passed else readable(result.message)[:MAX_ERROR_CHARS]
    return CheckResult(result.passed, recorded_metadata(result.metadata), message)
