"""One-line potentials such as `x**4 - 2*x**2 + y**2`: parsed to a tree, checked, never evaluated by Python.

Numbers, the coordinates `x`, `y`, `z` (or `x1`, `x2`, `x3`), `pi` and `e`, the operators `+ - * / **` and the
functions of one argument listed in `FUNCTIONS`. Anything else is refused with its place in the text.
"""

import ast
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.cli.common import InputError

__all__ = ["FUNCTIONS", "Expression", "parse_expression"]

FUNCTIONS: dict[str, Callable] = {
    "abs": jnp.abs,
    "arctan": jnp.arctan,
    "cos": jnp.cos,
    "cosh": jnp.cosh,
    "exp": jnp.exp,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "sin": jnp.sin,
    "sinh": jnp.sinh,
    "sqrt": jnp.sqrt,
    "tan": jnp.tan,
    "tanh": jnp.tanh,
}
_COORDINATES = {"x": 0, "y": 1, "z": 2, "x1": 0, "x2": 1, "x3": 2}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_OPERATORS: dict[type, Callable] = {
    ast.Add: jnp.add,
    ast.Sub: jnp.subtract,
    ast.Mult: jnp.multiply,
    ast.Div: jnp.divide,
}
_LONGEST, _DEEPEST, _LARGEST_POWER = 500, 40, 64  # characters, nested operations, exponent

Node = Callable[[jax.Array], Any]


class Expression(NamedTuple):
    """A parsed expression.

    Attributes:
        text: as it was given.
        dim: number of coordinates, the highest that occurs.
        value: function of one point, shape `(dim,)`, returning a scalar.
        names: the coordinates as they are written; x, y or z for one that does not occur.
    """

    text: str
    dim: int
    value: Callable[[jax.Array], jax.Array]
    names: tuple[str, ...]


def parse_expression(text: str) -> Expression:
    """Parse a potential.

    Args:
        text: at most 500 characters.

    Raises:
        InputError: not an expression of the kinds above, or without any coordinate.
    """
    text = text.strip()
    if len(text) > _LONGEST:
        raise InputError(f"the expression has {len(text)} characters; at most {_LONGEST} are read.")
    try:
        tree = ast.parse(text.replace("^", "**"), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f" at character {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        raise InputError(f"{text!r} is no expression{where}; write for instance x**4 - 2*x**2.") from error
    used: dict[int, str] = {}
    body = _node(tree, used, 0)
    if not used:
        raise InputError(f"{text!r} holds no coordinate: use x, and y and z in two and three dimensions.")

    def value(point: jax.Array) -> jax.Array:
        return jnp.asarray(body(point), point.dtype)

    dim = max(used) + 1
    return Expression(text, dim, value, tuple(used.get(i, "xyz"[i]) for i in range(dim)))


def _node(node: ast.AST, used: dict[int, str], depth: int) -> Node:
    if depth > _DEEPEST:
        raise InputError(f"the expression is nested more than {_DEEPEST} deep.")
    if isinstance(node, ast.Constant):
        return _number(node)
    if isinstance(node, ast.Name):
        return _name(node.id, used)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner, sign = _node(node.operand, used, depth + 1), -1.0 if isinstance(node.op, ast.USub) else 1.0
        return lambda x: sign * inner(x)
    if isinstance(node, ast.BinOp):
        return _binary(node, used, depth)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _call(node, node.func.id, used, depth)
    raise InputError(
        f"{ast.unparse(node)!r} is not allowed: numbers, coordinates, + - * / ** and functions are."
    )


def _number(node: ast.Constant) -> Node:
    if isinstance(node.value, bool) or not isinstance(node.value, int | float):
        raise InputError(f"{node.value!r} is no real number.")
    try:
        number = float(node.value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError("a number in the expression is too large.")
    return lambda x: number


def _name(name: str, used: dict[int, str]) -> Node:
    if name in _CONSTANTS:
        return lambda x: _CONSTANTS[name]
    if name not in _COORDINATES:
        known = ", ".join([*_COORDINATES, *_CONSTANTS])
        raise InputError(f"{name!r} is unknown; there are {known}, and functions: {', '.join(FUNCTIONS)}.")
    index = _COORDINATES[name]
    used.setdefault(index, name)
    return lambda x: x[index]


def _binary(node: ast.BinOp, used: dict[int, str], depth: int) -> Node:
    left = _node(node.left, used, depth + 1)
    if isinstance(node.op, ast.Pow):
        power = node.right
        if isinstance(power, ast.Constant) and type(power.value) is int and power.value <= _LARGEST_POWER:
            exponent = power.value  # an exact product, smooth at 0
            return lambda x: jnp.asarray(left(x), x.dtype) ** exponent
        right = _node(power, used, depth + 1)
        return lambda x: jnp.power(jnp.asarray(left(x), x.dtype), right(x))
    operator = _OPERATORS.get(type(node.op))
    if operator is None:
        raise InputError(f"{ast.unparse(node)!r}: of operators + - * / ** are allowed.")
    right = _node(node.right, used, depth + 1)
    return lambda x: operator(left(x), right(x))


def _call(node: ast.Call, name: str, used: dict[int, str], depth: int) -> Node:
    if name not in FUNCTIONS:
        raise InputError(f"{name}() is unknown; there are {', '.join(FUNCTIONS)}.")
    if len(node.args) != 1 or node.keywords or isinstance(node.args[0], ast.Starred):
        raise InputError(f"{name}() takes one argument, got {ast.unparse(node)!r}.")
    function, inner = FUNCTIONS[name], _node(node.args[0], used, depth + 1)
    return lambda x: function(jnp.asarray(inner(x), x.dtype))
