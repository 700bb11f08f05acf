r"""The flow state `psi = sqrt(q)`: a Gaussian, bent by a bijection."""

import dataclasses

import jax

from qdesampler.numerics.metric import to_position, whiten
from qdesampler.solvers.flow.network import Network, forward, inverse
from qdesampler.solvers.gaussian.wavefunction import GaussianWavefunction, log_gaussian

__all__ = ["FlowWavefunction"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FlowWavefunction:
    r"""`psi = sqrt(q)` with `q` the law of `x = mu + L T(u)`, `u ~ N(0, I)`.

        log q(x) = log N(T^-1(y); 0, I) + log |det dT^-1/dy| - log |det L|,      y = L^-1 (x - mu).

    Attributes:
        gaussian: the Gaussian state that the flow started from, which gives `mu` and `L`.
        numbers: parameters and permutations of `T`.
        form: what `T` is apart from its numbers.
    """

    gaussian: GaussianWavefunction
    numbers: tuple[jax.Array, ...]
    form: Network = dataclasses.field(metadata={"static": True})

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.gaussian.dim

    @property
    def support(self) -> None:
        """All space."""
        return None

    def log_psi(self, x: jax.Array) -> jax.Array:
        """Return `log psi(x) = log q(x) / 2`, a scalar, at one point of shape `(dim,)`."""
        return 0.5 * self.pull(x)[1]

    def pull(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return `u = T^-1(L^-1 (x - mu))`, shape `(dim,)`, and `log q(x)`."""
        metric = self.gaussian.metric
        u, volume = inverse(self.numbers, self.form, whiten(metric, x - self.gaussian.centre))
        return u, log_gaussian(metric, u) + volume

    def sample(self, key: jax.Array) -> jax.Array:
        """Return one exact draw from `psi^2 = q`, shape `(dim,)`."""
        return self.push(jax.random.normal(key, self.gaussian.centre.shape, self.gaussian.centre.dtype))[0]

    def push(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return `x = mu + L T(u)`, shape `(dim,)`, and `log q(x)`, for `u ~ N(0, I)`."""
        y, volume = forward(self.numbers, self.form, u)
        metric = self.gaussian.metric
        return self.gaussian.centre + to_position(metric, y), log_gaussian(metric, u) - volume
