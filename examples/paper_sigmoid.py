"""Sigmoid is the occupation of two levels; logistic regression has one such pair of levels for every datum.

This is the paper's derivation of Sigmoid (Wang and Maimaitiniyazi, arXiv:2407.19890) as Softmax of two
levels: the lower of two levels a gap E apart has the occupation 1 / (1 + exp(-E / T)). The example first
draws it by the package's imaginary-time step on one site of two states, and compares with the closed form.
Then it treats 3020 two-level systems whose gaps x_i . w share the parameters w. This is a logistic
regression, and QDE draws w from its posterior.

Where our statement differs: a single occupation does not learn. Learning is described by the posterior of w,
the ground state of the Boltzmann Hamiltonian whose U is the sum of -log Sigmoid over the systems.

    python examples/paper_sigmoid.py [--out FOLDER] [--quick]
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from numpyro.infer import MCMC

from qdesampler import QDE, load_model
from qdesampler.equation import two_level_occupation
from qdesampler.kernels.discrete.categorical import imaginary_time_states_move
from qdesampler.kernels.discrete.outcomes import init_discrete

MODEL = Path(__file__).parents[1] / "models" / "wells_interaction"
TEMPERATURES = (0.1, 0.3, 1.0, 3.0, 10.0)
GAPS = (0.2, 0.5, 1.0)
MOVES = 40


def draw(key, gap_over_temperature, chains):
    """Whether each of independent chains is in the lower level, after `MOVES` steps of imaginary time."""

    def log_density(position):
        return -gap_over_temperature * position[0]

    def chain(key):
        keys = jax.random.split(key, MOVES + 1)
        start = init_discrete(jax.random.randint(keys[0], (1,), 0, 2), log_density)

        def move(state, key):
            return imaginary_time_states_move(key, state, log_density, (2,), tau=1.0)[0], None

        return jax.lax.scan(move, start, keys[1:])[0].position[0] == 0

    return jnp.mean(jax.vmap(chain)(jax.random.split(key, chains)))


def two_levels(chains):
    """Draw at every gap and temperature; return rows of gap / T, frequency, closed form."""
    sample, rows, worst = jax.jit(draw, static_argnames="chains"), [], 0.0
    print("  gap      T   Sigmoid    drawn")
    for i, (gap, t) in enumerate((gap, t) for gap in GAPS for t in TEMPERATURES):
        exact = float(two_level_occupation(gap, 1 / t))
        drawn = float(sample(jax.random.fold_in(jax.random.key(0), i), gap / t, chains))
        worst = max(worst, abs(drawn - exact) / np.sqrt(exact * (1 - exact) / chains))
        print(f"{gap:5.1f} {t:6.1f} {exact:9.5f} {drawn:8.5f}")
        rows.append((gap / t, drawn, exact))
    print(f"largest difference in standard errors: {worst:.2f}")
    return np.array(rows)


def logistic_regression(draws):
    """Sample the posterior of a logistic regression; return the reference and the draws."""
    case = load_model(MODEL)
    assert case.reference is not None
    assert case.reference is not None
    kernel = QDE(case.model)
    mcmc = MCMC(
        kernel, num_warmup=500, num_samples=draws, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(jax.random.key(1), **case.data)
    samples = {name: np.asarray(value) for name, value in mcmc.get_samples().items()}
    print("parameter   QDE mean   reference   posterior sd")
    for name, known in case.reference["parameters"].items():
        site, _, index = name.partition("[")
        values = samples[site][:, int(index[:-1]) - 1] if index else samples[site]
        print(f"{name:9s} {values.mean():10.4f} {known['mean']:11.4f} {known['sd']:10.4f}")
    return case.reference["parameters"], samples


def main():
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the figure")
    parser.add_argument("--quick", action="store_true", help="fewer chains and draws")
    options = parser.parse_args()
    rows = two_levels(10_000 if options.quick else 100_000)
    reference, samples = logistic_regression(250 if options.quick else 1000)

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    curve = np.geomspace(0.015, 12, 200)
    left.plot(curve, two_level_occupation(curve), color="0.4", label="Sigmoid")
    left.plot(rows[:, 0], rows[:, 1], "o", ms=5, label="drawn")
    left.set(xscale="log", xlabel="gap / T", ylabel="occupation of the lower level", title="Two levels")
    left.legend(frameon=False)
    names = list(reference)
    for place, name in enumerate(names):
        site, _, index = name.partition("[")
        values = samples[site][:, int(index[:-1]) - 1] if index else samples[site]
        known = reference[name]
        right.errorbar(values.mean(), place, xerr=values.std(), fmt="o", color="C0", capsize=3)
        right.plot(known["mean"], place, "|", color="C1", ms=18, mew=2)
    right.set_yticks(range(len(names)), names)
    right.set(
        xlabel="mean and sd of QDE, reference as a bar", title="Logistic regression, 3020 two-level systems"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "paper_sigmoid.png", dpi=120)


if __name__ == "__main__":
    main()
