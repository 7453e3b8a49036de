"""Scripts of the peers: what they say can be read back, and a failure is said as one."""

import json
import signal
from typing import Any

import pytest

from benchmarks.peers.said import Side, failed, say, within

SIDE = Side("Peer", "1.2", "noop", "best", "in memory, which is quicker than its own database")
WHO = {"peer": "Peer", "version": "1.2", "case": "noop", "setting": "best"}


def read(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_figure_is_one_line_that_holds_every_sample(capsys: pytest.CaptureFixture[str]) -> None:
    say(SIDE, "no-op → end", "s", [0.25, 0.5])
    say(SIDE, "one change", "s", (1.0,), size=1000)
    configuration = {"configuration": SIDE.configuration}
    assert read(capsys) == [
        {**WHO, **configuration, "what": "no-op → end", "unit": "s", "values": [0.25, 0.5],
         "size": None},
        {**WHO, **configuration, "what": "one change", "unit": "s", "values": [1.0], "size": 1000},
    ]  # fmt: skip


def test_a_figure_without_a_sample_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no samples of 'no-op'"):
        say(SIDE, "no-op", "s", [])
    assert read(capsys) == []


def test_a_reason_of_many_lines_is_said_on_one(capsys: pytest.CaptureFixture[str]) -> None:
    failed(SIDE, "no database:\n  it is locked\n")
    assert read(capsys) == [{**WHO, "failed": "no database: it is locked"}]


def test_what_is_raised_or_too_slow_is_a_failure_and_what_is_not_says_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGALRM)
    with within(SIDE, 60):
        raise KeyError("port")
    with within(SIDE, 0.01):
        signal.pause()
    with within(SIDE, 60):
        pass
    reasons = ["KeyError: 'port'", "not over after 0.01 s"]
    assert read(capsys) == [{**WHO, "failed": reason} for reason in reasons]
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
