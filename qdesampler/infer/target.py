"""What a kernel samples: a NumPyro model, a potential, or a solved ground state, behind one face.

All three give a potential energy over an unconstrained pytree `z`, a start, and a map to what the user asked
for. The potential of a model is rebuilt from the arguments of every call, so that new data are never ignored.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to
from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.infer.util import ParamInfo, initialize_model, transform_fn, unconstrain_fn
from numpyro.util import is_prng_key

__all__ = ["GROUND_STATE_SITE", "Start", "Target", "value_and_gradient"]

GROUND_STATE_SITE = "x"


class Start(NamedTuple):
    """Where chains begin: `z`, its potential energy and gradient, and the evaluations it took (per chain)."""

    z: Any
    potential_energy: jax.Array
    gradient: Any
    num_evals: int


def value_and_gradient(potential: Callable, forward_mode: bool) -> Callable:
    """`z -> (U(z), grad U(z))`, by reverse or forward differentiation, traced once."""
    if not forward_mode:
        return jax.value_and_grad(potential)

    def twice(z):
        value = potential(z)
        return value, value

    def forward(z):
        gradient, value = jax.jacfwd(twice, has_aux=True)(z)
        return value, gradient

    return forward


def is_batched(rng_key: jax.Array) -> bool:
    """Whether this is one key for each of several vectorized chains."""
    return not is_prng_key(rng_key)


def _is_traced(tree: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


class Target:
    """The potential energy of one of the three sources.

    Args:
        model: NumPyro model.
        potential_fn: `z -> U(z)`, a scalar, for any pytree `z`.
        ground_state: an object with `dim`, `log_prob(x)` and `sample(key, shape)`; sampled as the site "x".
        init_strategy: NumPyro's per-site initialisation, for models.
        forward_mode: differentiate forwards.

    Raises:
        ValueError: unless exactly one source is given.
    """

    def __init__(
        self,
        model: Callable | None,
        potential_fn: Callable | None,
        ground_state: Any | None,
        *,
        init_strategy: Callable,
        forward_mode: bool,
    ):
        sources = {"model": model, "potential_fn": potential_fn, "ground_state": ground_state}
        given = [name for name, value in sources.items() if value is not None]
        if len(given) != 1:
            raise ValueError(
                f"Only one of `model`, `potential_fn` or `ground_state` must be specified; "
                f"got {given or 'none'}."
            )
        for name in ("model", "potential_fn"):
            if sources[name] is not None and not callable(sources[name]):
                raise ValueError(f"`{name}` must be callable; got {type(sources[name]).__name__}.")
        self.model = model
        self.potential_fn = potential_fn
        self.ground_state = ground_state
        self.init_strategy = init_strategy
        self.forward_mode = forward_mode
        self.forget()

    def forget(self) -> None:
        """Drop what was learned from the last model trace."""
        self._potential_gen = None
        self._postprocess_gen = None
        self._transforms = None
        self._dynamic_support = False

    # ---- potential and constraints -------------------------------------------------------------------------

    def potential(self, model_args: Sequence = (), model_kwargs: dict | None = None) -> Callable:
        """`z -> U(z)` for these model arguments.

        Raises:
            RuntimeError: for a model before `start` has seen it.
        """
        if self.potential_fn is not None:
            return self.potential_fn
        if self.ground_state is not None:
            log_prob = self.ground_state.log_prob
            return lambda z: -log_prob(z[GROUND_STATE_SITE])
        if self._potential_gen is None:
            raise RuntimeError("The kernel has not seen the model yet: call `init` (or run MCMC) first.")
        return self._potential_gen(*model_args, **(model_kwargs or {}))

    def postprocess(self, model_args: Sequence, model_kwargs: dict | None) -> Callable:
        """`z -> constrained values and deterministic sites`; identity where there is no model."""
        if self._postprocess_gen is None:
            return lambda z: z
        return self._postprocess_gen(*model_args, **(model_kwargs or {}))

    def constrain(
        self, model_args: Sequence, model_kwargs: dict | None, return_deterministic: bool
    ) -> Callable:
        """`z -> constrained values`; replays the model only for deterministic sites or dynamic supports.

        Raises:
            RuntimeError: for a model before `start` has seen it.
        """
        if self.model is None:
            return lambda z: z
        if self._transforms is None:
            raise RuntimeError("The kernel has not seen the model yet: call `init` (or run MCMC) first.")
        if return_deterministic or self._dynamic_support:
            return self.postprocess(model_args, model_kwargs)
        transforms = self._transforms
        return lambda z: transform_fn(transforms, z)

    # ---- start ---------------------------------------------------------------------------------------------

    def start(
        self, rng_key: jax.Array, init_params: Any, model_args: Sequence, model_kwargs: dict | None
    ) -> Start:
        """A valid start for one chain, or for each of a batch of keys.

        Args:
            rng_key: one key, or one for each vectorized chain.
            init_params: unconstrained start (constrained inside NumPyro's `Gibbs`), or None.
            model_args: arguments of the model.
            model_kwargs: keyword arguments of the model.

        Raises:
            ValueError: `init_params` is missing for a potential, or has the wrong sites, shapes or chain
                axis, or the potential energy there is not finite (when it can be known before compilation).
            RuntimeError: the model has discrete sites that cannot be enumerated, or no valid start was found.
        """
        model_kwargs = model_kwargs or {}
        if self.model is not None:
            found = self._start_of_model(rng_key, model_args, model_kwargs)
            if init_params is None:
                return found
            if GIBBS_SITES_KWARG in model_kwargs:
                init_params = self._unconstrain(init_params, model_args, model_kwargs)
            if isinstance(init_params, ParamInfo):
                return Start(init_params.z, init_params.potential_energy, init_params.z_grad, 1)
            prototype, spent = found.z, found.num_evals
        elif self.ground_state is not None:
            prototype, spent = self._draw_ground_state(rng_key), 0
        else:
            prototype, spent = None, 0
        if init_params is None:
            if prototype is None:
                raise ValueError(
                    "Valid value of `init_params` must be provided with `potential_fn`: pass "
                    "mcmc.run(key, init_params=...) a start of the pytree that the potential "
                    "takes (with a leading axis of num_chains when there are several chains)."
                )
            init_params = prototype
        z = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x, jnp.float32)), init_params)
        if prototype is not None:
            _check_structure(z, prototype)
        return self._evaluate(rng_key, z, model_args, model_kwargs, spent + 1)

    def _start_of_model(self, rng_key, model_args, model_kwargs) -> Start:
        try:
            info = initialize_model(
                rng_key,
                self.model,
                init_strategy=self.init_strategy,
                dynamic_args=True,
                model_args=tuple(model_args),
                model_kwargs=model_kwargs,
                forward_mode_differentiation=self.forward_mode,
            )
        except RuntimeError as error:
            if "discrete sites" not in str(error):
                raise
            raise RuntimeError(
                f"{error} QDE moves continuous sites only: update the discrete ones in a block of their "
                "own, as in numpyro.infer.Gibbs([(DiscreteGibbs(model), ['site']), (QDE(model), None)])."
            ) from error
        self._potential_gen, self._postprocess_gen = info.potential_fn, info.postprocess_fn
        latent = {
            name: site["fn"].support
            for name, site in info.model_trace.items()
            if site["type"] == "sample" and not site["is_observed"] and not site["fn"].support.is_discrete
        }
        self._transforms = {name: biject_to(support) for name, support in latent.items()}
        for name, site in info.model_trace.items():
            if site["type"] == "param" and "constraint" in site["kwargs"]:
                self._transforms[name] = biject_to(site["kwargs"]["constraint"])
        # A bound that is an array may depend on other sites: only a replay of the model knows.
        self._dynamic_support = any(not _is_static(support) for support in latent.values())
        return Start(info.param_info.z, info.param_info.potential_energy, info.param_info.z_grad, 1)

    def _unconstrain(self, values, model_args, model_kwargs):
        if self._dynamic_support:
            return unconstrain_fn(self.model, tuple(model_args), model_kwargs, values)
        return transform_fn({name: self._transforms[name] for name in values}, values, invert=True)

    def _draw_ground_state(self, rng_key):
        draw = self.ground_state.sample
        return {GROUND_STATE_SITE: jax.vmap(draw)(rng_key) if is_batched(rng_key) else draw(rng_key)}

    def _evaluate(self, rng_key, z, model_args, model_kwargs, num_evals) -> Start:
        evaluate = value_and_gradient(self.potential(model_args, model_kwargs), self.forward_mode)
        if not jax.tree.leaves(z):
            shape = rng_key.shape[:1] if is_batched(rng_key) else ()
            return Start(z, jnp.zeros(shape), z, 0)
        if is_batched(rng_key):
            chains = rng_key.shape[0]
            lengths = {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in jax.tree.leaves(z)}
            if lengths != {chains}:
                raise ValueError(
                    f"`init_params` has leading axes {sorted(map(str, lengths))}; expected "
                    f"{chains}, one start for each chain."
                )
            evaluate = jax.vmap(evaluate)
        energy, gradient = evaluate(z)
        expected = (rng_key.shape[0],) if is_batched(rng_key) else ()
        if jnp.shape(energy) != expected:
            one = jnp.shape(energy)[len(expected) :]
            raise ValueError(
                f"The potential must return a scalar; it returned shape {one}. Sum over its terms."
            )
        if not _is_traced((energy, gradient)):
            finite = np.isfinite(np.asarray(energy))
            for leaf in jax.tree.leaves(gradient):
                axes = tuple(range(len(expected), np.ndim(leaf)))
                finite &= np.all(np.isfinite(np.asarray(leaf)), axis=axes)
            if not np.all(finite):
                where = f"chains {np.flatnonzero(~finite).tolist()}" if expected else "the start"
                raise ValueError(
                    f"The potential energy or its gradient is not finite at `init_params` of {where} (energy "
                    f"{np.asarray(energy)}). Start inside the support, and check the model for NaN there."
                )
        return Start(z, energy, gradient, num_evals)


def _is_static(support: Any) -> bool:
    return all(isinstance(leaf, (int, float, np.number)) for leaf in jax.tree.leaves(support))


def _check_structure(z: Any, prototype: Any) -> None:
    """Compare a start with what the model needs, site by site."""
    if isinstance(prototype, dict) and isinstance(z, dict) and set(z) != set(prototype):
        missing, unknown = sorted(set(prototype) - set(z)), sorted(set(z) - set(prototype))
        raise ValueError(
            f"`init_params` has sites {sorted(z)}; the model's latent sites are {sorted(prototype)} "
            f"(missing {missing}, unknown {unknown})."
        )
    given, expected = jax.tree.structure(z), jax.tree.structure(prototype)
    if given != expected:
        raise ValueError(f"`init_params` has structure {given}; expected {expected}.")
    for (path, leaf), wanted in zip(jax.tree.leaves_with_path(z), jax.tree.leaves(prototype), strict=True):
        if jnp.shape(leaf) != jnp.shape(wanted):
            raise ValueError(
                f"`init_params`{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}; expected "
                f"{jnp.shape(wanted)} in unconstrained space (vectorized chains: a leading axis of num_chains)."
            )
