r"""A search for modes by an annealer: starts for chains, never draws from the posterior.

About an anchor `c` the coordinates are written with `b` bits each, as spins,

    x = c + A s,        A_i,(i,k) = w_i 2^k / (2^b - 1),        s in {-1, +1}^(d b),

a box of half widths `w`. The second-order expansion of `U = -log p` there is an Ising problem,

    E(s) = U(c) + g.A s + s' A' H A s / 2,        g = grad U(c),  H = hess U(c),

whatever the signs of the curvature. `U` itself is evaluated at the reads; the lowest becomes the next anchor.
If none is lower than the anchor, the box is halved, since the expansion holds near the anchor only: this is a
trust region whose steps are taken by an annealer. A descent from each last anchor ends the search.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.infer.initialization import init_to_uniform

from qdesampler.backends import AnnealingBackend, IsingProblem, SimulatedAnnealing
from qdesampler.infer.model.evaluation import value_and_gradient
from qdesampler.infer.model.prior import prior_moments
from qdesampler.infer.model.target import Target
from qdesampler.numerics.lbfgs import run_descent
from qdesampler.numerics.second_derivatives import score_jacobian
from qdesampler.validation import as_positive_int, as_positive_scalar, check_key

__all__ = ["Modes", "find_modes"]

_SMALLEST_BOX = 2.0**-8  # in units of the first box: below, an anchor is not improved any more
_DESCENT_EVALUATIONS = 320  # gradients of one descent, at most
_DESCENT_MEMORY = 16  # steps that a descent's model of the curvature remembers, at most
# Squared distance in the curvature of the higher end, within which two ends are one mode: descents end up to
# 0.1 nats below a mode, so that two ends of one mode are up to (2 sqrt 0.2)^2 = 0.8 apart.
_SAME = 1.0
_RAN_AWAY = 1e12  # absolute value of a coordinate beyond which a descent found no mode
_DEFAULT_SCALE = 2.0  # half width of the first box for a potential, in its unconstrained coordinates


class Modes(NamedTuple):
    """Modes found, the one of largest mass first. The search is not exhaustive: others may exist.

    Attributes:
        z: unconstrained sites, leaves `(modes, *shape)`.
        sites: constrained and deterministic sites, leaves `(modes, *shape)`.
        log_densities: `log p` in unconstrained coordinates, shape `(modes,)`.
        log_masses: `log p + (d/2) log 2 pi - (1/2) log det H`, of the normal law at the mode; infinite where
            `H` is not positive definite, shape `(modes,)`.
        num_evals: evaluations of the log density; a product with its Hessian counts as one, or as four where
            JAX cannot differentiate twice and it is a difference of gradients.
        num_reads: reads of the annealer.
    """

    z: Any
    sites: Any
    log_densities: np.ndarray
    log_masses: np.ndarray
    num_evals: int
    num_reads: int

    def init_params(self, num_chains: int) -> Any:
        """Starts for `MCMC.run(..., init_params=...)`, the modes in turn; leaves `(num_chains, *shape)`.

        Raises:
            ValueError: `num_chains` is not a positive integer.
        """
        turn = np.arange(as_positive_int("num_chains", num_chains)) % len(self.log_densities)
        return jax.tree.map(lambda leaf: leaf[0] if num_chains == 1 else leaf[turn], self.z)


def find_modes(
    model: Callable | None = None,
    potential_fn: Callable | None = None,
    *,
    key: jax.Array,
    backend: AnnealingBackend | None = None,
    model_args: Sequence[Any] = (),
    model_kwargs: Mapping[str, Any] | None = None,
    init_params: Any = None,
    scale: float | None = None,
    num_starts: int = 8,
    num_rounds: int = 12,
    num_bits: int = 3,
    num_reads: int = 16,
    forward_mode_differentiation: bool = False,
) -> Modes:
    r"""Search for modes of a continuous posterior with an annealer.

    Args:
        model: NumPyro model with continuous latent sites. Exactly one of `model`, `potential_fn` is given.
        potential_fn: `z -> U(z)`, scalar, over any pytree; `init_params` is then required.
        key: JAX key.
        backend: any annealer, of any law; None for `SimulatedAnnealing()`.
        model_args: arguments of the model.
        model_kwargs: its keyword arguments.
        init_params: one unconstrained position of the structure that the potential takes.
        scale: first half width of the boxes and spread of the anchors, unconstrained units; None for the
            prior's standard deviations (of a potential: 2).
        num_starts: anchors.
        num_rounds: most boxes of each anchor.
        num_bits: bits of a coordinate.
        num_reads: reads of a box.
        forward_mode_differentiation: differentiate forwards, for models without a reverse derivative.

    Raises:
        TypeError: `backend` is not an annealing backend, or `key` no JAX key.
        ValueError: a number out of range, or no continuous latent site.
        RuntimeError: no anchor has a finite density and curvature, or every search ran away.
    """
    counts = {
        "num_starts": num_starts,
        "num_rounds": num_rounds,
        "num_bits": num_bits,
        "num_reads": num_reads,
    }
    backend = _check_arguments(backend, key, counts)
    arguments, keywords = tuple(model_args), dict(model_kwargs or {})
    forward = forward_mode_differentiation
    target = Target(model, potential_fn, None, init_strategy=init_to_uniform, forward_mode=forward)
    key_start, key_prior, key_anchors, key_reads = jax.random.split(key, 4)
    start = target.start(key_start, init_params, arguments, keywords)
    flat, unravel = ravel_pytree(start.z)
    if flat.size == 0:
        raise ValueError("The model has no continuous latent site: see AnnealerGibbs for discrete ones.")
    potential = target.potential(arguments, keywords)
    centre, width = _box(key_prior, model, arguments, keywords, start.z, scale)
    evaluate = value_and_gradient(lambda x: potential(unravel(x)), forward_mode=forward)
    search = _Search(evaluate, width, num_bits)
    offsets = jax.random.uniform(key_anchors, (num_starts, flat.size), width.dtype, -1, 1)
    anchors = (centre + 2 * width * offsets).at[0].set(flat)
    ends = search.anneal(backend, anchors, key_reads, num_rounds, num_reads)
    points = search.descend(jnp.stack(ends))
    found, log_densities, log_masses = search.modes(points)
    postprocess = target.postprocess(arguments, keywords)
    sites = jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda x: postprocess(unravel(x))))(found))
    z = jax.tree.map(np.asarray, jax.vmap(unravel)(found))
    evals = int(start.num_evals + search.num_evals)
    return Modes(z, sites, log_densities, log_masses, evals, search.num_reads)


def _check_arguments(
    backend: AnnealingBackend | None, key: jax.Array, counts: Mapping[str, int]
) -> AnnealingBackend:
    """Return the backend of `find_modes`, the default for None; refuse arguments of a wrong kind."""
    backend = SimulatedAnnealing() if backend is None else backend
    if not isinstance(backend, AnnealingBackend):
        raise TypeError(f"backend must be an annealing backend, got {type(backend).__name__}.")
    for name, value in counts.items():
        as_positive_int(name, value)
    check_key("key", key)
    return backend


def _box(key, model, arguments, keywords, z, scale) -> tuple[jax.Array, jax.Array]:
    """Middle and half widths of the region that is searched first."""
    flat, _ = ravel_pytree(z)
    if scale is None and model is not None:
        centre, width = prior_moments(key, model, arguments, keywords, z)
        return jnp.asarray(centre, flat.dtype), jnp.broadcast_to(jnp.asarray(width, flat.dtype), flat.shape)
    width = as_positive_scalar("scale", _DEFAULT_SCALE if scale is None else scale)
    return jnp.zeros_like(flat), jnp.full(flat.shape, width, flat.dtype)


class _Search:
    """The functions of one posterior, compiled once, and the counts of their use.

    Attributes:
        num_evals: evaluations of the log density so far.
        num_reads: reads of the annealer so far.
    """

    def __init__(self, evaluate: Callable, width: jax.Array, num_bits: int):
        powers = 2.0 ** np.arange(num_bits) / (2.0**num_bits - 1)
        self.num_evals = self.num_reads = 0
        self._spins = jnp.kron(jnp.diag(width), jnp.asarray(powers, width.dtype))  # A of the first box
        self._values = jax.jit(jax.vmap(lambda x: evaluate(x)[0]))
        self._expansion = jax.jit(partial(_expansion, evaluate, width))
        self._descents = jax.jit(jax.vmap(partial(_descent, evaluate)))

    def anneal(
        self, backend: AnnealingBackend, anchors: jax.Array, key: jax.Array, num_rounds: int, num_reads: int
    ) -> list[jax.Array]:
        """Return the last anchor of the boxes from each of `anchors` whose expansion is finite.

        Raises:
            RuntimeError: none of the expansions is finite.
        """
        ends = []
        for index, anchor in enumerate(anchors):
            end = self._anneal_from(backend, anchor, jax.random.fold_in(key, index), num_rounds, num_reads)
            ends += [] if end is None else [end]
        if not ends:
            raise RuntimeError(
                f"none of {len(anchors)} anchors has a finite density, gradient and curvature; give a "
                "smaller scale, or init_params where they are finite."
            )
        return ends

    def _anneal_from(self, backend, anchor, key, num_rounds: int, num_reads: int) -> jax.Array | None:
        """The last anchor of the boxes from one anchor; None if its expansion is not finite."""
        scale = 1.0
        expansion, best = None, None
        for round_ in range(num_rounds):
            if expansion is None:
                expansion = self._expand(anchor)
                if not all(np.all(np.isfinite(np.asarray(part))) for part in expansion):
                    return best
                best = anchor
            value, gradient, hessian = expansion
            A = scale * self._spins
            coupling = A.T @ hessian @ A
            problem = IsingProblem.from_dense(
                A.T @ gradient, jnp.triu(coupling, 1), value + jnp.trace(coupling) / 2
            )
            found = backend.sample(problem, key=jax.random.fold_in(key, round_), num_reads=num_reads)
            points = anchor + found.states.astype(A.dtype) @ A.T
            values = np.asarray(self._values(points))
            self.num_evals += num_reads
            self.num_reads += num_reads
            lowest = int(np.argmin(np.where(np.isfinite(values), values, np.inf)))
            if values[lowest] < float(value):
                anchor, expansion = points[lowest], None
            else:
                scale /= 2
                if scale < _SMALLEST_BOX:
                    break
        return best

    def _expand(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        *expansion, spent = self._expansion(x)
        self.num_evals += int(spent)
        return tuple(expansion)

    def descend(self, points: jax.Array) -> jax.Array:
        """Return the ends of descents of `U`, shape `(points, dim)`."""
        ends, spent = self._descents(points)
        self.num_evals += int(np.sum(np.asarray(spent)))
        return ends

    def modes(self, points: jax.Array) -> tuple[jax.Array, np.ndarray, np.ndarray]:
        """Return one point for each mode among ends of descents, its log density and its log mass.

        The mode of largest mass is the first.

        Raises:
            RuntimeError: all descents ran away.
        """
        expansions = [self._expand(x) for x in points]
        heights = -np.array([float(value) for value, _, _ in expansions])
        curvatures = [np.asarray(hessian, float) for _, _, hessian in expansions]
        masses = np.array([h + _log_volume(H) for h, H in zip(heights, curvatures, strict=True)])
        usable = np.isfinite(heights) & np.all(np.abs(np.asarray(points)) < _RAN_AWAY, axis=1)
        kept: list[int] = []
        for i in sorted(np.flatnonzero(usable).tolist(), key=lambda i: -heights[i]):
            offsets = [np.asarray(points[i] - points[j], float) for j in kept]
            near = [offset @ curvatures[j] @ offset < _SAME for j, offset in zip(kept, offsets, strict=True)]
            if not any(near):
                kept.append(i)
        if not kept:
            raise RuntimeError(
                "every descent ran away: the posterior has no mode (see QDE's solve), or no bound."
            )
        order = sorted(kept, key=lambda i: -np.nan_to_num(masses[i], posinf=heights[i]))
        return points[np.array(order)], heights[order], masses[order]


def _log_volume(H: np.ndarray) -> float:
    """Log volume of a normal law of precision `H`; infinite where `H` is not positive definite."""
    if not np.all(np.isfinite(H)) or np.linalg.eigvalsh(H)[0] <= 0:
        return np.inf
    return 0.5 * (len(H) * np.log(2 * np.pi) - np.linalg.slogdet(H)[1])


def _expansion(evaluate: Callable, width: jax.Array, x: jax.Array):
    """`U`, its gradient and its Hessian at a point, and the evaluations that they count."""
    value, gradient = evaluate(x)
    hessian, spent = score_jacobian(lambda x: evaluate(x)[1], x, width)
    return value, gradient, hessian, 1 + spent


def _descent(evaluate: Callable, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The end of one descent of `U` and its evaluations."""

    def climbed(x):
        value, gradient = evaluate(x)
        return -value, -gradient

    descent, spent = run_descent(x, climbed, min(x.size + 2, _DESCENT_MEMORY), _DESCENT_EVALUATIONS)
    return descent.position, spent
