"""The order of the rooms, read from the source: who may import whom, and what may not be written.

`violations` parses the package and names every breach. The made-up trees at the end break one rule each,
so that the checker itself can fail.
"""

import ast
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "qdesampler"
MAX_LINES = 400
IMPORTED_AS = {"dwave_samplers": "dwave", "dwave_system": "dwave"}

# Each room and the rooms it may import. The face, qdesampler/__init__.py, may import all; none imports it.
ROOMS: dict[str, set[str]] = {"equation": set()}
ROOMS["solvers"] = {"equation"}
ROOMS["backends"] = {"equation"}
ROOMS["kernels"] = {"equation", "solvers", "backends"}
ROOMS["infer"] = ROOMS["kernels"] | {"kernels"}
ROOMS["diagnostics"] = ROOMS["infer"] | {"infer"}
ROOMS["bench"] = ROOMS["diagnostics"] | {"diagnostics"}
ROOMS["cli"] = ROOMS["bench"] | {"bench"}
ROOMS["__main__"] = {"cli"}

# Third parties that belong to some rooms only.
_ARVIZ = ("arviz", "arviz_base", "arviz_plots", "xarray", "matplotlib")
HOMES = {
    "numpyro": {"infer", "bench"},
    "arviz_stats": {"diagnostics", "bench"},
    **dict.fromkeys(_ARVIZ, {"diagnostics"}),
}
# What a declared dependency brings along under another name.
BROUGHT = {"arviz": {"arviz_base", "arviz_stats", "arviz_plots", "xarray", "matplotlib"}}


class Import(ast.NodeVisitor):
    """Collect (absolute name, line, inside a function?) for every import of one module."""

    def __init__(self, module: str, is_package: bool, modules: set[str]):
        self.base = module.split(".") if is_package else module.split(".")[:-1]
        self.modules = modules
        self.depth = 0
        self.found: list[tuple[str, int, bool]] = []

    def visit_FunctionDef(self, node):
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    def visit_Import(self, node):
        for alias in node.names:
            self.found.append((alias.name, node.lineno, self.depth > 0))

    def visit_ImportFrom(self, node):
        stem = self.base[: len(self.base) - node.level + 1] if node.level else []
        source = ".".join([*stem, *([node.module] if node.module else [])])
        for alias in node.names:
            # `from package import module` names the module, not the package's face
            name = f"{source}.{alias.name}"
            self.found.append((name if name in self.modules else source, node.lineno, self.depth > 0))


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The second part of the name; empty for the face."""
    return (module.split(".") + [""])[1]


def circles(graph: dict[str, set[str]]) -> list[str]:
    """One line for each group of modules that import each other (Tarjan's strongly connected components)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1 or node in graph.get(node, ()):
                found.append("import circle: " + " - ".join(sorted(group)))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def violations(root: Path, required: set[str], optional: set[str]) -> list[str]:
    """Every breach of the house rules in `root`/qdesampler; `required` and `optional` are import names."""
    files = {module_name(path, root): path for path in sorted((root / PACKAGE).rglob("*.py"))}
    allowed = required | optional | set(sys.stdlib_module_names)
    for name in required:
        allowed |= BROUGHT.get(name, set())
    graph: dict[str, set[str]] = defaultdict(set)
    users: dict[str, set[str]] = defaultdict(set)
    problems = []

    for module, path in files.items():
        collector = Import(module, path.name == "__init__.py", set(files))
        collector.visit(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))
        room = room_of(module)
        if room and room not in ROOMS:
            problems.append(f"{module}: no room {room!r} in the order of the rooms")
        for name, line, in_function in collector.found:
            where = f"{path.relative_to(root)}:{line}"
            top = name.split(".")[0]
            if in_function and top not in optional:
                problems.append(f"{where}: import of {name} inside a function")
            if top == PACKAGE:
                if name not in files:
                    problems.append(f"{where}: {name} does not exist")
                    continue
                graph[module].add(name)
                other = room_of(name)
                if room and other != room and other not in ROOMS.get(room, set()):
                    problems.append(f"{where}: {room} may not import {name}")
                continue
            if top not in allowed:
                problems.append(f"{where}: {top} is not a declared dependency")
            if top in HOMES and room not in HOMES[top]:
                problems.append(f"{where}: {top} may be imported only in {', '.join(sorted(HOMES[top]))}")
            if top in optional:
                users[top].add(str(path.relative_to(root)))

    for name, paths in sorted(users.items()):
        if len(paths) > 1:
            problems.append(f"optional {name} is imported in more than one file: {', '.join(sorted(paths))}")
    return problems + circles(graph)


def breaches_of_form(paths: list[Path], root: Path) -> list[str]:
    """Rules for every Python file of the repository: its length, and what its imports may not say."""
    problems = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(root)
        lines = len(text.splitlines())
        if lines > MAX_LINES:
            problems.append(f"{where}: {lines} lines, more than {MAX_LINES}")
        for node in ast.walk(ast.parse(text, filename=str(path))):
            if not isinstance(node, ast.ImportFrom):
                continue
            names = {alias.name for alias in node.names}
            if node.module == "__future__" and "annotations" in names:
                problems.append(f"{where}:{node.lineno}: from __future__ import annotations")
            if "*" in names:
                problems.append(f"{where}:{node.lineno}: import *")
    return problems


def import_names(requirements: list[str]) -> set[str]:
    """'arviz[h5netcdf]>=1' -> 'arviz'; the project itself left out."""
    names = set()
    for requirement in requirements:
        name = requirement.split(";")[0]
        for mark in "[<>=!~ ":
            name = name.split(mark)[0]
        name = name.replace("-", "_").lower()
        names.add(IMPORTED_AS.get(name, name))
    return names - {PACKAGE}


def declared(root: Path) -> tuple[set[str], set[str]]:
    """Import names of the required and of the optional dependencies in pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    return import_names(project["dependencies"]), import_names(extras)


def test_the_package_keeps_the_order_of_the_rooms():
    assert violations(ROOT, *declared(ROOT)) == []


def test_every_file_keeps_the_form():
    paths = [
        p for room in (PACKAGE, "models", "examples", "tests") for p in sorted((ROOT / room).rglob("*.py"))
    ]
    assert Path(__file__) in paths
    assert breaches_of_form(paths, ROOT) == []


# --------------------------------------------------------------------------- the checker itself

GOOD = {
    "__init__.py": "from qdesampler.equation import heat\nfrom qdesampler.infer.qde.kernel import QDE\n",
    "equation/__init__.py": "from qdesampler.equation.heat import kernel as heat\n",
    "equation/heat.py": "import math\nimport jax.numpy as jnp\n\ndef kernel(x):\n    return x\n",
    "infer/__init__.py": "",
    "infer/qde/kernel.py": "import numpyro\nfrom ..equation import heat\n\ndef QDE():\n    import funsor\n",
    "diagnostics/__init__.py": "import arviz_base\nimport xarray as xr\nfrom qdesampler.infer import qde\n",
    "cli.py": "import argparse\nfrom qdesampler.diagnostics import qde\n",
}

BROKEN = {
    "room order": (
        {"equation/heat.py": "from qdesampler.infer.qde.kernel import QDE\n"},
        "equation may not import",
    ),
    "relative": (
        {"equation/heat.py": "from ..infer import qde\n"},
        "equation may not import qdesampler.infer.qde.kernel",
    ),
    "siblings": (
        {"solvers/__init__.py": "import qdesampler.backends\n", "backends/__init__.py": ""},
        "solvers may not import qdesampler.backends",
    ),
    "face": ({"infer/qde/kernel.py": "from qdesampler import heat\n"}, "infer may not import qdesampler"),
    "circle through the face": (
        {"infer/qde/kernel.py": "import qdesampler\n"},
        "import circle: qdesampler - qdesampler.infer.qde.kernel",
    ),
    "circle in a room": (
        {"equation/a.py": "from . import b\n", "equation/b.py": "import qdesampler.equation.a\n"},
        "import circle: qdesampler.equation.a - qdesampler.equation.b",
    ),
    "circle through a room's face": (
        {"equation/heat.py": "from qdesampler.equation import other\n"},
        "import circle: qdesampler.equation - qdesampler.equation.heat",
    ),
    "unknown room": ({"attic/__init__.py": ""}, "no room 'attic'"),
    "missing module": ({"cli.py": "import qdesampler.bench\n"}, "qdesampler.bench does not exist"),
    "numpyro": (
        {"equation/heat.py": "import numpyro.distributions as dist\n"},
        "numpyro may be imported only in",
    ),
    "arviz": (
        {"infer/qde/kernel.py": "from arviz_stats import ess\n"},
        "arviz_stats may be imported only in bench, diagnostics",
    ),
    "matplotlib": (
        {"cli.py": "import matplotlib.pyplot as plt\n"},
        "matplotlib may be imported only in diagnostics",
    ),
    "undeclared": ({"cli.py": "import pandas\n"}, "pandas is not a declared dependency"),
    "optional twice": (
        {"infer/other.py": "import funsor\n"},
        "optional funsor is imported in more than one file",
    ),
    "in a function": ({"cli.py": "def main():\n    import qdesampler.infer\n"}, "inside a function"),
    "in a method": (
        {"cli.py": "class A:\n    def f(self):\n        from math import pi\n"},
        "math inside a function",
    ),
}


def build(root: Path, tree: dict[str, str]) -> Path:
    for name, text in tree.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def check(root: Path) -> list[str]:
    return violations(root, {"jax", "numpyro", "arviz"}, {"funsor"})


def test_a_good_tree_passes(tmp_path):
    assert check(build(tmp_path, GOOD)) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_tree_is_reported(name, tmp_path):
    change, message = BROKEN[name]
    found = check(build(tmp_path, {**GOOD, **change}))
    assert any(message in line for line in found), found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n" * (MAX_LINES + 1), f"{MAX_LINES + 1} lines, more than {MAX_LINES}"),
        ("from __future__ import annotations\n", "from __future__ import annotations"),
        ("from math import *\n", "import *"),
    ],
)
def test_a_breach_of_form_is_reported(text, message, tmp_path):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("from __future__ import division\n" + "x = 1\n" * (MAX_LINES - 1))
    bad.write_text(text)
    found = breaches_of_form([good, bad], tmp_path)
    assert len(found) == 1, found
    assert "bad.py" in found[0]
    assert message in found[0]


def test_names_are_read_from_requirements():
    lines = [
        "jax>=0.11",
        "arviz[h5netcdf,matplotlib]>=1",
        "dimod == 0.12 ; python_version > '3'",
        "qdesampler[funsor]",
    ]
    assert import_names(lines) == {"jax", "arviz", "dimod"}
