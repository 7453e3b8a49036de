"""The way to object storage, through obstore: options in, pages of a listing out, and no secret in
any error.
"""

import os
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from freshet.engine.errors import DefinitionError, OutsideError, SensorError

ENV = "env:"
"""Before the name of an environment variable, as the value of an option: read when a run begins."""

PAGE = 1000
"""Objects in a page: as many as S3 lists at once."""

MAX_RETRIES = 2
RETRY_TIMEOUT = timedelta(seconds=20)
"""What obstore tries by itself. Its own 10 and 3 minutes would hide for long that a store is away:
the supervisor tries again for ever, and says so.
"""

MAX_SAID_CHARS = 300
"""Of an error of the store that is told."""

SECRET = re.compile(r"key|secret|token|passw|sas|credential|signature", re.IGNORECASE)
"""Names of options and variables whose values are never told."""

MIN_SECRET = 6
"""Characters: what is shorter is no secret, but may be part of any word."""

CLOUDS = ("AWS_", "AZURE_", "GOOGLE_")
"""How the variables begin that obstore reads by itself."""

QUERY = re.compile(r"(?<=\w)\?\S*")
"""The query of a URL, where some stores want their signature."""

USER = re.compile(r"(?<=//)[^/@\s]*(?=@)")
"""Name and password in a URL."""


REACH = "see that the bucket is there, and that store= leads to it with the right to list it"
"""What to do when the storage refuses, or does not answer."""


class ListingError(OutsideError):
    """The storage could not be listed; passes by itself, or when somebody repairs it."""


class Found(NamedTuple):
    """An object of a listing."""

    key: str
    version: str
    size: int
    etag: str
    last_modified: datetime


class Access:
    """A store by its URL, and what it takes to open it; shows itself without its options."""

    def __init__(self, url: str, options: Mapping[str, object] | object | None) -> None:
        self.url = url
        self._store = None if options is None or isinstance(options, Mapping) else options
        self._options = dict(options) if isinstance(options, Mapping) else {}
        obstore = imported()
        if self._store is None:
            try:
                _open(obstore, url, self._resolved(lambda name: os.environ.get(name, "unset")))
            except Exception as error:
                raise DefinitionError(
                    f"the object store {url} cannot be used with the options"
                    f" {', '.join(self._options) or 'given: none'}",
                    cause=self.without_secrets(error),
                    hint="see the options of obstore.store; they are passed to it as they are",
                ) from None

    def open(self) -> Any:
        """The store of obstore. Raises SensorError naming a variable that is not set."""
        if self._store is not None:
            return self._store
        return _open(imported(), self.url, self._resolved(self._variable))

    async def pages(
        self, store: Any, prefixes: Iterable[str]
    ) -> AsyncGenerator[Sequence[Found], None]:
        """All objects below the prefixes, page by page. Raises ListingError."""
        obstore = imported()
        for prefix in prefixes:
            self._check_folder(prefix)
            listing = obstore.list(store, prefix=prefix or None, chunk_size=PAGE)
            while True:
                try:
                    page = await anext(listing, None)
                except obstore.exceptions.BaseError as error:
                    said = f"{self.url} cannot be listed: {self.without_secrets(error)}"
                    raise ListingError(said, hint=REACH) from None
                if page is None:
                    break
                yield [_found(meta) for meta in page]

    def __repr__(self) -> str:
        return f"<access to {self.url}>"

    def _check_folder(self, prefix: str) -> None:
        """A folder that is away, as when it is not mounted, is not an empty one."""
        if self.url == "file:///" and not Path("/", prefix).is_dir():
            raise ListingError(f"the folder /{prefix} is not there", hint="make it, or mount it")

    def _variable(self, name: str) -> str:
        if name not in os.environ:
            raise SensorError(
                f"the environment variable {name} is not set, which opens {self.url}",
                hint="set it, and start the daemon anew",
            )
        return os.environ[name]

    def _resolved(self, variable: Callable[[str], str]) -> dict[str, object]:
        return {
            name: variable(value.removeprefix(ENV))
            if isinstance(value, str) and value.startswith(ENV)
            else value
            for name, value in self._options.items()
        }

    def without_secrets(self, error: Exception) -> str:
        """What an error says in its first paragraph, with nothing in it that is secret."""
        said = " ".join(str(error).partition("\n\n")[0].split())
        options = self._resolved(lambda name: os.environ.get(name, ""))
        hidden = {
            str(value)
            for name, value in options.items()
            if SECRET.search(name) or str(self._options[name]).startswith(ENV)
        }
        hidden |= {v for k, v in os.environ.items() if k.startswith(CLOUDS) and SECRET.search(k)}
        for secret in sorted((h for h in hidden if len(h) >= MIN_SECRET), key=len, reverse=True):
            said = said.replace(secret, "…")
        return QUERY.sub("?…", USER.sub("…", said))[:MAX_SAID_CHARS]


def imported() -> Any:
    """obstore, if it is installed. Raises DefinitionError."""
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError:
        raise DefinitionError(
            "object storage needs the package obstore, which is not installed",
            hint="pip install 'freshet[objects]'",
        ) from None
    return obstore


def _open(obstore: Any, url: str, options: dict[str, object]) -> Any:
    if url.startswith("memory:"):
        raise ValueError("a store in memory is given as store=obstore.store.MemoryStore()")
    if url.startswith("file:"):
        return obstore.store.from_url(url)
    plain = str(options.get("endpoint", options.get("aws_endpoint", ""))).startswith("http://")
    return obstore.store.from_url(
        url,
        config=options,
        client_options={"allow_http": plain},
        retry_config={"max_retries": MAX_RETRIES, "retry_timeout": RETRY_TIMEOUT},
    )


def _found(meta: Mapping[str, Any]) -> Found:
    """An object with its data version: the ETag; where there is none, the version, or time and
    size. Of an empty object, such as a marker, the time too: its content never changes.
    """
    etag = (meta["e_tag"] or "").replace('"', "")
    time = meta["last_modified"]
    version = etag or meta["version"] or f"{time.isoformat()}-{meta['size']}"
    if etag and not meta["size"]:
        version = f"{etag}-{time.isoformat()}"
    return Found(meta["path"], version, meta["size"], etag, time)
