"""What all tests share: asynchronous ones run on asyncio, through anyio's plugin; one broker."""

import pytest

from tests.broker import broker as broker


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
