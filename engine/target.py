"""Targets: find the project a person names as `module:project`, `module`, or `path.py`."""

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from freshet.engine.errors import DefinitionError, FreshetError, RequestError, did_you_mean
from freshet.engine.profiles import check_chosen
from freshet.engine.project import Project

EXAMPLE = "for example `freshet run project.py` or `freshet run package.module:project`"


def load_project(target: str) -> Project:
    """Import the target and return its project, under the profile that was chosen; it knows from
    then on where it came from.

    Raises RequestError when there is no such module, project or profile, DefinitionError for
    whatever is wrong inside it, naming file and line.
    """
    project = _project_of(target)
    check_chosen(project.profiles)
    return project


def _project_of(target: str) -> Project:
    path, _, name = target.partition(":") if not target.endswith(".py") else (target, "", "")
    project = _find(path, name)
    if not project.origin:
        place = str(Path(path).resolve()) if path.endswith(".py") else path
        project.origin = f"{place}:{name}" if name else place
    return project


def _find(path: str, name: str) -> Project:
    module = _import_file(Path(path)) if path.endswith(".py") else _import_module(path)
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
    sys.path.insert(0, str(path.resolve().parent))
    where = path.resolve()
    module = ModuleType(path.stem)
    module.__file__ = str(where)
    sys.modules[path.stem] = module
    try:
        # Compiled anew each time: a bytecode cache misses an edit within the same second, and a
        # check must not leave one behind.
        code = compile(where.read_bytes(), str(where), "exec", dont_inherit=True)
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        raise _broken(str(path), error) from error
    return module


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise RequestError(f"'{name}' is no module name", hint=EXAMPLE)
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise RequestError(f"there is no module '{name}'", hint=EXAMPLE) from None
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
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
