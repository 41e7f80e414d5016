"""The architecture, read from the source: directions of import, pure modules, the two clocks, declared dependencies."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    *(
        "errors",
        "config",
        "clock",
        "tzfile",
        "localtime",
        "drawing",
        "store",
        "audit",
        "access",
        "features",
        "ingest",
        "learning",
        "campaigns",
        "planning",
    ),
    *("delivery", "report", "privacy", "embedded", "runtime", "supervise", "metrics", "status", "web", "bench"),
    *("demo", "cli"),
)
"""The rooms of engine/, each importing only rooms before it."""

PURE_LIBRARIES = {"numpy", "pandas", "scipy", "pyarrow", "pydantic", "pydantic_core", "cronsim", "liquid", "yaml"}
PURE_LIBRARIES |= {"cryptography"}  # signing is deterministic; what draws keys or salts is not in a pure module
IMPURE_STANDARD = {"os", "socket", "subprocess", "threading", "asyncio", "time", "logging", "random", "secrets"}
ALWAYS_PURE = ("engine/localtime.py", "engine/features/")
CLOCK_READS = re.compile(
    r"\b(datetime\.(now|utcnow|today)|date\.today|time\.(time|monotonic|perf_counter|time_ns)|Timestamp\.(now|utcnow))\("
)


def modules(*folders: str) -> dict[str, ast.Module]:
    """The parsed source of every module below `folders`, by path relative to the project."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that importing or calling this code imports; what only the type checker sees is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imports(node)


def room_of(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "engine" and len(parts) > 1 and parts[1] in ROOMS else None


def wrong_directions(sources: dict[str, ast.Module]) -> list[str]:
    """Imports from `engine` that point outward."""
    wrong = []
    for path, tree in sources.items():
        here = room_of(path.removesuffix(".py").replace("/", "."))
        for name in imports(tree):
            target = room_of(name)
            if here and target and ROOMS.index(target) > ROOMS.index(here):
                wrong.append(f"{path}: {here} imports {name}")
            if name.split(".")[0] in {"tasks", "tests"} or (here and name.split(".")[0] == "migrations"):
                wrong.append(f"{path}: engine imports {name}")
    return wrong


def is_pure(path: str, tree: ast.Module) -> bool:
    first_lines = (ast.get_docstring(tree) or "").split("\n\n")[0]
    return "(pure" in first_lines or path.startswith(ALWAYS_PURE)


def impurities(sources: dict[str, ast.Module]) -> list[str]:
    """What pure modules import or call that does IO, reads a clock, draws at random or logs."""
    pure = {
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path, tree in sources.items()
        if is_pure(path, tree)
    }
    allowed_engine = pure | {"engine.errors", "engine.store.tables", "engine.store.slots"}
    wrong = []
    for path, tree in sources.items():
        if not is_pure(path, tree):
            continue
        for name in imports(tree):
            top = name.split(".")[0]
            if top == "engine":
                known = any(name == module or name.startswith(f"{module}.") for module in allowed_engine)
                wrong += [] if known else [f"{path}: imports {name}, which is not pure"]
            elif top in IMPURE_STANDARD or (top not in sys.stdlib_module_names and top not in PURE_LIBRARIES):
                wrong.append(f"{path}: imports {name}")
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        wrong += [
            f"{path}:{call.lineno}: {name}"
            for call in calls
            if re.match(r"(np|numpy)\.random\.|open$|print$", name := ast.unparse(call.func))
        ]
    return wrong


def test_the_rooms_are_those_on_disk() -> None:
    found = {
        path.stem for path in (ROOT / "engine").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }

    assert found - {"__init__"} <= set(ROOMS)


def test_every_room_imports_only_rooms_before_it_and_never_tasks() -> None:
    assert wrong_directions(modules("engine")) == []


def test_an_import_that_points_outward_is_found() -> None:
    planted = {
        "engine/store/planted.py": ast.parse("def late():\n    from engine.planning import run"),
        "engine/web/planted.py": ast.parse("import tasks.app"),
    }

    assert wrong_directions(planted) == [
        "engine/store/planted.py: store imports engine.planning.run",
        "engine/web/planted.py: engine imports tasks.app",
    ]


def test_pure_modules_see_no_io_clock_chance_or_logging() -> None:
    assert impurities(modules("engine")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import logging",
        "import sqlalchemy",
        "from engine.store.database import Database",
        "import numpy as np\nnp.random.rand()",
        "open('x')",
    ],
)
def test_an_impurity_is_found(source: str) -> None:
    assert len(impurities({"engine/features/planted.py": ast.parse(source)})) == 1


def test_only_the_clock_module_reads_the_clock() -> None:
    reads = [
        f"{path}:{number}"
        for path in modules("engine", "tasks")
        if path != "engine/clock.py"
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        if CLOCK_READS.search(line.split("#")[0])
    ]

    assert reads == []


def test_only_the_settings_read_the_environment() -> None:
    reads = [
        path
        for path in modules("engine", "tasks")
        if path != "engine/config.py" and re.search(r"\bos\.(environ\[|environ\.get|getenv)", (ROOT / path).read_text())
    ]

    assert reads == []


def declared(*extras: str) -> set[str]:
    """Distributions that pyproject names for an installation with `extras`, extras of our own followed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names: set[str] = set()
    pending = [*project["dependencies"], *(r for extra in extras for r in project["optional-dependencies"][extra])]
    while pending:
        requirement = Requirement(pending.pop())
        if requirement.name == project["name"]:
            pending += [r for extra in requirement.extras for r in project["optional-dependencies"][extra]]
        else:
            names.add(requirement.name.lower().replace("_", "-"))
    return names


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (("engine", "tasks", "migrations"), ("embedded", "demo")),
        (("engine", "tasks", "migrations", "tests"), ("test",)),
    ],
    ids=["product", "with tests"],
)
def test_every_import_is_a_declared_dependency(folders: tuple[str, ...], extras: tuple[str, ...]) -> None:
    providers = packages_distributions()
    known = declared(*extras)
    own = {"engine", "tasks", "migrations", "tests"}
    undeclared = {
        f"{path}: {top}"
        for path, tree in modules(*folders).items()
        for top in {name.split(".")[0] for name in imports(tree)}
        if top not in sys.stdlib_module_names
        and top not in own
        and not known & {name.lower().replace("_", "-") for name in providers.get(top, [])}
    }

    # benches compare with what only the `test` extra installs
    assert {entry for entry in undeclared if "test" in extras or not entry.startswith("engine/bench/")} == set()
