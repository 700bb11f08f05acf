"""Make the reference of `horseshoe_regression`: python models/horseshoe_regression/gibbs.py.

A Gibbs sampler in NumPy, which shares nothing with the model or with any kernel: a squared half Cauchy
scale is an inverse gamma law whose rate is inverse gamma again, so that every conditional law is known (E.
Makalic and D. F. Schmidt, "A simple sampler for the horseshoe estimator", IEEE Signal Processing Letters
23(1), 2016). With S = X'X / variance + diag(1 / (tau^2 local^2)):

    beta | rest      ~ N(S^-1 X'y / variance, S^-1)
    variance | rest  ~ InverseGamma(2 + n / 2, 1 + |y - X beta|^2 / 2)
    local_k^2 | rest ~ InverseGamma(1, 1 / a_k + beta_k^2 / (2 tau^2))
    a_k | rest       ~ InverseGamma(1, 1 + 1 / local_k^2)
    tau^2 | rest     ~ InverseGamma((p + 1) / 2, 1 / b + sum_k beta_k^2 / (2 local_k^2))
    b | rest         ~ InverseGamma(1, 1 / 0.1^2 + 1 / tau^2)
"""

import json
from pathlib import Path

import arviz as az
import numpy as np

FOLDER = Path(__file__).parent
CHAINS, WARMUP, DRAWS, THINNING, SEED = 64, 2_000, 2_500, 10, 0
GLOBAL_SCALE = 0.1


def inverse_gamma(generator, shape, rate):
    """Draws of InverseGamma(shape, rate), of the shape of the rates."""
    return rate / generator.gamma(shape, size=np.shape(rate))


def sample(X, y, generator):
    """Kept draws of ``beta``, ``variance`` and ``log_tau``, each ``(chains, draws, ...)``."""
    rows, predictors = X.shape
    gram, moment = X.T @ X, X.T @ y
    variance, tau2, b = (np.ones((CHAINS, 1)) for _ in range(3))
    local2, a = (np.ones((CHAINS, predictors)) for _ in range(2))
    kept = {"beta": [], "variance": [], "log_tau": []}
    for i in range(WARMUP + DRAWS * THINNING):
        precision = gram / variance[..., None] + np.eye(predictors) / (tau2 * local2)[..., None]
        factor = np.linalg.cholesky(precision)
        mean = np.linalg.solve(
            precision, np.broadcast_to(moment[:, None], (CHAINS, predictors, 1)) / variance[..., None]
        )
        noise = generator.normal(size=(CHAINS, predictors, 1))
        beta = (mean + np.linalg.solve(factor.transpose(0, 2, 1), noise))[..., 0]
        residual = np.sum((y - beta @ X.T) ** 2, axis=1, keepdims=True)
        variance = inverse_gamma(generator, 2 + rows / 2, 1 + residual / 2)
        local2 = inverse_gamma(generator, 1, 1 / a + beta**2 / (2 * tau2))
        a = inverse_gamma(generator, 1, 1 + 1 / local2)
        tau2 = inverse_gamma(
            generator, (predictors + 1) / 2, 1 / b + np.sum(beta**2 / (2 * local2), axis=1, keepdims=True)
        )
        b = inverse_gamma(generator, 1, 1 / GLOBAL_SCALE**2 + 1 / tau2)
        if i >= WARMUP and (i - WARMUP) % THINNING == 0:
            for name, value in (
                ("beta", beta),
                ("variance", variance[:, 0]),
                ("log_tau", np.log(tau2[:, 0]) / 2),
            ):
                kept[name].append(value)
    return {name: np.stack(values, axis=1) for name, values in kept.items()}


def entry(x):
    """Statistics of one parameter, draws ``(chains, draws)``; refused where chains disagree."""
    if max(az.rhat(x), az.rhat(x**2)) > 1.01:
        raise ValueError("the chains disagree: draw for longer.")
    found = {"mean": x.mean(), "sd": x.std(ddof=1), "mean_sq": (x**2).mean(), "sd_sq": (x**2).std(ddof=1)}
    found |= {"ess": az.ess(x, method="bulk"), "mcse": az.mcse(x, method="mean")}
    found["mcse_sq"] = az.mcse(x**2, method="mean")
    return {name: float(f"{float(value):.8g}") for name, value in found.items()}


def main():
    """Write ``reference.json``."""
    data = json.loads((FOLDER / "data.json").read_text(encoding="utf-8"))
    draws = sample(np.array(data["X"]), np.array(data["y"]), np.random.default_rng(SEED))
    parameters = {"variance": entry(draws["variance"]), "log_tau": entry(draws["log_tau"])}
    parameters |= {f"beta[{k + 1}]": entry(draws["beta"][..., k]) for k in range(draws["beta"].shape[-1])}
    source = (
        f"Gibbs sampler in NumPy (gibbs.py), {CHAINS} chains, {WARMUP} warm-up, {DRAWS} draws each thinned "
        f"by {THINNING}, seed {SEED}"
    )
    text = json.dumps({"source": source, "parameters": parameters}, indent=1)
    (FOLDER / "reference.json").write_text(text + "\n", encoding="utf-8")
    print(source, "smallest ESS", min(p["ess"] for p in parameters.values()))


if __name__ == "__main__":
    main()
