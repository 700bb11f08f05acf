"""BlackJAX's samplers on the bench: NUTS, adjusted microcanonical (MAMS), multi-path Pathfinder.

Each takes its target from NumPyro's potential and its starts from NumPyro too, and reports every gradient of
its own tuning. BlackJAX is optional: `pip install 'qdesampler[bench]'`.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from arviz_stats.base.array import array_stats

from qdesampler.bench.harness.outcome import Outcome, Runner
from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.unconstrained import UnconstrainedTarget, unconstrained_target
from qdesampler.infer import ModelCase

__all__ = ["adjusted_mclmc_runner", "nuts_runner", "pathfinder_runner"]

# McLachlan's splitting evaluates two gradients a step (its third is the next step's first).
GRADIENTS_A_STEP = 2

MIN_DRAWS = 25  # a fifth of them is the tail that Pareto smoothing fits


def _blackjax() -> ModuleType:
    try:
        import blackjax  # pyright: ignore[reportMissingImports]
        import blackjax.mcmc.adjusted_mclmc_dynamic  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "BlackJAX is not installed: pip install 'qdesampler[bench]', or leave its kernels out."
        ) from error
    return blackjax


def nuts_runner(*, dense: bool) -> Runner:
    """NUTS after BlackJAX's window adaptation (Stan's schedule, target acceptance 0.8).

    A draw costs `num_integration_steps` gradients; the start is charged one a chain.
    """

    def run(case: ModelCase, seed: int, settings: Settings) -> Outcome:
        blackjax = _blackjax()
        target = unconstrained_target(case, seed, settings.chains)
        warmup = blackjax.window_adaptation(
            blackjax.nuts,
            target.log_density,
            is_mass_matrix_diagonal=not dense,
            adaptation_info_fn=lambda state, info, adaptation: info.num_integration_steps,
        )

        def chain(key: jax.Array, start: jax.Array) -> Any:
            key_warmup, key_draws = jax.random.split(key)
            (state, parameters), steps = warmup.run(key_warmup, start, num_steps=settings.warmup)
            step = blackjax.nuts(target.log_density, **parameters).step

            def draw(state: Any, key: jax.Array) -> Any:
                state, info = step(key, state)
                return state, (state.position, info.num_integration_steps, info.is_divergent)

            _, draws = jax.lax.scan(draw, state, jax.random.split(key_draws, settings.draws))
            return 1 + jnp.sum(steps), draws

        warmup_evals, (x, evals, divergent) = jax.jit(jax.vmap(chain))(_keys(seed, settings), target.starts)
        return _outcome(target, x, warmup_evals, evals, divergent)

    return run


def adjusted_mclmc_runner(
    *, target_acceptance: float = 0.75, transitions: int = 5, integration_steps: float = 2.0
) -> Runner:
    """Metropolis-adjusted microcanonical sampling, tuned by BlackJAX's own tuner.

    Trajectories have random lengths and McLachlan's integrator, the kernel's defaults; the tuner keeps its
    default fractions (30% of the transitions that it is given). A transition is far shorter than one of NUTS,
    so one draw is the last of several.

    Args:
        target_acceptance: the tuner's target, which has no default; 0.75 needed fewer evaluations than the
            0.9 of Robnik, Cohn-Gordon & Seljak, arXiv:2503.01707, on models/mesquite and eight_schools.
        transitions: transitions for each draw kept, and for each warm-up iteration that the tuner is given.
        integration_steps: mean number of steps of a transition; 2 is the tuner's default.
    """

    def run(case: ModelCase, seed: int, settings: Settings) -> Outcome:
        blackjax = _blackjax()
        dynamic = blackjax.mcmc.adjusted_mclmc_dynamic
        target = unconstrained_target(case, seed, settings.chains)
        kernel = dynamic.build_kernel(integration_steps_fn=dynamic.make_random_trajectory_length_fn(True))

        def chain(key: jax.Array, start: jax.Array) -> Any:
            key_lengths, key_tune, key_draws = jax.random.split(key, 3)
            state = dynamic.init(start, target.log_density, key_lengths)
            state, parameters, steps = blackjax.adjusted_mclmc_find_L_and_step_size(
                kernel,
                target.log_density,
                settings.warmup * transitions,
                state,
                key_tune,
                target=target_acceptance,
                target_num_integration_steps=integration_steps,
            )
            mean_steps = parameters.L / parameters.step_size

            def transition(state: Any, key: jax.Array) -> Any:
                state, info = kernel(
                    rng_key=key,
                    state=state,
                    logdensity_fn=target.log_density,
                    step_size=parameters.step_size,
                    inverse_mass_matrix=parameters.inverse_mass_matrix,
                    integration_steps_params=(mean_steps,),
                )
                return state, (info.num_integration_steps, info.is_divergent)

            def draw(state: Any, key: jax.Array) -> Any:
                state, (steps, divergent) = jax.lax.scan(
                    transition, state, jax.random.split(key, transitions)
                )
                return state, (state.position, GRADIENTS_A_STEP * jnp.sum(steps), jnp.any(divergent))

            _, draws = jax.lax.scan(draw, state, jax.random.split(key_draws, settings.draws))
            return 1 + GRADIENTS_A_STEP * steps, draws

        warmup_evals, (x, evals, divergent) = jax.jit(jax.vmap(chain))(_keys(seed, settings), target.starts)
        return _outcome(target, x, warmup_evals, evals, divergent)

    return run


def pathfinder_runner(*, elbo_draws: int = 25, max_iterations: int = 100) -> Runner:
    """Pathfinder from every start, its draws weighted by Pareto-smoothed importance sampling.

    One path a chain, and `settings.draws` draws from the best Gaussian of each. The cost of the paths is all
    evaluations of their L-BFGS line searches, counted by a callback, and `elbo_draws` for each iteration (25,
    Stan's default; BlackJAX's is 200). BlackJAX also evaluates that many for iterations that its fixed-size
    arrays hold but L-BFGS never made; these are not charged. `settings.warmup` is not used.

    References: Zhang, Carpenter, Gelman & Vehtari, JMLR 23(306), 2022; Vehtari, Simpson, Gelman, Yao & Gabry,
    JMLR 25(72), 2024.
    """

    def run(case: ModelCase, seed: int, settings: Settings) -> Outcome:
        blackjax = _blackjax()
        target = unconstrained_target(case, seed, settings.chains)
        calls = 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        @jax.custom_batching.custom_vmap
        def tick(x: jax.Array) -> jax.Array:
            jax.debug.callback(count, x)
            return x

        @tick.def_vmap
        def _(size: int, batched: Any, x: jax.Array) -> Any:
            return x, batched[0]  # the draws for the ELBO are the only batch, and known in number

        def counted(x: jax.Array) -> jax.Array:
            tick(jax.lax.stop_gradient(x[0]))
            return target.log_density(x)

        @jax.jit
        def paths(keys: jax.Array) -> Any:
            def path(inputs: tuple[jax.Array, jax.Array]) -> Any:
                key, start = inputs
                state, info = blackjax.pathfinder.approximate(
                    key, counted, start, elbo_draws, maxiter=max_iterations
                )
                moved = jnp.any(jnp.diff(info.path.position, axis=0) != 0, axis=1)
                return state, jnp.sum(moved)

            # One after the other: under vmap a finished path would go on evaluating with the others.
            return jax.lax.map(path, (keys, target.starts))

        @jax.jit
        @jax.vmap
        def draw(key: jax.Array, state: Any) -> Any:
            x, log_q = blackjax.pathfinder.sample(key, state, settings.draws)
            return x, jax.vmap(target.log_density)(x) - log_q

        keys = jax.vmap(jax.random.split)(_keys(seed, settings))
        states, iterations = paths(keys[:, 0])
        x, log_ratios = jax.block_until_ready(draw(keys[:, 1], states))
        jax.effects_barrier()
        warmup_evals = calls + int(jnp.sum(iterations)) * elbo_draws
        log_weights, pareto_k = smoothed_weights(np.asarray(log_ratios, np.float64))
        return Outcome(
            samples=target.constrain(x),
            sites=target.sites,
            dim=target.dim,
            warmup_evals=warmup_evals,
            draw_evals=np.ones(log_weights.shape, np.int64),
            divergences=None,
            log_weights=log_weights,
            pareto_k=pareto_k,
        )

    return run


def smoothed_weights(log_ratios: np.ndarray) -> tuple[np.ndarray, float]:
    """Normalised log weights and the Pareto tail index of `log p - log q`, of any shape.

    Draws where the target has no density weigh nothing. Where the largest weights differ by less than 0.01%
    there is no tail to fit: the index is minus infinity.

    Raises:
        FloatingPointError: no draw has a finite ratio, or one is NaN or infinite upwards.
        ValueError: fewer than 25 draws have density: the tail would be less than 5.
    """
    if np.isnan(log_ratios).any() or np.isposinf(log_ratios).any() or np.isneginf(log_ratios).all():
        raise FloatingPointError("importance ratios that are NaN or infinite: the approximation broke down")
    kept = np.isfinite(log_ratios)
    finite = log_ratios[kept]
    if finite.size < MIN_DRAWS:
        raise ValueError(f"{finite.size} draws with density, expected at least {MIN_DRAWS}: take more draws.")
    tail = np.sort(finite)[-max(5, int(min(0.2 * finite.size, 3 * finite.size**0.5))) :]
    smoothed, k = (finite, -np.inf) if np.ptp(tail) < 1e-4 else array_stats.psislw(-finite, axis=0)
    weights = np.full(log_ratios.shape, -np.inf)
    weights[kept] = smoothed - np.logaddexp.reduce(smoothed)
    return weights, float(k)


def _keys(seed: int, settings: Settings) -> jax.Array:
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), settings.chains)


def _outcome(target: UnconstrainedTarget, x: Any, warmup_evals: Any, evals: Any, divergent: Any) -> Outcome:
    return Outcome(
        samples=target.constrain(x),
        sites=target.sites,
        dim=target.dim,
        warmup_evals=int(np.sum(np.asarray(warmup_evals), dtype=np.int64)),
        draw_evals=np.asarray(evals, np.int64),
        divergences=int(np.sum(np.asarray(divergent))),
    )
