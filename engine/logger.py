"""A logger that costs nothing before it says something: structlog brings rich along, a fifth of the
time that `import freshet` takes, and a project is loaded more often than a sensor complains.
"""

from importlib import import_module
from typing import Any


class Logger:
    """What `structlog.get_logger` gives, looked up when it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:
        return getattr(import_module("structlog").get_logger(self._name), method)
