"""Secrets show themselves to nobody, and no text that holds one is recorded or printed."""

import base64
import copy
import io
import json
import pickle
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any
from urllib.parse import quote

import anyio
import msgspec
import pytest
import structlog

import freshet as fr
from freshet.engine import logs, secrets
from freshet.engine.cli.main import tell
from freshet.engine.codec import encode
from freshet.engine.errors import DefinitionError, FreshetError
from freshet.engine.events import (
    CheckEvaluated,
    Materialized,
    MessageRejected,
    RunFailed,
    SensorFailed,
    SourceChanged,
)
from freshet.engine.executors.invoke import MAX_DETAIL_CHARS, MAX_ERROR_CHARS, failure
from freshet.engine.secrets import MAX_KNOWN, conceal, is_told_in, redact
from freshet.engine.supervisor import supervise
from tests.engine import engine

pytestmark = pytest.mark.anyio

CANARY = "c4nary/'8f\"\\ü?="


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test conceals, no other misses."""
    monkeypatch.setattr(secrets, "_known", {})


# --- the type -------------------------------------------------------------------------------------


def test_a_secret_shows_itself_only_to_who_reveals_it() -> None:
    secret = fr.Secret(CANARY)
    assert secret.reveal() == CANARY
    assert [str(secret), f"{secret}", f"{secret:>5}"] == ["***", "***", "  ***"]
    assert [repr(secret), f"{[secret]}"] == ["Secret('***')", "[Secret('***')]"]
    assert not hasattr(secret, "__dict__")


def test_equal_texts_are_equal_secrets_and_an_empty_one_is_false() -> None:
    one, same, other = fr.Secret("abcdef"), fr.Secret("abcdef"), fr.Secret("ghijkl")
    assert (one == same, one == other, one == "abcdef") == (True, False, False)
    assert len({one, same, other}) == 2
    assert (bool(fr.Secret("")), bool(one)) == (False, True)
    with pytest.raises(TypeError, match="a secret is text, not bytes"):
        fr.Secret(b"abcdef")  # type: ignore[arg-type]  # that is it


def test_a_pickled_one_is_unreadable_and_comes_back_concealed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = pickle.dumps(fr.Secret(CANARY))
    assert CANARY.encode() not in data
    assert base64.b64encode(CANARY.encode()) not in data
    monkeypatch.setattr(secrets, "_known", {})  # another process
    assert redact(CANARY) == CANARY
    assert pickle.loads(data) == fr.Secret(CANARY)
    assert redact(CANARY) == "***"
    assert copy.deepcopy(fr.Secret(CANARY)) == fr.Secret(CANARY)


def test_recorded_it_is_three_stars_and_by_itself_no_json() -> None:
    event = Materialized("a", metadata={"token": fr.Secret(CANARY)})  # type: ignore[dict-item]
    assert msgspec.json.decode(encode(event))["metadata"] == {"token": "***"}
    with pytest.raises(TypeError):
        msgspec.json.encode(fr.Secret(CANARY))
    with pytest.raises(TypeError):
        json.dumps(fr.Secret(CANARY))


# --- the redactor ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        lambda s: s,
        repr,
        lambda s: repr(s.encode()),
        json.dumps,
        lambda s: json.dumps(s, ensure_ascii=False),
        quote,
        lambda s: quote(s, safe=""),
        lambda s: quote(s, safe="").lower(),
        lambda s: base64.b64encode(s.encode()).decode(),
        lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
        lambda s: base64.b64encode(f"user:{s}".encode()).decode(),
        lambda s: base64.b64encode(f"me:{s}@here".encode()).decode(),
        lambda s: base64.b64encode(f"you:{s}".encode()).decode(),
    ],
)
def test_a_secret_is_taken_out_in_every_form_it_takes(form: Callable[[str], str]) -> None:
    conceal(CANARY)
    text = form(CANARY)
    said = redact(f"before {text} after")
    assert said.startswith("before ")
    assert said.endswith(" after")
    assert "***" in said
    core = text.strip("'\"b=")
    assert core[3:-4] not in said


def test_long_lines_of_a_secret_of_several_are_secrets_too() -> None:
    conceal("-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\nshort\n-----END KEY-----\n")
    assert redact("  MIIEvQIBADANBgkqhkiG\n  short") == "  ***\n  short"


def test_short_ones_are_left_and_of_two_the_longer_is_taken_out_first() -> None:
    conceal("abc")
    assert redact("abc") == "abc"
    conceal("pass")
    conceal("password")
    assert redact("password pass") == "*** ***"
    assert (is_told_in("a pass"), is_told_in("a password")) == (False, True)


def test_no_more_are_known_than_a_bound_and_the_newest_of_them() -> None:
    for number in range(MAX_KNOWN + 5):
        secrets._known[f"secret {number}"] = frozenset({f"secret {number}"})
    conceal("the newest")
    assert len(secrets._known) == MAX_KNOWN
    assert redact("the newest, secret 3") == "***, secret 3"


def test_without_secrets_texts_are_as_they_were() -> None:
    text = "".join(map(chr, range(32, 300)))
    assert redact(text) is text


# --- what is recorded -----------------------------------------------------------------------------


def test_a_failure_is_redacted_before_it_is_cut() -> None:
    conceal(CANARY)
    for before in (MAX_ERROR_CHARS, MAX_DETAIL_CHARS):
        for shift in range(len(CANARY) + 2):
            try:
                raise ValueError("x" * (before - shift) + CANARY + "y" * (before - shift))
            except ValueError as error:
                said = failure(error)
            assert "c4nary" not in said.error + said.detail
            assert CANARY[-6:] not in said.error + said.detail


RAW = fr.source("raw")


async def test_nothing_that_runs_and_checks_say_is_recorded_with_a_secret() -> None:
    secret = fr.Secret(CANARY)

    @fr.asset
    def fails(raw: str, password: fr.Secret) -> int:
        raise ValueError(f"cannot log in with {password.reveal()}")

    @fr.asset
    def tells(raw: str, password: fr.Secret) -> fr.Output:
        said = {"url": f"pg://me:{quote(password.reveal(), safe='')}@here", CANARY: password}
        return fr.Output(1, metadata=said)

    @fr.check(tells)
    def says(value: int, password: fr.Secret) -> fr.CheckResult:
        return fr.CheckResult(False, {"by": password.reveal()}, f"not {password.reveal()}")

    @fr.check(tells)
    def raises(value: int, password: fr.Secret) -> bool:
        raise RuntimeError(password.reveal())

    @fr.asset
    async def submits(raw: str, password: fr.Secret, context: fr.Context) -> int:
        await context.job(lambda: f"job of {password.reveal()}")
        return 1

    @fr.asset
    def names(raw: str, password: fr.Secret) -> fr.Output:
        return fr.Output(data_version=password.reveal())

    given = {"password": secret}
    async with engine(RAW, fails, tells, says, raises, submits, names, resources=given) as e:
        await e.change("raw", "1")
        await e.settled()
        history = await e.history()
    assert b"c4nary" not in b"".join(encode(recorded.event) for recorded in history)
    found = {type(r.event): r.event for r in history}
    made, checked = found[Materialized], found[CheckEvaluated]
    assert isinstance(made, Materialized)
    assert isinstance(checked, CheckEvaluated)
    assert made.metadata["url"] == "pg://me:***@here"
    assert made.metadata["***"] == "***"
    failures = sorted(r.event.error for r in history if isinstance(r.event, RunFailed))
    assert failures == [
        "ValueError: cannot log in with ***",
        "ValueError: the name of the job holds a secret, and would be recorded",
        "the data_version of an Output holds a secret; it is recorded",
    ]


class Hurried(random.Random):
    """No backoff."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


async def test_nothing_that_a_sensor_says_is_recorded_with_a_secret() -> None:
    conceal(CANARY)
    yields: list[object] = [
        fr.Batch(
            (fr.change(RAW, version="1", metadata={"by": CANARY}),),
            rejected=(fr.Rejection(f"item {CANARY}", f"no {CANARY}", CANARY, {"x": CANARY}),),
        ),
        fr.Batch(trouble=f"no {CANARY}", hint=f"use {CANARY}"),
        fr.change(RAW, version=f"v{CANARY}"),
        fr.Batch(cursor={"at": CANARY}),
    ]

    @fr.sensor(sources=[RAW])
    async def tells() -> AsyncIterator[Any]:
        while yields:
            yield yields.pop(0)
        raise ConnectionError(f"cannot read {CANARY}")

    async with engine(RAW) as e, anyio.create_task_group() as tasks:
        tasks.start_soon(supervise, tells, e.stream, Hurried())
        while True:
            await anyio.sleep(0)
            history = await e.history()
            if not yields and isinstance(history[-1].event, SensorFailed):
                break
        tasks.cancel_scope.cancel()
    assert b"c4nary" not in b"".join(encode(recorded.event) for recorded in history)
    rejected = [r.event for r in history if isinstance(r.event, MessageRejected)]
    assert [(one.item, one.reason, one.excerpt, one.metadata) for one in rejected] == [
        ("item ***", "no ***", "***", {"x": "***"})
    ]
    changed = [r.event for r in history if isinstance(r.event, SourceChanged)]
    assert [one.metadata for one in changed] == [{"by": "***"}]


def test_a_definition_that_holds_a_secret_is_refused() -> None:
    conceal(CANARY)

    @fr.asset(metadata={"url": f"pg://{CANARY}"})
    def one(raw: str) -> int:
        return 1

    with pytest.raises(DefinitionError, match="the definition of 'one' holds a secret"):
        fr.Project([RAW, one])


# --- what is printed ------------------------------------------------------------------------------


@contextmanager
def printed() -> Iterator[io.StringIO]:
    """What goes to stdout and stderr; the logs are configured as they were afterwards."""
    found = io.StringIO()
    before = structlog.get_config()
    with redirect_stdout(found), redirect_stderr(found):
        yield found
    structlog.configure(**before)


def test_what_is_logged_has_no_secret() -> None:
    conceal(CANARY)
    with printed() as out:
        logs.configure()
        log = structlog.get_logger("x")
        log.info(f"hello {CANARY}", key=CANARY, many=[CANARY], inner={"x": CANARY})
        log.error("failed", exc_info=ValueError({"a": CANARY}))
    first, second = map(json.loads, out.getvalue().splitlines())
    shown = (first["event"], first["key"], first["many"], first["inner"])
    assert shown == ("hello ***", "***", ["***"], {"x": "***"})
    assert second["exception"].endswith("ValueError: {'a': '***'}")
    assert "c4nary" not in out.getvalue()


def test_on_a_terminal_no_box_breaks_a_secret_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    conceal(CANARY)
    with printed() as out:
        monkeypatch.setattr(out, "isatty", lambda: True)
        logs.configure()
        try:
            raise ValueError("x" * 70 + CANARY)
        except ValueError as error:
            structlog.get_logger("x").error("failed", exc_info=error)
    assert "c4nary" not in out.getvalue()
    assert CANARY[-5:] not in out.getvalue()
    assert "x***" in out.getvalue()


def test_what_is_printed_has_no_secret() -> None:
    conceal(CANARY)
    with printed() as out, logs.redacted_output():
        print("printed", CANARY)
        print("said", CANARY, file=sys.stderr)
        sys.stderr.write(CANARY)
        sys.stdout.buffer.write(f"\n{CANARY}".encode())
        assert sys.stdout.isatty() is False
    assert out.getvalue() == "printed ***\nsaid ***\n***\n***"


def test_an_error_of_the_command_line_has_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    conceal(CANARY)
    tell(FreshetError(f"no {CANARY}", cause=f"it is {CANARY}", hint=f"not {CANARY}"))
    assert capsys.readouterr().err == "error: no ***\ncause: it is ***\nhint: not ***\n"
