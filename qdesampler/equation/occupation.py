"""Softmax and Sigmoid: the ground state of imaginary time on discrete states.

On states `i` with energies `E_i`, joined by symmetric couplings `w_ij >= 0`, the analogue of the Boltzmann
Hamiltonian is the matrix

    H_ij = -w_ij (i != j),      H_ii = sum_j w_ij psi_j / psi_i,      psi_i = exp(-beta E_i / 2).

For every vector `v`, `v^T H v = sum_{i<j} w_ij psi_i psi_j (v_i / psi_i - v_j / psi_j)^2 >= 0`, so that `psi`
is a ground state with energy 0, the only one if the couplings connect all states. Its normalised square is
the occupation

    p_i = exp(-beta E_i) / sum_j exp(-beta E_j),      that is Softmax,

and with two states, a gap `E_1 - E_0` apart, `p_0 = 1 / (1 + exp(-beta (E_1 - E_0)))`, that is Sigmoid. As on
the continuum, `q = psi v` turns `dv / dtau = -H v` into a master equation: jumps from `i` to `j` at the rate
`w_ij psi_j / psi_i`, in detailed balance with `p`.

References:
    Wang and Maimaitiniyazi, arXiv:2407.19890 (2024): Softmax and Sigmoid within the quantum dynamic equation.
    Castelnovo et al., Ann. Phys. 318 (2005) 316: the matrix of a Markov chain in detailed balance.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.validation import as_float_array, as_positive_scalar, is_traced


def boltzmann_occupation(energies: ArrayLike, beta: ArrayLike = 1.0) -> jax.Array:
    """Return Softmax of `-beta E`, the occupation of discrete energies in thermal equilibrium.

    Args:
        energies: `E_i`, shape `(..., states)`; `inf` is a state never occupied.
        beta: inverse temperature, not negative.

    Returns:
        `p_i`, of the same shape, summing to one over the last axis.

    Raises:
        TypeError: `beta` is not a real number.
        ValueError: `energies` has no states, or `beta` is negative or not finite.
    """
    energies = as_float_array(energies)
    if energies.ndim == 0 or energies.size == 0:
        raise ValueError(f"energies must have shape (..., states), got {energies.shape}.")
    beta = as_positive_scalar("beta", beta, allow_zero=True)
    return jax.nn.softmax(-beta * energies, axis=-1)


def two_level_occupation(gap: ArrayLike, beta: ArrayLike = 1.0) -> jax.Array:
    """Return Sigmoid of `beta gap`, the occupation of the lower of two levels `gap` apart, elementwise.

    Args:
        gap: upper minus lower energy, of any shape (negative where the names are the wrong way round).
        beta: inverse temperature, not negative.

    Raises:
        TypeError: `beta` is not a real number.
        ValueError: `beta` is negative or not finite.
    """
    beta = as_positive_scalar("beta", beta, allow_zero=True)
    return jax.nn.sigmoid(beta * as_float_array(gap))


def occupation_hamiltonian(energies: ArrayLike, couplings: ArrayLike, beta: ArrayLike = 1.0) -> jax.Array:
    """Return the matrix `H` whose ground state is the square root of the Boltzmann occupation, with energy 0.

    Args:
        energies: `E_i`, shape `(states,)`.
        couplings: `w_ij`, symmetric and not negative, shape `(states, states)`; the diagonal plays no part.
        beta: inverse temperature, not negative.

    Returns:
        `H`, symmetric and positive semi-definite, shape `(states, states)`.

    Raises:
        TypeError: `beta` is not a real number.
        ValueError: the shapes do not fit, the energies are not finite, the couplings are not finite,
            symmetric and non-negative (values are not checked under `jit`), or `beta` is negative or not
            finite.
    """
    beta = as_positive_scalar("beta", beta, allow_zero=True)
    energies, couplings = as_float_array(energies), as_float_array(couplings)
    if energies.ndim != 1 or couplings.shape != (energies.size, energies.size):
        raise ValueError(
            "energies must have shape (states,) and couplings (states, states), "
            f"got {energies.shape} and {couplings.shape}."
        )
    if not is_traced(energies) and not np.all(np.isfinite(energies)):
        raise ValueError(f"energies must be finite, got {energies}.")
    if not is_traced(couplings):
        w = np.asarray(couplings)
        if not (np.all(np.isfinite(w)) and np.all(w >= 0) and np.allclose(w, w.T)):
            raise ValueError(f"couplings must be finite, symmetric and not negative, got {w}.")
    off_diagonal = couplings * (1 - jnp.eye(energies.size, dtype=couplings.dtype))
    ratio = jnp.exp(-beta * (energies[None, :] - energies[:, None]) / 2)
    return jnp.diag(jnp.sum(off_diagonal * ratio, axis=1)) - off_diagonal
