"""`qdesampler ground-state "x**4" --diffusion 1`: levels of a one-line potential, and its picture."""

import argparse
import dataclasses
import re
import warnings
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.cli.common import (
    OK,
    InputError,
    Progress,
    add_number,
    at_least,
    check_output,
    one_line,
    positive,
    print_warnings,
)
from qdesampler.cli.expression import FUNCTIONS, parse_expression
from qdesampler.cli.picture import write_picture
from qdesampler.diagnostics import plot_ground_state
from qdesampler.equation import Hamiltonian
from qdesampler.solvers import GroundState, SpectralGrid, ground_state
from qdesampler.solvers.grid.spectral import GridWarning

__all__ = ["add_ground_state", "with_potential"]

_POINTS = {1: 512, 2: 96, 3: 40}
_HALF_WIDTHS = (4.0, 8.0, 16.0, 32.0, 64.0)  # of the boxes that are tried one after another
_BORDER = 33  # points of an axis, for the potential on the border of the box
_GOOD = 1e-6  # relative error of the highest level at which no larger box is tried

_POTENTIAL = re.compile(r"-(?!-|h$)")
_NUMBER = re.compile(r"-[\d.]+(e[-+]?\d+)?", re.IGNORECASE)

_EPILOG = f"""examples:
  qdesampler ground-state "x**4"
  qdesampler ground-state "-x**2 + x**4"
  qdesampler ground-state "(x**2 - 1)**2" --diffusion 0.05 --levels 6 --out well.png
  qdesampler ground-state "x**2/2 + 2*y**2 + x*y/4" --out bowl.png
  qdesampler ground-state "0*x" --bounds 0 1 --boundary hard

functions: {", ".join(FUNCTIONS)}; coordinates: x, y, z; constants: pi, e.
"""


def add_ground_state(commands: "argparse._SubParsersAction[Any]") -> argparse.ArgumentParser:
    """Add the command to the parser."""
    command = commands.add_parser(
        "ground-state",
        help="energy levels of a potential given in one line, and a plot of its ground state",
        description="Solve H = -D lap + V for a potential V of up to three coordinates, on a grid, in double "
        "precision.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(action=_ground_state)
    command.add_argument("expression", metavar="POTENTIAL", help='such as "x**4"; quote it')
    add_number(command, "--diffusion", positive, 1.0, metavar="D")
    add_number(command, "--levels", at_least(2), 3)
    command.add_argument(
        "--bounds", metavar=("LOW", "HIGH"), nargs=2, type=float, help="of every axis; found if left out"
    )
    command.add_argument("--points", metavar="N", type=at_least(16), help="nodes of every axis")
    command.add_argument(
        "--boundary", choices=("open", "hard"), default="open", help="hard: the bounds are walls"
    )
    command.add_argument(
        "--out", metavar="FILE", type=Path, help="write a plot (.png), in 1 and 2 dimensions"
    )
    return command


def with_potential(words: Sequence[str]) -> list[str]:
    """The words of a command line, so that argparse takes `-x**2 + x**4` for a potential and not for options.

    A word that begins with a space is none. Options of one dash are `-h` and no others, and numbers belong to
    `--bounds`.
    """
    if list(words[:1]) != ["ground-state"]:
        return list(words)
    return [f" {word}" if _POTENTIAL.match(word) and not _NUMBER.fullmatch(word) else word for word in words]


def _ground_state(arguments: argparse.Namespace) -> int:
    expression = parse_expression(arguments.expression)
    out: Path | None = arguments.out
    check_output("--out", out, ".png")
    if out is not None and expression.dim > 2:
        raise InputError("--out: a plot has one or two coordinates; leave it out in three dimensions.")
    if arguments.boundary == "hard" and arguments.bounds is None:
        raise InputError("--boundary hard needs --bounds LOW HIGH.")
    with jax.enable_x64(True), Progress() as progress:
        progress("solving")
        hamiltonian = Hamiltonian.from_objective(
            expression.value, dim=expression.dim, diffusion=arguments.diffusion
        )
        state, bounds = _solved(hamiltonian, arguments)
        potential = f"({expression.text})" if expression.text.startswith("-") else expression.text
        print(f"H = -{arguments.diffusion:g} lap + {potential}, bounds {bounds[0]:g} to {bounds[1]:g}")
        edge = inf if arguments.boundary == "hard" else _continuum(hamiltonian, bounds)
        state = _print_levels(state, edge)
        if out is not None:
            progress("drawing")
            box = bounds if arguments.boundary == "hard" else None
            names = expression.names
            write_picture(
                out, lambda: plot_ground_state(state, hamiltonian, box, names=names, backend="matplotlib")
            )
    return OK


def _continuum(hamiltonian: Hamiltonian, bounds: tuple[float, float]) -> float:
    """The lowest potential on the border of the box; above it no state is bound."""
    axes = jnp.meshgrid(*[jnp.linspace(*bounds, _BORDER)] * hamiltonian.dim, indexing="ij")
    points = jnp.stack(axes, -1).reshape(-1, hamiltonian.dim)
    border = points[jnp.any((points == bounds[0]) | (points == bounds[1]), axis=1)]
    return float(jnp.min(jax.vmap(hamiltonian.potential)(border)))


def _print_levels(state: GroundState, edge: float) -> GroundState:
    """Print the levels and the gap; the state with those levels only that are bound."""
    if state.levels is None or state.level_errors is None:
        raise RuntimeError("the solver returned no levels")
    levels, errors = (np.asarray(values, float) for values in (state.levels, state.level_errors))
    bound = max(1, int(np.sum(levels + errors < edge)))
    for i, (level, error) in enumerate(zip(levels[:bound], errors, strict=False)):
        print(f"E{i} = {level:.10g} +- {error:.1g}")
    if bound < len(levels):
        print(
            f"no further bound state: the potential at the bounds is {edge:.6g}, and the levels above it "
            "form a continuum"
        )
    if bound > 1:
        print(f"gap {levels[1] - levels[0]:.10g}")
    else:
        print(f"gap to the continuum {edge - levels[0]:.10g}")
    return dataclasses.replace(state, levels=state.levels[:bound], level_errors=state.level_errors[:bound])


def _solved(
    hamiltonian: Hamiltonian, arguments: argparse.Namespace
) -> tuple[GroundState, tuple[float, float]]:
    """The ground state, in the bounds asked for or in the smallest box that holds it without a warning."""
    points = arguments.points or _POINTS[hamiltonian.dim]

    def solve(low: float, high: float) -> GroundState:
        grid = SpectralGrid((low, high), points, states=arguments.levels, boundary=arguments.boundary)
        return ground_state(hamiltonian, grid)

    if arguments.bounds is not None:
        low, high = arguments.bounds
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", GridWarning)
                state = solve(low, high)
        except (ValueError, TypeError) as error:
            raise InputError(one_line(error)) from error
        print_warnings(caught)
        return state, (low, high)
    reason, best = "", None
    for half in _HALF_WIDTHS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", GridWarning)
                state = solve(-half, half)
        except (ValueError, GridWarning) as error:
            reason = one_line(error)
            if best is not None:  # a larger box is too coarse
                break
            continue
        error = _level_error(state)
        if best is not None and error >= best[0]:
            break
        best = (error, state, (-half, half))
        if error <= _GOOD:
            break
    if best is not None:
        return best[1], best[2]
    raise InputError(
        f"no box up to {_HALF_WIDTHS[-1]:g} holds the ground state: is the potential bounded below, and does "
        f"it rise at infinity? Give --bounds (and --points). The last reason: {reason}"
    )


def _level_error(state: GroundState) -> float:
    """Error of the highest level, over its height above zero or one."""
    if state.levels is None or state.level_errors is None:
        return float(state.energy_error)
    return float(state.level_errors[-1]) / max(1.0, abs(float(state.levels[-1])))
