"""The form of the source: lengths of files and functions, numbers of parameters, constants, imports.

`breaches_of_form` names every breach. The made-up texts at the end break one rule each, so that the checker
itself can fail.
"""

import ast
import io
import tokenize
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "qdesampler"
MAX_LINES = 400
MAX_FUNCTION_LINES = 80  # from `def` to the last line, docstring included
MAX_PARAMETERS = 9  # `self` and `cls` are not counted

# The public face takes as many settings as its users have: these constructors and functions only.
PUBLIC_FACE = {
    ("densities/sample_density.py", "sample"),
    ("driver/mcmc.py", "__init__"),
    ("infer/annealed/kernel.py", "__init__"),
    ("infer/annealed/particles.py", "anneal_particles"),
    ("infer/discrete/kernel.py", "__init__"),
    ("infer/discrete/mode_search.py", "find_modes"),
    ("infer/qde/kernel.py", "__init__"),
}


def is_number(node: ast.expr) -> bool:
    """Whether an expression is a literal number, or a tuple of them."""
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.UnaryOp(operand=operand):
            return is_number(operand)
        case ast.BinOp(left=left, right=right):
            return is_number(left) and is_number(right)
        case ast.Tuple(elts=elements):
            return bool(elements) and all(is_number(element) for element in elements)
    return False


def bare_constants(text: str, tree: ast.Module) -> list[tuple[int, str]]:
    """Line and name of each numeric constant of a module that no comment and no docstring explains."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    bare = []
    for node, after in zip_longest(tree.body, tree.body[1:]):
        if (
            not isinstance(node, ast.Assign | ast.AnnAssign)
            or node.value is None
            or not is_number(node.value)
        ):
            continue
        match after:
            case ast.Expr(value=ast.Constant(value=str())):
                continue
        if not comments & set(range(node.lineno - 1, (node.end_lineno or node.lineno) + 1)):
            bare.append((node.lineno, ast.unparse(node).split(" = ")[0]))
    return bare


def breaches_of_size(path: str, text: str) -> list[str]:
    """Long functions, functions of many parameters, constants without a unit, in one file of the package."""
    tree = ast.parse(text, filename=path)
    problems = [f"{path}:{line}: nothing says what {name} is" for line, name in bare_constants(text, tree)]
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        where = f"{path}:{node.lineno}: {node.name}"
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        parameters = sum(argument.arg not in ("self", "cls") for argument in arguments)
        if (path, node.name) in PUBLIC_FACE:
            continue
        if lines > MAX_FUNCTION_LINES:
            problems.append(f"{where} has {lines} lines, more than {MAX_FUNCTION_LINES}")
        if parameters > MAX_PARAMETERS:
            problems.append(f"{where} has {parameters} parameters, more than {MAX_PARAMETERS}")
    return problems


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


def test_every_file_keeps_the_form():
    paths = [
        p for room in (PACKAGE, "models", "examples", "tests") for p in sorted((ROOT / room).rglob("*.py"))
    ]
    assert Path(__file__) in paths
    assert breaches_of_form(paths, ROOT) == []


def test_functions_are_short_and_constants_explained():
    folder = ROOT / PACKAGE
    problems = [
        breach
        for path in sorted(folder.rglob("*.py"))
        for breach in breaches_of_size(str(path.relative_to(folder)), path.read_text(encoding="utf-8"))
    ]
    assert problems == []


def test_every_exception_for_the_public_face_is_needed():
    """An entry whose function has become small, or is gone, must go too."""
    for path, name in PUBLIC_FACE:
        tree = ast.parse((ROOT / PACKAGE / path).read_text(encoding="utf-8"))
        found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name]
        assert any(len(n.args.args) + len(n.args.kwonlyargs) > MAX_PARAMETERS for n in found), (path, name)


# --------------------------------------------------------------------------- the checker itself


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f():\n" + "    pass\n" * MAX_FUNCTION_LINES, "f has 81 lines"),
        ("def f(a, b, c, d, e, *, g, h, i, j, k):\n    pass\n", "f has 10 parameters"),
        ("LARGE = 1e4\n", "nothing says what LARGE is"),
        ("A, B = 1, -2.0\n", "nothing says what A, B is"),
        ("SIZE = 64 * 2**20\n", "nothing says what SIZE is"),
    ],
)
def test_a_breach_of_size_is_reported(text, message):
    found = breaches_of_size("bad.py", text)
    assert len(found) == 1, found
    assert message in found[0]


def test_what_keeps_the_form_is_not_reported():
    text = (
        "# Nats.\nLARGE = 1e4\nSMALL = 1e-4  # of the mass\nWIDE = 2.0\n"
        '"""Standard deviations."""\nNAME = "x"\nON = True\n'
        "class A:\n    def f(self, a, b, c, d, e, f, g, h, i):\n" + "        pass\n" * 79
    )
    assert breaches_of_size("good.py", text) == []
