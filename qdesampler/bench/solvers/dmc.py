"""Walker-steps a second on one core, against NumPy: `python -m qdesampler.bench.solvers.dmc`.

The hydrogen atom with the trial `exp(-0.9 r)`, reconfiguration every ten steps. NumPy runs the same algorithm
twice, with derivatives written by hand: on whole arrays of walkers, and walker by walker in a loop, as the
textbook has it. The process ties itself to one core where the system can do so; repeats alternate, and all
three must find the same energy.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.equation import Hamiltonian
from qdesampler.solvers.dmc.diffusion_step import Guide, Step, Walker, make_walker
from qdesampler.solvers.dmc.window import Layout, Population, run_window

__all__ = ["main", "numpy_walkers", "tie_to_one_core"]

# Exponent of the trial, time step, drift limiter, cut of the branching exponent (energy), steps between
# resamplings: the settings of both programs that are compared.
_EXPONENT = 0.9  # rate of the trial exp(-rate |x|), in inverse Bohr radii; 1 is the ground state
_TAU = 0.02  # time step, in inverse Hartrees
_LIMIT = 0.25  # `a` of the limited drift
_CUT = 10.0  # largest deviation of the local energy in the weights, in Hartrees
_TURN = 10  # steps between two turns of population control

Runner = Callable[[int, int, int], float]  # walkers, steps, seed -> mean energy


def tie_to_one_core() -> str:
    """Keep this process, whatever threads it starts, on one core; say how."""
    if not hasattr(os, "sched_setaffinity"):
        return "not tied to a core: the system cannot"
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return f"tied to core {core}"


def _state(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log of the trial, its gradient, local energy; points are columns."""
    r = np.sqrt(np.sum(x * x, 0))
    return (
        -_EXPONENT * r,
        -_EXPONENT * x / r,
        -0.5 * (_EXPONENT**2 - 2 * _EXPONENT / r) - 1 / r,
    )


def _drift(slope: np.ndarray) -> np.ndarray:
    rate = _LIMIT * _TAU * np.sum(slope * slope, 0) / 3
    return slope * (2 / (1 + np.sqrt(1 + 2 * rate)))


def _numpy_step(x, state, rng, reference):
    """One step of all columns: points, states and log weights."""
    log_psi, slope, energy = state
    kick = np.sqrt(_TAU) * rng.standard_normal(x.shape, np.float32)
    push = _drift(slope) * _TAU
    new = x + push + kick
    new_log_psi, new_slope, new_energy = _state(new)
    back = push + kick + _drift(new_slope) * _TAU
    log_ratio = 2 * (new_log_psi - log_psi) - np.sum(back * back - kick * kick, 0) / (2 * _TAU)
    taken = np.log(rng.random(log_psi.shape, np.float32)) < log_ratio
    x = np.where(taken, new, x)
    log_psi, slope = np.where(taken, new_log_psi, log_psi), np.where(taken, new_slope, slope)
    after = np.where(taken, new_energy, energy)
    cost = np.clip(energy - reference, -_CUT, _CUT) + np.clip(after - reference, -_CUT, _CUT)
    return x, (log_psi, slope, after), -0.5 * _TAU * cost


def numpy_walkers(walkers: int, steps: int, seed: int, *, one_by_one: bool = False) -> float:
    """Run the algorithm in NumPy and return the mean local energy of the second half."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, walkers)).astype(np.float32)
    state, reference, energies = _state(x), np.float32(-0.5), []
    for start in range(0, steps, _TURN):
        log_weight = np.zeros(walkers, np.float32)
        if one_by_one:
            columns = []
            for i in range(walkers):
                point = (x[:, i : i + 1], tuple(a[..., i : i + 1] for a in state))
                for _ in range(_TURN):
                    *point, gain = _numpy_step(*point, rng, reference)
                    log_weight[i] += gain[0]
                columns.append((point[0], *point[1]))
            x, *state = (np.concatenate(parts, -1) for parts in zip(*columns, strict=True))
        else:
            for _ in range(_TURN):
                x, state, gain = _numpy_step(x, state, rng, reference)
                log_weight += gain
        weight = np.exp(log_weight)
        if start >= steps // 2:
            energies.append(np.sum(weight * state[2]) / np.sum(weight))
        cumulated = np.cumsum(weight) / weight.mean()
        ancestor = np.searchsorted(cumulated, np.arange(walkers) + rng.random(), side="right")
        ancestor = np.minimum(ancestor, walkers - 1)
        x, state = x[:, ancestor], tuple(a[..., ancestor] for a in state)
    return float(np.mean(energies))


def _trial(x: jax.Array) -> jax.Array:
    return -_EXPONENT * jnp.linalg.norm(x)


def _potential(x: jax.Array) -> jax.Array:
    return -1 / jnp.linalg.norm(x)


@jax.jit
def _evaluate_all(guide: Guide, x: jax.Array) -> Walker:
    return jax.vmap(lambda y: make_walker(guide, y), in_axes=1, out_axes=-1)(x)


def _jax_walkers(walkers: int, steps: int, seed: int) -> float:
    """The same through the package: as many windows of a hundred steps as needed."""
    guide = Guide(Hamiltonian.from_objective(_potential, dim=3, diffusion=0.5), _trial)
    key = jax.random.key(seed)
    x = jax.random.normal(key, (3, walkers), jnp.float32)
    population = Population(_evaluate_all(guide, x), jnp.ones(walkers, jnp.float32))
    step = Step(*(jnp.float32(a) for a in (_TAU, _TAU, -0.5, _CUT)))
    layout, energies = Layout(10, _TURN, "reconfiguration", walkers, None), []
    windows = steps // (layout.turns * layout.steps)
    for i in range(windows):
        window = run_window(guide, population, step, jnp.float32(1.0), jax.random.fold_in(key, i), layout)
        population = window.population
        if i >= windows // 2:
            energies.append(window.turns.deviation.mean() - 0.5)
    return float(np.mean(jax.device_get(energies)))


def rate(runner: Runner, walkers: int, steps: int, seed: int) -> tuple[float, float]:
    """Walker-steps a second, and the energy found."""
    begin = time.perf_counter()
    energy = runner(walkers, steps, seed)
    return walkers * steps / (time.perf_counter() - begin), energy


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the three in alternation; print medians with their ranges."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.solvers.dmc", description=__doc__)
    parser.add_argument("--walkers", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=1000, help="of a repeat, a multiple of 100")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    if options.walkers < 64 or options.steps < 200 or options.steps % 100 or options.repeats < 1:
        parser.error("expected --walkers from 64, --steps a multiple of 100 from 200, --repeats from 1")
    where = tie_to_one_core()
    cases: dict[str, tuple[Runner, int, int]] = {
        "qdesampler": (_jax_walkers, options.walkers, options.steps),
        "NumPy, arrays": (numpy_walkers, options.walkers, options.steps),
        "NumPy, walker by walker": (
            lambda *a: numpy_walkers(*a, one_by_one=True),
            64,
            200,
        ),
    }
    for runner, walkers, steps in cases.values():  # compile, and warm up
        runner(walkers, min(steps, 200), 0)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for repeat in range(options.repeats):
        for name, case in cases.items():
            found[name].append(rate(*case, repeat))
    ours = statistics.median(speed for speed, _ in found["qdesampler"])
    print(f"Hydrogen, {options.walkers} walkers, {options.steps} steps, JAX {jax.__version__}, {where}.\n")
    print(
        "| program | walker-steps/s (range) | qdesampler is faster by | energy |\n| --- | --- | --- | --- |"
    )
    for name, results in found.items():
        speeds, energies = [r[0] for r in results], [r[1] for r in results]
        print(
            f"| {name} | {statistics.median(speeds):.3g} ({min(speeds):.3g} to {max(speeds):.3g}) "
            f"| {ours / statistics.median(speeds):.1f} | {np.mean(energies):.4f} |"
        )
    print(f"\nMedians of {options.repeats} repeats in alternation; compilation is not counted.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
