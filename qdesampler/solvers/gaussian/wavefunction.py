r"""The Gaussian state `psi = sqrt(N(centre, L L^T))`."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from qdesampler.equation.hamiltonian import Hamiltonian
from qdesampler.numerics.metric import Metric, dense_matrix, to_position, whiten

__all__ = ["GaussianWavefunction", "kinetic_energy", "log_gaussian", "precision_factor"]


def log_gaussian(metric: Metric, whitened: jax.Array) -> jax.Array:
    """`log N(x; centre, L L^T)`, a scalar, at the point whose whitened coordinates these are."""
    volume = jnp.sum(jnp.log(metric.scale)) + jnp.sum(jnp.log(metric.stretch))
    return -0.5 * (whitened @ whitened + whitened.size * math.log(2 * math.pi)) - volume


def precision_factor(metric: Metric, vector: jax.Array) -> jax.Array:
    """`L^-T v`, shape `(dim,)`: a gradient in whitened coordinates as a gradient in position."""
    along = metric.basis @ ((1 / metric.stretch - 1) * (metric.basis.T @ vector))
    return (vector + along) / metric.scale


def kinetic_energy(hamiltonian: Hamiltonian, metric: Metric) -> jax.Array:
    """`(D/4) tr Sigma^-1`, a scalar: the energy scale of the trial."""
    inverse = 1 + metric.basis**2 @ (1 / metric.stretch**2 - 1)
    return 0.25 * hamiltonian.diffusion * jnp.sum(inverse / metric.scale**2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GaussianWavefunction:
    """`psi = sqrt(q)` with `q = N(centre, Sigma)`.

    Attributes:
        centre: mean of `q`, shape `(dim,)`.
        metric: factor `L` of its covariance, `Sigma = L L^T`.
    """

    centre: jax.Array
    metric: Metric

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.centre.shape[-1]

    @property
    def support(self) -> None:
        """All space."""
        return None

    @property
    def covariance(self) -> jax.Array:
        """`Sigma`, shape `(dim, dim)`."""
        return dense_matrix(self.metric)

    def log_psi(self, x: jax.Array) -> jax.Array:
        """Return `log psi(x) = log q(x) / 2`, a scalar, at one point of shape `(dim,)`."""
        return 0.5 * log_gaussian(self.metric, whiten(self.metric, x - self.centre))

    def sample(self, key: jax.Array) -> jax.Array:
        """Return one exact draw from `psi^2 = q`, shape `(dim,)`."""
        return self.centre + to_position(
            self.metric, jax.random.normal(key, self.centre.shape, self.centre.dtype)
        )
