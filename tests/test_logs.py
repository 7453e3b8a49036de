"""Logs: a file that may be rotated at any time, without a line lost."""

import json
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from freshet.engine.logs import Rotated
from tests.processes import wait_until_said
from tests.test_cli import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.kill()


def lines(path: Path) -> list[str]:
    return [json.loads(line)["event"] for line in path.read_text().splitlines()]


def test_a_file_that_was_moved_away_is_begun_anew_and_no_line_is_lost(tmp_path: Path) -> None:
    """Also one that was removed, or emptied as it lay."""
    path = tmp_path / "freshet.log"
    with closing(Rotated(path)) as log:
        log.write("one\n")
        path.rename(tmp_path / "freshet.log.1")
        log.write("two\n")
        assert path.read_text() == "two\n"
        path.unlink()
        log.write("three\n")
        assert path.read_text() == "three\n"
        path.write_text("")  # as copytruncate does
        log.write("four\n")
        assert path.read_text() == "four\n"
    assert (tmp_path / "freshet.log.1").read_text() == "one\n"


def test_what_cannot_be_written_to_the_file_goes_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And to the file again once that can be opened."""
    folder = tmp_path / "logs"
    folder.mkdir()
    with closing(Rotated(folder / "freshet.log")) as log:
        folder.rename(tmp_path / "gone")
        log.write("one\n")
        log.write("two\n")
        assert capsys.readouterr().err == "one\ntwo\n"
        folder.mkdir()
        log.write("three\n")
    assert (folder / "freshet.log").read_text() == "three\n"
    assert capsys.readouterr().err == ""


def test_the_daemon_logs_to_a_file_that_is_rotated(place: Place) -> None:
    """Json whatever stderr is; after the file was moved, SIGHUP begins a new one."""
    path = place.folder / "freshet.log"
    place.start("--log-file", "freshet.log")
    wait_until_said(path, '"running"')
    path.rename(place.folder / "freshet.log.1")
    assert place.freshet("reload").returncode == 0
    assert place.daemon is not None
    place.daemon.send_signal(signal.SIGTERM)
    place.daemon.communicate(timeout=60)
    assert "running" in lines(place.folder / "freshet.log.1")
    assert "reloaded" in lines(path)
    assert lines(path)[-1] == "stopped"


def test_a_log_file_that_cannot_be_opened_is_refused_at_once(place: Place) -> None:
    done = place.freshet("run", "project.py", "--log-file", "nowhere/freshet.log")
    assert done.returncode == 2
    assert "error: the log file 'nowhere/freshet.log' cannot be written" in done.stderr
    assert "hint: its folder must be there" in done.stderr
