"""The order of the rooms, read from the source: who may import whom.

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
IMPORTED_AS = {"dwave_samplers": "dwave", "dwave_system": "dwave", "pystan": "stan"}

# Each room and what it may import. `solvers/grid` is a folder of `solvers`, `solvers/.` the files beside such
# folders; `solvers` means all of it, its face included. The files of one room may import each other.
ROOMS: dict[str, str] = {
    "validation": "",
    "unfinished": "",
    "numerics": "validation",
    "equation": "validation numerics",
    "solvers/.": "validation equation",
    "solvers/grid": "validation equation solvers/.",
    "solvers/gaussian": "validation equation numerics solvers/.",
    "solvers/quadratic": "validation equation numerics solvers/. solvers/gaussian",
    "solvers/flow": "validation equation numerics solvers/. solvers/gaussian",
    "solvers/dmc": "validation equation solvers/.",
    "solvers/annealing": "validation equation numerics solvers/. solvers/gaussian solvers/grid",
    "backends/.": "validation numerics equation",
    "backends/adapters": "validation backends/.",
    "kernels/mcmc": "numerics",
    "kernels/references": "numerics",
    "kernels/adaptation": "numerics kernels/mcmc",
    "kernels/smc": "numerics kernels/mcmc kernels/references",
    "kernels/tempering": "numerics kernels/mcmc kernels/references kernels/adaptation kernels/smc",
    "kernels/discrete": "validation backends",
    "infer/.": "infer/model",
    "infer/model": "validation numerics",
    "infer/cases": "validation",
    "infer/qde": "validation numerics solvers/gaussian solvers/quadratic kernels/mcmc kernels/adaptation "
    "infer/model",
    "infer/annealed": "validation numerics solvers/gaussian solvers/quadratic kernels/references kernels/smc "
    "kernels/tempering infer/model",
    "infer/discrete": "validation numerics backends kernels/discrete infer/model",
    "infer/ground_states": "validation numerics equation solvers infer/model",
    "driver": "validation unfinished infer/model",
    "densities": "validation numerics solvers/gaussian kernels/mcmc kernels/adaptation infer/model infer/qde "
    "driver",
    "diagnostics/.": "unfinished",
    "diagnostics/datatree": "infer/model",
    "diagnostics/statistics": "validation infer/model diagnostics/datatree",
    "diagnostics/checks": "validation backends infer/model diagnostics/datatree diagnostics/statistics",
    "diagnostics/plots": "validation numerics equation solvers backends infer/model diagnostics/. "
    "diagnostics/datatree diagnostics/statistics diagnostics/checks",
    "diagnostics/reporting": "diagnostics/. diagnostics/datatree diagnostics/statistics diagnostics/checks "
    "diagnostics/plots",
}
_BELOW_BENCH = (
    "validation unfinished numerics equation solvers backends kernels infer driver densities diagnostics"
)
ROOMS |= {
    "bench/harness": _BELOW_BENCH,
    "bench/targets": f"{_BELOW_BENCH} bench/harness",
    "bench/peers": f"{_BELOW_BENCH} bench/harness",
    "bench/solvers": f"{_BELOW_BENCH} bench/harness bench/targets",
    "bench/annealers": f"{_BELOW_BENCH} bench/harness bench/targets",
    "bench/driver": f"{_BELOW_BENCH} bench/harness bench/targets bench/peers",
    "bench/evidence": f"{_BELOW_BENCH} bench/harness bench/targets bench/peers",
    "bench/densities": f"{_BELOW_BENCH} bench/harness bench/peers",
    "bench/examples": f"{_BELOW_BENCH} bench/harness bench/targets bench/peers bench/.",
    "bench/.": f"{_BELOW_BENCH} bench",
    "cli": f"{_BELOW_BENCH} bench",
    "__main__": "cli",
    # namespaces of the public face
    "plots": "diagnostics",
    "annealers": "backends infer diagnostics",
    "evidence": "infer diagnostics",
}
NAMESPACES = ("plots", "annealers", "evidence")

# Third parties that belong to some rooms only.
HOMES = {
    "numpyro": {"infer", "driver", "densities", "bench"},
    "arviz_base": {"diagnostics"},
    "xarray": {"diagnostics", "bench"},
    "arviz_stats": {"diagnostics", "bench"},
    "arviz_plots": {"diagnostics/plots"},
    "matplotlib": {"diagnostics/plots"},
    "arviz": set(),
    "pandas": {"diagnostics/statistics"},
}
# What a declared dependency brings along under another name.
BROUGHT = {"pymc": {"pytensor"}, "stan": {"httpstan"}}
BROUGHT["arviz"] = {"arviz_base", "arviz_stats", "arviz_plots", "xarray", "matplotlib", "pandas"}


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


def room_of(module: str, modules: set[str]) -> str:
    """`qdesampler.solvers.grid.spline` -> `solvers/grid`; "" for the face of the package.

    The face of a room, `qdesampler.solvers`, is named as the room itself.
    """
    parts = module.split(".")[1:]
    if len(parts) < 2:
        return parts[0] if parts else ""
    folder = f"{PACKAGE}.{parts[0]}.{parts[1]}"
    if any(name.startswith(f"{folder}.") for name in modules):
        return "/".join(parts[:2])
    divided = any(name.startswith(f"{PACKAGE}.{parts[0]}.") and name.count(".") > 2 for name in modules)
    return f"{parts[0]}/." if divided else parts[0]


def is_within(room: str, homes: str | set[str]) -> bool:
    """Whether a room, or the room that holds it, is among `homes`."""
    names = homes.split() if isinstance(homes, str) else homes
    return room in names or room.split("/")[0] in names


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
    modules = set(files)
    stubs = {module_name(path, root): path for path in sorted((root / PACKAGE).rglob("*.pyi"))}
    optional = optional.union(*(BROUGHT.get(name, ()) for name in optional))
    allowed = optional.union(required, *(BROUGHT.get(name, ()) for name in required), sys.stdlib_module_names)
    graph: dict[str, set[str]] = defaultdict(set)
    users: dict[str, set[str]] = defaultdict(set)
    problems = []

    for module, path in [*files.items(), *stubs.items()]:
        collector = Import(module, path.stem == "__init__", modules)
        collector.visit(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))
        room = room_of(module, modules)
        is_face = path.stem == "__init__" and "/" not in room
        if not is_face and room not in ROOMS:
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
                other = room_of(name, modules)
                inside = other == room or (is_face and is_within(other, {room}))
                if room and not inside and not is_within(other, ROOMS.get(room, "")):
                    problems.append(f"{where}: {room} may not import {name}")
                continue
            if top not in allowed:
                problems.append(f"{where}: {top} is not a declared dependency")
            if top in HOMES and not is_within(room, HOMES[top]):
                homes = ", ".join(sorted(HOMES[top])) or "no room"
                problems.append(f"{where}: {top} may be imported only in {homes}")
            if top in optional:
                users[top].add(str(path.relative_to(root)))

    for name, paths in sorted(users.items()):
        if len(paths) > 1:
            problems.append(f"optional {name} is imported in more than one file: {', '.join(sorted(paths))}")
    return problems + circles(graph)


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


# --------------------------------------------------------------------------- the checker itself

GOOD = {
    "__init__.py": "import jax\n",
    "__init__.pyi": "from .equation import heat as heat\nfrom .infer import QDE as QDE\n",
    "validation.py": "import math\n",
    "equation/__init__.py": "",
    "equation/__init__.pyi": "from .heat import kernel as heat\n",
    "equation/heat.py": "import math\nimport jax.numpy as jnp\nfrom ..validation import math\n",
    "kernels/__init__.py": "",
    "kernels/mcmc/__init__.py": "",
    "kernels/mcmc/move.py": "import jax\n",
    "kernels/smc/__init__.py": "",
    "kernels/smc/stage.py": "from qdesampler.kernels.mcmc import move\n",
    "kernels/adaptation/__init__.py": "",
    "kernels/adaptation/update.py": "from qdesampler.kernels.mcmc.move import step\n",
    "infer/__init__.py": "",
    "infer/__init__.pyi": "from .qde.kernel import QDE as QDE\n",
    "infer/model/__init__.py": "",
    "infer/model/trace.py": "import numpyro\n",
    "infer/qde/__init__.py": "",
    "infer/qde/kernel.py": "import numpyro\nfrom ..model import trace\n\ndef QDE():\n    import funsor\n",
    "infer/annealed/__init__.py": "",
    "infer/annealed/kernel.py": "from qdesampler.kernels.smc.stage import Stage\n",
    "diagnostics/__init__.py": "",
    "diagnostics/statistics/__init__.py": "",
    "diagnostics/statistics/ess.py": "import arviz_base\nimport xarray as xr\n",
    "diagnostics/plots/__init__.py": "",
    "diagnostics/plots/trace.py": "import matplotlib\nfrom qdesampler.diagnostics.statistics import ess\n",
    "plots.py": "from qdesampler.diagnostics import trace\n",
    "cli.py": "import argparse\nfrom qdesampler.diagnostics import summary\n",
}

BROKEN = {
    "room order": ({"equation/heat.py": "from qdesampler.infer.qde.kernel import QDE\n"}, "equation may not"),
    "relative": ({"equation/heat.py": "from ..infer import qde\n"}, "may not import qdesampler.infer"),
    "siblings": (
        {"solvers/__init__.py": "import qdesampler.backends\n", "backends/__init__.py": ""},
        "solvers may not import qdesampler.backends",
    ),
    "sideways between kernels": (
        {"infer/qde/kernel.py": "from qdesampler.infer.annealed.kernel import AnnealedQDE\n"},
        "infer/qde may not import qdesampler.infer.annealed.kernel",
    ),
    "sideways between moves": (
        {"kernels/smc/stage.py": "from qdesampler.kernels.adaptation import update\n"},
        "kernels/smc may not import qdesampler.kernels.adaptation.update",
    ),
    "a kernel and a solver": (
        {
            "kernels/mcmc/move.py": "from qdesampler.solvers.grid.spline import fit\n",
            "solvers/__init__.py": "",
            "solvers/grid/__init__.py": "",
            "solvers/grid/spline.py": "",
        },
        "kernels/mcmc may not import qdesampler.solvers.grid.spline",
    ),
    "the driver and a kernel": (
        {"driver/__init__.py": "", "driver/mcmc.py": "from qdesampler.infer.qde.kernel import QDE\n"},
        "driver may not import qdesampler.infer.qde.kernel",
    ),
    "diagnostics and a kernel": (
        {"diagnostics/statistics/ess.py": "from qdesampler.infer import QDE\n"},
        "diagnostics/statistics may not import qdesampler.infer",
    ),
    "face": ({"infer/qde/kernel.py": "from qdesampler import heat\n"}, "infer/qde may not import qdesampler"),
    "circle through the face": (
        {"infer/qde/kernel.py": "import qdesampler\n"},
        "import circle: qdesampler - qdesampler.infer - qdesampler.infer.qde.kernel",
    ),
    "circle in a room": (
        {"equation/a.py": "from . import b\n", "equation/b.py": "import qdesampler.equation.a\n"},
        "import circle: qdesampler.equation.a - qdesampler.equation.b",
    ),
    "circle through a room's face": (
        {"equation/heat.py": "from qdesampler.equation import other\n"},
        "import circle: qdesampler.equation - qdesampler.equation.heat",
    ),
    "unknown room": ({"attic/__init__.py": "", "attic/box.py": ""}, "no room 'attic'"),
    "unknown sub-room": (
        {"infer/attic/__init__.py": "", "infer/attic/box.py": ""},
        "no room 'infer/attic'",
    ),
    "missing module": ({"cli.py": "import qdesampler.bench\n"}, "qdesampler.bench does not exist"),
    "missing name in a stub": (
        {"infer/__init__.pyi": "from .nuts.kernel import NUTS as NUTS\n"},
        "qdesampler.infer.nuts.kernel does not exist",
    ),
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
        "matplotlib may be imported only in diagnostics/plots",
    ),
    "plotting in statistics": (
        {"diagnostics/statistics/ess.py": "from arviz_plots import plot_trace\n"},
        "arviz_plots may be imported only in diagnostics/plots",
    ),
    "undeclared": ({"cli.py": "import polars\n"}, "polars is not a declared dependency"),
    "optional twice": (
        {"infer/annealed/kernel.py": "import funsor\n"},
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


def test_names_are_read_from_requirements():
    lines = [
        "jax>=0.11",
        "arviz[h5netcdf,matplotlib]>=1",
        "dimod == 0.12 ; python_version > '3'",
        "qdesampler[funsor]",
    ]
    assert import_names(lines) == {"jax", "arviz", "dimod"}
