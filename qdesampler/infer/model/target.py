"""What a kernel samples: a NumPyro model, a potential, or a solved ground state, with one interface.

All three have a potential energy over an unconstrained pytree `z`, a start, and a map to the user's values.
The potential of a model is built from the arguments of every call, so that new data are never ignored.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.infer.gibbs import GIBBS_SITES_KWARG
from numpyro.infer.initialization import init_to_uniform
from numpyro.infer.util import ParamInfo, initialize_model

from qdesampler.infer.model.evaluation import (
    is_batched,
    missing_reverse_mode_explained,
    value_and_gradient,
)
from qdesampler.infer.model.start_checks import check_plates, check_scalar, check_structure, finite_chains
from qdesampler.infer.model.supports import depends_on_siblings, latent_sites
from qdesampler.infer.model.traced_model import TracedModel

__all__ = ["GROUND_STATE_SITE", "StartingPoint", "Target"]

GROUND_STATE_SITE = "x"


class StartingPoint(NamedTuple):
    """Where chains begin, for one chain or a batch.

    Attributes:
        z: unconstrained position.
        potential_energy: `U(z)`.
        gradient: `grad U(z)`.
        num_evals: evaluations of each chain.
    """

    z: Any
    potential_energy: jax.Array
    gradient: Any
    num_evals: int


class Target:
    """The potential energy of one of the three sources.

    Args:
        model: NumPyro model.
        potential_fn: `z -> U(z)`, a scalar, for any pytree `z`.
        ground_state: an object with `dim`, `log_prob(x)` and `sample(key)`; sampled as the site "x".
        init_strategy: NumPyro's per-site initialisation, for models.
        forward_mode: differentiate forwards.

    Raises:
        ValueError: unless exactly one source is given, and of the right kind.
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
        if not callable(init_strategy):
            raise ValueError(f"`init_strategy` must be callable; got {type(init_strategy).__name__}.")
        if ground_state is not None:
            missing = [name for name in ("dim", "log_prob", "sample") if not hasattr(ground_state, name)]
            if missing:
                raise ValueError(
                    f"`ground_state` must be a solved GroundState; got {type(ground_state).__name__}, "
                    f"without {missing}. Solve first: ground_state(hamiltonian, solver)."
                )
        self.model = model
        self.potential_fn = potential_fn
        self.ground_state = ground_state
        self.init_strategy = init_strategy
        self.forward_mode = forward_mode
        self._traced: TracedModel | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the potential can be built; a model has to be traced once before, by `start`."""
        return self.model is None or self._traced is not None

    @property
    def starts_anywhere(self) -> bool:
        """Whether chains may start anywhere: NumPyro's default, uniform in a box."""
        return self.model is not None and self.init_strategy is init_to_uniform

    def rebound(self, model: Callable) -> "Target":
        """A copy for another model, which has not been traced."""
        target = copy.copy(self)
        target.model = model
        return target

    def __getstate__(self) -> dict[str, Any]:
        """State for copies and pickles, without what is read from a trace of the model."""
        return {**self.__dict__, "_traced": None}

    # ---- potential and constraints -------------------------------------------------------------------------

    def _known_model(self) -> TracedModel:
        if self._traced is None:
            raise RuntimeError("The kernel has not seen the model yet: call `init` (or run MCMC) first.")
        return self._traced

    def potential(
        self, model_args: Sequence[Any] = (), model_kwargs: dict[str, Any] | None = None
    ) -> Callable:
        """`z -> U(z)` for these model arguments.

        Raises:
            RuntimeError: for a model before `start` has traced it.
        """
        if self.potential_fn is not None:
            return self.potential_fn
        if self.ground_state is not None:
            log_prob = self.ground_state.log_prob
            return lambda z: -log_prob(z[GROUND_STATE_SITE])
        return self._known_model().potential(model_args, model_kwargs or {})

    def postprocess(self, model_args: Sequence[Any], model_kwargs: dict[str, Any] | None) -> Callable:
        """`z -> constrained values and deterministic sites`; identity without a model.

        Raises:
            RuntimeError: for a model before `start` has traced it.
        """
        if self.model is None:
            return lambda z: z
        return self._known_model().postprocess(model_args, model_kwargs or {})

    def constrain(
        self, model_args: Sequence[Any], model_kwargs: dict[str, Any] | None, *, return_deterministic: bool
    ) -> Callable:
        """`z -> constrained values`; replays the model only for deterministic sites or supports that move.

        Raises:
            RuntimeError: for a model before `start` has traced it.
        """
        if self.model is None or return_deterministic:
            return self.postprocess(model_args, model_kwargs)
        return self._known_model().constrain(model_args, model_kwargs or {})

    def centering(self, model_kwargs: dict[str, Any] | None) -> Any:
        """The model's location-scale sites that moves may re-centre, or None; never inside `Gibbs`."""
        if self._traced is None or GIBBS_SITES_KWARG in (model_kwargs or {}):
            return None
        return self._traced.centering

    def standard_widths(self, model_args: Sequence, model_kwargs: dict | None) -> dict[str, np.ndarray]:
        """Widths of sites with a normal prior around 0 that no other site changes; never inside `Gibbs`."""
        if self._traced is None or GIBBS_SITES_KWARG in (model_kwargs or {}):
            return {}
        return self._traced.standard_widths(model_args, model_kwargs or {})

    # ---- start ---------------------------------------------------------------------------------------------

    def start(
        self,
        rng_key: jax.Array,
        init_params: Any,
        model_args: Sequence[Any],
        model_kwargs: dict[str, Any] | None,
    ) -> StartingPoint:
        """A valid start for one chain, or for each of a batch of keys.

        Inside NumPyro's `Gibbs` the values given are constrained, and draws from the prior unless the user
        chose them. If they have no finite density, the start found by `init_strategy` replaces them, with a
        warning.

        Args:
            rng_key: one key, or one for each vectorized chain.
            init_params: unconstrained start (constrained inside NumPyro's `Gibbs`), or None.
            model_args: arguments of the model.
            model_kwargs: keyword arguments of the model.

        Raises:
            ValueError: `init_params` is missing for a potential, or has the wrong sites, shapes or chain
                axis, or the potential energy there is not finite (when it can be known before compilation),
                or the potential is no scalar; or a plate of the model is subsampled.
            RuntimeError: the model has discrete sites that cannot be enumerated, or no valid start was found.
        """
        model_kwargs = model_kwargs or {}
        if isinstance(init_params, ParamInfo):
            init_params = init_params.z
        if self.model is not None:
            found = self._start_of_model(rng_key, model_args, model_kwargs)
            if init_params is None:
                return found
            if GIBBS_SITES_KWARG in model_kwargs:
                return self._start_in_gibbs(rng_key, found, init_params, model_args, model_kwargs)
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
        z = _as_floats(init_params)
        check_structure(z, prototype, rng_key.shape[0] if is_batched(rng_key) else None)
        start = self._evaluate(rng_key, z, model_args, model_kwargs, spent + 1)
        finite = finite_chains(start.potential_energy, start.gradient)
        if finite is not None and not np.all(finite):
            where = f"chains {np.flatnonzero(~finite).tolist()}" if is_batched(rng_key) else "the start"
            raise ValueError(
                f"The potential energy or its gradient is not finite at `init_params` of {where} (energy "
                f"{np.asarray(start.potential_energy)}). Start inside the support, and check the model for "
                "NaN there."
            )
        return start

    def prototype(self, model_args: Sequence[Any], model_kwargs: dict[str, Any] | None) -> Any | None:
        """A position of the model in zeros, from a trace without values; nothing is compiled or evaluated.

        None if values are needed after all: for parameters of `numpyro.param` or of modules, for a model that
        computes Python numbers from its sites, or without a model.

        Raises:
            RuntimeError, ValueError: as `start`.
        """
        if self.model is None:
            return None
        model_kwargs = model_kwargs or {}
        found: list[Any] = []

        def look(key):
            found.append(self._initialised(key, model_args, model_kwargs))
            return found[0].param_info.z

        try:
            shapes = jax.eval_shape(look, jax.random.key(0))
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
            return None
        trace = found[0].model_trace
        if any(site["type"] in ("param", "mutable") for site in trace.values()):
            return None
        for site in latent_sites(trace).values():
            site["value"] = np.zeros(jnp.shape(site["value"]), jnp.result_type(site["value"]))
        self._remember(found[0], model_args, model_kwargs)
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, jnp.result_type(float)), shapes)

    def _initialised(self, rng_key, model_args, model_kwargs) -> Any:
        """NumPyro's initialisation of the model.

        Raises:
            RuntimeError: discrete sites that cannot be enumerated, or no valid start.
        """
        try:
            with missing_reverse_mode_explained():
                return initialize_model(
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

    def _remember(self, info: Any, model_args: Sequence[Any], model_kwargs: dict[str, Any]) -> None:
        """Keep what is read from a trace of the model.

        Raises:
            ValueError: a plate is subsampled, or a support depends on a site of another block of Gibbs.
        """
        model = self.model
        assert model is not None
        check_plates(model, info.model_trace, model_args, model_kwargs)
        traced = TracedModel(model, info, model_args, model_kwargs)
        sites = latent_sites(info.model_trace)
        if GIBBS_SITES_KWARG in model_kwargs and not traced.supports.is_static:
            values = {name: site["value"] for name, site in sites.items()}
            if depends_on_siblings(model, model_args, model_kwargs, values, list(sites)):
                raise ValueError(
                    f"The support of one of the sites {sorted(sites)} depends on a site of another block; "
                    "put both into one block of Gibbs, or write the model with fixed supports."
                )
        self._traced = traced

    def _start_of_model(self, rng_key, model_args, model_kwargs) -> StartingPoint:
        info = self._initialised(rng_key, model_args, model_kwargs)
        self._remember(info, model_args, model_kwargs)
        found = info.param_info
        z = _as_floats(found.z)
        if jax.tree.map(jnp.result_type, z) != jax.tree.map(jnp.result_type, found.z):
            return self._evaluate(rng_key, z, model_args, model_kwargs, 2)
        return StartingPoint(z, _as_floats(found.potential_energy), _as_floats(found.z_grad), 1)

    def _start_in_gibbs(self, rng_key, found, values, model_args, model_kwargs) -> StartingPoint:
        unknown = sorted(set(values) - set(found.z))
        if unknown:
            raise ValueError(
                f"QDE cannot move the sites {unknown} (discrete, or not in the model): give them to a block "
                "of their own, such as DiscreteGibbs."
            )
        z = self._known_model().unconstrain(values, model_args, model_kwargs)
        z = _as_floats(z)
        check_structure(z, found.z, None)
        given = self._evaluate(rng_key, z, model_args, model_kwargs, 1)
        finite = (
            jnp.isfinite(given.potential_energy)
            & jnp.array(
                [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((given.z, given.gradient))], bool
            ).all()
        )
        if not isinstance(finite, Tracer) and not finite:
            warnings.warn(
                f"The start of the sites {sorted(values)} has no finite density (energy "
                f"{given.potential_energy}); QDE starts where its init_strategy found one.",
                stacklevel=2,
            )
        z, energy, gradient = jax.tree.map(lambda a, b: jnp.where(finite, a, b), given[:3], found[:3])
        return StartingPoint(z, energy, gradient, given.num_evals + found.num_evals)

    def _draw_ground_state(self, rng_key):
        draw = self.ground_state.sample  # pyright: ignore[reportOptionalMemberAccess]
        return {GROUND_STATE_SITE: jax.vmap(draw)(rng_key) if is_batched(rng_key) else draw(rng_key)}

    def _evaluate(self, rng_key, z, model_args, model_kwargs, num_evals) -> StartingPoint:
        potential = self.potential(model_args, model_kwargs)
        batched = is_batched(rng_key)
        if not jax.tree.leaves(z):
            shape = rng_key.shape[:1] if batched else ()
            return StartingPoint(z, jnp.zeros(shape), z, 0)
        if self.potential_fn is not None:
            check_scalar(potential, jax.tree.map(lambda leaf: leaf[0], z) if batched else z)
        evaluate = value_and_gradient(potential, forward_mode=self.forward_mode)
        energy, gradient = (jax.vmap(evaluate) if batched else evaluate)(z)
        return StartingPoint(z, energy, gradient, num_evals)


def _as_floats(z: Any) -> Any:
    """Every leaf in JAX's default float type, so that all iterations have one type."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), z)
