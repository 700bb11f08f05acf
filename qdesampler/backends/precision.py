r"""Energies in single precision: when they cannot tell states apart, and what is done about it.

States matter whose energies differ by a fraction of `1 / beta`. A penalty of 1e6 needs seven digits before
that fraction begins, and single precision has seven in all: the objective under the penalty is rounded away.
So

* numbers that come from the host stay in double precision until a device needs them (`host_numbers`);
* energies of known states are summed on the host, in double precision (`qdesampler.backends.problem`);
* a constant never enters weights, logits or a device's sums: it is taken off first and added last;
* where the rest cannot be told apart in the precision of the device, the call runs in double precision
  (`in_enough_precision`); where that is impossible, because JAX traces the call, `PrecisionWarning` says so.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.validation import is_traced

__all__ = [
    "PrecisionWarning",
    "energy_rounding",
    "host_numbers",
    "in_enough_precision",
    "is_staged",
    "warn_of_range",
]

_RESOLUTION = 0.1  # of 1/beta: energies that differ by less are one, for draws, weights and modes alike
# Error with which an analogue device sets a field or a coupling, in its own units, where couplings reach 1:
# the order of magnitude of D-Wave's integrated control errors. It serves the warning about a device's range.
_DEVICE_STEP = 0.01


class PrecisionWarning(UserWarning):
    """A dtype, or a device's range, cannot tell states apart by a tenth of `1 / beta`."""


def host_numbers(values: Any) -> Any:
    """Return numbers as they are if JAX holds them, else in double precision on the host."""
    return values if isinstance(values, jax.Array) else np.asarray(values, np.float64)


def is_staged(*trees: Any) -> bool:
    """Whether JAX traces the present call, or a leaf of `trees`: there are then no numbers to look at."""
    # Under `jit` even a new constant is traced.
    return any(map(is_traced, jax.tree.leaves(trees))) or is_traced(jnp.zeros(()))


def energy_rounding(h: Any, J: Any, dtype: Any) -> float:
    """Return how far a sum of energies may be wrong in `dtype`, in the units of the energy.

    It is 0 if all sums are exact, as for small multiples of one power of two.

    Args:
        h: fields, shape `(n,)`, known numbers.
        J: couplings, one for each pair, or a symmetric matrix.
        dtype: of the sums.
    """
    pairs = np.asarray(J, np.float64)
    numbers = np.concatenate(
        [np.asarray(h, np.float64), (np.triu(pairs) if pairs.ndim == 2 else pairs).ravel()]
    )
    total, limits = float(np.abs(numbers).sum()), jnp.finfo(dtype)
    bound = float(limits.eps) * total
    with np.errstate(over="ignore"):  # an overflow is a rounding, and a bad one
        cast = numbers.astype(dtype).astype(np.float64)
    if bound == 0 or np.any(cast != numbers):
        return bound
    mantissas, exponents = np.frexp(numbers[numbers != 0])
    whole = np.abs(mantissas * 2.0**53).astype(np.int64)
    step = np.min(np.ldexp((whole & -whole).astype(np.float64), exponents - 53))
    return 0.0 if total / step < 2.0 ** (limits.nmant + 1) else bound


def in_enough_precision(
    name: str,
    draw: Callable[[Any, Any], Any],
    problem: Any,
    beta: Any,
    *others: Any,
    resolution: float = _RESOLUTION,
) -> Any:
    """Return `draw(problem, beta)`, in double precision if single cannot tell the states apart.

    Args:
        name: who draws, for the warning.
        draw: returns a pytree; without its own checks of precision.
        problem: an `IsingProblem` without a constant.
        beta: inverse temperature, shape `()`.
        *others: pytrees that `draw` uses too; whether they are traced decides what can be done.
        resolution: how large a rounding of `beta E` may be.
    """
    if is_traced(problem.h) or is_traced(problem.J) or is_traced(beta):
        return draw(problem, beta)
    dtype = jax.dtypes.canonicalize_dtype(problem.h.dtype)
    if float(beta) * energy_rounding(problem.h, problem.J, dtype) <= resolution:
        return draw(problem, beta)
    double = float(beta) * energy_rounding(problem.h, problem.J, np.float64)
    staged = is_staged(problem, others)
    if staged or double > resolution:
        used = dtype if staged else np.dtype(np.float64)
        error = float(beta) * energy_rounding(problem.h, problem.J, used)
        warnings.warn(
            f"{name}: energies in {np.dtype(used).name} are rounded by up to {error:.2g} / beta, so that "
            "states which differ by less are confused. Lower the penalties"
            + (", call it outside of jit, or set jax_enable_x64." if staged else " or scale the problem."),
            PrecisionWarning,
            stacklevel=5,
        )
    if staged:
        return draw(problem, beta)
    exact = problem._replace(
        h=np.asarray(problem.h, np.float64), J=np.asarray(problem.J, np.float64), offset=np.float64(0)
    )
    with jax.enable_x64(True):
        found = draw(exact, np.float64(beta))
    # Arrays of double precision stay with NumPy: JAX would round them in the next operation.
    return jax.tree.map(lambda leaf: leaf if leaf.dtype == jnp.int8 else np.asarray(leaf), found)


def warn_of_range(name: str, scaled: Any, properties: Any) -> None:
    """Warn if an analogue device, which scales a problem into its range, cannot tell its states apart.

    Args:
        name: of the device.
        scaled: an `IsingProblem` times `beta`, or its fields and couplings, `(h, J)`.
        properties: of the device; only those with `h_range` and `j_range` are analogue.
    """
    h, J = (np.asarray(part, np.float64) for part in scaled)
    ranges = [properties.get(key) for key in ("h_range", "extended_j_range", "j_range")]
    if ranges[0] is None or not any(ranges[1:]):
        return
    widest = [float(np.min(np.abs(each))) for each in (ranges[0], ranges[2] or ranges[1])]
    factor = max(np.max(np.abs(part), initial=0.0) / most for part, most in zip((h, J), widest, strict=True))
    error = factor * _DEVICE_STEP
    if error > _RESOLUTION:
        warnings.warn(
            f"{name} scales this problem by 1/{factor:.3g} to fit its range. It sets fields and couplings to "
            f"about {_DEVICE_STEP} of its units, which is {error:.2g} / beta: states that differ by less are "
            "confused. Lower the penalties, or check that the reads' energies are good enough.",
            PrecisionWarning,
            stacklevel=5,
        )
