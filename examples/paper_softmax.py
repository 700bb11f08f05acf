"""Softmax is the Boltzmann occupation of energies: the ground state on discrete states, and draws from it.

This is the paper's derivation of Softmax (Wang and Maimaitiniyazi, arXiv:2407.19890): the occupations
exp(-E_i / T) / Z of levels E_i. The example computes them in three ways: by the closed form; as the square of
the lowest eigenvector of the imaginary-time matrix on five states, whose energy is 0; and by draws of the
package's imaginary-time step on discrete states, made exact by Metropolis. Each chain gives one draw, so
that draws are independent. The largest difference of 25 frequencies is compared with that of multinomial
draws: in 6% of runs one of them is more than three standard errors off.

Where our statement differs: the ground state of V = E alone is not Softmax, it is the lowest level only.
Softmax is the ground state of the Boltzmann matrix, whose diagonal balances the jumps. And D is the
temperature in one sense only: a walker with the drift -grad E and noise of strength D has the equilibrium
density exp(-E / D) (Einstein's relation, D = T). If U = E / T is given, D only sets the unit of time, and the
ground state is the same for any D.

    python examples/paper_softmax.py [--out FOLDER] [--quick]
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from qdesampler import Hamiltonian
from qdesampler.equation import boltzmann_occupation, drift, log_ground_state, occupation_hamiltonian
from qdesampler.kernels.discrete.categorical import imaginary_time_states_move
from qdesampler.kernels.discrete.outcomes import init_discrete

ENERGIES = jnp.array([0.0, 0.1, 0.35, 0.8, 2.0])
TEMPERATURES = (0.1, 0.3, 1.0, 3.0, 10.0)
MOVES = 60


def draw(key, temperature, chains):
    """One draw of each chain, started anywhere, after `MOVES` steps of imaginary time."""

    def log_density(position):
        return -ENERGIES[position[0]] / temperature

    def chain(key):
        keys = jax.random.split(key, MOVES + 1)
        start = init_discrete(jax.random.randint(keys[0], (1,), 0, ENERGIES.size), log_density)

        def move(state, key):
            return imaginary_time_states_move(key, state, log_density, (ENERGIES.size,), tau=1.0)[0], None

        return jax.lax.scan(move, start, keys[1:])[0].position[0]

    return jax.vmap(chain)(jax.random.split(key, chains))


def einstein(temperature):
    """Largest departure of the drift of `psi0^2 = exp(-E / T)`, `D = T`, from `-grad E`, for `E = x^4`."""
    hamiltonian = Hamiltonian.from_log_density(
        lambda x: -(x[0] ** 4) / temperature, dim=1, diffusion=temperature
    )
    assert hamiltonian.log_density is not None
    force = drift(log_ground_state(hamiltonian.log_density), temperature)
    x = jnp.linspace(-1.5, 1.5, 31)[:, None]
    return jnp.max(jnp.abs(jax.vmap(force)(x) + 4 * x**3))


def chance_of(worst, occupations, chains, runs=20_000):
    """Share of runs of exact draws in which some frequency is off by more than `worst` standard errors."""
    generator, largest = np.random.default_rng(0), np.zeros(runs)
    for exact in occupations:
        counts = generator.multinomial(chains, exact / exact.sum(), runs)
        off = (counts - chains * exact) / np.sqrt(chains * exact * (1 - exact))
        largest = np.maximum(largest, np.abs(off).max(1))
    return np.mean(largest > worst)


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure")
    parser.add_argument("--quick", action="store_true", help="fewer chains")
    options = parser.parse_args()
    chains = 10_000 if options.quick else 100_000

    sample = jax.jit(draw, static_argnames="chains")
    found, worst = [], 0.0
    print("    T   state   Softmax   ground state   drawn    standard errors off")
    for key, temperature in zip(
        jax.random.split(jax.random.key(0), len(TEMPERATURES)), TEMPERATURES, strict=True
    ):
        exact = np.asarray(boltzmann_occupation(ENERGIES, 1 / temperature), float)
        matrix = occupation_hamiltonian(ENERGIES, jnp.ones((ENERGIES.size,) * 2), 1 / temperature)
        ground = np.asarray(jnp.linalg.eigh(matrix)[1][:, 0]) ** 2
        drawn = np.bincount(np.asarray(sample(key, temperature, chains)), minlength=ENERGIES.size) / chains
        off = (drawn - exact) / np.sqrt(exact * (1 - exact) / chains)
        for i in range(ENERGIES.size):
            print(
                f"{temperature:5.1f} {i:7d} {exact[i]:9.5f} {ground[i]:14.5f} {drawn[i]:7.5f} {off[i]:+10.2f}"
            )
        found.append((exact, drawn))
        worst = max(worst, np.abs(off).max())
    print(f"largest difference in standard errors: {worst:.2f}")
    share = chance_of(worst, [exact for exact, _ in found], chains)
    print(f"as large or larger in exact draws: {share:.1%} of runs")
    print(f"D = T, drift against -grad E: {max(float(einstein(t)) for t in TEMPERATURES):.1e}")

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    curve = np.geomspace(0.05, 20, 200)
    lines = np.array([boltzmann_occupation(ENERGIES, 1 / t) for t in curve])
    for i, energy in enumerate(np.asarray(ENERGIES)):
        axes.plot(curve, lines[:, i], color=f"C{i}", label=f"E = {energy:.2f}")
        axes.plot(TEMPERATURES, [drawn[i] for _, drawn in found], "o", color=f"C{i}", ms=5)
    axes.set(
        xscale="log", xlabel="temperature T", ylabel="occupation", title="Softmax (lines) and draws (dots)"
    )
    axes.legend(frameon=False)
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "paper_softmax.png", dpi=120)


if __name__ == "__main__":
    main()
