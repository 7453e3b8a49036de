"""The rules of the house (DESIGN.md section 3) as functions: source files in, findings out."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple


class Layer(NamedTuple):
    """One layer: its modules from bottom to top. A pure one does no I/O and reads no clock."""

    name: str
    pure: bool
    modules: tuple[str, ...]


LAYERS = (
    Layer(
        "0 words",
        True,
        (
            "engine.errors",
            "engine.keys",
            "engine.counts",
            "engine.durations",
            "engine.digests",
            "engine.secrets",
        ),
    ),
    # Events carry specs, and specs carry policies: so these three stand in this order.
    Layer(
        "1 facts",
        True,
        (
            "engine.windows",
            "engine.window_checks",
            "engine.partitions",
            "engine.spaces",
            "engine.mappings",
            "engine.lanes",
            "engine.ticks",
            "engine.policies",
            "engine.metadata",
            "engine.specs",
            "engine.parts",
            "engine.events",
            "engine.codec",
            "engine.origins",
        ),
    ),
    Layer(
        "2 definitions",
        True,
        (
            "engine.codeversion",
            "engine.schemas",
            "engine.graph",
            "engine.selection",
            "engine.signatures",
            "engine.resources",
            "engine.changes",
            "engine.arguments",
            "engine.assets",
            "engine.multi",
            "engine.checks",
            "engine.table_checks",
            "engine.resolution",
        ),
    ),
    Layer(
        "3 meaning",
        True,
        (
            "projections.projection",
            "projections.pauses",
            "projections.demands",
            "projections.sensors",
            "projections.runs",
            "projections.jobs",
            "projections.catalog",
            "projections.checks",
            "projections.progress",
            "projections.marks",
            "projections.sums",
            "projections.outlook",
            "projections.columns",
            "projections.states",
            "projections.lineup",
            "projections.feeds",
            "projections.cells",
            "projections.standing",
            "projections.plain",
            "projections.kills",
            "projections.alarms",
            "projections.pulls",
            "projections.ledger",
            "projections.settling",
            "projections.debts",
            "projections.deployment",
            "projections.sightings",
            "projections.staleness",
            "projections.circuits",
            "projections.delays",
            "projections.pools",
            "projections.mates",
            "projections.causes",
            "projections.paths",
            "projections.quiet",
            "projections.arrivals",
            "projections.spread",
            "projections.attainment",
            "projections.planner",
            "projections.promises",
            "projections.view",
            "projections.why",
            "projections.forecast",
            "projections.backfills",
            "projections.matrix",
            "projections.answers",
            "projections.plan",
            "projections.audit",
            "projections.provenance",
            "projections.editions",
            "projections.orphans",
        ),
    ),
    Layer("4 decision", True, ("engine.turns", "engine.reactor")),
    Layer(
        "5 edges",
        False,
        (
            "engine.stream",
            "engine.clock",
            "engine.logger",
            "engine.allocation",
            "engine.settings",
            "engine.memory",
            "engine.lease",
            "engine.pace",
            "engine.sqlite_file",
            "engine.sqlite_rows",
            "engine.sqlite_reader",
            "engine.ahead",
            "engine.sqlite",
            "engine.stores.store",
            "engine.orphan",
            "engine.stores.outages",
            "engine.stores.plain",
            "engine.stores.formats",
            "engine.stores.landing",
            "engine.stores.payloads",
            "engine.stores.retention",
            "engine.stores.names",
            "engine.stores.blobs",
            "engine.stores.memory",
            "engine.stores.local",
            "engine.stores.router",
            "engine.stores.rows",
            "engine.stores.sqlite",
            "engine.stores.duckdb",
            "sensors.sensor",
            "sensors.sameness",
            "sensors.admission",
            "sensors.versions",
            "sensors.known",
            "sensors.pace",
            "sensors.generator",
            "sensors.poll",
            "sensors.plugins",
            "sensors.topics.access",
            "sensors.topics.messages",
            "sensors.topics.places",
            "sensors.topics.topics",
            "sensors.topics.lines",
            "sensors.topics.client",
            "sensors.topics.pending",
            "sensors.topics.watch",
            "sensors.topics.replay",
            "sensors.topics.reading",
            "sensors.kafka",
            "sensors.pattern",
            "sensors.object_store",
            "sensors.objects",
            "engine.stores.objects",
            "sensors.landing.rules",
            "sensors.landing.mounts",
            "sensors.landing.entries",
            "sensors.landing.look",
            "sensors.landing.pending",
            "sensors.landing.places",
            "sensors.landing.scan",
            "sensors.landing.scans",
            "sensors.landing.holders",
            "sensors.landing.hints",
            "sensors.landing.drafts",
            "sensors.landing.watch",
            "sensors.files",
        ),
    ),
    Layer(
        "6 shell",
        False,
        (
            "engine.runlogs",
            "engine.capture",
            "engine.context",
            "engine.definitions",
            "engine.persist",
            "engine.orphans",
            "engine.profiles",
            "engine.project",
            "engine.executors.invoke",
            "engine.executors.children",
            "engine.executors.surroundings",
            "engine.given",
            "engine.lending",
            "engine.orders",
            "engine.inputs",
            "engine.readings",
            "engine.outputs",
            "engine.readers",
            "engine.publishing",
            "engine.intents",
            "engine.checkpoints",
            "engine.checkpointing",
            "engine.work",
            "engine.executors.frames",
            "engine.executors.pool",
            "engine.executors.workshop",
            "engine.commands",
            "engine.runner",
            "engine.valves",
            "engine.supervisor",
            "engine.sensing",
            "engine.loop",
            "engine.asking",
            "engine.rollback",
            "engine.reports",
            "engine.doctor",
            "engine.socket",
            "engine.sweep",
            "engine.notify",
            "engine.running",
            "engine.recovery",
            "engine.daemon",
        ),
    ),
    Layer(
        "7 surface",
        False,
        (
            "engine.config",
            "engine.logs",
            "engine.virtual",
            "engine.simulated",
            "engine.recollection",
            "engine.landings",
            "engine.testing",
            "engine.target",
            "engine.executors.worker",
            "engine.cli.output",
            "engine.cli.state",
            "engine.cli.sensors",
            "engine.cli.logs",
            "engine.cli.read",
            "engine.cli.next",
            "engine.cli.plan",
            "engine.cli.write",
            "engine.cli.versions",
            "engine.cli.audit",
            "engine.cli.checks",
            "engine.cli.provenance",
            "engine.cli.pause",
            "engine.cli.freshness",
            "engine.cli.backfill",
            "engine.cli.run",
            "engine.cli.daemon",
            "engine.cli.doctor",
            "freshet",
            "freshet.testing",
            "demo.flights",
            "demo.month",
            "demo.show",
            "engine.cli.demo",
            "engine.cli.main",
            "freshet.__main__",
        ),
    ),
)
"""Every module, bottom first: a module may import only what stands before it."""

FOLDERS = ("engine", "sensors", "projections", "freshet")
INNER_PACKAGES = (
    "demo",
    "engine",
    "engine.cli",
    "engine.executors",
    "engine.stores",
    "projections",
    "sensors",
    "sensors.landing",
    "sensors.topics",
)

LONG_FILES = {"engine.events": 500}  # all events stand in one file
MAX_FUNCTION_LINES = 70  # what fits on a screen; the median should be about 5
MAX_FILE_LINES = 400
MAX_PARAMETERS = 10
MAX_PUBLIC_METHODS = 15
# what users write: all by keyword
MANY_PARAMETERS = {("engine.assets", "asset"), ("engine.project", "__init__")}

IMPURE = frozenset(
    "aiosqlite anyio asyncio io logging multiprocessing os pathlib random secrets shutil signal "
    "socket sqlite3 structlog subprocess tempfile threading time uuid watchfiles".split()
)
IMPURE_CALLS = {"now", "today", "utcnow"}  # of datetime and date, however they were imported
IMPURE_BUILTINS = {"open", "print", "input"}
OPTIONAL = frozenset(  # extras
    "aiokafka duckdb narwhals obstore polars pandas pyarrow uvloop".split()
)
VAGUE_FILES = {"utils", "helpers", "common"}
VAGUE_CLASS = re.compile(r"Manager|Handler|Service(?![a-z])|^Base(?![a-z])")
BROAD = {"Exception", "BaseException"}
RECORDED = re.compile(r"#\s*recorded:\s*\S")


class Module(NamedTuple):
    """A source file: its name as in the table, its path, its text."""

    name: str
    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)


def modules_below(root: Path) -> list[Module]:
    """Every Python file of the four folders; the links inside `freshet/` are not followed."""
    found = []
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if folder == "freshet" and parts[1] in FOLDERS:
                continue
            name = ".".join(parts).removesuffix(".__init__")
            name = own(name) if name.startswith("freshet.demo") else name
            found.append(Module(name, "/".join(parts) + ".py", path.read_text("utf-8")))
    return found


def ranks(layers: Iterable[Layer]) -> dict[str, int]:
    """The place of each module in the table."""
    names = [name for layer in layers for name in layer.modules]
    return {name: rank for rank, name in enumerate(names)}


RANKS = ranks(LAYERS)
PURE = {name for layer in LAYERS if layer.pure for name in layer.modules}


def in_table(module: Module) -> Iterator[str]:
    if module.name not in RANKS and module.name not in INNER_PACKAGES:
        yield (
            f"{module.path}: not in the table. Add {module.name!r} to LAYERS in tests/tidy.py, in "
            "its layer (DESIGN.md section 3), after every module it imports"
        )


def downwards(module: Module) -> Iterator[str]:
    """Imports of our own modules go to modules that stand earlier in the table."""
    for line, target in own_imports(module):
        if target in INNER_PACKAGES:
            yield f"{module.path}:{line}: imports the folder {target}; import a module of it"
        elif target not in RANKS:
            yield f"{module.path}:{line}: imports {target}, which is not in LAYERS"
        elif module.name in RANKS and RANKS[target] >= RANKS[module.name]:
            yield f"{module.path}:{line}: imports {target}, which is not below {module.name}"


def own_imports(module: Module) -> Iterator[tuple[int, str]]:
    """Line and target of each import of our own code, wherever in the file it stands."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, own(a.name)) for a in node.names if is_own(a.name))
        elif isinstance(node, ast.ImportFrom) and (node.level or is_own(node.module or "")):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                inside = own(f"{base}.{alias.name}")
                yield node.lineno, inside if inside in (*RANKS, *INNER_PACKAGES) else own(base)


def is_own(name: str) -> bool:
    return name.partition(".")[0] in FOLDERS


def own(name: str) -> str:
    return name.removeprefix("freshet.")


def absolute(module: Module) -> Iterator[str]:
    """Our own code is imported as `freshet.…`: any other name makes a second copy of each class."""
    for node in ast.walk(module.tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        for name in names:
            if name.startswith(".") or (is_own(name) and name.partition(".")[0] != "freshet"):
                yield f"{module.path}:{line_of(node)}: write `from freshet.… import`, not {name!r}"


def cycle(modules: Iterable[Module]) -> list[str]:
    """The modules of one import cycle, first and last the same; empty when there is none."""
    edges = {m.name: {target for _, target in own_imports(m)} for m in modules}
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def no_type_checking(module: Module) -> Iterator[str]:
    """A cycle hidden from the interpreter is still a cycle for the reader."""
    for node in ast.walk(module.tree):
        names = [getattr(node, "id", None), getattr(node, "attr", None)]
        if isinstance(node, ast.alias):
            names.append(node.name)
        if "TYPE_CHECKING" in names:
            yield f"{module.path}:{line_of(node)}: TYPE_CHECKING"


def line_of(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def sizes(module: Module) -> Iterator[str]:
    """Bounds on lines, parameters and public methods."""
    lines = module.text.count("\n")
    most = LONG_FILES.get(module.name, MAX_FILE_LINES)
    if lines > most:
        yield f"{module.path}: {lines} lines; at most {most}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from function_sizes(module, node)
        elif isinstance(node, ast.ClassDef):
            methods = [
                f for f in node.body if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            public = sum(not f.name.startswith("_") for f in methods)
            if public > MAX_PUBLIC_METHODS:
                yield f"{module.path}:{node.lineno}: {node.name} has {public} public methods"


def function_sizes(module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if lines > MAX_FUNCTION_LINES:
        yield f"{module.path}:{node.lineno}: {node.name} has {lines} lines"
    args = node.args
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    count = sum(a is not None and a.arg not in ("self", "cls") for a in named)
    if count > MAX_PARAMETERS and (module.name, node.name) not in MANY_PARAMETERS:
        yield f"{module.path}:{node.lineno}: {node.name} has {count} parameters"


def pure(module: Module) -> Iterator[str]:
    """Layers 0 to 4: no awaiting, clock, chance, files or talk."""
    if module.name not in PURE:
        return
    for node in ast.walk(module.tree):
        for fault in impurities(node):
            yield f"{module.path}:{line_of(node)}: {fault} in a pure module"


def impurities(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
            yield "async code"
        case ast.Import(names=names):
            yield from (f"import of {a.name}" for a in names if root_of(a.name) in IMPURE)
        case ast.ImportFrom(module=str(name)) if root_of(name) in IMPURE:
            yield f"import of {name}"
        case ast.Call(func=ast.Attribute(attr=attr)) if attr in IMPURE_CALLS:
            yield f"the clock, by {attr}()"
        case ast.Call(func=ast.Name(id=name)) if name in IMPURE_BUILTINS:
            yield f"{name}()"


def root_of(name: str) -> str:
    return name.partition(".")[0]


def imports_on_top(module: Module) -> Iterator[str]:
    """Only optional extras may be imported inside a function."""
    for function in ast.walk(module.tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "."]
            else:
                continue
            for name in names:
                if root_of(name) not in OPTIONAL:
                    yield f"{module.path}:{node.lineno}: {function.name} imports {name} inside"


def names(module: Module) -> Iterator[str]:
    """A name says what the thing does."""
    stem = module.name.rpartition(".")[2]
    if VAGUE_FILES & set(stem.split("_")):
        yield f"{module.path}: {stem!r} says nothing; name the file for its job"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and VAGUE_CLASS.search(node.name):
            yield f"{module.path}:{node.lineno}: class {node.name}; name it for its job"


def broad_excepts(module: Module) -> Iterator[str]:
    """What catches everything raises again, or says on its line where it is recorded.

    The form is `except Exception as error:  # recorded: as RunFailed`.
    """
    lines = module.text.splitlines()
    for node in ast.walk(module.tree):
        match node:
            case ast.ExceptHandler(type=caught) if caught is None or names_in(caught) & BROAD:
                raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                if not raises and not RECORDED.search(lines[node.lineno - 1]):
                    yield (
                        f"{module.path}:{node.lineno}: catches everything; raise again, or end the "
                        "line with `# recorded: <where>`"
                    )
            case ast.Call(func=called) if "suppress" in names_in(called):
                if any(names_in(argument) & BROAD for argument in node.args):
                    yield f"{module.path}:{node.lineno}: suppresses everything"


def names_in(expression: ast.expr) -> set[str]:
    found = set()
    for node in ast.walk(expression):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


def docstrings(module: Module) -> Iterator[str]:
    """Each file starts by saying its job; an inner `__init__.py` says nothing else."""
    if not ast.get_docstring(module.tree):
        yield f"{module.path}:1: no docstring"
    if module.name in INNER_PACKAGES and len(module.tree.body) != 1:
        yield f"{module.path}: an inner __init__.py holds its docstring only"


RULES = (
    in_table,
    downwards,
    absolute,
    no_type_checking,
    sizes,
    pure,
    imports_on_top,
    names,
    broad_excepts,
    docstrings,
)


def findings(modules: Iterable[Module]) -> Mapping[str, list[str]]:
    """What each rule found, by its name."""
    listed = list(modules)
    return {rule.__name__: [text for m in listed for text in rule(m)] for rule in RULES}
