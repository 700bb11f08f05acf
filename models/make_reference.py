"""Make the ``reference.json`` of a model from a long run of NumPyro's NUTS.

    python models/make_reference.py models/german_credit

Four chains in float64 with a dense metric; 2,000 warm-up iterations, then 40,000 draws a chain thinned by
16 (``--draws``, ``--thinning``). Means, standard deviations, effective sample sizes and Monte Carlo errors
(ArviZ) are of the thinned
draws. The run is refused if a draw diverged, if an R-hat exceeds 1.01, or if a parameter has fewer than
``--min-ess`` effective draws: a reference has to be better than what is measured against it.

The evidence log Z = log of the integral of prior times likelihood is estimated by importance sampling in
the unconstrained space from a Student-t (10 degrees of freedom) with the draws' mean and covariance. It is
left out where the proposal does not fit (effective fraction of the weights under 5%). Where a prior is
improper it is no evidence, only the integral of the density as written: ``--improper`` leaves it out.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.flatten_util import ravel_pytree
from jax.scipy.special import gammaln, logsumexp
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import initialize_model, unconstrain_fn

from qdesampler.infer import ModelCase, flatten_draws, load_model

CHAINS, WARMUP = 4, 2000
DEGREES_OF_FREEDOM, IMPORTANCE_DRAWS = 10.0, 200_000


def run_nuts(case: ModelCase, seed: int, draws: int, thinning: int, target: float, dense: bool) -> MCMC:
    """Sample ``case``, ``draws`` kept draws a chain."""
    kernel = NUTS(case.model, dense_mass=dense, target_accept_prob=target)
    mcmc = MCMC(
        kernel,
        num_warmup=WARMUP,
        num_samples=draws * thinning,
        thinning=thinning,
        num_chains=CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(seed), **case.data)
    return mcmc


def statistics(draws: np.ndarray) -> tuple[dict[str, float], float]:
    """The entry of one parameter and the larger R-hat of x and x^2, from draws ``(chains, draws)``."""
    square = draws**2
    entry = {
        "mean": np.mean(draws),
        "sd": np.std(draws, ddof=1),
        "mean_sq": np.mean(square),
        "sd_sq": np.std(square, ddof=1),
        "ess": az.ess(draws, method="bulk"),
        "mcse": az.mcse(draws, method="mean"),
        "mcse_sq": az.mcse(square, method="mean"),
    }
    return {k: round_to(float(v), 8) for k, v in entry.items()}, float(max(az.rhat(draws), az.rhat(square)))


def round_to(value: float, digits: int) -> float:
    """``value`` rounded to significant digits."""
    return float(f"{value:.{digits}g}")


def log_evidence(case: ModelCase, mcmc: MCMC, seed: int) -> tuple[float, float, float]:
    """Importance sampling from a Student-t around the draws.

    With weights ``w_i = p(x_i) / q(x_i)`` the estimate is log mean w, its standard error
    sd(w) / (mean(w) sqrt n).

    Returns:
        log Z, its standard error, and the effective fraction ``(sum w)^2 / (n sum w^2)``.
    """
    key_init, key_noise, key_scale = jax.random.split(jax.random.key(seed + 1), 3)
    initial = initialize_model(key_init, case.model, model_kwargs=case.data)
    sites = initial.param_info.z
    _, unravel = ravel_pytree(sites)

    def unconstrain(sample):
        return ravel_pytree(unconstrain_fn(case.model, (), case.data, sample))[0]

    constrained = {site: values for site, values in mcmc.get_samples().items() if site in sites}
    points = jax.lax.map(unconstrain, constrained, batch_size=1000)
    mean, factor = jnp.mean(points, axis=0), jnp.linalg.cholesky(jnp.cov(points, rowvar=False))
    dim, dof, size = points.shape[1], DEGREES_OF_FREEDOM, IMPORTANCE_DRAWS
    noise = jax.random.normal(key_noise, (size, dim))
    scale = jnp.sqrt(2.0 / dof * jax.random.gamma(key_scale, dof / 2, (size, 1)))
    standard = noise / scale
    log_q = (
        gammaln((dof + dim) / 2)
        - gammaln(dof / 2)
        - dim / 2 * math.log(dof * math.pi)
        - jnp.sum(jnp.log(jnp.diag(factor)))
        - (dof + dim) / 2 * jnp.log1p(jnp.sum(standard**2, axis=1) / dof)
    )
    log_p = jax.lax.map(
        lambda x: -initial.potential_fn(unravel(x)), mean + standard @ factor.T, batch_size=1000
    )
    log_w = log_p - log_q
    log_z = logsumexp(log_w) - math.log(size)
    fraction = jnp.exp(2 * logsumexp(log_w) - logsumexp(2 * log_w)) / size
    return float(log_z), float(jnp.sqrt((1 / fraction - 1) / size)), float(fraction)


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make a model's reference.json from a long run of NUTS.")
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--out", type=Path, help="file to write (default: reference.json in the folder)")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=2500, help="kept draws a chain (default: 2500)")
    parser.add_argument("--thinning", type=int, default=16, help="draws for one that is kept (default: 16)")
    parser.add_argument("--target", type=float, default=0.9, help="target acceptance (default: 0.9)")
    parser.add_argument("--diagonal", action="store_true", help="a diagonal metric in place of a dense one")
    parser.add_argument("--without", nargs="*", default=[], help="sites to leave out")
    parser.add_argument("--data", type=Path, help="data of the same posterior, such as sufficient statistics")
    parser.add_argument("--form", type=Path, help="a file with the same posterior in other coordinates")
    parser.add_argument("--min-ess", type=float, default=5000.0, help="smallest ESS (default: 5000)")
    parser.add_argument("--improper", action="store_true", help="a prior is improper: no evidence")
    options = parser.parse_args(arguments)
    out = options.out or options.model / "reference.json"
    if out.exists() and not options.force:
        print(f"{out} exists; --force replaces it.", file=sys.stderr)
        return 1

    numpyro.enable_x64()
    if options.form is None:
        case = load_model(options.model, data=options.data)
    else:
        case = load_model(options.form, data=options.data or options.model / "data.json")
    mcmc = run_nuts(case, options.seed, options.draws, options.thinning, options.target, not options.diagonal)
    samples = {k: v for k, v in mcmc.get_samples(group_by_chain=True).items() if k not in options.without}
    divergences = int(jnp.sum(mcmc.get_extra_fields()["diverging"]))
    entries = {n: statistics(d) for n, d in flatten_draws(samples).items()}
    max_rhat = max(rhat for _, rhat in entries.values())
    min_ess = min(entry["ess"] for entry, _ in entries.values())
    print(f"divergences {divergences}, largest R-hat {max_rhat:.5f}, smallest ESS {min_ess:.0f}")
    if divergences or not max_rhat < 1.01 or not min_ess > options.min_ess:
        print("not good enough for a reference; nothing written.", file=sys.stderr)
        return 1

    reference = {
        "source": (
            f"NumPyro {numpyro.__version__} NUTS, {'diagonal' if options.diagonal else 'dense'} metric, "
            f"float64, {CHAINS} chains, {WARMUP} warm-up, {options.draws * options.thinning} draws each "
            f"thinned by {options.thinning}, target acceptance {options.target}, "
            f"{'on sufficient statistics, ' if options.data else ''}"
            f"{f'in the coordinates of {options.form.name}, ' if options.form else ''}seed {options.seed}; "
            "made with models/make_reference.py"
        ),
        "draws": CHAINS * options.draws,
        "divergences": divergences,
        "max_rhat": round_to(max_rhat, 8),
    }
    if not options.improper:
        value, error, fraction = log_evidence(case, mcmc, options.seed)
        print(f"log evidence {value:.5f} +- {error:.5f}, effective fraction of the weights {fraction:.3f}")
        if fraction > 0.05:
            reference["log_evidence"] = {
                "value": round_to(value, 8),
                "mcse": round_to(error, 3),
                "source": f"importance sampling, {IMPORTANCE_DRAWS} draws of a Student-t around draws of "
                "NUTS (models/make_reference.py)",
            }
    reference["parameters"] = {name: entry for name, (entry, _) in entries.items()}
    out.write_text(json.dumps(reference, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
