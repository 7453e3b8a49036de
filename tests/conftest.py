"""What all tests share: asynchronous ones run on asyncio, through anyio's plugin; one broker."""

from pathlib import Path

import pytest

from tests.broker import broker as broker


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def landing(tmp_path: Path) -> Path:
    """A folder for files to land in."""
    folder = tmp_path / "landing"
    folder.mkdir()
    return folder
