"""A solved trial state as an automatic guide: stochastic variational inference starts near its end."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from numpyro.distributions import constraints
from numpyro.distributions.transforms import ComposeTransform, LowerCholeskyAffine, Transform
from numpyro.infer.autoguide import AutoContinuous
from numpyro.infer.initialization import init_to_uniform

from qdesampler.equation import Hamiltonian
from qdesampler.numerics.metric import to_position
from qdesampler.solvers import GaussianTrial, GaussianWavefunction, GroundState, Solver, ground_state
from qdesampler.solvers.flow.wavefunction import FlowWavefunction
from qdesampler.validation import is_traced

__all__ = ["AutoGroundState"]

_DRAWS = 8192  # draws that the quantiles of a flow are computed from


class _FlowTransform(Transform):
    """`x = mu + L T(u)`, the map of a flow state, over the last axis."""

    @property
    def domain(self) -> constraints.Constraint:
        """Vectors."""
        return constraints.real_vector

    codomain = domain

    def __init__(self, psi: FlowWavefunction):
        self.psi = psi

    def __call__(self, x):
        return jnp.vectorize(lambda u: self.psi.push(u)[0], signature="(d)->(d)")(x)

    def _inverse(self, y):
        return jnp.vectorize(lambda x: self.psi.pull(x)[0], signature="(d)->(d)")(y)

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        def volume(u):
            return dist.Normal(0, 1).log_prob(u).sum() - self.psi.push(u)[1]

        return jnp.vectorize(volume, signature="(d)->()")(x)

    def tree_flatten(self):
        """Children and names, as NumPyro's transforms have them."""
        return (self.psi,), (("psi",), {})


class AutoGroundState(AutoContinuous):
    r"""The guide `q = psi^2`, `psi` the trial state that a solver found for the model's posterior.

        guide = AutoGroundState(model)
        svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
        state = svi.init(rng_key, data)                         # solves here
        params = svi.get_params(state)                          # the solved trial
        Predictive(model, guide=guide, params=params, num_samples=1000)(rng_key, data)

    The first call with data solves for the ground state of the posterior's Hamiltonian in unconstrained
    coordinates, so that the loss starts near its bound; steps of SVI, if any, refine it towards the highest
    evidence lower bound. Call `svi.init` or `svi.run` for that, not under `jit`.

    The guide is also a way to sample: in the coordinates of its base a posterior that no Gaussian fits is
    nearly round, and QDE's moves, the global ones included, stay exact there,

        neutra = numpyro.infer.reparam.NeuTraReparam(guide, params)
        MCMC(QDE(neutra.reparam(model)), ...)

    (Hoffman et al. 2019, arXiv:1903.03704). `guide.ground_state.diagnostics["pays"]` says whether a flow is
    worth it, `["evaluations"]` how many evaluations it took; QDE does not count these.

    Parameters of a Gaussian are `{prefix}_loc`, shape `(dim,)`, and `{prefix}_scale_tril`, shape `(dim, dim)`
    (`{prefix}_scale`, shape `(dim,)`, where the solver is `GaussianTrial(kind="diagonal")`); of a flow
    `{prefix}_flow`, its numbers as one vector, while the Gaussian it started from stays.

    Args:
        model: NumPyro model with continuous latent sites.
        solver: `GaussianTrial`, `FlowTrial`, or another solver with a Gaussian or flow state; `None`:
            `GaussianTrial()`.
        prefix: of all names of parameters.
        init_loc_fn: NumPyro's per-site start, of the model's first trace.

    Attributes:
        ground_state: what the solver found; `None` before the first call.

    Raises:
        TypeError: `solver` is not a solver, or its state is neither Gaussian nor a flow.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        solver: Solver | None = None,
        *,
        prefix: str = "auto",
        init_loc_fn: Callable = init_to_uniform,
    ):
        if not callable(model):
            raise TypeError(f"model must be a NumPyro model, got {model!r} of type {type(model).__name__}.")
        solver = GaussianTrial() if solver is None else solver
        if isinstance(solver, type) or not isinstance(solver, Solver):
            raise TypeError(
                f"solver must be an object such as GaussianTrial() or FlowTrial(), got {solver!r} of type "
                f"{type(solver).__name__}."
            )
        self.solver = solver
        self.ground_state: GroundState | None = None
        super().__init__(model, prefix=prefix, init_loc_fn=init_loc_fn)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        key = numpyro.prng_key()
        super()._setup_prototype(*args, **kwargs)
        try:
            if is_traced(key):
                raise ValueError(
                    "AutoGroundState solves on its first call, which cannot be under jit or vmap: call "
                    "svi.init(rng_key, ...) outside of them first."
                )
            potential, unpack = self._potential_fn, self._unpack_latent
            with numpyro.handlers.block():  # the caller's handlers must not see the sites of these runs
                hamiltonian = Hamiltonian.from_log_density(
                    lambda x: -potential(unpack(x)), dim=self.latent_dim
                )
                self.ground_state = ground_state(hamiltonian, self.solver, key=key)
            self._prepare(self.ground_state.wavefunction)
        except BaseException:
            self.prototype_trace: None = None  # the next call solves again
            raise

    def _prepare(self, psi: Any) -> None:
        """Set the values that `_get_posterior` starts its parameters from."""
        if isinstance(psi, FlowWavefunction):
            self._init_latent = psi.gaussian.centre
        elif isinstance(psi, GaussianWavefunction):
            self._init_latent, metric = psi.centre, psi.metric
            self._diagonal = metric.basis.shape[1] == 0
            self._init_scale = metric.scale
            if not self._diagonal:
                # Sigma = L L^T and L^T = Q R, so R^T is its Cholesky factor; no product is formed.
                columns = jax.vmap(lambda v: to_position(metric, v))(jnp.eye(psi.dim, dtype=psi.centre.dtype))
                upper = jnp.linalg.qr(columns, mode="r")
                self._init_scale = (upper * jnp.sign(jnp.diagonal(upper))[:, None]).T
        else:
            raise TypeError(
                f"the state of {type(self.solver).__name__} is a {type(psi).__name__}; a guide needs that of "
                "GaussianTrial or FlowTrial."
            )

    def _state(self) -> Any:
        if self.ground_state is None:
            raise ValueError("AutoGroundState has not been solved: call svi.init(rng_key, ...) first.")
        return self.ground_state.wavefunction

    def _get_posterior(self) -> dist.Distribution:
        psi = self._state()
        if isinstance(psi, FlowWavefunction):
            free = numpyro.param(f"{self.prefix}_flow", _real_numbers(psi))
            return dist.TransformedDistribution(self.get_base_dist(), _FlowTransform(_with(psi, free)))
        loc = numpyro.param(f"{self.prefix}_loc", self._init_latent)
        if self._diagonal:
            scale = numpyro.param(
                f"{self.prefix}_scale", self._init_scale, constraint=constraints.softplus_positive
            )
            return dist.Normal(loc, scale).to_event(1)
        scale_tril = numpyro.param(
            f"{self.prefix}_scale_tril",
            self._init_scale,
            constraint=constraints.scaled_unit_lower_cholesky,
        )
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)

    def get_base_dist(self) -> dist.Distribution:
        """`N(0, I)`."""
        return dist.Normal(jnp.zeros(self.latent_dim), 1).to_event(1)

    def get_transform(self, params: dict[str, Any]) -> Transform:
        """The map from `N(0, I)` to the guide's law over unconstrained vectors.

        Raises:
            ValueError: the guide has not been solved.
        """
        psi = self._state()
        if isinstance(psi, FlowWavefunction):
            return _FlowTransform(_with(psi, params[f"{self.prefix}_flow"]))
        loc = params[f"{self.prefix}_loc"]
        if self._diagonal:
            return ComposeTransform(
                [
                    dist.transforms.IndependentTransform(
                        dist.transforms.AffineTransform(loc, params[f"{self.prefix}_scale"]), 1
                    )
                ]
            )
        return LowerCholeskyAffine(loc, params[f"{self.prefix}_scale_tril"])

    def median(self, params: dict[str, Any]) -> dict[str, Any]:
        """Median of every coordinate of the guide, as sites; of a flow from 8192 fixed draws.

        Raises:
            ValueError: the guide has not been solved.
        """
        return jax.tree.map(lambda leaf: leaf[0], self.quantiles(params, [0.5]))

    def quantiles(self, params: dict[str, Any], quantiles: Any) -> dict[str, Any]:
        """Quantiles of every unconstrained coordinate of the guide, as sites with a leading axis for them.

        A Gaussian's are exact, a flow's are those of 8192 draws from a fixed key.

        Raises:
            ValueError: the guide has not been solved.
        """
        levels = jnp.asarray(quantiles, jnp.result_type(float))
        if isinstance(self._state(), FlowWavefunction):
            base = jax.random.normal(jax.random.key(0), (_DRAWS, self.latent_dim))
            latent = jnp.quantile(self.get_transform(params)(base), levels, axis=0)
        else:
            loc = params[f"{self.prefix}_loc"]
            if self._diagonal:
                scale = params[f"{self.prefix}_scale"]
            else:
                scale = jnp.linalg.norm(params[f"{self.prefix}_scale_tril"], axis=-1)
            latent = dist.Normal(loc, scale).icdf(levels[..., None])
        return self._unpack_and_constrain(latent, params)


def _is_real(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _real_numbers(psi: FlowWavefunction) -> jax.Array:
    return ravel_pytree([leaf for leaf in psi.numbers if _is_real(leaf)])[0]


def _with(psi: FlowWavefunction, flat: Any) -> FlowWavefunction:
    """The flow with these real numbers instead of its own; permutations do not change."""
    rest = iter(ravel_pytree([leaf for leaf in psi.numbers if _is_real(leaf)])[1](jnp.asarray(flat)))
    return dataclasses.replace(
        psi, numbers=tuple(next(rest) if _is_real(leaf) else leaf for leaf in psi.numbers)
    )
