"""What all tests share: asynchronous ones run on asyncio, through anyio's plugin."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
