"""Work ahead: something done in a thread while whoever wants it is busy elsewhere."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

import anyio.to_thread

T = TypeVar("T")


class Ahead(Generic[T]):
    """A call under way in a thread of its own, which does not keep the process from ending.

    A task group would be simpler, but must not be open while an async generator yields.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._future: Future[T] = Future()
        threading.Thread(target=self._run, args=(call,), daemon=True).start()

    async def result(self) -> T:
        """What the call returned, or raised."""
        return await anyio.to_thread.run_sync(self._future.result, abandon_on_cancel=True)

    def _run(self, call: Callable[[], T]) -> None:
        try:
            self._future.set_result(call())
        except BaseException as error:  # recorded: raised by `result`
            self._future.set_exception(error)
