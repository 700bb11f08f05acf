"""The Hamiltonian `H = -D lap + V` of the quantum dynamic equation.

In imaginary time `tau = i t` the quantum dynamic equation reads

    d psi / d tau = D lap psi - V psi = -H psi,

and `exp(-H tau)` damps every state but the lowest. Two Hamiltonians share this class, distinguished
by `kind`:

* `"boltzmann"`, from a log density: `V = D (|grad U|^2 / 4 - lap U / 2)` with `U = -log p`. The ground state
  is `sqrt(p)` and its energy is 0, for every `D` (proved in `qdesampler.equation.fokker_planck`).
* `"objective"`, from an objective `zeta`: `V = zeta`. The squared ground state is a density of its own, which
  gathers on the minima of `zeta` as `D -> 0`; it is not `exp(-zeta)`.

References:
    Wang and Maimaitiniyazi, "Quantum dynamics of machine learning", arXiv:2407.19890 (2024): the equation.
    Risken, "The Fokker-Planck Equation" (1989), section 5.4: the Boltzmann potential.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from qdesampler.equation.laplacian import (
    ScalarFunction,
    estimate_gradient_and_laplacian,
    gradient_and_laplacian,
)
from qdesampler.validation import (
    as_point,
    as_positive_int,
    as_positive_scalar,
    check_scalar_function,
)

Kind = Literal["boltzmann", "objective"]
_GradientAndLaplacian = Callable[[ScalarFunction, jax.Array], tuple[jax.Array, jax.Array]]


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Hamiltonian:
    """`H psi = -D lap psi + V psi` on the space of points of shape `(dim,)`. Immutable.

    Build one with `from_log_density` or `from_objective`. It is a JAX pytree: the diffusion coefficient is a
    leaf, so a Hamiltonian may cross `jit`, `vmap` and `grad` while `D` is lowered. A plain function is static
    (compared by identity); a function that is itself a pytree, such as `jax.tree_util.Partial(log_density,
    data)`, contributes its arrays as leaves, so that new data does not compile again.

    Attributes:
        function: `log p` (kind `"boltzmann"`) or `zeta` (kind `"objective"`), a function of one point.
        dim: number of coordinates.
        diffusion: diffusion coefficient `D > 0` (`hbar^2 / 2m` in quantum mechanics), an energy times a
            squared length.
        kind: `"boltzmann"` or `"objective"`.
    """

    function: ScalarFunction
    dim: int
    diffusion: float | jax.Array
    kind: Kind

    def __post_init__(self) -> None:
        if self.kind not in ("boltzmann", "objective"):
            raise ValueError(f"kind must be 'boltzmann' or 'objective', got {self.kind!r}.")
        object.__setattr__(self, "dim", as_positive_int("dim", self.dim))
        object.__setattr__(self, "diffusion", as_positive_scalar("diffusion", self.diffusion))
        check_scalar_function("log_p" if self.kind == "boltzmann" else "zeta", self.function, self.dim)

    @classmethod
    def from_log_density(cls, log_p: ScalarFunction, *, dim: int, diffusion: ArrayLike = 1.0) -> Self:
        """Return the Boltzmann Hamiltonian, whose ground state is `sqrt(p)` with energy 0.

            V = D (|grad U|^2 / 4 - lap U / 2),    U = -log p.

        Args:
            log_p: log density of one point of shape `(dim,)`, up to a constant; twice differentiable.
            dim: number of coordinates.
            diffusion: `D > 0`; it scales every energy and does not change the states.

        Raises:
            TypeError: `log_p` is no function or returns no real number; `dim` or `diffusion` has a wrong
                type.
            ValueError: `log_p` returns an array; `dim < 1`; `diffusion` is not positive and finite.
        """
        return cls(log_p, dim, as_positive_scalar("diffusion", diffusion), "boltzmann")

    @classmethod
    def from_objective(cls, zeta: ScalarFunction, *, dim: int, diffusion: ArrayLike = 1.0) -> Self:
        """Return the Hamiltonian whose potential is the objective itself, `V = zeta`.

        Args:
            zeta: objective of one point of shape `(dim,)`, an energy.
            dim: number of coordinates.
            diffusion: `D > 0`.

        Raises:
            TypeError: `zeta` is no function or returns no real number; `dim` or `diffusion` has a wrong type.
            ValueError: `zeta` returns an array; `dim < 1`; `diffusion` is not positive and finite.
        """
        return cls(zeta, dim, as_positive_scalar("diffusion", diffusion), "objective")

    def with_diffusion(self, diffusion: ArrayLike) -> Self:
        """Return the same Hamiltonian at another `D`, as the outer loop of quantum annealing needs it.

        Raises:
            TypeError: `diffusion` is not a real number.
            ValueError: `diffusion` is not positive and finite.
        """
        return dataclasses.replace(self, diffusion=as_positive_scalar("diffusion", diffusion))

    @property
    def log_density(self) -> ScalarFunction | None:
        """`log p` of a Boltzmann Hamiltonian; `None` for an objective."""
        return self.function if self.kind == "boltzmann" else None

    def potential(self, x: ArrayLike) -> jax.Array:
        """Return `V(x)`, a scalar, at one point of shape `(dim,)`.

        For a Boltzmann Hamiltonian the Laplacian is exact and costs `dim` Hessian-vector products.

        Raises:
            ValueError: `x` has another shape than `(dim,)`.
        """
        return self._potential(as_point("x", x, self.dim), gradient_and_laplacian)

    def estimate_potential(self, x: ArrayLike, *, key: jax.Array, num_probes: int = 1) -> jax.Array:
        """Return an unbiased estimate of `V(x)`, its Laplacian taken from `num_probes` Rademacher probes.

        The variance is `D^2 / (2 K) sum_{i != j} (d_i d_j U)^2` with `K = num_probes`; an objective is
        returned exactly.

        Raises:
            TypeError: `num_probes` is not an integer.
            ValueError: `num_probes < 1`, or `x` has another shape than `(dim,)`.
        """
        return self._potential(as_point("x", x, self.dim), _probing(key, num_probes))

    def local_energy(self, log_psi: ScalarFunction, x: ArrayLike) -> jax.Array:
        """Return the local energy of the state `psi = exp(log_psi)`, a scalar, at one point.

            E_L = (H psi) / psi = -D (lap log psi + |grad log psi|^2) + V.

        It is constant, equal to the energy, exactly where `psi` is an eigenstate. For a Boltzmann Hamiltonian
        it is computed from the log ratio to the ground state, `g = log psi - log p / 2`, as the equal
        expression

            E_L = -D (lap g + |grad g|^2 + grad g . grad log p),

        whose terms vanish one by one as `psi` approaches `sqrt(p)`, instead of cancelling.

        Args:
            log_psi: log of the state at one point, up to a constant; twice differentiable.
            x: the point, shape `(dim,)`.

        Raises:
            ValueError: `x` has another shape than `(dim,)`.
        """
        return self._local_energy(log_psi, as_point("x", x, self.dim), gradient_and_laplacian)

    def estimate_local_energy(
        self, log_psi: ScalarFunction, x: ArrayLike, *, key: jax.Array, num_probes: int = 1
    ) -> jax.Array:
        """Return an unbiased estimate of `local_energy` from `num_probes` Rademacher probes, for large `dim`.

        The variance is `(2 D^2 / K) sum_{i != j} (d_i d_j g)^2` with `K = num_probes`, and `g = log psi - log
        p / 2` (Boltzmann) or `g = log psi` (objective): for a Boltzmann Hamiltonian it vanishes at the ground
        state.

        Raises:
            TypeError: `num_probes` is not an integer.
            ValueError: `num_probes < 1`, or `x` has another shape than `(dim,)`.
        """
        return self._local_energy(log_psi, as_point("x", x, self.dim), _probing(key, num_probes))

    def apply(self, psi: ScalarFunction, x: ArrayLike) -> jax.Array:
        """Return `(H psi)(x) = -D (lap psi)(x) + V(x) psi(x)`, a scalar, for a state of any sign.

        Raises:
            ValueError: `x` has another shape than `(dim,)`.
        """
        x = as_point("x", x, self.dim)
        _, laplacian = gradient_and_laplacian(psi, x)
        return -self.diffusion * laplacian + self.potential(x) * psi(x)

    def _potential(self, x: jax.Array, derivatives: _GradientAndLaplacian) -> jax.Array:
        if self.kind == "objective":
            return jnp.asarray(self.function(x))
        gradient, laplacian = derivatives(self.function, x)  # of log p = -U
        return self.diffusion * (gradient @ gradient / 4 + laplacian / 2)

    def _local_energy(
        self, log_psi: ScalarFunction, x: jax.Array, derivatives: _GradientAndLaplacian
    ) -> jax.Array:
        if self.kind == "objective":
            gradient, laplacian = derivatives(log_psi, x)
            return self.function(x) - self.diffusion * (laplacian + gradient @ gradient)
        gradient, laplacian = derivatives(lambda y: log_psi(y) - self.function(y) / 2, x)
        return -self.diffusion * (laplacian + gradient @ (gradient + jax.grad(self.function)(x)))

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return f"Hamiltonian(kind={self.kind!r}, dim={self.dim}, diffusion={self.diffusion}, function={name})"

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Split into leaves and static parts, as JAX asks: see the class."""
        if jax.tree_util.all_leaves([self.function]):
            return (self.diffusion,), (self.dim, self.kind, self.function)
        return (self.diffusion, self.function), (self.dim, self.kind, None)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], leaves: tuple[Any, ...]) -> Self:
        """Rebuild from leaves and static parts; JAX may pass placeholders, so nothing is checked."""
        dim, kind, function = static
        self = object.__new__(cls)
        object.__setattr__(self, "function", leaves[1] if function is None else function)
        object.__setattr__(self, "dim", dim)
        object.__setattr__(self, "diffusion", leaves[0])
        object.__setattr__(self, "kind", kind)
        return self


def _probing(key: jax.Array, num_probes: int) -> _GradientAndLaplacian:
    return lambda f, x: estimate_gradient_and_laplacian(f, x, key, num_probes)
