"""The work of one run: what it loads, and how what it made is staged, audited and published."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from freshet.engine.assets import Asset
from freshet.engine.checks import Check
from freshet.engine.errors import NotKeptError, StoreError
from freshet.engine.events import AnyEvent, CheckEvaluated, Materialized
from freshet.engine.executors.invoke import Failed, Permit, Rejected
from freshet.engine.given import Given
from freshet.engine.inputs import Load, Values, each_of, landed_file, load_value
from freshet.engine.intents import Intent, Intents
from freshet.engine.keys import AssetKey, AssetPartition, PartitionKey
from freshet.engine.orders import Order, context_of
from freshet.engine.outputs import (
    annotated,
    check_columns,
    check_nothing,
    check_type,
    outputs_of,
    valueless_version,
)
from freshet.engine.parts import Input
from freshet.engine.publishing import (
    Audit,
    Draft,
    audit,
    audit_in_thread,
    blocked_by,
    lent_to,
    publish,
    stage,
)
from freshet.engine.readings import Taken, arguments_of
from freshet.engine.resources import Resource, unfit
from freshet.engine.signatures import without_none
from freshet.engine.specs import Metadata
from freshet.engine.stores.landing import InputChangedError, still_the_same
from freshet.engine.stores.outages import is_outage
from freshet.engine.stores.payloads import Payloads, inline_content
from freshet.engine.stores.store import Store
from freshet.projections.catalog import Version


class Work(msgspec.Struct, frozen=True):
    """An order with everything looked up that it needs; and what is to be done of it wherever its
    function is called: in a worker thread, on the event loop, in another process, in a simulation.
    """

    order: Order
    asset: Asset
    checks: Mapping[AssetKey, Sequence[Check]]
    """What the values have to pass, by asset."""
    store: Store
    fetch: Callable[[int], Version]
    """Finds a version by its position, from a worker thread."""
    loads: dict[str, Load]
    versions: dict[int, Version]
    taken: Taken | None = None
    """The changes it reads, of an asset that reads changes."""
    previous: Version | None = None
    """Its own version before, of an asset that reads changes."""

    payloads: Payloads | None = None
    intents: Intents | None = None
    submitted: Callable[[str], Awaitable[None]] | None = None
    """Records the job that does the work elsewhere."""
    lent: Mapping[str, object] = {}
    """The resources of its functions, open."""
    columns: Mapping[AssetKey, Mapping[str, str]] = {}
    """What tables have to have, by asset."""

    @property
    def newest_read(self) -> int:
        """Position of the newest change it reads; 0 if there is none."""
        return self.taken.changes[-1].position if self.taken and self.taken.changes else 0

    def inputs(self, number: int) -> tuple[Input, ...]:
        """The inputs recorded of one target."""
        return tuple(
            entry for read in self.order.reads[number] for entry in read.inputs(self.versions)
        )

    # --- reading ------------------------------------------------------------------------------

    def arguments(self, *, lazy: bool = True) -> dict[str, Any]:
        """What the function is called with; unless `lazy`, with every value loaded."""
        arguments: dict[str, Any] = {}
        for parameter, load in self.loads.items():
            try:
                arguments[parameter] = self._load(parameter, load, lazy)
            except StoreError as error:
                raise _unreadable(parameter, error) from error
        if self.taken is not None:
            content = self.payloads.content if self.payloads is not None else inline_content
            previous = self._own_value if self.previous is not None else None
            arguments |= arguments_of(self.taken, self.asset.changes_of, content, previous)
        if self.asset.takes_context:
            arguments["context"] = msgspec.structs.replace(
                context_of(self.order), submitted=self.submitted
            )
        return arguments | lent_to(self.asset, self.lent)

    def _own_value(self) -> Any:
        """The value of the target as its last success left it. Raises StoreError."""
        target, version = self.order.targets[0], self.previous
        if version is None:
            return None
        if not version.run:
            raise StoreError(
                f"the value of {target.asset} was observed as {version.data_version!r} at position"
                f" {version.position}, not made: what lies there now is not known",
                hint=f"`freshet invalidate {target.asset}` lets it begin with the first change",
            )
        if "bytes" not in version.metadata:
            return None  # it writes its own data, and said only which version it is
        annotation = without_none(self.asset.annotations.get("return"))
        name = AssetPartition(target.asset, target.partition)
        return self.store.load(name, version.data_version, annotation)

    def _load(self, parameter: str, load: Load, lazy: bool) -> Any:
        annotation = without_none(self.asset.annotations.get(parameter))
        if not load.read.many:
            if not load.positions:
                return None  # it is missing, and the asset goes on without
            key, position = next(iter(load.positions.items()))
            return load_value(self.store, load.read, key, self.versions[position], annotation)
        each = each_of(annotation)

        def loader(key: PartitionKey, version: Version) -> Any:
            try:
                return load_value(self.store, load.read, key, version, each)
            except StoreError as error:
                raise _unreadable(f"{parameter}[{key!r}]", error) from error

        values = Values(load, self.versions, self.fetch, loader)
        return values if lazy and not self.asset.is_async else dict(values)

    def confirm_files(self, arguments: Mapping[str, Any]) -> None:
        """A function that was given a path may have read a file that changed meanwhile: then all is
        void.
        """
        for parameter, load in self.loads.items():
            if not load.read.is_source or not _may_be_path(self.asset, parameter, load):
                continue
            value = arguments[parameter]
            positions = load.positions.values()
            for version in (
                list(value.seen.values())
                if isinstance(value, Values)
                else [self.versions[p] for p in positions if p in self.versions]
            ):
                landed = landed_file(version)
                if landed is not None and not still_the_same(*landed):
                    text = f"'{landed[0]}' changed while it was being read"
                    raise Rejected("input", text, passing=True)

    # --- writing ------------------------------------------------------------------------------

    def draft(self, value: object) -> Draft:
        """Stage what was returned. Raises Rejected when it does not fit, or cannot be stored."""
        order = self.order
        outputs = outputs_of(order, self.asset, value)
        for target, output in zip(order.targets, outputs, strict=True):
            promised = annotated(self.asset, target.asset, batch=order.spec.batch > 1)
            if output.value is None:
                check_nothing(target.asset, promised, self.asset, output)
            else:
                check_type(target.asset, promised, output.value)
                check_columns(target.asset, self.columns.get(target.asset, {}), output.value)
        return stage(self.store, order, outputs)

    def keep(self, value: object, permit: Permit) -> list[AnyEvent] | Failed:
        """Stage, audit and publish; all partitions or none."""
        draft = self.draft(value)
        return self.published(draft, permit, audit_in_thread(self.audit(draft)))

    def audit(self, draft: Draft) -> Audit:
        """What the checks say of it, to be driven by who can call them."""
        return audit(
            self.store,
            draft,
            self.checks,
            context_of(self.order) if self.checks else None,
            self.lent,
        )

    def published(
        self, draft: Draft, permit: Permit, found: list[CheckEvaluated]
    ) -> list[AnyEvent] | Failed:
        """Publish what has passed, unless the run was given up meanwhile."""
        failed = blocked_by(found)
        if failed is not None:
            self.store.discard(self.order.run)
            return failed
        made = [self._materialized(n, draft) for n in range(len(draft.outputs))]
        late = publish(self.store, draft, permit, partial(self._announce, draft, [*found, *made]))
        return late or [*found, *made]

    def _announce(self, draft: Draft, events: Sequence[CheckEvaluated | Materialized]) -> None:
        """Write down what is about to be published."""
        staged = tuple(one for one in draft.staged if one is not None)
        if self.intents is not None and staged and not self.store.in_memory:
            self.intents.write(Intent(self.order.run, staged, tuple(events)))

    def _materialized(self, number: int, draft: Draft) -> Materialized:
        target, output, staged = (
            self.order.targets[number],
            draft.outputs[number],
            draft.staged[number],
        )
        inputs = self.inputs(number)
        if staged is not None:
            version = staged.data_version
            metadata: Metadata = {**output.metadata, **staged.metadata}
        else:
            version = output.data_version or valueless_version(
                self.order, number, inputs, self.newest_read
            )
            metadata = output.metadata
        return Materialized(
            target.asset,
            target.partition,
            self.order.run,
            version,
            target.code_version,
            inputs,
            metadata,
            self.taken.absorbed if self.taken is not None else None,
        )


def _unreadable(what: str, error: StoreError) -> Rejected:
    text = f"parameter '{what}': {error}"
    if is_outage(error):
        return Rejected("infrastructure", text, passing=True)
    return Rejected("input", text, passing=isinstance(error, InputChangedError | NotKeptError))


def _may_be_path(asset: Asset, parameter: str, load: Load) -> bool:
    annotation = without_none(asset.annotations.get(parameter))
    element = each_of(annotation) if load.read.many else annotation
    return element in (None, Path, Given)


def check_lent(resources: Mapping[str, Resource], lent: Mapping[str, object], work: Work) -> None:
    """What was opened is what the functions say they take. Raises Rejected."""
    takers: list[Asset | Check] = [work.asset]
    takers += [one for each in work.checks.values() for one in each]
    for taker in takers:
        for name, value in lent_to(taker, lent).items():
            problem = unfit(resources[name], value, taker.annotations.get(name), repr(taker))
            if problem:
                raise Rejected("input", f"parameter '{name}': {problem}")
