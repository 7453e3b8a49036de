"""Checks: tests on a value, run on what a run has made before anybody can see it."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import msgspec

from freshet.engine.assets import Asset, Source
from freshet.engine.codeversion import code_version as derived_version
from freshet.engine.errors import DefinitionError, did_you_mean
from freshet.engine.keys import AssetKey, asset_key
from freshet.engine.signatures import CONTEXT, annotations_of, parameters_of, place_of
from freshet.engine.specs import CheckSpec, Severity

VALUE = "value"
"""A parameter of a check by this name receives the value, whatever the asset is called."""


class CheckResult(msgspec.Struct, frozen=True):
    """What a check found: did the value pass, what it measured, and in a line, what is wrong."""

    passed: bool
    metadata: Mapping[str, object] = {}
    message: str = ""


class Check:
    """A test on the values of one asset. Calling it calls the function, so tests need no engine."""

    def __init__(self, function: Callable[..., Any], asset: AssetKey, spec: CheckSpec) -> None:
        self.function = function
        self.asset = asset
        self.spec = spec
        self.where = place_of(function)
        self.is_async = inspect.iscoroutinefunction(inspect.unwrap(function))
        self.parameters, self.takes_context = parameters_of(function, asset, self.where)
        values = [name for name in self.parameters if name in (VALUE, asset.rpartition("/")[2])]
        self.parameter = values[0] if values else ""
        self.__doc__ = function.__doc__
        self.__name__ = spec.name

    @property
    def name(self) -> str:
        return self.spec.name

    @cached_property
    def annotations(self) -> dict[str, Any]:
        return annotations_of(self.function)

    @property
    def annotation(self) -> Any:
        """The form in which it wants the value; None if it does not say."""
        return self.annotations.get(self.parameter)

    def check_parameters(self, resources: Collection[str]) -> None:
        """It can be given the value, and resources. Raises DefinitionError."""
        strange = [name for name in self.parameters if name not in (self.parameter, *resources)]
        if strange:
            leaf = self.asset.rpartition("/")[2]
            raise DefinitionError(
                f"check '{self.name}' of '{self.asset}' has the parameters"
                f" {', '.join(self.parameters)} ({self.where})",
                cause=f"it is given the value of '{self.asset}' and resources, and nothing else",
                hint=did_you_mean(strange[0], [leaf, VALUE, CONTEXT, *resources])
                or f"name one parameter '{leaf}' or '{VALUE}', and, if needed, '{CONTEXT}'",
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Check({self.name!r} of {self.asset!r})"


def check(
    target: str | Asset,
    *,
    name: str | None = None,
    blocking: bool = False,
    severity: Severity | None = None,
    description: str | None = None,
    code_version: str | None = None,
) -> Callable[[Callable[..., Any]], Check]:
    """Declare that this function tests each new value of an asset, before anybody can see it.

    It is given the value, by the asset's name or as `value`, in the form its annotation says, and
    the run's `context` and resources if it asks for those; and returns whether the value passes,
    or a `CheckResult`. One that raises has not passed. If it is `blocking`, nothing is published
    that has not passed: the version before stays current, nothing downstream moves, and the run is
    not tried again until its inputs, its code or the check change. Else it warns; `severity` says
    how loud ("warn", or "error", which is that of a blocking one). Checks belong to
    `Project(checks=[...])`. Raises DefinitionError.
    """

    def declare(function: Callable[..., Any]) -> Check:
        asset = target.key if isinstance(target, Asset) else asset_key(target)
        found = name if name is not None else getattr(function, "__name__", "check")
        return Check(
            function,
            asset,
            CheckSpec(
                found,
                blocking,
                severity_of(severity, blocking, f"check '{found}' of '{asset}'"),
                code_version if code_version is not None else derived_version(function),
                inspect.getdoc(function) or "" if description is None else description,
            ),
        )

    if isinstance(target, Source):
        raise DefinitionError(
            f"a check of source '{target.key}'",
            cause="a source is made outside: there is nothing to be kept from being published",
            hint="check the asset that reads it",
        )
    return declare


def severity_of(severity: object, blocking: bool, what: str) -> Severity:
    """The severity asked for, or the usual one. Raises DefinitionError for what is none."""
    if severity not in (None, "warn", "error") or (blocking and severity == "warn"):
        raise DefinitionError(
            f"{what} has severity={severity!r}",
            cause="a blocking check is an error" if blocking else "",
            hint='use "warn" or "error"' if not blocking else "leave severity out",
        )
    found: Literal["warn", "error"] = "error" if blocking or severity == "error" else "warn"
    return found


def checks_by_asset(
    checks: Sequence[Check],
    known: Mapping[AssetKey, Asset | Source],
    resources: Collection[str] = (),
) -> dict[AssetKey, tuple[Check, ...]]:
    """The checks of each asset, in the order they were given. Raises DefinitionError."""
    found: dict[AssetKey, dict[str, Check]] = {}
    for one in checks:
        if not isinstance(one, Check):
            raise DefinitionError(
                f"Project(checks=[...]) has {one!r}, which is no check",
                hint="decorate functions with @fr.check(asset), or use fr.not_null and its like",
            )
        if not isinstance(known.get(one.asset), Asset):
            raise DefinitionError(
                f"check '{one.name}' is of '{one.asset}', which is no asset of the project"
                f" ({one.where})",
                hint=did_you_mean(one.asset, known) or "add it to Project(assets=[...])",
            )
        one.check_parameters(resources)
        others = found.setdefault(one.asset, {})
        if one.name in others:
            raise DefinitionError(
                f"asset '{one.asset}' has two checks '{one.name}': {others[one.name].where} and"
                f" {one.where}",
                hint="give one of them another name=",
            )
        others[one.name] = one
    return {asset: tuple(each.values()) for asset, each in found.items()}


def result_of(returned: object) -> CheckResult:
    """What a check said. Raises TypeError for what says nothing."""
    result = returned if isinstance(returned, CheckResult) else CheckResult(returned)  # type: ignore[arg-type]  # judged below
    passed = result.passed
    if not isinstance(passed, bool) and type(passed).__name__ not in ("bool_", "bool"):
        what = "CheckResult.passed is" if result is returned else "a check returns"
        raise TypeError(f"{what} True or False (or a CheckResult), not {type(passed).__name__}")
    return CheckResult(bool(passed), result.metadata, result.message)
