"""Targets: find the project a person names as `module:project`, `module`, or `path.py`; load it,
and load it anew.
"""

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from freshet.engine.errors import DefinitionError, FreshetError, RequestError, did_you_mean
from freshet.engine.profiles import check_chosen
from freshet.engine.project import Project

INSTALLED = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
"""Where modules lie that are nobody's own."""

EXAMPLE = "for example `freshet run project.py` or `freshet run package.module:project`"


def load_project(target: str) -> Project:
    """Import the target and return its project, under the profile that was chosen; it knows from
    then on where it came from.

    Raises RequestError when there is no such module, project or profile, DefinitionError for
    whatever is wrong inside it, naming file and line.
    """
    path, name = _parts(target)
    module = _import_file(Path(path)) if path.endswith(".py") else _import_module(path)
    project = _project_of(module, path, name)
    check_chosen(project.profiles)
    project.code = _digest(_own_modules(target))
    return project


def reload_project(target: str) -> Project:
    """Load the target anew, with all modules of the user's own that it imports: those that lie
    below the project's folder, or in its package. What was installed is left alone, and so is the
    code of functions that run. Raises as `load_project`, and then everything is as it was.
    """
    former = _own_modules(target)
    search = list(sys.path)
    for name in former:
        del sys.modules[name]
    importlib.invalidate_caches()
    try:
        with _compiled_anew(lambda origin: _is_own(origin, _folder(target))):
            return load_project(target)
    except BaseException:
        for name in _own_modules(target):
            del sys.modules[name]
        sys.modules.update(former)
        sys.path[:] = search
        raise


def _parts(target: str) -> tuple[str, str]:
    """The file or module, and the name in it, if any."""
    path, _, name = target.partition(":") if not target.endswith(".py") else (target, "", "")
    return path, name


def _project_of(module: ModuleType, path: str, name: str) -> Project:
    project = _find(module, path, name)
    if not project.origin:
        place = str(Path(path).absolute()) if path.endswith(".py") else path
        project.origin = f"{place}:{name}" if name else place
    return project


def _find(module: ModuleType, path: str, name: str) -> Project:
    found = {key: value for key, value in vars(module).items() if isinstance(value, Project)}
    if name:
        if name not in found:
            raise RequestError(
                f"'{path}' has no project named '{name}'",
                cause=f"it has {', '.join(found) or 'none'}",
                hint=did_you_mean(name, found) or "name = fr.Project([...]) at the top level",
            )
        return found[name]
    if len(set(map(id, found.values()))) == 1:
        return next(iter(found.values()))
    if not found:
        raise RequestError(
            f"'{path}' has no project", hint="write project = fr.Project([...]) at its top level"
        )
    raise RequestError(
        f"'{path}' has several projects: {', '.join(found)}",
        hint=f"say which: {path}:{next(iter(found))}",
    )


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise RequestError(f"there is no file '{path}'", hint=EXAMPLE)
    _search_first(path.resolve().parent)
    where = path.resolve()
    module = ModuleType(path.stem)
    module.__file__ = str(where)
    sys.modules[path.stem] = module
    try:
        # Compiled anew each time: a bytecode cache misses an edit within the same second, and a
        # check must not leave one behind.
        code = compile(where.read_bytes(), str(where), "exec", dont_inherit=True)
        exec(code, module.__dict__)
    except BaseException as error:  # recorded: as the DefinitionError, whatever it is
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _broken(str(path), error) from error
    return module


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise RequestError(f"'{name}' is no module name", hint=EXAMPLE)
    _search_first(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise RequestError(f"there is no module '{name}'", hint=EXAMPLE) from None
        raise _broken(name, error) from error
    except BaseException as error:  # recorded: as the DefinitionError, whatever it is
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _broken(name, error) from error


def _broken(target: str, error: BaseException) -> FreshetError:
    """What the user's own code raised while it was imported, with the last line of theirs."""
    if isinstance(error, FreshetError):
        return error
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
        where = f"{own[-1].filename}:{own[-1].lineno}" if own else target
    return DefinitionError(
        f"'{target}' cannot be imported ({where})", cause=f"{type(error).__name__}: {error}"
    )


# --- what is the user's own -----------------------------------------------------------------------


def _own_modules(target: str) -> dict[str, ModuleType]:
    """The modules that were imported of the user's own code, by name."""
    folder, package = _folder(target), _parts(target)[0].partition(".")[0]
    found = {}
    for name, module in list(sys.modules.items()):
        root = name.partition(".")[0]
        if not isinstance(module, ModuleType) or root in ("freshet", "__main__"):
            continue
        inside = root == package and not target.endswith(".py")
        if inside or any(_is_own(place, folder) for place in _places(module)):
            found[name] = module
    return found


def _folder(target: str) -> Path:
    """Below which the user's own code lies."""
    path = _parts(target)[0]
    return Path(path).resolve().parent if path.endswith(".py") else Path.cwd()


def _places(module: ModuleType) -> list[str]:
    """The file of a module, or the folders of a package that has no file."""
    held = vars(module)
    where = held.get("__file__")
    return [where] if isinstance(where, str) else [str(one) for one in held.get("__path__", ())]


def _is_own(place: str | None, folder: Path) -> bool:
    """Does it lie below the folder, and was not installed there?"""
    if place is None or not place.startswith(str(folder)):  # quick: there are thousands of others
        return False
    path = Path(place)
    return path.is_relative_to(folder) and not any(
        one.name in ("site-packages", "dist-packages") or str(one) in INSTALLED
        for one in path.parents
    )


def _digest(modules: dict[str, ModuleType]) -> str:
    """Of the files of these modules: equal when none has changed."""
    digest = blake2b(digest_size=16)
    for name, module in sorted(modules.items()):
        for place in _places(module):
            path = Path(place)
            content = path.read_bytes() if path.is_file() else b""
            digest.update(blake2b(name.encode() + b"\0" + content).digest())
    return digest.hexdigest()


def _search_first(folder: Path) -> None:
    """Have modules looked for in this folder before any other; once, however often it is said."""
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))


@contextmanager
def _compiled_anew(is_own: Callable[[str | None], bool]) -> Iterator[None]:
    """Within the block modules of the user's own are compiled from their source: a bytecode cache
    misses an edit within the same second.
    """
    finder = _Finder(is_own)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds modules on the path, as Python does."""

    def __init__(self, is_own: Callable[[str | None], bool]) -> None:
        self._is_own = is_own

    def find_spec(
        self, fullname: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module of the user's own of this name, if there is one; others find the rest."""
        spec = PathFinder.find_spec(fullname, path, target)  # type: ignore[arg-type]  # as it was given
        if spec is None or type(spec.loader) is not SourceFileLoader:
            return None
        if not self._is_own(spec.origin):
            return None
        spec.loader = _Source(fullname, spec.loader.path)
        return spec


class _Source(SourceFileLoader):
    """Reads no bytecode, and leaves none behind."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code
