"""A simulator with an adjoint in a NumPyro model: conductivities of a wall from thermometers in it.

The wall has five layers. Its left side is heated from time 0 on, its right side is kept cold; implicit Euler
steps in SciPy follow the temperature, and an adjoint run backwards in time gives the gradient of the misfit
by all conductivities together. NumPyro and QDE see both through `jax.pure_callback`, with `custom_vjp` as the
rule for the gradient: one call of the simulator gives the value and the gradient.

python examples/heat_by_callback.py
"""

import argparse
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.linalg import cho_solve_banded, cholesky_banded

from qdesampler import MCMC, QDE, diagnose, summary, to_datatree

LAYERS = 5
TRUTH = np.array([0.3, -0.6, 0.5, -0.2, 0.4])  # logarithms of the conductivities
NOISE = 0.02  # of a thermometer; the heated side has temperature 1


class Wall:
    """Temperatures `u` of cells of width `h` in a wall of thickness 1: `du/dt = d/dx (k du/dx)`.

    Args:
        cells: of the wall.
        steps: of implicit Euler, until time 1.
    """

    def __init__(self, cells: int, steps: int):
        self.cells, self.steps, self.dt = cells, steps, 1 / steps
        self.layer = np.minimum(np.arange(cells + 1) * LAYERS // cells, LAYERS - 1)  # of each face
        self.per_face = np.full(cells + 1, float(cells**2))  # 1 / h^2
        self.per_face[[0, -1]] *= 2  # the outer faces are half a cell from the middle of theirs
        self.places = (np.arange(LAYERS) * 2 + 1) * cells // (2 * LAYERS)
        self.times = (np.arange(20) + 1) * steps // 20

    def _steps(self, log_conductivity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The factor of `1 + dt A`, and the conductance of each face."""
        face = np.exp(np.clip(log_conductivity, -20, 20))[self.layer] * self.per_face
        matrix = np.zeros((2, self.cells))
        matrix[1] = 1 + self.dt * (face[:-1] + face[1:])
        matrix[0, 1:] = -self.dt * face[1:-1]
        return cholesky_banded(matrix), face

    def temperatures(self, log_conductivity: np.ndarray) -> np.ndarray:
        """After every step, shape `(steps + 1, cells)`."""
        factor, face = self._steps(log_conductivity)
        u = np.zeros((self.steps + 1, self.cells))
        for step in range(self.steps):
            right_side = u[step].copy()
            right_side[0] += self.dt * face[0]
            u[step + 1] = cho_solve_banded((factor, False), right_side, check_finite=False)
        return u

    def misfit(self, log_conductivity: np.ndarray, seen: np.ndarray) -> tuple[float, np.ndarray]:
        """Sum of squared differences from the thermometers, and its gradient by the adjoint."""
        factor, face = self._steps(log_conductivity)
        u = self.temperatures(log_conductivity)
        off = u[np.ix_(self.times, self.places)] - seen
        force = np.zeros_like(u)
        force[np.ix_(self.times, self.places)] = 2 * off
        adjoint, by_face = np.zeros(self.cells), np.zeros(self.cells + 1)
        for step in range(self.steps, 0, -1):
            adjoint = cho_solve_banded((factor, False), adjoint + force[step], check_finite=False)
            falls = np.diff(u[step], prepend=1.0, append=0.0)
            by_face -= self.dt * face * np.diff(adjoint, prepend=0.0, append=0.0) * falls
        return float(np.sum(off**2)), np.bincount(self.layer, by_face, LAYERS)


def misfit_in_jax(wall: Wall, seen: np.ndarray):
    """`wall.misfit` as a function of JAX."""

    def on_host(log_conductivity):
        value, slope = wall.misfit(np.asarray(log_conductivity, float), seen)
        return np.float32(value), np.float32(slope)

    def call(log_conductivity):
        shapes = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((LAYERS,), jnp.float32)
        return jax.pure_callback(on_host, shapes, log_conductivity, vmap_method="sequential")

    @jax.custom_vjp
    def misfit(log_conductivity):
        return call(log_conductivity)[0]

    misfit.defvjp(call, lambda slope, cotangent: (cotangent * slope,))
    return misfit


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a coarse wall and few draws")
    quick = parser.parse_args().quick
    wall = Wall(20, 40) if quick else Wall(400, 1000)
    u = wall.temperatures(TRUTH)[np.ix_(wall.times, wall.places)]
    seen = u + NOISE * np.random.default_rng(0).standard_normal(u.shape)
    misfit = misfit_in_jax(wall, seen)

    def model():
        conductivity = numpyro.sample("conductivity", dist.LogNormal(jnp.zeros(LAYERS), 0.5).to_event(1))
        noise = numpyro.sample("noise", dist.HalfNormal(0.1))
        off = misfit(jnp.log(conductivity)) / noise**2
        numpyro.factor("thermometers", -0.5 * off - seen.size * jnp.log(noise))

    began = perf_counter()
    wall.misfit(TRUTH, seen)
    print(f"one evaluation takes {1000 * (perf_counter() - began):.0f} ms")
    mcmc = MCMC(
        QDE(model),
        num_warmup=200,
        num_samples=100 if quick else 250,
        num_chains=4,
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0))
    tree = to_datatree(mcmc)
    print(summary(tree))
    for finding in diagnose(tree):
        print(finding.message, finding.advice)
    warmup, draws = (int(tree.attrs[name]) for name in ("warmup_evals", "sampling_evals"))
    print(f"{warmup} evaluations in the warm-up, {draws} for the draws")
    found = np.asarray(mcmc.get_samples()["conductivity"])
    off = (np.log(found).mean(0) - TRUTH) / np.log(found).std(0)
    print(f"from the truth, in standard deviations: {np.array2string(off, precision=1)}")


if __name__ == "__main__":
    main()
