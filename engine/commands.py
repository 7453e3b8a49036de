"""Commands: assets made by programs in any language. What a program is to know comes as environment
variables and placeholders; it writes a file, or says its data version on a pipe.
"""

import inspect
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
from typing_extensions import Unpack

from freshet.engine.assets import Asset, Input, Source, asset
from freshet.engine.context import Context, Output
from freshet.engine.errors import DefinitionError
from freshet.engine.executors.children import Child, ending
from freshet.engine.executors.invoke import MAX_DETAIL_CHARS, Rejected
from freshet.engine.executors.surroundings import AROUND, Surroundings
from freshet.engine.given import Given
from freshet.engine.keys import AssetKey, asset_key
from freshet.engine.multi import Options
from freshet.engine.specs import Plain
from freshet.engine.stores.formats import Encoded, encode

MAX_REPORT_BYTES = 1024 * 1024
"""Of all that a command reports: it is metadata, not data."""

OWN = ("asset", "partition", "run", "attempt", "output")
"""Placeholders that every command has, besides the names of its inputs."""

PREFIX = "input_"
"""Before the names of inputs, so that they may be called anything."""

PLACEHOLDER = re.compile(r"\{(\w+)\}")

Upstream = str | Asset | Source | Input


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line that a command reports. Of several, later ones add to earlier ones."""

    data_version: str | None = None
    metadata: dict[str, Plain] = {}


class Command:
    """A program as the function of an asset: called with its inputs, it runs the program to its
    end. Everything in its process group is killed when it has ended, or is given up.
    """

    def __init__(
        self,
        key: AssetKey,
        words: Sequence[str],
        output: str,
        inputs: Sequence[str],
        where: str,
    ) -> None:
        self.words = tuple(words)
        self._key = key
        self._output = output
        self._where = where
        self.__name__ = key
        names = [PREFIX + name for name in inputs]
        self.__annotations__: dict[str, Any] = dict.fromkeys(names, Given)
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in ("context", *names)]
        )

    def __repr__(self) -> str:
        return self._where

    def __call__(self, *, context: Context, **inputs: Any) -> Output:
        around = AROUND.get() or Surroundings()
        folder = around.scratch()
        named = {
            name.removeprefix(PREFIX): _handed_over(folder, name, value)
            for name, value in inputs.items()
        }
        own = {
            "asset": context.asset,
            "partition": context.partition,
            "run": str(context.run),
            "attempt": str(context.attempt),
        }
        if self._output:
            own["output"] = str(folder / f"output{self._output}")
        told = self._run(own, named, around)
        output = Path(own.get("output", ""))
        written = bool(self._output) and self._has_written(output)
        if written and told.data_version is not None:
            raise Rejected(
                "value",
                f"{self._said} has written its output and reported the data version"
                f" {told.data_version!r}: the content is the version; do one of the two",
            )
        return Output(
            output if written else None,
            metadata=told.metadata,
            data_version=told.data_version,
        )

    def _has_written(self, output: Path) -> bool:
        """Is there an output? Raises Rejected for what is there and no file of its own."""
        if not os.path.lexists(output):
            return False
        if output.is_file() and not output.is_symlink():
            return True
        link, folder = output.is_symlink(), output.is_dir()
        what = "a symbolic link" if link else "a folder" if folder else "something else"
        raise Rejected("value", f"{self._said} wrote {what}, not a file, at FRESHET_OUTPUT")

    def _run(self, own: dict[str, str], named: Mapping[str, str], around: Surroundings) -> Report:
        heard, tell = os.pipe()
        reported = bytearray()
        try:
            environment = {f"FRESHET_{name.upper()}": value for name, value in own.items()}
            environment |= {"FRESHET_REPORT": f"/dev/fd/{tell}", "FRESHET_REPORT_FD": str(tell)}
            environment |= {f"FRESHET_INPUT_{n.upper()}": value for n, value in named.items()}
            known = {**named, **own}
            words = [PLACEHOLDER.sub(lambda m: known.get(m[1], m[0]), w) for w in self.words]
            child = self._started(words, environment, around, heard, tell, reported)
        finally:
            os.close(tell)
        try:
            with around.attended(child):
                child.attend(lambda: len(reported) > MAX_REPORT_BYTES)
                code = child.end()
        finally:
            child.end()
            os.close(heard)
        if len(reported) > MAX_REPORT_BYTES:
            raise Rejected("value", f"{self._said} reported more than {MAX_REPORT_BYTES} bytes")
        if code:
            tail = child.last_words(MAX_DETAIL_CHARS)
            last = f": {tail.splitlines()[-1]}" if tail else ""
            raise Rejected("exit", f"{self._said} {ending(code)}{last}", detail=tail)
        return self._report(bytes(reported))

    def _started(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        around: Surroundings,
        heard: int,
        tell: int,
        reported: bytearray,
    ) -> Child:
        try:
            return Child(
                words,
                {**os.environ, **environment},
                folder=around.children_folder,
                passed=(tell,),
                sources={heard: reported.extend},
            )
        except FileNotFoundError:
            text = f"there is no program '{words[0]}': it is no file, and not on the PATH"
            raise Rejected("error", text) from None
        except (OSError, ValueError) as error:
            raise Rejected("error", f"{self._said} cannot be started: {error}") from error

    def _report(self, data: bytes) -> Report:
        version: str | None = None
        metadata: dict[str, Plain] = {}
        for number, line in enumerate(data.splitlines(), 1):
            if not line.strip():
                continue
            try:
                one = msgspec.json.decode(line, type=Report)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise Rejected(
                    "value",
                    f"line {number} of what {self._said} reported is not as"
                    f' {{"data_version": "…", "metadata": {{"rows": 3}}}}: {error}',
                ) from None
            version = one.data_version if one.data_version is not None else version
            metadata |= one.metadata
        return Report(version, metadata)

    @property
    def _said(self) -> str:
        return f"'{self.words[0]}'"


def command(
    key: str | Sequence[str],
    words: Sequence[str],
    *,
    output: str = "",
    files: Sequence[str | Path] = (),
    **options: Unpack[Options],
) -> Asset:
    """Declare that a program makes an asset: `fr.command("clean", ["Rscript", "clean.R"],
    deps=["raw"], output=".csv", files=["clean.R"])`.

    `words` is the program and its arguments, without a shell. `{partition}`, `{asset}`, `{run}`,
    `{attempt}`, `{output}` and the name of each input stand for what the environment has as
    FRESHET_PARTITION, …, FRESHET_INPUT_NAME. `deps` are its inputs, each named by its last
    segment, `inputs` names them otherwise; it is given the path of the value, or the data version
    of what has none; of many partitions, the path of a JSON object by partition. With `output`, a
    suffix, the file it writes at FRESHET_OUTPUT becomes the value. On FRESHET_REPORT it may write
    JSON lines with `data_version` and `metadata`. Its code version is that of `words` and of the
    content of `files`. The other arguments are those of `fr.asset`. Raises DefinitionError.
    """
    name = asset_key(key)
    here = inspect.currentframe()
    caller = here.f_back if here is not None else None
    where = f"{caller.f_code.co_filename}:{caller.f_lineno}" if caller is not None else "?"
    _check(name, words, output, options, where)
    inputs = _named(name, options.pop("deps", ()), options.pop("inputs", {}), where)
    if "code_version" not in options:
        options["code_version"] = _code_version(name, [*words, output], files, where)
    options.setdefault("description", shlex.join(words))
    function = Command(name, words, output, list(inputs), where)
    options["inputs"] = {PREFIX + one: upstream for one, upstream in inputs.items()}
    return asset(key=name, **options)(function)


def _check(name: AssetKey, words: Sequence[str], output: str, options: Options, where: str) -> None:
    if isinstance(words, str) or not words or not all(isinstance(one, str) for one in words):
        raise DefinitionError(
            f"the command of asset '{name}' is {words!r} ({where})",
            cause="it is a list of words, and is started without a shell",
            hint=f"['sh', '-c', {words!r}] for a line of shell" if isinstance(words, str) else None,
        )
    if output and not re.fullmatch(r"(\.\w+)+", output):
        raise DefinitionError(
            f"asset '{name}' has output={output!r} ({where})",
            cause="it is the suffix of the file that the command writes",
            hint="for example output='.csv'",
        )
    if "executor" in options:
        raise DefinitionError(
            f"asset '{name}' has executor={options['executor']!r} ({where})",
            cause="a command is a process of its own",
            hint="leave it out",
        )


def _named(
    name: AssetKey, deps: Sequence[Upstream], inputs: Mapping[str, Upstream], where: str
) -> dict[str, Upstream]:
    """The inputs by the names the command knows them by. Raises DefinitionError."""
    found: dict[str, Upstream] = {}
    for given, upstream in [*(("", dep) for dep in deps), *inputs.items()]:
        target = upstream.key if isinstance(upstream, Input) else upstream
        key = asset_key(target) if isinstance(target, str) else target.key
        said = re.sub(r"\W", "_", given or key.rpartition("/")[2])
        if said.upper() in (one.upper() for one in found) or said in OWN:
            raise DefinitionError(
                f"asset '{name}' has "
                + (f"two inputs '{said}'" if said not in OWN else f"an input '{said}'")
                + f" ({where})",
                cause="a command knows each input by the last segment of its key",
                hint=f"give it another name: inputs={{'other': '{key}'}}",
            )
        found[said] = upstream
    return found


def _code_version(
    name: AssetKey, words: Sequence[str], files: Sequence[str | Path], where: str
) -> str:
    parts = [word.encode("utf-8", "surrogatepass") for word in words]
    for path in files:
        try:
            parts += [str(path).encode(), Path(path).read_bytes()]
        except OSError as error:
            raise DefinitionError(
                f"the file '{path}' of asset '{name}' cannot be read ({where})",
                cause=error.strerror,
                hint="files= are relative to the folder in which Freshet is started",
            ) from None
    hashed = blake2b(digest_size=8)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big") + part)
    return hashed.hexdigest()


def _handed_over(folder: Path, name: str, value: object) -> str:
    """What stands in the environment for an input: a path, or a data version."""
    match value:
        case None:
            return ""  # it is missing, and the asset goes on without
        case Given(path=Path() as path):
            return str(path.absolute())
        case Given(value=None):
            return value.data_version
        case Given():
            return _written(folder, name, encode(value.value))
        case Mapping():
            pieces = {
                key: _handed_over(folder, f"{name}-{number}", one)
                for number, (key, one) in enumerate(value.items())
            }
            return _written(folder, name, encode(pieces))
        case _:
            return str(value)  # called by a person, with a path


def _written(folder: Path, name: str, encoded: Encoded) -> str:
    path = folder / f"{name}{encoded.suffix}"
    path.write_bytes(encoded.data)
    return str(path)
